"""The data of events and of deltas, read as content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from asm.content.blocks import THOUGHTS, joined, read_block, read_blocks, read_result
from asm.content.fields import EMPTY, as_list, take, text_or_none
from asm.content.parts import Content, Delta, Part, Text, Thinking
from asm.content.tools import is_call, is_result, read_call
from asm.documents import Document
from asm.enums import EventType

TITLE_LENGTH_MAX = 200
"""The characters of a title. The rest is left out."""

ITEMS = (
    "adk.event",
    "agent_framework.message",
    "claude.entry",
    "openai.item",
    "pydantic_ai.message",
    "strands.message",
)
"""The types of events that keep an item of a framework as it is: a message, a tool call or a result."""

MESSAGES = (EventType.MESSAGE_SENT, EventType.MESSAGE_RECEIVED, EventType.MESSAGE_STREAMED, *ITEMS)
RESULTS = (EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED)

FAILURES = (
    EventType.ERROR_OCCURRED,
    EventType.POLICY_VIOLATION,
    EventType.RUN_FAILED,
    EventType.RUN_TIMEOUT,
    EventType.SESSION_FAILED,
)
"""The types of events that are errors, but for those of a tool."""

_CALLS = ("tool_use_id", "tool_call_id", "call_id", "source_call_id")


def read_content(type: str, data: Mapping[str, Any]) -> Content:
    """The content of an event of this type."""
    if type == EventType.TOOL_CALL_STARTED:
        call, rest = read_call(dict(data))
        return Content(parts=(call,), rest=rest)
    if type in RESULTS:
        result, rest = read_result(dict(data), failed=type == EventType.TOOL_CALL_FAILED)
        return Content(parts=(result,), rest=rest)
    if type in MESSAGES:
        return _read_message(dict(data))
    return Content(rest=dict(data))


def read_delta(data: Mapping[str, Any]) -> Delta | None:
    """The piece of a message in the data of a `message_streamed`, or None if it is not known."""
    delta = data.get("delta")
    if isinstance(delta, str):
        return Delta(_delta_kind(data.get("type")), delta)
    if delta is None:
        delta = _chat_choice(data, "delta") or data
    if not isinstance(delta, dict) and delta is not data:
        return None
    for name, kind in _DELTAS.items():
        if isinstance(text := delta.get(name), str):
            return Delta(kind, text)
    return None


def begun_by(metadata: Mapping[str, Any]) -> str | None:
    """The id of the tool call that began a session, which its metadata names, such as a sub-agent's."""
    return next((id for name in _CALLS if isinstance(id := metadata.get(name), str)), None)


def session_title(metadata: Mapping[str, Any], messages: Iterable[Content]) -> str | None:
    """What a session is about: `metadata["title"]`, else the first message of a user.

    A message that a program wrote in the user's name is the title only if there is no other.
    """
    if isinstance(title := metadata.get("title"), str) and title.strip():
        return _shortened(title)
    said = [message.text.strip() for message in messages if message.role in (None, "user", "human")]
    texts = [text for text in said if text]
    written = (text for text in texts if not _is_of_a_program(text))
    return next((_shortened(text) for text in (*written, *texts)), None)


def _is_of_a_program(text: str) -> bool:
    """Whether a message is what Codex and others insert: an element, or the rules of a project."""
    opening = _ELEMENT.match(text)
    if opening is not None:
        return text.endswith(f"</{opening[1]}>")
    return text.startswith("# AGENTS.md instructions")


_ELEMENT = re.compile(r"<([A-Za-z][\w-]{0,60})>")


def _shortened(text: str) -> str:
    # A prompt may have megabytes; nothing after the first few hundred characters is part of a title.
    return " ".join(text.lstrip()[: 4 * TITLE_LENGTH_MAX].split())[:TITLE_LENGTH_MAX]


# Messages.


def _read_message(data: Document) -> Content:
    data = _unwrapped(data)
    role, rest = take(data, ("role",))
    if role is None:
        role = _implied_role(rest)
    if is_result(rest, role) and not _has_results(rest):
        result, rest = read_result(rest)
        return Content("tool", (result,), rest)
    if _is_item(rest):
        return Content(text_or_none(role), tuple(read_block(rest)), {})
    thoughts, rest = take(rest, ("thinking", "thought", "reasoning_content", "reasoning"))
    content, rest = take(rest, ("content", "contents", "text", "parts", "output", "delta"))
    calls, rest = take(rest, ("tool_calls", "function_call"))
    refusal, rest = take(rest, ("refusal",))
    spoken = list(read_blocks(content))
    parts = [
        *_read_thoughts(thoughts, spoken),
        *spoken,
        *read_blocks(refusal),
        *(read_call(dict(call))[0] for call in as_list(calls) if isinstance(call, dict)),
    ]
    return Content(text_or_none(role), tuple(parts), {k: v for k, v in rest.items() if v not in EMPTY})


def _has_results(data: Document) -> bool:
    """Whether the blocks of a message are results themselves."""
    blocks = (block for name in ("content", "contents") for block in as_list(data.get(name)))
    return any(isinstance(block, dict) and is_result(block, None) for block in blocks)


def _implied_role(message: Document) -> str | None:
    """The role of a message that says it in another way: Claude Code's notes, pydantic-ai's messages."""
    if message.get("type") == "system":
        return "system"
    if "parts" in message and message.get("kind") in ("request", "response"):
        return "user" if message["kind"] == "request" else "assistant"
    return None


def _unwrapped(data: Document) -> Document:
    """The message inside a chat completion, inside the line of a log, or inside the item of a framework."""
    choice = _chat_choice(data, "message")
    if choice is not None:
        return choice
    for name in ("item", "redact_message", "message"):
        inner = data.get(name)
        if isinstance(inner, dict) and not data.keys() & {"content", "contents", "text", "parts"}:
            data = dict(inner)
    content = data.get("content")
    if isinstance(content, dict) and "parts" in content:
        # Google's content has the role, and ADK's event around it an author.
        role = content.get("role") or data.get("author")
        data = {**data, "role": role, "content": content["parts"]}
    return data


def _chat_choice(data: Mapping[str, Any], name: str) -> Document | None:
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    found = first.get(name) if isinstance(first, dict) else None
    return dict(found) if isinstance(found, dict) else None


def _read_thoughts(thoughts: Any, spoken: list[Part]) -> Iterator[Thinking]:
    text = joined(read_blocks(thoughts))
    # SWE-agent repeats its thought at the start of its response.
    said = next((part.text for part in spoken if isinstance(part, Text)), "")
    if text and not said.lstrip().startswith(text.strip()):
        yield Thinking(text)


def _is_item(data: Document) -> bool:
    """Whether the data of a message is one item of OpenAI's Responses, or one block."""
    type = data.get("type")
    return isinstance(type, str) and (type == "message" or is_call(data, type) or type in THOUGHTS)


# Deltas.

_DELTAS: Mapping[str, Literal["text", "thinking", "input"]] = {
    "text": "text",
    "content": "text",
    "chunk": "text",
    "thinking": "thinking",
    "reasoning_content": "thinking",
    "reasoning": "thinking",
    "partial_json": "input",
}


def _delta_kind(type: Any) -> Literal["text", "thinking", "input"]:
    """The kind of a delta, by the type of an event of OpenAI's Responses."""
    if isinstance(type, str) and "reasoning" in type:
        return "thinking"
    return "input" if isinstance(type, str) and ("arguments" in type or "_call" in type) else "text"
