"""Appending events in order, once each, with the row of their session if it is given.

The counter row of a session is the lock of its events. A transaction that advances it holds it until
it commits, so events become visible in the order of their numbers, and a reader that has seen number n
can read every event up to n.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

from asm.documents import dump, load
from asm.engine.script import Batchable, Pipeline, Query, Rows, Script, UnitOfWork, no_result
from asm.errors import SequenceConflict, ValidationError, counter_at_end
from asm.models import Event, Session
from asm.operations.encoding import (
    EncodedEvent,
    EncodedSession,
    Key,
    attach,
    encoded,
    event_columns,
    session_columns,
)
from asm.operations.events import get_latest_sequence, lock_counters, read_events
from asm.validation import INTEGER_MAX, optional_count

EVENTS_PER_STATEMENT = 500
"""A larger batch is sent as several statements in one pipeline: the server inserts the events of one
while the next is encoded."""

BYTES_PER_STATEMENT = 32 * 1024 * 1024
"""The JSON in one statement, at most; a single larger event has a statement of its own."""

StoredEvents: TypeAlias = dict[Key, Event]

Merged: TypeAlias = "dict[Key | Query[Any], Any]"
"""Stored events, and the results of the queries that followed them."""

T = TypeVar("T")


def append_event(
    event: Event, *, expected_sequence: int | None = None, session: Session | None = None
) -> Batchable[Event] | UnitOfWork[Event]:
    """Append one event, durably, and return it with its sequence number.

    An event whose id the session has already is not appended again: the stored one is returned.
    With `expected_sequence=n` it is appended only if the session stands at exactly n, else
    SequenceConflict; an event that is stored already counts as appended.

    With `session`, which must be the event's, the row of the session is inserted in the same
    transaction if it is absent. If it exists, only its `updated_at` moves, to that of `session` if that
    is later. This takes no further round trip.
    """
    if not isinstance(event, Event):
        raise ValidationError(f"append_event takes an Event, not {type(event).__name__}")
    new = EncodedEvent(event)
    if session is not None:
        attach(session, [new], "append_event")
    if expected_sequence is not None:
        expected = optional_count(expected_sequence, "expected_sequence")
        return UnitOfWork(lambda: _only(append_idempotently([new], expected)), sessions=(new.session_id,))
    return Batchable(
        (new,),
        _merge,
        itemgetter(new.key),
        lambda: _only(append_idempotently([new])),
        sessions=(new.session_id,),
        size_bytes=new.size_bytes,
    )


def append_events(
    events: Iterable[Event], *, expected_sequence: int | None = None, session: Session | None = None
) -> Query[list[Event]] | Batchable[list[Event]] | UnitOfWork[list[Event]] | Pipeline[list[Event]]:
    """Append events as one block, all or none, in the order given; any number, for any sessions.

    Events that are stored already are returned as they are stored. With `expected_sequence` or
    `session` all events must be of one session, and both work as in `append_event`. With `session` and
    no events, only the row of the session is inserted or moved.
    """
    batch = encoded(events, "append_events")
    expected = optional_count(expected_sequence, "expected_sequence")
    if session is not None:
        ensured = attach(session, batch, "append_events")
        if not batch:
            return ensure_sessions([ensured])
    sessions = tuple(sorted({new.session_id for new in batch}))
    if expected is not None and len(sessions) > 1:
        raise ValidationError(
            f"expected_sequence is the number of one session, and the events are of {len(sessions)}: "
            "append the events of each session by themselves"
        )
    size_bytes = sum([new.size_bytes for new in batch])
    if expected is not None or not batch:
        return UnitOfWork(partial(append_idempotently, batch, expected), sessions=sessions)
    if len(batch) > EVENTS_PER_STATEMENT or size_bytes > BYTES_PER_STATEMENT:
        return append_pipeline(batch, partial(append_idempotently, batch), _ensure(batch))
    return Batchable(
        batch,
        _merge,
        lambda stored: [stored[new.key] for new in batch],
        partial(append_idempotently, batch),
        sessions=sessions,
        size_bytes=size_bytes,
    )


class Results(NamedTuple):
    """What an append and the queries that follow it return."""

    events: list[Event]
    more: Sequence[Any]


def append_followed_by(
    batch: Sequence[EncodedEvent],
    more: Sequence[Query[Any]],
    script: Callable[[], Script[Results]],
    read: Callable[[Results], T],
    *,
    guard: Query[None] | None = None,
) -> Batchable[T]:
    """Append new events of one session, and send `more` after them in the same transaction.

    Those of many callers share a transaction, as appends do, and the last statement of it is one for all
    their guards, whose values are columns. If any of it fails, each caller's are sent by themselves, and
    `script` takes the place of those that fail alone.
    """
    batch[0].more, batch[0].guard = more, guard

    def merge(items: Sequence[EncodedEvent]) -> Query[Any] | Pipeline[Any]:
        if len(items) > len(batch):
            return _merge(items)
        following = [*_ensure(batch), *more, *_merged_guards(batch)]
        alone = append_pipeline(batch, partial(append_idempotently, batch), following)

        def read_all(results: list[Any]) -> Results:
            return Results(alone.read(results), results[alone.size - len(following) :][: len(more)])

        return Pipeline(alone.queries, read_all, script, size=alone.size, sessions=alone.sessions)

    def extract(merged: Results | Merged) -> T:
        if isinstance(merged, Results):
            return read(merged)
        return read(Results([merged[new.key] for new in batch], [merged[query] for query in more]))

    def unbatched() -> Script[T]:
        return read((yield from script()))

    texts = (value for query in more for value in query.params.values() if isinstance(value, str))
    size_bytes = sum([new.size_bytes for new in batch]) + sum(map(len, texts))
    sessions = (batch[0].session_id,)
    return Batchable(batch, merge, extract, unbatched, sessions=sessions, size_bytes=size_bytes)


def ensure_sessions(sessions: Iterable[EncodedSession]) -> Query[list[Event]]:
    """Insert the sessions that are absent, and move `updated_at` of the others. Returns no events."""
    return Query("ensure_sessions", session_columns(sessions), read_events)


def _ensure(batch: Iterable[EncodedEvent]) -> list[Query[list[Event]]]:
    """The query that ensures the sessions given with the events of a batch, if there are any."""
    sessions = _ensured(batch)
    return [ensure_sessions(sessions)] if sessions else []


def _ensured(batch: Iterable[EncodedEvent]) -> list[EncodedSession]:
    return [new.ensured for new in batch if new.ensured is not None]


def append_pipeline(
    batch: Sequence[EncodedEvent],
    on_conflict: Callable[[], Script[list[Event]]],
    more: Sequence[Query[Any]] = (),
) -> Pipeline[list[Event]]:
    """Append new events in as many statements as they need, and send `more` after them."""
    distinct = _distinct(batch)
    chunks = list(_chunks(distinct))
    sessions = sorted({new.session_id for new in distinct})
    # All counters are locked first, in one order, so that two batches cannot deadlock.
    locks = [lock_counters(sessions)] if len(chunks) > 1 and len(sessions) > 1 else []

    def queries() -> Iterator[Query[Any]]:
        yield from locks
        yield from map(_append_many, chunks)
        yield from more

    def read(results: list[Any]) -> list[Event]:
        stored: StoredEvents = {}
        for of_chunk in results[len(locks) : len(locks) + len(chunks)]:
            stored.update(of_chunk)
        return [stored[new.key] for new in batch]

    size = len(locks) + len(chunks) + len(more)
    return Pipeline(queries, read, on_conflict, size=size, sessions=sessions)


def _merge(batch: Sequence[EncodedEvent]) -> Query[StoredEvents] | Pipeline[Merged]:
    """One statement for events that are new, as most are; append_idempotently for others."""
    if len(batch) > 1:
        query = _append_many(_distinct(batch), _ensured(batch))
        if followed := [new for new in batch if new.more or new.guard]:
            return _followed(query, batch, followed)
    else:
        (new,) = batch
        name, params = "append_event", new.params()
        if new.ensured is not None:
            name = "append_event_with_session"
            params.update(new.ensured.values)
        query = Query(name, params, lambda rows: {new.key: new.with_sequence_number(rows[0][0])})
    query.on_conflict = partial(_append_by_key, batch)
    return query


def _followed(
    query: Query[StoredEvents], batch: Sequence[EncodedEvent], followed: Sequence[EncodedEvent]
) -> Pipeline[Merged]:
    """The statement of a batch, and what follows it. If any of it fails, the batch is divided."""
    # In the order of the sessions, so that two batches cannot deadlock.
    more = [each for new in sorted(followed, key=attrgetter("session_id")) for each in new.more]
    more += _merged_guards(followed)

    def read(results: list[Any]) -> Merged:
        return {**results[0], **dict(zip(more, results[1:], strict=True))}

    sessions = tuple({new.session_id for new in batch})
    return Pipeline(lambda: [query, *more], read, None, size=1 + len(more), sessions=sessions)


def _merged_guards(batch: Iterable[EncodedEvent]) -> list[Query[None]]:
    """One query for all the guards of a batch, if there are any."""
    guards = [new.guard for new in batch if new.guard is not None]
    if len(guards) < 2:
        return guards
    columns = {name: [value for guard in guards for value in guard.params[name]] for name in guards[0].params}
    return [Query(guards[0].query, columns, no_result)]


def _append_by_key(batch: Sequence[EncodedEvent]) -> Script[StoredEvents]:
    stored = yield from append_idempotently(batch, check=_check_counters)
    return {new.key: event for new, event in zip(batch, stored, strict=True)}


def _append_many(
    batch: Sequence[EncodedEvent], sessions: Sequence[EncodedSession] = ()
) -> Query[StoredEvents]:
    """One statement for new events, each once. An event that is stored already fails it."""
    counters = Counter([new.session_id for new in batch])
    offsets = _offsets_from_last(batch, counters)

    def read(rows: Rows) -> StoredEvents:
        # One document of all sessions; on distributed tables a row for each.
        last = load(rows[0][0]) if len(rows[0]) == 1 else dict(rows)
        return {
            new.key: new.with_sequence_number(last[new.session_id] - offset)
            for new, offset in zip(batch, offsets, strict=True)
        }

    params = {
        "counters": dump(dict(counters), "counters"),
        "offsets_from_last": offsets,
        **event_columns(batch),
    }
    if sessions:
        params.update(session_columns(sessions))
    return Query("append_events_with_sessions" if sessions else "append_events", params, read)


def _offsets_from_last(batch: Sequence[EncodedEvent], counters: Counter[str]) -> list[int]:
    """How far each event is from the last one of its session in the batch."""
    remaining = dict(counters)
    offsets = []
    for new in batch:
        remaining[new.session_id] -= 1
        offsets.append(remaining[new.session_id])
    return offsets


def append_idempotently(
    batch: Sequence[EncodedEvent],
    expected: int | None = None,
    *,
    check: Callable[[Sequence[EncodedEvent]], Script[None]] | None = None,
) -> Script[list[Event]]:
    """Lock the counters, find the events that are stored, append the others, ensure the sessions.

    `check` is given the events to append before they are sent.
    """
    if not batch:
        return []
    distinct = _distinct(batch)
    empty = yield from lock_counters(new.session_id for new in batch)
    stored: StoredEvents = {}
    for chunk in _chunks([new for new in distinct if new.session_id not in empty]):
        stored.update((yield from _find(chunk)))
    missing = [new for new in distinct if new.key not in stored]
    if expected is not None and missing:
        latest = yield from get_latest_sequence(batch[0].session_id)
        _check_expected(expected, latest, stored.values(), batch[0].session_id)
    if check is not None and missing:
        yield from check(missing)
    for chunk in _chunks(missing):
        stored.update((yield from _append_many(chunk)))
    for query in _ensure(batch):
        yield from query
    return [stored[new.key] for new in batch]


def _distinct(batch: Iterable[EncodedEvent]) -> list[EncodedEvent]:
    """Each event once: of several with one id, the first."""
    distinct: dict[Key, EncodedEvent] = {}
    for new in batch:
        distinct.setdefault(new.key, new)
    return list(distinct.values())


def _find(batch: Sequence[EncodedEvent]) -> Query[StoredEvents]:
    params = {"session_ids": [new.session_id for new in batch], "ids": [new.event.id for new in batch]}
    return Query(
        "find_events",
        params,
        lambda rows: {(event.session_id, event.id): event for event in read_events(rows)},
    )


def _check_expected(expected: int, latest: int, stored: Iterable[Event], session_id: str) -> None:
    """SequenceConflict unless the session stood at `expected` before the batch's own stored events."""
    own = sum(1 for event in stored if (event.sequence_number or 0) > expected)
    if latest - own != expected:
        raise SequenceConflict(
            f"session {session_id!r} is at sequence number {latest}, not at the expected {expected}: "
            "read the events in between and decide again",
            session_id=session_id,
            expected_sequence=expected,
            latest_sequence=latest,
        )


