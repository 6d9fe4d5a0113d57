"""A search by text reads the events that match, and not the others."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import ClientCursor

import asm
from asm import dsn as dsns
from asm.engine.script import Query
from asm.operations import search
from asm.operations.orders import EVENT_ORDERS, SESSION_ORDERS
from asm.sqlite import values
from tests.conftest import DATABASES, Cluster, Where, an_event
from tests.sql.statements import queries

SESSIONS, EVENTS = 100, 50
SEARCHES: dict[str, Any] = {
    **{
        f"events by {order}": search.search_events(text="needle -pin", order_by=order)  # type: ignore[arg-type]
        for order in [*(each.name for each in EVENT_ORDERS), "relevance"]
    },
    **{
        f"sessions by {order}": search.search_sessions(text="nee*", order_by=order)  # type: ignore[arg-type]
        for order in [*(each.name for each in SESSION_ORDERS), "relevance"]
    },
    "events of a session": search.search_events(text='"the needle"', session_ids="ses_7"),
    "count_events": search.count_events(text="needle"),
}
LONG = {"filler": "x" * 1_500}
"""Makes a table of few events as long as one of many."""


@pytest.fixture(scope="module", params=DATABASES)
def haystack(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    clusters: Callable[[str], Cluster],
) -> Iterator[Where]:
    """Many events, of which one in a thousand has a word."""
    if request.param == "sqlite":
        dsn = f"sqlite:///{tmp_path_factory.mktemp('haystack') / 'store.db'}"
        asm.migrate(dsn)
        _fill(dsn)
        yield Where("sqlite", dsn)
    else:
        with clusters(request.param).database(migrated=True) as dsn:
            _fill(dsn)
            yield Where(request.param, dsn)


def _fill(dsn: str) -> None:
    with asm.SessionStore(dsn) as store:
        for number in range(SESSIONS):
            name = f"ses_{number}"
            words = ["the needle" if n == number % 20 == 7 else f"hay {n} straw" for n in range(EVENTS)]
            events = [an_event(name, data={"content": each}, metadata=LONG) for each in words]
            store.append_events(events, session=asm.Session(id=name, agent_id="a"))
        asm.migrate(dsn, text_search=True)
        with store.transaction() as tx:
            tx.execute("analyze")


def query_of(operation: Any) -> Query[Any]:
    """The query of a search, sent when the database has the index and all events are in it."""
    script = iter(operation)
    assert next(script).query == "has_text_index"
    assert script.send([(True,)]).query == "find_unindexed_events"
    query: Query[Any] = script.send([])
    return query


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_by_text_reads_only_what_matches(name: str, haystack: Where) -> None:
    query = query_of(SEARCHES[name])
    if haystack.dialect == "sqlite":
        steps = _steps(haystack.dsn, query)
        assert any(step.startswith("SCAN indexed VIRTUAL TABLE INDEX 0:M") for step in steps)
        assert [step for step in steps if step.startswith(("SCAN asm_", "SCAN word"))] == []
    else:
        nodes = list(_nodes(_explained(haystack.dsn, query)))
        assert "asm_event_words_by_word" in [node.get("Index Name") for node in nodes]
        read = [int(node["Actual Rows"]) for node in nodes if node.get("Relation Name") == "asm_events"]
        assert max(read, default=0) <= SESSIONS / 20
        assert [node for node in nodes if node.get("Rows Removed by Filter", 0) > SESSIONS] == []


def _explained(dsn: str, query: Query[Any]) -> dict[str, Any]:
    (statement,) = queries("postgres")[query.query].render(query.params).statements
    params = {
        name: list(value) if isinstance(value, tuple) else value for name, value in query.params.items()
    }
    with psycopg.connect(dsn) as connection, ClientCursor(connection) as cursor:
        text = cursor.mogrify(statement.sql, params)
        cursor.execute(f"explain (analyze, format json) {text}".encode())
        ((explained,),) = cursor.fetchall()
    plan: dict[str, Any] = (json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"]
    return plan


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _steps(dsn: str, query: Query[Any]) -> list[str]:
    (statement,) = queries("sqlite")[query.query].render(query.params).statements
    params, _ = values.bind(query.params)
    with closing(sqlite3.connect(dsns.parse_dsn(dsn).address)) as connection:
        return [text for *_, text in connection.execute(f"explain query plan {statement.sql}", params)]
