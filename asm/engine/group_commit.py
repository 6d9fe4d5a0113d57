"""Group commit: appends that wait at the same moment share one statement and one commit.

A caller that finds the queue idle sends its operation at once, alone. While a batch is being sent, further
requests wait; when it has finished, all that wait are the next batch. No timer holds a request back. Among
threads, the first whose request can be sent is the leader: it sends the batch for all of them. 64 threads,
or 64 tasks, append about three times as much this way as each by itself (`bench/single_append.py`,
`bench/async_append.py`).

A slow batch, which usually waits for a lock of another transaction, blocks only its own sessions. If it has
several, it soon gives up, and each session is sent in a batch of its own.

A caller may be interrupted or cancelled anywhere. Its own events may then be stored or not. A request of
another caller that was in its batch waits again and may be sent twice, which the ids of its events make
harmless.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from asm.engine.script import Batchable, Pipeline, Query
from asm.engine.wait_queue import SLOW_BATCH_S, Batch, Request, WaitQueue
from asm.errors import StorageTimeout, store_closed

T = TypeVar("T")


class Send(Protocol):
    """Sends one query or pipeline, with retries for `retry_for` seconds.

    It gives up a lock after `lock_timeout_s`.
    """

    def __call__(
        self, query: Query[Any] | Pipeline[Any], /, *, retry_for: float, lock_timeout_s: float | None
    ) -> Any: ...


class GroupCommit:
    """Group commit for any number of threads."""

    def __init__(
        self, send: Send, *, parallel_batches_from: int | None, timeout: float, retry_for: float
    ) -> None:
        self.send = send
        self._timeout = timeout
        self._retry_for = retry_for
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._queue: WaitQueue[_ThreadRequest[Any]] = WaitQueue(parallel_batches_from)
        self._leader: _ThreadRequest[Any] | None = None
        self._finished_at = 0.0
        self.is_closed = False

    def divide_by_session(self) -> None:
        """Have only operations on the same session share a statement, and any number be sent at a time."""
        self._queue.divides_by_session = True

    def run(self, operation: Batchable[T]) -> T:
        """Send an operation, with others where some wait, and wait at most `timeout` seconds to be sent."""
        if self.is_closed:
            raise store_closed()
        batch: Batch[_ThreadRequest[Any]] = Batch()
        try:
            with self._lock:
                is_alone = self._queue.start_alone(batch, operation.sessions)
            if is_alone:
                query = operation.merge(operation.items)
                query.name = operation.name
                return operation.extract(self.send(query, retry_for=self._retry_for, lock_timeout_s=None))
        finally:
            # Not in `_finish`, whose call a KeyboardInterrupt may end before its first line: a batch that
            # never finished would block its sessions.
            batch.is_finished = True
            if batch.started_at:
                self._finish(batch)
        return self._run_batched(_ThreadRequest(operation))

    def close(self) -> None:
        """Refuse further operations, and wait until those that were accepted have their results."""
        self.is_closed = True
        with self._idle:
            self._idle.wait_for(lambda: self._queue.is_idle)

    def _run_batched(self, request: _ThreadRequest[T]) -> T:
        try:
            with self._lock:
                self._queue.add(request)
            while True:
                self._lead(request)
                if request.done:
                    return request.result()
                # Not longer, because the batch that it waits for may become slow, and no longer block it.
                request.sleep(SLOW_BATCH_S)
                if self._is_late(request) and self._withdraw(request):
                    raise queue_timeout(self._timeout)
        finally:
            request.abandoned = True
            if self.is_closed:
                self._notify_close()

    def _lead(self, request: _ThreadRequest[Any]) -> None:
        """Send a batch, if one with this request can be sent now."""
        batch: Batch[_ThreadRequest[Any]] = Batch()
        try:
            with self._lock:
                is_leader = self._may_lead(request) and self._queue.start_batch(batch, request)
            if is_leader:
                self._send_batch(batch)
        finally:
            batch.is_finished = True
            if batch.started_at:
                self._finish(batch)

    def _may_lead(self, request: _ThreadRequest[Any]) -> bool:
        leader = self._leader
        if leader is None or leader is request or not leader.is_waiting:
            return request.is_waiting
        # The next leader was woken and does not run yet. Requests that arrive until it does join its
        # batch: if any thread could lead instead, batches would be small, and on SQLite the threads
        # would contend for the interpreter.
        return request.is_waiting and time.monotonic() - self._finished_at > SLOW_BATCH_S

    def _send_batch(self, batch: Batch[_ThreadRequest[Any]]) -> None:
        try:
            merged = self.send(
                batch.query(),
                retry_for=batch.retry_for(self._retry_for),
                lock_timeout_s=self._queue.lock_timeout_s(batch),
            )
        except Exception as error:
            batch.divide_failed(error, self._is_late)
        else:
            batch.succeed(merged)

    def _finish(self, batch: Batch[_ThreadRequest[Any]]) -> None:
        with self._lock:
            self._queue.finish_batch(batch)
            if self._queue.requests:
                self._finished_at = time.monotonic()
                self._leader = self._queue.next_leader()
                if self._leader is not None:
                    self._leader.wake()
        for request in batch.requests:
            request.wake()
        if self.is_closed:
            self._notify_close()

    def _notify_close(self) -> None:
        with self._idle:
            self._idle.notify_all()

    def _withdraw(self, request: _ThreadRequest[Any]) -> bool:
        """Take a request out of the queue, if it is in no batch that is being sent."""
        with self._lock:
            request.abandoned = request.is_waiting
            return request.abandoned

    def _is_late(self, request: Request[Any]) -> bool:
        return time.monotonic() > request.requested_at + self._timeout


class _ThreadRequest(Request[T]):
    """The request of a thread, which sleeps until the request is done or can be sent."""

    __slots__ = ("_awake",)

    def __init__(self, operation: Batchable[T]) -> None:
        super().__init__(operation)
        self._awake = threading.Lock()
        self._awake.acquire()

    def sleep(self, longest_s: float) -> None:
        self._awake.acquire(timeout=longest_s)

    def wake(self) -> None:
        # A thread that is woken before it sleeps does not fall asleep. One that was woken already is awake.
        with suppress(RuntimeError):
            self._awake.release()


def queue_timeout(timeout: float) -> StorageTimeout:
    return StorageTimeout(
        f"append not sent within {timeout:g} s: an earlier append to this session is still waiting for a lock"
    )
