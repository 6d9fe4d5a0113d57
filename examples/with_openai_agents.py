"""An agent of the OpenAI Agents SDK that remembers: python examples/with_openai_agents.py [DSN]

`pip install 'asm-store[openai-agents]'`. Run it again, and the agent goes on with the same conversation. A
scripted model answers, so that no key is needed: leave `model=` out, and OpenAI's default model does.
"""

import asyncio
import sys

from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage

import asm
from asm.integrations.openai_agents import AsmSession


def forecast(city: str) -> str:
    """The weather in a city."""
    return f"Rain in {city}, 9 degrees."


def scripted() -> ScriptedModel:
    """A model that calls the tool, and then answers."""
    usage = Usage(requests=1, input_tokens=1_000, output_tokens=20, total_tokens=1_020)
    call = function_call("forecast", {"city": "Bergen"}, call_id="call_1")
    return ScriptedModel(
        [ModelStep([call], usage=usage), ModelStep([assistant_message("Take an umbrella.")], usage=usage)]
    )


async def main(dsn: str) -> None:
    set_tracing_disabled(True)  # tracing would send the conversation to OpenAI
    async with asm.AsyncSessionStore(dsn, migrate=True) as store:
        session = AsmSession("weather-talk", store)
        agent = Agent(name="Weather", tools=[function_tool(forecast)], model=scripted())
        hooks = session.run_hooks(model="gpt-5")
        result = await Runner.run(agent, "Will it rain in Bergen?", session=session, hooks=hooks)
        print(result.final_output)
        cost = await store.query.get_cost_summary(session_id=session.session_id)
        print(f"{len(await session.get_items())} items, ${cost.total_cost_usd:.4f} so far")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["sqlite:///asm-demo.db"]))
