"""Copy all rows of a store into another, in batches that are one transaction of the target each.

The rows of each table are read in the order of their keys, a few at a time, and collected until a batch
is large enough to be written. So memory never holds more than a batch. A row that exists in the target
is compared and not written again. Of a session's events, the target's counter says how many an earlier
copy has written, and this copy continues after them. Rows without a session are copied too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

from asm.engine.script import Query, Script, UnitOfWork
from asm.models import Artifact, Event, Run, Session
from asm.operations.artifacts import read_artifacts
from asm.operations.events import read_events
from asm.operations.exports import SequenceCounter, find_counters
from asm.operations.imports import ImportBatch
from asm.operations.runs import read_runs
from asm.operations.sessions import read_sessions
from asm.store import SessionStore, run_operation

T = TypeVar("T")
SessionCounter: TypeAlias = tuple[str, SequenceCounter]

COPIED_TABLES = ("sessions", "runs", "artifacts", "events")

ROWS_PER_BATCH = 500
BYTES_PER_BATCH = 8 * 1024 * 1024
"""A batch is written when it reaches either of these."""

ROWS_PER_READ = 50


def copy(source: SessionStore, target: SessionStore) -> Iterator[int]:
    """Copy what the target lacks, and yield the number of rows of each batch.

    An interrupted copy is completed by another. If a row exists in the target with different contents,
    Conflict is raised, and the rows copied before it stay. The source is not locked, so a row that is
    written to it during the copy may be missing; compare `count_rows` of both stores.
    """
    for batch in _coalesce(_all_but_events(source)):
        run_operation(target, batch.import_all())
        yield batch.row_count
    for counters in _pages(source, page_counters, lambda counter: (counter[0],)):
        yield from _copy_events(source, target, dict(counters))


def all_sessions(store: SessionStore) -> Iterator[Session]:
    """Every session of a store, also soft-deleted ones, read page by page."""
    for page in _pages(store, page_sessions, lambda session: (session.id,)):
        yield from page


def count_rows(store: SessionStore) -> dict[str, int]:
    """The number of rows of each table that is copied."""
    rows = run_operation(store, Query[dict[str, int]]("count_rows", {}, dict))
    return {table: number for table, number in rows.items() if table in COPIED_TABLES}


def is_same_store(source: SessionStore, target: SessionStore) -> bool:
    """Whether two stores have the same tables, which two different DSNs may lead to."""
    server, database, table = run_operation(source, identify_store())
    # The table of a store without sessions is not known, and there is nothing to copy.
    return table is not None and (server, database, table) == run_operation(target, identify_store())


def _pages(
    source: SessionStore, page: Callable[..., Query[list[T]]], key: Callable[[T], tuple[str, ...]]
) -> Iterator[list[T]]:
    found = run_operation(source, page())
    while found:
        yield found
        found = run_operation(source, page(*key(found[-1])))


def _all_but_events(source: SessionStore) -> Iterator[ImportBatch]:
    for sessions in _pages(source, page_sessions, lambda session: (session.id,)):
        yield ImportBatch(sessions=sessions)
    for runs in _pages(source, page_runs, lambda run: (run.session_id, run.id)):
        yield ImportBatch(runs=runs)
    for artifacts in _pages(source, page_artifacts, lambda artifact: (artifact.id,)):
        yield ImportBatch(artifacts=artifacts)


def _copy_events(
    source: SessionStore, target: SessionStore, counters: Mapping[str, SequenceCounter]
) -> Iterator[int]:
    found = run_operation(target, find_counters(counters))
    copied = {session_id: counter.last_sequence for session_id, counter in found.items()}
    yield sum(_already_copied(counter, copied.get(session_id, 0)) for session_id, counter in counters.items())
    for batch in _coalesce(_events(source, counters, copied)):
        run_operation(target, batch.import_all())
        yield batch.row_count


def _already_copied(counter: SequenceCounter, last_copied: int) -> int:
    """About how many events of a session the target has, for the progress display."""
    return max(0, min(counter.last_sequence, last_copied) - counter.pruned_events)


def _events(
    source: SessionStore, counters: Mapping[str, SequenceCounter], copied: Mapping[str, int]
) -> Iterator[ImportBatch]:
    for ranges in _read_batches(_event_ranges(counters, copied)):
        while ranges:
            events, pruned = run_operation(source, UnitOfWork(partial(_read, ranges), snapshot=True))
            reached = _reached(ranges, events)
            yield ImportBatch(
                events=events,
                counters={id: SequenceCounter(last, pruned.get(id, 0)) for id, last in reached.items()},
            )
            ranges = [
                each._replace(after=reached[each.session_id])
                for each in ranges
                if reached[each.session_id] < each.last
            ]


def _reached(ranges: Sequence[EventRange], events: Sequence[Event]) -> dict[str, int]:
    """The sequence number up to which each session was read: that of the last event of a full read."""
    read: defaultdict[str, list[int]] = defaultdict(list)
    for event in events:
        read[event.session_id].append(event.sequence_number or 0)
    return {
        each.session_id: max(read[each.session_id])
        if len(read[each.session_id]) == ROWS_PER_READ
        else each.last
        for each in ranges
    }


def _read(ranges: Sequence[EventRange]) -> Script[tuple[list[Event], dict[str, int]]]:
    """The events of some ranges, and how many events of their sessions were pruned at that moment."""
    # Events may have been pruned since the ranges were made, so the earlier counters do not explain
    # which events are missing.
    counters = yield from find_counters([each.session_id for each in ranges])
    events = yield from find_events_between(ranges)
    return events, {session_id: counter.pruned_events for session_id, counter in counters.items()}


def _coalesce(reads: Iterable[ImportBatch]) -> Iterator[ImportBatch]:
    """Combine small reads into batches that are worth a transaction."""
    batch = ImportBatch()
    for read in reads:
        batch.add(read)
        if batch.row_count >= ROWS_PER_BATCH or batch.size_bytes >= BYTES_PER_BATCH:
            yield batch
            batch = ImportBatch()
    if batch.row_count or batch.counters:
        yield batch


class EventRange(NamedTuple):
    """The events of a session after one sequence number, up to and including another.

    Between the two may be far more numbers than events.
    """

    session_id: str
    after: int
    last: int

    @property
    def rows_max(self) -> int:
        """How many events one read returns at most."""
        return min(self.last - self.after, ROWS_PER_READ)


def _event_ranges(counters: Mapping[str, SequenceCounter], copied: Mapping[str, int]) -> Iterator[EventRange]:
    for session_id, counter in counters.items():
        last = counter.last_sequence
        if copied.get(session_id, 0) < last:
            # Read the last copied event again, so that it is compared: if the session was continued in
            # the target, it is no copy any more.
            yield EventRange(session_id, max(0, copied.get(session_id, 0) - 1), last)


def _read_batches(ranges: Iterable[EventRange]) -> Iterator[list[EventRange]]:
    """Lists of ranges that one query reads each. One with more events than that is alone in its list."""
    batch: list[EventRange] = []
    rows = 0
    for each in ranges:
        if batch and rows + each.rows_max > ROWS_PER_READ:
            yield batch
            batch, rows = [], 0
        batch.append(each)
        rows += each.rows_max
    if batch:
        yield batch


# Queries on the source. The empty string precedes every key.


def page_sessions(after: str = "") -> Query[list[Session]]:
    """The sessions that follow an id."""
    return Query("page_sessions", {"after": after, "limit": ROWS_PER_READ}, read_sessions)


def page_runs(after_session: str = "", after: str = "") -> Query[list[Run]]:
    """The runs that follow a session id and a run id."""
    params = {"after_session": after_session, "after": after, "limit": ROWS_PER_READ}
    return Query("page_runs", params, read_runs)


def page_artifacts(after: str = "") -> Query[list[Artifact]]:
    """The artifacts that follow an id, also soft-deleted ones."""
    return Query("page_artifacts", {"after": after, "limit": ROWS_PER_READ}, read_artifacts)


def page_counters(after: str = "") -> Query[list[SessionCounter]]:
    """The counters above 0 that follow a session id."""
    return Query(
        "page_counters",
        {"after": after, "limit": ROWS_PER_BATCH},
        lambda rows: [(session_id, SequenceCounter(last, pruned)) for session_id, last, pruned in rows],
    )


def identify_store() -> Query[tuple[str, str, int | None]]:
    """The server, the database and the table of a store."""
    return Query("identify_store", {}, lambda rows: (rows[0][0], rows[0][1], rows[0][2]))


def find_events_between(ranges: Sequence[EventRange]) -> Query[list[Event]]:
    """The first events of each range."""
    params = {
        "session_ids": [each.session_id for each in ranges],
        "after_sequences": [each.after for each in ranges],
        "last_sequences": [each.last for each in ranges],
        "limit": ROWS_PER_READ,
    }
    return Query("find_events_between", params, read_events)
