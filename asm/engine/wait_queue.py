"""The queue of group commit: which requests wait, which are being sent, and which go into the next batch.

It is the same for threads and for tasks, and takes no lock of its own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from asm.engine.script import Batchable, Pipeline, Query
from asm.errors import Conflict, ConnectionFailed, StorageTimeout, copied, counter_at_end

T = TypeVar("T")
R = TypeVar("R", bound="Request[Any]")

ITEMS_MAX = 1_000
BYTES_MAX = 8 * 1024 * 1024
"""The limits of one batch, in events and in bytes of JSON. A single request may exceed them."""

SLOW_BATCH_S = 0.05
"""A batch slower than this no longer blocks other sessions."""

ALL_LANES = (0, 1)
"""Where many requests wait, two batches are sent at a time, one in each lane; a session has one lane.
From 512 tasks or threads PostgreSQL takes 1.2 to 1.3 times as many appends this way;
from 128, about as many."""

MIXED_BATCH_TIMEOUT_S = 1.0
"""How long a batch of several sessions waits for a lock, at least: one session may be locked, and the others
need not wait for it. Where the fastest of the last batches took more than a quarter of this, the server is
slow, and the batch is given four times as long as that one took."""

_ANY_GROUP = object()


class Request(Generic[T]):
    """An operation whose caller waits for its result."""

    __slots__ = (
        "_error",
        "_merged",
        "abandoned",
        "batch",
        "done",
        "group",
        "lane",
        "operation",
        "requested_at",
    )

    def __init__(self, operation: Batchable[T]) -> None:
        self.operation = operation
        self.requested_at = time.monotonic()
        self.done = False
        self.abandoned = False
        self.batch: Batch[Any] | None = None
        self.group: object = None
        """Requests of different groups are sent in different batches."""
        self.lane = hash(operation.sessions[0]) & 1
        self._error: Exception | None = None

    @property
    def is_open(self) -> bool:
        """Whether its caller waits for a result that it does not have yet."""
        return not (self.done or self.abandoned)

    @property
    def is_waiting(self) -> bool:
        """Whether it is open and in no batch that is being sent."""
        return not (self.done or self.abandoned) and (self.batch is None or self.batch.is_finished)

    def succeed(self, merged: Any) -> None:
        """Take the result of the query that was merged of this operation and others."""
        self._merged = merged
        self.done = True

    def fail(self, error: Exception) -> None:
        self._error = error
        self.done = True

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self.operation.extract(self._merged)


class Batch(Generic[R]):
    """Requests that are sent in one statement. The batch of a lone caller has no requests."""

    # Class attributes and no `__init__`, so that a lone caller's batch costs no call.
    requests: Sequence[R] = ()
    sessions: Sequence[str] | set[str] = ()
    lanes: tuple[int, ...] = ALL_LANES
    started_at = 0.0
    is_finished = False

    @property
    def spans_sessions(self) -> bool:
        """Whether some of its requests may wait for the lock of a session that others do not need."""
        first = self.requests[0].operation.sessions
        return any(request.operation.sessions != first for request in self.requests)

    def query(self) -> Query[Any] | Pipeline[Any]:
        items = [item for request in self.requests for item in request.operation.items]
        query = self.requests[0].operation.merge(items)
        query.requests = self.requests
        first = self.requests[0].operation.name
        query.name = first if len(self.requests) == 1 else f"append_events ({len(items)} events)"
        return query

    def retry_for(self, retry_for: float) -> float:
        """How long to retry, counted from the newest request on."""
        return max(self.requests[-1].requested_at + retry_for - time.monotonic(), 0)

    def succeed(self, merged: Any) -> None:
        for request in self.requests:
            request.succeed(merged)

    def divide_failed(self, error: Exception, is_late: Callable[[R], bool]) -> None:
        """Fail the requests that the error certainly concerns, and divide the others into smaller batches."""
        if len(self.requests) == 1:
            self.requests[0].fail(error)
        elif isinstance(error, StorageTimeout) and self.spans_sessions:
            _fail([request for request in self.requests if is_late(request)], error)
            for request in self.requests:
                request.group = request.operation.sessions
        elif isinstance(error, ConnectionFailed | StorageTimeout):
            # Sent by itself, each would have waited as long and failed as well.
            _fail(self.requests, error)
        elif isinstance(error, Conflict) and error.full_sessions:
            # The others are sent together again.
            self._fail_full(error.full_sessions)
        else:
            middle = len(self.requests) // 2
            for half in (self.requests[:middle], self.requests[middle:]):
                group = object()
                for request in half:
                    request.group = group

    def _fail_full(self, session_ids: Iterable[str]) -> None:
        """Fail the requests that append to one of these sessions, which have no sequence number left."""
        full = set(session_ids)
        for request in self.requests:
            if own := [session for session in request.operation.sessions if session in full]:
                request.fail(counter_at_end(own))


def _fail(requests: Sequence[Request[Any]], error: Exception) -> None:
    for request in requests:
        request.fail(copied(error))


class WaitQueue(Generic[R]):
    """All requests in the order of their arrival, and the batches that are being sent.

    A request stays in the queue until it is done. When its batch is marked as finished, a request that
    has no result is waiting again, at its old position.
    """

    def __init__(self, parallel_batches_from: int | None) -> None:
        self._parallel_batches_from = parallel_batches_from
        self.requests: list[R] = []
        self._batches: list[Batch[R]] = []
        self._durations_s: deque[float] = deque([0.0], maxlen=8)
        self.divides_by_session = False
        """Whether a batch is of one session, and waits for no batch of another one."""

    @property
    def is_idle(self) -> bool:
        return not (self._sending() or any(request.is_open for request in self.requests))

    @property
    def waiting(self) -> list[R]:
        return [
            request
            for request in self.requests
            if not (request.done or request.abandoned)
            and (request.batch is None or request.batch.is_finished)
        ]

    def add(self, request: R) -> None:
        if self.divides_by_session:
            request.group = request.operation.sessions
        self.requests.append(request)

    def start_alone(self, batch: Batch[R], sessions: Sequence[str]) -> bool:
        """Start the batch of a caller that is not in the queue. False: other requests are there."""
        if self.divides_by_session:
            if self._is_busy(sessions):
                return False
        elif self.requests or self._batches:
            return False
        batch.sessions = sessions
        batch.started_at = time.monotonic()
        self._batches.append(batch)
        return True

    def start_batch(self, batch: Batch[R], leader: R | None = None) -> bool:
        """Fill and start a batch. False: no request can be sent now, or the leader's cannot."""
        now = time.monotonic()
        lanes = self._free_lanes(now)
        if not lanes:
            return False
        selected, batch.lanes = self._select(lanes)
        if not selected or (leader is not None and leader not in selected):
            return False
        for request in selected:
            request.batch = batch
        batch.requests = selected
        batch.sessions = {session for request in selected for session in request.operation.sessions}
        batch.started_at = now
        self._batches.append(batch)
        return True

    def finish_batch(self, batch: Batch[R]) -> None:
        """Remove the requests that are done, and the batch, which is marked as finished already."""
        for request in batch.requests:
            # Or request and batch would refer to each other, and wait for the garbage collector.
            if request.batch is batch:
                request.batch = None
        if self.requests:
            self.requests = [request for request in self.requests if not (request.done or request.abandoned)]
        self._durations_s.append(time.monotonic() - batch.started_at)
        # Other threads mark their batches before they take the lock: what remains need not be this one.
        self._batches = [] if self._batches == [batch] else self._sending()

    def next_leader(self) -> R | None:
        """The first request that can be sent now."""
        lanes = self._free_lanes(time.monotonic())
        return next(self._eligible(self.waiting, lanes), None) if lanes else None

    def lock_timeout_s(self, batch: Batch[R]) -> float | None:
        """How long the statement of a batch waits for a lock. None: as long as the store's `timeout`."""
        return max(MIXED_BATCH_TIMEOUT_S, 4 * min(self._durations_s)) if batch.spans_sessions else None

    def _is_busy(self, sessions: Sequence[str]) -> bool:
        """Whether a request or a batch of one of these sessions is there."""
        waiting = [request.operation.sessions for request in self.requests if request.is_open]
        sending = [batch.sessions for batch in self._sending()]
        return any(not set(sessions).isdisjoint(others) for others in (*waiting, *sending))

    def _free_lanes(self, now: float) -> tuple[int, ...]:
        """The lanes in which no batch is being sent, except slow ones."""
        if self.divides_by_session:
            return ALL_LANES
        free: tuple[int, ...] = ALL_LANES
        for batch in self._batches:
            if batch.is_finished or now - batch.started_at >= SLOW_BATCH_S:
                continue
            if batch.lanes == ALL_LANES or free != ALL_LANES:
                return ()
            free = (1 - batch.lanes[0],)
        return free

    def _select(self, lanes: tuple[int, ...]) -> tuple[list[R], tuple[int, ...]]:
        """The requests of the next batch and its lanes: the first that can be sent together and fit."""
        waiting = self.waiting
        first = next(self._eligible(waiting, lanes), None)
        selected: list[R] = []
        if first is None:
            return selected, lanes
        if self.divides_by_session:
            lanes = ALL_LANES
        elif self._parallel_batches_from is not None and len(waiting) >= self._parallel_batches_from:
            lanes = (first.lane,)
        items = size_bytes = 0
        for request in self._eligible(waiting, lanes, first.group):
            items += len(request.operation.items)
            size_bytes += request.operation.size_bytes
            if selected and (items > ITEMS_MAX or size_bytes > BYTES_MAX):
                break
            selected.append(request)
        return selected, lanes

    def _eligible(
        self, waiting: Sequence[R], lanes: tuple[int, ...], group: object = _ANY_GROUP
    ) -> Iterator[R]:
        """The requests that may be sent in these lanes without overtaking another of the same session."""
        busy = {session for batch in self._sending() for session in batch.sessions}
        for request in waiting:
            sessions = request.operation.sessions
            is_free = request.lane in lanes and busy.isdisjoint(sessions)
            if is_free and (group is _ANY_GROUP or group == request.group):
                yield request
            else:
                busy.update(sessions)

    def _sending(self) -> list[Batch[R]]:
        return [batch for batch in self._batches if not batch.is_finished]
