"""Connections of a pool that fail, grow old or are idle: none leaks, none is kept too long."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

import asm
from asm.operations.appending import append_event
from asm.operations.events import get_latest_sequence
from asm.postgres import database
from asm.postgres.connections import StoreConnection
from tests.conftest import (
    INSTALLATIONS,
    POSTGRES,
    UNSYNCED,
    Colour,
    an_event,
    events_of,
    in_loop,
    in_memory,
    numbers,
)
from tests.contract.other_clients import SHORT_S, driver_connection, fetch_rows, only
from tests.servers import Server

pytestmark = only(POSTGRES[:1], why="SQLite has no pool, and pools are the driver's, whatever the server")

SOON_S = 20.0

# An insert into a session that is named after an SQLSTATE fails with it.
FAILS_AS_IT_IS_NAMED = """
create function fail() returns trigger language plpgsql as $$
begin
    if new.session_id = 'fail_killed' then
        perform pg_terminate_backend(pg_backend_pid());
    elsif new.session_id like 'fail\\_%' then
        raise exception 'as it is named' using errcode = substr(new.session_id, 6);
    end if;
    return new;
end $$;
create trigger fails before insert on asm_events for each row execute function fail()
"""
STATES = [
    *("08006", "22012", "22P05", "23502", "23505", "25006", "28000", "40001", "42501", "42P01"),
    *("53100", "53300", "54000", "55P03", "57014", "57P01", "58030", "P0001", "XX000", "killed"),
]


def connections(dsn: str) -> int:
    counted = "application_name = 'counted' and datname = current_database()"
    return len(fetch_rows(dsn, f"select pid from pg_stat_activity where {counted}"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Lent:
    """A pool of an application, blocking or async, that is closed at the end."""

    def __init__(self, colour: Colour, dsn: str, **options: Any) -> None:
        kinds = {"sync": psycopg_pool.ConnectionPool, "async": psycopg_pool.AsyncConnectionPool}
        self._colour = colour
        self.pool: Any = kinds[colour](dsn, open=False, **options)
        self._done(self.pool.open())

    def close(self) -> None:
        self._done(self.pool.close())

    def _done(self, work: Any) -> None:
        if self._colour == "async":
            in_loop(work)


@pytest.fixture
def lend(colour: Colour) -> Iterator[Callable[..., Any]]:
    lent: list[Lent] = []

    def lend_pool(dsn: str, **options: Any) -> Any:
        lent.append(Lent(colour, dsn, **options))
        return lent[-1].pool

    yield lend_pool
    for each in lent:
        each.close()


WHOSE = ["own", "lent", "lent without autocommit"]


@pytest.fixture(params=WHOSE)
def store(
    request: pytest.FixtureRequest, migrated: str, opened: Callable[..., Any], lend: Callable[..., Any]
) -> Any:
    """A store with one connection, of its own or an application's."""
    dsn = make_conninfo(migrated, application_name="counted")
    if request.param == "own":
        return opened(dsn, max_size=1, timeout=5, retry_for=0)
    kwargs = {"autocommit": request.param == "lent", "row_factory": dict_row}
    return opened(pool=lend(dsn, min_size=1, max_size=1, timeout=5, kwargs=kwargs), retry_for=0)


def in_a_transaction(store: Any, events: list[asm.Event]) -> None:
    with store.transaction() as tx:
        tx.append_event(an_event("fine"))
        tx.append_events(events)


WAYS: dict[str, Callable[[Any, list[asm.Event]], Any]] = {
    "append": lambda store, events: store.append_event(events[0]),
    "gather": lambda store, events: store.append_events(events),
    "volley": lambda store, events: store.append_events([*events_of("fine", 600), *events]),
    "expect": lambda store, events: store.append_event(events[0], expected_sequence=0),
    "transaction": in_a_transaction,
}


