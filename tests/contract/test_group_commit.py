"""What appends that are gathered promise: nobody waits for another, loses to another, or is overtaken."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import psycopg
import pytest

import asm
from tests.conftest import POSTGRES, Where, an_event, in_loop, numbers
from tests.contract.other_clients import fetch_rows, only

SOON_S = 20.0


@contextmanager
def locked(dsn: str, *session_ids: str) -> Iterator[None]:
    """Another transaction holds the counters of sessions, which have an event each."""
    with psycopg.connect(dsn) as other:
        held = "select * from asm_session_sequences where session_id = any(%s) for update"
        assert len(other.execute(held, [list(session_ids)]).fetchall()) == len(session_ids)
        yield
        other.rollback()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(80) as threads:
        yield threads


def results(waiting: list[Future[Any]]) -> list[Any]:
    return [each.result(SOON_S) for each in waiting]


one_lock = only(POSTGRES, why="a SQLite file has one lock for all sessions")


@one_lock
def test_a_locked_session_holds_up_no_other(store: Any, migrated: str, threads: ThreadPoolExecutor) -> None:
    store.append_events([an_event("first"), an_event("locked")])
    with locked(migrated, "first", "locked"):
        # The first goes alone and holds the others up for a moment, so that they travel together.
        held = [threads.submit(store.append_event, an_event("first"))]
        others = []
        for n in range(32):
            held.append(threads.submit(store.append_event, an_event("locked")))
            others.append(threads.submit(store.append_event, an_event(f"ses_{n % 8}")))
        results(others)
        assert not any(each.done() for each in held)
    assert sorted(numbers(results(held))) == [2, *range(2, 34)]


@one_lock
def test_the_callers_of_a_locked_session_are_told_in_time(
    where: Where, opened: Callable[..., Any], threads: ThreadPoolExecutor
) -> None:
    store = opened(where.dsn, statement_timeout=0.3)
    store.append_event(an_event("locked"))
    with locked(where.dsn, "locked"):
        held = [threads.submit(store.append_event, an_event("locked")) for _ in range(8)]
        assert {type(each.exception(3.0)) for each in held} == {asm.StorageTimeout}


def test_every_caller_has_its_share(store: Any, threads: ThreadPoolExecutor) -> None:
    shares: Counter[int] = Counter()
    ready = threading.Barrier(16)

    def append(caller: int) -> None:
        ready.wait()
        while max(shares.values(), default=0) < 40:
            store.append_event(an_event(f"ses_{caller % 4}"))
            shares[caller] += 1

    results([threads.submit(append, caller) for caller in range(16)])
    assert min(shares[caller] for caller in range(16)) > 10


BUSY: dict[str, Callable[[Any], object]] = {
    "appends": lambda store: store.append_event(an_event()),
    "flushes": lambda store: store.flush(asm.Session(id="ses_2", agent_id="a"), asm.Run(session_id="ses_2")),
    "reads": lambda store: store.get_events("ses_3"),
    "pages": lambda store: list(store.iter_events("ses_3")),
    "exports": lambda store: store.query.export_session("ses_3"),
    "checks": lambda store: store.maintenance.health_check(),
    "saves": lambda store: store.save_session(asm.Session(id="ses_4", agent_id="a")),
    "transactions": lambda store: transact(store),
}


def transact(store: Any) -> None:
    with store.transaction() as tx:
        tx.append_event(an_event("ses_5"))


def test_nobody_waits_for_others_who_ask_on_and_on(store: Any, threads: ThreadPoolExecutor) -> None:
    store.save_session(asm.Session(id="ses_3", agent_id="a"))
    answered: Counter[str] = Counter()
    ready, over = threading.Barrier(len(BUSY)), threading.Event()

    def ask(name: str) -> None:
        ready.wait()
        while not over.is_set() and min(answered[each] for each in BUSY) < 20:
            BUSY[name](store)
            answered[name] += 1

    try:
        results([threads.submit(ask, name) for name in BUSY])
    finally:
        over.set()


def append_there(dsn: str) -> None:
    with asm.SessionStore(dsn) as other:
        other.append_event(an_event("ses_2"))


@only(["sqlite"], why="PostgreSQL has locks for each session")
@pytest.mark.parametrize("work", [append_there, asm.migrate], ids=["append", "migrate"])
def test_one_long_transaction_after_the_other_shuts_no_other_process_out(
    store: Any, migrated: str, threads: ThreadPoolExecutor, work: Callable[[str], object]
) -> None:
    transactions, begun, over = list[int](), threading.Event(), threading.Event()

    def keep_the_file() -> None:
        while not over.is_set() and len(transactions) < 200:
            with store.transaction() as tx:
                transactions.append(tx.append_event(an_event()).sequence_number)
                begun.set()
                # As long as one of many rows takes.
                time.sleep(0.06)

    keeping = threads.submit(keep_the_file)
    try:
        assert begun.wait(SOON_S)
        for _ in range(5):
            work(migrated)
    finally:
        over.set()
    results([keeping])
    assert len(transactions) < 60


def test_duplicates_in_a_crowd_are_answered_with_what_is_stored(
    store: Any, threads: ThreadPoolExecutor
) -> None:
    again = [an_event(f"ses_{n}") for n in range(4)]
    ready = threading.Barrier(32)

    def append(caller: int) -> list[asm.Event]:
        ready.wait()
        stored = []
        for event in again:
            stored += [store.append_event(event), store.append_event(an_event(event.session_id))]
        return stored[::2]

    answers = results([threads.submit(append, caller) for caller in range(32)])
    assert all(each == answers[0] for each in answers)
    for session_id in (event.session_id for event in again):
        assert numbers(store.get_events(session_id)) == list(range(1, 34))


REFUSE_POISON = {
    "postgres": "alter table asm_events add constraint no_poison check (correlation_id <> 'poison')",
    "sqlite": (
        "create trigger no_poison before insert on asm_events when new.correlation_id = 'poison' "
        "begin select raise(abort, 'no poison'); end"
    ),
}


def test_events_that_are_refused_fail_only_their_callers(
    where: Where, opened: Callable[..., Any], threads: ThreadPoolExecutor
) -> None:
    fetch_rows(where.dsn, REFUSE_POISON[where.dialect])
    store = opened(where.dsn)
    ready = threading.Barrier(24)

    def append(caller: int) -> list[bool]:
        ready.wait()
        return [is_kept(store, poison=caller % 8 == 0 or n == 3) for n in range(5)]

    kept = results([threads.submit(append, caller) for caller in range(24)])
    assert [all(each[:3] + each[4:]) for each in kept] == [caller % 8 != 0 for caller in range(24)]
    assert not any(each[3] for each in kept)
    assert numbers(store.get_events("ses_1")) == list(range(1, sum(map(sum, kept)) + 1))


def is_kept(store: Any, *, poison: bool) -> bool:
    try:
        store.append_event(an_event(correlation_id="poison" if poison else None))
    except (psycopg.errors.CheckViolation, sqlite3.IntegrityError):
        return False
    return True


@contextmanager
def async_store(dsn: str, **options: Any) -> Iterator[asm.AsyncSessionStore]:
    store = asm.AsyncSessionStore(dsn, **options)
    in_loop(store.open())
    try:
        yield store
    finally:
        in_loop(store.close())


def test_what_one_task_starts_in_an_order_is_numbered_in_that_order(migrated: str) -> None:
    async def append(store: asm.AsyncSessionStore) -> list[asm.Event]:
        started = [store.append_event(an_event(f"ses_{n % 3}")) for n in range(300)]
        return await asyncio.gather(*started)

    with async_store(migrated) as store:
        stored = in_loop(append(store))
    for session_id in ("ses_0", "ses_1", "ses_2"):
        own = [event for event in stored if event.session_id == session_id]
        assert numbers(own) == list(range(1, 101))


def test_what_one_thread_appends_is_numbered_in_that_order(store: Any, threads: ThreadPoolExecutor) -> None:
    appended = results(
        [threads.submit(lambda: [store.append_event(an_event()) for _ in range(10)]) for _ in range(16)]
    )
    for own in map(numbers, appended):
        assert own == sorted(own)


class CancelledAt:
    """Awaits something, and cancels its own task when that comes to rest for the nth time."""

    def __init__(self, awaited: Coroutine[Any, Any, Any], rest: int) -> None:
        self._awaited = awaited
        self._rests_left = rest

    @property
    def was_cancelled(self) -> bool:
        return self._rests_left <= 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaited.__await__()
        resume: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                wanted = resume()
            except StopIteration as end:
                return end.value
            self._rests_left -= 1
            task = asyncio.current_task()
            if self._rests_left == 0 and task is not None:
                task.cancel()
            try:
                yield wanted
                resume = partial(steps.send, None)
            except BaseException as error:
                resume = partial(steps.throw, error)


@pytest.mark.parametrize("place", [0, 1, 5])
def test_wherever_a_task_is_cancelled_the_others_are_answered(migrated: str, place: int) -> None:
    async def crowd(store: asm.AsyncSessionStore, rest: int) -> bool:
        cancelled = CancelledAt(store.append_event(an_event()), rest)
        waiting: list[Any] = [store.append_event(an_event(f"ses_{n % 2}")) for n in range(6)]
        waiting.insert(place, awaited(cancelled))
        async with asyncio.timeout(SOON_S):
            told = await asyncio.gather(*waiting, return_exceptions=True)
        del told[place]
        assert all(isinstance(each, asm.Event) for each in told)
        return cancelled.was_cancelled

    # A store is new each time, so that finding a connection is among the places.
    rest = 1
    while cut(migrated, partial(crowd, rest=rest)):
        rest += 1
    assert rest > 1
    with asm.SessionStore(migrated) as store:
        for session_id in ("ses_0", "ses_1"):
            events = store.get_events(session_id)
            assert numbers(events) == list(range(1, len(events) + 1))


async def awaited(what: Any) -> Any:
    return await what


def cut(dsn: str, crowd: Callable[[asm.AsyncSessionStore], Coroutine[Any, Any, bool]]) -> bool:
    with async_store(dsn, max_size=1, retry_for=0) as store:
        outcome: bool = in_loop(crowd(store))
        return outcome


def test_closing_finishes_what_was_begun_and_refuses_the_rest(
    migrated: str, opened: Callable[..., Any], threads: ThreadPoolExecutor
) -> None:
    store = opened(migrated)
    acknowledged: list[str] = []
    ready = threading.Barrier(33)

    def append() -> None:
        ready.wait()
        while True:
            acknowledged.append(store.append_event(an_event()).id)

    appending = [threads.submit(append) for _ in range(32)]
    ready.wait()
    store.append_event(an_event("ses_2"))
    closing = [threads.submit(store.close) for _ in range(3)]
    assert wait_for(closing + appending, SOON_S).not_done == set()
    assert [each.exception() for each in closing] == [None] * 3
    assert {type(each.exception()) for each in appending} == {asm.StoreClosed}
    kept = opened(migrated).get_events("ses_1")
    assert set(acknowledged) <= {event.id for event in kept}
    assert numbers(kept) == list(range(1, len(kept) + 1))


@contextmanager
def interrupted_after(execution: str) -> Iterator[None]:
    """Interrupts this thread when SQLite has done what it was told, as Ctrl-C does while it waits."""

    def profile(frame: FrameType, event: str, called: Any) -> None:
        done = event == "c_return" and getattr(called, "__name__", "") == "execute"
        if done and frame.f_locals.get("sql") == execution:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


@only(["sqlite"], why="PostgreSQL has a connection for each")
@pytest.mark.parametrize("execution", ["begin immediate", "commit"])
def test_an_interrupted_transaction_is_in_nobodys_way(migrated: str, execution: str) -> None:
    with asm.SessionStore(migrated) as store:
        with pytest.raises(KeyboardInterrupt), interrupted_after(execution):
            store.append_event(an_event())
        store.append_event(an_event())
        kept = store.get_events("ses_1")
    assert numbers(kept) == list(range(1, len(kept) + 1))
