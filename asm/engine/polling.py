"""Waiting for new events of sessions, by one poll at a time for all callers that wait.

The counter row of a session changes with everything that adds events to it. While a subscription exists, the
store polls the counters of all subscribed sessions with one query. A caller whose counter has changed is
woken and queries its events. What a store appends itself it notifies its own subscriptions of, so that these
need not wait for the next poll.

A wake-up is a hint and no promise. A caller subscribes before it queries, so a later poll finds whatever was
stored after its query, and a lost connection loses nothing.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Generic, Self, TypeAlias, TypeVar

from asm.engine.guards import check_process, reentrant_call
from asm.engine.script import Query, Row
from asm.errors import copied, store_closed

S = TypeVar("S", bound="Subscription")

POLL_INTERVAL_MIN_S, POLL_INTERVAL_MAX_S = 0.005, 0.03
POLL_DUTY_RATIO = 50
"""The pause between two polls is this many times as long as the last poll took, within these bounds. Polling
for a thousand sessions takes a twentieth of a core (`bench/waiting.py`)."""

SPURIOUS_WAKEUP_PAUSE_S = 0.005
"""Pause after a spurious wake-up, so that a filter that matches nothing does not query for every event."""

Counters: TypeAlias = Mapping[str, Row]
"""The counter rows by session: session, last sequence number, and when it last changed."""


def poll_counters(session_ids: Iterable[str]) -> Query[Counters]:
    """The counters of those of the sessions that have one."""
    query: Query[Counters] = Query(
        "find_counters",
        {"session_ids": tuple(session_ids)},
        lambda rows: {row[0]: row for row in rows},
    )
    query.name = "follow_events"
    return query


class Subscription(ABC):
    """A caller that waits for events of a session after a sequence number, while inside `with`."""

    __slots__ = (
        "_counter",
        "_deadline",
        "_error",
        "_poller",
        "_was_last",
        "_was_woken",
        "after",
        "session_id",
    )

    def __init__(self, poller: Subscriptions[Any], session_id: str, after: int, timeout_s: float) -> None:
        self.session_id = session_id
        self.after = after
        self._poller = poller
        self._deadline = time.monotonic() + timeout_s
        self._counter: Row | None = None
        self._was_last = False
        self._was_woken = False
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._poller.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._poller.remove(self)

    @abstractmethod
    def wake(self) -> None:
        """End the wait, or the next one if the caller is not waiting."""

    def update(self, counter: Row) -> None:
        """Wake up if the counter has changed since the last poll, and there may be events."""
        # Not only if it has grown: after a session was deleted and begun again, the number may be the
        # same as before.
        if counter[1] > self.after and counter != self._counter:
            self._counter = counter
            self.wake()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self.wake()

    def _remaining_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _is_over(self) -> bool:
        # A caller whose time is up queries once more, for events that came in time. Only once: while
        # others append all the time, it is woken during every query.
        was_last, self._was_last = self._was_last, self._remaining_s() == 0.0
        return was_last

    def _pause_s(self) -> float:
        return min(SPURIOUS_WAKEUP_PAUSE_S, self._remaining_s()) if self._was_woken else 0.0

    def _woken(self) -> bool:
        self._was_woken = True
        if self._error is not None:
            raise copied(self._error)
        return True


class Subscriptions(ABC, Generic[S]):
    """The subscriptions of a store, by session."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, set[S]] = {}
        # For changes. Readers take a copy instead, in one call that holds the interpreter.
        self._lock = threading.Lock()
        self._lock_owner: int | None = None
        self._process = os.getpid()

    def add(self, subscription: S) -> None:
        # Before the lock, which another thread may have held when the process was forked.
        check_process(self._process)
        with self._locked():
            self.subscriptions.setdefault(subscription.session_id, set()).add(subscription)

    def remove(self, subscription: S) -> None:
        with self._locked():
            group = self.subscriptions.get(subscription.session_id, set())
            group.discard(subscription)
            if not group:
                self.subscriptions.pop(subscription.session_id, None)

    @abstractmethod
    def start(self) -> None:
        """Poll from now on, while there are subscriptions."""

    def notify(self, session_ids: Iterable[str]) -> None:
        """Wake all callers that wait for these sessions."""
        for session_id in session_ids:
            for subscription in list(self.subscriptions.get(session_id, ())):
                subscription.wake()

    def close(self) -> None:
        """Raise StoreClosed in all callers that wait."""
        self._fail(store_closed())

    def _query(self) -> Query[Counters]:
        return poll_counters(self.subscriptions)

    def _update(self, counters: Counters) -> None:
        for session_id, counter in counters.items():
            for subscription in list(self.subscriptions.get(session_id, ())):
                subscription.update(counter)

    def _fail(self, error: BaseException) -> None:
        for group in list(self.subscriptions.values()):
            for subscription in list(group):
                subscription.fail(error)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        thread_id = threading.get_ident()
        if self._lock_owner == thread_id:
            raise reentrant_call()
        with self._lock:
            self._lock_owner = thread_id
            try:
                yield
            finally:
                self._lock_owner = None


