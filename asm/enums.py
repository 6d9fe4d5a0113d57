"""The statuses of sessions and runs, and the types of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, StrEnum
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

from asm.errors import InvalidEventType, InvalidStatus
from asm.validation import did_you_mean, is_collection, safe_repr, text

E = TypeVar("E", bound=Enum)
S = TypeVar("S", "SessionStatus", "RunStatus")


class _MemberDocs:
    """The docstring of an enum class, and of each member the string that follows it in the source.

    Documentation tools read these strings from the source. Python does not keep them, so they are read
    from there, too, when a member's `__doc__` is first asked for.
    """

    def __init__(self, class_doc: str) -> None:
        self._class_doc = class_doc

    def __get__(self, member: Enum | None, owner: type[Enum]) -> str:
        return self._class_doc if member is None else _docs_of(owner).get(member.name, self._class_doc)


def _with_docs_of_members(owner: type[E]) -> type[E]:
    owner.__doc__ = _MemberDocs(owner.__doc__ or "")  # type: ignore[assignment]
    return owner


@cache
def _docs_of(owner: type[Enum]) -> Mapping[str, str]:
    import ast
    import inspect

    try:
        [definition] = ast.parse(inspect.getsource(owner)).body
    except (OSError, SyntaxError):
        # The source is not installed.
        return {}
    assert isinstance(definition, ast.ClassDef)
    return {
        statement.targets[0].id: inspect.cleandoc(text.value.value)
        for statement, text in pairwise(definition.body)
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


@_with_docs_of_members
class SessionStatus(StrEnum):
    """How far a session has come. The application sets it; the store changes none by itself."""

    PENDING = "pending"
    """It was created, and nothing has happened in it."""
    ACTIVE = "active"
    """It is in use. Retention exempts active sessions by default."""
    PAUSED = "paused"
    """It is to be resumed. Retention exempts paused sessions by default."""
    COMPLETED = "completed"
    """It has ended as intended."""
    FAILED = "failed"
    """It has ended by an error."""
    CANCELLED = "cancelled"
    """It was ended by its user or its application."""


@_with_docs_of_members
class RunStatus(StrEnum):
    """How far a run has come. `Run.update_status`, `set_output` and `set_error` set it with `ended_at`."""

    PENDING = "pending"
    """It was created, and has not begun."""
    RUNNING = "running"
    """It has begun, and has not ended."""
    COMPLETED = "completed"
    """It has ended with an output."""
    FAILED = "failed"
    """It has ended with an error."""
    CANCELLED = "cancelled"
    """It was ended by its user or its application."""
    TIMEOUT = "timeout"
    """It was ended because it took too long."""

    @property
    def is_terminal(self) -> bool:
        """Whether a run in this status has ended."""
        return self not in (RunStatus.PENDING, RunStatus.RUNNING)


@_with_docs_of_members
class EventType(StrEnum):
    """What an event reports. Each type names the keys that its `data` has.

    The keys are a convention: the store takes any JSON object as `data`. The command, the importers and
    the viewer read these keys. Further keys are welcome, and so are keys left out. A type of your own
    contains a dot, as in "acme.plan_updated".
    """

    SESSION_CREATED = "session_created"
    """The session exists. `data` may be empty. Pruning never removes it."""
    SESSION_STARTED = "session_started"
    """The session is in use for the first time. `data` may be empty."""
    SESSION_PAUSED = "session_paused"
    """The session waits to be resumed. `data`: `{reason}`."""
    SESSION_RESUMED = "session_resumed"
    """The session goes on after a pause. `data` may be empty."""
    SESSION_COMPLETED = "session_completed"
    """The session has ended as intended. `data` may be empty."""
    SESSION_FAILED = "session_failed"
    """The session has ended by an error. `data`: `{code, message}`."""
    SESSION_CANCELLED = "session_cancelled"
    """The session was ended by its user or its application. `data`: `{reason}`."""
    RUN_STARTED = "run_started"
    """A run has begun. `data` may have its `{input}` and `{model}`. Pruning never removes it."""
    RUN_COMPLETED = "run_completed"
    """A run has ended with an output. `data` may have its `{output}`. Pruning never removes it."""
    RUN_FAILED = "run_failed"
    """A run has ended with an error. `data`: `{code, message}`. Pruning never removes it."""
    RUN_CANCELLED = "run_cancelled"
    """A run was ended by its user or its application. `data`: `{reason}`."""
    RUN_TIMEOUT = "run_timeout"
    """A run was ended because it took too long. `data`: `{timeout_s}`."""
    MESSAGE_SENT = "message_sent"
    """A message to the agent. `data`: `{role, content}` with the role "user", "system" or "tool"."""
    MESSAGE_RECEIVED = "message_received"
    """A message from the agent. `data`: `{role, content}` with the role "assistant"."""
    MESSAGE_STREAMED = "message_streamed"
    """A piece of a message that is still being written. `data`: `{delta}`. Pruning removes it first."""
    TOOL_CALL_STARTED = "tool_call_started"
    """The agent calls a tool. `data`: `{name, input}`; the event's `correlation_id` is the call's id."""
    TOOL_CALL_COMPLETED = "tool_call_completed"
    """A tool has returned. `data`: `{output}`; the event's `correlation_id` is the call's id."""
    TOOL_CALL_FAILED = "tool_call_failed"
    """A tool has failed. `data`: `{error}`; the event's `correlation_id` is the call's id."""
    ERROR_OCCURRED = "error_occurred"
    """Something failed that did not end the run. `data`: `{code, message}`. Pruning never removes it."""
    ERROR_RECOVERED = "error_recovered"
    """What failed before has succeeded, as by a retry. `data`: `{message}`."""
    TOKEN_USAGE_UPDATED = "token_usage_updated"
    """Tokens of a model call. `data`: the known token counts and `model`. Pruning removes it first."""
    TURN_COMPLETED = "turn_completed"
    """The model has ended its turn. `data`: `{turn, stop_reason}`."""
    WORKSPACE_SNAPSHOT_TAKEN = "workspace_snapshot_taken"
    """The files of the agent were recorded. `data`: `{ref}`, as a commit or an artifact's key."""
    WORKSPACE_DIFF_COMPUTED = "workspace_diff_computed"
    """The agent changed files. `data`: `{diff}`, or `{ref}` of the artifact that has it."""
    POLICY_VIOLATION = "policy_violation"
    """The agent did, or asked for, what it may not. `data`: `{policy, message}`."""
    TOOL_APPROVAL_REQUESTED = "tool_approval_requested"
    """A tool call waits for a person. `data`: `{name, input}`; `correlation_id` is the call's id."""
    TOOL_APPROVAL_GRANTED = "tool_approval_granted"
    """A person allowed the tool call. `data`: `{by}`; `correlation_id` is the call's id."""
    TOOL_APPROVAL_DENIED = "tool_approval_denied"
    """A person refused the tool call. `data`: `{by, reason}`; `correlation_id` is the call's id."""


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
            f"{safe_repr(value)} is not a status of a {owner}{did_you_mean(value, statuses)}: "
            f"use one of {', '.join(statuses)}",
            path=name,
        )
    return status


def status_filter(value: Any, check: Callable[[Any], StrEnum]) -> tuple[str, ...] | None:
    """The statuses of a filter, each once, given as one or several; None is no filter."""
    if value is None:
        return None
    values = value if is_collection(value) else [value]
    return tuple(dict.fromkeys(str(check(each)) for each in values))


def event_type(value: Any, name: str = "type") -> EventType | str:
    """A member of EventType, or a type of the caller's own, which contains a dot."""
    if isinstance(value, str):
        known = EVENT_TYPES.get(value)
        if known is not None:
            return known
        if "." in value:
            return text(value, name)
    raise InvalidEventType(
        f"{safe_repr(value)} is not an event type{did_you_mean(value, EVENT_TYPES)}: use a type of your own "
        f"with a dot in it, as in 'acme.plan_updated', or one of {', '.join(EVENT_TYPES)}",
        path=name,
    )
