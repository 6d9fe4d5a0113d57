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

from asm.engine.script import Batchable, Query
from asm.errors import ConnectionFailed, StorageTimeout, StoreClosed, copied

T = TypeVar("T")
C = TypeVar("C", bound="Request[Any]")

ITEMS_MAX = 1_000
BYTES_MAX = 8 * 1024 * 1024
"""What one flight takes, in events and in JSON; a single caller may bring more."""

SLOW_BATCH_S = 0.05
"""A flight that takes longer holds nobody back who has no session in it. Also how often a thread
that waits looks around, should whoever was to wake it have been interrupted."""

ALL_LANES = (0, 1)
"""Where many wait there are two flights at a time, each with the sessions of one half."""

MIXED_BATCH_TIMEOUT_S = 1.0
"""A flight of several sessions waits no longer for a lock that one of them may be held by, unless
the quickest of the last flights took a quarter of it: then the server is slow, and not one session."""


class Request(Generic[T]):
    """Somebody who waits for an answer of their own."""

    __slots__ = ("_answers", "_error", "abandoned", "done", "group", "lane", "question", "requested_at")

    def __init__(self, question: Batchable[T]) -> None:
        self.question = question
        self.requested_at = time.monotonic()
        self.done = False
        self.abandoned = False
        self.group: object = None
        self.lane = hash(question.sessions[0]) & 1
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
        return self.question.extract(self._answers)

    @property
    def waits(self) -> bool:
        return not (self.done or self.abandoned)


class Batch(Generic[C]):
    """Callers who travel in one statement; one who finds the line idle needs no seat."""

    __slots__ = ("is_over", "lanes", "requests", "sessions", "started_at")

    def __init__(self, sessions: Iterable[str] = ()) -> None:
        self.requests: list[C] = []
        self.sessions = sessions
        self.lanes: tuple[int, ...] = ALL_LANES
        self.started_at = 0.0
        self.is_over = False

    @property
    def spans_sessions(self) -> bool:
        """Whether some wait for a session that others have nothing to do with."""
        first = self.requests[0].question.sessions
        return any(request.question.sessions != first for request in self.requests)

    @property
    def last_requested_at(self) -> float:
        return self.requests[-1].requested_at

    def question(self) -> Query[Any]:
        merge = self.requests[0].question.merge
        return merge([part for request in self.requests for part in request.question.items])

    def split(self, error: Exception, overdue: Callable[[C], bool]) -> None:
        """What becomes of a flight that failed: whoever may not be to blame goes again in a smaller one."""
        if len(self.requests) == 1:
            self.requests[0].fail(error)
        elif isinstance(error, StorageTimeout) and self.spans_sessions:
            _fail([request for request in self.requests if overdue(request)], error)
            for request in self.requests:
                request.group = request.question.sessions
        elif isinstance(error, ConnectionFailed | StorageTimeout):
            # Alone, each would have waited as long for the same.
            _fail(self.requests, error)
        else:
            lane = len(self.requests) // 2
            for requests in (self.requests[:lane], self.requests[lane:]):
                group = object()
                for request in requests:
                    request.group = group


def _fail(requests: Iterable[Request[Any]], error: Exception) -> None:
    for request in requests:
        request.fail(copied(error))