def test_no_error_of_the_server_leaks_a_connection(migrated: str, store: Any) -> None:
    fetch_rows(migrated, FAILS_AS_IT_IS_NAMED)
    for state, way in itertools.product(STATES, WAYS):
        with pytest.raises((asm.AsmError, psycopg.Error)):
            WAYS[way](store, events_of(f"fail_{state}", 2))
        # The only connection is in the pool and idle.
        assert store.get_latest_sequence(f"fail_{state}") == 0
    assert store.get_latest_sequence("fine") == 0
    assert numbers([store.append_event(an_event("fine"))]) == [1]
    until(lambda: connections(migrated) == 1)
    busy = "select 1 from pg_stat_activity where application_name = 'counted' and state <> 'idle'"
    assert fetch_rows(migrated, busy) == []


def test_a_user_without_permission_gets_an_error_that_says_so(
    migrated: str, opened: Callable[..., Any]
) -> None:
    user = f"reader_{time.time_ns()}"
    fetch_rows(migrated, f"create role {user}; grant select on all tables in schema public to {user}")
    try:
        store = opened(make_conninfo(migrated, options=f"-c role={user}"), max_size=1, retry_for=0)
        assert store.get_events("ses_1") == []
        with pytest.raises(asm.StorageError, match="permission denied") as caught:
            store.append_event(an_event())
        assert not caught.value.retryable
    finally:
        store.close()
        fetch_rows(migrated, f"drop owned by {user}; drop role {user}")


def test_a_login_that_is_refused_while_the_store_is_open_is_reported_at_once(
    migrated: str, opened: Callable[..., Any]
) -> None:
    user = f"writer_{time.time_ns()}"
    fetch_rows(migrated, f"create role {user} login password 'old'")
    fetch_rows(migrated, f"grant pg_read_all_data, pg_write_all_data to {user}")
    try:
        dsn = make_conninfo(migrated, user=user, password="old")
        store = opened(dsn, min_size=1, max_size=1, timeout=SOON_S, retry_for=SOON_S)
        fetch_rows(migrated, f"alter role {user} password 'new'")
        fetch_rows(
            migrated, f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{user}'"
        )
        begun = time.monotonic()
        with pytest.raises(asm.ConnectionFailed, match="authentication failed") as refused:
            store.append_event(an_event())
        assert not refused.value.retryable
        assert time.monotonic() - begun < SOON_S / 2
    finally:
        store.close()
        fetch_rows(migrated, f"drop role {user}")


