"""The page of a session whose runs a SessionManager made, with the adapter of each provider."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.testclient import TestClient

import asm
from tests.agents.adapters.conftest import Spoken, any_api
from tests.web.museum import (
    ANSWER,
    ASKED,
    FAILED,
    FOUND,
    QUESTION,
    THOUGHT,
    check_conversation,
    hours,
)

__all__ = ["any_api"]

TOOLS = {
    "anthropic": {"name": "hours", "input_schema": {"type": "object"}},
    "openai": {"type": "function", "name": "hours", "parameters": {"type": "object"}},
}


def thought_and_call(api: Any) -> list[Mapping[str, Any]]:
    """A message with a thought and the call that fails."""
    if api.name == "anthropic":
        thought = {"type": "thinking", "thinking": THOUGHT, "signature": "c2ln"}
        return list(api.message([thought, call_of(api, FAILED)], "tool_use"))
    summary = [{"type": "summary_text", "text": THOUGHT}]
    return list(api.response([{"type": "reasoning", "id": "rs_1", "summary": summary}, call_of(api, FAILED)]))


def call_of(api: Any, city: str) -> dict[str, Any]:
    if api.name == "anthropic":
        return {"type": "tool_use", "id": f"call_{city}", "name": "hours", "input": {"city": city}}
    call: dict[str, Any] = api.function_call(f"call_{city}", json.dumps({"city": city}))
    return {**call, "name": "hours"}


def call(api: Any) -> list[Mapping[str, Any]]:
    """A message with the other call."""
    found = [call_of(api, FOUND)]
    return list(api.message(found, "tool_use") if api.name == "anthropic" else api.response(found))


def test_a_run_of_an_adapter_is_shown_with_its_calls_and_its_tokens(
    viewer: tuple[TestClient, asm.SessionStore], any_api: Spoken
) -> None:
    client, store = viewer
    for answer in (thought_and_call(any_api.api), call(any_api.api), any_api.api.text(ANSWER)):
        any_api.server.say(*answer)
    manager = asm.SessionManager(store)
    session = manager.start_session("guide")

    manager.run(
        session.id,
        any_api.adapter(),
        [{"role": "user", "content": ASKED}],
        tools=[TOOLS[any_api.api.name]],
        on_tool=lambda _, given: hours(**given),
    )

    page = client.get(f"/sessions/{session.id}").text
    check_conversation(page)
    check_conversation(client.get(f"/sessions/{session.id}/export.html").text)
    assert f"<h1>{QUESTION}</h1>" in page
    assert f"<span>{any_api.api.model}</span>" in page
    assert "<h2>1 error</h2>" in page
    assert '>run completed <span class="about">stop_reason: end_turn</span>' in page
    assert "cache read 12,000, cache write 900" in page
