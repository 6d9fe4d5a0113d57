"""Tool calls and their results, in the spelling of every SDK."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from asm.content.fields import EMPTY, as_text, take, take_text
from asm.content.parts import ToolCall, ToolResult
from asm.documents import Document, check, parse

_IDS = ("tool_call_id", "tool_use_id", "toolCallId", "toolUseId", "call_id", "id")
_NAMES = ("name", "tool_name", "toolName", "tool")
_INPUTS = ("input", "tool_input", "toolInput", "arguments", "args", "parameters")
_OUTPUTS = ("output", "tool_output", "toolOutput", "result", "content", "response", "observation")
_ERRORS = ("error", "tool_error", "error_message", "exception")
_CALL_TYPES = ("function", "tool_use", "server_tool_use", "mcp_tool_use", "tool_call", "custom")
_CALL_WRAPPERS = ("function", "function_call", "functionCall", "tool_call", "tool_use", "toolUse", "custom")
_RESPONSE_WRAPPERS = ("function_response", "functionResponse")
_RESULT_WRAPPERS = (*_RESPONSE_WRAPPERS, "tool_result", "toolResult")
_RESULT_ENDINGS = ("tool_result", "function_result", "_call_output")


def is_call(block: Document, kind: str | None) -> bool:
    """Whether a block is a call of a tool. `kind` is its type, with underscores."""
    if kind is None:
        return any(isinstance(block.get(name), dict) for name in _CALL_WRAPPERS)
    return kind in _CALL_TYPES or kind.endswith("_call")


def is_result(block: Document, role: Any) -> bool:
    """Whether a block, or the message of this role, is the result of a tool."""
    type = block.get("type")
    if isinstance(type, str):
        return type.replace("-", "_").endswith(_RESULT_ENDINGS)
    return role in ("tool", "function") or any(isinstance(block.get(name), dict) for name in _RESULT_WRAPPERS)


def read_call(data: Document) -> tuple[ToolCall, Document]:
    """A call of a tool, and the fields that are not part of it."""
    data = _inside(data, _CALL_WRAPPERS)
    kind, rest = _take_type(data)
    id, rest = take_text(rest, _IDS)
    name, rest = take_text(rest, _NAMES)
    input, rest = take(rest, (*_INPUTS, "action") if kind and kind.endswith("_call") else _INPUTS, None)
    if kind and kind.endswith("_call"):
        # The id of an item of the Responses, beside the id of the call.
        rest.pop("id", None)
        rest.pop("status", None)
        name = name or kind.removesuffix("_call")
    if input is None and not any(each in data for each in _INPUTS):
        # Without a field for it, the other fields are the input.
        input, rest = rest, {}
    return ToolCall(name, _decoded(input), id), rest


def read_result(data: Document, *, failed: bool = False) -> tuple[ToolResult, Document]:
    """A result as its block has it, and the fields that are not part of it."""
    data = _inside(_with_response(data), _RESULT_WRAPPERS)
    _, rest = _take_type(data)
    id, rest = take_text(rest, _IDS)
    name, rest = take_text(rest, _NAMES)
    rest.pop("role", None)
    failed |= any(rest.pop(each, None) is True for each in ("is_error", "isError"))
    failed |= rest.get("status") == "error"
    if rest.get("status") in ("error", "success", "completed"):
        rest.pop("status")
    error, rest = take(rest, _ERRORS)
    output, rest = take(rest, _OUTPUTS, _ABSENT)
    if output is _ABSENT:
        # Without a field for it, the other fields are the output.
        output, rest = (rest or None), {}
    error = error_text(error) if error not in EMPTY else None
    return ToolResult(output, error, failed or error is not None, name, id), rest


_ABSENT: Any = object()


def _with_response(data: Document) -> Document:
    """A result of Google's API with the output or the error that is all of its response.

    The API has keys for both, and ADK has "result" for an output that is not an object.
    """
    for name in _RESPONSE_WRAPPERS:
        inner = data.get(name)
        response = inner.get("response") if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(response, dict) and len(response) == 1:
            key, value = next(iter(response.items()))
            if key in ("output", "result", "error"):
                rest = {each: inner[each] for each in inner if each != "response"}
                return {**data, name: {**rest, key: value}}
    return data


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
        decoded = parse(input)
        check(decoded, "input")
    except (ValueError, RecursionError):
        # A stream that ended early, or a shell script that begins with a brace.
        return input
    return decoded


def _take_type(data: Document) -> tuple[str | None, Document]:
    """The type of a block that is a call or a result. Another `type` belongs to the application."""
    type = data.get("type")
    kind = type.replace("-", "_") if isinstance(type, str) else ""
    if kind in _CALL_TYPES or kind.endswith(("_call", *_RESULT_ENDINGS)):
        return kind, {key: value for key, value in data.items() if key != "type"}
    return None, data


def error_text(error: Any) -> str:
    """An error as text: of an object its message, with its code or type."""
    if not isinstance(error, dict):
        return as_text(error)
    message, rest = take(dict(error), ("message", "error", "reason", "detail"))
    if not isinstance(message, str) or not message:
        return as_text(error)
    code = next((rest[name] for name in ("code", "type") if isinstance(rest.get(name), str | int)), None)
    return message if code is None else f"{message} ({code})"
