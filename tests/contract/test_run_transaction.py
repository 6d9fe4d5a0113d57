"""run_transaction: work in a transaction, which is run again after a failure that left nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import asm
from tests.conftest import POSTGRES, Where, an_event, in_loop, numbers
from tests.contract.other_clients import LOCK_WAITS, driver_connection, fetch_rows, only
from tests.fault.concurrent_writers import wait_until


def test_the_result_of_the_work_is_returned_and_its_writes_are_committed(store: Any) -> None:
    def work(tx: Any) -> int:
        tx.save_session(asm.Session(agent_id="a", id="ses_1"))
        return int(tx.append_event(an_event()).sequence_number)

    assert store.run_transaction(work) == 1
    assert (store.get_session("ses_1").agent_id, store.get_latest_sequence("ses_1")) == ("a", 1)


def test_an_error_of_the_work_is_raised_as_it_is_and_rolls_everything_back(store: Any) -> None:
    calls = []

    def work(tx: Any) -> None:
        calls.append(1)
        tx.append_event(an_event())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.run_transaction(work)
    assert (len(calls), store.get_latest_sequence("ses_1")) == (1, 0)


@pytest.mark.parametrize("work", [None, "work", 3])
def test_work_is_a_function(migrated: str, work: Any) -> None:
    async def awaited() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            await store.run_transaction(work)

    with asm.SessionStore(migrated) as store, pytest.raises(asm.ValidationError, match="must be a function"):
        store.run_transaction(work)
    with pytest.raises(asm.ValidationError, match="must be a function"):
        in_loop(awaited())


def test_a_coroutine_function_is_refused_by_a_blocking_store(migrated: str) -> None:
    async def awaited(tx: Any) -> None:
        raise AssertionError

    work: Any = awaited
    with asm.SessionStore(migrated) as store:
        with pytest.raises(asm.ValidationError, match="plain function"):
            store.run_transaction(work)
        with pytest.raises(asm.ValidationError, match="returned a coroutine"):
            store.run_transaction(lambda tx: work(tx))


def test_a_plain_function_is_refused_by_an_async_store_and_nothing_is_committed(migrated: str) -> None:
    async def main() -> None:
        work: Any = len
        async with asm.AsyncSessionStore(migrated) as store:
            with pytest.raises(asm.ValidationError, match="`async def`"):
                await store.run_transaction(lambda _: work([]))
            assert await store.run_transaction(awaited) == 1

    async def awaited(tx: asm.AsyncTransaction) -> int | None:
        return (await tx.append_event(an_event())).sequence_number

    in_loop(main())


def test_idempotent_is_a_boolean(store: Any) -> None:
    with pytest.raises(asm.ValidationError, match="idempotent"):
        store.run_transaction(lambda tx: None, idempotent="yes")


CALLERS, ROUNDS = 6, 10


def test_concurrent_work_on_one_row_loses_no_update(where: Where, opened: Callable[..., Any]) -> None:
    fetch_rows(where.dsn, "create table total (n integer)")
    fetch_rows(where.dsn, "insert into total values (0)")
    store = opened(where.dsn)
    lock = "" if where.dialect == "sqlite" else " for update"

    def work(tx: Any) -> None:
        [(n,)] = tx.execute(f"select n from total{lock}")
        tx.append_event(an_event())
        tx.execute(f"update total set n = {n + 1}")

    def repeat(_: int) -> None:
        for _ in range(ROUNDS):
            store.run_transaction(work)

    with ThreadPoolExecutor(CALLERS) as threads:
        list(threads.map(repeat, range(CALLERS)))
    assert fetch_rows(where.dsn, "select n from total") == [(CALLERS * ROUNDS,)]
    assert numbers(store.get_events("ses_1")) == list(range(1, CALLERS * ROUNDS + 1))


postgres_only = only(POSTGRES[:1], why="SQLite has one writer, and no deadlocks")

FIRST, SECOND = (f"select 1 from locked where id = {n} for update" for n in (1, 2))


def on_the_connection(tx: Any, statement: str) -> None:
    """Execute a statement on `tx.connection`, whose errors are the driver's."""
    done = tx.connection.execute(statement)
    if hasattr(done, "__await__"):
        in_loop(done)


def by_execute(tx: Any, statement: str) -> None:
    tx.execute(statement)


@postgres_only
@pytest.mark.parametrize("execute", [by_execute, on_the_connection])
def test_work_is_run_again_after_a_deadlock_of_its_own_statements(
    migrated: str, opened: Callable[..., Any], execute: Callable[[Any, str], None]
) -> None:
    fetch_rows(migrated, "create table locked (id integer primary key)")
    fetch_rows(migrated, "insert into locked values (1), (2)")
    store, calls = opened(migrated), []

    def work(tx: Any) -> None:
        calls.append(1)
        tx.append_event(an_event())
        execute(tx, FIRST)
        execute(tx, SECOND)

    with driver_connection(migrated) as other, ThreadPoolExecutor(1) as thread:
        # PostgreSQL refuses the transaction whose deadlock_timeout ends first.
        other.execute("begin; set local deadlock_timeout = '1min'; " + SECOND)
        working = thread.submit(store.run_transaction, work)
        wait_until(lambda: fetch_rows(migrated, LOCK_WAITS))
        other.execute(FIRST)
        other.execute("commit")
        working.result()
    assert (len(calls), store.get_latest_sequence("ses_1")) == (2, 1)


@postgres_only
def test_work_is_run_again_after_a_serialization_failure(migrated: str, opened: Callable[..., Any]) -> None:
    fetch_rows(migrated, "create table total (n integer); insert into total values (0)")
    store, calls = opened(migrated), []

    def work(tx: Any) -> None:
        calls.append(1)
        tx.execute("set transaction isolation level repeatable read")
        [(n,)] = tx.execute("select n from total")
        if len(calls) == 1:
            fetch_rows(migrated, "update total set n = 10")
        tx.execute("update total set n = %s", (n + 1,))

    store.run_transaction(work)
    assert (len(calls), fetch_rows(migrated, "select n from total")) == (2, [(11,)])


@postgres_only
def test_without_retry_for_the_first_failure_is_raised(migrated: str, opened: Callable[..., Any]) -> None:
    fetch_rows(migrated, "create table total (n integer); insert into total values (0)")
    calls = []

    def work(tx: Any) -> None:
        calls.append(1)
        tx.execute("set transaction isolation level repeatable read")
        tx.execute("select n from total")
        fetch_rows(migrated, "update total set n = n + 1")
        tx.execute("update total set n = 0")

    with pytest.raises(asm.StorageError, match="serialization failure"):
        opened(migrated, retry_for=0).run_transaction(work)
    assert len(calls) == 1


@only(["sqlite"], why="PostgreSQL has a connection for each")
def test_the_store_is_refused_inside_its_own_work(store: Any) -> None:
    with asm.SessionStore("sqlite://", migrate=True) as own:
        with pytest.raises(asm.StorageError, match="call the transaction's methods"):
            own.run_transaction(lambda tx: own.append_event(an_event()))
        with pytest.raises(asm.StorageError, match="call the transaction's methods"):
            own.run_transaction(lambda tx: own.run_transaction(lambda tx: None))
