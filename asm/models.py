"""What is kept: sessions, their runs, their events, and where artifacts lie.

Fields are the columns: same names, same order. A value is checked once, where it enters;
rows that come back are not checked again, and are built the quick way (see `from_rows`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from asm import documents
from asm.documents import Document
from asm.errors import InvalidEventType, InvalidStatus, ValidationError
from asm.validation import (
    REFERENCE_LENGTH_MAX,
    TEXT_LENGTH_MAX,
    check_keys,
    count,
    is_number,
    number,
    optional_utc_datetime,
    parse_time,
    safe_repr,
    text,
    texts,
    utc_datetime,
)

T = TypeVar("T")
M = TypeVar("M", bound="Model")


In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)


class Coerced(Generic[In, Out]):
    """A field that may be given as one type and is kept as another, as type checkers see it.

    `tags=["prod"]` is kept as a tuple, and `status="running"` as a RunStatus.
    """

    if TYPE_CHECKING:

        def __get__(self, instance: object, owner: Any) -> Out: ...

        def __set__(self, instance: object, value: In) -> None: ...

    else:

        def __class_getitem__(cls, types: tuple[Any, Any]) -> Any:
            # Who reads the annotations of a model while it runs finds the type that it has.
            return types[1]


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


TOKEN_COUNTS = ("input_tokens", "output_tokens", "total_tokens", "cache_read_tokens", "cache_creation_tokens")


class Model:
    """What the four models have in common. Each is frozen, slotted and keyword-only."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]
    _times: ClassVar[frozenset[str]]

    def to_dict(self) -> dict[str, Any]:
        """This model as JSON-ready values: times in ISO 8601, statuses and types as plain strings."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The model that `to_dict` took apart, checked like any other input."""
        known = cls.__dataclass_fields__
        values = check_keys(values, known, cls.__name__)
        parsed = {
            name: parse_time(value, name) if name in cls._times else value for name, value in values.items()
        }
        try:
            return cls(**parsed)
        except TypeError as error:
            raise ValidationError(f"{cls.__name__}.from_dict: {error}") from error

    def _set(self, name: str, value: Any) -> None:
        # How a frozen dataclass puts a value into its own normal form while it is being made.
        object.__setattr__(self, name, value)

    def _text(self, name: str, length_max: int = TEXT_LENGTH_MAX) -> None:
        value = getattr(self, name)
        plain = text(value, name, length_max)
        if plain is not value:
            self._set(name, plain)

    def _optional_text(self, name: str) -> None:
        if getattr(self, name) is not None:
            self._text(name)

    def _count(self, name: str) -> None:
        value = getattr(self, name)
        if count(value, name) is not value:
            self._set(name, int(value))


