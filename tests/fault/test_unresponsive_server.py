"""No operation waits for ever for a server that does not respond."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from inspect import isawaitable
from typing import Any

import pytest

import asm
from asm.postgres.async_connections import AsyncStoreConnection
from asm.postgres.connections import StoreConnection
from asm.postgres.timeouts import Limit, limited
from tests.conftest import POSTGRES, an_event, in_loop
from tests.contract.other_clients import SHORT_S, driver_connection, fetch_rows, only
from tests.fault.concurrent_writers import wait_until
from tests.fault.operations import CASES
from tests.fault.proxy import Proxy

Opener = Callable[..., Any]

pytestmark = only(POSTGRES[:1], why="the client does the same whatever the server")

LONGEST_S = 45.0
"""The timeouts, those of the cancel request and of the check of the server, and a busy machine."""

IDLE = "select 1 from pg_stat_activity where datname = current_database() and state = 'idle'"

NAMES = [name for name in CASES if "many" not in name]


@pytest.fixture
def proxy(migrated: str) -> Iterator[Proxy]:
    with Proxy(migrated) as proxy:
        yield proxy


def with_short_timeouts(proxy: Proxy) -> str:
    return f"{proxy.dsn} connect_timeout=2 tcp_user_timeout=1000"


def seconds(work: Callable[[], Any]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def fails(work: Callable[[], Any]) -> None:
    with pytest.raises((asm.ConnectionFailed, asm.StorageTimeout)):
        work()


def test_no_operation_waits_for_ever_for_a_server_that_is_stuck(proxy: Proxy, opened: Opener) -> None:
    stores = {name: opened(with_short_timeouts(proxy), timeout=SHORT_S, retry_for=0) for name in NAMES}
    proxy.black_hole()
    with ThreadPoolExecutor(len(NAMES)) as threads:
        calls = [threads.submit(fails, partial(CASES[name].run, stores[name])) for name in NAMES]
        for each in calls:
            each.result(LONGEST_S)
        closed = [threads.submit(store.close) for store in stores.values()]
        for each in closed:
            each.result(LONGEST_S)
    proxy.mend()


def test_checking_whether_a_server_is_alive_needs_no_thread_of_the_event_loop(proxy: Proxy) -> None:
    async def main() -> None:
        loop, released = asyncio.get_running_loop(), threading.Event()
        async with asm.AsyncSessionStore(
            f"{with_short_timeouts(proxy)} hostaddr=127.0.0.1", timeout=SHORT_S
        ) as store:
            loop.set_default_executor(ThreadPoolExecutor(1))
            occupied = loop.run_in_executor(None, released.wait)
            try:
                with pytest.raises((asm.ConnectionFailed, asm.StorageTimeout)):
                    async with asyncio.timeout(LONGEST_S), store.transaction() as tx:
                        proxy.black_hole()
                        await tx.append_event(an_event())
            finally:
                proxy.mend()
                released.set()
                await occupied

    asyncio.run(main())


def test_an_operation_is_retried_when_its_connection_is_lost_without_a_sign(
    proxy: Proxy, opened: Opener, migrated: str
) -> None:
    # Long enough for one lost connection on a busy machine, and not for all sixteen.
    store = opened(with_short_timeouts(proxy), min_size=16, max_size=16, timeout=4, retry_for=45)
    store.append_event(an_event())
    wait_until(lambda: len(fetch_rows(migrated, IDLE)) >= 16)
    proxy.black_hole()
    proxy.mend()
    store.import_session(asm.SessionExport(session=asm.Session(agent_id="agent")))
    assert store.get_latest_sequence("ses_1") == 1


def test_an_operation_is_retried_when_the_network_fails_for_a_while(proxy: Proxy, opened: Opener) -> None:
    store = opened(with_short_timeouts(proxy), retry_for=30)
    store.append_event(an_event())
    with ThreadPoolExecutor(1) as thread:
        proxy.unplug()
        appended = thread.submit(store.append_event, an_event())
        # This is the length of the outage, and no time by which something must have happened.
        time.sleep(3)
        proxy.mend()
        assert appended.result(LONGEST_S).sequence_number == 2


def test_opening_a_store_ends_when_no_server_responds(proxy: Proxy, opened: Opener) -> None:
    proxy.unplug()
    assert seconds(lambda: fails(lambda: opened(with_short_timeouts(proxy), retry_for=0))) < LONGEST_S
    proxy.mend()


def test_a_transaction_on_a_server_that_is_stuck_ends_in_an_error(
    proxy: Proxy, opened: Opener, migrated: str
) -> None:
    store = opened(with_short_timeouts(proxy), timeout=SHORT_S)

    def work() -> None:
        with store.transaction() as tx:
            tx.append_event(an_event())
            proxy.black_hole()
            tx.append_event(an_event())

    assert seconds(lambda: fails(work)) < LONGEST_S
    assert fetch_rows(migrated, "select * from asm_events") == []
    proxy.mend()


def test_an_applications_own_statement_is_not_bounded_by_timeout(migrated: str, opened: Opener) -> None:
    store = opened(migrated, timeout=2, retry_for=0)
    with store.transaction() as tx:
        # Longer than `timeout`, and than the second that the client waits after it.
        slept = getattr(tx, "_target", tx).connection.execute("select pg_sleep(4)")
        if isawaitable(slept):
            in_loop(slept)
        tx.append_event(an_event())
    assert store.get_latest_sequence("ses_1") == 1


def test_an_application_may_wait_for_notifications_in_a_transaction(migrated: str, opened: Opener) -> None:
    store = opened(migrated, timeout=2, retry_for=0)
    with store.transaction() as tx:
        notified = getattr(tx, "_target", tx).connection.notifies(timeout=4)
        assert (in_loop(collected(notified)) if hasattr(notified, "__aiter__") else list(notified)) == []
        tx.append_event(an_event())
    assert store.get_latest_sequence("ses_1") == 1


LONG_S = 3.0
"""Longer than every limit below."""


def test_each_task_has_a_limit_of_its_own_on_a_connection_that_tasks_share(migrated: str) -> None:
    async def main() -> None:
        async with await AsyncStoreConnection.connect(migrated, autocommit=True) as connection:

            async def execute(statement: str, limit: Limit | None) -> None:
                with limited(connection, limit):
                    await connection.execute(statement)

            async def exceed() -> None:
                with pytest.raises(asm.StorageTimeout):
                    await execute(f"select pg_sleep({LONG_S})", Limit(0.3))

            await asyncio.gather(execute("select 1", Limit(LONG_S)), exceed())
            own = connection.execute("select pg_sleep(2)")
            await asyncio.gather(execute("select 1", None), own, execute("select 1", Limit(1)))

    asyncio.run(main())


def test_each_thread_has_a_limit_of_its_own_on_a_connection_that_threads_share(migrated: str) -> None:
    with (
        StoreConnection.connect(migrated, autocommit=True) as connection,
        ThreadPoolExecutor(1) as thread,
        limited(connection, Limit(0.3)),
    ):
        # An application's own statement, in a thread while another is inside an operation.
        thread.submit(connection.execute, "select pg_sleep(1)").result(LONGEST_S)
        with pytest.raises(asm.StorageTimeout):
            connection.execute(f"select pg_sleep({LONG_S})")


WITH_THE_LIBPQ_OF_THE_SYSTEM = """
import asyncio, sys, psycopg, asm

