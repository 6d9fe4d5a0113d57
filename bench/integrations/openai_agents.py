"""AsmSession beside the OpenAI Agents SDK's own sessions for PostgreSQL and SQLite, on the same database.

Each side stores the same items. SQLite syncs at every commit on both sides, with a write-ahead log.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

from agents import SQLiteSession
from agents.extensions.memory import AsyncSQLiteSession, SQLAlchemySession
from sqlalchemy.ext.asyncio import create_async_engine

import asm
from asm.integrations.openai_agents import AsmSession
from bench.databases import Databases, PostgresSchema, SQLiteFile
from bench.harness import Comparison, Rounds, Sample, Side, by_tasks
from bench.peer import Address
from bench.targets import Target

TEXT = "as long as a short message of an assistant, which says what it has found. " * 6
POPPED = 20_000
"""The items that can be popped in all rounds."""

Make = Callable[[str], Any]
"""Makes the session of an id."""

Call = Callable[[], Awaitable[object]]


def item(number: int) -> dict[str, Any]:
    return {
        "type": "message",
        "id": f"msg_{number}",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": f"{number} {TEXT}", "annotations": []}],
    }


async def calls(make: Make) -> dict[str, Call]:
    one, ten, many, popped = make("one"), make("ten"), make("many"), make("popped")
    numbers = itertools.count()
    await many.add_items([item(number) for number in range(1_000)])
    await popped.add_items([item(number) for number in range(POPPED)])
    new = (make(f"new-{number}") for number in numbers)

    async def first() -> None:
        await next(new).add_items([item(0)])

    async def pop() -> None:
        if await popped.pop_item() is None:
            raise IndexError

    return {
        "add one": lambda: one.add_items([item(next(numbers))]),
        "add one to a new session": first,
        "add ten": lambda: ten.add_items([item(next(numbers)) for _ in range(10)]),
        "read the last 20 of 1,000": lambda: many.get_items(20),
        "read 1,000": lambda: many.get_items(),
        "pop": pop,
    }


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with asyncio.Runner() as runner:
        with databases.postgres() as database:
            yield from _beside(rounds, runner, database, _sqlalchemy)
        for opened in (_sqlalchemy, _async_sqlite, _sqlite):
            with databases.file() as file:
                yield from _beside(rounds, runner, file, opened)


def _beside(
    rounds: Rounds,
    runner: asyncio.Runner,
    database: PostgresSchema | SQLiteFile,
    opened: Callable[[Address, AsyncExitStack], Make],
) -> Iterator[Comparison]:
    schema = database.schema if isinstance(database, PostgresSchema) else None
    where = "SQLite" if schema is None else "PostgreSQL"
    stack = AsyncExitStack()
    store: Any = runner.run(asm.AsyncSessionStore(database.dsn, schema=schema).open())
    # The SDK's blocking SQLite session runs in threads; it stands beside a blocking store, which does so too.
    blocking = stack.enter_context(asm.SessionStore(database.dsn, schema=schema))
    lent = blocking if opened is _sqlite else store
    make = opened(Address(database), stack)
    theirs, ours = runner.run(calls(make)), runner.run(calls(lambda name: AsmSession(f"asm-{name}", lent)))
    name = type(make("name")).__name__
    for what in theirs:
        target = Target(f"{where}: {what}, beside {name}", name, 1.0)
        sides = _side(runner, name, theirs[what]), _side(runner, type(lent).__name__, ours[what])
        yield rounds.compare(target, *sides, unit="call")
    runner.run(stack.aclose())
    runner.run(store.close())


def _side(runner: asyncio.Runner, name: str, call: Call) -> Side:
    def run(seconds: float) -> Sample:
        return by_tasks(runner, [call], seconds)

    return Side(name, run)


def _sqlalchemy(address: Address, stack: AsyncExitStack) -> Make:
    """SQLAlchemySession with the driver of its documentation."""
    driver = "aiosqlite" if address.is_sqlite else "asyncpg"
    engine = create_async_engine(address.url(driver), connect_args=address.asyncpg_arguments)
    stack.push_async_callback(engine.dispose)
    return lambda name: SQLAlchemySession(name, engine=engine, create_tables=True)


def _async_sqlite(address: Address, stack: AsyncExitStack) -> Make:
    def make(name: str) -> AsyncSQLiteSession:
        session = AsyncSQLiteSession(name, address.file)
        stack.push_async_callback(session.close)
        return session

    return make


def _sqlite(address: Address, stack: AsyncExitStack) -> Make:
    def make(name: str) -> SQLiteSession:
        session = SQLiteSession(name, address.file)
        stack.callback(session.close)
        return session

    return make
