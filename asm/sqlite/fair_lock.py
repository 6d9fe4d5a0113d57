"""Threads that take turns, even where one of them is interrupted.

A lock that is waited for only so long cannot be taken by `with`, and an interrupt between taking it
and the next line would keep it for ever. Here who has the turn is written down in one assignment,
under a lock that is never held for longer, and is asked for, and given back, as often as you like.

A thread that gives its turn back and asks again gets the next one, since whom it woke is not awake
yet. That is quick, and left to itself it goes on until everybody else is out of time. So those who
wait stand in a line, and the first in it lets others go before it for a moment only.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import suppress

from asm.errors import StorageError, StorageTimeout

WAKEUP_INTERVAL_S = 0.05
"""How often one who waits looks around, should whoever was to wake it have been interrupted."""

WAKEUP_SCALE = 16
"""Where more wait, each looks around less often: thousands would do nothing else."""

BARGING_WINDOW_S = 0.001
"""How long others go before the first in the line."""


class Ticket:
    """One turn of this thread; a brief one ends before its thread does anything else."""

    __slots__ = ("_awake", "is_brief", "thread")

    def __init__(self, *, is_brief: bool = True) -> None:
        self.is_brief = is_brief
        self.thread = threading.get_ident()
        self._awake = threading.Lock()
        self._awake.acquire()

    def sleep(self, longest_s: float) -> None:
        self._awake.acquire(timeout=longest_s)

    def wake(self) -> None:
        # Woken before it slept, it does not fall asleep; woken twice, it is awake.
        if self._awake.locked():
            # By now a signal's handler may have woken it.
            with suppress(RuntimeError):
                self._awake.release()


class FairLock:
    """One turn at a time."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # A signal's handler may ask while its own thread is in here, between any two lines.
        self._lock = threading.RLock()
        self._holder: Ticket | None = None
        self.line: OrderedDict[Ticket, None] = OrderedDict()
        self._first_since = 0.0

    def take(self, turn: Ticket) -> None:
        """Wait for a turn, to be given back even where it never came: StorageTimeout after too long."""
        deadline: float | None = None
        while (holder := self._taken_by(turn)) is not turn:
            if holder is not None and holder.is_brief and holder.thread == turn.thread:
                raise StorageError(
                    "this thread is in the midst of another operation on the same database, which cannot go "
                    "on meanwhile: in the handler of a signal, note what is to be stored and store it later"
                )
            now = time.monotonic()
            deadline = deadline or now + self._timeout
            if now > deadline:
                raise StorageTimeout(
                    f"no turn with the database after {self._timeout:g} s: something holds a transaction "
                    "open (inside `transaction()`, ask the transaction and not the store)"
                )
            turn.sleep(min(deadline - now, WAKEUP_INTERVAL_S * max(1, len(self.line) / WAKEUP_SCALE)))

    def held_by(self, turn: Ticket) -> bool:
        return self._holder is turn

    def release(self, turn: Ticket) -> None:
        """Let the next have a turn. Nothing is done where this one neither has one nor waits for one."""
        with self._lock:
            self._leave(turn)
            if self._holder is turn:
                self._holder = None
            if self._holder is None and self.line:
                self._first.wake()

    def _taken_by(self, turn: Ticket) -> Ticket | None:
        """Whose turn it is: this one's from now on, where it may be."""
        with self._lock:
            if self._holder is None and self._may_go(turn):
                self._holder = turn
                self._leave(turn)
            elif turn not in self.line:
                self._join(turn)
            return self._holder

    def _may_go(self, turn: Ticket) -> bool:
        if not self.line or time.monotonic() < self._first_since + BARGING_WINDOW_S:
            return True
        # A signal's handler goes before its own thread, which cannot go on meanwhile.
        return self._first.thread == turn.thread

    @property
    def _first(self) -> Ticket:
        return next(iter(self.line))

    def _join(self, turn: Ticket) -> None:
        self.line[turn] = None
        if len(self.line) == 1:
            self._first_since = time.monotonic()

    def _leave(self, turn: Ticket) -> None:
        if turn in self.line:
            was_first = self._first is turn
            del self.line[turn]
            if was_first:
                self._first_since = time.monotonic()
