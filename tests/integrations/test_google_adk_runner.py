"""ADK's Runner on AsmSessionService: what it reads back, what the command shows, what retention deletes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.adk.agents import LlmAgent, ParallelAgent, SequentialAgent
from google.adk.events import Event
from google.adk.models import LlmResponse
from google.adk.runners import Runner
from google.adk.tools import ToolContext
from google.genai import types

import asm
from asm.integrations.google_adk import AsmSessionService
from tests.conftest import in_loop
from tests.contract.test_cli import output_of
from tests.examples.programs import printed

TALK = {"user_id": "ada", "session_id": "talk"}
ID = "adk:weather:ada:talk"


def weather(city: str, tool_context: ToolContext) -> dict[str, str]:
    """Tell the weather."""
    state = tool_context.state
    state["user:city"], state["temp:city"] = city, city
    state["app:asked"] = state.get("app:asked", 0) + 1
    return {"sky": "clear"}


class Model:
    """A model that calls the tool for a question, and answers with what the tool returned."""

    def __init__(self, model: str = "gemini-2.5-flash") -> None:
        self.model = model
        self.requests: list[list[str]] = []

    def __call__(self, callback_context: Any, llm_request: Any) -> LlmResponse:
        self.requests.append(["".join(filter(None, map(_word, each.parts))) for each in llm_request.contents])
        last = llm_request.contents[-1].parts[-1]
        call = types.FunctionCall(id=f"call {len(self.requests)}", name="weather", args={"city": "Rome"})
        part = types.Part(text="Clear.") if last.function_response else types.Part(function_call=call)
        return LlmResponse(
            content=types.Content(role="model", parts=[types.Part(text="Hm.", thought=True), part]),
            model_version=self.model,
            usage_metadata=types.GenerateContentResponseUsageMetadata(
                prompt_token_count=1_000,
                cached_content_token_count=400,
                candidates_token_count=100,
                thoughts_token_count=20,
                total_token_count=1_120,
            ),
        )


def _word(part: types.Part) -> str | None:
    return part.text or (part.function_call and "call") or (part.function_response and "result") or None


def an_agent(model: Model, name: str = "forecaster") -> LlmAgent:
    return LlmAgent(
        name=name,
        model="gemini-2.5-flash",
        tools=[weather],
        output_key="answer",
        before_model_callback=model,
        disallow_transfer_to_parent=True,
        disallow_transfer_to_peers=True,
    )


@pytest.fixture
def ask(colour: str, store: Any) -> Callable[..., list[Event]]:
    """Asks an agent in the session, with a runner and a service of its own, as another process would."""

    async def asked(agent: Any, text: str) -> list[Event]:
        runner = Runner(
            app_name="weather",
            agent=agent,
            session_service=AsmSessionService(getattr(store, "_target", store)),
            auto_create_session=True,
        )
        message = types.Content(role="user", parts=[types.Part(text=text)])
        return [event async for event in runner.run_async(**TALK, new_message=message)]

    return lambda agent, text: (in_loop if colour == "async" else asyncio.run)(asked(agent, text))


def test_a_runner_goes_on_with_the_events_and_states_that_another_one_stored(
    ask: Callable[..., list[Event]], store: Any
) -> None:
    first, second = Model(), Model()
    ask(an_agent(first), "What is the weather?")
    events = ask(an_agent(second), "And now?")
    assert events[-1].is_final_response()
    assert second.requests[-1] == [*first.requests[-1], "Hm.Clear.", "And now?", "Hm.call", "result"]

    app, user, session = store.get_sessions(["adk.app:weather", "adk.user:weather:ada", ID])
    assert (app.context, user.context) == ({"asked": 2}, {"city": "Rome"})
    assert session.context == {"answer": "Clear."}
    assert len(store.get_events(ID, type="adk.event")) == 8
    assert store.maintenance.health_check() == []


@pytest.mark.parametrize("kind_of_agent", [SequentialAgent, ParallelAgent])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_agents_of_several_models_have_a_run_each_in_one_invocation(
    ask: Callable[..., list[Event]], store: Any, kind_of_agent: Any
) -> None:
    models = [Model(), Model("claude-sonnet-4-5")]
    agents = [an_agent(model, f"agent_{n}") for n, model in enumerate(models)]
    ask(kind_of_agent(name="both", sub_agents=agents), "What is the weather?")
    runs = {run.provider: run for run in store.list_runs(ID)}
    [invocation] = {event.run_id for event in store.get_events(ID, type="adk.event")}
    assert invocation in {run.id for run in runs.values()}
    assert {run.provider_metadata["model"] for run in runs.values()} == {model.model for model in models}
    for run in runs.values():
        calls = sum(len(model.requests) for model in models if model.model == run.provider_metadata["model"])
        assert (run.turn_count, run.token_usage["output_tokens"]) == (calls, 120 * calls)
    assert len(store.get_events(ID, type="adk.event")) == len({e.id for e in store.get_events(ID)}) - 1


def test_the_command_shows_the_conversation_and_what_it_cost(
    ask: Callable[..., list[Event]], migrated: str
) -> None:
    ask(an_agent(Model()), "What is the  weather\nin Rome?")
    shown = output_of("show", ID, "--dsn", migrated)
    assert re.search(r"title +What is the weather in Rome\?", shown)
    said = shown[shown.index("    2  user") :]
    assert re.sub(r" +\d[\d.]* m?s$", "", said, flags=re.MULTILINE) == (
        "    2  user\n"
        "       What is the  weather\n"
        "       in Rome?\n"
        "\n"
        "    3  model\n"
        "       Hm.\n"
        "       weather city: Rome\n"
        "\n"
        "    4  │ sky: clear\n"
        "\n"
        "    5  model\n"
        "       Hm.\n"
        "       Clear.\n"
    )
    assert "What is the weather in Rome?" in output_of("sessions", "--dsn", migrated)
    usage = output_of("usage", "--dsn", migrated)
    # Of two calls. The cached tokens are not among the others, and the thoughts are.
    assert re.search(r"google +1 +1,200 +240 +800", usage), usage
    assert re.search(r"gemini-2.5-flash +\$0\.\d+ +1 +1", output_of("cost", "--dsn", migrated))
    assert "Clear." in output_of("export", ID, "--dsn", migrated)


def test_a_call_that_failed_or_reports_no_sensible_tokens_is_still_stored(
    ask: Callable[..., list[Event]], store: Any
) -> None:
    def answers(**fields: Any) -> Callable[..., LlmResponse]:
        part = types.Part(text="x")
        response = LlmResponse(content=types.Content(role="model", parts=[part]), **fields)
        return lambda callback_context, llm_request: response

    def agent(**fields: Any) -> LlmAgent:
        return LlmAgent(name="agent", model="gemini-2.5-flash", before_model_callback=answers(**fields))

    usage = types.GenerateContentResponseUsageMetadata
    ask(agent(usage_metadata=usage(prompt_token_count=1, cached_content_token_count=2)), "1")
    ask(agent(usage_metadata=usage()), "2")
    ask(agent(usage_metadata=usage(prompt_token_count=10**13)), "2")
    assert store.list_runs(ID) == []
    failed = {"error_code": "SAFETY", "error_message": "no", "usage_metadata": usage(prompt_token_count=3)}
    ask(agent(**failed), "3")
    [run] = store.list_runs(ID)
    assert (run.status, run.error, run.provider) == (
        "failed",
        {"code": "SAFETY", "message": "no"},
        "google-adk",
    )
    assert run.token_usage["input_tokens"] == 3
    assert len(store.get_events(ID, type="adk.event")) == 8


def test_retention_deletes_sessions_whole_and_keeps_the_states_of_apps_and_users(
    ask: Callable[..., list[Event]], store: Any
) -> None:
    ask(an_agent(Model()), "What is the weather?")
    ids = [ID, "adk.app:weather", "adk.user:weather:ada"]
    assert store.maintenance.execute(asm.RetentionPolicy(max_session_age_days=1)).sessions_soft_deleted == 0
    long_ago = datetime.now(UTC) - timedelta(days=100)
    for id in ids:
        store.update_session(
            id, lambda session: asm.Session.from_dict({**session.to_dict(), "updated_at": long_ago})
        )
    policy = asm.RetentionPolicy(max_session_age_days=90, exempt_statuses=("paused",))
    assert store.maintenance.execute(policy).sessions_soft_deleted == 1
    # It is deleted for ADK at once, and its id can be used again.
    ask(an_agent(Model()), "What is the weather now?")
    session, app, _ = store.get_sessions(ids)
    assert (session.deleted_at, app.context) == (None, {"asked": 2})
    assert len(store.get_events(ID, type="adk.event")) == 4


def test_the_example_remembers_what_it_was_told(dsn: str, tmp_path: Path) -> None:
    assert printed(tmp_path, "with_google_adk.py", dsn).splitlines() == [
        "ada: Where do I live?",
        "concierge: You have not told me.",
        "ada: I live in Turin.",
        "concierge: You live in Turin.",
        "ada: Where do I live?",
        "concierge: You live in Turin.",
        "1 sessions of ada. The city: Turin",
    ]
