"""A message of a user, stored as each framework's integration stores it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agent_framework import Message
from google.adk.events import Event
from google.genai import types
from langgraph.checkpoint.base import empty_checkpoint
from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation
from pydantic_ai.models.test import TestModel
from strands.types.exceptions import SessionException
from strands.types.session import Session, SessionAgent, SessionMessage, SessionType

import asm
from asm.integrations.agent_framework import AsmHistoryProvider
from asm.integrations.claude_agent_sdk import AsmSessionStore
from asm.integrations.google_adk import AsmSessionService
from asm.integrations.langgraph import AsmSaver
from asm.integrations.openai_agents import AsmSession
from asm.integrations.pydantic_ai import AsmConversationStore
from asm.integrations.strands import AsmSessionRepository

Say = Callable[[asm.SessionStore, str, int], int]
"""Stores a text as message `number` of a conversation, from 0 on, and returns how many it reads then."""


def claude_agent_sdk(store: asm.SessionStore, text: str, number: int) -> int:
    transcripts: Any = AsmSessionStore(store)
    key = {"project_key": "p", "session_id": "s"}
    entry = {"type": "user", "uuid": str(number), "message": {"role": "user", "content": text}}
    asyncio.run(transcripts.append(key, [entry]))
    return len(asyncio.run(transcripts.load(key)) or [])


def openai_agents(store: asm.SessionStore, text: str, number: int) -> int:
    session = AsmSession("s", store)
    asyncio.run(session.add_items([{"role": "user", "content": text}]))
    return len(asyncio.run(session.get_items()))


def agent_framework(store: asm.SessionStore, text: str, number: int) -> int:
    provider = AsmHistoryProvider(store)
    asyncio.run(provider.save_messages("s", [Message("user", [text])]))
    return len(asyncio.run(provider.get_messages("s")))


def strands(store: asm.SessionStore, text: str, number: int) -> int:
    repository = AsmSessionRepository(store)
    if number == 0:
        repository.create_session(Session("s", SessionType.AGENT))
        repository.create_agent("s", SessionAgent("a", {}, {}))
    message = SessionMessage({"role": "user", "content": [{"text": text}]}, number)
    repository.create_message("s", "a", message)
    try:
        return len(repository.list_messages("s", "a"))
    except SessionException:
        return 0


def google_adk(store: asm.SessionStore, text: str, number: int) -> int:
    service = AsmSessionService(store)
    key: Any = {"app_name": "app", "user_id": "u", "session_id": "s"}
    event = Event(author="user", content=types.Content(role="user", parts=[types.Part(text=text)]))

    async def say() -> int:
        session = await service.get_session(**key) or await service.create_session(**key)
        await service.append_event(session, event)
        return len(session.events)

    return asyncio.run(say())


def pydantic_ai(store: asm.SessionStore, text: str, number: int) -> int:
    conversations, agent = AsmConversationStore(store), Agent(TestModel(custom_output_text="Yes."))

    async def say() -> int:
        conversation = await conversations.load("s") or Conversation(conversation_id="s")
        await conversations.save(await agent.run(text, conversation=conversation))
        stored = await conversations.load("s")
        return len(stored.messages) // 2 if stored else 0

    return asyncio.run(say())


def langgraph(store: asm.SessionStore, text: str, number: int) -> int:
    """A checkpoint, which is no message and has no text."""
    saver = AsmSaver(store)
    saver.setup()
    config: Any = {"configurable": {"thread_id": "s", "checkpoint_ns": ""}}
    saver.put(config, empty_checkpoint(), {"step": number}, {})
    return len(list(saver.list(config)))


MESSAGES: tuple[Say, ...] = (
    claude_agent_sdk,
    pydantic_ai,
    openai_agents,
    google_adk,
    agent_framework,
    strands,
)
