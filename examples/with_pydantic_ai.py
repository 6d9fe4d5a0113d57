"""A chat of pydantic-ai that is stored: python examples/with_pydantic_ai.py [DSN]

A user asks about the weather, and the agent calls a tool before it answers. A function plays the model, so
that no key is needed: `Agent("anthropic:claude-opus-4-5", …)` asks a real one. Each call loads the
conversation, runs the agent, and saves the result, as a web service does for each request. Then the second
question is asked again in another way, and the answer to the first one is what both have in common.
"""

import asyncio
import sys

from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

import asm
from asm.integrations.pydantic_ai import AsmConversationStore


def model(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    """What a real model would decide: call the tool, then say what it returned."""
    part = messages[-1].parts[-1]
    if isinstance(part, UserPromptPart):
        city = str(part.content).rstrip("?").rpartition(" ")[2]
        return ModelResponse(parts=[ToolCallPart("forecast", {"city": city})])
    return ModelResponse(parts=[TextPart(f"The forecast: {part.content}")])


def forecast(city: str) -> str:
    """The forecast for a city."""
    return f"rain in {city}, 9 degrees"


agent = Agent(FunctionModel(model), tools=[forecast], instructions="You tell people about the weather.")


async def answer(conversations: AsmConversationStore, id: str, prompt: str, user: str) -> str:
    """One request of a chat service. Another one may have been faster: then ask again."""
    while True:
        conversation = await conversations.load(id, scope=user) or Conversation(conversation_id=id)
        result = await agent.run(prompt, conversation=conversation)
        try:
            await conversations.save(result, scope=user)
        except ConversationConflict:
            continue
        return str(result.output)


async def main(dsn: str) -> None:
    async with asm.AsyncSessionStore(dsn, migrate=True) as store:
        conversations = AsmConversationStore(store)
        await conversations.delete("weather")
        for prompt in ("Will it rain in Bergen?", "And in Oslo?"):
            print(f"{prompt}\n  {await answer(conversations, 'weather', prompt, user='ann')}")

        loaded = await conversations.load("weather")
        assert loaded is not None
        await conversations.branch("weather", at=4, expected_revision=loaded.revision)
        prompt = "And in Paris?"
        print(f"{prompt}\n  {await answer(conversations, 'weather', prompt, user='ann')}")

        for record in await conversations.list_conversations(scope="ann"):
            usage = await store.query.get_usage_summary(session_id=record.conversation_id)
            print(f"\n{record.conversation_id}: {usage.run_count} runs, {usage.total_tokens} tokens")
    print(f"\nThis prints all of it, the branch that was left too:\n\n    asm show weather --dsn {dsn}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///asm-demo.db"))
