"""The messages of a Request in the form that each provider's API takes.

A session may have messages of several providers. Blocks of the provider that is called are passed on as
they are; of the blocks of another provider, the text is. A call without a result is left out, because a
provider refuses a message with one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from asm.content import Text, read_content
from asm.enums import EventType

Block: TypeAlias = dict[str, Any]
Message: TypeAlias = Mapping[str, Any]

_TEXTS = ("text", "input_text", "output_text")
"""The types of a block of text, in the spelling of each provider."""


# Anthropic.

_OF_OPENAI = frozenset({"message", "reasoning", "refusal", "function_call", "custom_tool_call"})


def anthropic_messages(messages: Sequence[Message]) -> list[Block]:
    """The messages of the Messages API. Those of the role `system` belong to its parameter `system`."""
    answered = _answered_calls(messages)
    turns: list[Block] = []
    for message in messages:
        role = message.get("role")
        if role == "tool":
            blocks = [_tool_result(message)]
        elif role == "assistant":
            blocks = list(_anthropic_blocks(message, answered))
        else:
            blocks = _spelled(message.get("content"), "text")
        if role == "tool" and turns and turns[-1]["content"][-1].get("type") == "tool_result":
            # The results of the calls of one message have to be in one message.
            turns[-1]["content"] += blocks
        elif blocks and role != "system":
            turns.append({"role": "user" if role == "tool" else role, "content": blocks})
    return turns


def _tool_result(message: Message) -> Block:
    return {
        "type": "tool_result",
        "tool_use_id": message.get("tool_call_id"),
        "content": _output(message.get("content"), "text"),
        "is_error": bool(message.get("is_error")),
    }


def _anthropic_blocks(message: Message, answered: set[str]) -> Iterator[Block]:
    known = set()
    for block in _spelled(message.get("content"), "text"):
        if block.get("type") in _OF_OPENAI:
            yield from _spelled(text_of([block]), "text")
        elif block.get("type") != "tool_use":
            yield block
        elif block.get("id") in answered:
            known.add(block["id"])
            yield block
    for call in _calls(message, answered - known):
        # That of a custom tool of OpenAI is a text, and Anthropic takes objects only.
        input = call["input"] if isinstance(call["input"], dict) else {"input": call["input"]}
        yield {"type": "tool_use", "id": call["id"], "name": call["name"], "input": input}


# OpenAI.

_OF_ANTHROPIC = frozenset({"text", "thinking", "redacted_thinking", "tool_use", "server_tool_use"})
_PARTS = frozenset({"output_text", "refusal"})


def openai_items(messages: Sequence[Message]) -> Iterator[Block]:
    """The input items of the Responses API."""
    answered = _answered_calls(messages)
    custom = {call["id"] for message in messages for call in _calls(message, answered) if _is_custom(call)}
    for message in messages:
        role = message.get("role")
        if role == "assistant":
            yield from _output_items(message, answered)
        elif role == "tool":
            id = message.get("tool_call_id")
            kind = "custom_tool_call_output" if id in custom else "function_call_output"
            yield {"type": kind, "call_id": id, "output": _call_output(message)}
        else:
            yield {"role": role, "content": _spelled(message.get("content"), "input_text")}


def _is_custom(call: Message) -> bool:
    """Whether a call is of a custom tool, whose input is a text. That of a function is a JSON object."""
    return isinstance(call["input"], str)


def _call_output(message: Message) -> str | list[Block]:
    output = _output(message.get("content"), "input_text")
    if not message.get("is_error"):
        return output
    # An output has no field that says so.
    return f"Error: {output}" if isinstance(output, str) else [*_spelled("Error:", "input_text"), *output]


def _output_items(message: Message, answered: set[str]) -> Iterator[Block]:
    known = set()
    blocks = _blocks(message.get("content"))
    # OpenAI stores nothing, so it takes thoughts back only with their encrypted content. Without them, no
    # item may refer to them by its id.
    has_thoughts = any(block.get("encrypted_content") for block in blocks)
    for block in blocks:
        kind = block.get("type", "")
        is_item = kind not in _OF_ANTHROPIC | _PARTS and not kind.endswith("_tool_result")
        if not is_item or (kind == "message" and not has_thoughts):
            yield from _assistant_text(block)
        elif kind == "function_call":
            if block.get("call_id") in answered:
                known.add(block["call_id"])
                yield {key: value for key, value in block.items() if key != "id" or has_thoughts}
        elif kind != "reasoning" or block.get("encrypted_content"):
            yield block
    for call in _calls(message, answered - known):
        yield _call_item(call)


def _assistant_text(block: Block) -> Iterator[Block]:
    if text := text_of([block]):
        phase = {"phase": block["phase"]} if "phase" in block else {}
        yield {"role": "assistant", "content": text, **phase}


def _call_item(call: Message) -> Block:
    named = {"call_id": call["id"], "name": call["name"]}
    if _is_custom(call):
        return {"type": "custom_tool_call", **named, "input": call["input"]}
    return {"type": "function_call", **named, "arguments": json.dumps(call["input"], ensure_ascii=False)}


# Claude Code.


async def claude_code_input(messages: Sequence[Message]) -> AsyncIterator[Block]:
    """The one message that Claude Code takes: what is new, after a text of what was said before."""
    said = [message for message in messages if message.get("role") != "system"]
    earlier = max((n for n, each in enumerate(said, 1) if each.get("role") != "user"), default=0)
    blocks = [block for message in said[earlier:] for block in _spelled(message.get("content"), "text")]
    if earlier:
        told = "\n\n".join(map(_told, said[:earlier]))
        blocks.insert(0, {"type": "text", "text": f"The conversation before this message:\n\n{told}"})
    yield {"type": "user", "message": {"role": "user", "content": blocks}, "parent_tool_use_id": None}


def _told(message: Message) -> str:
    calls = (f"{call['name']} {_output(call['input'], 'text')}" for call in message.get("tool_calls") or ())
    return f"{message.get('role')}: " + "\n".join(filter(None, [text_of(message.get("content")), *calls]))


# Any provider.


def text_of(content: Any) -> str:
    """What a message says, in the blocks of any provider."""
    parts = read_content(EventType.MESSAGE_RECEIVED, {"content": content}).parts
    return "\n".join(part.text for part in parts if isinstance(part, Text))


def system_text(system: str | None, messages: Sequence[Message]) -> str | None:
    """The system prompt and the messages of the role `system`, as one text."""
    texts = [text_of(each.get("content")) for each in messages if each.get("role") == "system"]
    return "\n\n".join(filter(None, [system, *texts])) or None


def _blocks(content: Any) -> list[Block]:
    """The blocks of a message's content: a text, or a list of blocks and texts. Empty texts are left out."""
    contents = content if isinstance(content, list | tuple) else [content]
    blocks = [{"type": "text", "text": each} if isinstance(each, str) else each for each in contents]
    return [dict(block) for block in blocks if block and block.get("text") != ""]


def _spelled(content: Any, type: str) -> list[Block]:
    """The blocks of a message's content, with those of text under the given type."""
    return [{**each, "type": type} if each.get("type") in _TEXTS else each for each in _blocks(content)]


def _output(content: Any, type: str) -> str | list[Block]:
    """The output of a tool: text and blocks as they are, anything else as JSON."""
    if isinstance(content, list) and all(isinstance(each, dict) and "type" in each for each in content):
        return _spelled(content, type)
    if isinstance(content, str):
        return content
    return "" if content is None else json.dumps(content, ensure_ascii=False)


def _answered_calls(messages: Sequence[Message]) -> set[str]:
    """The ids of the calls that have a result."""
    return {id for message in messages for id in _answers(message) if isinstance(id, str)}


def _answers(message: Message) -> Iterator[Any]:
    if message.get("role") == "tool":
        yield message.get("tool_call_id")
    elif not isinstance(content := message.get("content"), str):
        yield from (block.get("tool_use_id") for block in _blocks(content))


def _calls(message: Message, ids: set[str]) -> list[Message]:
    """The calls of an assistant's message with these ids."""
    return [call for call in message.get("tool_calls") or () if call["id"] in ids]
