"""A conversation that is used again after retention has soft-deleted it is restored with all that it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agent_framework import Message
from langgraph.checkpoint.base import empty_checkpoint
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

import asm
from asm.integrations.agent_framework import AsmHistoryProvider
from asm.integrations.claude_agent_sdk import AsmSessionStore
from asm.integrations.langgraph import AsmSaver
from asm.integrations.openai_agents import AsmSession
from asm.integrations.strands import AsmSessionRepository

POLICY = asm.RetentionPolicy(max_session_age_days=90, exempt_statuses=("paused",))


def claude(store: asm.SessionStore, number: int) -> int:
    transcripts, key = AsmSessionStore(store), {"project_key": "p", "session_id": "s"}
    asyncio.run(transcripts.append(key, [{"type": "user", "uuid": str(number)}]))  # type: ignore[arg-type,typeddict-item,unused-ignore]
    return len(asyncio.run(transcripts.load(key)) or [])  # type: ignore[arg-type,unused-ignore]


def openai(store: asm.SessionStore, number: int) -> int:
    session = AsmSession("s", store)
    asyncio.run(session.add_items([{"role": "user", "content": str(number)}]))
    return len(asyncio.run(session.get_items()))


def agent_framework(store: asm.SessionStore, number: int) -> int:
    provider = AsmHistoryProvider(store)
    asyncio.run(provider.save_messages("s", [Message("user", [str(number)])]))
    return len(asyncio.run(provider.get_messages("s")))


def strands(store: asm.SessionStore, number: int) -> int:
    repository = AsmSessionRepository(store)
    if number == 0:
        repository.create_session(Session("s", SessionType.AGENT))
        repository.create_agent("s", SessionAgent("a", {}, {}))
    repository.create_message(
        "s", "a", SessionMessage({"role": "user", "content": [{"text": str(number)}]}, number)
    )
    try:
        return len(repository.list_messages("s", "a"))
    except SessionException:
        return 0


def langgraph(store: asm.SessionStore, number: int) -> int:
    saver = AsmSaver(store)
    saver.setup()
    config: Any = {"configurable": {"thread_id": "s", "checkpoint_ns": ""}}
    saver.put(config, empty_checkpoint(), {"step": number}, {})
    return len(list(saver.list(config)))


@pytest.mark.parametrize("use", [claude, openai, agent_framework, strands, langgraph])
def test_a_conversation_that_is_used_again_is_restored(
    migrated: str, use: Callable[[asm.SessionStore, int], int]
) -> None:
    def soft_delete(row: asm.Session) -> asm.Session:
        return replace(row, deleted_at=datetime.now(UTC) - timedelta(days=40))

    with asm.SessionStore(migrated) as store:
        assert use(store, 0) == 1
        for row in store.list_sessions():
            store.update_session(row.id, soft_delete)

        assert use(store, 1) == 2
        store.maintenance.execute(POLICY)

        assert all(row.deleted_at is None for row in store.list_sessions(include_deleted=True))
        assert use(store, 2) == 3
