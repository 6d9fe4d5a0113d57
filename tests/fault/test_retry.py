"""An operation whose connection is cut is retried, whatever it is and wherever it is cut."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import asm
from tests.conftest import (
    INSTALLATIONS,
    POSTGRES,
    UNSYNCED,
    Blocking,
    an_artifact,
    an_event,
    in_memory,
    numbers,
)
from tests.contract.other_clients import driver_connection, fetch_rows, only, opened_pool
from tests.fault.concurrent_writers import ConcurrentWriters, assert_stored_exactly_once, wait_until
from tests.fault.operations import ARTIFACT, CASES, SOME, store_what_is_used
from tests.fault.proxy import Moment, Proxy
from tests.servers import Server

Opener = Callable[..., Any]

WAITING = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"

SESSION = asm.Session(agent_id="agent", id="ses_1")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
APPENDS: dict[str, Callable[[Any], Any]] = {
    "append_event": lambda store: store.append_event(an_event()),
    "append_events": lambda store: store.append_events([an_event()]),
    "flush": lambda store: store.flush(SESSION, asm.Run(session_id="ses_1"), [an_event()]),
}

postgres_only = only(POSTGRES, why="SQLite has no connection that could be lost")
newest_only = only(POSTGRES[:1], why="the client does the same on every version of the server")
own_servers_only = pytest.mark.skipif(
    not INSTALLATIONS, reason="a server can be stopped only where it is ours"
)


@pytest.fixture
def proxy(migrated: str) -> Iterator[Proxy]:
    with Proxy(migrated) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """Two servers with the same password, like the hosts of a cluster."""
    both = [Server(INSTALLATIONS[POSTGRES[0]], in_memory(), settings=UNSYNCED) for _ in range(2)]
    both[1].password = both[0].password
    with both[0], both[1]:
        yield both


@pytest.fixture
def server(servers: list[Server]) -> Iterator[Server]:
    """A server that accepts writes, with empty tables."""
    yield from emptied(servers[0])


@pytest.fixture
def successor(servers: list[Server]) -> Iterator[Server]:
    yield from emptied(servers[1])


def emptied(server: Server) -> Iterator[Server]:
    asm.migrate(server.dsn())
    fetch_rows(server.dsn(), "truncate asm_events, asm_session_sequences, asm_sessions, asm_runs")
    yield server
    set_read_only(server.dsn(), "off")


def in_front_of(*servers: Server) -> str:
    """A DSN of several hosts that selects the one that accepts writes."""
    return make_conninfo(
        servers[0].dsn(),
        host=",".join(server.host for server in servers),
        port=",".join(str(server.port) for server in servers),
        target_session_attrs="read-write",
    )


@newest_only
@pytest.mark.parametrize("moment", ["before", "in", "after"])
@pytest.mark.parametrize("name", CASES)
def test_an_operation_whose_connection_is_cut_is_done_once(
    proxy: Proxy, opened: Opener, name: str, moment: Moment
) -> None:
    case = CASES[name]
    store = opened(proxy.dsn)
    store_what_is_used(store)

    proxy.cut_when(case.sends, moment)
    case.run(store)

    assert proxy.faults == {f"cut {moment}": 1}
    assert case.read(store) == case.expected


@newest_only
def test_an_artifact_that_another_client_registered_before_the_retry_is_an_error(
    proxy: Proxy, opened: Opener, migrated: str
) -> None:
    store, other = opened(proxy.dsn, max_size=1), opened(migrated)
    proxy.cut_when(b"art_lost", "before")
    proxy.refuse()
    with ThreadPoolExecutor(1) as thread:
        ours = thread.submit(store.artifacts.register, ARTIFACT)
        wait_until(lambda: proxy.faults["cut before"])
        other.artifacts.register(an_artifact(id="art_theirs"))
        proxy.accept()
        with pytest.raises(asm.AlreadyExists):
            ours.result()


def test_an_artifact_that_is_registered_twice_is_an_error(store: Any) -> None:
    store.artifacts.register(ARTIFACT)
    with pytest.raises(asm.AlreadyExists):
        store.artifacts.register(ARTIFACT)


@newest_only
def test_all_appends_of_a_batch_return_when_their_connections_are_cut(
    proxy: Proxy, opened: Opener, migrated: str
) -> None:
    writers = ConcurrentWriters()
    with writers.running([opened(proxy.dsn, max_size=4)], callers=16):
        for _ in range(5):
            wait_until(proxy.cut)
            writers.wait_for_progress()
    assert_stored_exactly_once(migrated, writers.acknowledged)


@newest_only
def test_nothing_in_a_transaction_is_retried(proxy: Proxy, opened: Opener) -> None:
    store = opened(proxy.dsn)
    proxy.cut_when(b"evt_lost0", "before")
    with pytest.raises(asm.ConnectionFailed), store.transaction() as tx:
        tx.append_event(an_event("ses_lost"))
        tx.append_event(SOME[0])
    assert store.get_events("ses_lost") == []


@newest_only
def test_without_retry_for_the_first_loss_is_raised(proxy: Proxy, opened: Opener) -> None:
    store = opened(proxy.dsn, retry_for=0)
    proxy.cut_when(b"evt_lost0", "before")
    with pytest.raises(asm.ConnectionFailed):
        store.append_event(SOME[0])
    assert store.append_event(SOME[0]).sequence_number == 1


@newest_only
def test_an_operation_is_retried_until_retry_for_is_over(proxy: Proxy, opened: Opener) -> None:
    store = opened(proxy.dsn, retry_for=1)
    proxy.refuse()
    proxy.cut()
    start = time.monotonic()
    with pytest.raises(asm.ConnectionFailed):
        store.append_event(an_event())
    assert time.monotonic() - start > 1
    proxy.accept()
    assert store.append_event(an_event()).sequence_number == 1


@newest_only
def test_closing_does_not_wait_for_an_operation_that_is_retried_without_end(
    proxy: Proxy, opened: Opener
) -> None:
    store = opened(proxy.dsn, retry_for=float("inf"))
    store.append_event(an_event())
    proxy.refuse()
    proxy.cut()

    with ThreadPoolExecutor(1) as thread:
        appending = thread.submit(store.append_event, an_event())
        wait_until(appending.running)
        store.close()

        with pytest.raises((asm.ConnectionFailed, asm.StoreClosed)):
            appending.result()


@own_servers_only
def test_a_crash_of_the_server_and_five_seconds_without_it_are_no_error(server: Server) -> None:
    writers = ConcurrentWriters()
    with (
        asm.SessionStore(server.dsn(), retry_for=60) as store,
        Blocking.opened(server.dsn(), retry_for=60) as async_store,
        writers.running([store, async_store], callers=64),
    ):
        server.stop("immediate")
        # This is the length of the outage, and no time by which something must have happened.
        time.sleep(5)
        server.start()
    assert_stored_exactly_once(server.dsn(), writers.acknowledged)


@own_servers_only
def test_a_store_leaves_a_server_that_became_read_only_for_the_one_that_writes(
    server: Server, successor: Server, opened: Opener
) -> None:
    store = opened(in_front_of(server, successor), min_size=3)
    store.append_event(an_event())
    set_read_only(server.dsn(), "on")

    store.append_event(an_event("ses_2"))
    assert len(fetch_rows(successor.dsn(), "select 1 from asm_events")) == 1
    with store.transaction() as tx:
        tx.append_event(an_event("ses_2"))
    assert len(fetch_rows(successor.dsn(), "select 1 from asm_events")) == 2


@own_servers_only
def test_a_write_waits_for_a_server_that_is_read_only_for_a_while(server: Server, opened: Opener) -> None:
    store = opened(server.dsn())
    store.append_event(an_event())
    set_read_only(server.dsn(), "on")
    with ThreadPoolExecutor(1) as thread:
        appended = thread.submit(store.append_event, an_event())
        assert store.get_latest_sequence("ses_1") == 1
        set_read_only(server.dsn(), "off")
        assert appended.result().sequence_number == 2


@own_servers_only
def test_a_write_on_a_server_that_stays_read_only_is_an_error_that_names_the_setting(
    server: Server, opened: Opener
) -> None:
    store = opened(server.dsn(), retry_for=0.5)
    stored = store.append_event(an_event())
    set_read_only(server.dsn(), "on")
    with pytest.raises(asm.ConnectionFailed, match="default_transaction_read_only is on: turn it") as failed:
        store.append_event(an_event())
    assert failed.value.retryable
    assert store.get_events("ses_1") == [stored]


@own_servers_only
def test_a_transaction_on_a_read_only_server_fails_and_the_next_one_uses_another(
    server: Server, successor: Server, opened: Opener
) -> None:
    store = opened(in_front_of(server, successor))
    set_read_only(server.dsn(), "on")
    with pytest.raises(asm.ConnectionFailed), store.transaction() as tx:
        tx.append_event(an_event())
    with store.transaction() as tx:
        tx.append_event(an_event())
    assert len(fetch_rows(successor.dsn(), "select 1 from asm_events")) == 1


def set_read_only(dsn: str, setting: str) -> None:
    """For all sessions, including those that are open."""
    able = make_conninfo(dsn, options="-c default_transaction_read_only=off")
    fetch_rows(able, f"alter system set default_transaction_read_only = {setting}")
    fetch_rows(able, "select pg_reload_conf()")
    wait_until(lambda: fetch_rows(dsn, "show default_transaction_read_only") == [(setting,)])


@newest_only
def test_the_next_host_is_used_when_the_first_is_down(proxy: Proxy, opened: Opener, migrated: str) -> None:
    with Proxy(migrated) as other:
        ports = f"{proxy.port},{other.port}"
        store = opened(make_conninfo(proxy.dsn, host="127.0.0.1,127.0.0.1", port=ports))
        store.append_event(an_event())
        assert not other.connections
        proxy.refuse()
        proxy.cut()
        assert store.append_event(an_event()).sequence_number == 2
        assert other.connections


@postgres_only
def test_a_deadlock_is_retried(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    store.append_events([an_event("ses_1"), an_event("ses_2")])
    lock = "select 1 from asm_session_sequences where session_id = '{}' for update"
    with driver_connection(migrated) as other, ThreadPoolExecutor(1) as thread:
        # PostgreSQL refuses the transaction whose deadlock_timeout ends first.
        other.execute("begin; set local deadlock_timeout = '1min'; " + lock.format("ses_2"))
        appended = thread.submit(store.append_events, [an_event("ses_1"), an_event("ses_2")])
        wait_until(lambda: fetch_rows(migrated, WAITING))
        other.execute(lock.format("ses_1"))
        other.execute("commit")
        assert numbers(appended.result()) == [2, 2]


DELETIONS: dict[str, Callable[[Any], Any]] = {
    "one": lambda store: store.delete_session("ses_1"),
    "what is due": lambda store: store.maintenance.hard_delete_expired_sessions(asm.RetentionPolicy()),
}


@postgres_only
@pytest.mark.parametrize("delete", DELETIONS.values(), ids=DELETIONS)
def test_a_flush_without_events_and_a_deletion_wait_for_each_other(
    migrated: str, opened: Opener, delete: Callable[[Any], Any]
) -> None:
    store = opened(migrated, retry_for=0)
    session, run = replace(SESSION, deleted_at=LONG_AGO), asm.Run(session_id="ses_1")
    store.flush(session, run)
    with driver_connection(migrated) as other, ThreadPoolExecutor(2) as threads:
        other.execute("begin; select 1 from asm_runs for update")
        flushed = threads.submit(store.flush, session, run)
        wait_until(lambda: fetch_rows(migrated, WAITING))
        deleted = threads.submit(delete, store)
        wait_until(lambda: len(fetch_rows(migrated, WAITING)) == 2)
        other.execute("commit")
        flushed.result()
        deleted.result()
    assert store.list_sessions(include_deleted=True) == []


MOVE_A_COUNTER = "update asm_session_sequences set updated_at = now() where session_id = 'ses_1'"


@pytest.fixture
def serializable(migrated: str) -> str:
    """A database whose default isolation level is serializable."""
    name = conninfo_to_dict(migrated)["dbname"]
    fetch_rows(migrated, f"alter database {name} set default_transaction_isolation = serializable")
    return migrated


@pytest.fixture
def serializable_pool(serializable: str, colour: str) -> Iterator[Any]:
    """A pool to borrow, on whose connections a store sets nothing."""
    with opened_pool(serializable, colour, autocommit=True) as pool:
        yield pool


@contextmanager
def counter_moved_during(dsn: str, append: Callable[[], Any]) -> Iterator[Future[Any]]:
    """An append that waits for the lock of a counter, which another client then changes."""
    with driver_connection(dsn) as other, ThreadPoolExecutor(1) as thread:
        other.execute("begin; " + MOVE_A_COUNTER)
        appended = thread.submit(append)
        wait_until(lambda: fetch_rows(dsn, WAITING))
        other.execute("commit")
        yield appended


@postgres_only
@pytest.mark.parametrize("append", APPENDS)
def test_a_serialization_failure_is_retried(
    serializable: str, serializable_pool: Any, opened: Opener, append: str
) -> None:
    store = opened(pool=serializable_pool)
    store.append_event(an_event())
    with counter_moved_during(serializable, lambda: APPENDS[append](store)) as appended:
        appended.result()
    assert numbers(store.get_events("ses_1")) == [1, 2]


@postgres_only
def test_a_serialization_failure_says_that_it_is_retryable(
    serializable: str, serializable_pool: Any, opened: Opener
) -> None:
    store = opened(pool=serializable_pool, retry_for=0)
    store.append_event(an_event())
    with (
        counter_moved_during(serializable, lambda: store.append_event(an_event())) as appended,
        pytest.raises(asm.StorageError) as failed,
    ):
        appended.result()
    assert failed.value.retryable
    assert failed.value.details["sqlstate"] == "40001"
    assert store.get_latest_sequence("ses_1") == 1


@postgres_only
@pytest.mark.parametrize("append", APPENDS)
def test_a_default_isolation_level_makes_no_append_fail(
    serializable: str, opened: Opener, append: str
) -> None:
    store = opened(serializable, retry_for=0)
    store.append_event(an_event())
    with counter_moved_during(serializable, lambda: APPENDS[append](store)) as appended:
        appended.result()
    assert numbers(store.get_events("ses_1")) == [1, 2]


@postgres_only
@pytest.mark.parametrize("wrong", ["password", "dbname", "user"])
def test_a_refused_login_is_reported_at_once(migrated: str, opened: Opener, wrong: str) -> None:
    start = time.monotonic()
    with pytest.raises(asm.ConnectionFailed, match=r"authentication failed|does not exist") as refused:
        opened(make_conninfo(migrated, **{wrong: "wrong"}), retry_for=60)
    assert time.monotonic() - start < 30
    assert not refused.value.retryable


@newest_only
def test_an_error_of_a_statement_is_raised_at_once(migrated: str, opened: Opener) -> None:
    store = opened(migrated, retry_for=60)
    fetch_rows(migrated, "alter table asm_events add constraint none check (false) not valid")
    with pytest.raises(asm.StorageError, match="check constraint"):
        store.append_event(an_event())
