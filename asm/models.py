"""The models: sessions, their runs and events, and the artifacts that lie elsewhere.

The fields of a model are the columns of its table, under the same names and in the same order. Values
are checked once, where they enter. Rows read from a database are not checked again (see `from_rows`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeAlias, TypeVar

from asm.documents import Document, check, check_object
from asm.enums import (
    EVENT_TYPES,
    EventType,
    RunStatus,
    SessionStatus,
    event_type,
    run_status,
    session_status,
)
from asm.errors import ValidationError
from asm.reprs import html_record, html_table, model_repr
from asm.usage import add_usage, check_cost, check_usage, token_counts
from asm.validation import (
    REFERENCE_LENGTH_MAX,
    check_keys,
    check_tags,
    count,
    parse_time,
    text,
    utc_datetime,
)

__all__ = [
    "EVENT_TYPES",
    "Artifact",
    "ArtifactStats",
    "Event",
    "EventType",
    "Model",
    "Page",
    "Run",
    "RunStatus",
    "Session",
    "SessionStatus",
    "artifact_from_row",
    "event_from_row",
    "event_type",
    "from_rows",
    "new_id",
    "now",
    "run_from_row",
    "run_status",
    "session_from_row",
    "session_status",
    "token_counts",
]

T = TypeVar("T")
M = TypeVar("M", bound="Model")
In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)

Check: TypeAlias = Callable[[Any, str], Any]
"""Takes the value and the name of a field; returns the value to keep or raises ValidationError."""

BYTE_SIZE_MAX = 2**53 - 1
"""About nine petabytes. JSON readers in every language represent larger integers inexactly."""


class Coerced(Generic[In, Out]):
    """A field whose constructor accepts one type and whose attribute has another, for type checkers.

    `tags=["prod"]` is kept as a tuple, and `status="running"` as a RunStatus.
    """

    if TYPE_CHECKING:

        def __get__(self, instance: object, owner: Any) -> Out: ...

        def __set__(self, instance: object, value: In) -> None: ...

    else:

        def __class_getitem__(cls, types: tuple[Any, Any]) -> Any:
            # Programs that read the annotations at run time see the attribute's type.
            return types[1]


class Model:
    """The methods that all models share. Models are frozen, slotted and keyword-only."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]
    _checks: ClassVar[tuple[tuple[str, Check], ...]]
    """The check of each field."""
    _optional: ClassVar[frozenset[str]]
    """The fields that may be None."""

    def __post_init__(self) -> None:
        # One loop for all models: each call that an event passes on its way costs 0.1 µs.
        for name, check_field in self._checks:
            value = getattr(self, name)
            if value is None and name in self._optional:
                continue
            checked = check_field(value, name)
            if checked is not value:
                # The dataclass is frozen, so an assignment would raise.
                object.__setattr__(self, name, checked)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values: times in ISO 8601, statuses and types as plain strings."""
        return {name: _json_ready(getattr(self, name)) for name in self.__dataclass_fields__}

    def __repr__(self) -> str:
        return model_repr(type(self).__name__, self._shown())

    def _repr_html_(self) -> str:
        """A table of the fields, which a notebook shows."""
        return html_record(self._shown(), type(self).__name__)

    def _shown(self) -> dict[str, Any]:
        """The fields that say something: no empty ones, and of those with their default the status only."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: value
            for name, value in values.items()
            if name == "status" or not (value == {} or value == self.__dataclass_fields__[name].default)
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The model that `to_dict` made the dict of. The values are checked like any other input."""
        values = check_keys(values, cls.__dataclass_fields__, cls.__name__)
        times = {name for name, check_field in cls._checks if check_field is utc_datetime}
        parsed = {name: parse_time(value, name) if name in times else value for name, value in values.items()}
        try:
            return cls(**parsed)
        except TypeError as error:
            raise ValidationError(f"{cls.__name__}.from_dict: {error}") from error


def _json_ready(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, StrEnum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def new_id(prefix: str) -> str:
    """An id that grows with time, so that new rows are neighbours in an index.

    It has 16 hex digits of the nanoseconds since 1970, then 16 random ones.
    """
    return f"{prefix}{time.time_ns():016x}{os.urandom(8).hex()}"


def now() -> datetime:
    return datetime.now(UTC)


_UNSET: Any = object()
"""Stands for the time at which a session is made, which is the same in all its fields."""


def _unset() -> Any:
    return _UNSET


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Session(Model):
    """One conversation with an agent, which may have any number of runs. It has at most 1,000 tags."""

    id: str = field(default_factory=partial(new_id, "ses_"))
    agent_id: str
    status: Coerced[SessionStatus | str, SessionStatus] = SessionStatus.PENDING  # type: ignore[assignment]
    parent_session_id: str | None = None
    metadata: Document = field(default_factory=dict)
    context: Document = field(default_factory=dict)
    tags: Coerced[Iterable[str], tuple[str, ...]] = ()  # type: ignore[assignment]
    created_at: datetime = field(default_factory=_unset)
    updated_at: datetime = field(default_factory=_unset)
    deleted_at: datetime | None = None

    _checks = (
        ("id", text),
        ("agent_id", text),
        ("status", session_status),
        ("parent_session_id", text),
        ("metadata", check_object),
        ("context", check_object),
        ("tags", check_tags),
        ("created_at", utc_datetime),
        ("updated_at", utc_datetime),
        ("deleted_at", utc_datetime),
    )
    _optional = frozenset({"parent_session_id", "deleted_at"})

    def __post_init__(self) -> None:
        made_at = now()
        for name in ("created_at", "updated_at"):
            if getattr(self, name) is _UNSET:
                object.__setattr__(self, name, made_at)
        # Not super(), which refers to the class without slots.
        Model.__post_init__(self)

    def __hash__(self) -> int:
        return hash(self.id)

    def update_status(self, status: SessionStatus | str) -> Session:
        """This session with another status, updated now."""
        return replace(self, status=status, updated_at=now())


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Run(Model):
    """One piece of work within a session, from its input to its output or error.

    The token counts that the store knows are integers from 0 to 10^12: `input_tokens`, `output_tokens`,
    `total_tokens`, `cache_read_tokens`, `cache_creation_tokens`. Cached tokens count beside the input
    tokens, not among them. `update_token_usage` makes these of a provider's own usage. `cost_usd` is
    from 0 to 10^9. `get_cost_summary` finds the price by `provider` and `provider_metadata["model"]`.
    """

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

    _checks = (
        ("id", text),
        ("session_id", text),
        ("status", run_status),
        ("input", check),
        ("output", check),
        ("error", check),
        ("metadata", check_object),
        ("turn_count", count),
        ("token_usage", check_usage),
        ("started_at", utc_datetime),
        ("ended_at", utc_datetime),
        ("provider", text),
        ("provider_metadata", check_object),
        ("cost_usd", check_cost),
    )
    _optional = frozenset({"input", "output", "error", "ended_at", "provider", "cost_usd"})

    def __hash__(self) -> int:
        return hash((self.session_id, self.id))

    def update_status(self, status: RunStatus | str) -> Run:
        """This run with another status. A terminal status sets `ended_at` unless it is set already."""
        return self._with_status(run_status(status))

    def set_output(self, output: Any) -> Run:
        """This run completed with an output, which is any JSON value. Sets `ended_at` unless it is set."""
        return self._with_status(RunStatus.COMPLETED, output=output)

    def set_error(self, error: Any) -> Run:
        """This run failed with an error, which is any JSON value. Sets `ended_at` unless it is set."""
        return self._with_status(RunStatus.FAILED, error=error)

    def _with_status(self, status: RunStatus, **changes: Any) -> Run:
        ended_at = (self.ended_at or now()) if status.is_terminal else None
        return replace(self, status=status, ended_at=ended_at, **changes)

    def increment_turn(self) -> Run:
        """This run with one more turn."""
        return replace(self, turn_count=self.turn_count + 1)

    def update_token_usage(self, usage: Any) -> Run:
        """This run with a provider's own usage, such as `response.usage`, added to its token usage.

        `usage` is what `asm.token_usage` takes, and the counts in it are read in the same way, with the
        run's `provider`. Numbers under other keys are added, too, also in dicts; other values replace
        those before. None is absent, and `{}` changes nothing. A usage that is not empty and has no
        known count is a ValidationError, and the run has at most 10^12 tokens of each kind.

        A `total_tokens` that only one of the two has is added to the other's input and output tokens.
        """
        return replace(self, token_usage=add_usage(self.token_usage, usage, self.provider))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Event(Model):
    """Something that happened in a session, numbered in the order of the session's events.

    The store assigns `sequence_number` and ignores the one that the caller gives.
    """

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

    _checks = (
        ("id", text),
        ("type", event_type),
        ("timestamp", utc_datetime),
        ("session_id", text),
        ("run_id", text),
        ("sequence_number", count),
        ("data", check_object),
        ("metadata", check_object),
        ("schema_version", count),
        ("provider", text),
        ("correlation_id", text),
    )
    _optional = frozenset({"run_id", "sequence_number", "provider", "correlation_id"})

    def __hash__(self) -> int:
        return hash((self.session_id, self.id))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Artifact(Model):
    """A reference to a large object that is stored elsewhere, with its size and checksum.

    `byte_size` is from 0 to 2^53 - 1.
    """

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

    _checks = (
        ("id", text),
        ("session_id", text),
        ("run_id", text),
        ("key", text),
        ("content_type", text),
        ("byte_size", partial(count, maximum=BYTE_SIZE_MAX)),
        ("checksum_sha256", text),
        ("storage_backend", text),
        ("storage_ref", partial(text, length_max=REFERENCE_LENGTH_MAX)),
        ("metadata", check_object),
        ("created_at", utc_datetime),
        ("deleted_at", utc_datetime),
    )
    _optional = frozenset({"session_id", "run_id", "content_type", "deleted_at"})

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True, slots=True)
class ArtifactStats:
    """The number of a session's live artifacts and their total size in bytes."""

    artifact_count: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True, repr=False)