def new_id(prefix: str) -> str:
    """An id that grows with time, so that new rows land side by side in an index.

    Sixteen hex digits of nanoseconds since 1970, then sixteen random ones.
    """
    return f"{prefix}{time.time_ns():016x}{secrets.token_hex(8)}"


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Model):
    """One conversation of one agent, over any number of runs."""

    _times = frozenset({"created_at", "updated_at", "deleted_at"})

    id: str = field(default_factory=partial(new_id, "ses_"))
    agent_id: str
    status: Coerced[SessionStatus | str, SessionStatus] = SessionStatus.PENDING  # type: ignore[assignment]
    parent_session_id: str | None = None
    metadata: Document = field(default_factory=dict)
    context: Document = field(default_factory=dict)
    tags: Coerced[Iterable[str], tuple[str, ...]] = ()  # type: ignore[assignment]
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)
    deleted_at: datetime | None = None

    def __post_init__(self) -> None:
        self._text("id")
        self._text("agent_id")
        self._set("status", session_status(self.status))
        self._optional_text("parent_session_id")
        documents.dump_object(self.metadata, "metadata")
        documents.dump_object(self.context, "context")
        self._set("tags", texts(self.tags, "tags"))
        self._set("created_at", utc_datetime(self.created_at, "created_at"))
        self._set("updated_at", utc_datetime(self.updated_at, "updated_at"))
        self._set("deleted_at", optional_utc_datetime(self.deleted_at, "deleted_at"))

    def __hash__(self) -> int:
        return hash(self.id)

    def update_status(self, status: SessionStatus | str) -> Session:
        """This session in another status, updated now."""
        return replace(self, status=status, updated_at=now())


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Model):
    """One piece of work within a session, from its input to its output or error."""

    _times = frozenset({"started_at", "ended_at"})

    id: str = field(default_factory=partial(new_id, "run_"))
    session_id: str
    status: Coerced[RunStatus | str, RunStatus] = RunStatus.PENDING  # type: ignore[assignment]
    input: Any = None
    output: Any = None
    error: Any = None
    metadata: Document = field(default_factory=dict)
    turn_count: int = 0
    token_usage: Document = field(default_factory=dict)
    started_at: datetime = field(default_factory=now)
    ended_at: datetime | None = None
    provider: str | None = None
    provider_metadata: Document = field(default_factory=dict)
    cost_usd: float | None = None

    def __post_init__(self) -> None:
        self._text("id")
        self._text("session_id")
        self._set("status", run_status(self.status))
        documents.dump(self.input, "input")
        documents.dump(self.output, "output")
        documents.dump(self.error, "error")
        documents.dump_object(self.metadata, "metadata")
        self._count("turn_count")
        token_counts(self.token_usage)
        self._set("started_at", utc_datetime(self.started_at, "started_at"))
        self._set("ended_at", optional_utc_datetime(self.ended_at, "ended_at"))
        self._optional_text("provider")
        documents.dump_object(self.provider_metadata, "provider_metadata")
        self._set("cost_usd", cost(self.cost_usd))

    def __hash__(self) -> int:
        return hash((self.session_id, self.id))

    def update_status(self, status: RunStatus | str) -> Run:
        """This run in another status. A terminal one sets `ended_at`, unless it has ended before."""
        status = run_status(status)
        ended_at = (self.ended_at or now()) if status.is_terminal else None
        return replace(self, status=status, ended_at=ended_at)

    def set_output(self, output: Any) -> Run:
        """This run with an output: any JSON value."""
        return replace(self, output=output)

    def set_error(self, error: Any) -> Run:
        """This run with an error: any JSON value."""
        return replace(self, error=error)

    def increment_turn(self) -> Run:
        """This run one turn on."""
        return replace(self, turn_count=self.turn_count + 1)

    def update_token_usage(self, usage: Document) -> Run:
        """This run with `usage` added, number by number. What is not a number replaces what was there.

        Where one of the two names no total, it counts with its input and output tokens.
        """
        before, more = token_counts(self.token_usage), token_counts(usage)
        added = dict(self.token_usage)
        for key, value in usage.items():
            old = added.get(key)
            added[key] = _sum(old, value, key) if is_number(value) and is_number(old) else value
        if "total_tokens" in added:
            added["total_tokens"] = (before["total_tokens"] or 0) + (more["total_tokens"] or 0)
        return replace(self, token_usage=added)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Model):
    """Something that happened in a session, at its place in the session's order.

    `sequence_number` is given by the store; what a caller puts there is ignored.
    """

    _times = frozenset({"timestamp"})

    id: str = field(default_factory=partial(new_id, "evt_"))
    type: EventType | str
    timestamp: datetime = field(default_factory=now)
    session_id: str
    run_id: str | None = None
    sequence_number: int | None = None
    data: Document = field(default_factory=dict)
    metadata: Document = field(default_factory=dict)
    schema_version: int = 1
    provider: str | None = None
    correlation_id: str | None = None

    def __post_init__(self) -> None:
        self._text("id")
        self._set("type", event_type(self.type))
        self._set("timestamp", utc_datetime(self.timestamp, "timestamp"))
        self._text("session_id")
        self._optional_text("run_id")
        if self.sequence_number is not None:
            self._count("sequence_number")
        documents.dump_object(self.data, "data")
        documents.dump_object(self.metadata, "metadata")
        self._count("schema_version")
        self._optional_text("provider")
        self._optional_text("correlation_id")

    def __hash__(self) -> int:
        return hash((self.session_id, self.id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact(Model):
    """Where something large lies, and how to know it again. The bytes themselves are elsewhere."""

    _times = frozenset({"created_at", "deleted_at"})

    id: str = field(default_factory=partial(new_id, "art_"))
    session_id: str | None = None
    run_id: str | None = None
    key: str
    content_type: str | None = None
    byte_size: int
    checksum_sha256: str
    storage_backend: str
    storage_ref: str
    metadata: Document = field(default_factory=dict)
    created_at: datetime = field(default_factory=now)
    deleted_at: datetime | None = None

    def __post_init__(self) -> None:
        self._text("id")
        self._optional_text("session_id")
        self._optional_text("run_id")
        self._text("key")
        self._optional_text("content_type")
        self._count("byte_size")
        self._text("checksum_sha256")
        self._text("storage_backend")
        self._text("storage_ref", REFERENCE_LENGTH_MAX)
        documents.dump_object(self.metadata, "metadata")
        self._set("created_at", utc_datetime(self.created_at, "created_at"))
        self._set("deleted_at", optional_utc_datetime(self.deleted_at, "deleted_at"))

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True, slots=True)
class ArtifactStats:
    """How many live artifacts a session has, and how large they are together, in bytes."""

    artifact_count: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """Some of what was searched for. `cursor` asks for what follows; on the last page it is None."""

    items: list[T]
    cursor: str | None = None
    total_count: int | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def cost(value: Any) -> float | None:
    """US dollars, or None where nobody knows."""
    if value is None:
        return None
    if not is_number(value):
        raise ValidationError(f"cost_usd must be a number, not {type(value).__name__}", path="cost_usd")
    try:
        dollars = float(number(value))
    except OverflowError:
        dollars = float("inf")
    if not 0 <= dollars < float("inf"):
        raise ValidationError("cost_usd must be finite and not negative", path="cost_usd")
    return dollars


def token_counts(usage: Any) -> dict[str, int | None]:
    """The counts the store knows, None where a count is absent. The total is input + output unless given."""
    documents.dump_object(usage, "token_usage")
    counts = {
        name: None if value is None else count(value, f"token_usage.{name}")
        for name in TOKEN_COUNTS
        for value in (usage.get(name),)
    }
    if counts["total_tokens"] is None and (counts["input_tokens"] or counts["output_tokens"]) is not None:
        total = (counts["input_tokens"] or 0) + (counts["output_tokens"] or 0)
        counts["total_tokens"] = count(total, "token_usage.input_tokens + token_usage.output_tokens")
    return counts


def _sum(before: Any, more: Any, key: str) -> int | float:
    try:
        return number(before) + number(more)
    except OverflowError as error:
        raise ValidationError(f"token_usage.{key} would be larger than a float can be", path=key) from error


def session_status(value: Any) -> SessionStatus:
    return _status(value, SessionStatus)


def run_status(value: Any) -> RunStatus:
    return _status(value, RunStatus)


S = TypeVar("S", SessionStatus, RunStatus)


def _status(value: Any, statuses: type[S]) -> S:
    if type(value) is statuses:
        return value
    try:
        return statuses(value)
    except ValueError as error:
        known = ", ".join(statuses)
        raise InvalidStatus(
            f"{safe_repr(value)} is no {statuses.__name__}; known are {known}", path="status"
        ) from error


def event_type(value: Any) -> EventType | str:
    """One of EventType, or a type of the caller's own, which carries a dot."""
    if isinstance(value, str):
        known = EVENT_TYPES.get(value)
        if known is not None:
            return known
        if "." in value:
            return text(value, "type")
    raise InvalidEventType(
        f"{safe_repr(value)} is no event type. A type of your own carries a dot, as in 'acme.plan_updated'; "
        f"known are {', '.join(EventType)}",
        path="type",
    )


EVENT_TYPES: dict[str, EventType] = {str(member): member for member in EventType}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, StrEnum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


# Rows as they come back.


def from_rows(model: type[M]) -> Callable[..., M]:
    """A constructor for values that are known to be good, in the order of the fields.

    A frozen dataclass sets its fields one `object.__setattr__` at a time and checks them. A
    class with the same slots that does neither takes the frozen one's place when it is full:
    0.2 µs for an event instead of 1.1.
    """
    names = [each.name for each in fields(model)]
    body = "".join(f"    self.{name} = {name}\n" for name in names)
    scope: dict[str, Any] = {"model": model}
    # Written out like the initializer of an ordinary dataclass, which could not end in this line.
    exec(f"def init(self, {', '.join(names)}):\n{body}    self.__class__ = model\n", scope)
    parts = {"__slots__": names, "__init__": scope["init"], "__doc__": model.__doc__}
    return type(f"{model.__name__}Row", model.__bases__, parts)


session_from_row = from_rows(Session)
run_from_row = from_rows(Run)
event_from_row = from_rows(Event)
artifact_from_row = from_rows(Artifact)