def blocking(dsn):
    with asm.SessionStore(dsn, timeout=1, statement_timeout=0.5, retry_for=0) as opened:
        print("open", flush=True)
        sys.stdin.readline()
        try:
            opened.get_events("ses_1")
        except asm.StorageError as error:
            print(type(error).__name__, flush=True)
        sys.stdin.readline()

async def awaited(dsn):
    async with asm.AsyncSessionStore(dsn, timeout=1, statement_timeout=0.5, retry_for=0) as opened:
        print("open", flush=True)
        sys.stdin.readline()
        try:
            await opened.get_events("ses_1")
        except asm.StorageError as error:
            print(type(error).__name__, flush=True)
        sys.stdin.readline()

if psycopg.pq.version() >= 170000:
    print("new", flush=True)
elif sys.argv[1] == "sync":
    blocking(sys.argv[2])
else:
    asyncio.run(awaited(sys.argv[2]))
"""


@pytest.mark.parametrize("stuck", [True, False], ids=["stuck", "locked"])
def test_a_statement_is_bounded_with_a_libpq_whose_cancel_request_has_no_timeout(
    proxy: Proxy, migrated: str, colour: str, stuck: bool
) -> None:
    environment = {**os.environ, "PSYCOPG_IMPL": "python"}
    command = [sys.executable, "-c", WITH_THE_LIBPQ_OF_THE_SYSTEM, colour, with_short_timeouts(proxy)]
    with (
        driver_connection(migrated) as other,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as program,
    ):
        assert program.stdin
        assert program.stdout
        said = program.stdout.readline().strip()
        if said != "open":
            pytest.skip("the system has no libpq before version 17")
        other.execute("begin; lock table asm_events in access exclusive mode")
        if stuck:
            proxy.black_hole()
        program.stdin.write("\n")
        program.stdin.flush()
        with ThreadPoolExecutor(1) as thread:
            try:
                read = thread.submit(program.stdout.readline)
                assert read.result(LONGEST_S).strip() == "StorageTimeout"
                if not stuck:
                    wait_until(lambda: not fetch_rows(migrated, WAITS_FOR_A_LOCK))
                program.communicate("\n", timeout=LONGEST_S)
            finally:
                program.kill()
    assert program.returncode == 0


WAITS_FOR_A_LOCK = (
    "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
)


async def collected(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]
