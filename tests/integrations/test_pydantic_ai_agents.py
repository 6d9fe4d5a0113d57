"""Agents of pydantic-ai whose conversations are stored: what they continue and cost, and what `asm` shows."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, DeferredToolRequests, ModelRetry, RunContext
from pydantic_ai.conversation import Conversation
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import Tool, ToolApproved
from pydantic_ai.usage import RequestUsage, RunUsage

import asm
from asm.integrations.pydantic_ai import AsmConversationStore
from tests.examples.programs import printed
from tests.integrations.command import output_of
from tests.integrations.test_pydantic_ai import Run, conversations, loaded, run, said

__all__ = ["conversations", "run"]

USAGE = RequestUsage(input_tokens=1_000, output_tokens=200, cache_read_tokens=600, cache_write_tokens=100)


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Call the first tool for a new prompt, fail once, and say what it returned."""
    last = messages[-1].parts[-1]
    if isinstance(last, UserPromptPart) and info.function_tools:
        name = info.function_tools[0].name
        parts: Any = [ThinkingPart("I will look."), ToolCallPart(name, {"city": "Nowhere"})]
    elif isinstance(last, ToolReturnPart) and last.outcome == "retried":
        parts = [ToolCallPart(last.tool_name, '{"city": "Bergen"}')]
    else:
        parts = [TextPart(f"{last.content}!" if isinstance(last, ToolReturnPart) else "Hello!")]
    return ModelResponse(parts=parts, usage=USAGE, provider_name="openai")


def weather_agent(model: str = "gpt-5") -> Any:
    def weather(city: str) -> str:
        if city == "Nowhere":
            raise ModelRetry("There is no such city.")
        return f"rain in {city}"

    return Agent(FunctionModel(answer, model_name=model), tools=[weather], system_prompt="Be brief.")


async def chat(conversations: Any, agent: Any, *prompts: str, **options: Any) -> Any:
    """Load the conversation, run the agent, save the result; for each prompt."""
    for prompt in prompts:
        conversation = await conversations.load("talk") or Conversation(conversation_id="talk")
        result = await agent.run(prompt, conversation=conversation, **options)
        await conversations.save(result)
    return result


def tokens(store: Any, session_id: str = "talk") -> list[tuple[int, int]]:
    """The input and output tokens of each run of a session."""
    runs = store.list_runs(session_id)
    return [(run.token_usage["input_tokens"], run.token_usage["output_tokens"]) for run in runs]


# Running agents.


def test_an_agent_continues_its_conversation(conversations: Any, run: Run[Any]) -> None:
    agent = Agent(TestModel(custom_output_text="yes"))
    result = run(chat(conversations, agent, "one", "two", "three"))
    assert run(said(conversations)) == ["one", "two", "three"]
    conversation = run(loaded(conversations))
    assert conversation.messages == result.all_messages()
    assert conversation.usage.requests == 3
    window = run(loaded(conversations, limit=2))
    run(conversations.save(run(agent.run("four", conversation=window))))
    assert run(said(conversations)) == ["one", "two", "three", "four"]


def test_a_paused_run_continues_after_its_approval(conversations: Any, run: Run[Any]) -> None:
    def pay(euros: int) -> str:
        return f"{euros} paid"

    agent = Agent(
        TestModel(custom_output_text="paid"),
        tools=[Tool(pay, requires_approval=True)],
        output_type=[str, DeferredToolRequests],
    )

    async def scenario() -> None:
        await chat(conversations, agent, "Pay")
        paused = await loaded(conversations)
        requests = paused.deferred_tool_requests
        assert requests is not None
        results = requests.build_results(approvals={requests.approvals[0].tool_call_id: ToolApproved()})
        result = await agent.run(conversation=paused, deferred_tool_results=results)
        await conversations.save(result)
        assert result.output == "paid"
        assert (await loaded(conversations)).deferred_tool_requests is None

    run(scenario())


def test_a_streamed_run_is_saved_like_any_other(conversations: Any, store: Any, run: Run[Any]) -> None:
    agent = Agent(TestModel(custom_output_text="a b c"))

    async def scenario() -> None:
        async with agent.run_stream("one", conversation=Conversation(conversation_id="talk")) as streamed:
            assert await streamed.get_output() == "a b c"
        conversation = Conversation(
            conversation_id="talk", messages=streamed.all_messages(), usage=streamed.usage
        )
        await conversations.save(conversation)

    run(scenario())
    assert run(said(conversations)) == ["one"]
    assert len(store.list_runs("talk")) == 1


