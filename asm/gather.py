"""Many questions that wait at the same moment become one question.

While one batch is on its way, those who come queue up; when it is back, all who queue are
the next batch. There is no timer and no thread of ours: who finds nobody on the way goes at
once, and of those who queue the first is told to go for all. Alone, nobody waits for anything.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from asm.errors import ConnectionFailed, StorageTimeout
from asm.plan import Ask, Joining

T = TypeVar("T")

PARTS_MAX = 1_000
"""So many parts make one question; those who bring more than there is room for go with the next."""

_OF_NOBODYS_MAKING = (ConnectionFailed, StorageTimeout)
"""What fails a batch whatever is in it."""


class Gather:
    """The questions of many threads."""

    def __init__(self, run: Callable[[Ask[Any]], Any]) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._queue: deque[_Caller[Any]] = deque()
        self._under_way = False

    def ask(self, question: Joining[T]) -> T:
        """Ask, together with whoever waits."""
        caller = _Caller(question)
        with self._lock:
            goes = not self._under_way
            self._under_way = True
            self._queue.append(caller)
        if goes or self._told_to_go(caller):
            self._go()
        return caller.outcome()

    def finish(self) -> None:
        """Wait until nobody waits."""
        with self._idle:
            self._idle.wait_for(lambda: not self._under_way)

    def _told_to_go(self, caller: _Caller[Any]) -> bool:
        try:
            return caller.wait()
        except BaseException:
            # Interrupted in its sleep: it leaves the queue, or if it was just told to go, the next does.
            with self._lock:
                if caller in self._queue:
                    self._queue.remove(caller)
                if caller.goes:
                    self._next()
            raise

    def _go(self) -> None:
        with self._lock:
            batch = _taken_from(self._queue)
        try:
            self._ask(batch)
        finally:
            with self._lock:
                # Interrupted on the way, the others go again: ids make that harmless.
                self._queue.extendleft(caller for caller in reversed(batch[1:]) if not caller.answered)
                self._next()

    def _ask(self, batch: Sequence[_Caller[Any]]) -> None:
        try:
            answers = self._run(_together(batch))
        except Exception as error:
            for part in _parts(batch, error):
                self._ask(part)
        else:
            for caller in batch:
                caller.answer(answers)

    def _next(self) -> None:
        if self._queue:
            self._queue[0].go()
        else:
            self._under_way = False
            self._idle.notify_all()


class AsyncGather:
    """The questions of many tasks of one event loop."""

    def __init__(self, run: Callable[[Ask[Any]], Awaitable[Any]]) -> None:
        self._run = run
        self._queue: deque[_Task[Any]] = deque()
        self._under_way: asyncio.Task[None] | None = None

    async def ask(self, question: Joining[T]) -> T:
        """Ask, together with whoever waits."""
        task = _Task(question)
        self._queue.append(task)
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._go())
        return await task.future

    async def finish(self) -> None:
        """Wait until nobody waits."""
        while self._under_way is not None:
            await asyncio.wait([self._under_way])

    async def _go(self) -> None:
        # A task of its own, because its batch is of many callers and any of them may be cancelled.
        try:
            while self._queue:
                await self._ask(_taken_from(self._queue))
        finally:
            self._under_way = None

    async def _ask(self, batch: Sequence[_Task[Any]]) -> None:
        try:
            answers = await self._run(_together(batch))
        except Exception as error:
            for part in _parts(batch, error):
                await self._ask(part)
        else:
            for task in batch:
                task.answer(answers)


class _Caller(Generic[T]):
    """A thread that waits for its answer, or to be told to go."""

    __slots__ = ("_awake", "_error", "_result", "answered", "goes", "question")

    def __init__(self, question: Joining[T]) -> None:
        self.question = question
        self.goes = False
        self.answered = False
        self._error: BaseException | None = None
        self._awake = threading.Lock()
        self._awake.acquire()

    def wait(self) -> bool:
        """Sleep until there is an answer. True: there is none yet, and it is this thread that has to go."""
        self._awake.acquire()
        return not self.answered

    def go(self) -> None:
        self.goes = True
        self._awake.release()

    def answer(self, answers: Any) -> None:
        self._result = self.question.answer(answers)
        self._done()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._done()

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result

    def _done(self) -> None:
        self.answered = True
        if self._awake.locked():
            self._awake.release()


class _Task(Generic[T]):
    """A task that waits for its answer."""

    __slots__ = ("future", "question")

    def __init__(self, question: Joining[T]) -> None:
        self.question = question
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def answer(self, answers: Any) -> None:
        # Cancelled meanwhile, perhaps: then its events are stored and nobody asks.
        if not self.future.done():
            self.future.set_result(self.question.answer(answers))

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


C = TypeVar("C", _Caller[Any], _Task[Any])


def _taken_from(queue: deque[C]) -> list[C]:
    """Those who go next, in the order in which they came, so many as fit one statement."""
    batch = [queue.popleft()]
    room = PARTS_MAX - len(batch[0].question.parts)
    while queue and (room := room - len(queue[0].question.parts)) >= 0:
        batch.append(queue.popleft())
    return batch


def _together(batch: Sequence[C]) -> Ask[Any]:
    return batch[0].question.together([part for each in batch for part in each.question.parts])


def _parts(batch: Sequence[C], error: Exception) -> list[Sequence[C]]:
    """What to ask again of a batch that failed: its halves, until what fails is alone with its error."""
    if len(batch) == 1 or isinstance(error, _OF_NOBODYS_MAKING):
        for each in batch:
            each.fail(_own(error))
        return []
    half = len(batch) // 2
    return [batch[:half], batch[half:]]


def _own(error: Exception) -> Exception:
    # One exception raised in several threads would collect the tracebacks of all.
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own
