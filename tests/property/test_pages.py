"""Pages laid end to end equal the whole list, for all filters, orders and page sizes, while rows are added.

Filtering and sorting in Python gives the whole list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asm
from asm.operations import search
from tests.conftest import an_event

START = datetime(2025, 1, 1, tzinfo=UTC)
ROWS = 50

AGENTS = ["agent_1", "agent_2", "agent_3"]
PARENTS = ["ses_01", "ses_02"]
PROVIDERS = ["claude", "openai"]
RUNS = ["run_1", "run_2"]
SESSIONS = ["ses_01", "ses_02", "ses_03", "ses_04"]
STATUSES = ["active", "completed", "failed"]
TAGS = ["eu", "nightly", "prod"]
TYPES = ["message_sent", "error_occurred", "acme.plan_updated"]
CORRELATIONS = ["cor_1", "cor_2"]

Matches = Callable[[Any, Any], bool]


class Filter(NamedTuple):
    """The values of a filter, and whether a row matches one."""

    values: st.SearchStrategy[Any]
    matches: Matches


class Order(NamedTuple):
    key: Callable[[Any], Any]
    descends: bool


class Kind(NamedTuple):
    """A search: its filters, its orders, and how its n-th row is made and stored."""

    filters: Mapping[str, Filter]
    orders: Mapping[str, Order]
    stored: Callable[[Any, int], Any]


def moment(n: int) -> datetime:
    """A time for row n. Times do not grow with n, and some rows share one."""
    return START + timedelta(microseconds=n * 37 % 20)


def moments() -> st.SearchStrategy[datetime]:
    return st.integers(-1, 21).map(lambda later: START + timedelta(microseconds=later))


def one_or_many(values: list[str], *unknown: str) -> st.SearchStrategy[Any]:
    one = st.sampled_from([*values, *unknown])
    return st.one_of(one, st.lists(one, max_size=3), st.sets(one, max_size=3))


def listed(wanted: Any) -> Iterable[str]:
    return [wanted] if isinstance(wanted, str) else list(wanted)


def among(name: str) -> Matches:
    return lambda row, wanted: getattr(row, name) in listed(wanted)


def since(name: str) -> Matches:
    return lambda row, wanted: bool(getattr(row, name) >= wanted)


def until(name: str) -> Matches:
    return lambda row, wanted: bool(getattr(row, name) < wanted)


def has_tags(session: asm.Session, wanted: Any) -> bool:
    # An empty list matches nothing.
    return bool(listed(wanted)) and set(listed(wanted)) <= set(session.tags)


def providers_of(n: int) -> list[str]:
    return [[], ["claude"], ["openai"], ["claude", "openai"]][n % 4]


def has_provider(session: asm.Session, wanted: Any) -> bool:
    return not set(listed(wanted)).isdisjoint(providers_of(number_of(session)))


def number_of(session: asm.Session) -> int:
    return int(session.id.removeprefix("ses_"))


def tokens(run: asm.Run) -> int:
    return int(run.token_usage.get("total_tokens", 0))


def stored_session(store: Any, n: int) -> asm.Session:
    session = asm.Session(
        id=f"ses_{n:04}",
        agent_id=AGENTS[n * n % 3],
        status=STATUSES[n * 7 % 5 % 3],
        parent_session_id=[*PARENTS, None][n * n % 5 % 3],
        tags=tuple(tag for bit, tag in enumerate(TAGS) if n >> bit & 1),
        created_at=moment(n),
        updated_at=moment(n * 3),
        deleted_at=START if n % 7 == 3 else None,
    )
    store.save_session(session)
    for provider in providers_of(n):
        store.save_run(asm.Run(session_id=session.id, provider=provider))
    return session


def stored_run(store: Any, n: int) -> asm.Run:
    run = asm.Run(
        id=f"run_{n % 30:04}",
        session_id=SESSIONS[n // 30 % 4],
        status=STATUSES[1 + n % 2],
        provider=[*PROVIDERS, None][n * n % 3],
        started_at=moment(n),
        token_usage={} if n % 4 == 3 else {"total_tokens": n * 11 % 6},
    )
    store.save_run(run)
    return run


def stored_event(store: Any, n: int) -> asm.Event:
    event = an_event(
        SESSIONS[n * 7 % 11 % 4],
        TYPES[n * n % 3],
        run_id=[*RUNS, None][n * 7 % 5 % 3],
        provider=[*PROVIDERS, None][n % 3],
        correlation_id=[*CORRELATIONS, None, None][n * 3 % 4],
        timestamp=moment(n),
    )
    stored: asm.Event = store.append_event(event)
    return stored


KINDS = {
    "search_sessions": Kind(
        {
            "agent_id": Filter(one_or_many(AGENTS, "nobody"), among("agent_id")),
            "status": Filter(one_or_many(STATUSES, "paused"), among("status")),
            "provider": Filter(one_or_many(PROVIDERS, "none"), has_provider),
            "tags": Filter(one_or_many(TAGS, "none"), has_tags),
            "parent_session_id": Filter(one_or_many(PARENTS, "none"), among("parent_session_id")),
            "created_after": Filter(moments(), since("created_at")),
            "created_before": Filter(moments(), until("created_at")),
            "include_deleted": Filter(st.booleans(), lambda row, wanted: wanted or row.deleted_at is None),
        },
        {
            "created_at_asc": Order(lambda row: (row.created_at, row.id), descends=False),
            "created_at_desc": Order(lambda row: (row.created_at, row.id), descends=True),
            "updated_at_asc": Order(lambda row: (row.updated_at, row.id), descends=False),
            "updated_at_desc": Order(lambda row: (row.updated_at, row.id), descends=True),
        },
        stored_session,
    ),
    "search_runs": Kind(
        {
            "session_id": Filter(one_or_many(SESSIONS, "ses_none"), among("session_id")),
            "provider": Filter(one_or_many(PROVIDERS, "none"), among("provider")),
            "status": Filter(one_or_many(STATUSES[1:], "timeout"), among("status")),
            "started_after": Filter(moments(), since("started_at")),
            "started_before": Filter(moments(), until("started_at")),
            "min_tokens": Filter(st.integers(0, 7), lambda row, wanted: tokens(row) >= wanted),
        },
        {
            "started_at_asc": Order(lambda row: (row.started_at, row.session_id, row.id), descends=False),
            "started_at_desc": Order(lambda row: (row.started_at, row.session_id, row.id), descends=True),
            "token_usage_desc": Order(lambda row: (tokens(row), row.session_id, row.id), descends=True),
        },
        stored_run,
    ),
    "search_events": Kind(
        {
            "session_ids": Filter(one_or_many(SESSIONS, "ses_none"), among("session_id")),
            "run_ids": Filter(one_or_many(RUNS, "run_none"), among("run_id")),
            "types": Filter(one_or_many(TYPES, "run_started"), among("type")),
            "providers": Filter(one_or_many(PROVIDERS, "none"), among("provider")),
            "since": Filter(moments(), since("timestamp")),
            "until": Filter(moments(), until("timestamp")),
            "correlation_id": Filter(one_or_many(CORRELATIONS, "none"), among("correlation_id")),
        },
        {
            "sequence_asc": Order(lambda row: (row.session_id, row.sequence_number), descends=False),
            "timestamp_asc": Order(
                lambda row: (row.timestamp, row.session_id, row.sequence_number), descends=False
            ),
            "timestamp_desc": Order(
                lambda row: (row.timestamp, row.session_id, row.sequence_number), descends=True
            ),
        },
        stored_event,
    ),
}
DEFAULTS: Mapping[str, dict[str, Any]] = {"search_sessions": {"include_deleted": False}}


def whole(name: str, rows: Iterable[Any], wanted: Mapping[str, Any], order_by: str) -> list[Any]:
    """The rows that match, found by testing every row."""
    kind = KINDS[name]
    wanted = {**DEFAULTS.get(name, {}), **wanted}
    found = [row for row in rows if all(kind.filters[each].matches(row, wanted[each]) for each in wanted)]
    order = kind.orders[order_by]
    return sorted(found, key=order.key, reverse=order.descends)


def searches(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {}, optional={each: filter.values for each, filter in KINDS[name].filters.items()}
    )


@pytest.mark.parametrize("name", KINDS)
def test_pages_equal_the_whole_list_while_rows_are_being_added(name: str, store: Any) -> None:
    kind, numbers = KINDS[name], count()
    rows = [kind.stored(store, next(numbers)) for _ in range(ROWS)]
    find = getattr(store.query, name)

    @settings(max_examples=60)
    @given(searches(name), st.sampled_from(sorted(kind.orders)), st.integers(1, 20), st.integers(0, 2))
    def check(wanted: dict[str, Any], order_by: str, limit: int, to_add: int) -> None:
        before, cursor = list(rows), None
        found: list[list[Any]] = []
        while not found or cursor:
            page = find(**wanted, order_by=order_by, limit=limit, cursor=cursor)
            found.append(page.items)
            cursor = page.cursor
            if len(found) <= to_add:
                rows.append(kind.stored(store, next(numbers)))
            assert len(found) <= len(rows) + 1, "the pages go round in a circle"
        laid_end_to_end = [row for items in found for row in items]

        assert [row for row in laid_end_to_end if row in before] == whole(name, before, wanted, order_by)
        assert laid_end_to_end == whole(name, laid_end_to_end, wanted, order_by)
        assert all(len(items) == limit for items in found[:-1])

    check()


@pytest.mark.parametrize("name", KINDS)
def test_an_iterator_equals_the_whole_list_while_rows_are_being_added(name: str, store: Any) -> None:
    kind, numbers = KINDS[name], count()
    rows = [kind.stored(store, next(numbers)) for _ in range(ROWS)]
    iterate = getattr(store.query, name.replace("search_", "iter_"))

    @settings(max_examples=30)
    @given(searches(name), st.sampled_from(sorted(kind.orders)), st.integers(1, 20))
    def check(wanted: dict[str, Any], order_by: str, page_size: int) -> None:
        before, found = list(rows), []
        for row in iterate(**wanted, order_by=order_by, page_size=page_size):
            found.append(row)
            if len(found) in (1, 10):
                rows.append(kind.stored(store, next(numbers)))

        assert [row for row in found if row in before] == whole(name, before, wanted, order_by)
        assert found == whole(name, found, wanted, order_by)

    check()


COUNTED: Mapping[str, Callable[..., int]] = {
    "search_sessions": lambda query, **wanted: query.search_sessions(**wanted, count_total=True).total_count,
    "search_events": lambda query, **wanted: query.count_events(**wanted),
}


@pytest.mark.parametrize("name", COUNTED)
def test_the_total_count_equals_the_items_on_all_pages(name: str, store: Any) -> None:
    rows = [KINDS[name].stored(store, n) for n in range(ROWS)]
    order_by = next(iter(KINDS[name].orders))

    @settings(max_examples=30)
    @given(searches(name))
    def check(wanted: dict[str, Any]) -> None:
        assert COUNTED[name](store.query, **wanted) == len(whole(name, rows, wanted, order_by))

    check()


@pytest.mark.parametrize("name", KINDS)
def test_every_filter_and_every_order_is_generated(name: str) -> None:
    signature = inspect.signature(getattr(search, name))
    # A text needs an index, and has a test of its own.
    filters = set(signature.parameters) - {"order_by", "limit", "cursor", "count_total", "text"}
    orders = {
        "search_sessions": search.SESSION_ORDERS,
        "search_runs": search.RUN_ORDERS,
        "search_events": search.EVENT_ORDERS,
    }

    assert set(KINDS[name].filters) == filters
    assert set(KINDS[name].orders) == {order.name for order in orders[name]}  # type: ignore[attr-defined]
