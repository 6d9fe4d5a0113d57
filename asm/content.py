"""The data of events, read as content: text, thinking, attachments, tool calls and their results.

Applications store in `Event.data` what their provider's SDK gives them, and each SDK spells it in its own
way. This module reads the project's own vocabulary (`{"role", "content"}`, `{"name", "input"}`,
`{"output"}`, `{"error"}`, `{"delta"}`), the messages and content blocks of Anthropic, OpenAI (chat and
Responses) and Google, and the `tool_name`, `tool_input` and `tool_output` of agent_session_manager. It does
no I/O, and it never raises: what it does not recognize is part of the result as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from asm.documents import Document, check
from asm.enums import EventType

P = TypeVar("P")

TITLE_LENGTH_MAX = 200
"""The characters of a title. The rest is left out."""

MESSAGES = (EventType.MESSAGE_SENT, EventType.MESSAGE_RECEIVED, EventType.MESSAGE_STREAMED)
RESULTS = (EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED)


@dataclass(frozen=True, slots=True)
class Text:
    """Text that was said."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """Text that a model thought."""

    text: str


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a sound or a file. `description` has its name, its address, or its type and size."""

    kind: str
    description: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool. An input that is JSON in a string is decoded."""

    name: str | None
    input: Any
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returned, or the error with which it failed. Content blocks are joined to one string."""

    output: Any
    error: str | None = None
    failed: bool = False
    name: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """A content block of a kind that is not known."""

    value: Any


Part: TypeAlias = Text | Thinking | Media | ToolCall | ToolResult | Other


@dataclass(frozen=True, slots=True)
class Content:
    """The parts of an event's data in their order, and the fields that are not part of any."""

    role: str | None = None
    parts: tuple[Part, ...] = ()
    rest: Document = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What was said, without thinking and tools."""
        return "\n".join(part.text for part in self.of(Text))

    @property
    def calls(self) -> list[ToolCall]:
        return self.of(ToolCall)

    def of(self, kind: type[P]) -> list[P]:
        """The parts of one kind."""
        return [part for part in self.parts if isinstance(part, kind)]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a message, as a stream delivers it. `input` is a piece of a tool call's JSON."""

    kind: Literal["text", "thinking", "input"]
    text: str


def read_content(type: str, data: Mapping[str, Any]) -> Content:
    """The content of an event of this type."""
    if type == EventType.TOOL_CALL_STARTED:
        call, rest = _read_call(dict(data))
        return Content(parts=(call,), rest=rest)
    if type in RESULTS:
        result, rest = _read_result(dict(data), failed=type == EventType.TOOL_CALL_FAILED)
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


def error_text(error: Any) -> str:
    """An error as text: of an object its message, with its code or type."""
    if not isinstance(error, dict):
        return _as_text(error)
    message, rest = _take(dict(error), ("message", "error", "reason", "detail"))
    if not isinstance(message, str) or not message:
        return _as_text(error)
    code = next((rest[name] for name in ("code", "type") if isinstance(rest.get(name), str | int)), None)
    return message if code is None else f"{message} ({code})"


def session_title(metadata: Mapping[str, Any], messages: Iterable[Content]) -> str | None:
    """What a session is about: `metadata["title"]`, else the first message of a user."""
    if isinstance(title := metadata.get("title"), str) and title.strip():
        return _shortened(title)
    said = (message.text for message in messages if message.role in (None, "user", "human"))
    return next((_shortened(text) for text in said if text.strip()), None)


def _shortened(text: str) -> str:
    # A prompt may have megabytes; nothing after the first few hundred characters is part of a title.
    return " ".join(text.lstrip()[: 4 * TITLE_LENGTH_MAX].split())[:TITLE_LENGTH_MAX]


# Messages.


def _read_message(data: Document) -> Content:
    data = _unwrapped(data)
    role, rest = _take(data, ("role",))
    if _is_result(rest, role):
        result, rest = _read_result(rest)
        return Content("tool", (result,), rest)
    if _is_item(rest):
        return Content(_text_or_none(role), tuple(_read_block(rest)), {})
    thoughts, rest = _take(rest, ("thinking", "thought", "reasoning_content", "reasoning"))
    content, rest = _take(rest, ("content", "text", "parts", "output", "delta"))
    calls, rest = _take(rest, ("tool_calls", "function_call"))
    refusal, rest = _take(rest, ("refusal",))
    spoken = list(_read_blocks(content))
    parts = [
        *_read_thoughts(thoughts, spoken),
        *spoken,
        *_read_blocks(refusal),
        *(_read_call(dict(call))[0] for call in _as_list(calls) if isinstance(call, dict)),
    ]
    return Content(_text_or_none(role), tuple(parts), {k: v for k, v in rest.items() if v not in _EMPTY})


_EMPTY: tuple[Any, ...] = (None, "", [], {})


def _unwrapped(data: Document) -> Document:
    """The message inside a chat completion, or inside the line of a log."""
    choice = _chat_choice(data, "message")
    if choice is not None:
        return choice
    inner = data.get("message")
    if isinstance(inner, dict) and not data.keys() & {"content", "text", "parts"}:
        return dict(inner)
    return data


