"""What can be asked about events: appending them in order, once each, and reading them back.

The counter row of a session is the lock and the clock of its events. Whoever moves it holds
it until the commit, so numbers are taken in the order in which they become visible, and a
reader who has seen number n can read everything up to n.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

import orjson

from asm.documents import FIRST_UNMARKED, dump, dump_object, load
from asm.engine.script import Batchable, Pipeline, Query, Row, Rows, Script, UnitOfWork, one_or_many
from asm.errors import SequenceConflict, ValidationError
from asm.models import EVENT_TYPES, Event, EventType, event_from_row, event_type
from asm.validation import (
    is_collection,
    not_too_many,
    optional_count,
    optional_text,
    optional_utc_datetime,
    text,
)

EVENTS_PER_STATEMENT = 500
"""A larger batch goes in several statements of one trip: the server inserts one while the next is packed."""

BYTES_PER_STATEMENT = 32 * 1024 * 1024
"""So much JSON in one statement; a single larger event goes alone."""

Key: TypeAlias = tuple[str, str]
Stored: TypeAlias = dict[Key, Event]
"""What is stored of the events that came in."""
Types: TypeAlias = "EventType | str | Iterable[EventType | str]"


def append_event(
    event: Event, *, expected_sequence: int | None = None
) -> Batchable[Event] | UnitOfWork[Event]:
    """Append one event, durably, and return it with its sequence number.

    An event whose id the session has already is not appended again: the stored one comes
    back. With `expected_sequence=n` it is appended only if the session stands at exactly n,
    else SequenceConflict; an event that is there already counts as appended.
    """
    new = EncodedEvent(event)
    expected = optional_count(expected_sequence, "expected_sequence")
    if expected is not None:
        return UnitOfWork(lambda: _first(append_idempotently([new], expected)), sessions=(new.session_id,))
    return Batchable(
        (new,),
        _merge,
        lambda stored: stored[new.key],
        lambda: _first(append_idempotently([new])),
        sessions=(new.session_id,),
        size_bytes=new.size_bytes,
    )


def append_events(
    events: Iterable[Event], *, expected_sequence: int | None = None
) -> Batchable[list[Event]] | UnitOfWork[list[Event]] | Pipeline[list[Event]]:
    """Append events as one block, all or none, in the order given; any number, for any sessions.

    Events that are there already come back as they are stored. `expected_sequence` wants
    all events to be of one session, and works as in `append_event`.
    """
    batch = [EncodedEvent(event) for event in check_iterable(events)]
    expected = optional_count(expected_sequence, "expected_sequence")
    sessions = tuple(sorted({new.session_id for new in batch}))
    if expected is not None and len(sessions) > 1:
        raise ValidationError("expected_sequence is about one session, and these events are of several")
    if expected is not None or not batch:
        return UnitOfWork(partial(append_idempotently, batch, expected), sessions=sessions)
    if len(batch) > EVENTS_PER_STATEMENT or sum(new.size_bytes for new in batch) > BYTES_PER_STATEMENT:
        return volley(batch, partial(append_idempotently, batch))
    return Batchable(
        batch,
        _merge,
        lambda stored: [stored[new.key] for new in batch],
        partial(append_idempotently, batch),
        sessions=sessions,
        size_bytes=sum(new.size_bytes for new in batch),
    )


def get_events(
    session_id: str,
    *,
    run_id: str | None = None,
    type: Types | None = None,
    since: datetime | None = None,
    after: int | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> Query[list[Event]]:
    """The events of a session in their order.

    `after` and `before` are sequence numbers, exclusive; `since` is a time, inclusive;
    `type` is one or several. `limit=0` gives nothing.
    """
    params = {
        "session_id": text(session_id, "session_id"),
        "run_id": optional_text(run_id, "run_id"),
        **one_or_many("type", "types", types(type)),
        "since": optional_utc_datetime(since, "since"),
        "after": optional_count(after, "after"),
        "before": optional_count(before, "before"),
        "limit": optional_count(limit, "limit"),
    }
    return Query("get_events", params, read_events)


def get_latest_sequence(session_id: str) -> Query[int]:
    """The number of the session's last event, 0 when there is none."""
    params = {"session_id": text(session_id, "session_id")}
    return Query("get_latest_sequence", params, lambda rows: rows[0][0] if rows else 0)


