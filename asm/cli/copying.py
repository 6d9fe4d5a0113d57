"""A whole store into another, in batches that each are a transaction of the target.

Rows go table by table in the order of their keys, so that memory holds no more than a batch. How
large they are is known when they are read: so they are read a few at a time, and written when
there are enough of them. What the target has already is compared, and not written again. Events
are the many: how far an earlier copy came with those of a session, its counter in the target
tells, and this one goes on from there. Rows without a session are copied like others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

from asm.engine.script import Query, Script, UnitOfWork
from asm.models import Artifact, Event, Run, Session
from asm.operations.artifacts import read_artifacts
from asm.operations.events import read_events
from asm.operations.exports import SequenceCounter as Counter
from asm.operations.exports import find_counters
from asm.operations.imports import Batch
from asm.operations.runs import read_runs
from asm.operations.sessions import read_sessions
from asm.store import SessionStore, run_operation

T = TypeVar("T")
Counted: TypeAlias = tuple[str, Counter]

COPIED = ("sessions", "runs", "artifacts", "events")

ROWS_PER_BATCH = 500
BYTES_PER_BATCH = 8 * 1024 * 1024
"""With so many rows, or so much in them, a batch is written."""

ROWS_PER_READ = 50


def copy(source: SessionStore, target: SessionStore) -> Iterator[int]:
    """Copy what the target lacks, and say after each batch how many rows it was.

    A copy that was cut short is taken up again by another. Conflict where the target has something
    under other contents: what was copied before stays. Nothing is locked in the source, so what is
    written to it meanwhile may be missing; `count_rows` of both tells.
    """
    for batch in _coalesce(_all_but_events(source)):
        run_operation(target, batch.import_all())
        yield batch.row_count
    for counters in _pages(source, page_counters, lambda counted: (counted[0],)):
        yield from _copy_events(source, target, dict(counters))


def all_sessions(store: SessionStore) -> Iterator[Session]:
    """Every session of a store, soft-deleted ones too, a page at a time."""
    for page in _pages(store, page_sessions, lambda session: (session.id,)):
        yield from page


def count_rows(store: SessionStore) -> dict[str, int]:
    """How many rows there are in each table that is copied row by row."""
    counted = run_operation(store, Query[dict[str, int]]("count_rows", {}, dict))
    return {table: rows for table, rows in counted.items() if table in COPIED}


def _pages(
    source: SessionStore, page: Callable[..., Query[list[T]]], key: Callable[[T], tuple[str, ...]]
) -> Iterator[list[T]]:
    found = run_operation(source, page())
    while found:
        yield found
        found = run_operation(source, page(*key(found[-1])))


def _all_but_events(source: SessionStore) -> Iterator[Batch]:
    for sessions in _pages(source, page_sessions, lambda session: (session.id,)):
        yield Batch(sessions=sessions)
    for runs in _pages(source, page_runs, lambda run: (run.session_id, run.id)):
        yield Batch(runs=runs)
    for artifacts in _pages(source, page_artifacts, lambda artifact: (artifact.id,)):
        yield Batch(artifacts=artifacts)


def _copy_events(
    source: SessionStore, target: SessionStore, counters: Mapping[str, Counter]
) -> Iterator[int]:
    copied = run_operation(target, find_counters(counters))
    stands = {session_id: counter.last_sequence for session_id, counter in copied.items()}
    yield sum(_number_there(counter, stands.get(session_id, 0)) for session_id, counter in counters.items())
    for batch in _coalesce(_events(source, counters, stands)):
        run_operation(target, batch.import_all())
        yield batch.row_count


def _events(
    source: SessionStore, counters: Mapping[str, Counter], stands: Mapping[str, int]
) -> Iterator[Batch]:
    for slices in _read_batches(_event_ranges(counters, stands)):
        events, pruned = run_operation(source, UnitOfWork(partial(_read, slices), snapshot=True))
        told = {each.session_id: Counter(each.last, pruned.get(each.session_id, 0)) for each in slices}
        yield Batch(events=events, counters=told)


def _read(slices: Sequence[EventRange]) -> Script[tuple[list[Event], dict[str, int]]]:
    """The events of some slices, and how many their sessions have lost to pruning at that moment."""
    # Not as it was when the slices were made: what has been pruned since would be missing without a reason.
    counters = yield from find_counters([each.session_id for each in slices])
    events = yield from find_events_between(slices)
    return events, {session_id: counter.pruned_events for session_id, counter in counters.items()}


def _coalesce(readings: Iterable[Batch]) -> Iterator[Batch]:
    """What was read, put together until a batch is full."""
    batch = Batch()
    for reading in readings:
        batch.add(reading)
        if batch.row_count >= ROWS_PER_BATCH or batch.size_bytes >= BYTES_PER_BATCH:
            yield batch
            batch = Batch()
    if batch.row_count or batch.counters:
        yield batch


def _number_there(counter: Counter, stands: int) -> int:
    """About how many events of a session need not be copied any more, for those who watch."""
    return max(0, min(counter.last_sequence, stands) - counter.pruned_events)


class EventRange(NamedTuple):
    """The events of a session behind one number, up to another."""

    session_id: str
    after: int
    last: int


def _event_ranges(counters: Mapping[str, Counter], stands: Mapping[str, int]) -> Iterator[EventRange]:
    for session_id, counter in counters.items():
        last = counter.last_sequence
        if stands.get(session_id, 0) < last:
            # The last one that is there comes along to be compared: a session that has gone on in
            # the target is no copy of this one any more.
            for after in range(max(0, stands.get(session_id, 0) - 1), last, ROWS_PER_READ):
                yield EventRange(session_id, after, min(after + ROWS_PER_READ, last))


def _read_batches(slices: Iterable[EventRange]) -> Iterator[list[EventRange]]:
    """Slices that are read together, and no two of one session: all but its last are full."""
    reading: list[EventRange] = []
    rows = 0
    for each in slices:
        if reading and rows + each.last - each.after > ROWS_PER_READ:
            yield reading
            reading, rows = [], 0
        reading.append(each)
        rows += each.last - each.after
    if reading:
        yield reading


# What is asked of the source. Every key comes behind the empty text.


def page_sessions(after: str = "") -> Query[list[Session]]:
    """The sessions behind an id."""
    return Query("page_sessions", {"after": after, "limit": ROWS_PER_READ}, read_sessions)


def page_runs(after_session: str = "", after: str = "") -> Query[list[Run]]:
    """The runs behind a session's id and a run's."""
    params = {"after_session": after_session, "after": after, "limit": ROWS_PER_READ}
    return Query("page_runs", params, read_runs)


def page_artifacts(after: str = "") -> Query[list[Artifact]]:
    """The artifacts behind an id, soft-deleted ones too."""
    return Query("page_artifacts", {"after": after, "limit": ROWS_PER_READ}, read_artifacts)


def page_counters(after: str = "") -> Query[list[Counted]]:
    """The counters of the sessions behind an id. Those that stand at 0 have nothing to tell."""
    return Query(
        "page_counters",
        {"after": after, "limit": ROWS_PER_BATCH},
        lambda rows: [(session_id, Counter(last, pruned)) for session_id, last, pruned in rows],
    )


def find_events_between(slices: Sequence[EventRange]) -> Query[list[Event]]:
    """The events of some slices."""
    params = {
        "session_ids": [each.session_id for each in slices],
        "after_sequences": [each.after for each in slices],
        "last_sequences": [each.last for each in slices],
        "limit": ROWS_PER_READ,
    }
    return Query("find_events_between", params, read_events)
