"""An agent of Google's ADK whose sessions and state are kept in a store.

    python examples/with_google_adk.py [DSN]

The agent's model is replaced by a function, so that the program needs no key: without
`before_model_callback`, Gemini answers. Run it again: the agent still knows the city.
"""

import asyncio
import sys
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.models import LlmResponse
from google.adk.runners import Runner
from google.adk.tools import ToolContext
from google.genai import types

import asm
from asm.integrations.google_adk import AsmSessionService


def remember_city(city: str, tool_context: ToolContext) -> str:
    """Remember where the user lives, for all sessions of the user."""
    tool_context.state["user:city"] = city
    return "remembered"


def answer(callback_context: Any, llm_request: Any) -> LlmResponse:
    """What a model would answer."""
    part = llm_request.contents[-1].parts[-1]
    if part.text and part.text.startswith("I live in "):
        city = part.text.removeprefix("I live in ").rstrip(".")
        call = types.FunctionCall(name="remember_city", args={"city": city})
        answered = types.Part(function_call=call)
    elif city := callback_context.state.get("user:city"):
        answered = types.Part(text=f"You live in {city}.")
    else:
        answered = types.Part(text="You have not told me.")
    return LlmResponse(
        content=types.Content(role="model", parts=[answered]),
        model_version="gemini-2.5-flash",
        usage_metadata=types.GenerateContentResponseUsageMetadata(
            prompt_token_count=120, candidates_token_count=8, total_token_count=128
        ),
    )


async def main(dsn: str) -> None:
    agent = LlmAgent(
        name="concierge",
        model="gemini-2.5-flash",
        instruction="Remember where the user lives.",
        tools=[remember_city],
        before_model_callback=answer,
    )
    async with asm.AsyncSessionStore(dsn, migrate=True) as store:
        service = AsmSessionService(store)
        runner = Runner(app_name="travel", agent=agent, session_service=service)
        session = await service.create_session(app_name="travel", user_id="ada")
        for said in ("Where do I live?", "I live in Turin.", "Where do I live?"):
            message = types.Content(role="user", parts=[types.Part(text=said)])
            print(f"ada: {said}")
            async for event in runner.run_async(user_id="ada", session_id=session.id, new_message=message):
                if event.is_final_response() and event.content:
                    print(f"{event.author}: {event.content.parts[0].text}")
        listed = await service.list_sessions(app_name="travel", user_id="ada")
        print(f"{len(listed.sessions)} sessions of ada. The city: {listed.sessions[-1].state['user:city']}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///asm-demo.db"))