def test_a_blocking_run_is_saved_like_any_other(migrated: str) -> None:
    agent = Agent(TestModel())
    with asm.SessionStore(migrated) as store, asyncio.Runner() as runner:
        # `run_sync` takes the thread's event loop, or makes one that it does not close.
        asyncio.set_event_loop(runner.get_loop())
        conversations = AsmConversationStore(store)
        for prompt in ("one", "two"):
            conversation = runner.run(conversations.load("talk")) or Conversation(conversation_id="talk")
            runner.run(conversations.save(agent.run_sync(prompt, conversation=conversation)))
        assert runner.run(said(conversations)) == ["one", "two"]


# Usage and cost.


def test_a_run_of_an_agent_is_a_run_with_its_usage(conversations: Any, store: Any, run: Run[Any]) -> None:
    run(chat(conversations, weather_agent(), "Hi", "Again"))
    first, second = store.list_runs("talk")
    assert first.token_usage == {
        "input_tokens": 900,
        "output_tokens": 600,
        "total_tokens": 3_600,
        "cache_read_tokens": 1_800,
        "cache_creation_tokens": 300,
    }
    assert (first.status, first.turn_count, first.provider) == ("completed", 3, "openai")
    assert first.provider_metadata == {"model": "gpt-5"}
    assert second.token_usage == first.token_usage
    events = store.get_events("talk")
    assert [event.run_id for event in events] == [first.id] * 6 + [second.id] * 6
    assert (events[0].timestamp, events[5].timestamp) == (first.started_at, first.ended_at)
    assert store.maintenance.health_check() == []


