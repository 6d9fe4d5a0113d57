"""Managers on every kind of database, blocking and async."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import pytest

import asm
from tests.conftest import Blocking, in_loop


def manager_of(store: Any, **options: Any) -> Any:
    """A manager of the store's colour, with methods that block."""
    if isinstance(store, asm.SessionStore):
        return asm.SessionManager(store, **options)
    return Blocking(asm.AsyncSessionManager(store._target, **options))


@pytest.fixture
def manager(store: Any) -> Any:
    return manager_of(store)


@pytest.fixture
def session_id(manager: Any) -> str:
    return str(manager.start_session("assistant").id)


@pytest.fixture
def in_background() -> Iterator[Callable[..., Future[Any]]]:
    """Calls a function in a thread, and returns the future of its result."""
    with ThreadPoolExecutor(32) as threads:
        yield threads.submit


def types(events: Any) -> list[str]:
    return [str(event.type) for event in events]


def stream_until(type: str, manager: Any, *args: Any, **options: Any) -> list[asm.Event]:
    """The events of a stream up to the first one of a type. Then the stream is closed."""
    if isinstance(manager, asm.SessionManager):
        stream = manager.stream(*args, **options)
        seen = [next(stream)]
        while seen[-1].type != type:
            seen.append(next(stream))
        cast(Any, stream).close()
        return seen

    async def read() -> list[asm.Event]:
        stream = manager._target.stream(*args, **options)
        seen = [await anext(stream)]
        while seen[-1].type != type:
            seen.append(await anext(stream))
        await stream.aclose()
        return seen

    return cast("list[asm.Event]", in_loop(read()))
