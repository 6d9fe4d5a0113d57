"""Methods of the stores, made of the functions that build their operations.

Each has a name, a docstring and parameters of its function, so that type checkers, `help()` and tracebacks
show them. `result` is the type of what it returns, as the signature shows it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import update_wrapper
from types import FunctionType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from asm.engine.jobs import Job, run_job, run_job_async
from asm.engine.script import Operation
from asm.models import Event
from asm.operations import reading
from asm.operations.reading import LongPoll, Stream

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def method(operation: Callable[P, Operation[T]], result: str) -> Callable[Concatenate[Any, P], T]:
    """A method that runs an operation in the database of its object."""

    name = operation.__name__

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        named = operation(*args, **kwargs)
        named.name = name
        return self._database.run(named)  # type: ignore[no-any-return]

    return _like(operation, method, result)


def async_method(
    operation: Callable[P, Operation[T]], result: str
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    name = operation.__name__

    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        named = operation(*args, **kwargs)
        named.name = name
        return await self._database.run(named)  # type: ignore[no-any-return]

    return _like(operation, method, result)


def waiting_method(operation: Callable[P, LongPoll]) -> Callable[Concatenate[Any, P], list[Event]]:
    """A method that repeats a query until it finds events, or the time is up."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> list[Event]:
        return reading.wait(self._database, operation(*args, **kwargs))

    return _like(operation, method, "list[Event]")


def async_waiting_method(
    operation: Callable[P, LongPoll],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, list[Event]]]:
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> list[Event]:
        return await reading.wait_async(self._database, operation(*args, **kwargs))

    return _like(operation, method, "list[Event]")


def iterating_method(operation: Callable[P, Stream]) -> Callable[Concatenate[Any, P], Iterator[Event]]:
    """A method that queries page after page, each when its caller wants the next event."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Event]:
        return reading.stream(self._database, operation(*args, **kwargs))

    return _like(operation, method, "Iterator[Event]")


def async_iterating_method(
    operation: Callable[P, Stream],
) -> Callable[Concatenate[Any, P], AsyncIterator[Event]]:
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Event]:
        return reading.stream_async(self._database, operation(*args, **kwargs))

    return _like(operation, method, "AsyncIterator[Event]")


def job_method(job: Callable[P, Job[T]], result: str) -> Callable[Concatenate[Any, P], T]:
    """A method that runs a job, whose steps are transactions of their own."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run_job(job(*args, **kwargs), self._database, job.__name__)

    return _like(job, method, result)


def async_job_method(
    job: Callable[P, Job[T]], result: str
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await run_job_async(job(*args, **kwargs), self._database, job.__name__)

    return _like(job, method, result)


def _like(operation: Callable[..., Any], method: F, result: str) -> F:
    """The method with the name, docstring and parameters of the operation."""
    update_wrapper(method, operation)
    signature = inspect.signature(operation)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    function = cast(FunctionType, method)
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[itself, *signature.parameters.values()], return_annotation=result
    )
    name = operation.__name__
    function.__code__ = function.__code__.replace(co_name=name, co_qualname=name)
    return method
