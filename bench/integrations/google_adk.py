"""AsmSessionService beside ADK's DatabaseSessionService, on PostgreSQL and on SQLite.

    python -m bench.integrations.google_adk [SECONDS]

Both append the same events through the protocol of ADK, one after another, and read them as objects of
ADK. SQLite syncs at every commit on both sides, with a write-ahead log. The last rows measure a list of
10,000 sessions beside its statement alone, of which the rows are read and their JSON is parsed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from google.adk.events import Event, EventActions
from google.adk.sessions import DatabaseSessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types

import asm
from asm.integrations.google_adk import AsmSessionService
from bench.databases import Databases, PostgresSchema, SQLiteFile
from bench.harness import Comparison, Rounds, Sample, Side, by_tasks, in_turn
from bench.payload import TEXTS
from bench.peer import Address
from bench.targets import Target

OWNER = {"app_name": "bench", "user_id": "ada"}
LISTED = 10_000
LIST_RATIO = 1 / 3
"""A list may take three times as long as its statement."""

Call = Callable[[], Awaitable[Any]]


def an_event(number: int, **fields: Any) -> Event:
    part = types.Part(text=TEXTS[number % len(TEXTS)])
    return Event(
        author="bench",
        invocation_id=f"invocation {number // 8}",
        content=types.Content(role="model", parts=[part]),
        **fields,
    )


def a_call(number: int) -> Event:
    """What a model's answer is: it reports tokens, and the agent's output becomes a part of the state."""
    return an_event(
        number,
        model_version="gemini-2.5-flash",
        usage_metadata=types.GenerateContentResponseUsageMetadata(
            prompt_token_count=900, candidates_token_count=60, total_token_count=960
        ),
        actions=EventActions(state_delta={"answer": TEXTS[number % len(TEXTS)]}),
    )


def a_change(number: int) -> Event:
    delta = {"app:last": number, "user:last": number, "last": number}
    return an_event(number, actions=EventActions(state_delta=delta))


class Talk:
    """Appends to one session after another, so that no object's list of events grows without end."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self._numbers = itertools.count()
        self._session: Any = None

    async def append(self, make: Callable[[int], Event]) -> None:
        number = next(self._numbers)
        if number % 100 == 0:
            self._session = await self._service.create_session(**OWNER)
        await self._service.append_event(self._session, make(number))

    async def append_ten(self) -> None:
        for _ in range(10):
            await self.append(an_event)


async def calls(service: Any) -> dict[str, Call]:
    """What is measured of a service, by name."""
    names, talk = itertools.count(), Talk(service)

    def read(number: int) -> Call:
        config = GetSessionConfig(num_recent_events=number)
        return lambda: service.get_session(**OWNER, session_id="long", config=config)

    long = await service.create_session(**OWNER, session_id="long", state={"app:theme": "dark"})
    for number in range(1_000):
        await service.append_event(long, an_event(number))
    for number in range(100):
        await service.create_session(app_name="bench", user_id="bob", state={"n": number, "user:n": number})
    return {
        "create a session": lambda: service.create_session(**OWNER, session_id=f"s{next(names)}"),
        "append a message": lambda: talk.append(an_event),
        "append an answer with tokens and state": lambda: talk.append(a_call),
        "append a change of all three states": lambda: talk.append(a_change),
        "append ten messages": talk.append_ten,
        "read the last 20": read(20),
        "read 1,000": read(1_000),
        "list 100": lambda: service.list_sessions(app_name="bench", user_id="bob"),
    }


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with databases.postgres() as database:
        yield from _beside(rounds, database, "PostgreSQL")
    with databases.file() as file:
        yield from _beside(rounds, file, "SQLite")


def _beside(rounds: Rounds, database: PostgresSchema | SQLiteFile, where: str) -> Iterator[Comparison]:
    schema = database.schema if isinstance(database, PostgresSchema) else None
    with asyncio.Runner() as runner:
        theirs = runner.run(_their_service(Address(database)))
        store = runner.run(asm.AsyncSessionStore(database.dsn, schema=schema).open())
        service = AsmSessionService(store)
        other, own = runner.run(calls(theirs)), runner.run(calls(service))
        for what in own:
            yield rounds.compare(
                Target(f"{where}: {what}", type(theirs).__name__, 1.0),
                _awaited(runner, type(theirs).__name__, other[what]),
                _awaited(runner, "AsmSessionService", own[what]),
                unit="call",
            )
        runner.run(_fill(store, service))
        yield rounds.compare(
            Target(f"{where}: list {LISTED:,}", "its statement", LIST_RATIO),
            _statement(database),
            _awaited(runner, "AsmSessionService", lambda: service.list_sessions(app_name="listed")),
            unit="call",
        )
        runner.run(store.close())
        runner.run(theirs.close())


async def _their_service(address: Address) -> DatabaseSessionService:
    if address.is_sqlite:
        # As durable as asm's file: the mode stays, and each commit is synced by default.
        with sqlite3.connect(address.file) as connection:
            connection.execute("pragma journal_mode = wal")
        return DatabaseSessionService(address.url("aiosqlite"))
    return DatabaseSessionService(address.url("asyncpg"), connect_args=address.asyncpg_arguments)


async def _fill(store: asm.AsyncSessionStore, service: AsmSessionService) -> None:
    """Many sessions of 100 users."""
    session = await service.create_session(app_name="listed", user_id="user 0", state={"user:n": 1, "n": 1})
    [row] = await store.list_sessions(agent_id="listed")
    for user in range(1, 100):
        await service.create_session(app_name="listed", user_id=f"user {user}", state={"user:n": 1, "n": 1})
    async with store.transaction() as tx:
        for number in range(100, LISTED):
            names = {"app_name": "listed", "user_id": "user 0", "session_id": f"{session.id} {number}"}
            await tx.save_session(replace(row, id=f"{row.id}%20{number}", metadata=names))


def _statement(database: PostgresSchema | SQLiteFile) -> Side:
    """The statement of the list, and the JSON of its rows."""
    columns = (
        "id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at"
    )
    if isinstance(database, PostgresSchema):
        connection: Any = database.connect()
        table = f"{database.schema}.asm_sessions"
    else:
        connection = sqlite3.connect(database.path)
        table = "asm_sessions"
    statement = f"select {columns} from {table} where agent_id = 'listed' order by created_at, id"
    loads: Any = json.loads if isinstance(database, SQLiteFile) else (lambda parsed: parsed)

    def step() -> int:
        rows = connection.execute(statement).fetchall()
        assert len([(loads(row[4]), loads(row[5])) for row in rows]) == LISTED
        return 1

    return Side("its statement", lambda seconds: in_turn(step, seconds))


def _awaited(runner: asyncio.Runner, name: str, call: Call) -> Side:
    def run(seconds: float) -> Sample:
        return by_tasks(runner, [call], seconds)

    return Side(name, run)