class Page(Generic[T]):
    """One page of a search. `cursor` is passed to get the next page; it is None on the last one.

    `snippets` are those of a search by text: for each item a line of the text that was found, with ⟦ and ⟧
    around the words. Of a session it is a line of its newest event with the words.
    """

    items: list[T]
    cursor: str | None = None
    total_count: int | None = None
    snippets: list[str] | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"Page({self._summary()})"

    def _repr_html_(self) -> str:
        """A table of the items, which a notebook shows."""
        models = [item for item in self.items if isinstance(item, Model)]
        if len(models) < len(self):
            return html_table(["item"], [{"item": item} for item in self.items], self._summary())
        names = models[0].__dataclass_fields__ if models else ()
        return html_table(names, [item._shown() for item in models], self._summary())

    def _summary(self) -> str:
        """As in "3 of 120 events, more"."""
        item = self.items[0] if self.items else None
        name = type(item).__name__.lower() if isinstance(item, Model) else "item"
        count, is_one = len(self), len(self) == 1 and self.total_count is None
        of = f"{count:,}" if self.total_count is None else f"{count:,} of {self.total_count:,}"
        return f"{of} {name}{'' if is_one else 's'}{'' if self.cursor is None else ', more'}"


# Rows read from a database.


def from_rows(model: type[M]) -> Callable[..., M]:
    """A constructor that takes a row's columns, in the order of the fields, and does not check them.

    A frozen dataclass assigns each field by `object.__setattr__`. This constructor assigns the fields of
    a mutable class with the same slots and then sets `__class__`: 0.2 µs for an event instead of 1.1.
    """
    names = [each.name for each in fields(model)]
    body = "".join(f"    self.{name} = {name}\n" for name in names)
    scope: dict[str, Any] = {"model": model}
    # exec, as dataclasses do it, because a loop over the names is slower than the frozen class.
    exec(f"def init(self, {', '.join(names)}):\n{body}    self.__class__ = model\n", scope)
    attributes = {"__slots__": names, "__init__": scope["init"], "__doc__": model.__doc__}
    return type(f"{model.__name__}Row", model.__bases__, attributes)


session_from_row = from_rows(Session)
run_from_row = from_rows(Run)
event_from_row = from_rows(Event)
artifact_from_row = from_rows(Artifact)
