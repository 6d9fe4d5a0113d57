"""Threads that take turns, even where one of them is interrupted.

A lock that is waited for only so long cannot be taken by `with`, and an interrupt between taking it
and the next line would keep it for ever. Here who has the turn is written down in one assignment,
under a lock that is never held for longer, and is asked for, and given back, as often as you like.
"""

from __future__ import annotations

import threading
import time

from asm.errors import StorageError, StorageTimeout

LOOK_AROUND_S = 0.05
"""How often one who waits looks around, should whoever was to wake it have been interrupted."""


class Turn:
    """One turn of this thread; a brief one ends before its thread does anything else."""

    __slots__ = ("is_brief", "thread")

    def __init__(self, *, is_brief: bool = True) -> None:
        self.is_brief = is_brief
        self.thread = threading.get_ident()


class Turns:
    """One turn at a time."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # A signal's handler may ask while its own thread is in here, between any two lines.
        self._lock = threading.RLock()
        self._holder: Turn | None = None
        self._given_back = threading.Lock()
        self._given_back.acquire()

    def take(self, turn: Turn) -> None:
        """Wait for a turn. StorageTimeout where there is none in time."""
        deadline: float | None = None
        while True:
            with self._lock:
                holder = self._holder = self._holder or turn
            if holder is turn:
                return
            if holder.is_brief and holder.thread == turn.thread:
                raise StorageError(
                    "this thread is in the midst of another operation on the same database, which cannot go "
                    "on meanwhile: in the handler of a signal, note what is to be stored and store it later"
                )
            deadline = deadline or time.monotonic() + self._timeout
            if time.monotonic() > deadline:
                raise StorageTimeout(
                    f"no turn with the database after {self._timeout:g} s: something holds a transaction "
                    "open (inside `transaction()`, ask the transaction and not the store)"
                )
            self._given_back.acquire(timeout=min(self._timeout, LOOK_AROUND_S))

    def has(self, turn: Turn) -> bool:
        return self._holder is turn

    def give_back(self, turn: Turn) -> None:
        """Let the next have a turn. Nothing is done where this one has none."""
        with self._lock:
            if self._holder is turn:
                self._holder = None
                if self._given_back.locked():
                    self._given_back.release()