Poll: TypeAlias = Callable[[Query[Counters]], Counters | None]
"""Runs the query. None: nothing has changed since the last time, and the query is the same."""


class Poller(Subscriptions["_ThreadSubscription"]):
    """The subscriptions of threads. A thread of its own polls while there is any, and then ends."""

    def __init__(self, poll: Poll) -> None:
        super().__init__()
        self._poll = poll
        self._thread: threading.Thread | None = None

    def subscribe(self, session_id: str, after: int, timeout_s: float) -> _ThreadSubscription:
        return _ThreadSubscription(self, session_id, after, timeout_s)

    def start(self) -> None:
        with self._locked():
            if self._thread is None:
                # A daemon, so that it does not keep a program alive in which only daemons still wait.
                thread = threading.Thread(target=self._run, name="asm-poller", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        pause_s = POLL_INTERVAL_MIN_S
        while self._is_needed_after(pause_s):
            began = time.monotonic()
            try:
                self._update(self._poll(self._query()) or {})
            except BaseException as error:
                self._fail(error)
            pause_s = poll_interval_s(began)

    def _is_needed_after(self, pause_s: float) -> bool:
        time.sleep(pause_s)
        with self._locked():
            if not self.subscriptions:
                self._thread = None
            return bool(self.subscriptions)


class _ThreadSubscription(Subscription):
    __slots__ = ("_awake",)

    def __init__(self, poller: Poller, session_id: str, after: int, timeout_s: float) -> None:
        super().__init__(poller, session_id, after, timeout_s)
        self._awake = threading.Lock()
        self._awake.acquire()

    def wake(self) -> None:
        # A thread that is woken before it sleeps does not fall asleep. One that was woken already is awake.
        with suppress(RuntimeError):
            self._awake.release()

    def wait_for_change(self) -> bool:
        """Sleep until there may be new events. False: the time is up."""
        if self._is_over():
            return False
        time.sleep(self._pause_s())
        self._poller.start()
        timeout_s = min(self._remaining_s(), threading.TIMEOUT_MAX)
        return self._awake.acquire(timeout=timeout_s) and self._woken()


def poll_interval_s(began: float) -> float:
    duration_s = time.monotonic() - began
    return min(max(POLL_DUTY_RATIO * duration_s, POLL_INTERVAL_MIN_S), POLL_INTERVAL_MAX_S)


class BasePollInTransaction(AbstractContextManager[Any]):
    """Waiting inside a transaction, which has its connection already: the caller queries at intervals."""

    def __init__(self, timeout_s: float = 0.0) -> None:
        self._deadline = time.monotonic() + timeout_s

    def subscribe(self, _session_id: str, _after: int, timeout_s: float) -> Self:
        return type(self)(timeout_s)

    def __exit__(self, *_: object) -> None:
        pass

    def _pause_s(self) -> float:
        return min(POLL_INTERVAL_MAX_S, self._deadline - time.monotonic())


class PollInTransaction(BasePollInTransaction):
    """The poller of a transaction."""

    def wait_for_change(self) -> bool:
        """Sleep for an interval. False: the time is up."""
        if (pause_s := self._pause_s()) > 0:
            time.sleep(pause_s)
        return pause_s > 0
