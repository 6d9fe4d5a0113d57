"""Appending events in order, once each.

The counter row of a session is the lock of its events. A transaction that advances it holds it until
it commits, so events become visible in the order of their numbers, and a reader who has seen number n
can read every event up to n.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

from asm.documents import dump, load
from asm.engine.script import Batchable, Pipeline, Query, Rows, Script, UnitOfWork
from asm.errors import SequenceConflict, ValidationError
from asm.models import Event, event_from_row
from asm.operations.events import get_latest_sequence, lock_counters, read_events
from asm.validation import is_collection, optional_count

EVENTS_PER_STATEMENT = 500
"""A larger batch is sent as several statements in one pipeline: the server inserts the events of one
while the next is encoded."""

BYTES_PER_STATEMENT = 32 * 1024 * 1024
"""The JSON in one statement, at most; a single larger event has a statement of its own."""

Key: TypeAlias = tuple[str, str]
"""An event's session and its id."""

StoredEvents: TypeAlias = dict[Key, Event]


def append_event(
    event: Event, *, expected_sequence: int | None = None
) -> Batchable[Event] | UnitOfWork[Event]:
    """Append one event, durably, and return it with its sequence number.

    An event whose id the session has already is not appended again: the stored one is returned.
    With `expected_sequence=n` it is appended only if the session stands at exactly n, else
    SequenceConflict; an event that is stored already counts as appended.
    """
    if not isinstance(event, Event):
        raise ValidationError(f"append_event takes an Event, not {type(event).__name__}")
    new = EncodedEvent(event)
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
    events: Iterable[Event], *, expected_sequence: int | None = None
) -> Batchable[list[Event]] | UnitOfWork[list[Event]] | Pipeline[list[Event]]:
    """Append events as one block, all or none, in the order given; any number, for any sessions.

    Events that are stored already are returned as they are stored. With `expected_sequence` all
    events must be of one session, and it works as in `append_event`.
    """
    batch = encoded(events, "append_events")
    expected = optional_count(expected_sequence, "expected_sequence")
    sessions = tuple(sorted({new.session_id for new in batch}))
    if expected is not None and len(sessions) > 1:
        raise ValidationError(
            f"expected_sequence is the number of one session, and the events are of {len(sessions)}: "
            "append the events of each session by themselves"
        )
    size_bytes = sum(new.size_bytes for new in batch)
    if expected is not None or not batch:
        return UnitOfWork(partial(append_idempotently, batch, expected), sessions=sessions)
    if len(batch) > EVENTS_PER_STATEMENT or size_bytes > BYTES_PER_STATEMENT:
        return append_pipeline(batch, partial(append_idempotently, batch))
    return Batchable(
        batch,
        _merge,
        lambda stored: [stored[new.key] for new in batch],
        partial(append_idempotently, batch),
        sessions=sessions,
        size_bytes=size_bytes,
    )


class EncodedEvent:
    """An event to append, with its documents as JSON text. Encoding is the last check of them."""

    __slots__ = ("data", "event", "key", "metadata", "session_id", "size_bytes")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.session_id = event.session_id
        self.key: Key = (event.session_id, event.id)
        self.data = dump(event.data, "data") if event.data else "{}"
        self.metadata = dump(event.metadata, "metadata") if event.metadata else "{}"
        self.size_bytes = len(self.data) + len(self.metadata)

    def params(self) -> dict[str, Any]:
        event = self.event
        return {
            "id": event.id,
            "type": str(event.type),
            "timestamp": event.timestamp,
            "session_id": event.session_id,
            "run_id": event.run_id,
            "data": self.data,
            "metadata": self.metadata,
            "schema_version": event.schema_version,
            "provider": event.provider,
            "correlation_id": event.correlation_id,
        }

    def with_sequence_number(self, sequence_number: int) -> Event:
        """The event as it is stored."""
        event = self.event
        return event_from_row(
            event.id,
            event.type,
            event.timestamp,
            event.session_id,
            event.run_id,
            sequence_number,
            event.data,
            event.metadata,
            event.schema_version,
            event.provider,
            event.correlation_id,
        )


