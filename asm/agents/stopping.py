"""Asking a run to end before it has completed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from asm.errors import AsmError
from asm.shown import message

T = TypeVar("T")

CLOSE_TIMEOUT_S = 5.0
"""How long a run that ends waits for its adapter or its tool to give back what it holds."""

_log = logging.getLogger("asm")


class Stop:
    """A request to end a run by an error. It interrupts an adapter and a tool, and no write."""

    def __init__(self) -> None:
        self.error: AsmError | None = None
        self._requested: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def request(self, error: AsmError) -> None:
        """Have the run end. Of several requests the first counts."""
        if self.error is None:
            self.error = error
            self._requested.set_result(None)

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def on_request(self, callback: Callable[[], object]) -> None:
        self._requested.add_done_callback(lambda _: callback())

    async def unless_requested(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """The task of a coroutine, which has ended. If the run is to end first, the task is cancelled."""
        task = asyncio.create_task(work)
        try:
            either: set[asyncio.Future[Any]] = {task, self._requested}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                await cancelled(task, what)
        self.check()
        return task


async def cancelled(task: asyncio.Task[Any], what: str) -> None:
    """Cancel a task, and wait for its end for a while. What it raises is not raised here."""
    task.cancel()
    await asyncio.wait({task}, timeout=CLOSE_TIMEOUT_S)
    if not task.done():
        _log.warning("%s did not stop within %g s after its run was ended", message(what), CLOSE_TIMEOUT_S)
    elif not task.cancelled():
        # Retrieved, or asyncio would log it as an exception that was never retrieved.
        task.exception()