class WaitQueue(Generic[C]):
    """Who waits, in the order in which they came, and who is on the way."""

    def __init__(self, parallel_batches_from: int | None) -> None:
        self._crowd = parallel_batches_from
        self._waiting: deque[C] = deque()
        self._batches: list[Batch[C]] = []
        self._took_s: deque[float] = deque([0.0], maxlen=8)

    @property
    def waiting(self) -> list[C]:
        return [request for request in self._waiting if request.waits]

    @property
    def is_idle(self) -> bool:
        return not (self._batches or self.waiting)

    def join(self, request: C) -> None:
        self._waiting.append(request)

    def start_alone(self, batch: Batch[C]) -> bool:
        """Leave at once, if nobody waits and nobody is on the way."""
        if self._waiting or self._batches:
            return False
        batch.started_at = time.monotonic()
        self._batches.append(batch)
        return True

    def start_batch(self, batch: Batch[C], leader: C | None = None) -> bool:
        """Fill a flight with those who may go, if it may go now, and the leader is among them."""
        now = time.monotonic()
        if not self._has_capacity(now):
            return False
        selected, deferred, lanes = self._select(now)
        if not selected or (leader is not None and leader not in selected):
            return False
        batch.started_at = now
        batch.lanes = lanes
        batch.requests = selected
        batch.sessions = {session for request in selected for session in request.question.sessions}
        self._batches.append(batch)
        self._waiting = deferred
        return True

    def next_leader(self) -> C | None:
        """The first of those who could go now."""
        now = time.monotonic()
        if not self._waiting or not self._has_capacity(now):
            return None
        selected, _, _ = self._select(now)
        return selected[0] if selected else None

    def _has_capacity(self, now: float) -> bool:
        under_way = self._under_way(now)
        return not under_way or (len(under_way) == 1 and under_way[0].lanes != ALL_LANES)

    def _under_way(self, now: float) -> list[Batch[C]]:
        return [batch for batch in self._batches if now - batch.started_at < SLOW_BATCH_S]

    def finish_batch(self, batch: Batch[C]) -> None:
        """Those who have no answer yet go first in the line. To land twice is to land once."""
        if batch not in self._batches:
            return
        if batch.requests:
            self._waiting.extendleft(request for request in reversed(batch.requests) if request.waits)
        self._took_s.append(time.monotonic() - batch.started_at)
        self._batches.remove(batch)

    def patience_with(self, batch: Batch[C]) -> float | None:
        """How long a flight of several sessions may take before each goes alone."""
        return max(MIXED_BATCH_TIMEOUT_S, 4 * min(self._took_s)) if batch.spans_sessions else None

    def _select(self, now: float) -> tuple[list[C], deque[C], tuple[int, ...]]:
        """Who could go next, who would stay, and which halves of the sessions are meant."""
        under_way = self._under_way(now)
        lanes = (1 - under_way[0].lanes[0],) if under_way else ALL_LANES
        is_crowded = self._crowd is not None and len(self._waiting) >= self._crowd
        busy_sessions = {session for batch in self._batches for session in batch.sessions}
        selected: list[C] = []
        deferred: deque[C] = deque()
        items = size_bytes = 0
        for request in self._waiting:
            if request.done or request.abandoned:
                continue
            question = request.question
            if (
                request.lane in lanes
                and busy_sessions.isdisjoint(question.sessions)
                and (not selected or request.group == selected[0].group)
                and (not selected or items + len(question.items) <= ITEMS_MAX)
                and (not selected or size_bytes + question.size_bytes <= BYTES_MAX)
            ):
                if is_crowded and not selected:
                    lanes = (request.lane,)
                selected.append(request)
                items += len(question.items)
                size_bytes += question.size_bytes
            else:
                # Nobody overtakes within a session.
                deferred.append(request)
                busy_sessions.update(question.sessions)
        return selected, deferred, lanes


class Send(Protocol):
    """One question to the database, tried again for so long; one with a brief patience is given up."""

    def __call__(self, question: Query[Any], /, *, retry_for: float, lock_timeout_s: float | None) -> Any: ...


