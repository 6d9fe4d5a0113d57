"""A session with everything that belongs to it, taken out of one store and put into another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

from asm.engine.script import Query, Rows, Script, UnitOfWork
from asm.errors import ValidationError
from asm.models import Artifact, Event, Model, Run, Session
from asm.operations import artifacts, events, runs, sessions
from asm.validation import check_keys, count, flag, is_instance, text

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExport:
    """A session, its runs, its events and, where asked for, its artifacts, all of one moment.

    Runs stand oldest first, events in the order of their numbers. `last_sequence` is where the
    session stands, and `pruned_events` how many of its events retention has taken, so that
    `len(events) + pruned_events == last_sequence`. An export that does not say where its session
    stands ends with its last event, and the numbers that are missing count as pruned.
    """

    session: Session
    runs: list[Run] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    last_sequence: int = 0
    pruned_events: int = 0

    def __post_init__(self) -> None:
        _check_kind(self.session, Session, "session")
        for name, kind in _KINDS.items():
            _check_all(getattr(self, name), kind, name, self.session.id)
        last = _last_number(self.events)
        object.__setattr__(self, "last_sequence", count(self.last_sequence, "last_sequence"))
        object.__setattr__(self, "pruned_events", count(self.pruned_events, "pruned_events"))
        if self.last_sequence == 0:
            object.__setattr__(self, "last_sequence", last)
            object.__setattr__(self, "pruned_events", last - len(self.events))
        if self.last_sequence < last:
            raise ValidationError(
                f"last_sequence is {self.last_sequence}, but event {last} is there", path="last_sequence"
            )

    def __hash__(self) -> int:
        return hash(self.session)

    def to_dict(self) -> dict[str, Any]:
        """This export as JSON-ready values, each model as its own `to_dict` has it."""
        listed = {name: [each.to_dict() for each in getattr(self, name)] for name in _KINDS}
        return {
            "session": self.session.to_dict(),
            **listed,
            "last_sequence": self.last_sequence,
            "pruned_events": self.pruned_events,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The export that `to_dict` took apart, checked like any other input."""
        values = check_keys(values, cls.__dataclass_fields__, cls.__name__)
        if "session" not in values:
            raise ValidationError("an export without a session", path="session")
        parsed = {
            name: _parsed_all(values[name], kind, name) for name, kind in _KINDS.items() if name in values
        }
        return cls(**{**values, **parsed, "session": _parsed(values["session"], Session, "session")})


_KINDS: dict[str, type[Run | Event | Artifact]] = {"runs": Run, "events": Event, "artifacts": Artifact}


def export_session(session_id: str, *, include_artifacts: bool = False) -> UnitOfWork[SessionExport]:
    """A session with its runs and events as they stood at one moment, for another store or an archive.

    A soft-deleted session is exported like any other. With `include_artifacts` the rows of its
    artifacts go along, soft-deleted ones too; the bytes they tell of stay where they are.
    SessionNotFound where there is no such session. All of it is held in memory at once.
    """
    session_id, include_artifacts = (
        text(session_id, "session_id"),
        flag(include_artifacts, "include_artifacts"),
    )
    return UnitOfWork(partial(_export, session_id, include_artifacts), snapshot=True)


def _export(session_id: str, include_artifacts: bool) -> Script[SessionExport]:
    session = yield from sessions.get_session(session_id)
    counters = yield from find_counters([session_id])
    found_runs = yield from runs.list_runs(session_id)
    found_events = yield from events.get_events(session_id)
    found_artifacts = (yield from artifacts.list_all(session_id)) if include_artifacts else []
    counter = counters.get(session_id, Counter(0, 0))
    return SessionExport(
        session=session,
        runs=found_runs,
        events=found_events,
        artifacts=found_artifacts,
        # A counter that somebody has set back must not keep the events from being saved.
        last_sequence=max(counter.last_sequence, _last_number(found_events)),
        pruned_events=counter.pruned_events,
    )


class Counter(NamedTuple):
    """Where a session stands, and how many of its events were pruned."""

    last_sequence: int
    pruned_events: int

    @property
    def stored(self) -> int:
        """How many of its events are there."""
        return self.last_sequence - self.pruned_events


def find_counters(session_ids: Iterable[str]) -> Query[dict[str, Counter]]:
    """The counters of those of the sessions that have one."""
    return Query("find_counters", {"session_ids": tuple(session_ids)}, read_counters)


def read_counters(rows: Rows) -> dict[str, Counter]:
    return {session_id: Counter(last, pruned) for session_id, last, pruned, *_ in rows}


# What an export must be like.


def _check_kind(value: Any, kind: type[Model], name: str) -> None:
    if not is_instance(value, kind):
        raise ValidationError(f"{name} must be of {kind.__name__}, not {type(value).__name__}", path=name)


def _check_all(values: Any, kind: type[Model], name: str, session_id: str) -> None:
    if not is_instance(values, list):
        raise ValidationError(f"{name} must be a list, not {type(values).__name__}", path=name)
    for index, value in enumerate(values):
        _check_kind(value, kind, f"{name}[{index}]")
        if value.session_id != session_id:
            raise ValidationError(
                f"{name}[{index}] belongs to session {value.session_id!r}, not to {session_id!r}",
                path=f"{name}[{index}].session_id",
            )


def _last_number(numbered: Sequence[Event]) -> int:
    """The number of the last event, 0 where there is none. Each must come after the one before."""
    last = 0
    for index, event in enumerate(numbered):
        if event.sequence_number is None or event.sequence_number <= last:
            raise ValidationError(
                f"events[{index}] has the sequence number {event.sequence_number}, which must be "
                f"{last + 1} or more: events stand in the order of their numbers",
                path=f"events[{index}].sequence_number",
            )
        last = event.sequence_number
    return last


def _parsed(values: Any, kind: type[M], name: str) -> M:
    try:
        return kind.from_dict(values)
    except ValidationError as error:
        raise ValidationError(f"{name}: {error}", path=name) from error


def _parsed_all(values: Any, kind: type[M], name: str) -> list[M]:
    if not is_instance(values, list):
        raise ValidationError(f"{name} must be a list, not {type(values).__name__}", path=name)
    return [_parsed(each, kind, f"{name}[{index}]") for index, each in enumerate(values)]
