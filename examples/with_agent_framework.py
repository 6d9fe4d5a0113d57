"""An agent of Agent Framework that remembers: python examples/with_agent_framework.py [DSN]

`pip install 'asm-store[agent-framework]'`. A client that knows one answer stands in for a real one.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from agent_framework import Agent, AgentSession, BaseChatClient, ChatResponse, Message

import asm
from asm.integrations.agent_framework import AsmHistoryProvider


class Parrot(BaseChatClient):
    """A client whose model repeats how many messages it was sent."""

    async def _inner_get_response(self, *, messages: Sequence[Message], **kwargs: Any) -> ChatResponse:
        return ChatResponse(messages=[Message("assistant", [f"That was message {len(messages)}."])])


async def main(dsn: str) -> None:
    await asyncio.to_thread(asm.migrate, dsn)
    async with asm.AsyncSessionStore(dsn) as store:
        for question in ("Hello?", "And now?"):
            # Each time a new agent, as after a restart.
            agent = Agent(client=Parrot(), context_providers=[AsmHistoryProvider(store)])
            answer = await agent.run(question, session=AgentSession(session_id="talk"))
            print(question, answer.text)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["sqlite:///asm-demo.db"]))
