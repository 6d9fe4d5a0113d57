"""Claude: what its answers become, and in which form it gets a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.adapters.apis import pieces
from tests.agents.adapters.conftest import Spoken
from tests.agents.adapters.turns import data, shown, turn, types

THINKING = {"type": "thinking", "thinking": "Which city? Paris.", "signature": "c2lnbmF0dXJl"}
TEXT = {"type": "text", "text": "Let me look."}
CALLS = [
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris", "days": [1, None]}},
    {"type": "tool_use", "id": "toolu_2", "name": "clock", "input": {}},
]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVyb24="}}


def conversation(spoken: Spoken, *messages: Any, **fields: Any) -> dict[str, Any]:
    """The request for which these messages make the adapter ask."""
    spoken.server.say(*spoken.api.text())
    turn(spoken.adapter(), messages, **fields)
    return spoken.server.request


def said(spoken: Spoken, *messages: Any) -> list[Any]:
    """These messages, as the API gets them."""
    found: list[Any] = conversation(spoken, *messages)["messages"]
    return found


def result(id: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content, **more}


def tool_result(id: str, content: Any, is_error: bool = False) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, "is_error": is_error}


def test_a_turn_reports_deltas_then_the_message_then_its_calls_then_the_usage(anthropic_api: Spoken) -> None:
    anthropic_api.server.say(*anthropic_api.api.message([THINKING, TEXT, *CALLS], "tool_use"))

    assert shown(turn(anthropic_api.adapter())) == [
        *(("message_streamed", {"delta": each}) for each in pieces("Let me look.")),
        (
            "message_received",
            {
                "role": "assistant",
                "content": [THINKING, TEXT, *CALLS],
                "message_id": "msg_1",
                "stop_reason": "tool_use",
            },
        ),
        ("tool_call_started", "toolu_1", {"name": "weather", "input": {"city": "Paris", "days": [1, None]}}),
        ("tool_call_started", "toolu_2", {"name": "clock", "input": {}}),
        (
            "token_usage_updated",
            {
                "input_tokens": 12,
                "output_tokens": 25,
                "cache_read_tokens": 4_000,
                "cache_creation_tokens": 300,
                "model": "claude-test",
            },
        ),
    ]


@pytest.mark.parametrize("reason", ["end_turn", "max_tokens", "stop_sequence", "refusal", "pause_turn"])
def test_a_message_has_the_reason_why_it_ended(anthropic_api: Spoken, reason: str) -> None:
    anthropic_api.server.say(*anthropic_api.api.message([TEXT], reason))

    message = data(turn(anthropic_api.adapter()), "message_received")

    assert (message["content"], message["stop_reason"]) == ("Let me look.", reason)


def test_a_call_that_the_limit_of_tokens_may_have_cut_is_not_reported(anthropic_api: Spoken) -> None:
    cut = {**CALLS[0], "input": '{"city": "Paris", "days": [1'}
    anthropic_api.server.say(*anthropic_api.api.message([TEXT, cut], "max_tokens"))

    events = turn(anthropic_api.adapter())

    assert "tool_call_started" not in types(events)
    assert data(events, "message_received")["stop_reason"] == "max_tokens"


def test_a_message_without_content_is_reported(anthropic_api: Spoken) -> None:
    anthropic_api.server.say(*anthropic_api.api.message([]))

    assert data(turn(anthropic_api.adapter()), "message_received")["content"] == []


def test_system_messages_become_the_system_prompt(anthropic_api: Spoken) -> None:
    asked = conversation(
        anthropic_api,
        {"role": "system", "content": [{"type": "text", "text": "Answer in French."}]},
        {"role": "user", "content": "Hello"},
        system="You are terse.",
    )

    assert asked["system"] == "You are terse.\n\nAnswer in French."
    assert asked["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    assert (asked["max_tokens"], asked["stream"]) == (8_192, True)


def test_blocks_of_anthropic_are_passed_on_as_they_are(anthropic_api: Spoken) -> None:
    text = {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}}

    assert said(
        anthropic_api,
        {"role": "user", "content": [text, IMAGE]},
        {"role": "assistant", "content": [THINKING, TEXT]},
        {"role": "user", "content": "Go on"},
    ) == [
        {"role": "user", "content": [text, IMAGE]},
        {"role": "assistant", "content": [THINKING, TEXT]},
        {"role": "user", "content": [{"type": "text", "text": "Go on"}]},
    ]


def test_the_results_of_the_calls_of_one_message_are_in_one_message(anthropic_api: Spoken) -> None:
    calls = [{"id": each["id"], "name": each["name"], "input": each["input"]} for each in CALLS]

    assert said(
        anthropic_api,
        {"role": "user", "content": "Weather and time?"},
        {"role": "assistant", "content": [THINKING], "tool_calls": calls},
        result("toolu_1", {"celsius": 21}),
        result("toolu_2", "no clock", is_error=True),
        {"role": "user", "content": "And tomorrow?"},
    )[1:] == [
        {"role": "assistant", "content": [THINKING, *CALLS]},
        {
            "role": "user",
            "content": [tool_result("toolu_1", '{"celsius": 21}'), tool_result("toolu_2", "no clock", True)],
        },
        {"role": "user", "content": [{"type": "text", "text": "And tomorrow?"}]},
    ]


def test_a_call_that_is_a_block_and_a_tool_call_is_sent_once(anthropic_api: Spoken) -> None:
    call = {"id": "toolu_1", "name": "weather", "input": {"city": "Paris", "days": [1, None]}}

    assert said(
        anthropic_api,
        {"role": "assistant", "content": [TEXT, CALLS[0]], "tool_calls": [call]},
        result("toolu_1", [{"type": "text", "text": "Sunny"}, IMAGE]),
    ) == [
        {"role": "assistant", "content": [TEXT, CALLS[0]]},
        {"role": "user", "content": [tool_result("toolu_1", [{"type": "text", "text": "Sunny"}, IMAGE])]},
    ]


def test_a_call_without_a_result_and_an_empty_message_are_left_out(anthropic_api: Spoken) -> None:
    assert said(
        anthropic_api,
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [TEXT, CALLS[0]]},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Again"},
    ) == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": [TEXT]},
        {"role": "user", "content": [{"type": "text", "text": "Again"}]},
    ]


def test_what_a_model_of_openai_said_is_passed_on_as_text(anthropic_api: Spoken) -> None:
    items = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Sunny"}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
    ]
    calls = [
        {"id": "call_1", "name": "weather", "input": {}},
        {"id": "call_2", "name": "shell", "input": "ls"},
    ]

    assert said(
        anthropic_api,
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {
            "role": "assistant",
            "content": items,
            "tool_calls": calls,
        },
        result("call_1", "21 °C"),
        result("call_2", "a b"),
    ) == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Sunny"},
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}},
                {"type": "tool_use", "id": "call_2", "name": "shell", "input": {"input": "ls"}},
            ],
        },
        {"role": "user", "content": [tool_result("call_1", "21 °C"), tool_result("call_2", "a b")]},
    ]
