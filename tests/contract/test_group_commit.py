"""What group commit promises: no caller waits for, fails with, or is overtaken by a request of another."""

from __future__ import annotations

import asyncio
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
from asm.sqlite.connection import LockedConnection
from tests.conftest import POSTGRES, Where, an_event, in_loop, numbers
from tests.contract.other_clients import SHORT_S, fetch_rows, only

SOON_S = 20.0


@contextmanager
def locked(dsn: str, *session_ids: str) -> Iterator[None]:
    """Lock the counters of sessions, each of which has an event, in another transaction."""
    with psycopg.connect(dsn) as other:
        lock = "select * from asm_session_sequences where session_id = any(%s) for update"
        assert len(other.execute(lock, [list(session_ids)]).fetchall()) == len(session_ids)
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
def test_a_locked_session_blocks_no_other(store: Any, migrated: str, threads: ThreadPoolExecutor) -> None:
    store.append_events([an_event("first"), an_event("locked")])
    with locked(migrated, "first", "locked"):
        # The first is sent alone and blocks the others for a moment, so that they are sent together.
        blocked = [threads.submit(store.append_event, an_event("first"))]
        others = []
        for n in range(32):
            blocked.append(threads.submit(store.append_event, an_event("locked")))
            others.append(threads.submit(store.append_event, an_event(f"ses_{n % 8}")))
        results(others)
        assert not any(each.done() for each in blocked)
    assert sorted(numbers(results(blocked))) == [2, *range(2, 34)]


@one_lock
def test_appends_to_a_locked_session_time_out(
    where: Where, opened: Callable[..., Any], threads: ThreadPoolExecutor
) -> None:
    store = opened(where.dsn, statement_timeout=SHORT_S)
    store.append_event(an_event("locked"))
    with locked(where.dsn, "locked"):
        blocked = [threads.submit(store.append_event, an_event("locked")) for _ in range(8)]
        assert {type(each.exception(SOON_S)) for each in blocked} == {asm.StorageTimeout}


def test_all_threads_make_progress(store: Any, threads: ThreadPoolExecutor) -> None:
    counts: Counter[int] = Counter()
    ready = threading.Barrier(16)

    def append(caller: int) -> None:
        ready.wait()
        while max(counts.values(), default=0) < 40:
            store.append_event(an_event(f"ses_{caller % 4}"))
            counts[caller] += 1

    results([threads.submit(append, caller) for caller in range(16)])
    assert min(counts[caller] for caller in range(16)) > 10


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


def test_every_kind_of_call_makes_progress_among_all_others(store: Any, threads: ThreadPoolExecutor) -> None:
    store.save_session(asm.Session(id="ses_3", agent_id="a"))
    done: Counter[str] = Counter()
    ready, over = threading.Barrier(len(BUSY)), threading.Event()

    def call(name: str) -> None:
        ready.wait()
        while not over.is_set() and min(done[each] for each in BUSY) < 20:
            BUSY[name](store)
            done[name] += 1

    try:
        results([threads.submit(call, name) for name in BUSY])
    finally:
        over.set()


def append_there(dsn: str) -> None:
    with asm.SessionStore(dsn) as other:
        other.append_event(an_event("ses_2"))


@only(["sqlite"], why="PostgreSQL has locks for each session")
@pytest.mark.parametrize("work", [append_there, asm.migrate], ids=["append", "migrate"])
def test_one_long_transaction_after_another_does_not_exclude_other_processes(
    store: Any, migrated: str, threads: ThreadPoolExecutor, work: Callable[[str], object]
) -> None:
    transactions, begun, over = list[int](), threading.Event(), threading.Event()

    def write_repeatedly() -> None:
        while not over.is_set() and len(transactions) < 200:
            with store.transaction() as tx:
                transactions.append(tx.append_event(an_event()).sequence_number)
                begun.set()
                # As long as a transaction of many rows takes.
                time.sleep(0.06)

    writing = threads.submit(write_repeatedly)
    try:
        assert begun.wait(SOON_S)
        for _ in range(5):
            work(migrated)
    finally:
        over.set()
    results([writing])
    assert len(transactions) < 60


def test_duplicates_from_many_threads_return_the_stored_event(
    store: Any, threads: ThreadPoolExecutor
) -> None:
    duplicates = [an_event(f"ses_{n}") for n in range(4)]
    ready = threading.Barrier(32)

    def append(caller: int) -> list[asm.Event]:
        ready.wait()
        stored = []
        for event in duplicates:
            stored += [store.append_event(event), store.append_event(an_event(event.session_id))]
        return stored[::2]

    stored = results([threads.submit(append, caller) for caller in range(32)])
    assert all(each == stored[0] for each in stored)
    for session_id in (event.session_id for event in duplicates):
        assert numbers(store.get_events(session_id)) == list(range(1, 34))


