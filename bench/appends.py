"""The store's side of benchmarks that append one event per call, from threads or tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import asm
from bench import payload
from bench.harness import Sample, Server, Side, by_tasks, by_threads, in_turn
from bench.payload import SESSIONS, Supply

T = TypeVar("T")


def threads(store: asm.SessionStore, callers: int, supply: Supply, server: Server = None) -> Side:

    def step() -> int:
        store.append_event(supply.take())
        return 1

    def run(seconds: float) -> Sample:
        # An application with one caller has no thread for it.
        if callers == 1:
            return in_turn(step, seconds, server)
        return by_threads([step] * callers, seconds, server)

    return Side(f"asm, {counted(callers, 'thread')}", supplied(supply, run))


def tasks(
    runner: asyncio.Runner, store: asm.AsyncSessionStore, callers: int, supply: Supply, server: Server = None
) -> Side:

    def step() -> Awaitable[asm.Event]:
        return store.append_event(supply.take())

    def run(seconds: float) -> Sample:
        return by_tasks(runner, [step] * callers, seconds, server)

    return Side(f"asm, {counted(callers, 'task')}", supplied(supply, run))


def own(sessions: int = SESSIONS) -> Supply:
    """Events as an application makes them, with generated ids."""
    return Supply(payload.session_ids(sessions))


def numbered(sessions: int = SESSIONS) -> Supply:
    """Events with ids like pgbench's, to be compared with it."""
    return Supply(payload.numbered_sessions(sessions), payload.numbered_event)


def supplied(supply: Supply, run: Callable[[float], Sample]) -> Callable[[float], Sample]:
    """Run with events made beforehand, as many as the last run needed."""

    def filled(seconds: float) -> Sample:
        supply.fill(seconds)
        sample = run(seconds)
        supply.learn(sample.rate)
        return sample

    return filled


@contextmanager
def opened(runner: asyncio.Runner, dsn: str, schema: str | None = None) -> Iterator[asm.AsyncSessionStore]:
    """A store opened in the runner's loop, where every use of it must run."""
    store = asm.AsyncSessionStore(dsn, schema=schema)
    runner.run(_awaited(store.open()))
    try:
        yield store
    finally:
        runner.run(_awaited(store.close()))


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"
