"""What an observer of operations, such as `asm.telemetry`, is given.

A store that nobody observes makes no call for this, except one for each job and for each retry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol


class Observation(Protocol):
    """One operation that is observed."""

    def retried(self, error: Exception, pause_s: float) -> None:
        """It failed, and is attempted again after a pause."""


current: ContextVar[Observation | None] = ContextVar("asm_observation", default=None)
"""The observation of the operation that this thread or task is running."""


class ObservedDatabase(ABC):
    """A database that reports what it does, in place of another one."""

    @abstractmethod
    def detach(self) -> Any:
        """Stop, and return the other one."""

    @abstractmethod
    def job(self, name: str) -> AbstractContextManager[object]:
        """Around the steps of a job."""


def around_job(database: object, name: str) -> AbstractContextManager[object]:
    return database.job(name) if isinstance(database, ObservedDatabase) else nullcontext()
