"""A store returns every character unchanged, or does not open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import make_conninfo

import asm
from tests.conftest import CITUS_DSN, POSTGRES, Cluster, an_event, in_loop
from tests.contract.other_clients import fetch_rows, only

pytestmark = only(POSTGRES, why="SQLite stores UTF-8")

WORDS = "größer, 大きい, больше, 😀"


@pytest.fixture
def encoded(kind: str, clusters: Callable[[str], Cluster]) -> Iterator[Callable[[str], str]]:
    """The DSN of an empty database in an encoding."""
    cluster, made = clusters(kind), list[str]()

    def database(encoding: str) -> str:
        made.append(name := f"asm_test_{uuid4().hex}")
        fetch_rows(cluster.dsn, f"create database {name} template template0 locale 'C' encoding '{encoding}'")
        return make_conninfo(cluster.dsn, dbname=name)

    yield database
    for name in made:
        fetch_rows(cluster.dsn, f"drop database {name} with (force)")


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP"])
def test_a_database_whose_encoding_lacks_characters_is_refused(
    encoded: Callable[[str], str], opened: Callable[..., Any], encoding: str
) -> None:
    dsn = encoded(encoding)
    for refused in (lambda: asm.migrate(dsn), lambda: opened(dsn), lambda: opened(dsn, migrate=True)):
        with pytest.raises(asm.StorageError, match=f"database is {encoding}.*encoding 'UTF8'"):
            refused()


def test_a_sql_ascii_database_stores_all_characters(
    encoded: Callable[[str], str], opened: Callable[..., Any]
) -> None:
    store = opened(encoded("SQL_ASCII"), migrate=True)
    document = {WORDS: [WORDS, "\0", "\ud800", 2**70, 0.1]}
    session = asm.Session(agent_id=WORDS, id=WORDS, tags=(WORDS,), metadata=document)
    run = asm.Run(session_id=WORDS, provider=WORDS, provider_metadata={"model": WORDS, "n": document})
    events = [an_event(WORDS, provider=WORDS, data=document) for _ in range(3)]
    stored = store.flush(session, run, events)

    assert store.get_events(WORDS) == stored
    assert [event.data for event in stored] == [document] * 3
    assert store.query.search_sessions(tags=WORDS, agent_id=WORDS).items == [session]
    assert store.query.search_runs(provider=WORDS).items == [run]
    assert list(store.query.get_usage_summary().by_model) == [WORDS]
    assert store.query.get_session_stats(WORDS).providers_used == (WORDS,)
    export = store.query.export_session(WORDS)
    assert (export.session, list(export.runs), list(export.events)) == (session, [run], stored)
    assert store.maintenance.health_check() == []


def test_the_encoding_in_a_dsn_and_in_the_environment_does_not_matter(
    migrated: str, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    for dsn in (migrated, make_conninfo(migrated, client_encoding="LATIN1")):
        store = opened(dsn)
        stored = store.append_event(an_event(data={"text": WORDS}))
        assert store.get_events("ses_1")[-1] == stored


def test_an_application_may_set_another_encoding_for_its_own_transaction(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(migrated, max_size=1)
    with store.transaction() as tx:
        finished(tx.connection.execute("set client_encoding to latin1"))
    stored = store.append_events([an_event(data={"text": WORDS}), an_event()])
    assert store.get_events("ses_1") == stored
    with store.transaction() as tx:
        assert tx.get_events("ses_1") == stored


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_borrowed_pool_of_another_encoding_is_refused(migrated: str, encoding: str) -> None:
    dsn = make_conninfo(migrated, client_encoding=encoding)
    with (
        psycopg_pool.ConnectionPool(dsn, min_size=1, open=True) as pool,
        pytest.raises(asm.StorageError, match=rf"connections is {encoding}.*client_encoding=UTF8"),
    ):
        asm.SessionStore(pool=pool)


@pytest.mark.skipif(CITUS_DSN is not None, reason="Citus 13.2 converts what a worker returns twice")
def test_a_character_that_the_connections_encoding_lacks_is_an_error_that_says_why(store: Any) -> None:
    stored = store.append_event(an_event(data={"text": WORDS}))
    with pytest.raises(asm.StorageError, match="client_encoding=UTF8"), store.transaction() as tx:
        finished(tx.connection.execute("set client_encoding to latin1"))
        tx.append_event(an_event(data={"text": WORDS}))
    with pytest.raises(asm.StorageError, match="client_encoding=UTF8"), store.transaction() as tx:
        finished(tx.connection.execute("set client_encoding to latin1"))
        tx.get_events("ses_1")
    assert store.get_events("ses_1") == [stored]


def finished(work: Any) -> psycopg.Cursor[Any]:
    cursor: psycopg.Cursor[Any] = in_loop(work) if asyncio.iscoroutine(work) else work
    return cursor
