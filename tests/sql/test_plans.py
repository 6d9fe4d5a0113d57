"""The hot reads use the index that was made for them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import ClientCursor

from asm import artifacts, events, postgres, runs, sessions, sqlite
from asm import dsn as dsns
from asm.plan import Ask, drive
from tests.conftest import Where
from tests.make_schema import schema_file
from tests.sql.conftest import an_event_of, session_id
from tests.sql.statements import numbered, parameters_in_order, queries

HOT: dict[str, tuple[Ask[Any], str]] = {
    "get_session": (sessions.get_session(session_id(700)), "asm_sessions_pkey"),
    "list_sessions": (sessions.list_sessions(limit=20), "asm_sessions_by_creation"),
    "list_sessions of a status": (
        sessions.list_sessions(status="paused", limit=20),
        "asm_sessions_by_status",
    ),
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
    "get_latest_sequence": (events.get_latest_sequence(session_id(3)), "asm_session_sequences_pkey"),
    "get_by_key": (artifacts.get_by_key("key_000700"), "asm_artifacts_live_key"),
    "list_by_session": (artifacts.list_by_session(session_id(3)), "asm_artifacts_by_session"),
}
ORDERED = [
    "list_sessions",
    "list_sessions of a status",
    "list_sessions of an agent",
    "list_runs",
    "get_active_run",
    "get_events",
    "get_events of a run",
    "get_events a page at a time",
    "list_by_session",
]

# The indexes behind keys have names of their own in SQLite; a table without rowids is its own index.
KEYS_OF_SQLITE = {
    "sqlite_autoindex_asm_sessions_1": "asm_sessions_pkey",
    "sqlite_autoindex_asm_runs_1": "asm_runs_pkey",
    "sqlite_autoindex_asm_events_1": "asm_events_pkey",
    "sqlite_autoindex_asm_events_2": "asm_events_id_key",
    "PRIMARY KEY": "asm_session_sequences_pkey",
}


class Way(NamedTuple):
    """How a database means to answer a question."""

    indexes: set[str]
    scanned: set[str]
    sorts: bool


@pytest.mark.parametrize("question", HOT)
def test_a_hot_read_uses_its_index(question: str, filled: Where) -> None:
    ask, index = HOT[question]

    ways = list(_ways[filled.dialect](filled.dsn, ask))

    assert [(way.indexes, way.scanned) for way in ways] == [({index}, set())] * len(ways)


@pytest.mark.parametrize("question", ORDERED)
def test_a_hot_read_takes_its_order_from_the_index(question: str, filled: Where) -> None:
    ask, _ = HOT[question]

    ways = list(_ways[filled.dialect](filled.dsn, ask))

    assert [way.sorts for way in ways] == [False] * len(ways)


def test_a_run_of_a_named_session_is_found_by_an_index(filled: Where) -> None:
    ask = runs.get_run("run_000061", session_id=session_id(3))

    ways = list(_ways[filled.dialect](filled.dsn, ask))

    # Both lead to a single row, and the planners differ in which they like better.
    assert all(len(way.indexes & {"asm_runs_pkey", "asm_runs_by_id"}) == 1 for way in ways)


def test_looking_for_ids_that_may_be_stored_uses_the_index_on_them(filled: Where) -> None:
    (ask,) = _asked(events.append_events(an_event_of(3, n) for n in range(5)), "find_events")

    ways = list(_ways[filled.dialect](filled.dsn, ask))

    assert [(way.indexes, way.scanned) for way in ways] == [({"asm_events_id_key"}, set())] * len(ways)


def _asked(plan: Any, query: str) -> list[Ask[Any]]:
    """The asks of a plan that put one query."""
    asks: list[Ask[Any]] = []

    def answer(ask: Ask[Any]) -> Any:
        asks.append(ask)
        return []

    # Empty answers lead the plan as far as its append, whose numbers it then misses.
    with pytest.raises(LookupError):
        drive(iter(plan), answer)
    return [ask for ask in asks if ask.query == query]


def _on_postgres(dsn: str, ask: Ask[Any]) -> Iterator[Way]:
    # PostgreSQL plans a prepared statement for its values the first five times, and then
    # decides whether to keep one plan for all values.
    form = queries("postgres")[ask.query].form(ask.params)
    sql, values = form.statements[0].sql, postgres.bind(ask.params)
    in_order = [values[name] for name in parameters_in_order(sql)]
    marks = ", ".join(["%s"] * len(in_order))
    with psycopg.connect(dsn) as connection, ClientCursor(connection) as cursor:
        # On a few thousand rows a sort costs next to nothing, and a bitmap wants one.
        cursor.execute("set enable_bitmapscan = off")
        cursor.execute(f"prepare hot as {numbered(sql)}".encode())
        execute = cursor.mogrify(f"execute hot ({marks})" if marks else "execute hot", in_order)
        for _ in range(8):
            cursor.execute(f"explain (format json) {execute}".encode())
            ((explained,),) = cursor.fetchall()
            yield _way(list(_nodes(explained[0]["Plan"])))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _way(nodes: list[dict[str, Any]]) -> Way:
    return Way(
        indexes={node["Index Name"] for node in nodes if "Index Name" in node},
        scanned={node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"},
        sorts=any("Sort" in node["Node Type"] for node in nodes),
    )


def _on_sqlite(dsn: str, ask: Ask[Any]) -> Iterator[Way]:
    # Once with the statistics, and once without: few applications ever call `analyze`.
    with (
        closing(sqlite3.connect(dsns.place(dsn).address)) as analyzed,
        closing(sqlite3.connect(":memory:")) as plain,
    ):
        plain.executescript(schema_file("sqlite").read_text("utf-8"))
        for connection in (analyzed, plain):
            yield _way_of_sqlite(_explained(connection, ask))


def _explained(connection: sqlite3.Connection, ask: Ask[Any]) -> list[str]:
    (statement,) = queries("sqlite")[ask.query].form(ask.params).statements
    values = {name: _one_of(value) for name, value in sqlite.bind(ask.params).items()}
    rows = connection.execute(f"explain query plan {statement.sql}", values)
    return [text for *_, text in rows]


def _one_of(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _way_of_sqlite(lines: list[str]) -> Way:
    """What is said as `SEARCH table USING INDEX name (columns)`."""
    read = [line for line in lines if re.match(r"(SEARCH|SCAN) asm_", line)]
    used = [re.search(r"USING (?:INDEX |COVERING INDEX )?(.*?)(?: \(|$)", line) for line in read]
    return Way(
        indexes={KEYS_OF_SQLITE.get(name[1], name[1]) for name in used if name},
        scanned={line for line, name in zip(read, used, strict=True) if not name},
        sorts=any("TEMP B-TREE" in line for line in lines),
    )


_ways: dict[str, Callable[[str, Ask[Any]], Iterator[Way]]] = {"postgres": _on_postgres, "sqlite": _on_sqlite}
