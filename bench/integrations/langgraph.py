"""AsmSaver and AsyncAsmSaver beside LangGraph's own savers for PostgreSQL and SQLite, on the same database.

Both sides store the same checkpoints: a list of messages that a step has changed, and four short values; in
one row also 20 kB that it has not changed. SQLite syncs at every commit on both sides, with a write-ahead log
that has its full size: to sync a log that grows takes longer.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from typing import Any

import aiosqlite  # type: ignore[import-not-found,unused-ignore]
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import asm
from asm.integrations import langgraph
from bench.databases import Databases, PostgresSchema, SQLiteFile
from bench.harness import Comparison, Rounds, Sample, Side, by_tasks, in_turn
from bench.targets import Target

TEXT = "as long as a short message of an assistant, which says what it has found. " * 10
TURNS = 27
"""Messages of a thread: 20 kB."""

Call = Callable[[], Any]


class Thread:
    """Puts the checkpoints of one thread, each the child of the last."""

    def __init__(self, name: str) -> None:
        self.config: dict[str, Any] = {"configurable": {"thread_id": name, "checkpoint_ns": ""}}
        self._steps = itertools.count()

    def put(self, saver: Any, turns: int = 3, kept: int = 0) -> Any:
        """What the saver's `put`, or `aput`, returns for the next checkpoint.

        `turns` messages have changed, and `kept` have not since the first checkpoint.
        """
        step = next(self._steps)
        checkpoint: Any = empty_checkpoint()
        checkpoint["id"] = str(uuid6(clock_seq=step))
        versions = dict.fromkeys(("messages", "route", "count", "done", "plan"), f"{step:032}.5")
        checkpoint["channel_versions"] = versions
        checkpoint["channel_values"] = {
            "messages": [{"role": "assistant", "content": TEXT, "n": step + n} for n in range(turns)],
            "route": "agent",
            "count": step,
            "done": False,
            "plan": None,
        }
        if kept:
            checkpoint["channel_values"]["files"] = [{"text": TEXT, "n": n} for n in range(kept)]
            checkpoint["channel_versions"] = versions | {"files": "1"}
            if not step:
                versions = checkpoint["channel_versions"]
        parent = self.config
        self.config = {"configurable": parent["configurable"] | {"checkpoint_id": checkpoint["id"]}}
        put = saver.put if isinstance(saver, langgraph.AsmSaver | PostgresSaver | SqliteSaver) else saver.aput
        return put(parent, checkpoint, {"source": "loop", "step": step, "parents": {}}, versions)


WRITES = [("messages", [{"role": "assistant", "content": TEXT}]), ("route", "agent"), ("count", 1)]


def blocking_calls(saver: Any) -> dict[str, Call]:
    many, keeping, writing, read = Thread("many"), Thread("keeping"), Thread("writing"), Thread("read")
    written, filling = writing.put(saver), Thread("filling")
    for _ in range(20):
        filling.put(saver, 100 * TURNS)
    for _ in range(100):
        last = read.put(saver, TURNS)
    saver.put_writes(last, WRITES, "task")
    latest = {"configurable": {"thread_id": "read", "checkpoint_ns": ""}}
    tasks = (f"task-{number}" for number in itertools.count())
    return {
        "put": lambda: many.put(saver),
        "put, 20 kB unchanged": lambda: keeping.put(saver, kept=TURNS),
        "put_writes of 3": lambda: saver.put_writes(written, WRITES, next(tasks)),
        "get_tuple of 20 kB": lambda: saver.get_tuple(latest),
        "list of 100 of 20 kB": lambda: list(saver.list(latest, limit=100)),
    }


async def awaited_calls(saver: Any) -> dict[str, Call]:
    many, keeping = Thread("async many"), Thread("async keeping")
    writing, read = Thread("async writing"), Thread("async read")
    written, filling = await writing.put(saver), Thread("async filling")
    for _ in range(20):
        await filling.put(saver, 100 * TURNS)
    for _ in range(100):
        last = await read.put(saver, TURNS)
    await saver.aput_writes(last, WRITES, "task")
    latest = {"configurable": {"thread_id": "async read", "checkpoint_ns": ""}}
    tasks = (f"task-{number}" for number in itertools.count())

    async def listed() -> int:
        return len([each async for each in saver.alist(latest, limit=100)])

    return {
        "aput": lambda: many.put(saver),
        "aput, 20 kB unchanged": lambda: keeping.put(saver, kept=TURNS),
        "aput_writes of 3": lambda: saver.aput_writes(written, WRITES, next(tasks)),
        "aget_tuple of 20 kB": lambda: saver.aget_tuple(latest),
        "alist of 100 of 20 kB": listed,
    }


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with databases.postgres() as database:
        langgraph.migrate(database.dsn, schema=database.schema)
        yield from _beside(rounds, database, _postgres_saver, _async_postgres_saver, "PostgreSQL")
        yield _growth(rounds, database, database.schema)
    with databases.file() as file:
        langgraph.migrate(file.dsn)
        yield from _beside(rounds, file, _sqlite_saver, _async_sqlite_saver, "SQLite")
        yield _growth(rounds, file, None)


def _beside(
    rounds: Rounds,
    database: Any,
    opened: Callable[[Any], Any],
    opened_async: Callable[[Any, AsyncExitStack], Coroutine[Any, Any, Any]],
    where: str,
) -> Iterator[Comparison]:
    schema = getattr(database, "schema", None)
    with ExitStack() as stack:
        theirs = stack.enter_context(opened(database))
        store = stack.enter_context(asm.SessionStore(database.dsn, schema=schema))
        name = type(theirs).__name__
        other, own = blocking_calls(theirs), blocking_calls(langgraph.AsmSaver(store))
        for what in other:
            target = Target(f"{where}: {what}", name, 1.0)
            yield rounds.compare(
                target, _blocking(name, other[what]), _blocking("AsmSaver", own[what]), unit="call"
            )
    runner = asyncio.Runner()
    with runner:
        async_stack = AsyncExitStack()
        their_saver = runner.run(opened_async(database, async_stack))
        async_store = runner.run(asm.AsyncSessionStore(database.dsn, schema=schema).open())
        name = type(their_saver).__name__
        other = runner.run(awaited_calls(their_saver))
        own = runner.run(awaited_calls(langgraph.AsyncAsmSaver(async_store)))
        for what in other:
            target = Target(f"{where}: {what}", name, 1.0)
            yield rounds.compare(
                target,
                _awaited(runner, name, other[what]),
                _awaited(runner, "AsyncAsmSaver", own[what]),
                unit="call",
            )
        runner.run(async_stack.aclose())
        runner.run(async_store.close())


def _growth(rounds: Rounds, database: PostgresSchema | SQLiteFile, schema: str | None) -> Comparison:
    """One get_tuple of a thread of 1,500 checkpoints beside one of 15."""
    with asm.SessionStore(database.dsn, schema=schema) as store:
        saver = langgraph.AsmSaver(store)
        for name, length in (("short", 15), ("long", 1_500)):
            thread = Thread(name)
            for _ in range(length):
                thread.put(saver, TURNS)
        sides = [
            _blocking(f"{name} thread", partial(saver.get_tuple, _latest(name))) for name in ("short", "long")
        ]
        where = "SQLite" if schema is None else "PostgreSQL"
        target = Target(f"{where}: get_tuple, 1,500 checkpoints beside 15", "15 checkpoints", 1 / 1.5)
        return rounds.compare(target, *sides, unit="call")


def _latest(thread_id: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


def _blocking(name: str, call: Call) -> Side:
    def step() -> int:
        call()
        return 1

    return Side(name, lambda seconds: in_turn(step, seconds))


def _awaited(runner: asyncio.Runner, name: str, call: Call) -> Side:
    def run(seconds: float) -> Sample:
        return by_tasks(runner, [call], seconds)

    return Side(name, run)


OPTIONS: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
"""As LangGraph's documentation requires of a pool's connections."""


def _conninfo(database: PostgresSchema) -> str:
    return make_conninfo(database.dsn, options=f"-csearch_path={database.schema}")


@contextmanager
def _postgres_saver(database: PostgresSchema) -> Iterator[PostgresSaver]:
    with ConnectionPool(_conninfo(database), min_size=1, kwargs=OPTIONS, open=True) as pool:
        saver: Any = PostgresSaver(pool)
        saver.setup()
        yield saver


async def _async_postgres_saver(database: PostgresSchema, stack: AsyncExitStack) -> AsyncPostgresSaver:
    pool: Any = AsyncConnectionPool(_conninfo(database), min_size=1, kwargs=OPTIONS, open=False)
    await stack.enter_async_context(pool)
    saver = AsyncPostgresSaver(pool)
    await saver.setup()
    return saver


@contextmanager
def _sqlite_saver(database: SQLiteFile) -> Iterator[SqliteSaver]:
    with sqlite3.connect(f"{database.path}.theirs", check_same_thread=False) as connection:
        connection.execute("pragma synchronous = full")
        yield SqliteSaver(connection)
    connection.close()


async def _async_sqlite_saver(database: SQLiteFile, stack: AsyncExitStack) -> AsyncSqliteSaver:
    connection = await stack.enter_async_context(aiosqlite.connect(f"{database.path}.async"))
    await connection.execute("pragma synchronous = full")
    return AsyncSqliteSaver(connection)
