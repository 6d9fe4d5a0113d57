"""AsmConversationStore beside stores that an application would write, on the same database.

pydantic-ai has a store in memory only. Its documentation serializes a conversation to JSON and leaves the
rest to the application: `Documents` keeps it in a column, which is replaced if its revision is the expected
one. `Rows` implements pydantic-ai's protocol: a row for each record and each message, in one transaction, and
histories by a recursive query. Neither stores runs, or anything that another program could read. SQLite
syncs at every commit on all sides, with a write-ahead log.

A call goes to one of 50 conversations in turn, or to one of 5 long ones.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol
from uuid import uuid4

import psycopg
from pydantic import TypeAdapter
from pydantic_ai.conversation import Conversation, ConversationTypeAdapter
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
)
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
)
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
RECORD = TypeAdapter(ConversationRecord)

TABLES = (
    "create table documents (id text primary key, revision text, usage text, document text, updated_at text)",
    "create index documents_by_update on documents (updated_at)",
    "create table records (id text primary key, revision text, record text, updated_at text)",
    "create index records_by_update on records (updated_at)",
    "create table entries (id text primary key, parent_id text, message text)",
)

Call = Callable[[], Awaitable[object]]
Statement = tuple[str, tuple[object, ...]]


class Connection(Protocol):
    """A connection of an application to either database. Placeholders are `%s`."""

    async def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]: ...
    async def transact(self, first: Statement, others: Sequence[Statement]) -> bool:
        """Execute statements in one transaction, if the first one returns a row; whether it did."""


class Store(Protocol):
    """What all sides have of a ConversationStore."""

    async def load(self, conversation_id: str, *, limit: int | None = None) -> Conversation | None: ...
    async def save(self, conversation: Conversation) -> object: ...
    async def list_conversations(self, *, limit: int | None = None) -> Sequence[Any]: ...


class Documents:
    """A document for each conversation."""

    title = "JSON in a column"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def load(self, conversation_id: str, *, limit: int | None = None) -> Conversation | None:
        rows = await self._connection.execute("select document from documents where id = %s", conversation_id)
        conversation = ConversationTypeAdapter.validate_json(rows[0][0])
        if limit is not None:
            conversation.messages = conversation.messages[-limit:]
        return conversation

    async def save(self, conversation: Conversation) -> object:
        expected, conversation.revision = conversation.revision, str(uuid4())
        saved = await self._connection.execute(
            "insert into documents as stored (id, revision, usage, document, updated_at)"
            " values (%s, %s, %s, %s, current_timestamp) on conflict (id) do update"
            " set revision = excluded.revision, usage = excluded.usage, document = excluded.document,"
            " updated_at = current_timestamp where stored.revision = %s returning 1",
            conversation.conversation_id,
            conversation.revision,
            USAGE.dump_json(conversation.usage).decode(),
            ConversationTypeAdapter.dump_json(conversation).decode(),
            expected,
        )
        assert saved, "conflict"
        return saved

    async def list_conversations(self, *, limit: int | None = None) -> Sequence[Any]:
        newest = "select id, revision, usage, updated_at from documents order by updated_at desc limit %s"
        rows = await self._connection.execute(newest, limit)
        return [(*row, USAGE.validate_json(row[2])) for row in rows]


class Rows(ConversationStore):
    """A row for each record and for each message."""

    title = "rows, by hand"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        rows = await self._connection.execute("select record from records where id = %s", conversation_id)
        return RECORD.validate_json(rows[0][0]) if rows else None

    async def read_records(
        self, *, scope: str | None = None, limit: int | None = None
    ) -> list[ConversationRecord]:
        assert scope is None
        newest = "select record from records order by updated_at desc limit %s"
        return [RECORD.validate_json(record) for (record,) in await self._connection.execute(newest, limit)]

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        upsert = (
            "insert into records as stored (id, revision, record, updated_at)"
            " values (%s, %s, %s, current_timestamp) on conflict (id) do update"
            " set revision = excluded.revision, record = excluded.record, updated_at = current_timestamp"
            " where stored.revision = %s returning 1"
        )
        document = RECORD.dump_json(record).decode()
        values = (record.conversation_id, record.revision, document, expected_revision)
        entries = [
            (
                "insert into entries (id, parent_id, message) values (%s, %s, %s)",
                (entry.id, entry.parent_id, ModelMessagesTypeAdapter.dump_json([entry.message]).decode()),
            )
            for entry in new_entries
        ]
        if not await self._connection.transact((upsert, values), entries):
            raise ConversationConflict(record.conversation_id)

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        rows = await self._connection.execute(
            "with recursive history (id, parent_id, message, place) as ("
            " select id, parent_id, message, 1 from entries where id = %s"
            " union all select entries.id, entries.parent_id, entries.message, place + 1"
            " from history join entries on entries.id = history.parent_id where place < %s)"
            " select id, parent_id, message from history order by place desc",
            head_id,
            2**31 - 1 if limit is None else limit,
        )
        messages = ModelMessagesTypeAdapter.validate_json(f"[{','.join(row[2][1:-1] for row in rows)}]")
        return [
            ConversationEntry(id=id, parent_id=parent_id, message=message)
            for (id, parent_id, _), message in zip(rows, messages, strict=True)
        ]

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        return (await self.read_history(entry_id, limit=1))[0]

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        raise NotImplementedError


def message(number: int) -> ModelMessage:
    if number % 2:
        return ModelResponse(
            parts=[TextPart(f"{number} {TEXT}")], model_name="model", run_id=f"run-{number // 10}"
        )
    return ModelRequest.user_text_prompt(f"{number} {TEXT}")


async def calls(store: Store) -> dict[str, Call]:
    """The call of each row. Every conversation goes on from what was saved last."""
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
        "begin with two": begin,
        "add one to 20": lambda: add(one, 1),
        "add ten to 20": lambda: add(ten, 10),
        "add one to 1,000": lambda: add(long, 1),
    }


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    for made in (Rows, Documents):
        with databases.postgres() as database:
            yield from _beside(rounds, database, made)
        with databases.file() as file:
            yield from _beside(rounds, file, made)


def _beside(
    rounds: Rounds, database: PostgresSchema | SQLiteFile, made: type[Documents | Rows]
) -> Iterator[Comparison]:
    is_sqlite = isinstance(database, SQLiteFile)
    opened: Callable[[Address], AbstractAsyncContextManager[Connection]] = _sqlite if is_sqlite else _postgres
    schema = None if isinstance(database, SQLiteFile) else database.schema
    stack = AsyncExitStack()
    with asyncio.Runner() as runner:
        connection = runner.run(stack.enter_async_context(opened(Address(database))))
        # On SQLite both sides call a thread.
        store: Any = asm.SessionStore(database.dsn) if is_sqlite else None
        if store is None:
            store = runner.run(stack.enter_async_context(asm.AsyncSessionStore(database.dsn, schema=schema)))
        else:
            stack.enter_context(store)
        theirs = runner.run(calls(made(connection)))
        ours = runner.run(calls(AsmConversationStore(store)))
        for what in theirs:
            target = Target(f"{'SQLite' if is_sqlite else 'PostgreSQL'}: {what}", made.title, 1.0)
            sides = _side(runner, made.title, theirs[what]), _side(runner, "asm", ours[what])
            yield rounds.compare(target, *sides, unit="call")
        runner.run(stack.aclose())


def _side(runner: asyncio.Runner, name: str, call: Call) -> Side:
    def run(seconds: float) -> Sample:
        return by_tasks(runner, [call], seconds)

    return Side(name, run)


class _Postgres:
    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = await self._connection.execute(sql, values or None)
        return await cursor.fetchall() if cursor.description else []

    async def transact(self, first: Statement, others: Sequence[Statement]) -> bool:
        async with self._connection.transaction():
            is_done = bool(await self.execute(first[0], *first[1]))
            if is_done and others:
                async with self._connection.cursor() as cursor:
                    await cursor.executemany(others[0][0], [values for _, values in others])
            return is_done


@asynccontextmanager
async def _postgres(address: Address) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(address.conninfo, autocommit=True) as connection:
        for statement in TABLES:
            await connection.execute(statement)
        yield _Postgres(connection)


class _SQLite:
    """A connection in a thread, as an application whose event loop must not block has it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self._rows, sql, values)

    async def transact(self, first: Statement, others: Sequence[Statement]) -> bool:
        return await asyncio.to_thread(self._transact, first, others)

    def _transact(self, first: Statement, others: Sequence[Statement]) -> bool:
        self._connection.execute("begin immediate")
        is_done = bool(self._rows(*first))
        for statement in others if is_done else ():
            self._rows(*statement)
        self._connection.execute("commit")
        return is_done

    def _rows(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql.replace("%s", "?"), values).fetchall()


@asynccontextmanager
async def _sqlite(address: Address) -> AsyncIterator[Connection]:
    connection = sqlite3.connect(address.file, isolation_level=None, check_same_thread=False)
    for statement in ("pragma journal_mode = wal", "pragma synchronous = full", *TABLES):
        connection.execute(statement)
    yield _SQLite(connection)
    connection.close()


def main() -> None:
    """Print a line for each row: what, how many times as fast, and the medians of both sides."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with Databases() as databases:
        for each in comparisons(Rounds(seconds=seconds), databases):
            print(
                f"{each.target.what:<40} {each.ratio:6.2f}x  {each.ours.p50_ms:7.2f} ms, "
                f"{each.floor_name} {each.floor.p50_ms:.2f} ms; CPU {each.ours.client_us / 1e3:.2f}, "
                f"{each.floor.client_us / 1e3:.2f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
