"""A manager that runs the adapters with their SDKs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import asm
from tests.agents.adapters.conftest import Spoken


@pytest.fixture
def store() -> Iterator[asm.SessionStore]:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        yield store


def test_a_run_calls_a_tool_and_the_next_one_continues_the_conversation(
    any_api: Spoken, store: asm.SessionStore
) -> None:
    manager = asm.SessionManager(store)
    session = manager.start_session("assistant")
    for answer in (any_api.api.call(), any_api.api.text("Sunny."), any_api.api.text("Also sunny.")):
        any_api.server.say(*answer)

    tool = any_api.api.tool
    first = manager.run(
        session.id, any_api.adapter(), "Paris?", tools=[tool], on_tool=lambda *called: list(called)
    )
    second = manager.run(session.id, any_api.adapter(), "And tomorrow?")

    assert (first.text, second.text) == ("Sunny.", "Also sunny.")
    assert first.run.provider == any_api.api.name
    assert first.token_usage["cache_read_tokens"] == 8_000
    output = json.dumps(["weather", {"city": "Paris"}])
    for request in any_api.server.requests[1:]:
        sent = json.dumps(request)
        assert sent.count(json.dumps(output)) == 1
        assert sent.count('"Paris?"') == 1
    asked = json.dumps(any_api.server.request)
    assert asked.index("Paris?") < asked.index("Sunny.") < asked.index("And tomorrow?")
    assert store.maintenance.health_check() == []


def test_a_call_that_was_interrupted_does_not_keep_a_session_from_going_on(
    any_api: Spoken, store: asm.SessionStore
) -> None:
    manager = asm.SessionManager(store)
    session = manager.start_session("assistant")
    any_api.server.say(*any_api.api.call())
    any_api.server.say(*any_api.api.text("Never mind."))
    manager.run(session.id, any_api.adapter(), "Paris?", tools=[any_api.api.tool])

    result = manager.run(session.id, any_api.adapter(), "Go on.", tools=[any_api.api.tool])

    assert result.text == "Never mind."
    assert "interrupted" in json.dumps(any_api.server.request)


@pytest.mark.parametrize("ending", ["cut", "end"])
def test_an_answer_that_ends_early_fails_the_run_and_keeps_its_text(
    ending: str, any_api: Spoken, store: asm.SessionStore
) -> None:
    any_api.server.say(*any_api.api.text("Hello there.")[:-1], ending=ending)

    with pytest.raises(asm.ProviderError) as raised:
        asm.SessionManager(store).run_once(any_api.adapter(), "Hi", run_id="run_1")

    assert raised.value.retryable
    run = store.get_run("run_1")
    assert (run.status, run.error["retryable"]) == ("failed", True)
    events = store.get_events(run.session_id)
    assert [event.type for event in events][-3:] == ["error_occurred", "run_failed", "session_failed"]
    (message,) = store.get_events(run.session_id, type="message_received")
    assert message.data["partial"] is True
    assert "Hello" in message.data["content"]


def test_a_cancelled_run_gives_its_connection_back(any_api: Spoken, store: asm.SessionStore) -> None:
    any_api.server.say(*any_api.api.text("Hello there.")[:6], ending="stall")
    manager = asm.SessionManager(store)

    with pytest.raises(asm.RunTimeout):
        manager.run_once(any_api.adapter(), "Hi", timeout=1.0)

    assert any_api.server.was_left.wait(30)