def test_a_spare_connection_to_a_server_that_became_read_only_is_replaced_too(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(migrated, max_size=2, retry_for=0)
    with pytest.raises(asm.ConnectionFailed, match="read-only"), store.transaction() as tx:
        tx.append_event(an_event())
        with store.transaction() as other:
            own(other, "set default_transaction_read_only = on")
        own(tx, "set transaction_read_only = on")
        tx.append_event(an_event())
    with store.transaction() as tx:
        tx.append_event(an_event())
    assert store.get_latest_sequence("ses_1") == 1


def own(tx: Any, statement: str) -> None:
    """Execute an application's own statement in a transaction."""
    done = tx.connection.execute(statement)
    if asyncio.iscoroutine(done):
        in_loop(done)


# Connections that are too old or idle


def pool_of(dsn: str, **options: Any) -> database.Postgres:
    kwargs = {"autocommit": True, "application_name": "counted"}
    pool = psycopg_pool.ConnectionPool(
        dsn, connection_class=StoreConnection, kwargs=kwargs, open=False, **options
    )
    return database.Postgres(pool, conninfo=dsn, timeout=5)


@contextmanager
def open_database(dsn: str, **options: Any) -> Iterator[database.Postgres]:
    database = pool_of(dsn, **options)
    database.open()
    try:
        yield database
    finally:
        database.close()


def test_a_connection_that_is_always_in_use_is_replaced_at_the_end_of_its_lifetime(migrated: str) -> None:
    with open_database(migrated, min_size=1, max_size=1, max_lifetime=0.1) as database:

        def process() -> int:
            database.run(get_latest_sequence("ses_1"))
            rows = fetch_rows(migrated, "select pid from pg_stat_activity where application_name = 'counted'")
            return int(rows[0][0]) if rows else 0

        first = process()
        until(lambda: process() not in (0, first))


def test_a_pool_of_minimum_size_0_closes_connections_that_are_idle(migrated: str) -> None:
    with open_database(migrated, min_size=0, max_size=4, max_idle=0.1) as database:
        database.run(append_event(an_event()))
        until(lambda: connections(migrated) == 0)
        assert database.run(get_latest_sequence("ses_1")) == 1


# Waiting for locks


def test_reading_a_locked_table_ends_in_a_timeout(migrated: str, opened: Callable[..., Any]) -> None:
    store = opened(migrated, timeout=SHORT_S, max_size=1)
    reads: tuple[Callable[[], Any], ...] = (
        lambda: store.get_events("ses_1"),
        lambda: store.query.get_session_stats("ses_1"),
    )
    with driver_connection(migrated) as other:
        other.execute("begin; lock table asm_events in access exclusive mode")
        for read in reads:
            with pytest.raises(asm.StorageTimeout):
                read()
    assert store.get_events("ses_1") == []


def test_a_write_that_waits_too_long_for_a_lock_gets_the_error_of_the_server(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(migrated, timeout=SHORT_S, max_size=1, retry_for=0)
    with driver_connection(migrated) as other:
        other.execute("begin; lock table asm_session_sequences in access exclusive mode")
        for _ in range(2):
            with pytest.raises(asm.StorageTimeout, match="could not obtain a lock"):
                store.append_event(an_event())


def test_many_appends_that_wait_for_a_lock_end_in_timeouts_and_the_store_goes_on(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(migrated, timeout=SHORT_S, max_size=2)
    failed: list[BaseException] = []

    def append() -> None:
        try:
            store.append_event(an_event())
        except asm.AsmError as error:
            failed.append(error)

    with driver_connection(migrated) as other:
        other.execute("begin; lock table asm_session_sequences in access exclusive mode")
        threads = [threading.Thread(target=append) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON_S)
            assert not thread.is_alive()
    assert [type(error) for error in failed] == [asm.StorageTimeout] * 20
    read = len(store.get_events("ses_1"))
    assert numbers([store.append_event(an_event())]) == [read + 1]


@pytest.mark.parametrize("timeout", [2, 2.5])
def test_a_checkout_that_times_out_says_after_how_long(
    migrated: str, opened: Callable[..., Any], timeout: float
) -> None:
    store = opened(migrated, timeout=timeout, max_size=1, retry_for=0)
    with store.transaction(), pytest.raises(asm.StorageTimeout, match=f"free within {timeout} s"):
        store.get_events("ses_1")


def test_a_caller_waits_for_a_connection_that_is_in_use_where_the_server_accepts_no_more(
    kind: str, opened: Callable[..., Any]
) -> None:
    settings = {**UNSYNCED, "max_connections": "5", "superuser_reserved_connections": "0"}
    with Server(INSTALLATIONS[kind], in_memory(), settings=settings) as server:
        asm.migrate(server.dsn())
        store = opened(server.dsn(), timeout=3, max_size=10, retry_for=0)
        with ExitStack() as transactions:
            with pytest.raises(asm.StorageTimeout, match="free within 3 s") as caught:
                for _ in range(6):
                    transactions.enter_context(store.transaction())
            assert "too many clients" in str(caught.value.__cause__)
        assert store.get_events("ses_1") == []
        store.close()


# Servers that restart


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not INSTALLATIONS:
        pytest.skip("only a server of our own can be stopped")
    with Server(next(iter(INSTALLATIONS.values())), in_memory(), settings=UNSYNCED) as server:
        asm.migrate(server.dsn())
        yield server


@pytest.mark.parametrize(
    "options",
    [{"kwargs": {"autocommit": True}}, {"kwargs": {"autocommit": False}}, {"close_returns": True}],
    ids=["autocommit", "no-autocommit", "close-returns"],
)
def test_a_borrowed_pool_outlives_a_restart_of_its_server(
    kind: str, server: Server, opened: Callable[..., Any], lend: Callable[..., Any], options: dict[str, Any]
) -> None:
    assert kind in POSTGRES
    pool = lend(server.dsn(), min_size=3, max_size=3, **options)
    store = opened(pool=pool, retry_for=SOON_S)
    before = store.get_latest_sequence("ses_1")
    server.stop("immediate")
    server.start()
    stored = [store.append_event(an_event()) for _ in range(5)]
    assert numbers(stored) == list(range(before + 1, before + 6))