def lock_counters(session_ids: Iterable[str]) -> Query[dict[str, int]]:
    """Where these sessions stand, held still until the transaction ends."""
    return Query("lock_counters", {"session_ids": sorted(set(session_ids))}, dict)


class EncodedEvent:
    """An event on its way in, its documents spelled out, which is also their last check."""

    __slots__ = ("data", "event", "key", "metadata", "session_id", "size_bytes")

    def __init__(self, event: Event) -> None:
        # Not by `isinstance`: a mock of an event says that it is one.
        if not issubclass(type(event), Event):
            raise ValidationError(f"an Event is what can be appended, not {type(event).__name__}")
        self.event = event
        self.session_id = event.session_id
        self.key: Key = (event.session_id, event.id)
        self.data = dump_object(event.data, "data")
        self.metadata = dump_object(event.metadata, "metadata")
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

    def numbered(self, sequence_number: int) -> Event:
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


def _merge(batch: Sequence[EncodedEvent]) -> Query[Stored]:
    """One statement for events that are all new, as they mostly are; else the careful plan."""
    ask = _optimistic(_distinct(batch)) if len(batch) > 1 else _one(batch[0])
    ask.on_conflict = lambda: _settled(batch)
    return ask


def volley(
    batch: Sequence[EncodedEvent],
    on_conflict: Callable[[], Script[list[Event]]],
    more: Sequence[Query[None]] = (),
) -> Pipeline[list[Event]]:
    """Statements that bet on all events being new, and more behind them, in one trip."""
    distinct = _distinct(batch)
    pieces = list(_chunks(distinct))
    sessions = sorted({new.session_id for new in distinct})
    # All counters first, in one order, so that two batches cannot wait for each other.
    locks = [lock_counters(sessions)] if len(pieces) > 1 and len(sessions) > 1 else []

    def asks() -> Iterator[Query[Any]]:
        yield from locks
        yield from map(_optimistic, pieces)
        yield from more

    def read(answers: list[Any]) -> list[Event]:
        known: Stored = {}
        for stored in answers[len(locks) : len(locks) + len(pieces)]:
            known.update(stored)
        return [known[new.key] for new in batch]

    size = len(locks) + len(pieces) + len(more)
    return Pipeline(asks, read, on_conflict, size=size, sessions=sessions)


def _settled(batch: Sequence[EncodedEvent]) -> Script[Stored]:
    stored = yield from append_idempotently(batch)
    return {new.key: event for new, event in zip(batch, stored, strict=True)}


def _one(new: EncodedEvent) -> Query[Stored]:
    return Query("append_event", new.params(), lambda rows: {new.key: new.numbered(rows[0][0])})


def _optimistic(batch: Sequence[EncodedEvent]) -> Query[Stored]:
    """One statement for events that are all new, each once. Another's rows of the same ids fail it."""
    counters = Counter([new.session_id for new in batch])
    behind = dict(counters)
    offsets_from_last = []
    for new in batch:
        behind[new.session_id] -= 1
        offsets_from_last.append(behind[new.session_id])

    def read(rows: Rows) -> Stored:
        last = load(rows[0][0])
        return {
            new.key: new.numbered(last[new.session_id] - back)
            for new, back in zip(batch, offsets_from_last, strict=True)
        }

    events = [new.event for new in batch]
    params = {
        "counters": dump(dict(counters), "counters"),
        "ids": [event.id for event in events],
        "types": [str(event.type) for event in events],
        "timestamps": [event.timestamp for event in events],
        "session_ids": [event.session_id for event in events],
        "run_ids": [event.run_id for event in events],
        "steps_from_last": offsets_from_last,
        "datas": [new.data for new in batch],
        "metadatas": [new.metadata for new in batch],
        "schema_versions": [event.schema_version for event in events],
        "providers": [event.provider for event in events],
        "correlation_ids": [event.correlation_id for event in events],
    }
    return Query("append_events", params, read)


