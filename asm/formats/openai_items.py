"""Items of OpenAI's Responses, as Codex and the OpenAI Agents SDK store them, as events.

The functions know one item and no session. An item is foreign data: any field may be absent or have another
type, and is then left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.session_rows import snake_case, without
from asm.models import EventType

_ROLES = {"user": "user", "developer": "system", "system": "system", "tool": "tool"}
_CALL, _OUTPUT = "_call", "_call_output"

_INPUTS = ("arguments", "input", "action", "code", "queries", "operation")
"""The field that has the input of a call, by the type of the call."""

_RESULTS = ("output", "outputs", "result", "results", "tools", "error")
"""The fields that have the result of a call which the provider has run."""

_ENDED = ("completed", "failed", "incomplete", "cancelled")
_HEADER = re.compile(r"(Exit code: |Process exited with code |Wall time: )(-?\d{1,10}(?:\.\d{1,12})?)")
_HEADER_LINES = 8
_HEADER_LENGTH = 500


@dataclass(slots=True)
class Draft:
    """An event before it has an id, a time and a session. `rest` is what the data does not have."""

    type: str
    data: Document
    rest: Document = field(default_factory=dict)
    call_id: str | None = None
    part: str = ""


def drafts_of(item: Document, own_type: Callable[[str], str]) -> Iterator[Draft]:
    """The events of an item. `own_type` makes the type of one that has no type in the vocabulary."""
    kind = item.get("type")
    if kind == "message" or (kind is None and "role" in item):
        yield _message(item)
    elif kind == "reasoning":
        yield _reasoning(item, own_type)
    elif isinstance(kind, str) and is_output(item):
        yield _output(item)
    elif isinstance(kind, str) and kind.endswith(_CALL):
        yield _call(item, kind)
        if (ended := _hosted_result(item, kind)) is not None:
            yield ended
    else:
        yield Draft(own_type(snake_case(kind)), without(item, "type"))


def is_output(item: Mapping[str, Any]) -> bool:
    """Whether an item is the result of a call."""
    kind = item.get("type")
    return isinstance(kind, str) and (kind.endswith(_OUTPUT) or kind == "tool_search_output")


def is_answer(item: Mapping[str, Any]) -> bool:
    """Whether an item is what a model has said or done, and not what it was told."""
    kind = item.get("type")
    if kind == "message" or kind is None:
        return item.get("role") == "assistant"
    return isinstance(kind, str) and (kind == "reasoning" or kind.endswith(_CALL))


def texts_of(content: Any) -> list[str]:
    """The texts of the content of a message."""
    if isinstance(content, str):
        return [content]
    blocks = content if isinstance(content, list) else []
    texts = [block.get("text", block.get("refusal")) for block in blocks if isinstance(block, dict)]
    return [each for each in texts if isinstance(each, str)]


# Messages.


def plain(content: Any) -> Any:
    """A content of one text as this text."""
    if isinstance(content, list) and len(content) == 1 and isinstance(block := content[0], dict):
        is_text = block.get("type") in ("input_text", "output_text", "text")
        if is_text and isinstance(block.get("text"), str) and not without(block, "type", "text", *_EMPTY):
            return block["text"]
    return content


_EMPTY = ("annotations", "logprobs")
"""Fields of a text that are lists, empty unless the text cites something."""


def _message(item: Document) -> Draft:
    role = item.get("role")
    content = item.get("content")
    if role == "assistant":
        data = {"role": "assistant", "content": plain(content)}
        return Draft(EventType.MESSAGE_RECEIVED, data, _around(item, "content"))
    known = _ROLES.get(role) if isinstance(role, str) else None
    rest = _around(item, "content") | ({} if known == role else without({"role": role}))
    return Draft(EventType.MESSAGE_SENT, {"role": known or "user", "content": plain(content)}, rest)


def thoughts_of(item: Mapping[str, Any]) -> list[str]:
    """The texts of an item with reasoning: its summary, and what a model reasoned if it was not withheld."""
    return [*texts_of(item.get("summary")), *texts_of(item.get("content"))]


def _reasoning(item: Document, own_type: Callable[[str], str]) -> Draft:
    thoughts = thoughts_of(item)
    if not any(map(str.strip, thoughts)):
        return Draft(own_type("reasoning"), {}, without(item, "type", "summary"))
    data = {"role": "assistant", "thinking": "\n\n".join(thoughts)}
    return Draft(EventType.MESSAGE_RECEIVED, data, without(item, "type", "summary", "content"))


def _around(item: Document, *names: str) -> Document:
    return without(item, "type", "role", *names)


# Calls.


def _call(item: Document, kind: str) -> Draft:
    name = item.get("name")
    inputs = [each for each in _INPUTS if item.get(each) is not None]
    if not isinstance(name, str) or not name:
        name = kind.removesuffix(_CALL)
    input = decoded(item[inputs[0]]) if inputs else {}
    rest = without(item, "type", "name", "call_id", *inputs[:1], *_RESULTS)
    return Draft(EventType.TOOL_CALL_STARTED, {"name": name, "input": input}, rest, call_id_of(item))


def call_id_of(item: Mapping[str, Any]) -> str | None:
    """The id that a call and its result have."""
    ids = (item.get("call_id"), item.get("approval_request_id"), item.get("id"))
    return next((id for id in ids if isinstance(id, str) and id), None)


def decoded(arguments: Any) -> Any:
    """The arguments of a call, which are JSON in a text, or the text if it is not JSON."""
    if not isinstance(arguments, str) or not arguments.lstrip().startswith(("{", "[")):
        return arguments
    try:
        return text.parse_json(arguments.encode())
    except (ValidationError, UnicodeEncodeError):
        return arguments


def _hosted_result(item: Document, kind: str) -> Draft | None:
    """The result of a call that the provider has run, which is in the item of the call."""
    found = without({name: item.get(name) for name in _RESULTS})
    has_own_output = kind in ("function_call", "custom_tool_call", "local_shell_call", "tool_search_call")
    # A call that the application runs has an id for its output.
    has_own_output |= not found and isinstance(item.get("call_id"), str)
    if has_own_output or not (found or item.get("status") in _ENDED):
        return None
    output: Any = found or {"status": item["status"]}
    if len(found) == 1:
        (output,) = found.values()
    if "error" in found or item.get("status") == "failed":
        error = found.pop("error", output)
        data = {"error": error, **({"output": found} if found else {})}
        return Draft(EventType.TOOL_CALL_FAILED, data, call_id=call_id_of(item), part="result")
    return Draft(EventType.TOOL_CALL_COMPLETED, {"output": output}, call_id=call_id_of(item), part="result")


# Results.


def _output(item: Document) -> Draft:
    result = read_output(item.get("output", item.get("tools")))
    rest = without(item, "type", "output", "tools", "call_id") | result.rest
    return Draft(
        EventType.TOOL_CALL_FAILED if result.has_failed else EventType.TOOL_CALL_COMPLETED,
        result.data(),
        rest,
        call_id_of(item),
    )


@dataclass(slots=True)
class Result:
    """What a tool has returned, with what its output says of how it ran."""

    output: Any
    exit_code: int | None = None
    duration_s: float | None = None
    is_success: bool | None = None
    rest: Document = field(default_factory=dict)

    @property
    def has_failed(self) -> bool:
        return self.is_success is False or self.exit_code not in (None, 0)

    def data(self) -> Document:
        name = "error" if self.has_failed else "output"
        how = without({"exit_code": self.exit_code, "duration_s": self.duration_s})
        return {name: self.output, **how}


def read_output(output: Any) -> Result:
    """The result in the output of a call.

    It is a text, or blocks. Codex up to 0.4x wrote a JSON text {output, metadata: {exit_code,
    duration_seconds}}, later versions a text that begins with these, or {content, success}.
    """
    if isinstance(output, str):
        return _of_text(output)
    if isinstance(output, dict) and "success" in output and "content" in output:
        success = output["success"]
        result = _of_text(output["content"]) if isinstance(output["content"], str) else Result(output)
        result.is_success = success if isinstance(success, bool) else None
        return result
    return Result(plain([output] if isinstance(output, dict) and "type" in output else output))


def _of_text(output: str) -> Result:
    whole = decoded(output) if output.startswith('{"output"') else None
    if isinstance(whole, dict) and isinstance(about := whole.get("metadata"), dict):
        return _measured(whole.get("output"), about, without(whole, "output", "metadata"))
    found = dict(_HEADER.findall("\n".join(_header(output))))
    code = found.get("Exit code: ", found.get("Process exited with code "))
    wall = found.get("Wall time: ")
    return Result(
        output, None if code is None else int(float(code)), None if wall is None else abs(float(wall))
    )


def _measured(output: Any, about: Document, rest: Document) -> Result:
    result = Result(output, _exit_code(about.get("exit_code")), _seconds(about.get("duration_seconds")))
    read = {"exit_code": result.exit_code, "duration_seconds": result.duration_s}
    if others := without(about, *without(read)):
        rest["metadata"] = others
    result.rest = rest
    return result


def _header(output: str) -> Iterator[str]:
    """The lines of an output that say how the command ran. The output follows a line "Output:"."""
    lines = output[:_HEADER_LENGTH].split("\n", _HEADER_LINES)[:_HEADER_LINES]
    if not lines[0].startswith(("Exit code: ", "Wall time: ", "Chunk ID: ", "Process exited ")):
        return
    for line in lines:
        if line == "Output:":
            return
        if _HEADER.match(line):
            yield line


def _exit_code(value: Any) -> int | None:
    return value if type(value) is int else None


def _seconds(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and value >= 0 else None