def _chat_choice(data: Mapping[str, Any], name: str) -> Document | None:
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    found = first.get(name) if isinstance(first, dict) else None
    return dict(found) if isinstance(found, dict) else None


def _read_thoughts(thoughts: Any, spoken: list[Part]) -> Iterator[Thinking]:
    text = _joined(_read_blocks(thoughts))
    # SWE-agent repeats its thought at the start of its response.
    said = next((part.text for part in spoken if isinstance(part, Text)), "")
    if text and not said.lstrip().startswith(text.strip()):
        yield Thinking(text)


# Content blocks.


def _read_blocks(content: Any, depth: int = 0) -> Iterator[Part]:
    for block in _as_list(content):
        if isinstance(block, dict) and depth < _DEPTH_MAX:
            yield from _read_block(block, depth + 1)
        elif isinstance(block, str):
            if block.strip():
                yield Text(block)
        elif block is not None:
            yield Other(block)


_DEPTH_MAX = 8


def _read_block(block: Document, depth: int = 0) -> Iterator[Part]:
    type = block.get("type")
    kind = type.replace("-", "_") if isinstance(type, str) else None
    if kind in _TEXTS or (kind is None and isinstance(block.get("text"), str)):
        text, rest = _take(block, ("text", "refusal", "value"))
        text = text if isinstance(text, str) else _as_text(text)
        if text.strip():
            yield Thinking(text) if rest.get("thought") is True else Text(text)
    elif kind in _THOUGHTS:
        yield _read_thought(block, depth)
    elif kind == "message":
        yield from _read_blocks(block.get("content"), depth)
    elif _is_result(block, None):
        yield _read_result(dict(block))[0]
    elif _is_call(block, kind):
        yield _read_call(dict(block))[0]
    elif kind in _MEDIA or block.keys() & {"inlineData", "inline_data", "fileData", "file_data"}:
        yield _read_media(kind or "file", block)
    else:
        yield Other(block)


_TEXTS = ("text", "input_text", "output_text", "refusal")
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_text", "summary_text")
_MEDIA = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "output_image": "image",
    "audio": "audio",
    "input_audio": "audio",
    "output_audio": "audio",
    "video": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
}


def _read_thought(block: Document, depth: int) -> Thinking:
    thought, _ = _take(block, ("thinking", "text", "summary", "content"))
    parts = _read_blocks(thought, depth)
    # A Responses item's summary is a list of `summary_text` blocks, which are thinking themselves.
    return Thinking(_joined(parts) or "(hidden)")


def _read_media(kind: str, block: Document) -> Media:
    """Describe an attachment by its name or address, and by its type and size, without its bytes."""
    values = dict(_scalars(block))
    type = next((values[name] for name in _MEDIA_TYPES if name in values), None)
    names = (values[name] for name in ("filename", "file_name", "title", "name") if name in values)
    addresses = (
        values[name]
        for name in ("url", "image_url", "file_url", "file_uri", "fileUri", "file_id")
        if name in values
    )
    words = [*names, *(each for each in addresses if not each.startswith("data:"))]
    encoded = next((values[name] for name in ("data", "file_data") if name in values), "")
    for address in (values.get("url", ""), values.get("image_url", ""), encoded):
        if address.startswith("data:"):
            head, _, encoded = address.partition(",")
            type = type or head[5:].partition(";")[0]
    if type:
        words.append(type)
    if encoded:
        words.append(f"{len(encoded) * 3 // 4:,} bytes")
    return Media(_MEDIA.get(kind, kind), ", ".join(words))


_MEDIA_TYPES = ("media_type", "mime_type", "mimeType", "format")


