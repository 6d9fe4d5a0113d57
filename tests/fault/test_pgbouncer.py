"""A store behind PgBouncer, which gives each transaction another of its server connections."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import psycopg_pool
import pytest

import asm
from asm.migrations.runner import status
from asm.postgres import async_server_checks, server_checks
from tests.conftest import (
    INSTALLATIONS,
    POSTGRES,
    UNSYNCED,
    Cluster,
    an_artifact,
    an_event,
    events_of,
    in_loop,
    in_memory,
    numbers,
)
from tests.contract.other_clients import SHORT_S, driver_connection, fetch_rows, only
from tests.fault.concurrent_writers import wait_until
from tests.poolers import PGBOUNCER, Pooler, pgbouncer_version
from tests.servers import Server

pytestmark = [
    only(POSTGRES[:1], why="SQLite has no poolers, and a pooler treats all servers alike"),
    pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (Debian's package pgbouncer)"),
]

CALLERS = 6
SOON_S = 30.0

CAN_KEEP = pgbouncer_version() >= (1, 21)
KEEPS = [
    pytest.param({"max_prepared_statements": 0} if CAN_KEEP else {}, id="forgetting"),
    pytest.param(
        {"max_prepared_statements": 200},
        id="keeping",
        marks=pytest.mark.skipif(not CAN_KEEP, reason="this PgBouncer cannot keep prepared statements"),
    ),
]


@pytest.fixture(params=KEEPS)
def pooler(request: pytest.FixtureRequest, kind: str, clusters: Callable[[str], Cluster]) -> Iterator[Pooler]:
    with Pooler(clusters(kind).dsn, **request.param) as pooler:
        yield pooler


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """The results of several callers that work at the same time."""
    with ThreadPoolExecutor(CALLERS) as threads:
        return list(threads.map(work, range(CALLERS)))


def waited_for(connection: Any, statement: str) -> Any:
    """The first value of an application's own statement, on a blocking or async connection."""
    cursor = connection.execute(statement)
    if asyncio.iscoroutine(cursor):
        cursor = in_loop(cursor)
    [(value,)] = fetched if not asyncio.iscoroutine(fetched := cursor.fetchall()) else in_loop(fetched)
    return value


def server_process(store: Any) -> int:
    with store.transaction() as tx:
        return int(waited_for(tx.connection, "select pg_backend_pid()"))


def use_all_of_it(store: Any, caller: int) -> None:
    """Every kind of operation, some more than once."""
    session = asm.Session(agent_id=f"agent_{caller}", id=f"ses_{caller}", tags=("pooled",))
    run = asm.Run(session_id=session.id, token_usage={"input_tokens": 1}, provider="p", status="running")
    store.flush(session, run, events_of(session.id, 3))
    for _ in range(5):
        store.append_event(an_event(session.id))
        store.append_event(an_event("shared"))
        assert store.get_session(session.id) == session
        assert store.get_run(run.id) == run
    # Batches of more than one statement, of one session and of several.
    store.append_events(events_of(session.id, 1_200))
    store.append_events([event for n in range(600) for event in events_of(f"ses_{caller}_{n % 2}", 1)])
    stored = store.get_events(session.id)
    assert numbers(stored) == list(range(1, 1_209))
    assert store.append_event(stored[0]) == stored[0]
    assert len(list(store.iter_events(session.id, page_size=500))) == 1_208
    assert store.get_events(session.id, after=1_208, wait_timeout=0.1) == []
    assert len(list(store.follow_events(session.id, after=1_200, idle_timeout=0.1))) == 8
    with store.transaction() as tx:
        tx.append_event(an_event(session.id))
        tx.artifacts.register(an_artifact(f"key_{caller}", session_id=session.id))
        assert waited_for(tx.connection, "select count(*) from pg_stat_activity") > 0
    with suppress(ZeroDivisionError), store.transaction() as tx:
        tx.append_event(an_event(session.id))
        raise ZeroDivisionError
    assert store.get_latest_sequence(session.id) == 1_209
    assert store.append_event(an_event(session.id), expected_sequence=1_209).sequence_number == 1_210
    with pytest.raises(asm.SequenceConflict):
        store.append_event(an_event(session.id), expected_sequence=1_209)
    assert session in store.query.search_sessions(tags="pooled", count_total=True).items
    assert store.query.search_runs(session_id=session.id).items == [run]
    assert store.query.count_events(session_ids=session.id) == 1_210
    assert store.query.get_session_stats(session.id).event_count == 1_210
    assert store.query.get_usage_summary(session_id=session.id).input_tokens == 1
    export = store.query.export_session(session.id, include_artifacts=True)
    store.import_session(export)
    assert store.query.export_session(session.id, include_artifacts=True) == export
    use_what_is_applied_at_most_once(store, session, run)


