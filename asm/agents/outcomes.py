"""How a run that does not complete ends: the exception that its caller gets, and what is stored of it.

The two are made of each other, so that a run whose id is used again is raised as it ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from asm.documents import Document
from asm.enums import EventType, RunStatus, SessionStatus
from asm.errors import AsmError, ProviderError, RunCancelled, RunLost, RunTimeout
from asm.models import Run

ABANDONED = "abandoned"


class RunFailed(AsmError):
    """Raised if a run is stored as failed for a reason that is not its provider's.

    `details["code"]` is "limit_exceeded", or that of the exception which ended an earlier attempt of the run.
    """

    code = "run_failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its status, and the data of the event that says so."""

    status: RunStatus
    data: Document

    @property
    def type(self) -> EventType:
        return EventType(f"run_{self.status}")

    @property
    def session_status(self) -> SessionStatus:
        """The status of a session that has only this run."""
        return SessionStatus.CANCELLED if self.status == RunStatus.CANCELLED else SessionStatus.FAILED

    @property
    def session_event(self) -> tuple[EventType, Document]:
        """The type and the data of the event that says so."""
        names = ("reason",) if self.status == RunStatus.CANCELLED else ("code", "message")
        data = {name: self.error[name] for name in names if name in self.error}
        return EventType(f"session_{self.session_status}"), data

    @property
    def error(self) -> Document:
        """What the run stores as its error."""
        message = _MESSAGES.get(self.status, "the run failed")
        return {"code": str(self.status), "message": message, **self.data}


_MESSAGES = {
    RunStatus.CANCELLED: "the run was cancelled",
    RunStatus.TIMEOUT: "the run took longer than its timeout",
}


def outcome_of(error: BaseException) -> Outcome:
    """How a run ends that was ended by an exception."""
    if isinstance(error, RunTimeout):
        return Outcome(RunStatus.TIMEOUT, {"timeout_s": error.details.get("timeout_s")})
    if isinstance(error, RunCancelled):
        return cancelled(error.details.get("reason"))
    if isinstance(error, asyncio.CancelledError):
        return cancelled("the task that ran it was cancelled")
    return Outcome(RunStatus.FAILED, failure_of(error))


def cancelled(reason: str | None) -> Outcome:
    return Outcome(RunStatus.CANCELLED, {"reason": reason or "cancelled"})


def abandoned(run: Run, last_sequence: int) -> Outcome:
    """The end of a run whose lease is over."""
    message = f"run {run.id!r} was abandoned: its lease ended, and nobody was running it"
    data = {"code": ABANDONED, "message": message, "last_sequence": last_sequence}
    return Outcome(RunStatus.FAILED, data)


def failure_of(error: Any) -> Document:
    """The data of the events that report an error: an exception, a text, or a document as it is."""
    if isinstance(error, dict):
        return error
    if isinstance(error, ProviderError):
        return provider_failure(error)
    if isinstance(error, AsmError):
        code = error.details["code"] if isinstance(error, RunFailed) else error.code
        return {"code": code, "message": str(error)}
    if isinstance(error, BaseException):
        return {"code": type(error).__name__, "message": f"{type(error).__name__}: {error}"}
    return {"code": "failed", "message": str(error)}


def provider_failure(error: ProviderError) -> Document:
    """The data of the events that report a provider's failure."""
    more = {name: error.details.get(name) for name in _OF_PROVIDERS}
    return {
        "code": error.code,
        "message": str(error),
        "retryable": error.retryable,
        **{name: value for name, value in more.items() if value is not None},
    }


_OF_PROVIDERS = ("status", "request_id", "provider_code")


def stored_error(run: Run) -> AsmError:
    """The exception that says how a stored run ended, which did not complete."""
    error: Document = run.error if isinstance(run.error, dict) else {"message": str(run.error)}
    message = f"run {run.id!r} ended as {run.status}: {error.get('message', 'no reason is stored')}"
    if run.status == RunStatus.CANCELLED:
        return RunCancelled(message, run_id=run.id, reason=error.get("reason"))
    if run.status == RunStatus.TIMEOUT:
        return RunTimeout(message, run_id=run.id, timeout_s=error.get("timeout_s"))
    if error.get("code") == ProviderError.code:
        more: dict[str, Any] = {name: error.get(name) for name in _OF_PROVIDERS}
        return ProviderError(message, retryable=error.get("retryable") is True, run_id=run.id, **more)
    if error.get("code") == ABANDONED:
        return RunLost(message, run_id=run.id)
    return RunFailed(message, run_id=run.id, code=error.get("code"))
