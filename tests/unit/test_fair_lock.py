"""What FairLock promises to threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from asm.errors import StorageTimeout
from asm.sqlite import fair_lock
from asm.sqlite.fair_lock import FairLock

LONG_S = 30.0


@pytest.fixture
def no_barging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_lock, "BARGING_WINDOW_S", 0.0)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def use(lock: FairLock, work: Callable[[], object]) -> None:
    try:
        lock.acquire()
        work()
    finally:
        lock.release()


def queued(threads: ThreadPoolExecutor, lock: FairLock, work: Callable[[], object]) -> Future[None]:
    """Work of another thread, which waits for the lock when this returns."""
    before = len(lock._waiters)
    waiting = threads.submit(use, lock, work)
    deadline = time.monotonic() + LONG_S
    while len(lock._waiters) == before:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return waiting


@pytest.mark.usefixtures("no_barging")
def test_threads_get_the_lock_in_the_order_in_which_they_asked(threads: ThreadPoolExecutor) -> None:
    lock, order = FairLock(LONG_S), list[int]()
    lock.acquire()
    waiting = [queued(threads, lock, partial(order.append, n)) for n in range(4)]
    lock.release()
    use(lock, partial(order.append, 4))
    for future in waiting:
        future.result(LONG_S)
    assert order == [0, 1, 2, 3, 4]


def test_a_running_thread_may_take_the_lock_before_the_first_waiter_within_the_window(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_lock, "BARGING_WINDOW_S", LONG_S)
    lock, order = FairLock(LONG_S), list[str]()
    lock.acquire()
    waiting = queued(threads, lock, partial(order.append, "waiter"))
    with lock._mutex:
        # Free, while the waiter has not been woken.
        lock.owner = None
    lock.acquire()
    order.append("running")
    lock.release()
    waiting.result(LONG_S)
    assert order == ["running", "waiter"]


def test_two_thousand_threads_get_the_lock_one_after_the_other() -> None:
    lock, used = FairLock(LONG_S), list[int]()
    lock.acquire()
    with ThreadPoolExecutor(2_000) as threads:
        waiting = [threads.submit(use, lock, partial(used.append, n)) for n in range(2_000)]
        lock.release()
        for future in waiting:
            future.result()
    assert sorted(used) == list(range(2_000))


@pytest.mark.usefixtures("no_barging")
def test_a_thread_that_timed_out_is_not_waited_for(threads: ThreadPoolExecutor) -> None:
    lock, done = FairLock(0.05), list[str]()
    lock.acquire()
    with pytest.raises(StorageTimeout, match=r"not free within 0\.05 s"):
        threads.submit(use, lock, partial(done.append, "late")).result(LONG_S)
    lock.release()
    use(lock, partial(done.append, "next"))
    assert done == ["next"]


def test_a_thread_that_does_not_hold_the_lock_cannot_release_it(threads: ThreadPoolExecutor) -> None:
    lock = FairLock(LONG_S)
    lock.acquire()
    threads.submit(lock.release).result(LONG_S)
    assert lock.owner == threading.get_ident()


@pytest.mark.usefixtures("no_barging")
def test_a_waiter_that_is_interrupted_wakes_the_next(threads: ThreadPoolExecutor) -> None:
    lock, done, interrupted = FairLock(LONG_S), list[str](), threading.Lock()
    lock.acquire()
    interrupted.acquire()
    with lock._mutex:
        lock._waiters.append(interrupted)
        lock._first_since = time.monotonic()
    waiting = queued(threads, lock, partial(done.append, "next"))
    lock.release()
    lock._leave(interrupted)
    waiting.result(LONG_S)
    assert done == ["next"]
