"""The Runner of the OpenAI Agents SDK with an AsmSession: its history, its runs, what `asm` shows of them."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    RunConfig,
    Runner,
    RunState,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from agents.exceptions import AgentsException
from agents.memory import OpenAIResponsesCompactionSession, SessionSettings
from agents.models import get_default_model
from agents.run_internal.session_persistence import rewind_session_items
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage
from openai.types.responses import ResponseOutputMessage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

import asm
from asm.integrations.openai_agents import AsmRunHooks, AsmSession
from tests.conftest import an_event
from tests.contract.test_cli import output_of
from tests.examples.programs import EXAMPLES
from tests.integrations.test_openai_agents import SAID, Run, run, session, talk, texts, users

__all__ = ["run", "session", "talk"]

set_tracing_disabled(True)

METHODS = ("run", "run_sync", "run_streamed")


def said(text: str) -> ResponseOutputMessage:
    message = assistant_message(text)
    assert isinstance(message, ResponseOutputMessage)
    return message


def step(*outputs: Any, input: int = 0, cached: int = 0, output: int = 0) -> ModelStep:
    """One answer of the model, and the tokens that it takes."""
    usage = Usage(
        requests=1,
        input_tokens=input,
        input_tokens_details=InputTokensDetails(cached_tokens=cached, cache_write_tokens=0),
        output_tokens=output,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        total_tokens=input + output,
    )
    return ModelStep([said(each) if isinstance(each, str) else each for each in outputs], usage=usage)


def playing(name: str, *steps: Any) -> Any:
    """A model that plays steps. Like the SDK's own models it tells its name."""
    model: Any = ScriptedModel([each if isinstance(each, ModelStep) else step(each) for each in steps])
    model.model = name
    return model


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def book(city: str) -> str:
    """Books a journey."""
    return f"booked {city}"


WEATHER = function_tool(weather)
BOOK = function_tool(book, needs_approval=True)


def asks_weather(call_id: str = "call_1", city: str = "Rome") -> Any:
    return function_call("weather", {"city": city}, call_id=call_id)


def helper(*steps: Any, name: str = "Helper", model: str = "gpt-5", **options: Any) -> Agent[Any]:
    return Agent(name=name, model=playing(model, *steps), **{"tools": [WEATHER], **options})


def calls_of(agent: Agent[Any]) -> list[Any]:
    """The inputs that the agent's model was given."""
    assert isinstance(agent.model, ScriptedModel)
    return [call.input for call in agent.model.calls]


async def finished(method: str, agent: Agent[Any], input: Any, **options: Any) -> Any:
    """The result of a run that is made in one of the SDK's three ways."""
    if method == "run_streamed":
        result = Runner.run_streamed(agent, input, **options)
        async for _ in result.stream_events():
            pass
        return result
    if method == "run_sync":
        return await asyncio.to_thread(run_sync, agent, input, options)
    return await Runner.run(agent, input, **options)


def run_sync(agent: Agent[Any], input: Any, options: dict[str, Any]) -> Any:
    with asyncio.Runner() as runner:
        # run_sync uses the current loop of its thread.
        asyncio.set_event_loop(runner.get_loop())
        return Runner.run_sync(agent, input, **options)


# History.


