"""OpenAI Agents' SQLAlchemySession: one item per call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agents.extensions.memory.sqlalchemy_session import SQLAlchemySession
from sqlalchemy.ext.asyncio import create_async_engine

from bench import payload
from bench.peer import CONNECTIONS, Address, Peer


@contextmanager
def opened(runner: asyncio.Runner, address: Address, sessions: Sequence[str]) -> Iterator[Peer]:
    engine = create_async_engine(
        address.url("aiosqlite" if address.is_sqlite else "asyncpg"),
        pool_size=CONNECTIONS,
        connect_args=address.asyncpg_arguments,
    )
    ours: dict[str, Any] = {
        session_id: SQLAlchemySession(session_id, engine=engine, create_tables=True)
        for session_id in sessions
    }

    async def append(session_id: str, number: int) -> None:
        await ours[session_id].add_items([payload.DOCUMENTS[number % len(payload.DOCUMENTS)]])

    async def read(session_id: str, limit: int) -> int:
        return len(await ours[session_id].get_items(limit))

    async def begin() -> None:
        for session_id in sessions:
            await append(session_id, 0)

    runner.run(begin())
    try:
        yield Peer("OpenAI Agents", "tasks", append, read)
    finally:
        runner.run(engine.dispose())
