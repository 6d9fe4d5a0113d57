"""Operations too long for one transaction.

A Procedure is a generator of questions, each asked and committed by itself, and of Work to be
done between them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator
from contextlib import closing
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from asm.engine.script import AsyncDatabase, Database, Operation
from asm.errors import ValidationError

T = TypeVar("T")


class Callback(Generic[T]):
    """Something a procedure wants done outside of the database: a function to call.

    Where the store is awaited, it is called in the event loop, and awaited itself if it can be;
    what blocks is called in a thread.
    """

    __slots__ = ("blocks", "call")

    def __init__(self, call: Callable[[], T], *, blocks: bool = False) -> None:
        self.call = call
        self.blocks = blocks


JobStep: TypeAlias = "Operation[T] | Callback[T]"
Job: TypeAlias = "Generator[JobStep[Any], Any, T]"


def run_step(step: JobStep[T]) -> Job[T]:
    """One step of a procedure, so that `yield from` gives its result."""
    result: T = yield step
    return result


def run_job(procedure: Job[T], database: Database) -> T:
    """Take a procedure from step to step. What a step raises is raised in the procedure, which may go on."""
    with closing(procedure):
        resume: Callable[[], JobStep[Any]] = partial(next, procedure)
        while True:
            try:
                step = resume()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                resume = partial(procedure.send, _done(step, database))
            except Exception as error:
                resume = partial(procedure.throw, error)


async def run_job_async(procedure: Job[T], database: AsyncDatabase) -> T:
    """The same, awaited."""
    with closing(procedure):
        resume: Callable[[], JobStep[Any]] = partial(next, procedure)
        while True:
            try:
                step = resume()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                resume = partial(procedure.send, await _done_async(step, database))
            except Exception as error:
                resume = partial(procedure.throw, error)


def _done(step: JobStep[Any], database: Database) -> Any:
    if not isinstance(step, Callback):
        return database.run(step)
    result = step.call()
    if inspect.isawaitable(result):
        if isinstance(result, Coroutine):
            result.close()
        raise ValidationError("an async function can only be called by an AsyncSessionStore")
    return result


async def _done_async(step: JobStep[Any], database: AsyncDatabase) -> Any:
    if not isinstance(step, Callback):
        return await database.run(step)
    if step.blocks:
        return await asyncio.to_thread(step.call)
    result = step.call()
    return (await result) if inspect.isawaitable(result) else result