def _check_counters(batch: Sequence[EncodedEvent]) -> Script[None]:
    """Raise Conflict if a session has fewer sequence numbers left than it has events in the batch.

    Called only after a statement has failed: the check takes a query, and no session gives so many numbers
    by appends.
    """
    numbers = Counter([new.session_id for new in batch])
    last = yield from Query("find_counters", {"session_ids": tuple(numbers)}, _read_last)
    full = [id for id, number in numbers.items() if last.get(id, 0) > INTEGER_MAX - number]
    if full:
        raise counter_at_end(full)


def _read_last(rows: Rows) -> dict[str, int]:
    return {session_id: last_sequence for session_id, last_sequence, *_ in rows}


def _only(script: Script[list[Event]]) -> Script[Event]:
    events = yield from script
    return events[0]


def _chunks(batch: Sequence[EncodedEvent]) -> Iterator[list[EncodedEvent]]:
    """The parts of a batch, each for one statement."""
    chunk: list[EncodedEvent] = []
    size_bytes = 0
    for new in batch:
        is_full = len(chunk) == EVENTS_PER_STATEMENT or size_bytes + new.size_bytes > BYTES_PER_STATEMENT
        if chunk and is_full:
            yield chunk
            chunk, size_bytes = [], 0
        chunk.append(new)
        size_bytes += new.size_bytes
    if chunk:
        yield chunk
