"""Rows of another store on their way into this one: kept as they are, once each, or refused.

All of them are looked for before any is written, under the locks of their sessions' counters.
So a Conflict leaves nothing behind, and what is there already is not written again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from asm.documents import dump
from asm.engine.script import Query, Rows, Script, UnitOfWork, no_result
from asm.errors import AlreadyExists, Conflict, ValidationError
from asm.models import Artifact, Event, Run, Session
from asm.operations.artifacts import read_artifacts, register
from asm.operations.events import BYTES_PER_STATEMENT, EncodedEvent, lock_counters, read_events
from asm.operations.exports import Counter, SessionExport, find_counters
from asm.operations.runs import read_runs, save_run
from asm.operations.sessions import read_sessions, save_session

Imported: TypeAlias = Session | Run | Event | Artifact
M = TypeVar("M", bound=Imported)

ROWS_PER_STATEMENT = 1_000
"""A larger import goes in several statements of one transaction."""

Values: TypeAlias = dict[str, Any]
"""A row by its columns."""


def import_session(export: SessionExport) -> UnitOfWork[None]:
    """Keep a session that another store exported, with its ids, sequence numbers and times.

    All of it or none of it, and safe to repeat: what is there already stays as it is, and what is
    missing is added, also where the session has gone on since, or retention has pruned it. What is
    there under other contents is a Conflict, and nothing is written. The event appended next takes
    the number after the last one, the export's or the store's own.
    """
    if not isinstance(export, SessionExport):
        raise ValidationError(f"import_session takes a SessionExport, not {type(export).__name__}")
    # Looked at once more, because an export is frozen, but its lists are not.
    batch = Batch.of(replace(export))
    return UnitOfWork(partial(_import_only, batch), sessions=tuple(batch.counters))


class Batch:
    """Rows on their way in, their documents spelled out, which is also their last check.

    `counters` says of each session whose events are here where it stands behind the last of them,
    and how many it has lost to pruning. Of those no more are counted than there are numbers missing,
    so the events of one session may come in several batches, in their order.
    """

    def __init__(
        self,
        *,
        sessions: Iterable[Session] = (),
        runs: Iterable[Run] = (),
        events: Iterable[Event] = (),
        artifacts: Iterable[Artifact] = (),
        counters: Mapping[str, Counter] | None = None,
    ) -> None:
        self.sessions = [_Row(session, _session_values(session)) for session in sessions]
        self.runs = [_Row(run, dict(save_run(run).params)) for run in runs]
        self.events = [_Row(event, _event_values(event)) for event in events]
        self.artifacts = [_Row(artifact, dict(register(artifact).params)) for artifact in artifacts]
        self.counters = dict(counters or {})
        rows: list[_Row[Any]] = [*self.sessions, *self.runs, *self.events, *self.artifacts]
        self.row_count = len(rows)
        self.size_bytes = sum(row.size_bytes for row in rows)

    @classmethod
    def of(cls, export: SessionExport) -> Batch:
        """The rows of an export."""
        return cls(
            sessions=[export.session],
            runs=export.runs,
            events=export.events,
            artifacts=export.artifacts,
            counters={export.session.id: Counter(export.last_sequence, export.pruned_events)},
        )

    def add(self, more: Batch) -> None:
        """Take in what comes behind these rows."""
        self.sessions += more.sessions
        self.runs += more.runs
        self.events += more.events
        self.artifacts += more.artifacts
        self.counters |= more.counters
        self.row_count += more.row_count
        self.size_bytes += more.size_bytes

    def import_all(self) -> UnitOfWork[ImportCounts]:
        """Write what is missing, all of it or none of it. Conflict where something else is there."""
        return UnitOfWork(partial(_import, self), sessions=tuple(self.counters))


class ImportCounts(NamedTuple):
    """How many rows were missing, and are there now."""

    sessions: int = 0
    runs: int = 0
    events: int = 0
    artifacts: int = 0


@dataclass(frozen=True, slots=True)
class _Row(Generic[M]):
    model: M
    values: Values

    @property
    def size_bytes(self) -> int:
        return sum(len(value) for value in self.values.values() if isinstance(value, str))


def _session_values(session: Session) -> Values:
    # A list of lists of different lengths is no array, so each goes as a document.
    return {**save_session(session).params, "tags": dump(list(session.tags), "tags")}


def _event_values(event: Event) -> Values:
    return {**EncodedEvent(event).params(), "sequence_number": event.sequence_number}


def _import_only(batch: Batch) -> Script[None]:
    yield from _import(batch)


def _import(batch: Batch) -> Script[ImportCounts]:
    # Counters first: they are the lock of their sessions, and whoever locks more than one thing
    # begins with them.
    counters = yield from _locked(batch.counters)
    sessions = yield from _missing(_SESSIONS, batch.sessions)
    runs = yield from _missing(_RUNS, batch.runs)
    artifacts = yield from _missing(_ARTIFACTS, batch.artifacts)
    yield from _check_keys(artifacts)
    events = yield from _missing_events(batch.events, counters)

    yield from _insert("import_sessions", sessions)
    yield from _insert("import_runs", runs)
    yield from _insert("import_artifacts", artifacts)
    yield from _insert("import_events", events)
    yield from _advance_counters(counters, batch.counters, events)
    return ImportCounts(len(sessions), len(runs), len(events), len(artifacts))


def _locked(counters: Mapping[str, Counter]) -> Script[dict[str, Counter]]:
    if not counters:
        return {}
    yield from lock_counters(counters)
    return (yield from find_counters(counters))


# What is there already.


class _Kind(NamedTuple, Generic[M]):
    """How rows of one table are looked for: the query, its parameters, and how one is known again."""

    noun: str
    query: str
    params: Callable[[Sequence[M]], Values]
    read: Callable[[Rows], list[M]]
    key: Callable[[M], object]


def _ids(models: Sequence[Session] | Sequence[Artifact]) -> Values:
    return {"ids": tuple(model.id for model in models)}


def _ids_within_sessions(models: Sequence[Run] | Sequence[Event]) -> Values:
    return {"session_ids": [model.session_id for model in models], "ids": [model.id for model in models]}


def _own_id(model: Session | Artifact) -> object:
    return model.id


def _id_within_session(model: Run | Event) -> object:
    return model.session_id, model.id


_SESSIONS = _Kind[Session]("session", "find_sessions", _ids, read_sessions, _own_id)
_RUNS = _Kind[Run]("run", "find_runs", _ids_within_sessions, read_runs, _id_within_session)
_EVENTS = _Kind[Event]("event", "find_events", _ids_within_sessions, read_events, _id_within_session)
_ARTIFACTS = _Kind[Artifact]("artifact", "find_artifacts", _ids, read_artifacts, _own_id)


def _missing(kind: _Kind[M], rows: Sequence[_Row[M]]) -> Script[list[_Row[M]]]:
    """The rows that are not there. Conflict where one is there under other contents."""
    missing: list[_Row[M]] = []
    for piece in _pieces(rows):
        found: list[M] = yield from Query(kind.query, kind.params([row.model for row in piece]), kind.read)
        stored = {kind.key(model): model for model in found}
        for row in piece:
            there = stored.get(kind.key(row.model))
            if there is None:
                missing.append(row)
            elif there != row.model:
                raise _other_contents(kind.noun, row.model, there)
    return missing


def _missing_events(
    rows: Sequence[_Row[Event]], counters: Mapping[str, Counter]
) -> Script[list[_Row[Event]]]:
    # Beyond the counter nothing is stored, so nothing is looked for; and should an id stand under
    # a lower number all the same, the database refuses to store it twice.
    passed = [row for row in rows if _at_or_below_counter(row.model, counters)]
    new = [row for row in rows if not _at_or_below_counter(row.model, counters)]
    missing = yield from _missing(_EVENTS, passed)
    yield from _check_numbers(missing)
    return missing + new


def _at_or_below_counter(event: Event, counters: Mapping[str, Counter]) -> bool:
    return (event.sequence_number or 0) <= counters[event.session_id].last_sequence


def _other_contents(noun: str, ours: Imported, theirs: Imported) -> Conflict:
    differing = [name for name in ours.__dataclass_fields__ if getattr(ours, name) != getattr(theirs, name)]
    return Conflict(
        f"{noun} {ours.id!r} is there already under other contents (they differ in "
        f"{', '.join(differing)}), so nothing was written",
        id=ours.id,
        session_id=ours.id if isinstance(ours, Session) else ours.session_id,
        fields=differing,
    )


def _check_keys(artifacts: Sequence[_Row[Artifact]]) -> Script[None]:
    """Whether the keys are free. A deleted artifact holds none."""
    keys = tuple(row.model.key for row in artifacts if row.model.deleted_at is None)
    taken: list[str] = (yield from Query("find_live_keys", {"keys": keys}, _firsts)) if keys else []
    if taken:
        raise AlreadyExists(
            f"another artifact with the key {taken[0]!r} is there already, so nothing was written: "
            "delete it first",
            key=taken[0],
        )


def _check_numbers(events: Sequence[_Row[Event]]) -> Script[None]:
    """Whether the numbers are free: pruning has left holes."""
    for piece in _pieces(events):
        params = {
            "session_ids": [row.model.session_id for row in piece],
            "sequence_numbers": [row.model.sequence_number for row in piece],
        }
        taken: Rows = yield from Query("find_numbers", params, list)
        for session_id, number in taken:
            raise Conflict(
                f"session {session_id!r} has another event {number} already, so nothing was written",
                session_id=session_id,
                sequence_number=number,
            )


def _firsts(rows: Rows) -> list[Any]:
    return [row[0] for row in rows]


# What is written.


def _insert(query: str, rows: Sequence[_Row[Any]]) -> Script[None]:
    for piece in _pieces(rows):
        columns = {name: [row.values[name] for row in piece] for name in piece[0].values}
        yield from Query(query, columns, no_result)


def _advance_counters(
    before: Mapping[str, Counter], told: Mapping[str, Counter], events: Sequence[_Row[Event]]
) -> Script[None]:
    added: defaultdict[str, list[int]] = defaultdict(list)
    for row in events:
        added[row.model.session_id].append(row.model.sequence_number or 0)
    after = {id: _moved(before[id], counter, added[id]) for id, counter in told.items()}
    moved = sorted(id for id, counter in after.items() if counter != before[id])
    if moved:
        params = {
            "session_ids": moved,
            "last_sequences": [after[id].last_sequence for id in moved],
            "pruned_events": [after[id].pruned_events for id in moved],
        }
        yield from Query("set_counters", params, no_result)


def _moved(before: Counter, told: Counter, added: Sequence[int]) -> Counter:
    """A counter after events came in, so that stored and pruned ones still add up to the last number.

    An event may come back that was pruned here; a number that neither side has was pruned there.
    """
    last = max(before.last_sequence, told.last_sequence)
    came_back = sum(number <= before.last_sequence for number in added)
    pruned_here = max(0, before.pruned_events - came_back)
    missing = last - before.last_sequence - (len(added) - came_back)
    return Counter(last, pruned_here + min(missing, max(0, told.pruned_events - pruned_here)))


def _pieces(rows: Sequence[_Row[M]]) -> Iterator[list[_Row[M]]]:
    """Rows in parts that each fit one statement."""
    piece: list[_Row[M]] = []
    size_bytes = 0
    for row in rows:
        if piece and (len(piece) == ROWS_PER_STATEMENT or size_bytes + row.size_bytes > BYTES_PER_STATEMENT):
            yield piece
            piece, size_bytes = [], 0
        piece.append(row)
        size_bytes += row.size_bytes
    if piece:
        yield piece