def _scalars(block: Document, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The strings of a block and of the objects in it."""
    for name, value in block.items():
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, dict) and depth < 2:
            yield from _scalars(value, depth + 1)


# Tools.

_IDS = ("tool_call_id", "tool_use_id", "toolCallId", "call_id", "id")
_NAMES = ("name", "tool_name", "toolName", "tool")
_INPUTS = ("input", "tool_input", "toolInput", "arguments", "args", "parameters")
_OUTPUTS = ("output", "tool_output", "toolOutput", "result", "content", "response", "observation")
_ERRORS = ("error", "tool_error", "error_message")
_CALL_TYPES = ("function", "tool_use", "server_tool_use", "mcp_tool_use", "tool_call", "custom")
_CALL_WRAPPERS = ("function", "function_call", "functionCall", "tool_call", "tool_use", "custom")
_RESULT_WRAPPERS = ("function_response", "functionResponse", "tool_result")


def _is_item(data: Document) -> bool:
    """Whether the data of a message is one item of OpenAI's Responses, or one block."""
    type = data.get("type")
    return isinstance(type, str) and (type == "message" or _is_call(data, type) or type in _THOUGHTS)


def _is_call(block: Document, kind: str | None) -> bool:
    if kind is None:
        return any(isinstance(block.get(name), dict) for name in _CALL_WRAPPERS)
    return kind in _CALL_TYPES or kind.endswith("_call")


def _is_result(block: Document, role: Any) -> bool:
    type = block.get("type")
    if isinstance(type, str):
        return type.replace("-", "_").endswith(("tool_result", "_call_output"))
    return role in ("tool", "function") or any(isinstance(block.get(name), dict) for name in _RESULT_WRAPPERS)


def _read_call(data: Document) -> tuple[ToolCall, Document]:
    data = _inside(data, _CALL_WRAPPERS)
    kind, rest = _take_type(data)
    id, rest = _take_text(rest, _IDS)
    # Google and the Responses give a call an `id` beside the id that its result repeats.
    name, rest = _take_text(rest, _NAMES)
    input, rest = _take(rest, (*_INPUTS, "action") if kind and kind.endswith("_call") else _INPUTS, None)
    if kind and kind.endswith("_call"):
        rest.pop("id", None)
        rest.pop("status", None)
        name = name or kind.removesuffix("_call")
    if input is None and not any(each in data for each in _INPUTS):
        # Without a field for it, the other fields are the input.
        input, rest = rest, {}
    return ToolCall(name, _decoded(input), id), rest


def _read_result(data: Document, *, failed: bool = False) -> tuple[ToolResult, Document]:
    data = _inside(data, _RESULT_WRAPPERS)
    _, rest = _take_type(data)
    id, rest = _take_text(rest, _IDS)
    name, rest = _take_text(rest, _NAMES)
    rest.pop("role", None)
    failed |= any(rest.pop(each, None) is True for each in ("is_error", "isError"))
    failed |= rest.get("status") == "error"
    if rest.get("status") in ("error", "success", "completed"):
        rest.pop("status")
    error, rest = _take(rest, _ERRORS)
    output, rest = _take(rest, _OUTPUTS, _ABSENT)
    if output is _ABSENT:
        # Without a field for it, the other fields are the output.
        output, rest = (rest or None), {}
    output, said = _result_output(output)
    error = error_text(error) if error not in _EMPTY else None
    return ToolResult(output, error, failed or said or error is not None, name, id), rest


_ABSENT: Any = object()


def _result_output(output: Any) -> tuple[Any, bool]:
    """The output with its content blocks joined, and whether it says itself that it is an error."""
    if isinstance(output, dict) and isinstance(output.get("content"), list):
        text, _ = _result_output(output["content"])
        # An MCP result; what else it has is kept.
        only_content = not output.keys() - {"content", "isError", "is_error", "_meta", "structuredContent"}
        is_error = output.get("isError") is True or output.get("is_error") is True
        return (text if only_content else output), is_error
    if isinstance(output, list) and output and all(map(_is_shown_block, output)):
        return _joined(_read_blocks(output)), False
    return output, False


def _is_shown_block(block: Any) -> bool:
    return isinstance(block, dict) and (
        block.get("type") in (*_TEXTS, *_MEDIA)
        or (block.keys() == {"text"} and isinstance(block["text"], str))
    )


def _inside(data: Document, wrappers: Iterable[str]) -> Document:
    """The fields of a call or result, and those of an object that it wraps."""
    for name in wrappers:
        if isinstance(inner := data.get(name), dict):
            return {**{key: value for key, value in data.items() if key != name}, **inner}
    return data


def _decoded(input: Any) -> Any:
    """The arguments of a call that OpenAI gives as JSON in a string."""
    if not isinstance(input, str) or not input.lstrip().startswith("{"):
        return input
    try:
        decoded = json.loads(input)
        check(decoded, "input")
    except (ValueError, RecursionError):
        # A stream that ended early, or a shell script that begins with a brace.
        return input
    return decoded


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


# Fields.


def _take(data: Document, names: Iterable[str], default: Any = None) -> tuple[Any, Document]:
    """The first of these fields that is there, and the other fields."""
    for name in names:
        if name in data and data[name] is not None:
            return data[name], {key: value for key, value in data.items() if key != name}
    return default, dict(data)


def _take_text(data: Document, names: Iterable[str]) -> tuple[str | None, Document]:
    """The first of these fields that is text, and the other fields."""
    value, rest = _take({key: each for key, each in data.items() if isinstance(each, str)}, names)
    if value is None:
        return None, dict(data)
    return value, {key: each for key, each in data.items() if key in rest or not isinstance(each, str)}


def _take_type(data: Document) -> tuple[str | None, Document]:
    """The type of a block that is a call or a result. Another `type` belongs to the application."""
    type = data.get("type")
    kind = type.replace("-", "_") if isinstance(type, str) else ""
    if kind in _CALL_TYPES or kind.endswith(("_call", "_call_output", "tool_result")):
        return kind, {key: value for key, value in data.items() if key != "type"}
    return None, data


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _joined(parts: Iterable[Part]) -> str:
    return "\n".join(filter(None, map(_part_text, parts)))


def _part_text(part: Part) -> str:
    if isinstance(part, Text | Thinking):
        return part.text
    if isinstance(part, Media):
        return f"[{part.kind} {part.description}]" if part.description else f"[{part.kind}]"
    return _as_text(part.value) if isinstance(part, Other) else ""


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
