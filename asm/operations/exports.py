"""SessionExport: a session with all its rows, taken from one store for another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

from asm.engine.script import Query, Rows, Script, UnitOfWork
from asm.errors import ValidationError
from asm.models import Artifact, Event, Model, Run, Session
from asm.operations import artifacts, events, runs, sessions
from asm.validation import SEQUENCE_MAX, check_keys, count, flag, text

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SessionExport:
    """A session, its runs, its events and, if requested, its artifacts: one snapshot.

    Runs are in the order of their start, events in the order of their sequence numbers. All are of the
    session. `last_sequence` is the latest number that the session has given, and `pruned_events` how many
    of its events were removed: `len(events) + pruned_events == last_sequence`. Anything else is a
    ValidationError. Without a `last_sequence` it is the number of the last event, and the numbers that
    no event has count as pruned.
    """

    session: Session
    runs: list[Run] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    last_sequence: int = 0
    pruned_events: int = 0

    def __repr__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in _MODELS}
        rows = [
            f"{count:,} {name.removesuffix('s') if count == 1 else name}" for name, count in counts.items()
        ]
        return f"SessionExport({self.session!r}, {', '.join(rows)})"

    def __post_init__(self) -> None:
        _check_model(self.session, Session, "session")
        for name, model in _MODELS.items():
            _check_models(getattr(self, name), model, name, self.session.id)
        last = _check_sequence(self.events)
        last_sequence = count(self.last_sequence, "last_sequence", SEQUENCE_MAX)
        pruned_events = count(self.pruned_events, "pruned_events", SEQUENCE_MAX)
        if last_sequence == 0:
            last_sequence, pruned_events = last, pruned_events or last - len(self.events)
        if last_sequence < last:
            raise ValidationError(
                f"last_sequence is {last_sequence}, but the export has an event {last}", path="last_sequence"
            )
        check_sum(len(self.events), pruned_events, last_sequence)
        object.__setattr__(self, "last_sequence", last_sequence)
        object.__setattr__(self, "pruned_events", pruned_events)

    def __hash__(self) -> int:
        return hash(self.session)

    def to_dict(self) -> dict[str, Any]:
        """This export as JSON-ready values. Each model is what its own `to_dict` returns."""
        lists = {name: [each.to_dict() for each in getattr(self, name)] for name in _MODELS}
        return {
            "session": self.session.to_dict(),
            **lists,
            "last_sequence": self.last_sequence,
            "pruned_events": self.pruned_events,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The export of which `to_dict` returned these values, validated like any other input."""
        values = check_keys(values, cls.__dataclass_fields__, cls.__name__)
        if "session" not in values:
            raise ValidationError("the export has no session", path="session")
        lists = {
            name: _parse_models(values[name], model, name)
            for name, model in _MODELS.items()
            if name in values
        }
        return cls(**{**values, **lists, "session": _parse_model(values["session"], Session, "session")})


_MODELS: dict[str, type[Run | Event | Artifact]] = {"runs": Run, "events": Event, "artifacts": Artifact}


def export_session(session_id: str, *, include_artifacts: bool = False) -> UnitOfWork[SessionExport]:
    """A session with its runs and events, one snapshot, for another store or an archive.

    A soft-deleted session is exported like any other. `include_artifacts` adds the rows of its
    artifacts, soft-deleted ones too, but not the bytes that they describe. All numbers without an event
    count as pruned, whatever removed the events; `health_check` tells which of them pruning does not
    explain. Raises SessionNotFound if the session does not exist. The whole session is held in memory.
    """
    return UnitOfWork(
        partial(_export, text(session_id, "session_id"), flag(include_artifacts, "include_artifacts")),
        snapshot=True,
    )


def _export(session_id: str, include_artifacts: bool) -> Script[SessionExport]:
    session = yield from sessions.get_session(session_id)
    counters = yield from find_counters([session_id])
    exported_runs = yield from runs.list_runs(session_id)
    exported_events = yield from events.get_events(session_id)
    exported_artifacts = (yield from artifacts.list_all(session_id)) if include_artifacts else []
    counter = counters.get(session_id, SequenceCounter())
    # A session whose counter is behind its events can be exported, too.
    last_sequence = max(counter.last_sequence, _check_sequence(exported_events))
    count(last_sequence, f"last_sequence of session {session_id!r}", SEQUENCE_MAX)
    return SessionExport(
        session=session,
        runs=exported_runs,
        events=exported_events,
        artifacts=exported_artifacts,
        last_sequence=last_sequence,
        pruned_events=last_sequence - len(exported_events),
    )


class SequenceCounter(NamedTuple):
    """The latest sequence number of a session, and how many of its events were pruned."""

    last_sequence: int = 0
    pruned_events: int = 0

    @property
    def stored(self) -> int:
        """How many of its events are stored."""
        return self.last_sequence - self.pruned_events


def find_counters(session_ids: Iterable[str]) -> Query[dict[str, SequenceCounter]]:
    """The counters of the sessions that have one."""
    return Query("find_counters", {"session_ids": tuple(session_ids)}, read_counters)


def read_counters(rows: Rows) -> dict[str, SequenceCounter]:
    return {session_id: SequenceCounter(last, pruned) for session_id, last, pruned, *_ in rows}


# Validation.


def check_sum(events: int, pruned_events: int, last_sequence: int) -> None:
    """Check that every number up to the last one is that of an event, or of one that was removed."""
    if events + pruned_events != last_sequence:
        raise ValidationError(
            f"the export does not add up: {events:,} events and {pruned_events:,} pruned events are not the "
            f"{last_sequence:,} of last_sequence: correct pruned_events, which counts the numbers without "
            "an event",
            path="pruned_events",
        )


def _check_model(value: Any, model: type[Model], name: str) -> None:
    if not isinstance(value, model):
        raise ValidationError(f"{name} must be a {model.__name__}, not {type(value).__name__}", path=name)


def _check_models(values: Any, model: type[Run | Event | Artifact], name: str, session_id: str) -> None:
    _check_list(values, name)
    for index, value in enumerate(values):
        _check_model(value, model, f"{name}[{index}]")
        if value.session_id != session_id:
            raise ValidationError(
                f"{name}[{index}] belongs to session {value.session_id!r}, not to {session_id!r}",
                path=f"{name}[{index}].session_id",
            )
    numbers = Counter(value.id for value in values)
    if len(numbers) < len(values):
        ((twice, _),) = numbers.most_common(1)
        raise ValidationError(f"{name} contains the id {twice!r} twice: remove one", path=name)


def _check_list(values: Any, name: str) -> None:
    if not isinstance(values, list):
        raise ValidationError(f"{name} must be a list, not {type(values).__name__}", path=name)


def _check_sequence(events: Sequence[Event]) -> int:
    """Check that sequence numbers ascend. Returns the last one, 0 if there is no event."""
    last = 0
    for index, event in enumerate(events):
        if event.sequence_number is None or event.sequence_number <= last:
            raise ValidationError(
                f"events[{index}] has the sequence number {event.sequence_number}, which must be "
                f"{last + 1} or more: events must be in the order of their sequence numbers",
                path=f"events[{index}].sequence_number",
            )
        last = event.sequence_number
    return last


def _parse_model(values: Any, model: type[M], name: str) -> M:
    try:
        return model.from_dict(values)
    except ValidationError as error:
        raise ValidationError(f"{name}: {error}", path=name) from error


def _parse_models(values: Any, model: type[M], name: str) -> list[M]:
    _check_list(values, name)
    return [_parse_model(each, model, f"{name}[{index}]") for index, each in enumerate(values)]