def test_the_usage_of_an_agent_that_a_tool_calls_is_that_of_the_run(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    inner = Agent(FunctionModel(answer, model_name="gpt-5"))

    async def ask(context: RunContext[None], city: str) -> str:
        return str((await inner.run(city, usage=context.usage)).output)

    outer = Agent(FunctionModel(answer, model_name="gpt-5"), tools=[ask])
    run(chat(conversations, outer, "Hi"))
    # Two calls by the agent, and one by the agent that its tool calls.
    assert tokens(store) == [(3 * 300, 3 * 200)]


def test_a_rewritten_history_is_not_counted_again(conversations: Any, store: Any, run: Run[Any]) -> None:
    agent = weather_agent()

    async def scenario() -> None:
        await chat(conversations, agent, "one", "two")
        for summary in ("A summary.", "A better summary."):
            conversation = await loaded(conversations)
            conversation.messages[:-6] = [ModelRequest.user_text_prompt(summary)]
            # All messages are compared with the stored ones, and those after the summary stored again.
            conversation.new_message_index = None
            await conversations.save(conversation)
        await conversations.save(await agent.run("three", conversation=conversation))

    run(scenario())
    assert run(said(conversations)) == ["A better summary.", "two", "three"]
    assert tokens(store) == [(900, 600)] * 3


def test_a_fork_counts_only_its_own_runs(conversations: Any, store: Any, run: Run[Any]) -> None:
    agent = weather_agent()

    async def scenario() -> None:
        await chat(conversations, agent, "one", "two")
        whole = await conversations.fork("talk", new_conversation_id="whole")
        part = await conversations.fork("talk", at=6, new_conversation_id="part")
        for fork in (whole, part):
            await conversations.save(await agent.run("three", conversation=fork))

    run(scenario())
    assert tokens(store, "whole") == tokens(store, "part") == [(900, 600)]
    assert store.query.get_usage_summary().run_count == 4


def test_runs_that_are_saved_together_are_runs_of_their_own(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    async def scenario() -> None:
        conversation = Conversation(conversation_id="talk")
        for prompt, model in (("one", "gpt-5"), ("two", "gpt-5-mini")):
            conversation = (await weather_agent(model).run(prompt, conversation=conversation)).conversation
        await conversations.save(conversation)

    run(scenario())
    assert tokens(store) == [(900, 600)] * 2
    assert [run.provider_metadata["model"] for run in store.list_runs("talk")] == ["gpt-5", "gpt-5-mini"]


def test_a_history_from_elsewhere_is_counted_by_its_messages(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    async def scenario() -> None:
        history = (await weather_agent().run("one")).all_messages()
        await conversations.save(Conversation(conversation_id="talk", messages=history))

    run(scenario())
    assert tokens(store) == [(900, 600)]


def test_a_run_that_is_saved_while_it_goes_on_is_one_run(
    conversations: Any, store: Any, run: Run[Any]
) -> None:
    """As a realtime session saves its conversation again and again."""

    async def scenario() -> None:
        conversation = Conversation(conversation_id="talk")
        for number in range(3):
            usage = RequestUsage(input_tokens=10, output_tokens=number, cost=Decimal("0.25"))
            response = ModelResponse(parts=[TextPart("a")], usage=usage, run_id="run_1", model_name="m")
            conversation.messages.append(response)
            conversation.usage.incr(usage)
            await conversations.save(conversation)

    run(scenario())
    (stored,) = store.list_runs("talk")
    assert (tokens(store), stored.turn_count, stored.cost_usd) == ([(30, 3)], 3, 0.75)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (RunUsage(), (0, 0)),
        (RunUsage(input_tokens=1, output_tokens=2, cache_read_tokens=50), (0, 2)),
        (RunUsage(input_tokens=-5, output_tokens=9), (0, 9)),
    ],
)
def test_no_usage_keeps_a_conversation_from_being_saved(
    conversations: Any, store: Any, run: Run[Any], usage: RunUsage, expected: tuple[int, int]
) -> None:
    message = ModelResponse(parts=[TextPart("a")], run_id="run_1")
    run(conversations.save(Conversation(conversation_id="talk", messages=[message], usage=usage)))
    assert tokens(store) == [expected]


def test_tokens_that_a_run_cannot_have_are_left_out(conversations: Any, store: Any, run: Run[Any]) -> None:
    usage = RequestUsage(input_tokens=1, output_tokens=10**13)
    message = ModelResponse(parts=[TextPart("a")], usage=usage, run_id="run_1")
    run(conversations.save(Conversation(conversation_id="talk", messages=[message])))
    assert [each.token_usage for each in store.list_runs("talk")] == [{}]


def test_a_cost_that_pydantic_ai_knows_prevails(conversations: Any, store: Any, run: Run[Any]) -> None:
    usages = [RequestUsage(input_tokens=10, cost=cost) for cost in (Decimal("0.5"), None, Decimal("0.25"))]

    async def scenario() -> None:
        for number, of_run in enumerate((usages[:1], usages[:2], usages[::2])):
            conversation = Conversation(conversation_id=f"talk_{number}")
            for usage in of_run:
                response = ModelResponse(parts=[TextPart("a")], usage=usage, run_id="run_1")
                conversation.messages.append(response)
                conversation.usage.incr(usage)
            await conversations.save(conversation)

    run(scenario())
    costs = [store.get_run("run_1", session_id=f"talk_{number}").cost_usd for number in range(3)]
    assert costs == [0.5, None, 0.75]


# What `asm` shows.


def test_asm_shows_a_conversation_its_usage_and_its_cost(
    conversations: Any, migrated: str, run: Run[Any]
) -> None:
    run(chat(conversations, weather_agent(), "What is the weather?"))

    shown = output_of("show", "talk", "--dsn", migrated)
    assert "  title     What is the weather?\n" in shown
    assert "  model     gpt-5 at openai\n" in shown
    lines = filter(None, shown[shown.index("    1  user") :].splitlines())
    assert [line.split("  ms")[0].rstrip() for line in lines if "ms" not in line] == [
        "    1  user",
        "       system: Be brief.",
        "       What is the weather?",
        "       I will look.",
        "       weather city: Nowhere",
        "    3  │ weather failed: There is no such city.",
        "    4  weather city: Bergen",
        "    5  │ rain in Bergen",
        "       rain in Bergen!",
    ]
    assert "3,600 tokens in 1 run\n" in output_of("usage", "--dsn", migrated)
    assert "gpt-5" in output_of("cost", "--dsn", migrated)
    assert "$0.00 for 0 runs" not in output_of("cost", "--dsn", migrated)


def test_an_exported_conversation_is_imported_into_another_store(
    conversations: Any, store: Any, other: str, run: Run[Any]
) -> None:
    run(chat(conversations, weather_agent(), "one", "two"))
    export = store.query.export_session("talk")
    with asm.SessionStore(other) as copy:
        copy.import_session(export)
        copied = AsmConversationStore(copy)
        assert asyncio.run(copied.load_entries("talk")) == run(conversations.load_entries("talk"))
        asyncio.run(chat(copied, weather_agent(), "three"))
        assert asyncio.run(said(copied)) == ["one", "two", "three"]


def test_the_example_runs(dsn: str, tmp_path: Path) -> None:
    lines = printed(tmp_path, "with_pydantic_ai.py", dsn).splitlines()
    assert "Bergen" in "".join(lines)
