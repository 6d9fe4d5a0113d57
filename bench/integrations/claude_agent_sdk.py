"""AsmSessionStore beside bare appends of the same entries, and beside the SDK's own example of a store.

The SDK brings no store but one in memory. `Example` has the table and the statements of the PostgreSQL store
among the examples of its repository, and the same driver, asyncpg. It has no summaries, so the SDK loads each
transcript to list conversations, and an entry that is appended again is stored again. There is none for
SQLite.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg  # type: ignore[import-not-found,import-untyped,unused-ignore]
import claude_agent_sdk as sdk

import asm
from asm.integrations.claude_agent_sdk import AsmSessionStore
from bench.databases import Databases, PostgresSchema, SQLiteFile
from bench.harness import Comparison, Rounds, Side, by_tasks
from bench.peer import Address
from bench.targets import Target

Call = Callable[[], Awaitable[object]]

FOLDER = "/srv/project"
PROJECT = sdk.project_key_for_directory(FOLDER)
IDS = [str(uuid.UUID(int=number)) for number in range(100)]
RATIO_OF_BARE = 1 / 1.3
TEXT = "as long as a short message of an assistant, which says what it has found. " * 10
USAGE = {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 9_000}


class Example:
    """The SDK's example: a row for each entry, in one table without a key of the SDK's ids."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def create(self) -> None:
        await self._pool.execute(
            "create table claude_entries (project_key text, session_id text, subpath text, seq bigserial, "
            "entry jsonb not null, mtime bigint not null, "
            "primary key (project_key, session_id, subpath, seq))"
        )
        await self._pool.execute(
            "create index on claude_entries (project_key, session_id) where subpath = ''"
        )

    async def append(self, key: Any, entries: list[Any]) -> None:
        await self._pool.execute(
            "insert into claude_entries (project_key, session_id, subpath, entry, mtime) "
            "select $1, $2, $3, entry, (extract(epoch from clock_timestamp()) * 1000)::bigint "
            "from unnest($4::jsonb[]) with ordinality as given (entry, place) order by place",
            key["project_key"],
            key["session_id"],
            "",
            [json.dumps(entry) for entry in entries],
        )

    async def load(self, key: Any) -> list[Any] | None:
        rows = await self._pool.fetch(
            "select entry from claude_entries "
            "where project_key = $1 and session_id = $2 and subpath = $3 order by seq",
            key["project_key"],
            key["session_id"],
            "",
        )
        return [json.loads(row["entry"]) for row in rows] or None

    async def list_sessions(self, project_key: str) -> list[Any]:
        rows = await self._pool.fetch(
            "select session_id, max(mtime) as mtime from claude_entries "
            "where project_key = $1 and subpath = '' group by session_id",
            project_key,
        )
        return [dict(row) for row in rows]


def entries_of(session_id: str, number: int) -> list[Any]:
    return [entry_of(session_id, n) for n in range(number)]


def entry_of(session_id: str, number: int) -> dict[str, Any]:
    text = [{"type": "text", "text": TEXT}]
    user = {"role": "user", "content": TEXT}
    said = {"id": f"msg_{uuid.uuid4().hex}", "role": "assistant", "model": "claude-opus-4-5", "content": text}
    return {
        "type": "assistant" if number % 2 else "user",
        "uuid": str(uuid.uuid4()),
        "parentUuid": str(uuid.uuid4()),
        "sessionId": session_id,
        "timestamp": "2026-11-28T03:00:00.000Z",
        "cwd": FOLDER,
        "gitBranch": "main",
        "version": "2.1.300",
        "isSidechain": False,
        "message": {**said, "usage": USAGE} if number % 2 else user,
    }


def key_of(session_id: str, project_key: str = "another") -> Any:
    return {"project_key": project_key, "session_id": session_id}


def appending(append: Callable[[str, list[Any]], Awaitable[object]], number: int) -> Call:
    """Appends this many entries, to one of 20 transcripts after the other."""
    ids = itertools.cycle([f"appended-{n}" for n in range(20)])

    def call() -> Awaitable[object]:
        session_id = next(ids)
        return append(session_id, entries_of(session_id, number))

    return call


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with asyncio.Runner() as runner:
        with databases.postgres() as database:
            yield from _beside_bare_appends(rounds, runner, database, "PostgreSQL")
            yield from _beside_the_example(rounds, runner, database)
        with databases.file() as file:
            yield from _beside_bare_appends(rounds, runner, file, "SQLite")


