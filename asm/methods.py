"""Methods of the stores, made of the operations that they run."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from asm.engine.jobs import Job, run_job, run_job_async
from asm.engine.script import Operation
from asm.models import Event
from asm.operations import reading
from asm.operations.reading import LongPoll, Stream

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def method(operation: Callable[P, Operation[T]]) -> Callable[Concatenate[Any, P], T]:
    """A method that puts the question an operation makes to the database, and returns the answer."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        answer: T = self._database.run(operation(*args, **kwargs))
        return answer

    return _described(method, operation, _answer(operation))


def async_method(
    operation: Callable[P, Operation[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        answer: T = await self._database.run(operation(*args, **kwargs))
        return answer

    return _described(method, operation, _answer(operation))


def waiting_method(operation: Callable[P, LongPoll]) -> Callable[Concatenate[Any, P], list[Event]]:
    """A method that asks until there is an answer, or no time left."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> list[Event]:
        return reading.wait(self._database, operation(*args, **kwargs))

    return _described(method, operation, "list[Event]")


def async_waiting_method(
    operation: Callable[P, LongPoll],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, list[Event]]]:
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> list[Event]:
        return await reading.wait_async(self._database, operation(*args, **kwargs))

    return _described(method, operation, "list[Event]")


def iterating_method(operation: Callable[P, Stream]) -> Callable[Concatenate[Any, P], Iterator[Event]]:
    """A method that asks for page after page, when its caller wants the next event."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Event]:
        return reading.stream(self._database, operation(*args, **kwargs))

    return _described(method, operation, "Iterator[Event]")


def async_iterating_method(
    operation: Callable[P, Stream],
) -> Callable[Concatenate[Any, P], AsyncIterator[Event]]:
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Event]:
        return reading.stream_async(self._database, operation(*args, **kwargs))

    return _described(method, operation, "AsyncIterator[Event]")


def job_method(operation: Callable[P, Job[T]]) -> Callable[Concatenate[Any, P], T]:
    """A method that takes a procedure from step to step, and returns its result."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run_job(operation(*args, **kwargs), self._database)

    return _described(method, operation, _answer(operation))


def async_job_method(
    operation: Callable[P, Job[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await run_job_async(operation(*args, **kwargs), self._database)

    return _described(method, operation, _answer(operation))


def _described(method: F, operation: Callable[..., Any], answer: str) -> F:
    """The method with the operation's name, docstring and parameters, and the answer's own type."""
    update_wrapper(method, operation)
    described = inspect.signature(operation)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = described.replace(  # type: ignore[attr-defined]
        parameters=[itself, *described.parameters.values()],
        return_annotation=answer,
    )
    return method


def _answer(operation: Callable[..., Any]) -> str:
    """`list[Event]` of an operation that returns `Batchable[list[Event]] | UnitOfWork[list[Event]]`."""
    questions: str = inspect.signature(operation).return_annotation
    return _NEXT_QUESTION.split(questions)[0].partition("[")[2].removesuffix("]")


_NEXT_QUESTION = re.compile(r" \| (?=(?:Query|Batchable|UnitOfWork|Pipeline)\[)")