def use_what_is_applied_at_most_once(store: Any, session: asm.Session, run: asm.Run) -> None:
    for n in range(3):
        changed = store.update_session(session.id, lambda stored, n=n: replace(stored, context={"n": n}))
        assert store.get_session(session.id) == changed == replace(session, context={"n": n})
        assert store.update_run(run.id, lambda stored: stored.increment_turn()).turn_count == n + 1
    for number in (1_211, 1_212):
        appended = store.run_transaction(lambda tx: tx.append_event(an_event(session.id)))
        assert appended.sequence_number == number
    assert store.pop_event(session.id) == appended
    assert store.delete_events(session.id, after=1_210) == 1
    assert store.get_latest_sequence(session.id) == 1_212


END_WAITING = (
    "select pg_terminate_backend(pid) from pg_locks where not granted and locktype = 'transactionid'"
)

PIPELINES: dict[str, Callable[[Any], Any]] = {
    "update_session": lambda store: store.update_session("ses_1", lambda session: session),
    "append_events": lambda store: store.append_events(events_of("ses_1", 1_200)),
}


@pytest.mark.parametrize("run", PIPELINES.values(), ids=PIPELINES)
def test_an_operation_whose_server_process_ends_says_so(
    migrated: str, pooler: Pooler, opened: Callable[..., Any], run: Callable[[Any], Any]
) -> None:
    store = opened(pooler.dsn(migrated), retry_for=0)
    store.append_event(an_event(), session=asm.Session(agent_id="agent", id="ses_1"))
    with driver_connection(migrated) as other, ThreadPoolExecutor(1) as thread:
        other.execute(
            "begin; select from asm_session_sequences for update; select from asm_sessions for update"
        )
        ending = thread.submit(run, store)
        wait_until(lambda: fetch_rows(migrated, END_WAITING))
        with pytest.raises(asm.ConnectionFailed, match="terminating connection"):
            ending.result()


@pytest.mark.parametrize(("schema", "prepare"), [(None, True), ("Of Its Own", True), ("Of Its Own", False)])
def test_everything_works_through_a_transaction_pooler(
    dsn: str, pooler: Pooler, opened: Callable[..., Any], schema: str | None, prepare: bool
) -> None:
    address = pooler.dsn(dsn)
    store = opened(address, schema=schema, prepare=prepare, migrate=True)
    at_once(partial(use_all_of_it, store))
    assert numbers(store.get_events("shared")) == list(range(1, 5 * CALLERS + 1))

    policy = asm.RetentionPolicy(max_events_per_session=10)
    assert store.maintenance.execute(policy).errors == []
    assert {issue.code for issue in store.maintenance.health_check()} == {"events_without_session"}
    assert status(address, schema=schema).rows["sessions"] == CALLERS
    assert len({server_process(store) for _ in range(20)}) > 1


def prepare_everywhere(address: str, names: list[str]) -> None:
    """Give names on every server connection of the pooler to statements of another client."""
    for _ in range(20):
        with psycopg.connect(address, autocommit=True) as connection:
            for name in names:
                connection.pgconn.prepare(name.encode(), b"select 'of another client', $1::text")