def _beside_bare_appends(
    rounds: Rounds, runner: asyncio.Runner, database: PostgresSchema | SQLiteFile, where: str
) -> Iterator[Comparison]:
    store = runner.run(asm.AsyncSessionStore(database.dsn, schema=getattr(database, "schema", None)).open())
    adapter: Any = AsmSessionStore(store)

    async def bare(session_id: str, entries: list[Any]) -> None:
        await store.append_events(
            [
                asm.Event(type="claude.entry", session_id=session_id, id=entry["uuid"], data={"item": entry})
                for entry in entries
            ]
        )

    async def ours(session_id: str, entries: list[Any]) -> None:
        await adapter.append(key_of(session_id), entries)

    for number in (1, 10, 100):
        target = Target(f"{where}: append of {number}, beside a bare one", "append_events", RATIO_OF_BARE)
        sides = [_side(runner, "append_events", appending(bare, number))]
        sides += [_side(runner, "AsmSessionStore", appending(ours, number))]
        yield rounds.compare(target, *sides, unit="call")
    runner.run(store.close())


def _beside_the_example(
    rounds: Rounds, runner: asyncio.Runner, database: PostgresSchema
) -> Iterator[Comparison]:
    stack = AsyncExitStack()
    example: Any = runner.run(stack.enter_async_context(_opened_example(database)))
    store = runner.run(stack.enter_async_context(asm.AsyncSessionStore(database.dsn, schema=database.schema)))
    adapter: Any = AsmSessionStore(store)
    for each in (example, adapter):
        runner.run(_filled(each))
    rows: list[tuple[str, Callable[[Any], Call]]] = [
        ("append of 1", lambda of: appending(lambda name, entries: of.append(key_of(name), entries), 1)),
        ("append of 10", lambda of: appending(lambda name, entries: of.append(key_of(name), entries), 10)),
        ("load of 40", lambda of: lambda: of.load(key_of(IDS[0], PROJECT))),
        ("load of 1,000", lambda of: lambda: of.load(key_of("long"))),
        ("list_sessions of 100", lambda of: lambda: of.list_sessions(PROJECT)),
        ("the SDK's list of 100, all just appended to", lambda of: lambda: conversations(of)),
    ]
    for what, call in rows:
        yield _beside(rounds, runner, what, call(example), call(adapter))
    runner.run(_aged(store))
    what = "the SDK's list of 100, none just appended to"
    yield _beside(rounds, runner, what, lambda: conversations(example), lambda: conversations(adapter))
    runner.run(stack.aclose())


def _beside(rounds: Rounds, runner: asyncio.Runner, what: str, theirs: Call, ours: Call) -> Comparison:
    target = Target(f"PostgreSQL: {what}", "the SDK's example", 1.0)
    sides = _side(runner, "the SDK's example", theirs), _side(runner, "AsmSessionStore", ours)
    return rounds.compare(target, *sides, unit="call")


def _side(runner: asyncio.Runner, name: str, call: Call) -> Side:
    return Side(name, lambda seconds: by_tasks(runner, [call], seconds))


def conversations(adapter: Any) -> Any:
    return sdk.list_sessions_from_store(adapter, directory=FOLDER)


async def _filled(adapter: Any) -> None:
    for id in IDS:
        await adapter.append(key_of(id, PROJECT), entries_of(id, 40))
    await adapter.append(key_of("long"), entries_of("long", 1_000))


async def _aged(store: asm.AsyncSessionStore) -> None:
    """Make all transcripts an hour old."""
    for each in await store.list_sessions():
        await store.update_session(
            each.id, lambda session: replace(session, updated_at=session.updated_at - timedelta(hours=1))
        )


@asynccontextmanager
async def _opened_example(database: PostgresSchema) -> AsyncIterator[Example]:
    address = Address(database)
    names = {"dbname": "database"}
    parts = {names.get(name, name): value for name, value in address.parts.items()}
    async with asyncpg.create_pool(**parts, **address.asyncpg_arguments, min_size=1) as pool:
        example = Example(pool)
        await example.create()
        yield example