class GroupCommit:
    """The appends of any number of threads."""

    def __init__(
        self, send: Send, *, parallel_batches_from: int | None, timeout: float, retry_for: float
    ) -> None:
        self._send = send
        self._timeout = timeout
        self._retry_for = retry_for
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._line: WaitQueue[_ThreadRequest[Any]] = WaitQueue(parallel_batches_from)
        self._leader: _ThreadRequest[Any] | None = None
        self._landed_at = 0.0
        self._inside: set[int] = set()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        return self._closed

    def ask(self, question: Batchable[T]) -> T:
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
                self._idle.wait(SLOW_BATCH_S)

    def _alone(self, question: Batchable[T]) -> T:
        asked = question.merge(question.items)
        return question.extract(self._send(asked, retry_for=self._retry_for, lock_timeout_s=None))

    def _in_line(self, question: Batchable[T]) -> T:
        if self._closed:
            raise StoreClosed("this store is closed")
        batch: Batch[_ThreadRequest[Any]] = Batch(question.sessions)
        try:
            try:
                with self._lock:
                    departs = self._line.start_alone(batch)
                if departs:
                    return self._alone(question)
            finally:
                self._land(batch)
        finally:
            # Once more, for an interrupt may have cut the first short.
            self._land(batch)
        return self._with_others(_ThreadRequest(question))

    def _with_others(self, request: _ThreadRequest[T]) -> T:
        try:
            with self._lock:
                self._line.join(request)
            while True:
                self._lead(request)
                if request.done:
                    return request.outcome()
                request.sleep(SLOW_BATCH_S)
                if self._is_late(request) and self._gives_up(request):
                    raise _queue_timeout(self._timeout)
        finally:
            request.abandoned = True

    def _lead(self, request: _ThreadRequest[Any]) -> None:
        """Go, with all who wait, if this caller can go now."""
        batch: Batch[_ThreadRequest[Any]] = Batch()
        try:
            try:
                with self._lock:
                    departs = self._has_turn(request) and self._line.start_batch(batch, request)
                if departs:
                    self._send_batch(batch)
            finally:
                self._land(batch)
        finally:
            self._land(batch)

    def _send_batch(self, batch: Batch[_ThreadRequest[Any]]) -> None:
        left_s = batch.last_requested_at + self._retry_for - time.monotonic()
        try:
            answers = self._send(
                batch.question(), retry_for=max(left_s, 0), lock_timeout_s=self._line.patience_with(batch)
            )
        except Exception as error:
            batch.split(error, self._is_late)
        else:
            for request in batch.requests:
                request.answer(answers)

    def _land(self, batch: Batch[_ThreadRequest[Any]]) -> None:
        if batch.is_over or not batch.started_at:
            return
        with self._lock:
            self._line.finish_batch(batch)
            self._landed_at = time.monotonic()
            self._leader = self._line.next_leader()
            if self._leader is not None:
                self._leader.wake()
            if self._closed:
                self._idle.notify_all()
        for request in batch.requests:
            request.wake()
        batch.is_over = True

    def _has_turn(self, request: _ThreadRequest[Any]) -> bool:
        # Until the one that was woken to lead is awake, others arrive who go with it: without this,
        # whoever comes by goes at once with few, and SQLite's threads fight over the interpreter.
        if request.done or self._leader is None or self._leader is request or not self._leader.waits:
            return not request.done
        return time.monotonic() - self._landed_at > SLOW_BATCH_S

    def _gives_up(self, request: _ThreadRequest[Any]) -> bool:
        """Whether a caller still was in the line, which it leaves."""
        with self._lock:
            request.abandoned = request in self._line.waiting
            return request.abandoned

    def _is_late(self, request: Request[Any]) -> bool:
        return time.monotonic() > request.requested_at + self._timeout


class _ThreadRequest(Request[T]):
    """A thread that waits for its answer, or to be the next to lead."""

    __slots__ = ("_awake",)

    def __init__(self, question: Batchable[T]) -> None:
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
        self, question: Query[Any], /, *, retry_for: float, lock_timeout_s: float | None
    ) -> Awaitable[Any]: ...


