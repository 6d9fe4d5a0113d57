"""Who waits for a session, and one look at a time for all of them.

A session's counter row changes with whatever adds events to it. While anybody waits, one
question after another asks for the rows of all sessions that are waited for, and whoever
finds their own changed is woken and asks for their events. What a store appends itself it
announces, so that its own waiters need not wait for the next look.

Being woken is a hint and no promise. Who waits is on the roll before they ask, so what is
stored after their question is in a later look, and no lost connection takes it away.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Generic, Self, TypeAlias, TypeVar

from asm.engine.retry import check_loop, check_process
from asm.engine.script import Query, Row
from asm.errors import StoreClosed, copied

W = TypeVar("W", bound="Subscription")

POLL_INTERVAL_MIN_S, POLL_INTERVAL_MAX_S = 0.005, 0.03
POLL_DUTY_RATIO = 50
"""Between two looks lie so many times as long as the last one took, within these bounds: one that costs
little is soon taken again, and a thousand sessions cost a twentieth of a core (`bench/waiting.py`)."""

SPURIOUS_WAKEUP_PAUSE_S = 0.005
"""So long rests who was woken for nothing, lest a filter asks again for every event that it holds back."""

Positions: TypeAlias = Mapping[str, Row]
"""Sessions that have a counter, each with its row: the session, where it stands, when it moved."""


def find_counters(session_ids: Iterable[str]) -> Query[Positions]:
    """Where those of the sessions stand that have events."""
    return Query(
        "find_counters",
        {"session_ids": tuple(session_ids)},
        lambda rows: {row[0]: row for row in rows},
    )


class Subscription:
    """Somebody who waits for events of a session behind a number; on the roll while inside `with`."""

    __slots__ = ("_deadline", "_error", "_roll", "_stood", "_was_last", "_was_woken", "after", "session_id")

    def __init__(self, roll: Subscriptions[Any], session_id: str, after: int, timeout_s: float) -> None:
        self.session_id = session_id
        self.after = after
        self._roll = roll
        self._deadline = time.monotonic() + timeout_s
        self._stood: Row | None = None
        self._was_last = False
        self._was_woken = False
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._roll.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._roll.leave(self)

    def wake(self) -> None:
        raise NotImplementedError

    def see(self, position: Row) -> None:
        """Wake up if the session has moved since it was last seen, to where there may be something."""
        # Moved is not only onwards: deleted and begun again, or filled up by an import, a session
        # may stand where it stood before.
        if position[1] > self.after and position != self._stood:
            self._stood = position
            self.wake()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self.wake()

    def _left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _is_over(self) -> bool:
        # Who was woken asks once more when the time is up, for what came in time. And then no more:
        # beside those who append on and on, it is woken during every question.
        was_last, self._was_last = self._was_last, self._left_s() == 0.0
        return was_last

    def _recess_s(self) -> float:
        return min(SPURIOUS_WAKEUP_PAUSE_S, self._left_s()) if self._was_woken else 0.0

    def _is_up(self) -> bool:
        self._was_woken = True
        if self._error is not None:
            raise copied(self._error)
        return True


class Subscriptions(Generic[W]):
    """Who waits, by session."""

    def __init__(self) -> None:
        self.waiters: dict[str, set[W]] = {}
        # Reentrant, because a signal handler may append while its own thread is in here.
        self._lock = threading.RLock()
        self._process = os.getpid()

    def enter(self, waiter: W) -> None:
        # Before the lock, which another thread may have held when the process was forked.
        check_process(self._process)
        with self._lock:
            self.waiters.setdefault(waiter.session_id, set()).add(waiter)

    def leave(self, waiter: W) -> None:
        with self._lock:
            waiters = self.waiters.get(waiter.session_id, set())
            waiters.discard(waiter)
            if not waiters:
                self.waiters.pop(waiter.session_id, None)

    def start(self) -> None:
        """Have somebody look from now on."""
        raise NotImplementedError

    def notify(self, session_ids: Iterable[str]) -> None:
        """Wake all who wait for these sessions."""
        with self._lock:
            for session_id in session_ids:
                for waiter in self.waiters.get(session_id, ()):
                    waiter.wake()

    def close(self) -> None:
        """Raise StoreClosed at all who wait."""
        self._fail(StoreClosed("this store is closed"))

    def _question(self) -> Query[Positions]:
        with self._lock:
            return find_counters(self.waiters)

    def _tell(self, positions: Positions) -> None:
        with self._lock:
            for session_id, position in positions.items():
                for waiter in self.waiters.get(session_id, ()):
                    waiter.see(position)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            for waiters in self.waiters.values():
                for waiter in waiters:
                    waiter.fail(error)


Poll: TypeAlias = Callable[[Query[Positions]], Positions | None]
"""Puts the question to the database. None: nothing has changed since the same was asked before."""


class Poller(Subscriptions["_ThreadSubscription"]):
    """The roll of a store for threads. A thread of its own looks while anybody waits, and then ends."""

    def __init__(self, look: Poll) -> None:
        super().__init__()
        self._look = look
        self._lookout: threading.Thread | None = None

    def waiting(self, session_id: str, after: int, timeout_s: float) -> _ThreadSubscription:
        return _ThreadSubscription(self, session_id, after, timeout_s)

    def start(self) -> None:
        with self._lock:
            if self._lookout is None:
                # A daemon, for it must not keep a program alive whose last waiters are daemons. While
                # any other thread waits, the program lives, and so does this one.
                lookout = threading.Thread(target=self._look_out, name="asm-lookout", daemon=True)
                lookout.start()
                self._lookout = lookout

    def _look_out(self) -> None:
        pause_s = POLL_INTERVAL_MIN_S
        while self._is_wanted_after(pause_s):
            began = time.monotonic()
            try:
                self._tell(self._look(self._question()) or {})
            except BaseException as error:
                self._fail(error)
            pause_s = _pause_s(began)

    def _is_wanted_after(self, pause_s: float) -> bool:
        time.sleep(pause_s)
        with self._lock:
            if not self.waiters:
                self._lookout = None
            return bool(self.waiters)


class _ThreadSubscription(Subscription):
    """A thread that waits."""

    __slots__ = ("_awake",)

    def __init__(self, roll: Poller, session_id: str, after: int, timeout_s: float) -> None:
        super().__init__(roll, session_id, after, timeout_s)
        self._awake = threading.Lock()
        self._awake.acquire()

    def wake(self) -> None:
        # Woken before it slept, it does not fall asleep; woken twice, it is awake.
        with suppress(RuntimeError):
            self._awake.release()

    def wait_for_change(self) -> bool:
        """Sleep until the session may have moved. False: the time is up."""
        if self._is_over():
            return False
        time.sleep(self._recess_s())
        self._roll.start()
        return self._awake.acquire(timeout=min(self._left_s(), threading.TIMEOUT_MAX)) and self._is_up()


AsyncPoll: TypeAlias = Callable[[Query[Positions]], Awaitable[Positions | None]]


class AsyncPoller(Subscriptions["_TaskSubscription"]):
    """The roll of a store for tasks. Every look is a task of its own; between them there is only a timer."""

    def __init__(self, look: AsyncPoll) -> None:
        super().__init__()
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._pause_s = POLL_INTERVAL_MIN_S

    def waiting(self, session_id: str, after: int, timeout_s: float) -> _TaskSubscription:
        check_loop(self._loop)
        return _TaskSubscription(self, session_id, after, timeout_s)

    def start(self) -> None:
        if self._alarm is None and self._looking is None:
            self._alarm = self._loop.call_later(self._pause_s, self._begin)

    def _begin(self) -> None:
        self._alarm = None
        if self.waiters:
            self._looking = self._loop.create_task(self._look_once())
            self._looking.add_done_callback(self._end)

    async def _look_once(self) -> None:
        began = time.monotonic()
        try:
            self._tell(await self._look(self._question()) or {})
        except Exception as error:
            self._fail(error)
        self._pause_s = _pause_s(began)

    def _end(self, _look: asyncio.Task[None]) -> None:
        # Perhaps it was cancelled, as a loop that ends does with all its tasks.
        self._looking = None
        if self.waiters:
            self.start()


class _TaskSubscription(Subscription):
    """A task that waits."""

    __slots__ = ("_awake",)

    def __init__(self, roll: AsyncPoller, session_id: str, after: int, timeout_s: float) -> None:
        super().__init__(roll, session_id, after, timeout_s)
        self._awake = asyncio.Event()

    def wake(self) -> None:
        self._awake.set()

    async def wait_for_change(self) -> bool:
        """Sleep until the session may have moved. False: the time is up."""
        if self._is_over():
            return False
        await asyncio.sleep(self._recess_s())
        self._roll.start()
        left_s = self._left_s()
        try:
            async with asyncio.timeout(None if math.isinf(left_s) else left_s):
                await self._awake.wait()
        except TimeoutError:
            return False
        self._awake.clear()
        return self._is_up()


def _pause_s(began: float) -> float:
    return min(max(POLL_DUTY_RATIO * (time.monotonic() - began), POLL_INTERVAL_MIN_S), POLL_INTERVAL_MAX_S)


class _InTransaction:
    """Waiting inside a transaction: its connection is its own, so nobody looks for it and it asks again."""

    __slots__ = ("_deadline",)

    def __init__(self, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _pause_s(self) -> float:
        return min(POLL_INTERVAL_MAX_S, self._deadline - time.monotonic())


class _ThreadInTransaction(_InTransaction):
    __slots__ = ()

    def wait_for_change(self) -> bool:
        if (pause_s := self._pause_s()) > 0:
            time.sleep(pause_s)
        return pause_s > 0


class _TaskInTransaction(_InTransaction):
    __slots__ = ()

    async def wait_for_change(self) -> bool:
        if (pause_s := self._pause_s()) > 0:
            await asyncio.sleep(pause_s)
        return pause_s > 0


class PollInTransaction:
    """The place of a Watch inside a transaction."""

    def waiting(self, _session_id: str, _after: int, timeout_s: float) -> _ThreadInTransaction:
        return _ThreadInTransaction(timeout_s)


class AsyncPollInTransaction:
    """The place of an AsyncWatch inside a transaction."""

    def waiting(self, _session_id: str, _after: int, timeout_s: float) -> _TaskInTransaction:
        return _TaskInTransaction(timeout_s)
