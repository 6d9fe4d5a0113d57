"""Refuses a call from a signal handler that interrupted a call of the same store in its own thread.

The interrupted call may hold a lock that the handler's call would wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import Any, Protocol, TypeVar

from asm.engine.retry import reentrant_call

R = TypeVar("R")


class Entered(Protocol):
    threads_inside: set[int]
    """The threads that are inside a call."""


def not_reentrant(method: Callable[[Any, Any], R]) -> Callable[[Any, Any], R]:
    """The method, which raises StorageError where its thread is inside it already."""

    @wraps(method)
    def guarded(self: Entered, operation: Any) -> R:
        thread_id = get_ident()
        if thread_id in self.threads_inside:
            raise reentrant_call()
        try:
            # A signal is handled after a call: from `add` on, `finally` removes the mark.
            self.threads_inside.add(thread_id)
            return method(self, operation)
        finally:
            self.threads_inside.discard(thread_id)

    return guarded