@pytest.mark.parametrize("colour", ["sync"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_given_what_was_said_before(talk: Any, method: str) -> None:
    agent, other = helper("San Francisco", "California"), helper("Hello")

    async def scenario() -> None:
        await finished(method, agent, "Where is the bridge?", session=talk())
        await finished(method, other, "Hi", session=talk("another"))
        await finished(method, agent, users("In which state?"), session=talk())

    asyncio.run(scenario())
    assert [item["role"] for item in calls_of(agent)[1]] == ["user", "assistant", "user"]
    assert texts(calls_of(agent)[1])[::2] == ["Where is the bridge?", "In which state?"]
    assert calls_of(other) == [users("Hi")]
    assert len(asyncio.run(talk().get_items())) == 4


def test_a_run_is_given_as_many_items_as_its_settings_say(talk: Any, run: Run[Any]) -> None:
    history = users(1, 2, 3)
    for limit, given in ((None, history[2:]), (0, []), (2, history[1:]), (100, history)):
        agent = helper("Answer")
        session = talk(f"limit_{limit}", session_settings=SessionSettings(limit=1))
        run(session.add_items(history))
        config = RunConfig(session_settings=SessionSettings(limit=limit))
        run(Runner.run(agent, "4", session=session, run_config=config))
        assert calls_of(agent) == [[*given, *users(4)]]


def test_a_callback_that_repeats_history_does_not_store_it_again(session: Any, run: Run[Any]) -> None:
    agent = helper("one", "two", "three")
    config = RunConfig(session_input_callback=lambda history, new: [*history, *history[:1], *new])
    for number in range(3):
        run(Runner.run(agent, str(number), session=session, run_config=config))
    asked = [item for item in run(session.get_items()) if item["role"] == "user"]
    assert asked == users(0, 1, 2)
    assert len(run(session.get_items())) == 6


def refuses(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


SCENARIOS: dict[str, Callable[[], Agent[Any]]] = {
    "a tool": lambda: helper(step("Let me see.", asks_weather()), "Sunny."),
    "two tools": lambda: helper(step(asks_weather("a"), asks_weather("b", "Oslo")), "Both sunny."),
    "a handoff": lambda: helper(
        step(function_call("transfer_to_clerk", {}, call_id="h")), handoffs=[helper("Done.", name="Clerk")]
    ),
    "a refused input": lambda: helper("Never said.", input_guardrails=[InputGuardrail(refuses)]),
    "an input refused before the model": lambda: helper(
        "Never said.", input_guardrails=[InputGuardrail(refuses, run_in_parallel=False)]
    ),
    "a refused output": lambda: helper("Wrong.", output_guardrails=[OutputGuardrail(refuses)]),
    "a model that fails": lambda: helper(
        step(asks_weather()), ModelStep.raise_error(AgentsException("down"))
    ),
    "too many turns": lambda: helper(*(step(asks_weather(str(n))) for n in range(5))),
}


@pytest.mark.parametrize("colour", ["sync"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_run_leaves_the_items_that_it_leaves_in_the_sessions_of_the_sdk(
    session: Any, run: Run[Any], name: str
) -> None:
    theirs = SQLiteSession("talk_1")

    async def scenario(method: str, kept: Any) -> list[Any]:
        outcomes = []
        for text in ("First", "Second"):
            try:
                result = await finished(method, SCENARIOS[name](), text, session=kept, max_turns=4)
                outcomes.append(result.final_output)
            except AgentsException as error:
                outcomes.append(type(error))
        return outcomes

    for method in ("run", "run_streamed"):
        assert run(scenario(method, session)) == run(scenario(method, theirs))
        assert run(session.get_items()) == run(theirs.get_items())
    theirs.close()


def test_a_retry_rewinds_the_items_of_its_turn_and_nothing_else(
    session: Any, store: Any, run: Run[Any]
) -> None:
    turn = [*users("again"), SAID]
    run(session.add_items(users("before")))
    store.append_event(an_event("talk_1", "acme.retried"))
    run(session.add_items(turn))
    run(rewind_session_items(session, turn))
    assert run(session.get_items()) == users("before")
    assert [str(event.type) for event in store.get_events("talk_1")] == ["openai.item", "acme.retried"]


# Compaction.


class Compacting:
    """A client of OpenAI whose compaction gives one item, or fails."""

    def __init__(self, *, fails: bool = False) -> None:
        self.given: list[Any] = []
        self.fails = fails
        self.responses = self

    async def compact(self, *, model: str, input: Any) -> Any:
        self.given.append(input)
        if self.fails:
            raise ConnectionError("the API is down")
        return SimpleNamespace(output=[{"type": "compaction", "encrypted_content": "x"}], usage=None)


def compacting(session: Any, client: Any) -> OpenAIResponsesCompactionSession:
    return OpenAIResponsesCompactionSession(
        session.session_id, session, client=client, compaction_mode="input"
    )


def test_compaction_replaces_the_items_and_leaves_the_application_s_events(
    session: Any, store: Any, run: Run[Any]
) -> None:
    client = Compacting()
    store.append_event(an_event("talk_1", "acme.opened"))
    run(session.add_items([*users("Hello"), SAID]))
    run(compacting(session, client).run_compaction({"force": True}))

    assert client.given[0][0]["content"] == "Hello"
    assert run(session.get_items()) == [{"type": "compaction", "encrypted_content": "x"}]
    assert [event.sequence_number for event in store.get_events("talk_1")] == [1, 4]
    assert store.maintenance.health_check() == []


def test_a_compaction_that_fails_leaves_the_items(session: Any, run: Run[Any]) -> None:
    run(session.add_items([SAID]))
    with pytest.raises(ConnectionError):
        run(compacting(session, Compacting(fails=True)).run_compaction({"force": True}))
    assert run(session.get_items()) == [SAID]


@pytest.mark.parametrize("colour", ["sync"])
@pytest.mark.parametrize("kind", ["sqlite"])
def test_the_items_are_replaced_in_one_transaction(session: Any, store: Any, monkeypatch: Any) -> None:
    asyncio.run(session.add_items([SAID]))
    compacted: Any = [{"type": "compaction", "encrypted_content": "x"}] * 2

    def lost(*_: Any, **__: Any) -> Any:
        raise ConnectionError

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(asm.Transaction, "append_events", lost)
        asyncio.run(session._atomic_replace_items(compacted))
    assert asyncio.run(session.get_items()) == [SAID]


@pytest.mark.parametrize("colour", ["sync"])
def test_a_subclass_with_items_of_its_own_is_compacted_through_its_methods(store: Any) -> None:
    class Numbered(AsmSession):
        async def add_items(self, items: Any) -> None:
            await super().add_items([item | {"n": n} for n, item in enumerate(items)])

    session = Numbered("talk_1", store)
    asyncio.run(session.add_items([SAID]))
    asyncio.run(compacting(session, Compacting()).run_compaction({"force": True}))
    assert asyncio.run(session.get_items()) == [{"type": "compaction", "encrypted_content": "x", "n": 0}]


def test_a_compaction_session_compacts_during_runs(session: Any, run: Run[Any]) -> None:
    client = Compacting()
    compacted = OpenAIResponsesCompactionSession(
        "talk_1",
        session,
        client=client,
        compaction_mode="input",
        should_trigger_compaction=lambda context: len(context["session_items"]) > 3,
    )
    agent = helper("one", "two", "three")
    for number in range(3):
        run(Runner.run(agent, str(number), session=compacted))
    assert len(client.given) == 1
    assert [item.get("type") for item in run(session.get_items())] == ["compaction", None, "message"]


# Runs with their usage.


def recorded(store: Any, session_id: str = "talk_1") -> list[tuple[Any, ...]]:
    """Of each run its agent, model, status, turns and tokens: input, from the cache, output."""
    return [
        (
            each.metadata["agent"],
            each.provider_metadata.get("model"),
            str(each.status),
            each.turn_count,
            *(each.token_usage[name] for name in ("input_tokens", "cache_read_tokens", "output_tokens")),
        )
        for each in store.list_runs(session_id)
    ]


def test_hooks_record_a_run_with_its_tokens_and_no_words(session: Any, store: Any, run: Run[Any]) -> None:
    agent = helper(step(asks_weather(), input=100, cached=40, output=5), step("Sunny.", input=150, output=7))
    run(Runner.run(agent, "Weather?", session=session, hooks=session.run_hooks()))

    assert recorded(store) == [("Helper", "gpt-5", "completed", 2, 210, 40, 12)]
    (stored,) = store.list_runs("talk_1")
    assert (stored.provider, stored.input, stored.output, stored.error) == ("openai", None, None, None)
    assert stored.started_at <= stored.ended_at
    assert store.maintenance.health_check() == []


@pytest.mark.parametrize(
    "odd",
    [{"input": 10, "cached": 100}, {"input": -1}, {"output": 10**13}],
    ids=["more cached than input", "negative", "too many"],
)
def test_tokens_that_a_run_cannot_have_are_left_out_and_the_answer_is_stored(
    session: Any, store: Any, run: Run[Any], odd: dict[str, Any]
) -> None:
    for answer, tokens in {"One.": odd, "Two.": {"input": 10, "output": 2}}.items():
        agent = helper(step(answer, **tokens))
        run(Runner.run(agent, "Weather?", session=session, hooks=session.run_hooks()))

    assert len(run(session.get_items())) == 4
    first, second = store.list_runs("talk_1")
    assert (sum(first.token_usage.values()), str(first.status)) == (0, "completed")
    assert second.token_usage["input_tokens"] == 10


def test_a_run_that_fails_is_recorded_as_failed_with_the_tokens_it_took(
    session: Any, store: Any, run: Run[Any]
) -> None:
    hooks = session.run_hooks()
    for name in ("a model that fails", "too many turns"):
        with pytest.raises(AgentsException):
            run(Runner.run(SCENARIOS[name](), "Weather?", session=session, hooks=hooks, max_turns=3))
    refused = helper(step("Bad.", input=9, output=1), input_guardrails=[InputGuardrail(refuses)])
    with pytest.raises(AgentsException):
        run(Runner.run(refused, "Weather?", session=session, hooks=hooks))

    assert [(each[2], each[3]) for each in recorded(store)[:2]] == [("failed", 1), ("failed", 3)]
    assert {each.error["code"] for each in store.list_runs("talk_1")[:2]} == {"no_final_output"}
    assert store.get_active_run("talk_1") is None
    assert store.maintenance.health_check() == []


def test_each_agent_of_a_handoff_is_recorded_with_its_own_model(
    session: Any, store: Any, run: Run[Any]
) -> None:
    clerk = helper(step("Done.", input=20, output=2), name="Clerk", model="gpt-5-mini")
    transfer = function_call("transfer_to_clerk", {}, call_id="h")
    agent = helper(step(transfer, input=10, output=1), handoffs=[clerk])
    run(finished("run_streamed", agent, "Refund me", session=session, hooks=session.run_hooks()))
    assert recorded(store) == [
        ("Helper", "gpt-5", "completed", 1, 10, 0, 1),
        ("Clerk", "gpt-5-mini", "completed", 1, 20, 0, 2),
    ]


@pytest.mark.parametrize("colour", ["sync"])
@pytest.mark.parametrize("has_hooks", [False, True])
def test_the_tokens_of_agents_that_are_called_as_tools_count_once(
    session: Any, store: Any, run: Run[Any], has_hooks: bool
) -> None:
    hooks = session.run_hooks()
    expert = helper(
        step("Sunny.", input=20, output=2),
        step("Cold.", input=30, output=3),
        name="Expert",
        model="gpt-5-mini",
    )
    tool = expert.as_tool("expert", "Knows.", **({"hooks": hooks} if has_hooks else {}))
    asked = [function_call("expert", {"input": each}, call_id=each) for each in ("Rome", "Oslo")]
    agent = helper(step(*asked, input=10, output=1), step("Both.", input=40, output=4), tools=[tool])
    run(Runner.run(agent, "Weather?", session=session, hooks=hooks))

    by_agent = {each[0]: each for each in recorded(store)}
    assert set(by_agent) == ({"Helper", "Expert"} if has_hooks else {"Helper"})
    assert {each[2] for each in recorded(store)} == {"completed"}
    assert store.query.get_usage_summary().input_tokens == 100
    assert store.query.get_usage_summary().output_tokens == 10
    if has_hooks:
        assert store.query.get_usage_summary().by_model["gpt-5-mini"].input_tokens == 50


def test_one_hooks_object_serves_several_runs_at_the_same_time(talk: Any, store: Any, run: Run[Any]) -> None:
    hooks = talk().run_hooks(model="gpt-5-nano", provider="azure")

    async def scenario() -> None:
        agents = [helper(step(asks_weather(), input=n), step("Ok.", input=n)) for n in range(1, 6)]
        await asyncio.gather(*(Runner.run(each, "Hi", hooks=hooks) for each in agents))

    run(scenario())
    assert sorted(recorded(store)) == [
        ("Helper", "gpt-5-nano", "completed", 2, 2 * n, 0, 0) for n in range(1, 6)
    ]
    assert {each.provider for each in store.list_runs("talk_1")} == {"azure"}
    assert store.maintenance.health_check() == []


@pytest.mark.parametrize("colour", ["sync"])
@pytest.mark.parametrize("is_restored", [False, True])
def test_a_run_that_waits_for_an_approval_goes_on_without_counting_twice(
    session: Any, store: Any, run: Run[Any], is_restored: bool
) -> None:
    booking = function_call("book", {"city": "Rome"}, call_id="b")
    agent = helper(step(booking, input=10, output=1), step("Booked.", input=20, output=2), tools=[BOOK])

    async def scenario() -> None:
        first = await Runner.run(agent, "Book Rome", session=session, hooks=session.run_hooks())
        state = first.to_state()
        if is_restored:
            state = await RunState.from_json(agent, json.loads(json.dumps(state.to_json())))
        state.approve(state.get_interruptions()[0])
        last = await Runner.run(agent, state, session=session, hooks=session.run_hooks())
        assert last.final_output == "Booked."

    run(scenario())
    assert recorded(store) == [
        ("Helper", "gpt-5", "failed", 1, 10, 0, 1),
        ("Helper", "gpt-5", "completed", 1, 20, 0, 2),
    ]


def test_hooks_of_an_application_call_those_that_record(session: Any, store: Any, run: Run[Any]) -> None:
    seen = []

    class Own(AsmRunHooks):
        async def on_agent_end(self, context: Any, agent: Any, *more: Any) -> None:
            seen.append(agent.name)
            await super().on_agent_end(context, agent, *more)

    run(Runner.run(helper(step("Hi.", input=3)), "Hello", session=session, hooks=Own(session)))
    assert (seen, recorded(store)) == (["Helper"], [("Helper", "gpt-5", "completed", 1, 3, 0, 0)])


def test_the_model_of_a_run_is_known_if_it_tells_its_name(session: Any, store: Any, run: Run[Any]) -> None:
    def scripted(_: Any = None) -> Any:
        return ScriptedModel([step("Hi.")])

    config = RunConfig(model_provider=SimpleNamespace(get_model=scripted))
    for model in ("gpt-5-mini", None, scripted()):
        agent = Agent(name="Helper", model=model)
        run(Runner.run(agent, "Hello", session=session, hooks=session.run_hooks(), run_config=config))
    assert [each[1] for each in recorded(store)] == ["gpt-5-mini", get_default_model(), None]


# What `asm` shows.


@pytest.mark.parametrize("colour", ["sync"])
def test_asm_shows_a_conversation_its_usage_and_its_cost(session: Any, migrated: str) -> None:
    agent = helper(
        step("Let me see.", asks_weather(), input=1_000_000, output=5), step("Sunny.", input=150, output=7)
    )
    asyncio.run(Runner.run(agent, "Weather in Rome?", session=session, hooks=session.run_hooks()))

    shown = output_of("show", "talk_1", "--dsn", migrated)
    assert "  model     gpt-5 at openai\n" in shown
    lines = filter(None, shown[shown.index("    1  user") :].splitlines())
    assert [re.sub(r"  \d+ ms$", "", line) for line in lines] == [
        "    1  user",
        "       Weather in Rome?",
        "    2  assistant",
        "       Let me see.",
        "    3  weather city: Rome",
        "    4  │ sunny in Rome",
        "    5  assistant",
        "       Sunny.",
    ]
    assert "talk_1" in output_of("search", "events", "--type", "openai.item", "--dsn", migrated)
    assert output_of("usage", "--dsn", migrated).startswith("1,000,162 tokens in 1 run\n")
    assert output_of("cost", "--dsn", migrated).startswith("$1.25")
    assert "Let me see." in output_of("export", "talk_1", "--dsn", migrated)


def test_the_example_goes_on_with_its_conversation(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process, because importing the SDK takes seconds.
    monkeypatch.setattr(sys, "argv", ["with_openai_agents.py", dsn])
    for outcome in ("4 items, $0.0029 so far", "8 items, $0.0058 so far"):
        runpy.run_path(str(EXAMPLES / "with_openai_agents.py"), run_name="__main__")
        assert capsys.readouterr().out == f"Take an umbrella.\n{outcome}\n"


@pytest.mark.parametrize("colour", ["sync"])
def test_the_items_of_a_session_of_the_sdk_are_copied(session: Any) -> None:
    async def move() -> None:
        theirs = SQLiteSession("talk_1")
        await Runner.run(helper(step("Let me see.", asks_weather()), "Sunny."), "Weather?", session=theirs)
        await session.add_items(await theirs.get_items())
        assert await session.get_items() == await theirs.get_items()
        theirs.close()

    asyncio.run(move())
