"""Saves turns of a conversation, in a process of its own."""

from __future__ import annotations

import asyncio
import sys

from pydantic_ai.conversation_store import ConversationConflict
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart

import asm
from asm.integrations.pydantic_ai import AsmConversationStore


def main(dsn: str, name: str) -> None:
    with asm.SessionStore(dsn) as store:
        conversations = AsmConversationStore(store)
        for line in sys.stdin:
            done = (
                race(conversations, name) if line == "race\n" else add_turns(conversations, name, int(line))
            )
            print(asyncio.run(done), flush=True)  # noqa: T201


async def race(conversations: AsmConversationStore, name: str) -> str:
    """Save a turn after the one that both processes have loaded."""
    conversation = await conversations.load("talk")
    assert conversation is not None
    add(conversation.messages, name)
    print("loaded", flush=True)  # noqa: T201
    sys.stdin.readline()
    try:
        await conversations.save(conversation)
    except ConversationConflict:
        return "conflict"
    return "saved"


async def add_turns(conversations: AsmConversationStore, name: str, number: int) -> str:
    """Save this number of turns, and load the conversation again after each conflict."""
    turns = 0
    while turns < number:
        conversation = await conversations.load("talk")
        assert conversation is not None
        add(conversation.messages, f"{name}{turns}")
        try:
            await conversations.save(conversation)
        except ConversationConflict:
            continue
        turns += 1
    return "added"


def add(messages: list[ModelRequest | ModelResponse], text: str) -> None:
    messages += [ModelRequest.user_text_prompt(text), ModelResponse(parts=[TextPart(f"to {text}")])]


if __name__ == "__main__":
    main(*sys.argv[1:])
