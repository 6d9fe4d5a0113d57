"""What an interrupt leaves behind: everything or nothing of what was asked, and a store that works on."""

from __future__ import annotations

import random
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest

import asm
from asm import dsn as dsns
from asm.engine.script import Script, UnitOfWork
from asm.operations.events import append_event
from asm.postgres import spare
from tests.conftest import POSTGRES, Where, events_of
from tests.contract.other_clients import driver_connection, only
from tests.fault.interrupting import interrupted_everywhere

PATIENCE_S = 10.0
"""A connection or a turn that was lost would be waited for so long, and in vain."""

Work = Callable[[asm.SessionStore, str], object]


def flush(store: asm.SessionStore, name: str) -> None:
    store.flush(asm.Session(id=name, agent_id="a"), asm.Run(session_id=name), events_of(name, 2))


def transact(store: asm.SessionStore, name: str) -> None:
    with store.transaction() as tx:
        tx.append_events(events_of(name, 2))
        tx.get_latest_sequence(name)


WORK: dict[str, tuple[Work, int]] = {
    "append": (lambda store, name: store.append_event(events_of(name, 1)[0]), 1),
    "batch": (lambda store, name: store.append_events(events_of(name, 3)), 3),
    "flush": (flush, 2),
    "delete": (lambda store, name: store.delete_session(name), 0),
    "read": (lambda store, _: store.get_events("ses_read"), 0),
    "snapshot": (lambda store, _: store.query.export_session("ses_read"), 0),
    "transaction": (transact, 2),
}


@pytest.fixture
def store(where: Where) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(where.dsn, max_size=1, timeout=PATIENCE_S, retry_for=PATIENCE_S) as store:
        store.save_session(asm.Session(id="ses_read", agent_id="a"))
        store.append_events(events_of("ses_read", 3))
        yield store


ONE_OF_EACH = only(
    ["sqlite", *POSTGRES[-1:]], why="what is interrupted here is Python, the same for every server"
)


@ONE_OF_EACH
@pytest.mark.parametrize("asked", WORK)
def test_interrupted_at_any_line_all_or_nothing_is_stored_and_the_store_works_on(
    where: Where, store: asm.SessionStore, asked: str
) -> None:
    assert_works_on(where, store, asked)


@only(POSTGRES[-1:], why="SQLite has no pool")
def test_interrupted_at_any_line_a_connection_comes_back_to_its_pool(
    where: Where, store: asm.SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "SPARE_S", -1.0)
    assert_works_on(where, store, "append")


@only(["sqlite"], why="PostgreSQL has a connection for each")
def test_interrupted_at_any_line_nobodys_turn_is_lost(where: Where, store: asm.SessionStore) -> None:
    done = threading.Event()

    def ask_on_and_on() -> None:
        while not done.is_set():
            store.save_session(asm.Session(id="ses_busy", agent_id="a"))

    with ThreadPoolExecutor(1) as other:
        asking = other.submit(ask_on_and_on)
        try:
            assert_works_on(where, store, "append")
        finally:
            done.set()
        asking.result(PATIENCE_S)


def assert_works_on(where: Where, store: asm.SessionStore, asked: str) -> None:
    work, size = WORK[asked]
    with driver_connection(where.dsn) as beside:

        def look(at: int, line: str) -> None:
            try:
                store.append_event(events_of("ses_next", 1)[0])
                assert len(store.get_events("ses_read")) == 3
            except asm.AsmError as error:
                raise AssertionError(f"after an interrupt at {line}") from error
            assert stored(beside, f"ses_{at}") in (0, size), line

        # What flush does takes long to go through; over time, it is every line.
        step = 3 if asked == "flush" else 1
        start = random.randrange(step)
        print(f"from line {start} on")  # noqa: T201
        assert interrupted_everywhere(lambda at: work(store, f"ses_{at}"), look, start, step) > 100


def stored(beside: Any, session_id: str) -> int:
    rows = beside.execute(f"select count(*) from asm_events where session_id = '{session_id}'").fetchall()
    return int(rows[0][0])


@ONE_OF_EACH
def test_half_of_an_operation_is_not_kept_where_a_caller_goes_on_after_an_interrupt(
    store: asm.SessionStore,
) -> None:
    with pytest.raises(asm.StorageError, match="nothing of it is kept"), store.transaction() as tx:
        tx.get_latest_sequence("ses_1")
        with pytest.raises(KeyboardInterrupt):
            tx._database.run(UnitOfWork(half))
    assert store.get_latest_sequence("ses_1") == 0


def half() -> Script[None]:
    yield from append_event(events_of("ses_1", 1)[0])
    raise KeyboardInterrupt


@contextmanager
def handled(do: Callable[[], object]) -> Iterator[list[BaseException]]:
    """What is raised by something that the handler of a signal does, at a time that SIGALRM chooses."""
    raised: list[BaseException] = []

    def handle(*_: object) -> None:
        try:
            do()
        except BaseException as error:
            raised.append(error)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        yield raised
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@only(["sqlite"], why="PostgreSQL has a connection for each")
def test_a_signals_handler_is_told_at_once_that_its_own_thread_has_the_turn(
    where: Where, store: asm.SessionStore
) -> None:
    with handled(lambda: store.append_event(events_of("ses_signal", 1)[0])) as raised:
        append_while_locked(where, store)
    assert [type(error) for error in raised] == [asm.StorageError]
    assert "signal" in str(raised[0])


@only(["sqlite"], why="PostgreSQL has a connection for each")
def test_a_signals_handler_that_closes_the_store_ends_it_after_the_operation(
    where: Where, store: asm.SessionStore
) -> None:
    with handled(store.close) as raised:
        append_while_locked(where, store)
    assert raised == []
    with pytest.raises(asm.StoreClosed):
        store.get_latest_sequence("ses_1")


def append_while_locked(where: Where, store: asm.SessionStore) -> None:
    """Append, and wait in its turn with the connection for the file, where a signal meets it."""
    with closing(sqlite3.connect(dsns.parse_dsn(where.dsn).address, check_same_thread=False)) as other:
        other.execute("begin immediate")
        freeing = threading.Timer(0.5, other.rollback)
        freeing.start()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert store.append_event(events_of("ses_1", 1)[0]).sequence_number == 1
        freeing.join()
