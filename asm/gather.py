"""Many appends that wait at the same moment become one statement and one commit.

Callers queue in a line; those who travel together are a flight. While one flight is on its
way, those who come wait, and when it has landed all who wait are the next. There is no timer
that holds anybody back and no thread of ours: who finds the line empty goes at once, alone, and
among threads the first who can go leads all who wait. 64 threads, or 64 tasks, append about
three times as much this way as each for itself (`bench/single_append.py`, `bench/async_append.py`).

A flight that does not land soon, because another transaction holds a session of it, no longer
counts: the next leaves without it, and without the sessions that it has. If it was of several
sessions, it is called back, and each of them goes alone.

What is in doubt is asked twice rather than lost. Every interrupted step leaves a caller in the
line, in a flight or in both, never in neither, and ids make a second append harmless.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from asm.errors import ConnectionFailed, StorageTimeout, StoreClosed, copied
from asm.plan import Ask, Joining

T = TypeVar("T")
C = TypeVar("C", bound="Caller[Any]")

PARTS_MAX = 1_000
BYTES_MAX = 8 * 1024 * 1024
"""What one flight takes, in events and in JSON; a single caller may bring more."""

OVERDUE_S = 0.05
"""A flight that takes longer holds nobody back who has no session in it. Also how often a thread
that waits looks around, should whoever was to wake it have been interrupted."""

BOTH_HALVES = (0, 1)
"""Where many wait there are two flights at a time, each with the sessions of one half."""

BRIEF_S = 1.0
"""A flight of several sessions waits no longer for a lock that one of them may be held by, unless
the quickest of the last flights took a quarter of it: then the server is slow, and not one session."""


class Caller(Generic[T]):
    """Somebody who waits for an answer of their own."""

    __slots__ = ("_answers", "_error", "asked_at", "done", "group", "half", "left", "question")

    def __init__(self, question: Joining[T]) -> None:
        self.question = question
        self.asked_at = time.monotonic()
        self.done = False
        self.left = False
        self.group: object = None
        self.half = hash(question.sessions[0]) & 1
        self._error: Exception | None = None

    def answer(self, answers: Any) -> None:
        self._answers = answers
        self.done = True

    def fail(self, error: Exception) -> None:
        self._error = error
        self.done = True

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self.question.answer(self._answers)

    @property
    def waits(self) -> bool:
        return not (self.done or self.left)


class Flight(Generic[C]):
    """Callers who travel in one statement; one who finds the line idle needs no seat."""

    __slots__ = ("callers", "departed_at", "halves", "is_over", "sessions")

    def __init__(self, sessions: Iterable[str] = ()) -> None:
        self.callers: list[C] = []
        self.sessions = sessions
        self.halves: tuple[int, ...] = BOTH_HALVES
        self.departed_at = 0.0
        self.is_over = False

    @property
    def is_mixed(self) -> bool:
        """Whether some wait for a session that others have nothing to do with."""
        first = self.callers[0].question.sessions
        return any(caller.question.sessions != first for caller in self.callers)

    @property
    def asked_last(self) -> float:
        return self.callers[-1].asked_at

    def question(self) -> Ask[Any]:
        together = self.callers[0].question.together
        return together([part for caller in self.callers for part in caller.question.parts])

    def split(self, error: Exception, overdue: Callable[[C], bool]) -> None:
        """What becomes of a flight that failed: whoever may not be to blame goes again in a smaller one."""
        if len(self.callers) == 1:
            self.callers[0].fail(error)
        elif isinstance(error, StorageTimeout) and self.is_mixed:
            _fail([caller for caller in self.callers if overdue(caller)], error)
            for caller in self.callers:
                caller.group = caller.question.sessions
        elif isinstance(error, ConnectionFailed | StorageTimeout):
            # Alone, each would have waited as long for the same.
            _fail(self.callers, error)
        else:
            half = len(self.callers) // 2
            for callers in (self.callers[:half], self.callers[half:]):
                group = object()
                for caller in callers:
                    caller.group = group


def _fail(callers: Iterable[Caller[Any]], error: Exception) -> None:
    for caller in callers:
        caller.fail(copied(error))


class Line(Generic[C]):
    """Who waits, in the order in which they came, and who is on the way."""

    def __init__(self, crowd: int | None) -> None:
        self._crowd = crowd
        self._waiting: deque[C] = deque()
        self._flights: list[Flight[C]] = []
        self._took_s: deque[float] = deque([0.0], maxlen=8)

    @property
    def waiting(self) -> list[C]:
        return [caller for caller in self._waiting if caller.waits]

    @property
    def is_idle(self) -> bool:
        return not (self._flights or self.waiting)

    def join(self, caller: C) -> None:
        self._waiting.append(caller)

    def take_off(self, flight: Flight[C]) -> bool:
        """Leave at once, if nobody waits and nobody is on the way."""
        if self._waiting or self._flights:
            return False
        flight.departed_at = time.monotonic()
        self._flights.append(flight)
        return True

    def depart(self, flight: Flight[C], leader: C | None = None) -> bool:
        """Fill a flight with those who may go, if it may go now, and the leader is among them."""
        now = time.monotonic()
        if not self._has_room(now):
            return False
        going, staying, halves = self._boarding(now)
        if not going or (leader is not None and leader not in going):
            return False
        flight.departed_at = now
        flight.halves = halves
        flight.callers = going
        flight.sessions = {session for caller in going for session in caller.question.sessions}
        self._flights.append(flight)
        self._waiting = staying
        return True

    def next_leader(self) -> C | None:
        """The first of those who could go now."""
        now = time.monotonic()
        if not self._waiting or not self._has_room(now):
            return None
        going, _, _ = self._boarding(now)
        return going[0] if going else None

    def _has_room(self, now: float) -> bool:
        under_way = self._under_way(now)
        return not under_way or (len(under_way) == 1 and under_way[0].halves != BOTH_HALVES)

    def _under_way(self, now: float) -> list[Flight[C]]:
        return [flight for flight in self._flights if now - flight.departed_at < OVERDUE_S]

    def land(self, flight: Flight[C]) -> None:
        """Those who have no answer yet go first in the line. To land twice is to land once."""
        if flight not in self._flights:
            return
        if flight.callers:
            self._waiting.extendleft(caller for caller in reversed(flight.callers) if caller.waits)
        self._took_s.append(time.monotonic() - flight.departed_at)
        self._flights.remove(flight)

    def patience_with(self, flight: Flight[C]) -> float | None:
        """How long a flight of several sessions may take before each goes alone."""
        return max(BRIEF_S, 4 * min(self._took_s)) if flight.is_mixed else None

    def _boarding(self, now: float) -> tuple[list[C], deque[C], tuple[int, ...]]:
        """Who could go next, who would stay, and which halves of the sessions are meant."""
        under_way = self._under_way(now)
        halves = (1 - under_way[0].halves[0],) if under_way else BOTH_HALVES
        is_crowd = self._crowd is not None and len(self._waiting) >= self._crowd
        taken = {session for flight in self._flights for session in flight.sessions}
        going: list[C] = []
        staying: deque[C] = deque()
        parts = size_bytes = 0
        for caller in self._waiting:
            if caller.done or caller.left:
                continue
            question = caller.question
            if (
                caller.half in halves
                and taken.isdisjoint(question.sessions)
                and (not going or caller.group == going[0].group)
                and (not going or parts + len(question.parts) <= PARTS_MAX)
                and (not going or size_bytes + question.size_bytes <= BYTES_MAX)
            ):
                if is_crowd and not going:
                    halves = (caller.half,)
                going.append(caller)
                parts += len(question.parts)
                size_bytes += question.size_bytes
            else:
                # Nobody overtakes within a session.
                staying.append(caller)
                taken.update(question.sessions)
        return going, staying, halves


class Send(Protocol):
    """One question to the database, tried again for so long; one with a brief patience is given up."""

    def __call__(self, question: Ask[Any], /, *, retry_for: float, brief_s: float | None) -> Any: ...


class Gather:
    """The appends of any number of threads."""

    def __init__(self, send: Send, *, crowd: int | None, timeout: float, retry_for: float) -> None:
        self._send = send
        self._timeout = timeout
        self._retry_for = retry_for
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._line: Line[_Thread[Any]] = Line(crowd)
        self._leader: _Thread[Any] | None = None
        self._landed_at = 0.0
        self._inside: set[int] = set()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        return self._closed

    def ask(self, question: Joining[T]) -> T:
        """Ask together with whoever waits, and wait no longer than `timeout` to be on the way."""
        thread_id = threading.get_ident()
        if thread_id in self._inside:
            # A signal handler that appends, in the midst of an append of its own thread.
            return self._alone(question)
        try:
            self._inside.add(thread_id)
            return self._in_line(question)
        finally:
            self._inside.discard(thread_id)

    def finish(self) -> None:
        """Refuse whoever comes from now on, and wait until those who are here have their answers."""
        self._closed = True
        if threading.get_ident() in self._inside:
            # A signal handler that closes the store: its own thread cannot go on meanwhile.
            return
        with self._idle:
            while not self._line.is_idle:
                self._idle.wait(OVERDUE_S)

    def _alone(self, question: Joining[T]) -> T:
        asked = question.together(question.parts)
        return question.answer(self._send(asked, retry_for=self._retry_for, brief_s=None))

    def _in_line(self, question: Joining[T]) -> T:
        if self._closed:
            raise StoreClosed("this store is closed")
        flight: Flight[_Thread[Any]] = Flight(question.sessions)
        try:
            try:
                with self._lock:
                    departs = self._line.take_off(flight)
                if departs:
                    return self._alone(question)
            finally:
                self._land(flight)
        finally:
            # Once more, for an interrupt may have cut the first short.
            self._land(flight)
        return self._with_others(_Thread(question))

    def _with_others(self, caller: _Thread[T]) -> T:
        try:
            with self._lock:
                self._line.join(caller)
            while True:
                self._lead(caller)
                if caller.done:
                    return caller.outcome()
                caller.sleep(OVERDUE_S)
                if self._is_late(caller) and self._gives_up(caller):
                    raise _too_late(self._timeout)
        finally:
            caller.left = True

    def _lead(self, caller: _Thread[Any]) -> None:
        """Go, with all who wait, if this caller can go now."""
        flight: Flight[_Thread[Any]] = Flight()
        try:
            try:
                with self._lock:
                    departs = self._has_turn(caller) and self._line.depart(flight, caller)
                if departs:
                    self._fly(flight)
            finally:
                self._land(flight)
        finally:
            self._land(flight)

    def _fly(self, flight: Flight[_Thread[Any]]) -> None:
        left_s = flight.asked_last + self._retry_for - time.monotonic()
        try:
            answers = self._send(
                flight.question(), retry_for=max(left_s, 0), brief_s=self._line.patience_with(flight)
            )
        except Exception as error:
            flight.split(error, self._is_late)
        else:
            for caller in flight.callers:
                caller.answer(answers)

    def _land(self, flight: Flight[_Thread[Any]]) -> None:
        if flight.is_over or not flight.departed_at:
            return
        with self._lock:
            self._line.land(flight)
            self._landed_at = time.monotonic()
            self._leader = self._line.next_leader()
            if self._leader is not None:
                self._leader.wake()
            if self._closed:
                self._idle.notify_all()
        for caller in flight.callers:
            caller.wake()
        flight.is_over = True

    def _has_turn(self, caller: _Thread[Any]) -> bool:
        # Until the one that was woken to lead is awake, others arrive who go with it: without this,
        # whoever comes by goes at once with few, and SQLite's threads fight over the interpreter.
        if caller.done or self._leader is None or self._leader is caller or not self._leader.waits:
            return not caller.done
        return time.monotonic() - self._landed_at > OVERDUE_S

    def _gives_up(self, caller: _Thread[Any]) -> bool:
        """Whether a caller still was in the line, which it leaves."""
        with self._lock:
            caller.left = caller in self._line.waiting
            return caller.left

    def _is_late(self, caller: Caller[Any]) -> bool:
        return time.monotonic() > caller.asked_at + self._timeout


class _Thread(Caller[T]):
    """A thread that waits for its answer, or to be the next to lead."""

    __slots__ = ("_awake",)

    def __init__(self, question: Joining[T]) -> None:
        super().__init__(question)
        self._awake = threading.Lock()
        self._awake.acquire()

    def sleep(self, longest_s: float) -> None:
        self._awake.acquire(timeout=longest_s)

    def wake(self) -> None:
        # Woken before it slept, it does not fall asleep; woken twice, it is awake.
        with suppress(RuntimeError):
            self._awake.release()


class AsyncSend(Protocol):
    """The same, awaited."""

    def __call__(
        self, question: Ask[Any], /, *, retry_for: float, brief_s: float | None
    ) -> Awaitable[Any]: ...


class AsyncGather:
    """The appends of any number of tasks of one event loop."""

    def __init__(self, send: AsyncSend, *, crowd: int | None, timeout: float, retry_for: float) -> None:
        self._send = send
        self._timeout = timeout
        self._retry_for = retry_for
        self._loop = asyncio.get_running_loop()
        self._line: Line[_Task[Any]] = Line(crowd)
        self._flying: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        return self._closed

    async def ask(self, question: Joining[T]) -> T:
        """Ask together with whoever waits, and wait no longer than `timeout` to be on the way."""
        if self._closed:
            raise StoreClosed("this store is closed")
        caller = _Task(question, self._loop)
        self._line.join(caller)
        try:
            flight: Flight[_Task[Any]] = Flight()
            if self._line.depart(flight):
                if flight.callers == [caller]:
                    return await self._alone(caller, flight)
                self._start(flight)
            self._watch()
            await caller.landed
            return caller.outcome()
        finally:
            caller.left = True

    async def finish(self) -> None:
        """Refuse whoever comes from now on, and wait until those who are here have their answers."""
        self._closed = True
        while not self._line.is_idle:
            self._idle.clear()
            await self._idle.wait()

    async def _alone(self, caller: _Task[T], flight: Flight[_Task[Any]]) -> T:
        # In the caller's own task, so that cancelling it stops the statement on the server.
        try:
            answers = await self._send(flight.question(), retry_for=self._retry_for, brief_s=None)
        except BaseException:
            caller.left = True
            # Those who wait may be cancelled with it, and are given the moment to leave.
            self._loop.call_soon(self._land, flight)
            raise
        caller.left = True
        self._land(flight)
        return caller.question.answer(answers)

    def _start(self, flight: Flight[_Task[Any]]) -> None:
        # A task of its own, because any of its callers may be cancelled.
        task = self._loop.create_task(self._fly(flight))
        self._flying.add(task)
        task.add_done_callback(partial(self._flown, flight))

    async def _fly(self, flight: Flight[_Task[Any]]) -> None:
        left_s = flight.asked_last + self._retry_for - time.monotonic()
        try:
            answers = await self._send(
                flight.question(), retry_for=max(left_s, 0), brief_s=self._line.patience_with(flight)
            )
        except Exception as error:
            flight.split(error, self._is_late)
        else:
            for caller in flight.callers:
                caller.answer(answers)
        self._land(flight)

    def _flown(self, flight: Flight[_Task[Any]], task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        # Cancelled, as a loop that ends does with all its tasks, perhaps before its first step.
        self._land(flight)

    def _land(self, flight: Flight[_Task[Any]]) -> None:
        self._line.land(flight)
        for caller in flight.callers:
            caller.tell()
        self._depart()

    def _depart(self) -> None:
        flight: Flight[_Task[Any]] = Flight()
        while self._line.depart(flight):
            self._start(flight)
            flight = Flight()
        self._watch()
        if self._closed and self._line.is_idle:
            self._idle.set()

    def _watch(self) -> None:
        if self._alarm is None and self._line.waiting:
            self._alarm = self._loop.call_later(OVERDUE_S, self._look_around)

    def _look_around(self) -> None:
        self._alarm = None
        self._depart()
        for caller in self._line.waiting:
            if self._is_late(caller):
                caller.fail(_too_late(self._timeout))
                caller.tell()

    def _is_late(self, caller: Caller[Any]) -> bool:
        return time.monotonic() > caller.asked_at + self._timeout


class _Task(Caller[T]):
    """A task that waits for its answer."""

    __slots__ = ("landed",)

    def __init__(self, question: Joining[T], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(question)
        self.landed: asyncio.Future[None] = loop.create_future()

    def tell(self) -> None:
        # Cancelled meanwhile, perhaps: then its events are stored and nobody asks.
        if self.done and not self.landed.done():
            self.landed.set_result(None)


def _too_late(timeout: float) -> StorageTimeout:
    return StorageTimeout(
        f"not on the way after {timeout:g} s: an append to the same session has been waiting for a lock"
    )
