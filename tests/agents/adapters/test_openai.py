"""Responses: what its answers become, and in which form it gets a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.adapters.apis import pieces
from tests.agents.adapters.conftest import Spoken
from tests.agents.adapters.turns import QUESTION, data, failed_turn, shown, turn, types

REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city": "Paris"}',
    "status": "completed",
}
CUSTOM = {
    "type": "custom_tool_call",
    "id": "ctc_1",
    "call_id": "call_2",
    "name": "shell",
    "input": "ls | wc -l",
    "status": "completed",
}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,aGVyb24="}


def message(*parts: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [*parts],
        **more,
    }


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": words, "annotations": [], "logprobs": [], **more}


def conversation(spoken: Spoken, *messages: Any, **fields: Any) -> dict[str, Any]:
    """The request for which these messages make the adapter ask."""
    spoken.server.say(*spoken.api.text())
    turn(spoken.adapter(), messages, **fields)
    return spoken.server.request


def said(spoken: Spoken, *messages: Any) -> list[Any]:
    """These messages, as the API gets them."""
    found: list[Any] = conversation(spoken, *messages)["input"]
    return found


def result(id: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content, **more}


def test_a_turn_reports_deltas_then_the_message_then_its_calls_then_the_usage(openai_api: Spoken) -> None:
    items = [REASONING, message(text("Let me look.")), CALL, CUSTOM]
    openai_api.server.say(*openai_api.api.response(items))

    assert shown(turn(openai_api.adapter())) == [
        *(("message_streamed", {"delta": each}) for each in pieces("Let me look.")),
        (
            "message_received",
            {"role": "assistant", "content": items, "message_id": "resp_1", "stop_reason": "tool_use"},
        ),
        ("tool_call_started", "call_1", {"name": "weather", "input": {"city": "Paris"}}),
        ("tool_call_started", "call_2", {"name": "shell", "input": "ls | wc -l"}),
        (
            "token_usage_updated",
            {
                "input_tokens": 12,
                "output_tokens": 25,
                "total_tokens": 4_337,
                "cache_read_tokens": 4_000,
                "cache_creation_tokens": 300,
                "model": "gpt-5",
            },
        ),
    ]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("max_output_tokens", "max_tokens"), ("content_filter", "refusal"), ("steered", "steered")],
)
def test_a_message_that_is_incomplete_says_why_and_reports_no_call(
    openai_api: Spoken, reason: str, expected: str
) -> None:
    items = [message(text("Let me")), {**CALL, "arguments": '{"ci', "status": "incomplete"}]
    openai_api.server.say(
        *openai_api.api.response(items, "incomplete", incomplete_details={"reason": reason})
    )

    events = turn(openai_api.adapter())

    assert data(events, "message_received")["stop_reason"] == expected
    assert "tool_call_started" not in types(events)
    assert data(events, "token_usage_updated")["output_tokens"] == 25


def test_a_refusal_is_a_message(openai_api: Spoken) -> None:
    part = {"type": "refusal", "refusal": "I will not."}
    openai_api.server.say(*openai_api.api.response([message(part)]))

    events = turn(openai_api.adapter())

    assert "".join(event.data["delta"] for event in events if event.transient) == "I will not."
    assert data(events, "message_received")["stop_reason"] == "refusal"


def test_a_message_with_annotations_or_a_phase_is_kept_as_it_is(openai_api: Spoken) -> None:
    note = {
        "type": "url_citation",
        "url": "https://example.com",
        "title": "A",
        "start_index": 0,
        "end_index": 1,
    }
    for item in (message(text("Sunny", annotations=[note])), message(text("Sunny"), phase="final_answer")):
        openai_api.server.say(*openai_api.api.response([item]))

        assert data(turn(openai_api.adapter()), "message_received")["content"] == [item]


def test_an_input_that_is_not_json_is_reported_as_text(openai_api: Spoken) -> None:
    for arguments in ('{"city": ', '{"celsius": NaN}'):
        openai_api.server.say(*openai_api.api.response([{**CALL, "arguments": arguments}]))

        assert data(turn(openai_api.adapter()), "tool_call_started")["input"] == arguments


@pytest.mark.parametrize(("code", "retryable"), [("server_error", True), ("invalid_prompt", False)])
def test_a_response_that_failed_is_an_error_and_its_tokens_are_counted(
    openai_api: Spoken, code: str, retryable: bool
) -> None:
    error = {"code": code, "message": "it broke"}
    openai_api.server.say(*openai_api.api.response([], "failed", error=error))

    events, failure = failed_turn(openai_api.adapter())

    assert "it broke" in str(failure)
    assert (failure.provider_code, failure.retryable) == (code, retryable)
    assert types(events) == ["token_usage_updated"]


def test_a_quota_that_is_used_up_is_not_retryable(openai_api: Spoken) -> None:
    error = {"code": "insufficient_quota", "type": "insufficient_quota", "message": "check your plan"}
    for _ in range(3):
        openai_api.server.say({"error": error}, status=429, headers={"retry-after-ms": "1"})

    _, failure = failed_turn(openai_api.adapter())

    assert (failure.status, failure.provider_code, failure.retryable) == (429, "insufficient_quota", False)


def test_openai_stores_nothing_and_encrypts_thoughts_for_a_model_that_thinks(openai_api: Spoken) -> None:
    plain = conversation(openai_api, *QUESTION, system="You are terse.")
    openai_api.server.say(*openai_api.api.text())
    turn(openai_api.adapter(reasoning={"effort": "low"}))
    thinking = openai_api.server.request

    assert (plain["store"], plain["stream"], plain["instructions"]) == (False, True, "You are terse.")
    assert "include" not in plain
    assert thinking["include"] == ["reasoning.encrypted_content"]


def test_items_of_openai_are_passed_on_as_they_are(openai_api: Spoken) -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}

    assert said(
        openai_api,
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]},
        {"role": "assistant", "content": [REASONING, search, message(text("A heron"))]},
        {"role": "user", "content": "Go on"},
    ) == [
        {"role": "system", "content": [{"type": "input_text", "text": "You are terse."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, IMAGE]},
        REASONING,
        search,
        message(text("A heron")),
        {"role": "user", "content": [{"type": "input_text", "text": "Go on"}]},
    ]


def test_thoughts_without_their_encrypted_content_are_left_out_with_the_ids_that_refer_to_them(
    openai_api: Spoken,
) -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}

    assert said(
        openai_api,
        {"role": "assistant", "content": [thought, message(text("Let me look."), phase="commentary"), CALL]},
        result("call_1", "21 °C"),
    ) == [
        {"role": "assistant", "content": "Let me look.", "phase": "commentary"},
        {key: value for key, value in CALL.items() if key != "id"},
        {"type": "function_call_output", "call_id": "call_1", "output": "21 °C"},
    ]


def test_calls_and_their_results_are_items_of_their_own(openai_api: Spoken) -> None:
    calls = [
        {"id": "call_1", "name": "weather", "input": {"city": "Orléans"}},
        {"id": "call_2", "name": "shell", "input": "ls"},
        {"id": "call_3", "name": "never", "input": {}},
    ]

    assert said(
        openai_api,
        {"role": "assistant", "content": "Let me look.", "tool_calls": calls},
        result("call_1", {"celsius": 21}),
        result("call_2", "no shell", is_error=True),
    ) == [
        {"role": "assistant", "content": "Let me look."},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Orléans"}'},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "shell", "input": "ls"},
        {"type": "function_call_output", "call_id": "call_1", "output": '{"celsius": 21}'},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "Error: no shell"},
    ]


def test_what_a_model_of_anthropic_said_is_passed_on_as_text(openai_api: Spoken) -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
        {"type": "text", "text": "Sunny"},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
    ]

    assert said(
        openai_api,
        {
            "role": "assistant",
            "content": blocks,
            "tool_calls": [{"id": "toolu_1", "name": "weather", "input": {}}],
        },
        result("toolu_1", [{"type": "text", "text": "21 °C"}], is_error=True),
    ) == [
        {"role": "assistant", "content": "Sunny"},
        {"type": "function_call", "call_id": "toolu_1", "name": "weather", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "toolu_1",
            "output": [{"type": "input_text", "text": "Error:"}, {"type": "input_text", "text": "21 °C"}],
        },
    ]
