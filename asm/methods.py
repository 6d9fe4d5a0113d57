"""Methods of the stores, made of the functions that build their operations.

Each has a name, a docstring and parameters of its function, so that type checkers, `help()` and tracebacks
show them. `result` is the type of what it returns, as the signature shows it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import datetime
from functools import update_wrapper
from types import FunctionType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from asm.engine.jobs import Job, run_job, run_job_async
from asm.engine.script import Operation
from asm.models import Event
from asm.operations import pages, reading
from asm.operations.events import Types
from asm.operations.pages import Search
from asm.operations.reading import LongPoll, Stream

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Events = TypeVar("Events", covariant=True)
EventsOrNone = TypeVar("EventsOrNone", covariant=True)


def method(operation: Callable[P, Operation[T]], result: str) -> Callable[Concatenate[Any, P], T]:
    """A method that runs an operation in the database of its object."""

    name = operation.__name__

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        built = operation(*args, **kwargs)
        built.name = name
        outcome: T = self._database.run(built)
        return outcome

    return _like(operation, method, result)


def async_method(
    operation: Callable[P, Operation[T]], result: str
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    name = operation.__name__

    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        built = operation(*args, **kwargs)
        built.name = name
        outcome: T = await self._database.run(built)
        return outcome

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

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        return reading.stream(self._database, operation(*args, **kwargs))

    return _like(operation, method, "Iterator[Event]")


def async_iterating_method(
    operation: Callable[P, Stream],
) -> Callable[Concatenate[Any, P], AsyncIterator[Event]]:
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
        return reading.stream_async(self._database, operation(*args, **kwargs))

    return _like(operation, method, "AsyncIterator[Event]")


class FollowMethod(Protocol[Events, EventsOrNone]):
    """`follow_events` as type checkers see it: only with a heartbeat it yields None, too."""

    @overload
    def __call__(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        type: Types | None = None,
        since: datetime | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        page_size: int = 1_000,
        idle_timeout: float | None = None,
        heartbeat: None = None,
    ) -> Events: ...

    @overload
    def __call__(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        type: Types | None = None,
        since: datetime | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        page_size: int = 1_000,
        idle_timeout: float | None = None,
        heartbeat: float | None,
    ) -> EventsOrNone: ...


def following_method(
    operation: Callable[..., Stream],
) -> FollowMethod[Iterator[Event], Iterator[Event | None]]:
    """A method that goes on to yield events as they are appended."""

    def method(self: Any, /, *args: Any, **kwargs: Any) -> Iterator[Event | None]:
        return reading.stream(self._database, operation(*args, **kwargs))

    return cast(Any, _like(operation, method, "Iterator[Event | None]"))  # type: ignore[no-any-return]


def async_following_method(
    operation: Callable[..., Stream],
) -> FollowMethod[AsyncIterator[Event], AsyncIterator[Event | None]]:
    def method(self: Any, /, *args: Any, **kwargs: Any) -> AsyncIterator[Event | None]:
        return reading.stream_async(self._database, operation(*args, **kwargs))

    return cast(Any, _like(operation, method, "AsyncIterator[Event | None]"))  # type: ignore[no-any-return]


def paging_method(
    operation: Callable[P, Search[T]], result: str
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """A method that iterates over all pages of a search."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return pages.iterate(self._database, operation(*args, **kwargs))

    return _like(operation, method, result)


def async_paging_method(
    operation: Callable[P, Search[T]], result: str
) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return pages.iterate_async(self._database, operation(*args, **kwargs))

    return _like(operation, method, result)


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
    set_signature(method, operation, result)
    function, name = cast(FunctionType, method), operation.__name__
    function.__code__ = function.__code__.replace(co_name=name, co_qualname=name)
    return method


def set_signature(method: Callable[..., Any], function: Callable[..., Any], result: str) -> None:
    """Have a method show the parameters of a function, and this result."""
    signature = inspect.signature(function)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [itself, *signature.parameters.values()]
    # inspect reads this attribute, which the type of functions does not declare.
    vars(method)["__signature__"] = signature.replace(parameters=parameters, return_annotation=result)
