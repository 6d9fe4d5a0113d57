"""Blocking stores behind the methods of an asynchronous one, so that code above the store is written once.

`in_threads` is for coroutines of an event loop. `at_once` is for a caller that blocks: `result_of` runs a
coroutine that uses it to its end, without an event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from asm.async_store import AsyncSessionStore, AsyncTransaction
from asm.store import SessionStore
from asm.validation import a_type

T = TypeVar("T")

STORE_THREADS = 32

PARTS = ("query", "maintenance", "artifacts", "_database")
"""The attributes of a store whose methods are awaited, too."""


def in_threads(store: SessionStore) -> AsyncSessionStore:
    """A blocking store with awaited methods, each called in a thread. Any number of event loops may use it.

    Its iterators and `transaction()` are not there: `get_events` and `run_transaction` are.
    """
    return cast(AsyncSessionStore, _InThreads(store, store))


# All that awaits one store shares its threads: an application may have an object for each conversation.
_THREADS: WeakKeyDictionary[SessionStore, ThreadPoolExecutor] = WeakKeyDictionary()
# The threads do not exist in a forked process.
os.register_at_fork(after_in_child=_THREADS.clear)


def _threads_of(store: SessionStore) -> ThreadPoolExecutor:
    threads = _THREADS.get(store)
    return threads or _THREADS.setdefault(store, ThreadPoolExecutor(STORE_THREADS, "asm store"))


def at_once(store: SessionStore) -> AsyncSessionStore:
    """The same, with methods that are done when they are called."""
    return cast(AsyncSessionStore, _AtOnce(store))


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that awaits nothing which is not done."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError(f"the call awaited something that is not done: {a_type(coroutine)}")


class _AtOnce:
    """An object whose methods are awaited, and done when they are called."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name in PARTS:
            return self._part(found)
        if not callable(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._run(partial(found, *args, **kwargs))

        return call

    async def run_transaction(
        self, work: Callable[[AsyncTransaction], Coroutine[Any, Any, T]], *, idempotent: bool = False
    ) -> T:
        def in_transaction(tx: Any) -> T:
            return result_of(work(cast(AsyncTransaction, _AtOnce(tx))))

        return await self._run(partial(self._target.run_transaction, in_transaction, idempotent=idempotent))

    def _part(self, target: Any) -> _AtOnce:
        return _AtOnce(target)

    async def _run(self, call: Callable[[], T]) -> T:
        return call()


class _InThreads(_AtOnce):
    """An object whose methods are awaited, and called in threads."""

    def __init__(self, target: Any, store: SessionStore) -> None:
        super().__init__(target)
        self._store = store

    def _part(self, target: Any) -> _InThreads:
        return _InThreads(target, self._store)

    async def _run(self, call: Callable[[], T]) -> T:
        # The thread is in the same trace as the task.
        context = contextvars.copy_context()
        # The threads are looked up for each call, because a forked process has none of its parent's.
        threads = _threads_of(self._store)
        return await asyncio.get_running_loop().run_in_executor(threads, lambda: context.run(call))
