"""Group commit for the tasks of one event loop. `group_commit` describes it, and has it for threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from functools import partial
from typing import Any, Protocol, TypeVar

from asm.engine.group_commit import queue_timeout
from asm.engine.script import Batchable, Pipeline, Query
from asm.engine.wait_queue import SLOW_BATCH_S, Batch, Request, WaitQueue
from asm.errors import store_closed

T = TypeVar("T")


class AsyncSend(Protocol):
    """`group_commit.Send`, awaited."""

    def __call__(
        self, query: Query[Any] | Pipeline[Any], /, *, retry_for: float, lock_timeout_s: float | None
    ) -> Awaitable[Any]: ...


class AsyncGroupCommit:
    """Group commit for any number of tasks of one event loop."""

    def __init__(
        self, send: AsyncSend, *, parallel_batches_from: int | None, timeout: float, retry_for: float
    ) -> None:
        self.send = send
        self._timeout = timeout
        self._retry_for = retry_for
        self._loop = asyncio.get_running_loop()
        self._queue: WaitQueue[_TaskRequest[Any]] = WaitQueue(parallel_batches_from)
        self._sending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self.is_closed = False

    def divide_by_session(self) -> None:
        """Have only operations on the same session share a statement, and any number be sent at a time."""
        self._queue.divides_by_session = True

    async def run(self, operation: Batchable[T]) -> T:
        """Send an operation, with others where some wait, and wait at most `timeout` seconds to be sent."""
        if self.is_closed:
            raise store_closed()
        batch: Batch[_TaskRequest[Any]] = Batch()
        if self._queue.start_alone(batch, operation.sessions):
            return await self._run_alone(operation, batch)
        request = _TaskRequest(operation, self._loop)
        self._queue.add(request)
        try:
            self._start_batches()
            await request.future
            return request.result()
        finally:
            request.abandoned = True

    async def close(self) -> None:
        """Refuse further operations, and wait until those that were accepted have their results."""
        self.is_closed = True
        while not self._queue.is_idle:
            self._idle.clear()
            await self._idle.wait()

    async def _run_alone(self, operation: Batchable[T], batch: Batch[_TaskRequest[Any]]) -> T:
        # In the caller's own task, so that cancelling it cancels the statement on the server.
        try:
            query = operation.merge(operation.items)
            query.name = operation.name
            merged = await self.send(query, retry_for=self._retry_for, lock_timeout_s=None)
        except BaseException:
            # Tasks that wait may be cancelled in the same step of the loop. They leave the queue before
            # `_finish` is called, so that nothing is sent for them.
            self._loop.call_soon(self._finish, batch)
            raise
        self._finish(batch)
        return operation.extract(merged)

    def _start_batches(self) -> None:
        batch: Batch[_TaskRequest[Any]] = Batch()
        while self._queue.start_batch(batch):
            # In a task of its own, because each of the callers may be cancelled.
            task = self._loop.create_task(self._send_batch(batch))
            self._sending.add(task)
            task.add_done_callback(partial(self._batch_done, batch))
            batch = Batch()
        if self._timer is None and self._queue.waiting:
            self._timer = self._loop.call_later(SLOW_BATCH_S, self._expire)

    async def _send_batch(self, batch: Batch[_TaskRequest[Any]]) -> None:
        try:
            merged = await self.send(
                batch.query(),
                retry_for=batch.retry_for(self._retry_for),
                lock_timeout_s=self._queue.lock_timeout_s(batch),
            )
        except Exception as error:
            batch.divide_failed(error, self._is_late)
        else:
            batch.succeed(merged)
        self._finish(batch)

    def _batch_done(self, batch: Batch[_TaskRequest[Any]], task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        # The task was cancelled, as a loop that ends does with all its tasks, perhaps before its first step.
        if not batch.is_finished:
            self._finish(batch)

    def _finish(self, batch: Batch[_TaskRequest[Any]]) -> None:
        batch.is_finished = True
        self._queue.finish_batch(batch)
        for request in batch.requests:
            request.notify()
        if self._queue.requests:
            self._start_batches()
        if self.is_closed and self._queue.is_idle:
            self._idle.set()

    def _expire(self) -> None:
        """Start what no longer waits for a slow batch, and fail what has waited for too long."""
        self._timer = None
        self._start_batches()
        for request in self._queue.waiting:
            if self._is_late(request):
                request.fail(queue_timeout(self._timeout))
                request.notify()

    def _is_late(self, request: Request[Any]) -> bool:
        return time.monotonic() > request.requested_at + self._timeout


class _TaskRequest(Request[T]):
    """The request of a task."""

    __slots__ = ("future",)

    def __init__(self, operation: Batchable[T], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(operation)
        self.future: asyncio.Future[None] = loop.create_future()

    def notify(self) -> None:
        # The future of a cancelled caller is done already.
        if self.done and not self.future.done():
            self.future.set_result(None)
