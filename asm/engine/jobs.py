"""Jobs: what is too long for one transaction, such as retention.

A Job is a generator. Each operation that it yields is committed by itself; each Callback that it yields is
called between two operations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Generator
from contextlib import closing
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from asm.engine.observation import around_job
from asm.engine.script import AsyncDatabase, Database, Operation
from asm.errors import ValidationError

T = TypeVar("T")


class Callback(Generic[T]):
    """A function that a job calls outside of the database.

    An AsyncSessionStore calls it in the event loop and awaits its result if that is awaitable. If it
    `blocks`, it is called in a thread.
    """

    __slots__ = ("blocks", "call")

    def __init__(self, call: Callable[[], T], *, blocks: bool = False) -> None:
        self.call = call
        self.blocks = blocks


JobStep: TypeAlias = "Operation[T] | Callback[T]"
Job: TypeAlias = "Generator[JobStep[Any], Any, T]"


def run_step(step: JobStep[T]) -> Job[T]:
    """A job of one step, so that `yield from` gives its result."""
    result: T = yield step
    return result


def run_job(job: Job[T], database: Database, name: str = "") -> T:
    """Run the steps of a job. An error of a step is raised in the job, which may go on.

    `name` is that of the steps in the log.
    """
    with closing(job), around_job(database, name):
        resume: Callable[[], JobStep[Any]] = partial(next, job)
        while True:
            try:
                step = resume()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                resume = partial(job.send, _run(step, database, name))
            except Exception as error:
                resume = partial(job.throw, error)


async def run_job_async(job: Job[T], database: AsyncDatabase, name: str = "") -> T:
    """The same, awaited."""
    with closing(job), around_job(database, name):
        resume: Callable[[], JobStep[Any]] = partial(next, job)
        while True:
            try:
                step = resume()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                resume = partial(job.send, await _run_async(step, database, name))
            except Exception as error:
                resume = partial(job.throw, error)


def _run(step: JobStep[Any], database: Database, name: str) -> Any:
    if not isinstance(step, Callback):
        step.name = name
        return database.run(step)
    result = step.call()
    if inspect.isawaitable(result):
        if isinstance(result, Coroutine):
            result.close()
        raise ValidationError("an async function can only be called by an AsyncSessionStore")
    return result


async def _run_async(step: JobStep[Any], database: AsyncDatabase, name: str) -> Any:
    if not isinstance(step, Callback):
        step.name = name
        return await database.run(step)
    if step.blocks:
        # Imported here, so that a blocking store does not import it.
        import asyncio

        return await asyncio.to_thread(step.call)
    result = step.call()
    return (await result) if inspect.isawaitable(result) else result