REFUSE_POISON = {
    "postgres": "alter table asm_events add constraint no_poison check (correlation_id <> 'poison')",
    "sqlite": (
        "create trigger no_poison before insert on asm_events when new.correlation_id = 'poison' "
        "begin select raise(abort, 'no poison'); end"
    ),
}


def test_a_refused_event_fails_only_its_own_caller(
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
    except asm.StorageError:
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


def test_appends_that_one_task_starts_are_numbered_in_that_order(migrated: str) -> None:
    async def append(store: asm.AsyncSessionStore) -> list[asm.Event]:
        started = [store.append_event(an_event(f"ses_{n % 3}")) for n in range(300)]
        return await asyncio.gather(*started)

    with async_store(migrated) as store:
        stored = in_loop(append(store))
    for session_id in ("ses_0", "ses_1", "ses_2"):
        own = [event for event in stored if event.session_id == session_id]
        assert numbers(own) == list(range(1, 101))


def test_appends_of_one_thread_are_numbered_in_that_order(store: Any, threads: ThreadPoolExecutor) -> None:
    appended = results(
        [threads.submit(lambda: [store.append_event(an_event()) for _ in range(10)]) for _ in range(16)]
    )
    for own in map(numbers, appended):
        assert own == sorted(own)


class CancelledAt:
    """Awaits a coroutine, and cancels its own task when the coroutine suspends for the nth time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], suspension: int) -> None:
        self._coroutine = coroutine
        self._remaining = suspension

    @property
    def was_cancelled(self) -> bool:
        return self._remaining <= 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        resume: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                wanted = resume()
            except StopIteration as end:
                return end.value
            self._remaining -= 1
            task = asyncio.current_task()
            if self._remaining == 0 and task is not None:
                task.cancel()
            try:
                yield wanted
                resume = partial(steps.send, None)
            except BaseException as error:
                resume = partial(steps.throw, error)


@pytest.mark.parametrize("place", [0, 1, 5])
def test_wherever_a_task_is_cancelled_the_others_get_their_results(migrated: str, place: int) -> None:
    async def append_all(store: asm.AsyncSessionStore, suspension: int) -> bool:
        cancelled = CancelledAt(store.append_event(an_event()), suspension)
        waiting: list[Any] = [store.append_event(an_event(f"ses_{n % 2}")) for n in range(6)]
        waiting.insert(place, awaited(cancelled))
        async with asyncio.timeout(SOON_S):
            stored = await asyncio.gather(*waiting, return_exceptions=True)
        del stored[place]
        assert all(isinstance(each, asm.Event) for each in stored)
        return cancelled.was_cancelled

    # Each time in a new store, so that the task is also cancelled while the store connects.
    suspension = 1
    while run_in_new_store(migrated, partial(append_all, suspension=suspension)):
        suspension += 1
    assert suspension > 1
    with asm.SessionStore(migrated) as store:
        for session_id in ("ses_0", "ses_1"):
            events = store.get_events(session_id)
            assert numbers(events) == list(range(1, len(events) + 1))


async def awaited(awaitable: Any) -> Any:
    return await awaitable


def run_in_new_store(dsn: str, work: Callable[[asm.AsyncSessionStore], Coroutine[Any, Any, bool]]) -> bool:
    with async_store(dsn, max_size=1, retry_for=0) as store:
        result: bool = in_loop(work(store))
        return result


def test_closing_finishes_accepted_appends_and_refuses_others(
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
def interrupted_after(called: Callable[..., object]) -> Iterator[None]:
    """Raise KeyboardInterrupt in this thread when a function has returned, as Ctrl-C does."""

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "return" and frame.f_code is getattr(called, "__code__", None):
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


@only(["sqlite"], why="PostgreSQL has a connection for each")
@pytest.mark.parametrize("called", [LockedConnection.begin, LockedConnection.commit], ids=["begin", "commit"])
def test_an_interrupted_transaction_blocks_no_other(migrated: str, called: Callable[..., object]) -> None:
    with asm.SessionStore(migrated) as store:
        with pytest.raises(KeyboardInterrupt), interrupted_after(called):
            store.append_event(an_event())
        store.append_event(an_event())
        kept = store.get_events("ses_1")
    assert numbers(kept) == list(range(1, len(kept) + 1))
