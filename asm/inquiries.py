"""Asking a server why no connection is to be had: once for all who want to know at that moment.

Each needs a connection of its own. Where hundreds wait for the few of a pool, as many at once
would take all that the server has.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from asm.errors import copied

PATIENCE_S = 3.0
"""Whoever has waited so long for another's answer asks: the other may have been interrupted."""


class Inquiry:
    """A question that several threads have, and one of them asks."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        # A signal's handler may ask while its own thread is in here.
        self._lock = threading.RLock()
        self._under_way: _Answer | None = None

    def answer(self) -> None:
        """Raise what the question raised."""
        ours = _Answer()
        with self._lock:
            theirs = self._under_way
            self._under_way = theirs or ours
        if theirs is None or not theirs.is_there.wait(PATIENCE_S):
            self._put(ours)
        elif theirs.error is not None:
            raise copied(theirs.error)

    def _put(self, ours: _Answer) -> None:
        try:
            self._ask()
        except Exception as error:
            # A copy, or the error and this frame would keep one another alive.
            ours.error = copied(error)
            raise
        finally:
            self._under_way = None
            ours.is_there.set()


class _Answer:
    def __init__(self) -> None:
        self.is_there = threading.Event()
        self.error: Exception | None = None


class AsyncInquiry:
    """A question that several tasks have. A task of its own asks, because any of them may be cancelled."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._ask = ask
        self._under_way: asyncio.Task[None] | None = None

    async def answer(self) -> None:
        """Raise what the question raised."""
        if self._under_way is None:
            self._under_way = asyncio.get_running_loop().create_task(self._ask())
            self._under_way.add_done_callback(self._end)
        task = self._under_way
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise copied(error)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._under_way = None
        if not task.cancelled():
            # Looked at, or asyncio would report it where all who wanted to know have left.
            task.exception()