def append_idempotently(batch: Sequence[EncodedEvent], expected: int | None = None) -> Script[list[Event]]:
    """Lock the counters, look what is there, append the rest. It never fails on what it finds."""
    if not batch:
        return []
    distinct = _distinct(batch)
    stands = yield from lock_counters(new.session_id for new in batch)
    known: dict[Key, Event] = {}
    for piece in _chunks(distinct):
        known.update((yield from _find(piece)))
    missing = [new for new in distinct if new.key not in known]
    if expected is not None and missing:
        _compare(expected, stands[batch[0].session_id], known.values(), batch[0].session_id)
    for piece in _chunks(missing):
        known.update((yield from _optimistic(piece)))
    return [known[new.key] for new in batch]


def _distinct(batch: Iterable[EncodedEvent]) -> list[EncodedEvent]:
    """Each event once: where an id stands twice, the first is the event."""
    distinct: dict[Key, EncodedEvent] = {}
    for new in batch:
        distinct.setdefault(new.key, new)
    return list(distinct.values())


def _find(batch: Sequence[EncodedEvent]) -> Query[dict[Key, Event]]:
    params = {"session_ids": [new.session_id for new in batch], "ids": [new.event.id for new in batch]}
    return Query(
        "find_events",
        params,
        lambda rows: {(event.session_id, event.id): event for event in read_events(rows)},
    )


def _compare(expected: int, latest: int, known: Iterable[Event], session_id: str) -> None:
    """Whether a session stands where it is expected, events of the batch that are there not counted."""
    ours = sum(1 for event in known if (event.sequence_number or 0) > expected)
    if latest - ours != expected:
        raise SequenceConflict(
            f"session {session_id!r} stands at {latest}, not at {expected}: "
            "read what came in between and decide again",
            session_id=session_id,
            expected_sequence=expected,
            latest_sequence=latest,
        )


def _first(plan: Script[list[Event]]) -> Script[Event]:
    events = yield from plan
    return events[0]


def check_iterable(events: Iterable[Event]) -> Iterable[Event]:
    if not is_collection(events):
        raise ValidationError(f"append_events takes several events, not one {type(events).__name__}")
    return events


def _chunks(batch: Sequence[EncodedEvent]) -> Iterator[list[EncodedEvent]]:
    """A batch in parts that each fit one statement."""
    piece: list[EncodedEvent] = []
    size_bytes = 0
    for new in batch:
        is_full = len(piece) == EVENTS_PER_STATEMENT or size_bytes + new.size_bytes > BYTES_PER_STATEMENT
        if piece and is_full:
            yield piece
            piece, size_bytes = [], 0
        piece.append(new)
        size_bytes += new.size_bytes
    if piece:
        yield piece


def types(value: Any) -> tuple[str, ...] | None:
    """One event type or several, as a set to look for."""
    if value is None:
        return None
    values = value if is_collection(value) else [value]
    return not_too_many(tuple(dict.fromkeys(str(event_type(each)) for each in values)), "type")


def read_event(row: Row) -> Event:
    return read_events([row])[0]


def read_events(rows: Rows) -> list[Event]:
    # In one go, with one call of ours per row, because reads make thousands of them. What sorts
    # behind the mark can be read the quick way.
    known, made, loads, mark = EVENT_TYPES.get, event_from_row, orjson.loads, FIRST_UNMARKED
    return [
        made(
            id,
            known(type, type),
            timestamp,
            session_id,
            run_id,
            number,
            loads(data) if data > mark else load(data),
            {} if metadata == "{}" else load(metadata),
            schema_version,
            provider,
            correlation_id,
        )
        for (
            id,
            type,
            timestamp,
            session_id,
            run_id,
            number,
            data,
            metadata,
            schema_version,
            provider,
            correlation_id,
        ) in rows
    ]
