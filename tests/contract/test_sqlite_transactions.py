"""What a thread or task may call on a SQLite store that it is using already."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import asm
from asm.dsn import parse_dsn
from asm.engine.script import Script, UnitOfWork
from asm.operations.appending import append_event
from tests.conftest import an_event, events_of
from tests.contract.other_clients import only, open_files

pytestmark = only(["sqlite"], why="PostgreSQL has a connection for each")

TIMEOUT_S = 600.0
"""A call that waited for its own caller would exceed the time limit of the test."""

WRITES: dict[str, Callable[[Any], Any]] = {
    "append_event": lambda store: store.append_event(an_event()),
    "append_events": lambda store: store.append_events(events_of("ses_1", 2)),
    "save_session": lambda store: store.save_session(asm.Session(agent_id="a")),
    "save_run": lambda store: store.save_run(asm.Run(session_id="ses_1")),
    "delete_session": lambda store: store.delete_session("ses_1"),
}


def begin(store: asm.SessionStore) -> None:
    with store.transaction():
        pass


def take_connection(store: asm.SessionStore) -> None:
    with store.transaction() as tx:
        assert isinstance(tx.connection, sqlite3.Connection)


async def begin_async(store: asm.AsyncSessionStore) -> None:
    async with store.transaction():
        pass


@pytest.mark.parametrize("call", [*WRITES.values(), begin], ids=[*WRITES, "transaction"])
def test_a_write_through_the_store_inside_its_own_transaction_is_refused_at_once(
    migrated: str, call: Callable[[Any], Any]
) -> None:
    with asm.SessionStore(migrated, timeout=TIMEOUT_S) as store:
        with store.transaction() as tx:
            tx.append_event(an_event())
            with pytest.raises(asm.StorageError, match="call the transaction's methods"):
                call(store)
        assert store.get_latest_sequence("ses_1") == 1


@pytest.mark.parametrize("call", [*WRITES.values(), begin_async], ids=[*WRITES, "transaction"])
def test_an_awaited_write_through_the_store_inside_its_own_transaction_is_refused_at_once(
    migrated: str, call: Callable[[Any], Any]
) -> None:
    async def write() -> None:
        async with asm.AsyncSessionStore(migrated, timeout=TIMEOUT_S) as store:
            async with store.transaction() as tx:
                await tx.append_event(an_event())
                with pytest.raises(asm.StorageError, match="call the transaction's methods"):
                    await call(store)
            assert await store.get_latest_sequence("ses_1") == 1

    asyncio.run(write())


def test_the_store_can_be_read_inside_its_own_transaction(migrated: str) -> None:
    with asm.SessionStore(migrated) as store, store.transaction() as tx:
        tx.append_event(an_event())
        assert (store.get_latest_sequence("ses_1"), tx.get_latest_sequence("ses_1")) == (0, 1)


def test_a_database_in_memory_cannot_be_read_through_the_store_inside_its_own_transaction(kind: str) -> None:
    with asm.SessionStore(f"{kind}://", migrate=True, timeout=TIMEOUT_S) as store:
        with store.transaction(), pytest.raises(asm.StorageError, match="call the transaction's methods"):
            store.get_latest_sequence("ses_1")
        assert store.append_event(an_event()).sequence_number == 1


def test_other_threads_wait_for_the_transaction(migrated: str) -> None:
    with asm.SessionStore(migrated) as store, ThreadPoolExecutor(1) as thread:
        with store.transaction() as tx:
            tx.append_event(an_event())
            appending = thread.submit(store.append_event, an_event())
            assert store.get_latest_sequence("ses_1") == 0
        assert appending.result().sequence_number == 2


def test_a_transaction_ends_after_the_operation_that_another_thread_executes(migrated: str) -> None:
    executing = threading.Event()

    def interrupted() -> Script[None]:
        yield from append_event(an_event())
        executing.set()
        while tx._database._open:
            pass
        raise KeyboardInterrupt

    with asm.SessionStore(migrated) as store, ThreadPoolExecutor(1) as thread:
        with pytest.raises(asm.StorageError, match="an earlier statement"), store.transaction() as tx:
            running = thread.submit(tx._database.run, UnitOfWork(interrupted))
            executing.wait()
        assert isinstance(running.exception(), KeyboardInterrupt)
        assert store.get_events("ses_1") == []


def test_a_store_that_is_closed_inside_its_own_transaction_ends_with_it(migrated: str) -> None:
    store = asm.SessionStore(migrated, timeout=TIMEOUT_S)
    with store.transaction() as tx:
        tx.append_event(an_event())
        store.close()
    with pytest.raises(asm.StoreClosed):
        store.get_latest_sequence("ses_1")
    with asm.SessionStore(migrated) as again:
        assert again.get_latest_sequence("ses_1") == 1


def test_an_async_store_that_is_closed_inside_its_own_transaction_ends_with_it(migrated: str) -> None:
    async def close() -> None:
        store = asm.AsyncSessionStore(migrated, timeout=TIMEOUT_S)
        await store.open()
        async with store.transaction() as tx:
            await tx.append_event(an_event())
            await store.close()
        with pytest.raises(asm.StoreClosed):
            await store.get_latest_sequence("ses_1")

    asyncio.run(close())
    with asm.SessionStore(migrated) as again:
        assert again.get_latest_sequence("ses_1") == 1


def test_a_store_that_another_transaction_keeps_from_closing_refuses_calls_and_can_be_closed_again(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(migrated, timeout=0.1)
    begun, ending = threading.Event(), threading.Event()

    def transact() -> None:
        with store.transaction() as tx:
            begun.set()
            assert ending.wait(TIMEOUT_S)
            tx.append_event(an_event())

    with ThreadPoolExecutor(1) as thread:
        transacting = thread.submit(transact)
        assert begun.wait(TIMEOUT_S)
        try:
            for _ in range(2):
                with pytest.raises(asm.StorageTimeout, match="holds a transaction open"):
                    store.close()
            for call in (*WRITES.values(), begin, READS_AND_CLOSE["get_events"]):
                with pytest.raises(asm.StoreClosed):
                    call(store)
        finally:
            ending.set()
        transacting.result()
    store.close()
    assert Path(parse_dsn(migrated).address) not in open_files()
    with asm.SessionStore(migrated) as again:
        assert again.get_latest_sequence("ses_1") == 1


@contextmanager
def handled(call: Callable[[], object]) -> Iterator[list[BaseException]]:
    """The errors of a call in the handler of SIGUSR1."""
    raised: list[BaseException] = []

    def handle(*_: object) -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield raised
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupted() -> Script[asm.Event]:
    """An append during which a signal arrives."""
    signal.raise_signal(signal.SIGUSR1)
    return (yield from append_event(an_event()))


READS_AND_CLOSE: dict[str, Callable[[Any], Any]] = {
    "get_events": lambda store: store.get_events("ses_1"),
    "transaction": begin,
    "close": lambda store: store.close(),
}


@pytest.mark.parametrize("name", [*WRITES, *READS_AND_CLOSE])
def test_a_signal_handler_cannot_call_the_store_that_it_interrupted(migrated: str, name: str) -> None:
    call = (WRITES | READS_AND_CLOSE)[name]
    with asm.SessionStore(migrated, timeout=TIMEOUT_S) as store:
        with handled(lambda: call(store)) as raised:
            store._database.run(UnitOfWork(interrupted, sessions=["ses_1"]))
        assert [type(error) for error in raised] == [asm.StorageError]
        assert "re-entrant call" in str(raised[0])
        assert store.append_event(an_event()).sequence_number == 2


def test_a_signal_handler_cannot_call_the_transaction_that_it_interrupted(migrated: str) -> None:
    with asm.SessionStore(migrated, timeout=TIMEOUT_S) as store:
        with store.transaction() as tx, handled(lambda: tx.append_event(an_event())) as raised:
            tx._database.run(UnitOfWork(interrupted, sessions=["ses_1"]))
        assert ["re-entrant call" in str(error) for error in raised] == [True]
        assert store.get_latest_sequence("ses_1") == 1


SQLITE_FOLDER = str(Path(asm.__file__).parent / "sqlite")


@contextmanager
def signal_at_line(number: int) -> Iterator[list[int]]:
    """Raise SIGUSR1 before one of the lines of asm/sqlite that this thread executes. Yields its number."""
    executed = count(1)
    signalled: list[int] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(SQLITE_FOLDER):
            return None
        if event == "line" and next(executed) == number:
            signalled.append(number)
            signal.raise_signal(signal.SIGUSR1)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield signalled
    finally:
        sys.settrace(before)


def get_and_append(store: asm.SessionStore) -> None:
    for call in (READS_AND_CLOSE["get_events"], WRITES["save_session"], WRITES["append_event"]):
        with suppress(asm.StorageError):
            call(store)


@pytest.mark.parametrize("transact", [begin, take_connection])
def test_a_signal_handler_may_call_the_store_at_every_line_of_a_transaction(
    migrated: str, transact: Callable[[asm.SessionStore], None]
) -> None:
    with asm.SessionStore(migrated, timeout=TIMEOUT_S) as store:
        with handled(partial(get_and_append, store)) as raised:
            for number in count(1):
                with signal_at_line(number) as signalled:
                    transact(store)
                if not signalled:
                    break
        assert raised == []
        assert number > 20
        assert store.append_event(an_event()).sequence_number


def test_a_signal_handler_may_call_the_store_at_every_line_of_its_closing(migrated: str) -> None:
    for number in count(1):
        store = asm.SessionStore(migrated, timeout=TIMEOUT_S)
        with handled(partial(get_and_append, store)) as raised, signal_at_line(number) as signalled:
            store.close()
        assert raised == []
        with pytest.raises(asm.StoreClosed):
            store.get_events("ses_1")
        if not signalled:
            break
    assert number > 10
