"""Frequent reads use the index that was made for them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import ClientCursor

import asm
from asm import dsn as dsns
from asm.cli import copying
from asm.engine import polling
from asm.engine.script import Query, run_script
from asm.operations import (
    appending,
    artifacts,
    events,
    exports,
    listing,
    runs,
    search,
    sessions,
    summaries,
)
from asm.operations.cursors import Order
from asm.sqlite import values
from tests.conftest import POSTGRES, Cluster, Where, an_event
from tests.make_schema import schema_file
from tests.sql.conftest import START, a_run, a_session, an_event_of, session_id
from tests.sql.statements import numbered, parameters_in_order, queries

HOT: dict[str, tuple[Any, str]] = {
    "get_session": (sessions.get_session(session_id(700)), "asm_sessions_pkey"),
    "list_sessions": (sessions.list_sessions(limit=20), "asm_sessions_by_creation"),
    "list_sessions of an agent": (
        sessions.list_sessions(agent_id="agent_3", limit=20),
        "asm_sessions_by_agent",
    ),
    "get_run": (runs.get_run("run_000700"), "asm_runs_by_id"),
    "list_runs": (runs.list_runs(session_id(3)), "asm_runs_by_start"),
    "get_active_run": (runs.get_active_run(session_id(3)), "asm_runs_by_start"),
    "get_events": (events.get_events(session_id(3)), "asm_events_pkey"),
    "get_events of a type": (events.get_events(session_id(3), type="error_occurred"), "asm_events_by_type"),
    "get_events of a run": (events.get_events(session_id(3), run_id="run_000003_2"), "asm_events_by_run"),
    "get_events a page at a time": (
        events.get_events(session_id(3), after=50, limit=100),
        "asm_events_pkey",
    ),
    "the last events": (events.get_events(session_id(3), last=50), "asm_events_pkey"),
    "the last events of a type": (
        events.get_events(session_id(3), type="error_occurred", last=50),
        "asm_events_by_type",
    ),
    "the last events of a run": (
        events.get_events(session_id(3), run_id="run_000003_2", last=10),
        "asm_events_by_run",
    ),
    "get_event": (events.get_event(session_id(3), "evt_000007"), "asm_events_id_key"),
    "get_latest_sequence": (events.get_latest_sequence(session_id(3)), "asm_session_sequences_pkey"),
    "get_by_key": (artifacts.get_by_key("key_000700"), "asm_artifacts_live_key"),
    "list_by_session": (artifacts.list_by_session(session_id(3)), "asm_artifacts_by_session"),
    "find_counters of a poll": (polling.poll_counters([session_id(3)]), "asm_session_sequences_pkey"),
    "find_counters": (exports.find_counters([session_id(3)]), "asm_session_sequences_pkey"),
    "get_sessions": (sessions.get_sessions([session_id(3)]), "asm_sessions_pkey"),
    "find_artifacts": (Query("find_artifacts", {"ids": ("art_1",)}, list), "asm_artifacts_pkey"),
    "find_live_keys": (Query("find_live_keys", {"keys": ("key_000700",)}, list), "asm_artifacts_live_key"),
    "find_sequence_numbers": (
        Query("find_sequence_numbers", {"session_ids": [session_id(3)], "sequence_numbers": [3]}, list),
        "asm_events_pkey",
    ),
    "find_session_ids": (listing.find_session_ids("ses_0007"), "asm_sessions_pkey"),
    "find_run_ids": (listing.find_run_ids("run_0007"), "asm_runs_by_id"),
    "find_run_ids of a session": (
        listing.find_run_ids("run_0007", session_id=session_id(7)),
        "asm_runs_pkey",
    ),
    "page_sessions": (copying.page_sessions(session_id(3)), "asm_sessions_pkey"),
    "page_runs": (copying.page_runs(session_id(3), "run_000061"), "asm_runs_pkey"),
    "page_artifacts": (copying.page_artifacts("art_1"), "asm_artifacts_pkey"),
    "page_counters": (copying.page_counters(session_id(3)), "asm_session_sequences_pkey"),
    "find_events_between": (
        copying.find_events_between([copying.EventRange(session_id(3), 50, 150)]),
        "asm_events_pkey",
    ),
}
_LISTED = (session_id(3), session_id(9))
ORDERED = [
    "list_sessions",
    "list_sessions of an agent",
    "list_runs",
    "get_active_run",
    "get_events",
    "get_events of a run",
    "get_events a page at a time",
    "the last events",
    "the last events of a type",
    "the last events of a run",
    "list_by_session",
    "page_sessions",
    "page_runs",
    "page_artifacts",
    "page_counters",
    "find_events_between",
]

# Each order of a search: its operation, the row behind which a page begins, its index.
ORDERS: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "created_at_asc": (search.search_sessions, a_session(700), "asm_sessions_by_creation"),
    "created_at_desc": (search.search_sessions, a_session(700), "asm_sessions_by_creation"),
    "updated_at_asc": (search.search_sessions, a_session(700), "asm_sessions_by_update"),
    "updated_at_desc": (search.search_sessions, a_session(700), "asm_sessions_by_update"),
    "started_at_asc": (search.search_runs, a_run(700), "asm_runs_by_time"),
    "started_at_desc": (search.search_runs, a_run(700), "asm_runs_by_time"),
    "sequence_asc": (
        search.search_events,
        replace(an_event_of(30, 100), sequence_number=101),
        "asm_events_pkey",
    ),
    "timestamp_asc": (
        search.search_events,
        replace(an_event_of(30, 100), sequence_number=101),
        "asm_events_by_time",
    ),
    "timestamp_desc": (
        search.search_events,
        replace(an_event_of(30, 100), sequence_number=101),
        "asm_events_by_time",
    ),
}

# Filters with an index that returns their rows in order.
FILTERED: dict[str, tuple[Any, str]] = {
    "sessions of an agent": (search.search_sessions(agent_id="agent_3"), "asm_sessions_by_agent_update"),
    "sessions of a status": (
        search.search_sessions(status="paused", limit=10),
        "asm_sessions_by_status_update",
    ),
    "sessions of an agent by creation": (
        search.search_sessions(agent_id="agent_3", order_by="created_at_desc"),
        "asm_sessions_by_agent",
    ),
    "children of a session by creation": (
        search.search_sessions(parent_session_id=session_id(3), order_by="created_at_asc"),
        "asm_sessions_by_parent",
    ),
    "runs of a provider": (search.search_runs(provider="openai"), "asm_runs_by_provider"),
    "runs of a session": (search.search_runs(session_id=session_id(3)), "asm_runs_by_start"),
    "events of a session": (search.search_events(session_ids=session_id(3)), "asm_events_pkey"),
    "events of a run": (search.search_events(run_ids="run_000003_2"), "asm_events_by_run"),
    "events of a type": (search.search_events(types="error_occurred"), "asm_events_by_type"),
    "events of a correlation": (
        search.search_events(correlation_id="cor_000003_4"),
        "asm_events_by_correlation",
    ),
    "events of an hour": (
        search.search_events(since=START, until=START + timedelta(hours=1), order_by="timestamp_asc"),
        "asm_events_by_time",
    ),
}

# Filters whose index finds few rows, which are then sorted or counted.
FOUND: dict[str, tuple[Any, str]] = {
    "children of a session": (
        search.search_sessions(parent_session_id=session_id(3)),
        "asm_sessions_by_parent",
    ),
    "children of two sessions": (
        search.search_sessions(parent_session_id=[session_id(3), session_id(4)], order_by="updated_at_asc"),
        "asm_sessions_by_parent",
    ),
    "stale runs": (runs.list_stale_runs(), "asm_runs_by_status"),
    "runs of a status": (search.search_runs(status="running", limit=5), "asm_runs_by_status"),
    "events of a type counted": (search.count_events(types="error_occurred"), "asm_events_by_type"),
    "events of a correlation by time": (
        search.search_events(correlation_id="cor_000003_4", order_by="timestamp_desc"),
        "asm_events_by_correlation",
    ),
}

# What retention reads in batches, the oldest first, with its index.
_BEHIND = {"exempt_tags": ("pinned",), "last_at": START, "last_id": session_id(3), "limit": 100}
_UNTIL = START + timedelta(hours=3)
DUE: dict[str, tuple[dict[str, Any], str]] = {
    "find_expired_sessions": ({"status": "paused", "until": _UNTIL}, "asm_sessions_by_status_update"),
    "find_due_sessions": ({"due_until": _UNTIL, "exempt_statuses": ("active",)}, "asm_sessions_deleted"),
}

# SQLite gives the indexes of keys names of its own; a table without rowids is its own index.
KEYS_OF_SQLITE = {
    "sqlite_autoindex_asm_sessions_1": "asm_sessions_pkey",
    "sqlite_autoindex_asm_runs_1": "asm_runs_pkey",
    "sqlite_autoindex_asm_artifacts_1": "asm_artifacts_pkey",
    "sqlite_autoindex_asm_events_1": "asm_events_pkey",
    "sqlite_autoindex_asm_events_2": "asm_events_id_key",
}


class Plan(NamedTuple):
    """How a database executes a query."""

    indexes: set[str]
    scanned: set[str]
    sorts: bool


@pytest.mark.parametrize("question", HOT)
def test_a_hot_read_uses_its_index(question: str, filled: Where) -> None:
    query, index = HOT[question]

    plans = list(_plans[filled.dialect](filled.dsn, query))

    assert [(plan.indexes, plan.scanned) for plan in plans] == [({index}, set())] * len(plans)


@pytest.mark.parametrize(
    "query",
    [listing.shorten_ids(_LISTED), listing.find_first_messages(_LISTED)],
    ids=lambda query: query.query,
)
def test_what_a_list_shows_of_its_sessions_is_found_by_indexes(query: Query[Any], filled: Where) -> None:
    for plan in _plans[filled.dialect](filled.dsn, query):
        assert (bool(plan.indexes), plan.scanned) == (True, set())


@pytest.mark.parametrize("question", ORDERED)
def test_a_hot_read_takes_its_order_from_the_index(question: str, filled: Where) -> None:
    query, _ = HOT[question]

    plans = list(_plans[filled.dialect](filled.dsn, query))

    assert [plan.sorts for plan in plans] == [False] * len(plans)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_a_search_comes_from_its_index(order: str, filled: Where) -> None:
    operation, _, index = ORDERS[order]

    plans = list(_plans[filled.dialect](filled.dsn, operation(order_by=order)))

    assert plans == [Plan({index}, set(), sorts=False)] * len(plans)


@pytest.mark.parametrize("order", ORDERS)
def test_the_next_page_of_every_order_is_a_range_of_its_index(order: str, filled: Where) -> None:
    operation, last, index = ORDERS[order]
    every_order: list[Order[Any]] = [*search.SESSION_ORDERS, *search.RUN_ORDERS, *search.EVENT_ORDERS]
    (cursor,) = (each.cursor(last) for each in every_order if each.name == order)

    plans = list(_plans[filled.dialect](filled.dsn, operation(order_by=order, cursor=cursor)))

    assert plans == [Plan({index}, set(), sorts=False)] * len(plans)


@pytest.mark.parametrize("question", FILTERED)
def test_a_search_by_a_value_takes_its_rows_in_order_from_an_index(question: str, filled: Where) -> None:
    query, index = FILTERED[question]

    plans = list(_plans[filled.dialect](filled.dsn, query))

    assert plans == [Plan({index}, set(), sorts=False)] * len(plans)


@pytest.mark.parametrize(
    ("order", "index"),
    [
        ("updated_at_asc", "asm_session_tags_by_update"),
        ("updated_at_desc", "asm_session_tags_by_update"),
        ("created_at_desc", "asm_session_tags_by_creation"),
        ("created_at_asc", "asm_session_tags_by_creation"),
    ],
)
def test_sessions_with_a_rare_tag_are_found_by_the_index_on_tags(
    order: search.SessionOrder, index: str, filled: Where
) -> None:
    query: Any = search.search_sessions(tags=["prod", "incident"], order_by=order)

    plans = list(_plans[filled.dialect](filled.dsn, query))

    # PostgreSQL sorts the few sessions that it finds. SQLite reads them in the order of its index.
    expected = {
        "sqlite": Plan({index, "asm_sessions_pkey"}, set(), sorts=False),
        "postgres": Plan({"asm_sessions_by_tag"}, set(), sorts=True),
    }
    assert plans == [expected[filled.dialect]] * len(plans)


@pytest.mark.parametrize("min_tokens", [None, 90_000])
@pytest.mark.parametrize("is_first_page", [True, False], ids=["first page", "next page"])
def test_runs_ordered_by_tokens_come_from_the_index_of_ended_runs_and_that_of_open_runs(
    is_first_page: bool, min_tokens: int | None, filled: Where
) -> None:
    (order,) = (each for each in search.RUN_ORDERS if each.name == "token_usage_desc")
    cursor = None if is_first_page else order.cursor(a_run(700))
    query = search.search_runs(order_by="token_usage_desc", min_tokens=min_tokens, limit=5, cursor=cursor)

    plans = list(_plans[filled.dialect](filled.dsn, query))

    # PostgreSQL sorts the runs that have not ended.
    expected = {
        "sqlite": Plan({"asm_runs_by_tokens"}, set(), sorts=False),
        "postgres": Plan({"asm_runs_by_tokens", "asm_runs_open"}, set(), sorts=True),
    }
    assert plans == [expected[filled.dialect]] * len(plans)


def test_runs_with_many_tokens_are_found_by_an_index(filled: Where) -> None:
    query = search.search_runs(min_tokens=99_900)

    plans = list(_plans[filled.dialect](filled.dsn, query, bitmaps=True))

    # SQLite cannot tell a rare value from a common one, and skips the others in the order of time.
    indexes = {"sqlite": {"asm_runs_by_time"}, "postgres": {"asm_runs_by_tokens", "asm_runs_open"}}
    assert [(plan.indexes, plan.scanned) for plan in plans] == [(indexes[filled.dialect], set())] * len(plans)


def test_runs_with_a_common_number_of_tokens_are_read_in_the_order_of_time(filled: Where) -> None:
    plans = list(_plans[filled.dialect](filled.dsn, search.search_runs(min_tokens=50_000, limit=5)))

    assert plans == [Plan({"asm_runs_by_time"}, set(), sorts=False)] * len(plans)


@pytest.mark.parametrize(
    ("status", "index"),
    [("failed", "asm_sessions_by_status_update"), ("completed", "asm_sessions_by_creation")],
)
def test_sessions_of_a_status_are_listed_by_an_index(status: str, index: str, filled: Where) -> None:
    query = sessions.list_sessions(status=status, limit=20)

    plans = list(_plans[filled.dialect](filled.dsn, query))

    indexes = {"sqlite": "asm_sessions_by_status", "postgres": index}
    assert [(plan.indexes, plan.scanned) for plan in plans] == [({indexes[filled.dialect]}, set())] * len(
        plans
    )


@pytest.mark.parametrize("question", FOUND)
def test_a_search_for_a_rare_value_finds_it_by_an_index(question: str, filled: Where) -> None:
    query, index = FOUND[question]

    plans = list(_plans[filled.dialect](filled.dsn, query))

    assert [(plan.indexes, plan.scanned) for plan in plans] == [({index}, set())] * len(plans)


@pytest.mark.parametrize("name", DUE)
def test_retention_reads_what_is_due_in_the_order_of_an_index(name: str, filled: Where) -> None:
    params, index = DUE[name]
    query = Query(name, params | _BEHIND, list, prepare=False)

    plans = list(_plans[filled.dialect](filled.dsn, query))

    # On SQLite the tags are in a table of their own.
    found = [plan._replace(indexes=plan.indexes - {"asm_session_tags_by_session"}) for plan in plans]
    assert found == [Plan({index}, set(), sorts=False)] * len(plans)


@pytest.mark.parametrize(
    "query",
    [
        runs.get_run("run_000061", session_id=session_id(3)),
        Query("find_runs", {"session_ids": [session_id(3)], "ids": ["run_000061"]}, list),
    ],
    ids=lambda query: query.query,
)
def test_a_run_of_a_named_session_is_found_by_an_index(query: Query[Any], filled: Where) -> None:
    plans = list(_plans[filled.dialect](filled.dsn, query))

    # Both indexes find the one row, and the planners differ in their choice.
    assert all(len(plan.indexes & {"asm_runs_pkey", "asm_runs_by_id"}) == 1 for plan in plans)


def test_session_stats_read_only_rows_of_the_session(filled: Where) -> None:
    plans = list(_plans[filled.dialect](filled.dsn, summaries.get_session_stats(session_id(3))))

    # All of these indexes begin with the session, and the planners differ in their choice.
    its_events, its_runs = {"asm_events_pkey", "asm_events_id_key"}, {"asm_runs_pkey", "asm_runs_by_start"}
    for plan in plans:
        assert len(plan.indexes & its_events) == len(plan.indexes & its_runs) == 1
        assert plan.indexes - its_events - its_runs == {"asm_sessions_pkey"}
        assert not plan.scanned


@pytest.mark.parametrize("summary", [summaries.get_usage_summary, summaries.get_cost_summary])
def test_a_summary_of_a_session_reads_only_its_runs(
    summary: Callable[..., Query[Any]], filled: Where
) -> None:
    plans = list(_plans[filled.dialect](filled.dsn, summary(session_id=session_id(3))))

    by_session = {"asm_runs_pkey", "asm_runs_by_start", "asm_runs_open"}
    assert all(plan.indexes <= by_session and not plan.scanned for plan in plans)


@pytest.mark.parametrize("summary", [summaries.get_usage_summary, summaries.get_cost_summary])
def test_a_summary_reads_its_index_and_only_runs_that_have_not_ended(
    summary: Callable[..., Query[Any]], filled: Where
) -> None:
    plans = list(_plans[filled.dialect](filled.dsn, summary()))

    indexes = {"sqlite": {"asm_runs_by_model"}, "postgres": {"asm_runs_by_model", "asm_runs_open"}}
    assert [(plan.indexes, plan.scanned) for plan in plans] == [(indexes[filled.dialect], set())] * len(plans)


@pytest.mark.parametrize("last", [1, 50])
def test_of_the_last_events_no_more_rows_are_read_than_are_returned(last: int, filled: Where) -> None:
    if filled.dialect == "sqlite":
        pytest.skip("SQLite's plan has no numbers; that it does not sort says the same")

    assert _rows_read_of_the_last(filled.dsn, session_id(3), last) == {last}


def test_of_a_session_that_is_far_longer_than_others_only_the_last_events_are_read(
    long_session: Where,
) -> None:
    assert _rows_read_of_the_last(long_session.dsn, "ses_long", 50) == {50}


@pytest.fixture(scope="module", params=POSTGRES)
def long_session(request: pytest.FixtureRequest, clusters: Callable[[str], Cluster]) -> Iterator[Where]:
    """A long session, of which the planner does not know, beside many short ones of one type of event."""
    with clusters(request.param).database(migrated=True) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection, asm.SessionStore(dsn) as store:
            connection.execute("alter table asm_events set (autovacuum_enabled = false)")
            # One after the other, so that the rows of a session are on different pages.
            store.append_events(an_event(session_id(number)) for _ in range(5) for number in range(3_000))
            connection.execute("vacuum analyze asm_events")
            store.append_events(an_event("ses_long") for _ in range(10_000))
        yield Where(request.param, dsn)


def _rows_read_of_the_last(dsn: str, session_id: str, last: int) -> set[int]:
    """The numbers of rows that the steps of the plan return."""
    query = events.get_events(session_id, last=last)
    sql = queries("postgres")[query.query].render(query.params).statements[0].sql
    with psycopg.connect(dsn) as connection, ClientCursor(connection) as cursor:
        statement = cursor.mogrify(sql, query.params)
        cursor.execute(f"explain (analyze, format json) {statement}".encode())
        ((explained,),) = cursor.fetchall()
    # A Result is the subquery of the limit.
    return {node["Actual Rows"] for node in _nodes(explained[0]["Plan"]) if node["Node Type"] != "Result"}


def test_an_idempotent_append_finds_stored_events_by_the_index_on_ids(filled: Where) -> None:
    (query,) = _queries_sent(appending.append_events(an_event_of(3, n) for n in range(5)), "find_events")

    plans = list(_plans[filled.dialect](filled.dsn, query))

    assert [(plan.indexes, plan.scanned) for plan in plans] == [({"asm_events_id_key"}, set())] * len(plans)


def _queries_sent(operation: Any, name: str) -> list[Query[Any]]:
    """The queries of one name that the script of an operation sends."""
    sent: list[Query[Any]] = []

    def execute(query: Query[Any]) -> Any:
        sent.append(query)
        return []

    # Without rows the script gets as far as its append, whose numbers are then missing.
    with pytest.raises(LookupError):
        run_script(iter(operation), execute)
    return [query for query in sent if query.query == name]


def _on_postgres(dsn: str, query: Any, *, bitmaps: bool = False) -> Iterator[Plan]:
    rendered = queries("postgres")[query.query].render(query.params)
    sql = rendered.statements[0].sql
    # The statement has its values in it, and arrays of the store's own cursors only exist in binary.
    values = {name: list(each) if isinstance(each, tuple) else each for name, each in query.params.items()}
    with psycopg.connect(dsn) as connection, ClientCursor(connection) as cursor:
        # On a few thousand rows a sort costs next to nothing, so the planner would prefer a bitmap to
        # an index that gives the order. An index on tags can only be read through a bitmap.
        if not bitmaps and not query.params.get("tags"):
            cursor.execute("set enable_bitmapscan = off")
        if not query.prepare:
            yield _explained_on_postgres(cursor, cursor.mogrify(sql, values))
            return
        # PostgreSQL plans a prepared statement for its values five times, and then decides whether
        # to keep one plan for all values.
        in_order = [values[name] for name in parameters_in_order(sql)]
        arguments = ", ".join(["%s"] * len(in_order))
        cursor.execute(f"prepare hot as {numbered(sql)}".encode())
        execute = cursor.mogrify(f"execute hot ({arguments})" if arguments else "execute hot", in_order)
        for _ in range(8):
            yield _explained_on_postgres(cursor, execute)


def _explained_on_postgres(cursor: ClientCursor[Any], statement: str) -> Plan:
    cursor.execute(f"explain (format json) {statement}".encode())
    ((explained,),) = cursor.fetchall()
    return _plan(list(_nodes(explained[0]["Plan"])))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _plan(nodes: list[dict[str, Any]]) -> Plan:
    return Plan(
        indexes={node["Index Name"] for node in nodes if "Index Name" in node},
        scanned={node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"},
        # An incremental sort orders only rows that the index leaves equal.
        sorts=any(node["Node Type"] == "Sort" for node in nodes),
    )


def _on_sqlite(dsn: str, query: Any, *, bitmaps: bool = False) -> Iterator[Plan]:
    # With statistics and without: few applications ever call `analyze`.
    with (
        closing(sqlite3.connect(dsns.parse_dsn(dsn).address)) as analyzed,
        closing(sqlite3.connect(":memory:")) as plain,
    ):
        plain.executescript(schema_file("sqlite").read_text("utf-8"))
        for connection in (analyzed, plain):
            yield _plan_of_sqlite(_explained(connection, query))


def _explained(connection: sqlite3.Connection, query: Query[Any]) -> list[tuple[bool, str]]:
    """The lines of the plan, and whether each is at the top level."""
    (statement,) = queries("sqlite")[query.query].render(query.params).statements
    bound = {name: _one_of(value) for name, value in values.bind(query.params)[0].items()}
    rows = connection.execute(f"explain query plan {statement.sql}", bound)
    return [(parent == 0, text) for _, parent, _, text in rows]


def _one_of(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _plan_of_sqlite(lines: list[tuple[bool, str]]) -> Plan:
    """Reads lines such as `SEARCH table USING INDEX name (columns)`."""
    read = [line for _, line in lines if re.match(r"(SEARCH|SCAN) (asm_|message|session|tagged)", line)]
    named = [re.sub(r"^(\w+) (\w+) USING PRIMARY KEY", r"\1 \2 USING INDEX \2_pkey", line) for line in read]
    used = [re.search(r"USING (?:INDEX |COVERING INDEX )?(.*?)(?: \(|$)", line) for line in named]
    return Plan(
        indexes={KEYS_OF_SQLITE.get(name[1], name[1]) for name in used if name},
        scanned={line for line, name in zip(read, used, strict=True) if not name},
        sorts=any("TEMP B-TREE" in line and is_whole for is_whole, line in lines),
    )


_plans: dict[str, Callable[..., Iterator[Plan]]] = {
    "postgres": _on_postgres,
    "sqlite": _on_sqlite,
}