def test_a_prepared_statement_of_another_client_is_never_run_in_place_of_ours(
    migrated: str, pooler: Pooler, opened: Callable[..., Any]
) -> None:
    address = pooler.dsn(migrated)
    prepare_everywhere(address, [f"{prefix}_{n}" for prefix in ("asm", "_pg3") for n in range(40)])
    store = opened(address)
    at_once(lambda caller: store.save_session(asm.Session(agent_id="a", id=f"ses_{caller}")))
    at_once(lambda caller: [store.append_event(an_event(f"ses_{caller}")) for _ in range(5)])
    with store.transaction() as tx:
        found = [tx.get_session(f"ses_{caller}").id for caller in range(CALLERS)]
    assert found == [f"ses_{caller}" for caller in range(CALLERS)]
    assert {store.get_latest_sequence(name) for name in found} == {5}


def test_stores_behind_one_pooler_do_not_disturb_each_other(
    migrated: str, pooler: Pooler, opened: Callable[..., Any]
) -> None:
    stores = [opened(pooler.dsn(migrated), max_size=2) for _ in range(CALLERS)]
    at_once(lambda caller: [stores[caller].append_event(an_event("shared")) for _ in range(20)])
    assert numbers(stores[0].get_events("shared")) == list(range(1, 20 * CALLERS + 1))


@pytest.mark.parametrize("command", ["deallocate all", "discard all"])
def test_a_pooler_may_reset_its_server_connections(
    migrated: str, kind: str, clusters: Callable[[str], Cluster], opened: Callable[..., Any], command: str
) -> None:
    with Pooler(clusters(kind).dsn, server_reset_query=command, server_reset_query_always=1) as pooler:
        store = opened(pooler.dsn(migrated))
        at_once(lambda caller: [store.append_event(an_event(f"ses_{caller}")) for _ in range(10)])
        assert {store.get_latest_sequence(f"ses_{caller}") for caller in range(CALLERS)} == {10}


def test_a_pooler_may_pool_sessions(
    migrated: str, kind: str, clusters: Callable[[str], Cluster], opened: Callable[..., Any]
) -> None:
    with Pooler(clusters(kind).dsn, pool_mode="session", default_pool_size=20) as pooler:
        store = opened(pooler.dsn(migrated), max_size=4)
        at_once(partial(use_all_of_it, store))
        assert numbers(store.get_events("shared")) == list(range(1, 5 * CALLERS + 1))


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "no-autocommit"])
def test_a_borrowed_pool_may_connect_through_a_pooler(
    migrated: str, pooler: Pooler, autocommit: bool
) -> None:
    address, options = pooler.dsn(migrated), {"autocommit": autocommit}
    with (
        psycopg_pool.ConnectionPool(address, kwargs=options, max_size=4, open=True) as pool,
        asm.SessionStore(pool=pool) as store,
    ):
        at_once(partial(use_all_of_it, store))
        assert numbers(store.get_events("shared")) == list(range(1, 5 * CALLERS + 1))


def test_waiting_for_a_lock_behind_a_pooler_ends_in_a_timeout(
    migrated: str, pooler: Pooler, opened: Callable[..., Any]
) -> None:
    store = opened(pooler.dsn(migrated), timeout=SHORT_S, retry_for=0, max_size=4)
    with store.transaction() as tx:
        tx.append_event(an_event())
        with pytest.raises(asm.StorageTimeout):
            store.append_event(an_event())
        with pytest.raises(asm.StorageTimeout):
            store.delete_session("ses_1")
    assert numbers([store.append_event(an_event())]) == [2]