def encoded(events: Iterable[Any], caller: str) -> list[EncodedEvent]:
    """The events that a caller gave to an operation, ready to append."""
    if not is_collection(events):
        raise ValidationError(f"{caller} takes a list of Event, not {type(events).__name__}")
    batch = []
    for index, event in enumerate(events):
        if not isinstance(event, Event):
            kind = type(event).__name__
            raise ValidationError(f"{caller} takes a list of Event, but events[{index}] is of type {kind}")
        batch.append(EncodedEvent(event))
    return batch


def append_pipeline(
    batch: Sequence[EncodedEvent],
    on_conflict: Callable[[], Script[list[Event]]],
    more: Sequence[Query[None]] = (),
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


def _merge(batch: Sequence[EncodedEvent]) -> Query[StoredEvents]:
    """One statement for events that are new, as most are; append_idempotently for others."""
    if len(batch) > 1:
        query = _append_many(_distinct(batch))
    else:
        (new,) = batch
        query = Query(
            "append_event", new.params(), lambda rows: {new.key: new.with_sequence_number(rows[0][0])}
        )
    query.on_conflict = partial(_append_by_key, batch)
    return query


def _append_by_key(batch: Sequence[EncodedEvent]) -> Script[StoredEvents]:
    stored = yield from append_idempotently(batch)
    return {new.key: event for new, event in zip(batch, stored, strict=True)}


def _append_many(batch: Sequence[EncodedEvent]) -> Query[StoredEvents]:
    """One statement for new events, each once. An event that is stored already fails it."""
    counters = Counter([new.session_id for new in batch])
    offsets = _offsets_from_last(batch, counters)

    def read(rows: Rows) -> StoredEvents:
        last = load(rows[0][0])
        return {
            new.key: new.with_sequence_number(last[new.session_id] - offset)
            for new, offset in zip(batch, offsets, strict=True)
        }

    params = {"counters": dump(dict(counters), "counters"), "offsets_from_last": offsets, **_columns(batch)}
    return Query("append_events", params, read)


def _offsets_from_last(batch: Sequence[EncodedEvent], counters: Counter[str]) -> list[int]:
    """How far each event is from the last one of its session in the batch."""
    remaining = dict(counters)
    offsets = []
    for new in batch:
        remaining[new.session_id] -= 1
        offsets.append(remaining[new.session_id])
    return offsets


def _columns(batch: Sequence[EncodedEvent]) -> dict[str, list[Any]]:
    events = [new.event for new in batch]
    return {
        "ids": [event.id for event in events],
        "types": [str(event.type) for event in events],
        "timestamps": [event.timestamp for event in events],
        "session_ids": [event.session_id for event in events],
        "run_ids": [event.run_id for event in events],
        "data_list": [new.data for new in batch],
        "metadata_list": [new.metadata for new in batch],
        "schema_versions": [event.schema_version for event in events],
        "providers": [event.provider for event in events],
        "correlation_ids": [event.correlation_id for event in events],
    }


def append_idempotently(batch: Sequence[EncodedEvent], expected: int | None = None) -> Script[list[Event]]:
    """Lock the counters, find the events that are stored, append the others."""
    if not batch:
        return []
    distinct = _distinct(batch)
    yield from lock_counters(new.session_id for new in batch)
    stored: StoredEvents = {}
    for chunk in _chunks(distinct):
        stored.update((yield from _find(chunk)))
    missing = [new for new in distinct if new.key not in stored]
    if expected is not None and missing:
        latest = yield from get_latest_sequence(batch[0].session_id)
        _check_expected(expected, latest, stored.values(), batch[0].session_id)
    for chunk in _chunks(missing):
        stored.update((yield from _append_many(chunk)))
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
