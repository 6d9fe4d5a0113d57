"""Searches across sessions, a page at a time or as an iterator over all pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from asm.engine.script import Query, Script, UnitOfWork, one_or_many, scalar
from asm.enums import run_status, session_status, status_filter
from asm.models import Event, Page, Run, RunStatus, Session, SessionStatus
from asm.operations import runs, sessions
from asm.operations.events import Types, read_events
from asm.operations.events import types as event_types
from asm.operations.orders import EVENT_ORDERS as EVENT_ORDERS
from asm.operations.orders import RUN_ORDERS as RUN_ORDERS
from asm.operations.orders import SESSION_ORDERS as SESSION_ORDERS
from asm.operations.orders import find_order
from asm.operations.pages import Search, constant, match_none
from asm.operations.text_queries import parse_text
from asm.operations.text_search import (
    EVENT_RELEVANCE,
    SESSION_RELEVANCE,
    TextSearch,
    event_search,
    session_search,
)
from asm.validation import (
    Texts,
    count,
    flag,
    optional_count,
    optional_utc_datetime,
    tag_filter,
    text_filter,
)

T = TypeVar("T")

LIMIT_MAX = 1_000
"""The items on a page, at most."""

SessionOrder: TypeAlias = Literal[
    "created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc", "relevance"
]
RunOrder: TypeAlias = Literal["started_at_asc", "started_at_desc", "token_usage_desc"]
EventOrder: TypeAlias = Literal["sequence_asc", "timestamp_asc", "timestamp_desc", "relevance"]


def search_sessions(
    *,
    agent_id: Texts | None = None,
    status: SessionStatus | str | Iterable[SessionStatus | str] | None = None,
    provider: Texts | None = None,
    tags: Texts | None = None,
    parent_session_id: Texts | None = None,
    text: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    include_deleted: bool = False,
    order_by: SessionOrder = "updated_at_desc",
    limit: int = 50,
    cursor: str | None = None,
    count_total: bool = False,
) -> Query[Page[Session]] | UnitOfWork[Page[Session]]:
    """A page of sessions, without those that are soft-deleted unless `include_deleted` is true.

    A filter with several values matches any of them, but a session must have all of the `tags`, at most
    1,000; [] matches nothing. `provider` is that of any run of the session, `parent_session_id` finds
    the sessions that were forked from a session, and others saved with it as their parent. The window of
    creation times is `created_after` (inclusive) to `created_before` (exclusive).

    `text` finds the sessions with an event that has words, as in `search_events`. The page's `snippets` are
    of the newest event of each session that has them.

    `order_by` is created_at_asc, created_at_desc, updated_at_asc, updated_at_desc or, with `text`,
    relevance (that of the session's most relevant event), `limit` 1 to 1,000. The page's `cursor`, given
    with the same order, returns the next page; it is None on the last. `count_total` fills the page's
    `total_count`, the number of sessions on all pages together.
    """
    filters = _session_filters(
        agent_id, status, provider, tags, parent_session_id, created_after, created_before, include_deleted
    )
    search = _session_search(filters, text, order_by, _limit(limit))
    page = search.page(cursor)
    if not flag(count_total, "count_total"):
        return page
    total = _count_sessions(search)
    return UnitOfWork(partial(_with_total, page, total), snapshot=True)


def iter_sessions(
    *,
    agent_id: Texts | None = None,
    status: SessionStatus | str | Iterable[SessionStatus | str] | None = None,
    provider: Texts | None = None,
    tags: Texts | None = None,
    parent_session_id: Texts | None = None,
    text: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    include_deleted: bool = False,
    order_by: SessionOrder = "updated_at_desc",
    page_size: int = 1_000,
) -> Search[Session]:
    """All sessions that `search_sessions` finds with the same filters, in the same order.

    They are read `page_size` at a time, 1 to 1,000, each page when its first session is wanted, and no
    connection is held in between. Sessions that are added meanwhile neither hide nor repeat others. A
    session that is updated meanwhile changes its place in the orders by `updated_at`: updated_at_desc
    may miss it and updated_at_asc may return it twice. The orders by `created_at` return it once.
    """
    filters = _session_filters(
        agent_id, status, provider, tags, parent_session_id, created_after, created_before, include_deleted
    )
    return _session_search(filters, text, order_by, _page_size(page_size))


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
) -> Query[Page[Run]] | UnitOfWork[Page[Run]]:
    """A page of runs across sessions.

    A filter with several values matches any of them; [] matches nothing. The window of start times
    is `started_after` (inclusive) to `started_before` (exclusive). A run has at least `min_tokens`
    in total; one without token counts has 0.

    `order_by` is started_at_asc, started_at_desc or token_usage_desc, `limit` 1 to 1,000. The page's
    `cursor`, given with the same order, returns the next page; it is None on the last.
    """
    filters = _run_filters(session_id, provider, status, started_after, started_before, min_tokens)
    return _run_search(filters, order_by, _limit(limit)).page(cursor)


def iter_runs(
    *,
    session_id: Texts | None = None,
    provider: Texts | None = None,
    status: RunStatus | str | Iterable[RunStatus | str] | None = None,
    started_after: datetime | None = None,
    started_before: datetime | None = None,
    min_tokens: int | None = None,
    order_by: RunOrder = "started_at_desc",
    page_size: int = 1_000,
) -> Search[Run]:
    """All runs that `search_runs` finds with the same filters, in the same order.

    They are read `page_size` at a time, 1 to 1,000, each page when its first run is wanted, and no
    connection is held in between. Runs that are added meanwhile neither hide nor repeat others. A run
    that uses tokens meanwhile changes its place in the order token_usage_desc, which may miss it.
    """
    filters = _run_filters(session_id, provider, status, started_after, started_before, min_tokens)
    return _run_search(filters, order_by, _page_size(page_size))


def search_events(
    *,
    session_ids: Texts | None = None,
    run_ids: Texts | None = None,
    types: Types | None = None,
    providers: Texts | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    correlation_id: Texts | None = None,
    text: str | None = None,
    order_by: EventOrder = "sequence_asc",
    limit: int = 100,
    cursor: str | None = None,
) -> Query[Page[Event]] | UnitOfWork[Page[Event]]:
    """A page of events across sessions.

    A filter with several values matches any of them; [] matches nothing. The window of timestamps is
    `since` (inclusive) to `until` (exclusive).

    `text` finds words in the strings of events' data: all of its words, "phrases in quotes", prefixes*, and
    none of the words or phrases after a -minus. Case and accents make no difference. It is a ValidationError
    without the index that `asm migrate --text-search` creates. The page's `snippets` have a line for each
    event.

    `order_by` is sequence_asc (by session, then by sequence number), timestamp_asc, timestamp_desc or, with
    `text`, relevance (the larger the part of an event's words that was sought, the earlier), `limit` 1 to
    1,000. The page's `cursor`, given with the same order, returns the next page; it is
    None on the last.
    """
    filters = _event_filters(session_ids, run_ids, types, providers, since, until, correlation_id)
    return _event_search(filters, text, order_by, _limit(limit)).page(cursor)


def iter_events(
    *,
    session_ids: Texts | None = None,
    run_ids: Texts | None = None,
    types: Types | None = None,
    providers: Texts | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    correlation_id: Texts | None = None,
    text: str | None = None,
    order_by: EventOrder = "sequence_asc",
    page_size: int = 1_000,
) -> Search[Event]:
    """All events that `search_events` finds with the same filters, in the same order.

    They are read `page_size` at a time, 1 to 1,000, each page when its first event is wanted, and no
    connection is held in between. Events that are added meanwhile neither hide nor repeat others.
    """
    filters = _event_filters(session_ids, run_ids, types, providers, since, until, correlation_id)
    return _event_search(filters, text, order_by, _page_size(page_size))


def count_events(
    *,
    session_ids: Texts | None = None,
    run_ids: Texts | None = None,
    types: Types | None = None,
    providers: Texts | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    correlation_id: Texts | None = None,
    text: str | None = None,
) -> Query[int] | UnitOfWork[int]:
    """How many events `search_events` finds with the same filters, on all pages together."""
    filters = _event_filters(session_ids, run_ids, types, providers, since, until, correlation_id)
    if text is not None:
        search = event_search(parse_text(text), filters, EVENT_ORDERS[0], LIMIT_MAX)
        return search.count("count_events_by_text")
    return _count("count_events", filters)


# Searches.


def _session_search(
    filters: dict[str, Any], text: str | None, order_by: SessionOrder, limit: int
) -> Search[Session]:
    order = find_order(order_by, SESSION_ORDERS, text, SESSION_RELEVANCE)
    if text is not None:
        return session_search(parse_text(text), filters, order, limit)
    query = "search_sessions_by_tag" if "tags" in filters else "search_sessions"
    return Search(query, filters, order, limit, sessions.read_sessions)


def _run_search(filters: Mapping[str, Any], order_by: RunOrder, limit: int) -> Search[Run]:
    order = find_order(order_by, RUN_ORDERS)
    query = "search_runs_by_tokens" if order.name == "token_usage_desc" else "search_runs"
    return Search(query, filters, order, limit, runs.read_runs)


def _event_search(
    filters: dict[str, Any], text: str | None, order_by: EventOrder, limit: int
) -> Search[Event]:
    order = find_order(order_by, EVENT_ORDERS, text, EVENT_RELEVANCE)
    if text is not None:
        return event_search(parse_text(text), filters, order, limit)
    return Search("search_events", filters, order, limit, read_events)


def _limit(limit: int) -> int:
    return count(limit, "limit", LIMIT_MAX, minimum=1)


def _page_size(page_size: int) -> int:
    return count(page_size, "page_size", LIMIT_MAX, minimum=1)


def _count_sessions(search: Search[Session]) -> Query[int] | UnitOfWork[int]:
    """How many sessions a search finds on all pages together."""
    if isinstance(search, TextSearch):
        return search.count("count_sessions_by_text")
    return _count("count_sessions_by_tag" if "tags" in search.filters else "count_sessions", search.filters)


def _count(query: str, filters: Mapping[str, Any]) -> Query[int] | UnitOfWork[int]:
    return constant(0) if match_none(filters) else Query(query, filters, scalar, prepare=False)


def _with_total(
    page: Query[Page[T]] | UnitOfWork[Page[T]], total: Query[int] | UnitOfWork[int]
) -> Script[Page[T]]:
    found = yield from page
    return replace(found, total_count=(yield from total))


# Filters.


def _session_filters(
    agent_id: Texts | None,
    status: SessionStatus | str | Iterable[SessionStatus | str] | None,
    provider: Texts | None,
    tags: Texts | None,
    parent_session_id: Texts | None,
    created_after: datetime | None,
    created_before: datetime | None,
    include_deleted: bool,
) -> dict[str, Any]:
    parents = text_filter(parent_session_id, "parent_session_id")
    filters = _merged(
        one_or_many("agent_id", "agent_ids", text_filter(agent_id, "agent_id")),
        one_or_many("status", "statuses", status_filter(status, session_status)),
        one_or_many("parent_session_id", "parent_session_ids", parents),
        {
            "providers": text_filter(provider, "provider"),
            "created_after": optional_utc_datetime(created_after, "created_after"),
            "created_before": optional_utc_datetime(created_before, "created_before"),
            "exclude_deleted": None if flag(include_deleted, "include_deleted") else True,
        },
    )
    all_tags = tag_filter(tags, "tags")
    # The sessions with some tags are found by a query of their own.
    return filters if all_tags is None else {**filters, "tags": all_tags}


def _run_filters(
    session_id: Texts | None,
    provider: Texts | None,
    status: RunStatus | str | Iterable[RunStatus | str] | None,
    started_after: datetime | None,
    started_before: datetime | None,
    min_tokens: int | None,
) -> dict[str, Any]:
    return _merged(
        one_or_many("session_id", "session_ids", text_filter(session_id, "session_id")),
        one_or_many("provider", "providers", text_filter(provider, "provider")),
        one_or_many("status", "statuses", status_filter(status, run_status)),
        {
            "started_after": optional_utc_datetime(started_after, "started_after"),
            "started_before": optional_utc_datetime(started_before, "started_before"),
            "min_tokens": optional_count(min_tokens, "min_tokens"),
        },
    )


def _event_filters(
    session_ids: Texts | None,
    run_ids: Texts | None,
    types: Types | None,
    providers: Texts | None,
    since: datetime | None,
    until: datetime | None,
    correlation_id: Texts | None,
) -> dict[str, Any]:
    return _merged(
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


def _merged(*filters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for each in filters for name, value in each.items()}
