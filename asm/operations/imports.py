"""Importing rows of another store: unchanged, each once, or refused.

An import locks the counters of its sessions and looks up all its rows before it writes any. So a
Conflict leaves nothing behind, and rows that exist are not written again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from asm.documents import dump
from asm.engine.script import Query, Rows, Script, UnitOfWork, no_result
from asm.errors import AlreadyExists, Conflict, ValidationError
from asm.models import Artifact, Event, Run, Session
from asm.operations.appending import BYTES_PER_STATEMENT
from asm.operations.artifacts import read_artifacts, register
from asm.operations.encoding import EncodedEvent
from asm.operations.events import lock_counters, read_events
from asm.operations.exports import SequenceCounter, SessionExport, find_counters
from asm.operations.runs import read_runs, save_run
from asm.operations.sessions import read_sessions, save_session
from asm.validation import IMPORTED_SEQUENCE_MAX, count

Imported: TypeAlias = Session | Run | Event | Artifact
M = TypeVar("M", bound=Imported)
R = TypeVar("R", Run, Event, Artifact)

ROWS_PER_STATEMENT = 1_000
"""A larger import is sent in several statements of one transaction."""

BYTES_PER_BATCH = 8 * 1024 * 1024
"""The JSON of one batch of a session that is not held in memory as a whole."""

Values: TypeAlias = dict[str, Any]
"""A row by its columns."""


def import_session(export: SessionExport) -> UnitOfWork[None]:
    """Store a session that another store exported, with its ids, sequence numbers and times.

    The import is atomic and safe to repeat: rows that exist stay as they are, and missing rows are
    added, even if the session has received more events since. The next event that is appended takes the
    number after the last one of the export or of the store, whichever is later. That of the export is at
    most 2^52, so that appends find no end.

    An import only continues what is stored. A row that exists with different contents is a Conflict, and
    so is an event whose number the session has given already and no longer has, because nothing tells
    whether it is the one that was pruned or removed. Then nothing is written. To restore the events of
    a session that was pruned since, import into another store, or delete the session first.
    """
    if not isinstance(export, SessionExport):
        raise ValidationError(f"import_session takes a SessionExport, not {type(export).__name__}")
    # `replace` validates the export again: it is frozen, but its lists are not.
    batch = ImportBatch.of(replace(export))
    count(export.last_sequence, "last_sequence", IMPORTED_SEQUENCE_MAX)
    return UnitOfWork(partial(_import_without_result, batch), sessions=tuple(batch.counters))


class ImportBatch:
    """Rows to import, with their documents encoded, which is also their last validation.

    `counters` has, for each session that has events in the batch, its counter as of the last of these
    events. No more events count as pruned than there are numbers missing, so the events of one session
    may be spread over several batches, in their order.
    """

    def __init__(
        self,
        *,
        sessions: Iterable[Session] = (),
        runs: Iterable[Run] = (),
        events: Iterable[Event] = (),
        artifacts: Iterable[Artifact] = (),
        counters: Mapping[str, SequenceCounter] | None = None,
    ) -> None:
        self.sessions: list[_EncodedRow[Session]] = []
        self.runs: list[_EncodedRow[Run]] = []
        self.events: list[_EncodedRow[Event]] = []
        self.artifacts: list[_EncodedRow[Artifact]] = []
        self.counters = dict(counters or {})
        self.row_count = 0
        self.size_bytes = 0
        for row in chain[Imported](sessions, runs, events, artifacts):
            self.append(row)

    def append(self, row: Imported) -> None:
        """Add one row."""
        match row:
            case Session():
                values = _session_values(row)
                self.sessions.append(_EncodedRow(row, values))
            case Run():
                values = dict(save_run(row).params)
                self.runs.append(_EncodedRow(row, values))
            case Event():
                values = _event_values(row)
                self.events.append(_EncodedRow(row, values))
            case Artifact():
                values = dict(register(row).params)
                self.artifacts.append(_EncodedRow(row, values))
        self.row_count += 1
        self.size_bytes += _size_bytes(values)

    @classmethod
    def of(cls, export: SessionExport) -> ImportBatch:
        """The rows of an export."""
        return cls(
            sessions=[export.session],
            runs=export.runs,
            events=export.events,
            artifacts=export.artifacts,
            counters={export.session.id: SequenceCounter(export.last_sequence, export.pruned_events)},
        )

    def add(self, more: ImportBatch) -> None:
        """Add the rows of a batch that follows this one."""
        self.sessions += more.sessions
        self.runs += more.runs
        self.events += more.events
        self.artifacts += more.artifacts
        self.counters |= more.counters
        self.row_count += more.row_count
        self.size_bytes += more.size_bytes

    def import_all(self) -> UnitOfWork[ImportCounts]:
        """Write the missing rows, all or none. Conflict if a row exists with different contents."""
        return UnitOfWork(partial(_import, self), sessions=tuple(self.counters))


def batches_of(
    session: Session, rows: Iterable[Run | Event | Artifact], counter: SequenceCounter
) -> Iterator[ImportBatch]:
    """A session and its rows in batches that are to be imported in this order, in one transaction.

    Rows are taken one by one, so that memory holds one batch of a session of any size. `counter` is that of
    the session after all its events.
    """
    count(counter.last_sequence, "last_sequence", IMPORTED_SEQUENCE_MAX)
    reached = SequenceCounter(0, counter.pruned_events)
    batch = ImportBatch(sessions=[session], counters={session.id: reached})
    for row in rows:
        if batch.row_count >= ROWS_PER_STATEMENT or batch.size_bytes >= BYTES_PER_BATCH:
            yield batch
            batch = ImportBatch(counters={session.id: reached})
        batch.append(row)
        if isinstance(row, Event):
            reached = reached._replace(last_sequence=row.sequence_number or 0)
            batch.counters[session.id] = reached
    batch.counters[session.id] = counter
    yield batch


class ImportCounts(NamedTuple):
    """How many rows an import has written."""

    sessions: int = 0
    runs: int = 0
    events: int = 0
    artifacts: int = 0


@dataclass(frozen=True, slots=True)
class _EncodedRow(Generic[M]):
    model: M
    values: Values


def _size_bytes(values: Values) -> int:
    return sum(len(value) for value in values.values() if isinstance(value, str))


def _session_values(session: Session) -> Values:
    # PostgreSQL has no array of arrays of different lengths, so tags are sent as JSON.
    return {**save_session(session).params, "tags": dump(list(session.tags), "tags")}


def _event_values(event: Event) -> Values:
    return {**EncodedEvent(event).params(), "sequence_number": event.sequence_number}


def _import_without_result(batch: ImportBatch) -> Script[None]:
    yield from _import(batch)


def _import(batch: ImportBatch) -> Script[ImportCounts]:
    _check_distinct(_RUNS, batch.runs)
    _check_distinct(_EVENTS, batch.events)
    _check_distinct(_ARTIFACTS, batch.artifacts)
    # Counters are locked before any other row, as in all operations that lock several rows.
    counters = yield from _lock(batch.counters)
    sessions = yield from _find_missing(_SESSIONS, batch.sessions)
    runs = yield from _find_missing(_RUNS, batch.runs)
    artifacts = yield from _find_missing(_ARTIFACTS, batch.artifacts)
    yield from _check_live_keys(artifacts)
    events = yield from _find_missing_events(batch.events, counters)

    yield from _insert("import_sessions", sessions)
    yield from _insert("import_runs", runs)
    yield from _insert("import_artifacts", artifacts)
    yield from _insert("import_events", events)
    yield from _advance_counters(counters, batch.counters, events)
    return ImportCounts(len(sessions), len(runs), len(events), len(artifacts))


def _lock(counters: Mapping[str, SequenceCounter]) -> Script[dict[str, SequenceCounter]]:
    if not counters:
        return {}
    yield from lock_counters(counters)
    return (yield from find_counters(counters))


# Looking up the rows that exist.


class _Table(NamedTuple, Generic[M]):
    """How rows of one table are looked up: the query, its parameters and reader, and the key of a row."""

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


_SESSIONS = _Table[Session]("session", "find_sessions", _ids, read_sessions, _own_id)
_RUNS = _Table[Run]("run", "find_runs", _ids_within_sessions, read_runs, _id_within_session)
_EVENTS = _Table[Event]("event", "find_events", _ids_within_sessions, read_events, _id_within_session)
_ARTIFACTS = _Table[Artifact]("artifact", "find_artifacts", _ids, read_artifacts, _own_id)


def _check_distinct(table: _Table[R], rows: Iterable[_EncodedRow[R]]) -> None:
    # Of two new runs with one id, the database would take the first.
    keys: set[object] = set()
    for row in rows:
        key = table.key(row.model)
        if key in keys:
            raise Conflict(
                f"{table.noun} {row.model.id!r} is in the import twice, and nothing was written: remove one",
                id=row.model.id,
                session_id=row.model.session_id,
            )
        keys.add(key)


def _find_missing(table: _Table[M], rows: Sequence[_EncodedRow[M]]) -> Script[list[_EncodedRow[M]]]:
    """The rows that do not exist. Conflict if one exists with different contents."""
    missing: list[_EncodedRow[M]] = []
    for chunk in _chunks(rows):
        params = table.params([row.model for row in chunk])
        existing: list[M] = yield from Query(table.query, params, table.read, prepare=False)
        by_key = {table.key(model): model for model in existing}
        for row in chunk:
            stored = by_key.get(table.key(row.model))
            if stored is None:
                missing.append(row)
            elif stored != row.model:
                raise _different_contents(table.noun, row.model, stored)
    return missing


def _find_missing_events(
    rows: Sequence[_EncodedRow[Event]], counters: Mapping[str, SequenceCounter]
) -> Script[list[_EncodedRow[Event]]]:
    # Events above the counter are not looked up, because none is stored there. If one of their ids
    # exists below the counter, the unique constraint refuses it.
    below = [row for row in rows if _at_or_below_counter(row.model, counters)]
    above = [row for row in rows if not _at_or_below_counter(row.model, counters)]
    missing = yield from _find_missing(_EVENTS, below)
    if missing:
        raise (yield from _not_stored(missing[0].model))
    return above


def _at_or_below_counter(event: Event, counters: Mapping[str, SequenceCounter]) -> bool:
    return (event.sequence_number or 0) <= counters[event.session_id].last_sequence


def _different_contents(noun: str, imported: Imported, stored: Imported) -> Conflict:
    fields = imported.__dataclass_fields__
    differing = [name for name in fields if getattr(imported, name) != getattr(stored, name)]
    return Conflict(
        f"{noun} {imported.id!r} already exists with different contents (they differ in "
        f"{', '.join(differing)}), and nothing was written: delete the stored {noun}, or import into another "
        "store",
        id=imported.id,
        session_id=imported.id if isinstance(imported, Session) else imported.session_id,
        fields=differing,
    )


def _check_live_keys(artifacts: Sequence[_EncodedRow[Artifact]]) -> Script[None]:
    """Check that no other live artifact has a key of these. A soft-deleted artifact has none."""
    keys = tuple(row.model.key for row in artifacts if row.model.deleted_at is None)
    if not keys:
        return
    existing = yield from Query("find_live_keys", {"keys": keys}, _first_column)
    if existing:
        raise AlreadyExists(
            f"another artifact with the key {existing[0]!r} already exists, and nothing was written: "
            "delete it first",
            key=existing[0],
        )


def _not_stored(event: Event) -> Script[Conflict]:
    """The error about an event that is not stored, and whose number its session has given already."""
    number = event.sequence_number
    params = {"session_ids": [event.session_id], "sequence_numbers": [number]}
    existing: Rows = yield from Query("find_sequence_numbers", params, list, prepare=False)
    state = f"already has another event {number}" if existing else f"no longer has its event {number}"
    return Conflict(
        f"session {event.session_id!r} {state}, and nothing was written: delete the stored session, or "
        "import into another store",
        session_id=event.session_id,
        sequence_number=number,
    )


def _first_column(rows: Rows) -> list[Any]:
    return [row[0] for row in rows]


# Writing.


def _insert(query: str, rows: Sequence[_EncodedRow[Any]]) -> Script[None]:
    for chunk in _chunks(rows):
        columns = {name: [row.values[name] for row in chunk] for name in chunk[0].values}
        yield from Query(query, columns, no_result)


def _advance_counters(
    before: Mapping[str, SequenceCounter],
    exported: Mapping[str, SequenceCounter],
    added: Iterable[_EncodedRow[Event]],
) -> Script[None]:
    numbers = Counter(row.model.session_id for row in added)
    after = {id: _advanced(before[id], counter, numbers[id]) for id, counter in exported.items()}
    changed = {id: counter for id, counter in sorted(after.items()) if counter != before[id]}
    if changed:
        yield from set_counters(changed)


def set_counters(counters: Mapping[str, SequenceCounter]) -> Query[None]:
    """Set the counters of sessions, which the caller has locked."""
    params = {
        "session_ids": list(counters),
        "last_sequences": [counter.last_sequence for counter in counters.values()],
        "pruned_events": [counter.pruned_events for counter in counters.values()],
    }
    return Query("set_counters", params, no_result, prepare=False)


def _advanced(before: SequenceCounter, exported: SequenceCounter, added: int) -> SequenceCounter:
    """A counter after events were added, so that stored and pruned events add up to the last number.

    A new number that was not added had been pruned in the store that exported it.
    """
    last = max(before.last_sequence, exported.last_sequence)
    missing = last - before.last_sequence - added
    pruned_there = min(missing, max(0, exported.pruned_events - before.pruned_events))
    return SequenceCounter(last, before.pruned_events + pruned_there)


def _chunks(rows: Sequence[_EncodedRow[M]]) -> Iterator[list[_EncodedRow[M]]]:
    """Split rows into parts that each fit one statement."""
    chunk: list[_EncodedRow[M]] = []
    size_bytes = 0
    for row in rows:
        if chunk and (
            len(chunk) == ROWS_PER_STATEMENT or size_bytes + _size_bytes(row.values) > BYTES_PER_STATEMENT
        ):
            yield chunk
            chunk, size_bytes = [], 0
        chunk.append(row)
        size_bytes += _size_bytes(row.values)
    if chunk:
        yield chunk
