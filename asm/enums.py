"""The statuses of sessions and runs, and the types of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from asm.errors import InvalidEventType, InvalidStatus
from asm.validation import is_collection, safe_repr, text


class SessionStatus(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def is_terminal(self) -> bool:
        """Whether a run in this status has ended."""
        return self not in (RunStatus.PENDING, RunStatus.RUNNING)


class EventType(StrEnum):
    SESSION_CREATED = "session_created"
    SESSION_STARTED = "session_started"
    SESSION_PAUSED = "session_paused"
    SESSION_RESUMED = "session_resumed"
    SESSION_COMPLETED = "session_completed"
    SESSION_FAILED = "session_failed"
    SESSION_CANCELLED = "session_cancelled"
    RUN_STARTED = "run_started"
    RUN_COMPLETED = "run_completed"
    RUN_FAILED = "run_failed"
    RUN_CANCELLED = "run_cancelled"
    RUN_TIMEOUT = "run_timeout"
    MESSAGE_SENT = "message_sent"
    MESSAGE_RECEIVED = "message_received"
    MESSAGE_STREAMED = "message_streamed"
    TOOL_CALL_STARTED = "tool_call_started"
    TOOL_CALL_COMPLETED = "tool_call_completed"
    TOOL_CALL_FAILED = "tool_call_failed"
    ERROR_OCCURRED = "error_occurred"
    ERROR_RECOVERED = "error_recovered"
    TOKEN_USAGE_UPDATED = "token_usage_updated"
    TURN_COMPLETED = "turn_completed"
    WORKSPACE_SNAPSHOT_TAKEN = "workspace_snapshot_taken"
    WORKSPACE_DIFF_COMPUTED = "workspace_diff_computed"
    POLICY_VIOLATION = "policy_violation"
    TOOL_APPROVAL_REQUESTED = "tool_approval_requested"
    TOOL_APPROVAL_GRANTED = "tool_approval_granted"
    TOOL_APPROVAL_DENIED = "tool_approval_denied"


S = TypeVar("S", SessionStatus, RunStatus)

SESSION_STATUSES: Mapping[str, SessionStatus] = {status.value: status for status in SessionStatus}
RUN_STATUSES: Mapping[str, RunStatus] = {status.value: status for status in RunStatus}
EVENT_TYPES: Mapping[str, EventType] = {type.value: type for type in EventType}


def session_status(value: Any, name: str = "status") -> SessionStatus:
    return _status(value, SESSION_STATUSES, name, "session")


def run_status(value: Any, name: str = "status") -> RunStatus:
    return _status(value, RUN_STATUSES, name, "run")


def _status(value: Any, statuses: Mapping[str, S], name: str, owner: str) -> S:
    status = statuses.get(value) if isinstance(value, str) else None
    if status is None:
        raise InvalidStatus(
            f"{safe_repr(value)} is not a status of a {owner}: use one of {', '.join(statuses)}", path=name
        )
    return status


def status_filter(value: Any, check: Callable[[Any], StrEnum]) -> tuple[str, ...] | None:
    """The statuses of a filter, given as one or several; None is no filter."""
    if value is None:
        return None
    values = value if is_collection(value) else [value]
    return tuple(str(check(each)) for each in values)


def event_type(value: Any, name: str = "type") -> EventType | str:
    """A member of EventType, or a type of the caller's own, which contains a dot."""
    if isinstance(value, str):
        known = EVENT_TYPES.get(value)
        if known is not None:
            return known
        if "." in value:
            return text(value, name)
    raise InvalidEventType(
        f"{safe_repr(value)} is not an event type: use a type of your own with a dot in it, as in "
        f"'acme.plan_updated', or one of {', '.join(EVENT_TYPES)}",
        path=name,
    )