def test_waiting_for_a_server_connection_of_a_pooler_ends_in_a_timeout(
    migrated: str, kind: str, clusters: Callable[[str], Cluster]
) -> None:
    limits: dict[str, Any] = {
        "timeout": SHORT_S,
        "statement_timeout": SHORT_S,
        "retry_for": 0,
        "min_size": 2,
    }
    with (
        Pooler(clusters(kind).dsn, default_pool_size=1) as pooler,
        asm.SessionStore(pooler.dsn(migrated), **limits) as store,
    ):
        with store.transaction() as tx:
            tx.append_event(an_event())
            with pytest.raises(asm.StorageTimeout):
                store.get_events("ses_1")
        assert numbers([store.append_event(an_event())]) == [2]


def test_opening_behind_a_pooler_without_a_free_server_connection_ends_in_an_error(
    migrated: str,
    kind: str,
    clusters: Callable[[str], Cluster],
    opened: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for checks in (server_checks, async_server_checks):
        monkeypatch.setattr(checks, "CONFIGURE_TIMEOUT_S", 0.5)
    with Pooler(clusters(kind).dsn, default_pool_size=1) as pooler:
        with psycopg.connect(pooler.dsn(migrated)) as other, ThreadPoolExecutor(1) as thread:
            other.execute("select 1")
            opening = thread.submit(opened, pooler.dsn(migrated), retry_for=0)
            try:
                with pytest.raises((asm.ConnectionFailed, asm.StorageTimeout)):
                    opening.result(SOON_S)
            finally:
                other.rollback()
        assert opened(pooler.dsn(migrated)).get_events("ses_1") == []


@contextmanager
def busy(store: Any) -> Iterator[list[asm.Event]]:
    """Several callers that append without a pause; the events that they got back."""
    stored: list[asm.Event] = []
    over = threading.Event()

    def work(caller: int) -> None:
        while not over.is_set():
            stored.append(store.append_event(an_event(f"ses_{caller % 2}")))
            store.get_latest_sequence("ses_0")

    with ThreadPoolExecutor(CALLERS) as threads:
        callers = [threads.submit(work, caller) for caller in range(CALLERS)]
        try:
            yield stored
        finally:
            over.set()
            for caller in callers:
                caller.result(SOON_S)


def until_more_than(number: int, stored: list[asm.Event]) -> None:
    deadline = time.monotonic() + SOON_S
    while len(stored) <= number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_all_there(store: Any, stored: list[asm.Event]) -> None:
    there = {event for session_id in ("ses_0", "ses_1") for event in store.get_events(session_id)}
    assert set(stored) <= there
    for session_id in ("ses_0", "ses_1"):
        read = numbers(store.get_events(session_id))
        assert read == list(range(1, len(read) + 1))


def test_a_restart_of_a_pooler_is_no_error(migrated: str, pooler: Pooler, opened: Callable[..., Any]) -> None:
    store = opened(pooler.dsn(migrated), retry_for=SOON_S)
    with busy(store) as stored:
        until_more_than(20, stored)
        pooler.stop()
        # The store finds the pooler stopped, and retries, for a part of this time.
        time.sleep(0.2)
        pooler.start()
        until_more_than(len(stored) + 50, stored)
    assert_all_there(store, stored)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not INSTALLATIONS:
        pytest.skip("only a server of our own can be stopped")
    with Server(next(iter(INSTALLATIONS.values())), in_memory(), settings=UNSYNCED) as server:
        yield server


def test_a_restart_of_the_server_behind_a_pooler_is_no_error(
    kind: str, server: Server, opened: Callable[..., Any], colour: str
) -> None:
    assert kind != "sqlite"
    with Pooler(server.dsn(), server_login_retry=1) as pooler:
        store = opened(pooler.dsn(server.dsn()), schema=f"of_{colour}", migrate=True, retry_for=SOON_S)
        with busy(store) as stored:
            until_more_than(20, stored)
            server.stop("immediate")
            server.start()
            until_more_than(len(stored) + 50, stored)
        assert_all_there(store, stored)
