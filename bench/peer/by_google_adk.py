"""Google ADK's DatabaseSessionService: one event per call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai.types import Content, Part

from bench import payload
from bench.peer import CONNECTIONS, Address, Peer

OWNER = {"app_name": "bench", "user_id": "bench"}


@contextmanager
def opened(runner: asyncio.Runner, address: Address, sessions: Sequence[str]) -> Iterator[Peer]:
    service: Any = DatabaseSessionService(
        address.url("aiosqlite" if address.is_sqlite else "asyncpg"),
        pool_size=CONNECTIONS,
        connect_args=address.asyncpg_arguments,
    )

    async def begin() -> dict[str, Any]:
        return {each: await service.create_session(**OWNER, session_id=each) for each in sessions}

    opened_sessions = runner.run(begin())

    async def append(session_id: str, number: int) -> None:
        text = payload.TEXTS[number % len(payload.TEXTS)]
        event = Event(
            author="bench", invocation_id="1", content=Content(role="model", parts=[Part(text=text)])
        )
        await service.append_event(opened_sessions[session_id], event)

    async def read(session_id: str, limit: int) -> int:
        config = GetSessionConfig(num_recent_events=limit)
        session = await service.get_session(**OWNER, session_id=session_id, config=config)
        return len(session.events)

    try:
        yield Peer("Google ADK", "tasks", append, read)
    finally:
        runner.run(service.close())
