"""The events of a session: reading one or many."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeAlias

import orjson

from asm.documents import FIRST_UNMARKED, load
from asm.engine.script import Query, Rows, one_or_many
from asm.errors import EventNotFound, ValidationError
from asm.models import EVENT_TYPES, Event, EventType, event_from_row, event_type
from asm.validation import (
    is_collection,
    not_too_many,
    optional_count,
    optional_text,
    optional_utc_datetime,
    safe_repr,
    text,
)

Types: TypeAlias = "EventType | str | Iterable[EventType | str]"


def get_events(
    session_id: str,
    *,
    run_id: str | None = None,
    type: Types | None = None,
    since: datetime | None = None,
    after: int | None = None,
    before: int | None = None,
    limit: int | None = None,
    last: int | None = None,
) -> Query[list[Event]]:
    """The events of a session, in the order of their numbers.

    `after` and `before` are sequence numbers, exclusive; `since` is a time, inclusive;
    `type` is one or several. `limit=0` returns none. `last=n` returns the newest n that match, in the
    same order.
    """
    if limit is not None and last is not None:
        raise ValidationError(
            f"limit={safe_repr(limit)} asks for the first events and last={safe_repr(last)} for the newest: "
            "give one of the two"
        )
    params = {
        "session_id": text(session_id, "session_id"),
        "run_id": optional_text(run_id, "run_id"),
        **one_or_many("type", "types", types(type)),
        "since": optional_utc_datetime(since, "since"),
        "after": optional_count(after, "after"),
        "before": optional_count(before, "before"),
        "limit": optional_count(limit, "limit"),
        "last": optional_count(last, "last"),
        "sequence_asc": True if last is None else None,
        "sequence_desc": None if last is None else True,
    }
    return Query("get_events", params, read_events if last is None else _read_reversed)


def get_event(session_id: str, event_id: str) -> Query[Event]:
    """The event of a session with that id; EventNotFound if there is none."""

    def read(rows: Rows) -> Event:
        if not rows:
            raise EventNotFound(
                f"session {session_id!r} has no event with the id {event_id!r}",
                session_id=session_id,
                event_id=event_id,
            )
        return read_events(rows)[0]

    session_id, event_id = text(session_id, "session_id"), text(event_id, "event_id")
    return Query("get_event", {"session_id": session_id, "id": event_id}, read)


def get_latest_sequence(session_id: str) -> Query[int]:
    """The number of the session's last event, 0 when there is none."""
    params = {"session_id": text(session_id, "session_id")}
    return Query("get_latest_sequence", params, lambda rows: rows[0][0] if rows else 0)


def lock_counters(session_ids: Iterable[str]) -> Query[set[str]]:
    """Lock the counters of sessions until the transaction ends, and create those that are missing.

    Returns the sessions of the missing ones, which have no events.
    """
    params = {"session_ids": sorted(set(session_ids))}
    return Query("lock_counters", params, lambda rows: {row[0] for row in rows})


def types(value: Any) -> tuple[str, ...] | None:
    """The event types of a filter, each once; None is no filter."""
    if value is None:
        return None
    values = value if is_collection(value) else [value]
    return not_too_many(tuple(dict.fromkeys(str(event_type(each)) for each in values)), "type")


def _read_reversed(rows: Rows) -> list[Event]:
    return read_events(rows[::-1])


def read_events(rows: Rows) -> list[Event]:
    # One loop with one call of ours per row, because a read makes thousands of events. A document
    # without the leading space of `documents.dump` needs no more than orjson.
    known, new_event, loads, unmarked = EVENT_TYPES.get, event_from_row, orjson.loads, FIRST_UNMARKED
    return [
        new_event(
            id,
            known(type, type),
            timestamp,
            session_id,
            run_id,
            number,
            loads(data) if data > unmarked else load(data),
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
