"""AsmConversationStore beside one JSON document for each conversation, on the same database.

pydantic-ai has a store in memory only; to keep conversations, its documentation serializes each to JSON and
leaves the rest to the application. The other side does that: a table with the document in a column, which is
replaced if its revision is the expected one. SQLite syncs at every commit on both sides, with a write-ahead
log. Each call awaits one of 50 conversations in turn, or one of 5 long ones.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol
from uuid import uuid4

import psycopg
from pydantic import TypeAdapter
from pydantic_ai.conversation import Conversation, ConversationTypeAdapter
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart
from pydantic_ai.usage import RunUsage

import asm
from asm.integrations.pydantic_ai import AsmConversationStore
from bench.databases import Databases, PostgresSchema, SQLiteFile
from bench.harness import Comparison, Rounds, Sample, Side, by_tasks
from bench.peer import Address
from bench.targets import Target

TEXT = "as long as a short message of an assistant, which says what it has found. " * 6
SHORT, LONG = 50, 5

USAGE = TypeAdapter(RunUsage)

Call = Callable[[], Awaitable[object]]
Execute = Callable[..., Awaitable[list[tuple[Any, ...]]]]


class Store(Protocol):
    """What both sides have of a ConversationStore."""

    async def load(self, conversation_id: str, *, limit: int | None = None) -> Conversation | None: ...
    async def save(self, conversation: Conversation) -> object: ...
    async def list_conversations(self, *, limit: int | None = None) -> list[Any]: ...


class Documents:
    """A table of conversations, each a document."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def load(self, conversation_id: str, *, limit: int | None = None) -> Conversation | None:
        rows = await self._execute("select document from conversations where id = %s", conversation_id)
        conversation = ConversationTypeAdapter.validate_json(rows[0][0])
        if limit is not None:
            conversation.messages = conversation.messages[-limit:]
        return conversation

    async def save(self, conversation: Conversation) -> object:
        expected, conversation.revision = conversation.revision, str(uuid4())
        document = ConversationTypeAdapter.dump_json(conversation).decode()
        usage = USAGE.dump_json(conversation.usage).decode()
        saved = await self._execute(
            "insert into conversations as stored (id, revision, usage, document, updated_at)"
            " values (%s, %s, %s, %s, current_timestamp) on conflict (id) do update"
            " set revision = excluded.revision, usage = excluded.usage, document = excluded.document,"
            " updated_at = current_timestamp where stored.revision = %s returning 1",
            *(conversation.conversation_id, conversation.revision, usage, document, expected),
        )
        assert saved, "conflict"
        return saved

    async def list_conversations(self, *, limit: int | None = None) -> list[Any]:
        newest = "select id, revision, usage, updated_at from conversations order by updated_at desc limit %s"
        return [(*row, USAGE.validate_json(row[2])) for row in await self._execute(newest, limit)]


TABLE = (
    "create table conversations (id text primary key, revision text, usage text, document text)",
    "alter table conversations add column updated_at timestamp",
    "create index on_update on conversations (updated_at)",
)


def message(number: int) -> ModelMessage:
    if number % 2:
        return ModelResponse(parts=[TextPart(f"{number} {TEXT}")], model_name="model", run_id=f"run-{number}")
    return ModelRequest.user_text_prompt(f"{number} {TEXT}")


async def calls(store: Store) -> dict[str, Call]:
    """The operations of a row each. Every conversation goes on from what was saved last."""
    numbers = itertools.count()

    async def made(name: str, count: int, length: int) -> Iterator[Conversation]:
        conversations = []
        for number in range(count):
            messages = [message(each) for each in range(length)]
            conversation = Conversation(conversation_id=f"{name}-{number}", messages=messages)
            await store.save(conversation)
            conversations.append(conversation)
        return itertools.cycle(conversations)

    one, ten = await made("one", SHORT, 20), await made("ten", SHORT, 20)
    long = await made("long", LONG, 1_000)

    async def add(conversations: Iterator[Conversation], count: int) -> None:
        conversation = next(conversations)
        conversation.messages += [message(next(numbers)) for _ in range(count)]
        await store.save(conversation)

    async def begin() -> None:
        id = f"new-{next(numbers)}"
        await store.save(Conversation(conversation_id=id, messages=[message(0), message(1)]))

    return {
        "list 100": lambda: store.list_conversations(limit=100),
        "load the last 20 of 1,000": lambda: store.load("long-0", limit=20),
        "load 1,000": lambda: store.load("long-0"),
        "load 20": lambda: store.load("one-0", limit=20),
        "begin a conversation with two": begin,
        "add one to 20": lambda: add(one, 1),
        "add ten to 20": lambda: add(ten, 10),
        "add one to 1,000": lambda: add(long, 1),
    }


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with databases.postgres() as database:
        yield from _beside(rounds, database, _postgres, database.schema)
    with databases.file() as file:
        yield from _beside(rounds, file, _sqlite, None)


def _beside(
    rounds: Rounds,
    database: PostgresSchema | SQLiteFile,
    opened: Callable[[Address], AbstractAsyncContextManager[Execute]],
    schema: str | None,
) -> Iterator[Comparison]:
    where = "SQLite" if schema is None else "PostgreSQL"
    stack = AsyncExitStack()
    with asyncio.Runner() as runner:
        execute = runner.run(stack.enter_async_context(opened(Address(database))))
        store = runner.run(stack.enter_async_context(asm.AsyncSessionStore(database.dsn, schema=schema)))
        theirs = runner.run(calls(Documents(execute)))
        ours = runner.run(calls(AsmConversationStore(store)))
        for what in theirs:
            target = Target(f"{where}: {what}", "documents in a column", 1.0)
            sides = _side(runner, "documents", theirs[what]), _side(runner, "asm", ours[what])
            yield rounds.compare(target, *sides, unit="call")
        runner.run(stack.aclose())


def _side(runner: asyncio.Runner, name: str, call: Call) -> Side:
    def run(seconds: float) -> Sample:
        return by_tasks(runner, [call], seconds)

    return Side(name, run)


@asynccontextmanager
async def _postgres(address: Address) -> AsyncIterator[Execute]:
    async with await psycopg.AsyncConnection.connect(address.conninfo, autocommit=True) as connection:

        async def execute(sql: str, *values: object) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(sql, values or None)
            return await cursor.fetchall() if cursor.description else []

        for statement in TABLE:
            await execute(statement)
        yield execute


@asynccontextmanager
async def _sqlite(address: Address) -> AsyncIterator[Execute]:
    """A connection in a thread, as an application whose event loop must not block has it."""
    connection = sqlite3.connect(address.file, isolation_level=None, check_same_thread=False)

    async def execute(sql: str, *values: object) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(lambda: connection.execute(sql.replace("%s", "?"), values).fetchall())

    for statement in ("pragma journal_mode = wal", "pragma synchronous = full", *TABLE):
        await execute(statement)
    yield execute
    connection.close()


def main() -> None:
    """Print a line for each row: what, how many times as fast, and the medians of both sides."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with Databases() as databases:
        for each in comparisons(Rounds(seconds=seconds), databases):
            print(
                f"{each.target.what:<48} {each.ratio:5.2f}x  {each.ours.p50_ms:7.2f} ms, "
                f"{each.floor_name} {each.floor.p50_ms:.2f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
