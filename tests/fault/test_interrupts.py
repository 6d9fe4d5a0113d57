"""An interrupted operation leaves all of itself or nothing in the database, and the store goes on working."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

import asm
from asm.engine.script import Script, UnitOfWork
from asm.operations.appending import append_event
from asm.sqlite.connection import LockedConnection
from tests.conftest import POSTGRES, Where, events_of
from tests.contract.other_clients import driver_connection, fetch_rows, only
from tests.fault.concurrent_writers import wait_until

SOON_S = 30.0

LOCKED = {
    "sqlite": "begin immediate",
    "postgres": "begin; lock table asm_session_sequences, asm_sessions, asm_events in access exclusive mode",
}
WAITING_FOR_A_LOCK = (
    "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
)

one_of_each = only(["sqlite", *POSTGRES[-1:]], why="what is interrupted is Python, the same for every server")


def flush(store: asm.SessionStore) -> None:
    store.flush(asm.Session(id="ses_1", agent_id="a"), asm.Run(session_id="ses_1"), events_of("ses_1", 2))


def transact(store: asm.SessionStore) -> None:
    with store.transaction() as tx:
        tx.append_events(events_of("ses_1", 2))
        tx.get_latest_sequence("ses_1")


WRITES: dict[str, tuple[Callable[[asm.SessionStore], object], int]] = {
    "append_event": (lambda store: store.append_event(events_of("ses_1", 1)[0]), 1),
    "append_events": (lambda store: store.append_events(events_of("ses_1", 3)), 3),
    "pipeline": (lambda store: store.append_events(events_of("ses_1", 1_500)), 1_500),
    "flush": (flush, 2),
    "delete_session": (lambda store: store.delete_session("ses_1"), 0),
    "transaction": (transact, 2),
}


@pytest.fixture
def store(where: Where) -> Iterator[asm.SessionStore]:
    """A store with one connection, which it must not lose."""
    with asm.SessionStore(where.dsn, max_size=1, timeout=SOON_S, retry_for=0) as store:
        yield store


@contextmanager
def signalled_while_waiting(
    where: Where, number: int, until_done: Callable[[], bool], lock: str | None = None
) -> Iterator[None]:
    """Lock the tables for a block; when the main thread waits for the lock, send it a signal.

    The lock is held until `until_done` returns true.
    """
    locked = threading.Event()

    def lock_and_signal() -> None:
        with driver_connection(where.dsn) as other:
            other.execute(lock or LOCKED[where.dialect])
            try:
                locked.set()
                wait_until(lambda: is_waiting(where))
                os.kill(os.getpid(), number)
                wait_until(until_done)
            finally:
                other.execute("rollback")

    with ThreadPoolExecutor(1) as thread:
        signalled = thread.submit(lock_and_signal)
        assert locked.wait(SOON_S)
        yield
        signalled.result()


def is_waiting(where: Where) -> bool:
    """Whether the main thread waits for the lock."""
    if where.dialect == "postgres":
        return bool(fetch_rows(where.dsn, WAITING_FOR_A_LOCK))
    frame: FrameType | None = sys._current_frames()[threading.main_thread().ident or 0]
    while frame is not None:
        if frame.f_code.co_filename.endswith("asm/sqlite/connection.py"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def handler(number: int, handle: Callable[..., Any]) -> Iterator[None]:
    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)


@one_of_each
@pytest.mark.parametrize("name", WRITES)
def test_an_interrupted_write_leaves_all_or_nothing_and_the_store_goes_on(
    where: Where, store: asm.SessionStore, name: str
) -> None:
    work, size = WRITES[name]
    interrupted = threading.Event()
    with (
        handler(signal.SIGINT, signal.default_int_handler),
        signalled_while_waiting(where, signal.SIGINT, interrupted.is_set),
    ):
        with pytest.raises(KeyboardInterrupt):
            work(store)
        interrupted.set()
    assert len(store.get_events("ses_1")) in (0, size)
    assert store.append_event(events_of("ses_2", 1)[0]).sequence_number == 1


@only([POSTGRES[-1]], why="a reader of SQLite waits for no lock")
def test_an_interrupted_read_leaves_a_store_that_goes_on(where: Where, store: asm.SessionStore) -> None:
    interrupted = threading.Event()
    with (
        handler(signal.SIGINT, signal.default_int_handler),
        signalled_while_waiting(where, signal.SIGINT, interrupted.is_set),
    ):
        with pytest.raises(KeyboardInterrupt):
            store.get_events("ses_1")
        interrupted.set()
    assert store.get_events("ses_1") == []


@one_of_each
def test_half_of_an_operation_is_not_committed_where_an_application_goes_on_after_an_interrupt(
    store: asm.SessionStore,
) -> None:
    def half() -> Script[None]:
        yield from append_event(events_of("ses_1", 1)[0])
        raise KeyboardInterrupt

    with pytest.raises(asm.StorageError, match="nothing of it is"), store.transaction() as tx:
        tx.get_latest_sequence("ses_1")
        with pytest.raises(KeyboardInterrupt):
            tx._database.run(UnitOfWork(half))
    assert store.get_latest_sequence("ses_1") == 0


CALLS: dict[str, Callable[[asm.SessionStore], object]] = {
    "append_event": lambda store: store.append_event(events_of("ses_2", 1)[0]),
    "get_events": lambda store: store.get_events("ses_2"),
    "transaction": lambda store: store.transaction().__enter__(),
    "close": lambda store: store.close(),
}


@one_of_each
@pytest.mark.parametrize("name", CALLS)
def test_a_signal_handler_that_calls_the_store_it_interrupted_is_refused(
    where: Where, store: asm.SessionStore, name: str
) -> None:
    raised: list[BaseException] = []

    def handle(*_: object) -> None:
        try:
            CALLS[name](store)
        except BaseException as error:
            raised.append(error)

    with (
        handler(signal.SIGUSR1, handle),
        signalled_while_waiting(where, signal.SIGUSR1, lambda: bool(raised)),
    ):
        assert store.append_event(events_of("ses_1", 1)[0]).sequence_number == 1
    assert [type(error) for error in raised] == [asm.StorageError]
    assert "re-entrant" in str(raised[0])
    assert store.append_event(events_of("ses_1", 1)[0]).sequence_number == 2


@only([POSTGRES[-1]], why="a SQLite transaction waits for the file's lock when it begins")
def test_a_signal_handler_that_calls_the_transaction_it_interrupted_is_refused(
    where: Where, store: asm.SessionStore
) -> None:
    raised: list[BaseException] = []
    with store.transaction() as tx:

        def handle(*_: object) -> None:
            try:
                tx.get_latest_sequence("ses_1")
            except BaseException as error:
                raised.append(error)

        with (
            handler(signal.SIGUSR1, handle),
            signalled_while_waiting(where, signal.SIGUSR1, lambda: bool(raised)),
        ):
            tx.append_event(events_of("ses_1", 1)[0])
    assert [type(error) for error in raised] == [asm.StorageError]
    assert "re-entrant" in str(raised[0])
    assert store.get_latest_sequence("ses_1") == 1


@contextmanager
def interrupted_in(name: str) -> Iterator[None]:
    """Raise KeyboardInterrupt when a method of SQLite's connection is called for the first time."""
    code = getattr(LockedConnection, name).__code__

    def interrupt(frame: FrameType, event: str, _argument: object) -> None:
        # Where CPython handles a signal, too: when a function begins.
        if event == "call" and frame.f_code is code:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        yield
    finally:
        sys.setprofile(None)


