"""What an event's data says, in the spelling of every SDK."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.content import (
    Content,
    Delta,
    Media,
    Other,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    error_text,
    read_content,
    read_delta,
    session_title,
)
from asm.models import EventType
from tests.property.strategies import values

PNG = {"type": "base64", "media_type": "image/png", "data": "A" * 400}

MESSAGES: dict[str, tuple[dict[str, Any], str | None, list[Part]]] = {
    "plain": ({"role": "user", "content": "hi"}, "user", [Text("hi")]),
    "without a role": ({"content": "hi"}, None, [Text("hi")]),
    "empty": ({"role": "user", "content": " \n"}, "user", []),
    "an entry of Claude Code": (
        {"item": {"type": "user", "uuid": "u1", "message": {"role": "user", "content": "hi"}}},
        "user",
        [Text("hi")],
    ),
    "a note of Claude Code": (
        {"item": {"type": "system", "subtype": "informational", "content": "Compacted"}},
        "system",
        [Text("Compacted")],
    ),
    "Anthropic": (
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "redacted_thinking", "data": "zz"},
                {"type": "text", "text": "a"},
                {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}},
            ],
            "stop_reason": "tool_use",
        },
        "assistant",
        [Thinking("hm"), Thinking("(hidden)"), Text("a"), ToolCall("bash", {"command": "ls"}, "toolu_1")],
    ),
    "Anthropic's tool result": (
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "text", "text": "boom"}, {"type": "image", "source": PNG}],
                    "is_error": True,
                }
            ],
        },
        "user",
        [ToolResult("boom\n[image image/png, 300 bytes]", failed=True, id="toolu_1")],
    ),
    "Anthropic's images": (
        {
            "role": "user",
            "content": [
                {"type": "image", "source": PNG},
                {"type": "image", "source": {"type": "url", "url": "https://host/a.png"}},
                {"type": "document", "title": "a.pdf", "source": {"type": "file", "file_id": "file_1"}},
            ],
        },
        "user",
        [
            Media("image", "image/png, 300 bytes"),
            Media("image", "https://host/a.png"),
            Media("file", "a.pdf, file_1"),
        ],
    ),
    "OpenAI's chat": (
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
            ],
        },
        "assistant",
        [ToolCall("f", {"a": 1}, "call_1")],
    ),
    "OpenAI's tool message": (
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        "tool",
        [ToolResult("done", id="call_1")],
    ),
    "OpenAI's chat parts": (
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"format": "wav", "data": "AAAA"}},
            ],
        },
        "user",
        [Text("look"), Media("image", "image/jpeg, 3 bytes"), Media("audio", "audio/wav, 3 bytes")],
    ),
    "Responses' drawn image": (
        {"item": {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "AAAA"}},
        None,
        [Media("image", "3 bytes")],
    ),
    "a refusal": ({"role": "assistant", "content": None, "refusal": "no"}, "assistant", [Text("no")]),
    "a chat completion": (
        {"id": "chatcmpl-1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}]},
        "assistant",
        [Text("x")],
    ),
    "a Responses message": (
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "x", "annotations": []}],
        },
        "assistant",
        [Text("x")],
    ),
    "a Responses call": (
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"},
        None,
        [ToolCall("f", {}, "call_1")],
    ),
    "a Responses result": (
        {"type": "function_call_output", "call_id": "call_1", "output": "42"},
        "tool",
        [ToolResult("42", id="call_1")],
    ),
    "Responses reasoning": (
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "so"}]},
        None,
        [Thinking("so")],
    ),
    "a Responses output": (
        {
            "object": "response",
            "output": [
                {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "q"}},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
            ],
        },
        None,
        [ToolCall("web_search", {"query": "q"}, "ws_1"), Text("x")],
    ),
    "our transcript": (
        {"role": "assistant", "content": "a", "tool_calls": [{"id": "c", "name": "f", "input": {"a": 1}}]},
        "assistant",
        [Text("a"), ToolCall("f", {"a": 1}, "c")],
    ),
    "Google": (
        {
            "role": "model",
            "parts": [
                {"text": "so", "thought": True},
                {"text": "a"},
                {"functionCall": {"name": "g", "args": {"x": 1}}},
                {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
            ],
        },
        "model",
        [Thinking("so"), Text("a"), ToolCall("g", {"x": 1}), Media("image", "image/png, 3 bytes")],
    ),
    "Google's results": (
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "g", "response": {"n": 1}}},
                {"functionResponse": {"name": "g", "response": {"output": "a"}}},
                {"function_response": {"name": "g", "response": {"result": ["a"]}}},
                {"function_response": {"name": "g", "response": {"error": "no"}}},
            ],
        },
        "user",
        [
            ToolResult({"n": 1}, name="g"),
            ToolResult("a", name="g"),
            ToolResult(["a"], name="g"),
            ToolResult(None, "no", failed=True, name="g"),
        ],
    ),
    "Bedrock": (
        {"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": {"data": "AAAA"}}}}]},
        "user",
        [Media("image", "image/png, 3 bytes")],
    ),
    "Google's candidate": (
        {"content": {"role": "model", "parts": [{"text": "a"}]}, "finishReason": "STOP"},
        "model",
        [Text("a")],
    ),
    "an event of Google's ADK": (
        {"item": {"author": "weather", "content": {"parts": [{"function_call": {"name": "g", "id": "c"}}]}}},
        "weather",
        [ToolCall("g", {}, "c")],
    ),
    "a line of Claude Code": (
        {"type": "assistant", "message": {"role": "assistant", "content": [{"type": "text", "text": "x"}]}},
        "assistant",
        [Text("x")],
    ),
    "SWE-agent's thought at the start": (
        {"content": "I look.\n```\nls\n```", "thought": "I look."},
        None,
        [Text("I look.\n```\nls\n```")],
    ),
    "SWE-agent's other thought": (
        {"content": "x", "thought": "hm"},
        None,
        [Thinking("hm"), Text("x")],
    ),
    "an unknown block": (
        {"role": "user", "content": [{"type": "hologram", "q": 1}, 5]},
        "user",
        [Other({"type": "hologram", "q": 1}), Other(5)],
    ),
    "pydantic-ai's request": (
        {
            "item": {
                "kind": "request",
                "parts": [
                    {"part_kind": "system-prompt", "content": "Be brief"},
                    {
                        "part_kind": "user-prompt",
                        "content": [
                            "hi",
                            {"kind": "text-content", "content": "there"},
                            {"kind": "binary", "media_type": "image/png", "data": "A" * 400},
                            {"kind": "image-url", "url": "https://a.test/b.png"},
                            {"kind": "cache-point"},
                        ],
                    },
                ],
            }
        },
        "user",
        [
            Other({"system": "Be brief"}),
            Text("hi"),
            Text("there"),
            Media("image", "image/png, 300 bytes"),
            Media("image", "https://a.test/b.png"),
            Other({"kind": "cache-point"}),
        ],
    ),
    "pydantic-ai's results": (
        {
            "item": {
                "kind": "request",
                "parts": [
                    {
                        "part_kind": "tool-return",
                        "tool_name": "bash",
                        "content": {"a": 1},
                        "tool_call_id": "c1",
                        "outcome": "success",
                    },
                    {
                        "part_kind": "tool-return",
                        "tool_name": "bash",
                        "content": "no",
                        "tool_call_id": "c2",
                        "outcome": "retried",
                    },
                    {
                        "part_kind": "retry-prompt",
                        "tool_name": "bash",
                        "content": "again",
                        "tool_call_id": "c3",
                    },
                ],
            }
        },
        "user",
        [
            ToolResult({"a": 1}, name="bash", id="c1"),
            ToolResult("no", failed=True, name="bash", id="c2"),
            ToolResult("again", failed=True, name="bash", id="c3"),
        ],
    ),
    "pydantic-ai's response": (
        {
            "item": {
                "kind": "response",
                "model_name": "m",
                "parts": [
                    {"part_kind": "thinking", "content": "hm", "id": None},
                    {"part_kind": "text", "content": "a", "id": None},
                    {
                        "part_kind": "tool-call",
                        "tool_name": "bash",
                        "args": '{"command": "ls"}',
                        "tool_call_id": "c1",
                        "id": None,
                    },
                ],
            }
        },
        "assistant",
        [Thinking("hm"), Text("a"), ToolCall("bash", {"command": "ls"}, "c1")],
    ),
}


@pytest.mark.parametrize("shape", MESSAGES)
def test_a_message_is_read_in_every_spelling(shape: str) -> None:
    data, role, parts = MESSAGES[shape]
    content = read_content(EventType.MESSAGE_RECEIVED, data)
    assert (content.role, list(content.parts)) == (role, parts)


CALLS: dict[str, tuple[dict[str, Any], ToolCall]] = {
    "plain": ({"name": "bash", "input": "ls"}, ToolCall("bash", "ls")),
    "the reference's": (
        {"tool_name": "Read", "tool_call_id": "c", "tool_input": {"p": 1}},
        ToolCall("Read", {"p": 1}, "c"),
    ),
    "Anthropic's block": (
        {"type": "tool_use", "id": "c", "name": "Read", "input": {"p": 1}},
        ToolCall("Read", {"p": 1}, "c"),
    ),
    "OpenAI's function": (
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"p": 1}'}},
        ToolCall("f", {"p": 1}, "c"),
    ),
    "OpenAI's cut arguments": (
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"p": '},
        ToolCall("f", '{"p": ', "c"),
    ),
    "arguments that are not JSON": ({"name": "f", "arguments": '{"p": NaN}'}, ToolCall("f", '{"p": NaN}')),
    "arguments beside the name": ({"name": "bash", "command": "ls"}, ToolCall("bash", {"command": "ls"})),
    "nothing": ({}, ToolCall(None, {})),
}


@pytest.mark.parametrize("shape", CALLS)
def test_a_tool_call_is_read_in_every_spelling(shape: str) -> None:
    data, call = CALLS[shape]
    assert read_content(EventType.TOOL_CALL_STARTED, data) == Content(parts=(call,))


RESULTS: dict[str, tuple[dict[str, Any], ToolResult, dict[str, Any]]] = {
    "plain": ({"output": "x"}, ToolResult("x"), {}),
    "with other fields": ({"output": "x", "duration_s": 2}, ToolResult("x"), {"duration_s": 2}),
    "the reference's": (
        {"tool_name": "Read", "tool_call_id": "c", "tool_output": "x"},
        ToolResult("x", name="Read", id="c"),
        {},
    ),
    "Anthropic's block": (
        {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "x"}]},
        ToolResult("x", id="c"),
        {},
    ),
    "OpenAI's message": (
        {"role": "tool", "tool_call_id": "c", "content": "x"},
        ToolResult("x", id="c"),
        {},
    ),
    "Responses' screenshot": (
        {
            "type": "computer_call_output",
            "call_id": "c",
            "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,AAAA"},
        },
        ToolResult("[image image/png, 3 bytes]", id="c"),
        {},
    ),
    "MCP": (
        {"result": {"content": [{"type": "text", "text": "x"}], "isError": True}},
        ToolResult("x", failed=True),
        {},
    ),
    "an error": ({"name": "f", "error": "no"}, ToolResult(None, "no", failed=True, name="f"), {}),
    "an error with a code": (
        {"error": {"message": "no", "code": 3}},
        ToolResult(None, "no (3)", failed=True),
        {},
    ),
    "fields of its own": ({"stdout": "x", "code": 0}, ToolResult({"stdout": "x", "code": 0}), {}),
    "nothing": ({}, ToolResult(None), {}),
}


@pytest.mark.parametrize("shape", RESULTS)
def test_a_tool_result_is_read_in_every_spelling(shape: str) -> None:
    data, result, rest = RESULTS[shape]
    assert read_content(EventType.TOOL_CALL_COMPLETED, data) == Content(parts=(result,), rest=rest)


def test_the_result_of_a_failed_call_has_failed_whatever_its_data_says() -> None:
    content = read_content(EventType.TOOL_CALL_FAILED, {"output": "timed out", "code": 124})
    assert content == Content(parts=(ToolResult("timed out", failed=True),), rest={"code": 124})


def test_the_data_of_other_events_is_left_as_it_is() -> None:
    data = {"content": "x", "name": "y"}
    assert read_content("acme.plan", data) == Content(rest=data)


@pytest.mark.parametrize(
    ("data", "delta"),
    [
        ({"delta": " a"}, Delta("text", " a")),
        ({"content": "a"}, Delta("text", "a")),
        ({"delta": {"type": "text_delta", "text": "a"}}, Delta("text", "a")),
        ({"delta": {"type": "thinking_delta", "thinking": "a"}}, Delta("thinking", "a")),
        ({"delta": {"type": "input_json_delta", "partial_json": '{"'}}, Delta("input", '{"')),
        ({"choices": [{"delta": {"content": "a"}}]}, Delta("text", "a")),
        ({"type": "response.output_text.delta", "delta": "a"}, Delta("text", "a")),
        ({"type": "response.reasoning_summary_text.delta", "delta": "a"}, Delta("thinking", "a")),
        ({"type": "response.function_call_arguments.delta", "delta": "a"}, Delta("input", "a")),
        ({"type": "ping"}, None),
        ({"delta": 3}, None),
        ({"choices": []}, None),
    ],
)
def test_a_delta_is_read_in_every_spelling(data: dict[str, Any], delta: Delta | None) -> None:
    assert read_delta(data) == delta


# The names and the types that are read, with values of any kind below them.
_NAMES = st.sampled_from(
    [
        *("role", "content", "text", "parts", "type", "name", "input", "output", "error", "delta", "choices"),
        *("message", "function", "arguments", "tool_calls", "summary", "source", "data", "image_url"),
        *("functionCall", "functionResponse", "inlineData", "thinking", "thought", "status", "id", "command"),
    ]
)
_TYPES = st.sampled_from(
    ["text", "thinking", "tool_use", "tool_result", "function_call", "image", "message", "reasoning"]
)
_HOSTILE = st.recursive(
    values() | _TYPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=5),
    max_leaves=20,
)


HOSTILE_DATA = st.dictionaries(_NAMES, _HOSTILE, max_size=6)


@given(type=st.sampled_from(EventType), data=HOSTILE_DATA)
def test_no_data_raises(type: EventType, data: dict[str, Any]) -> None:
    content = read_content(type, data)
    assert isinstance(content.text, str)
    assert isinstance(session_title(data, [content]), str | None)
    assert isinstance(error_text(data), str)
    read_delta(data)


def test_blocks_of_any_depth_are_read() -> None:
    block: Any = "x"
    for _ in range(400):
        block = {"type": "message", "content": [block]}
    [part] = read_content(EventType.MESSAGE_SENT, {"content": [block]}).parts
    assert isinstance(part, Other)


@pytest.mark.parametrize(
    ("metadata", "messages", "title"),
    [
        ({"title": " A\nplan "}, ["hi"], "A plan"),
        ({"title": 5}, ["hi"], "hi"),
        ({}, ["", "  two\n words"], "two words"),
        ({}, [], None),
        ({}, ["x" * 1_000_000], "x" * 200),
        ({}, ["<environment_context>\n<cwd>/src</cwd>\n</environment_context>", "fix it"], "fix it"),
        ({}, ["# AGENTS.md instructions for /src", "<b>bold</b> idea", "fix it"], "<b>bold</b> idea"),
        ({}, ["<reminder>be brief</reminder>"], "<reminder>be brief</reminder>"),
    ],
)
def test_a_title_is_that_of_the_metadata_or_the_first_message(
    metadata: dict[str, Any], messages: list[str], title: str | None
) -> None:
    contents = [read_content(EventType.MESSAGE_SENT, {"content": message}) for message in messages]
    assert session_title(metadata, contents) == title


def test_a_system_prompt_is_no_title() -> None:
    contents = [
        read_content(EventType.MESSAGE_SENT, {"role": role, "content": role}) for role in ("system", "user")
    ]
    assert session_title({}, contents) == "user"