class AsyncGroupCommit:
    """The appends of any number of tasks of one event loop."""

    def __init__(
        self, send: AsyncSend, *, parallel_batches_from: int | None, timeout: float, retry_for: float
    ) -> None:
        self._send = send
        self._timeout = timeout
        self._retry_for = retry_for
        self._loop = asyncio.get_running_loop()
        self._line: WaitQueue[_Task[Any]] = WaitQueue(parallel_batches_from)
        self._flying: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        return self._closed

    async def ask(self, question: Batchable[T]) -> T:
        """Ask together with whoever waits, and wait no longer than `timeout` to be on the way."""
        if self._closed:
            raise StoreClosed("this store is closed")
        request = _Task(question, self._loop)
        self._line.join(request)
        try:
            batch: Batch[_Task[Any]] = Batch()
            if self._line.start_batch(batch):
                if batch.requests == [request]:
                    return await self._alone(request, batch)
                self._start(batch)
            self._watch()
            await request.landed
            return request.outcome()
        finally:
            request.abandoned = True

    async def finish(self) -> None:
        """Refuse whoever comes from now on, and wait until those who are here have their answers."""
        self._closed = True
        while not self._line.is_idle:
            self._idle.clear()
            await self._idle.wait()

    async def _alone(self, request: _Task[T], batch: Batch[_Task[Any]]) -> T:
        # In the caller's own task, so that cancelling it stops the statement on the server.
        try:
            answers = await self._send(batch.question(), retry_for=self._retry_for, lock_timeout_s=None)
        except BaseException:
            request.abandoned = True
            # Those who wait may be cancelled with it, and are given the moment to leave.
            self._loop.call_soon(self._land, batch)
            raise
        request.abandoned = True
        self._land(batch)
        return request.question.extract(answers)

    def _start(self, batch: Batch[_Task[Any]]) -> None:
        # A task of its own, because any of its callers may be cancelled.
        task = self._loop.create_task(self._send_batch(batch))
        self._flying.add(task)
        task.add_done_callback(partial(self._flown, batch))

    async def _send_batch(self, batch: Batch[_Task[Any]]) -> None:
        left_s = batch.last_requested_at + self._retry_for - time.monotonic()
        try:
            answers = await self._send(
                batch.question(), retry_for=max(left_s, 0), lock_timeout_s=self._line.patience_with(batch)
            )
        except Exception as error:
            batch.split(error, self._is_late)
        else:
            for request in batch.requests:
                request.answer(answers)
        self._land(batch)

    def _flown(self, batch: Batch[_Task[Any]], task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        # Cancelled, as a loop that ends does with all its tasks, perhaps before its first step.
        self._land(batch)

    def _land(self, batch: Batch[_Task[Any]]) -> None:
        self._line.finish_batch(batch)
        for request in batch.requests:
            request.tell()
        self._depart()

    def _depart(self) -> None:
        batch: Batch[_Task[Any]] = Batch()
        while self._line.start_batch(batch):
            self._start(batch)
            batch = Batch()
        self._watch()
        if self._closed and self._line.is_idle:
            self._idle.set()

    def _watch(self) -> None:
        if self._alarm is None and self._line.waiting:
            self._alarm = self._loop.call_later(SLOW_BATCH_S, self._look_around)

    def _look_around(self) -> None:
        self._alarm = None
        self._depart()
        for request in self._line.waiting:
            if self._is_late(request):
                request.fail(_queue_timeout(self._timeout))
                request.tell()

    def _is_late(self, request: Request[Any]) -> bool:
        return time.monotonic() > request.requested_at + self._timeout


class _Task(Request[T]):
    """A task that waits for its answer."""

    __slots__ = ("landed",)

    def __init__(self, question: Batchable[T], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(question)
        self.landed: asyncio.Future[None] = loop.create_future()

    def tell(self) -> None:
        # Cancelled meanwhile, perhaps: then its events are stored and nobody asks.
        if self.done and not self.landed.done():
            self.landed.set_result(None)


def _queue_timeout(timeout: float) -> StorageTimeout:
    return StorageTimeout(
        f"not on the way after {timeout:g} s: an append to the same session has been waiting for a lock"
    )
