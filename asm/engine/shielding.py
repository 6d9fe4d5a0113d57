"""Awaiting work that a cancelled task must not leave half done.

A task may be cancelled at every await, and again while it cleans up after the first cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from asm.errors import StoreClosed

T = TypeVar("T")


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that runs to its end in a task of its own, even if this task is cancelled.

    The cancellation is raised after the end.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        cancelled = await _until_done(task) or cancelled
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        # Retrieved, or asyncio would log it as an exception that was never retrieved.
        task.exception()
    try:
        raise cancelled
    finally:
        # The error refers to this frame: without `del` the two would be a reference cycle.
        del cancelled


async def detecting_lost_cancel(work: Awaitable[T]) -> tuple[T, bool]:
    """The result of an awaitable, and whether it swallowed a cancellation of this task.

    Before Python 3.12 `asyncio.wait_for`, which the pool uses, does so when the result and the cancellation
    come at the same time (python/cpython#86296, psycopg/psycopg#1345), and the task would go on.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    result = await work
    return result, task is not None and task.cancelling() > before


class Shielded(Generic[T]):
    """Awaits something to its end in this task; a cancellation is raised after the end.

    A task of its own would cost 20 µs, and mostly there is nothing to wait for. Not for an awaitable
    that uses a timeout of asyncio, which works by cancelling, too.
    """

    __slots__ = ("_awaited",)

    def __init__(self, awaited: Awaitable[T]) -> None:
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._awaited.__await__()
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                future = next(steps)
            except StopIteration as end:
                result: T = end.value
                break
            cancelled = (yield from _until_done(future).__await__()) or cancelled
        if cancelled is None:
            return result
        try:
            raise cancelled
        finally:
            del cancelled


async def _until_done(future: asyncio.Future[Any] | None) -> asyncio.CancelledError | None:
    """Wait for a future and not cancel it; the cancellation of this task during the wait, if any."""
    cancelled: asyncio.CancelledError | None = None
    while future is None or not future.done():
        try:
            if future is None:
                await asyncio.sleep(0)
                break
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def check_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Raise StoreClosed in an event loop that did not open the store: a call could wait for ever."""
    if asyncio.get_running_loop() is not loop:
        raise StoreClosed("this store was opened in another event loop: open one in the loop that uses it")
