"""What can be asked across sessions: searches, a page at a time.

A page asks for one row more than it gives, which tells whether there is a next one without
counting. The next page begins behind the last row of the one before, at a place no other row
has, so pages neither skip nor repeat while rows are being added.

None of these questions is prepared: whether a tag is on half of the sessions or on two decides
which index serves, and planning takes less than the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from asm.engine.script import Query, Rows, Script, UnitOfWork, one_or_many, scalar
from asm.errors import ValidationError
from asm.models import Event, Page, Run, RunStatus, Session, SessionStatus, token_counts
from asm.operations import runs, sessions
from asm.operations.cursors import Keyset, Order
from asm.operations.events import Types, read_events
from asm.operations.events import types as event_types
from asm.validation import (
    Texts,
    flag,
    optional_count,
    optional_utc_datetime,
    safe_repr,
    text_filter,
)

T = TypeVar("T")

LIMIT_MAX = 1_000
"""So many items a page may have."""

SessionOrder: TypeAlias = Literal["created_at_asc", "created_at_desc", "updated_at_desc"]
RunOrder: TypeAlias = Literal["started_at_asc", "started_at_desc", "token_usage_desc"]
EventOrder: TypeAlias = Literal["sequence_asc", "timestamp_asc", "timestamp_desc"]


def search_sessions(
    *,
    agent_id: Texts | None = None,
    status: SessionStatus | str | Iterable[SessionStatus | str] | None = None,
    provider: Texts | None = None,
    tags: Texts | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    include_deleted: bool = False,
    order_by: SessionOrder = "updated_at_desc",
    limit: int = 50,
    cursor: str | None = None,
    count_total: bool = False,
) -> Query[Page[Session]] | UnitOfWork[Page[Session]]:
    """A page of sessions, soft-deleted ones only when asked for.

    Each filter takes one value or several, any of which will do, but for `tags`, which must all be
    there; [] finds nothing. `provider` is that of any run of the session. Created from
    `created_after` (inclusive) to `created_before` (exclusive).

    `order_by` is created_at_asc, created_at_desc or updated_at_desc, `limit` 1 to 1,000. The page's
    `cursor` asks for what follows, and is None on the last; InvalidCursor in another order. With
    `count_total` the page tells how many sessions there are on all pages together.
    """
    filters = _filters(
        one_or_many("agent_id", "agent_ids", text_filter(agent_id, "agent_id")),
        one_or_many("status", "statuses", sessions.statuses(status)),
        {
            "providers": text_filter(provider, "provider"),
            "tags": text_filter(tags, "tags"),
            "created_after": optional_utc_datetime(created_after, "created_after"),
            "created_before": optional_utc_datetime(created_before, "created_before"),
            "only_live": None if flag(include_deleted, "include_deleted") else True,
        },
    )
    order = _order(order_by, SESSION_ORDERS)
    page = _page("search_sessions", filters, order, limit, cursor, sessions.read_sessions)
    if not flag(count_total, "count_total"):
        return page
    return UnitOfWork(
        partial(_counted, page, Query("count_sessions", filters, scalar, prepare=False)), snapshot=True
    )


def search_runs(
    *,
    session_id: Texts | None = None,
    provider: Texts | None = None,
    status: RunStatus | str | Iterable[RunStatus | str] | None = None,
    started_after: datetime | None = None,
    started_before: datetime | None = None,
    min_tokens: int | None = None,
    order_by: RunOrder = "started_at_desc",
    limit: int = 50,
    cursor: str | None = None,
) -> Query[Page[Run]]:
    """A page of runs across sessions.

    Each filter takes one value or several, any of which will do; [] finds nothing. Started from
    `started_after` (inclusive) to `started_before` (exclusive), with at least `min_tokens` in total;
    a run that tells of no tokens has 0.

    `order_by` is started_at_asc, started_at_desc or token_usage_desc, `limit` 1 to 1,000. The page's
    `cursor` asks for what follows, and is None on the last; InvalidCursor in another order.
    """
    filters = _filters(
        one_or_many("session_id", "session_ids", text_filter(session_id, "session_id")),
        one_or_many("provider", "providers", text_filter(provider, "provider")),
        one_or_many("status", "statuses", runs.statuses(status)),
        {
            "started_after": optional_utc_datetime(started_after, "started_after"),
            "started_before": optional_utc_datetime(started_before, "started_before"),
            "min_tokens": optional_count(min_tokens, "min_tokens"),
        },
    )
    return _page("search_runs", filters, _order(order_by, RUN_ORDERS), limit, cursor, runs.read_runs)


def search_events(
    *,
    session_ids: Texts | None = None,
    run_ids: Texts | None = None,
    types: Types | None = None,
    providers: Texts | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    correlation_id: Texts | None = None,
    order_by: EventOrder = "sequence_asc",
    limit: int = 100,
    cursor: str | None = None,
) -> Query[Page[Event]]:
    """A page of events across sessions.

    Each filter takes one value or several, any of which will do; [] finds nothing. Events with a
    timestamp from `since` (inclusive) to `until` (exclusive).

    `order_by` is sequence_asc (by session, then by sequence number), timestamp_asc or timestamp_desc,
    `limit` 1 to 1,000. The page's `cursor` asks for what follows, and is None on the last;
    InvalidCursor in another order.
    """
    filters = _event_filters(session_ids, run_ids, types, providers, since, until, correlation_id)
    return _page("search_events", filters, _order(order_by, EVENT_ORDERS), limit, cursor, read_events)


def count_events(
    *,
    session_ids: Texts | None = None,
    run_ids: Texts | None = None,
    types: Types | None = None,
    providers: Texts | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    correlation_id: Texts | None = None,
) -> Query[int]:
    """How many events `search_events` finds with the same filters, on all pages together."""
    filters = _event_filters(session_ids, run_ids, types, providers, since, until, correlation_id)
    return Query("count_events", filters, scalar, prepare=False)


# Pages.


def _page(
    query: str,
    filters: Mapping[str, Any],
    order: Order[T],
    limit: int,
    cursor: str | None,
    read: Callable[[Rows], list[T]],
) -> Query[Page[T]]:
    limit = _limit(limit)

    def read_page(rows: Rows) -> Page[T]:
        items = read(rows[:limit])
        return Page(items=items, cursor=order.cursor(items[-1]) if len(rows) > limit else None)

    params = {**filters, order.name: True, **order.after(cursor), "limit": limit + 1}
    return Query(query, params, read_page, prepare=False)


def _counted(page: Query[Page[T]], total: Query[int]) -> Script[Page[T]]:
    found = yield from page
    return replace(found, total_count=(yield from total))


def _limit(value: Any) -> int:
    if isinstance(value, int) and type(value) is not bool and 1 <= (limit := int(value)) <= LIMIT_MAX:
        return limit
    raise ValidationError(f"limit must be a whole number from 1 to {LIMIT_MAX:,}", path="limit")


# Orders: what makes a row's place its own, under the names that the queries have for it.


def _order(name: Any, orders: Iterable[Order[T]]) -> Order[T]:
    for order in orders:
        if order.name == name:
            return order
    known = ", ".join(order.name for order in orders)
    raise ValidationError(f"{safe_repr(name)} is no order; known are {known}", path="order_by")


def _creation(session: Session) -> Keyset:
    return {"last_at": session.created_at, "last_id": session.id}


def _update(session: Session) -> Keyset:
    return {"last_at": session.updated_at, "last_id": session.id}


def _start(run: Run) -> Keyset:
    return {"last_at": run.started_at, "last_session": run.session_id, "last_id": run.id}


def _usage(run: Run) -> Keyset:
    tokens = token_counts(run.token_usage)["total_tokens"] or 0
    return {"last_tokens": tokens, "last_session": run.session_id, "last_id": run.id}


def _number(event: Event) -> Keyset:
    return {"last_session": event.session_id, "last_sequence": event.sequence_number or 0}


def _time(event: Event) -> Keyset:
    return {"last_at": event.timestamp, **_number(event)}


SESSION_ORDERS = (
    Order("sessions", "created_at_asc", ("last_at", "last_id"), _creation),
    Order("sessions", "created_at_desc", ("last_at", "last_id"), _creation),
    Order("sessions", "updated_at_desc", ("last_at", "last_id"), _update),
)
RUN_ORDERS = (
    Order("runs", "started_at_asc", ("last_at", "last_session", "last_id"), _start),
    Order("runs", "started_at_desc", ("last_at", "last_session", "last_id"), _start),
    Order("runs", "token_usage_desc", ("last_tokens", "last_session", "last_id"), _usage),
)
EVENT_ORDERS = (
    Order("events", "sequence_asc", ("last_session", "last_sequence"), _number),
    Order("events", "timestamp_asc", ("last_at", "last_session", "last_sequence"), _time),
    Order("events", "timestamp_desc", ("last_at", "last_session", "last_sequence"), _time),
)


# Filters.


def _event_filters(
    session_ids: Texts | None,
    run_ids: Texts | None,
    types: Types | None,
    providers: Texts | None,
    since: datetime | None,
    until: datetime | None,
    correlation_id: Texts | None,
) -> dict[str, Any]:
    return _filters(
        one_or_many("session_id", "session_ids", text_filter(session_ids, "session_ids")),
        one_or_many("run_id", "run_ids", text_filter(run_ids, "run_ids")),
        one_or_many("type", "types", event_types(types)),
        one_or_many("correlation_id", "correlation_ids", text_filter(correlation_id, "correlation_id")),
        {
            "providers": text_filter(providers, "providers"),
            "since": optional_utc_datetime(since, "since"),
            "until": optional_utc_datetime(until, "until"),
        },
    )


def _filters(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """All filters together, and whether one of them leaves nothing to be found."""
    filters = {name: value for part in parts for name, value in part.items()}
    return {**filters, "nothing": True if () in filters.values() else None}