@only(["sqlite"], why="PostgreSQL closes a connection whose transaction was left unfinished")
def test_an_interrupt_of_a_rollback_does_not_block_the_store(store: asm.SessionStore) -> None:
    with pytest.raises(KeyboardInterrupt), interrupted_in("_roll_back"), store.transaction() as tx:
        tx.append_event(events_of("ses_1", 1)[0])
        raise asm.AsmError("rolled back")
    assert store.append_event(events_of("ses_1", 1)[0]).sequence_number == 1


@only(["sqlite"], why="PostgreSQL resets the session of a connection")
@pytest.mark.parametrize("name", ["_replace", "_connected", "_use"])
def test_a_connection_whose_replacement_was_interrupted_is_replaced_before_its_next_use(
    store: asm.SessionStore, kind: str, name: str
) -> None:
    with asm.SessionStore(f"{kind}://", migrate=True) as memory:
        for each in (store, memory):
            with pytest.raises(KeyboardInterrupt), interrupted_in(name), each.transaction() as tx:
                tx.append_event(events_of("ses_1", 1)[0])
                tx.execute("create temp table asm_events (id text)")
            assert each.append_event(events_of("ses_1", 1)[0]).sequence_number == 2


WAITS_AT_THE_COMMIT = """
create function wait_for_lock() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(7);
    return null;
end $$;
create constraint trigger waits after insert on asm_events
    deferrable initially deferred for each row execute function wait_for_lock()
"""


@only([POSTGRES[-1]], why="a commit of SQLite waits for no lock")
@pytest.mark.parametrize("name", CALLS)
def test_a_signal_handler_that_calls_the_store_whose_commit_it_interrupted_is_refused(
    where: Where, store: asm.SessionStore, name: str
) -> None:
    fetch_rows(where.dsn, WAITS_AT_THE_COMMIT)
    raised: list[BaseException] = []

    def handle(*_: object) -> None:
        try:
            CALLS[name](store)
        except BaseException as error:
            raised.append(error)

    with (
        handler(signal.SIGUSR1, handle),
        signalled_while_waiting(
            where, signal.SIGUSR1, lambda: bool(raised), lock="begin; select pg_advisory_xact_lock(7)"
        ),
        store.transaction() as tx,
    ):
        tx.append_event(events_of("ses_1", 1)[0])
    assert [type(error) for error in raised] == [asm.StorageError]
    assert "re-entrant" in str(raised[0])
    assert store.get_latest_sequence("ses_1") == 1
