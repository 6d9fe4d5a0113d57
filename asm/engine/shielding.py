"""Awaiting what a cancelled task must not leave half done.

A task may be cancelled at every await, and again while it tidies up after the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """What comes of work that a task of its own does to the end. Whoever is cancelled learns it then."""
    task = asyncio.ensure_future(work)
    told: asyncio.CancelledError | None = None
    while not task.done():
        told = await _until_done(task) or told
    if told is None:
        return task.result()
    if not task.cancelled():
        # Looked at, or asyncio would report it as an error that nobody looked at.
        task.exception()
    try:
        raise told
    finally:
        # Or the error and this frame would keep one another, and what else they know of, alive.
        del told


async def detecting_lost_cancel(work: Awaitable[T]) -> tuple[T, bool]:
    """What comes of work, and whether this task was cancelled meanwhile and the work kept it to itself.

    Before Python 3.12 `asyncio.wait_for`, by which the pool waits, does so when both come at once: it gives
    the result. Whoever waits for something that never comes would wait for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    result = await work
    return result, task is not None and task.cancelling() > before


class Shielded(Generic[T]):
    """Awaits something to its end, in this task. Whoever is cancelled learns it then.

    Not in a task of its own, which would cost 20 µs for what mostly waits for nothing; and not for
    what waits only so long, because asyncio ends that by cancelling, too.
    """

    __slots__ = ("_awaited",)

    def __init__(self, awaited: Awaitable[T]) -> None:
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._awaited.__await__()
        told: asyncio.CancelledError | None = None
        while True:
            try:
                wanted = next(steps)
            except StopIteration as end:
                result: T = end.value
                break
            told = (yield from _until_done(wanted).__await__()) or told
        if told is None:
            return result
        try:
            raise told
        finally:
            del told


async def _until_done(wanted: asyncio.Future[Any] | None) -> asyncio.CancelledError | None:
    """Wait for what a task waits for, not cancelled with it, and say whether the task was."""
    told: asyncio.CancelledError | None = None
    while wanted is None or not wanted.done():
        try:
            if wanted is None:
                await asyncio.sleep(0)
                break
            await asyncio.wait([wanted])
        except asyncio.CancelledError as error:
            told = error
    return told
