"""What threads that take turns are promised."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from asm.errors import StorageTimeout
from asm.sqlite import fair_lock
from asm.sqlite.fair_lock import FairLock, Ticket

SOON_S = 30.0


@pytest.fixture(autouse=True)
def no_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is first in the line lets nobody go before it."""
    monkeypatch.setattr(fair_lock, "BARGING_WINDOW_S", 0.0)


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as others:
        yield others


def use(taken: FairLock, work: Callable[[], object]) -> None:
    turn = Ticket()
    try:
        taken.take(turn)
        work()
    finally:
        taken.release(turn)


def in_line(others: ThreadPoolExecutor, taken: FairLock, work: Callable[[], object]) -> Future[None]:
    """Work that another thread will do in its turn, for which it stands in the line already."""
    before = len(taken.line)
    waiting = others.submit(use, taken, work)
    deadline = time.monotonic() + SOON_S
    while len(taken.line) == before and time.monotonic() < deadline:
        time.sleep(0.001)
    return waiting


def test_turns_are_given_in_the_order_they_were_asked_for(others: ThreadPoolExecutor) -> None:
    taken, held, order = FairLock(SOON_S), Ticket(), list[int]()
    taken.take(held)
    waiting = [in_line(others, taken, partial(order.append, n)) for n in range(4)]
    taken.release(held)
    use(taken, partial(order.append, 4))
    for each in waiting:
        each.result(SOON_S)
    assert order == [0, 1, 2, 3, 4]


def test_two_thousand_who_wait_hold_nobody_up() -> None:
    taken, held = FairLock(SOON_S), Ticket()
    taken.take(held)
    with ThreadPoolExecutor(2_000) as crowd:
        waiting = [crowd.submit(use, taken, threading.get_ident) for _ in range(2_000)]
        taken.release(held)
        for each in waiting:
            each.result()


def test_whoever_gave_up_is_waited_for_by_nobody(others: ThreadPoolExecutor) -> None:
    taken, held, done = FairLock(0.05), Ticket(), list[str]()
    taken.take(held)
    with pytest.raises(StorageTimeout):
        in_line(others, taken, partial(done.append, "late")).result(SOON_S)
    taken.release(held)
    use(taken, partial(done.append, "next"))
    assert done == ["next"]


def test_the_handler_of_a_signal_goes_before_its_own_thread(others: ThreadPoolExecutor) -> None:
    taken, given_back, done = FairLock(SOON_S / 4), threading.Event(), list[str]()
    held = threading.Event()

    def hold() -> None:
        held.set()
        assert given_back.wait(SOON_S)

    def handle(*_: object) -> None:
        given_back.set()
        holding.result(SOON_S)
        use(taken, partial(done.append, "handler"))

    before = signal.signal(signal.SIGALRM, handle)
    try:
        holding = others.submit(use, taken, hold)
        assert held.wait(SOON_S)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        use(taken, partial(done.append, "thread"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert done == ["handler", "thread"]
