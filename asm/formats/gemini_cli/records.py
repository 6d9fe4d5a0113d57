"""What one message of Gemini CLI says, as drafts of events. The functions know no other message.

The files are foreign data: any field may be absent or have another type, and is then left as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from asm.documents import Document
from asm.formats.session_rows import counts_of, snake_case, time_of, token_number, without
from asm.models import EventType

_CONTEXTS = ("<session_context>", "<hook_context>", "This is the Gemini CLI. We are setting up the context")
"""How texts begin that Gemini CLI writes for the model in the name of the user."""

_FINAL = ("success", "error", "cancelled")
"""The statuses of a call that has ended."""

_CALL_FIELDS = ("id", "name", "args", "result", "status", "timestamp")
_MESSAGE_FIELDS = ("id", "timestamp", "type", "content", "toolCalls", "thoughts", "tokens")

CANCELLED = "Request cancelled."
"""What Gemini CLI says when the user has interrupted the model."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has an id and a session. `part` names it among the events of its message."""

    part: str
    type: str
    data: Document = field(default_factory=dict)
    correlation_id: str | None = None
    at: datetime | None = None
    identity: Any = None
    """What tells whether the part was changed, if not its data."""
    rest: Document = field(default_factory=dict)


def drafts_of(record: Mapping[str, Any]) -> list[Draft]:
    """The events of a message. Those of responses to calls are in `responses_of`."""
    kind = record.get("type")
    if kind in ("gemini", "model"):
        return [*_thoughts(record), *_said(record, "assistant"), *_calls(record)]
    if kind == "user":
        return list(_said(record, "user"))
    content = record.get("content")
    if kind == "error":
        message = text_of(content)
        data = {"message": message} if message else {"message": "an error", "content": content}
        return [Draft("content", EventType.ERROR_OCCURRED, data)]
    if kind in ("info", "warning"):
        return [Draft("content", f"gemini_cli.{kind}", {"content": _content(content)})]
    return [Draft("content", f"gemini_cli.{snake_case(kind)}", without(record, "id", "type", "timestamp"))]


def rest_of(record: Mapping[str, Any]) -> Document:
    """The fields of a message that its events do not have."""
    known = record.get("type") in ("user", "gemini", "model", "info", "error", "warning")
    rest = without(record, *_MESSAGE_FIELDS) if known else {}
    if time_of(record.get("timestamp")) is None and record.get("timestamp") is not None:
        rest["timestamp"] = record["timestamp"]
    from_model = record.get("type") in ("gemini", "model")
    read = {"toolCalls": _is_list_of_objects, "thoughts": _is_list, "tokens": _is_object}
    for name, is_read in read.items() if known else ():
        value = record.get(name)
        if value is not None and not (from_model and is_read(value)):
            rest[name] = value
    return rest


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_object, value))


# What a message says.


def is_prompt(record: Mapping[str, Any]) -> bool:
    """Whether a message is one that a person has sent to the model."""
    if record.get("type") != "user" or any(True for _ in responses_of(record)):
        return False
    return not text_of(record.get("content")).lstrip().startswith(_CONTEXTS)


def prompt_of(record: Mapping[str, Any]) -> Any:
    """What a person has sent."""
    return _content(record.get("content"))


def text_of(content: Any) -> str:
    """The text of a content, without thoughts."""
    if isinstance(content, str):
        return content
    said = (part for part in parts_of(content) if not _is_thought(part))
    parts = (part if isinstance(part, str) else _field(part, "text") for part in said)
    return "".join(part for part in parts if isinstance(part, str))


def parts_of(content: Any) -> list[Any]:
    """The parts of a content, which is a text, a part, or a list of both."""
    if content is None or content == "":
        return []
    return content if isinstance(content, list) else [content]


def _field(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, dict) else None


def _content(content: Any) -> Any:
    """A content as events have it: a text if it is nothing else, or a list of parts."""
    parts = parts_of(content)
    texts = [part if isinstance(part, str) else _field(part, "text") for part in parts]
    is_plain = all(isinstance(part, str) or part.keys() == {"text"} for part in parts if _is_part(part))
    if is_plain and all(isinstance(text, str) for text in texts):
        return "".join(texts)
    return [{"type": "text", "text": part} if isinstance(part, str) else _block(part) for part in parts]


def _is_part(part: Any) -> bool:
    return isinstance(part, str | dict)


def _block(part: Any) -> Any:
    if isinstance(part, dict) and isinstance(part.get("text"), str) and "type" not in part:
        return {"type": "text", **part}
    return part


def _said(record: Mapping[str, Any], role: str) -> Iterator[Draft]:
    parts = parts_of(record.get("content"))
    thoughts = [part for part in parts if _is_thought(part)]
    said = [part for part in parts if not (_is_call(part) or _is_response(part) or _is_thought(part))]
    type = EventType.MESSAGE_RECEIVED if role == "assistant" else EventType.MESSAGE_SENT
    for number, part in enumerate(thoughts):
        data = {"role": role, "thinking": part["text"]}
        yield Draft(f"thinking {number}", type, data, rest=without(part, "text", "thought"))
    if said or (role == "user" and not parts):
        whole = record.get("content") if len(said) == len(parts) else said
        yield Draft("content", type, {"role": role, "content": _content(whole)})


def _is_thought(part: Any) -> bool:
    return _field(part, "thought") is True and isinstance(part.get("text"), str)


def _thoughts(record: Mapping[str, Any]) -> Iterator[Draft]:
    thoughts = record.get("thoughts")
    for number, thought in enumerate(thoughts if isinstance(thoughts, list) else []):
        if not thought:
            continue
        said = [_field(thought, name) for name in ("subject", "description")]
        subject, description = (text if isinstance(text, str) else "" for text in said)
        text = "\n".join(filter(None, (f"**{subject}**" if subject else "", description)))
        at = time_of(_field(thought, "timestamp"))
        known = ("subject", "description", "timestamp")
        rest = without(thought, *known) if isinstance(thought, dict) else {"thought": thought}
        data = {"role": "assistant", "thinking": text}
        yield Draft(f"thought {number}", EventType.MESSAGE_RECEIVED, data, at=at, rest=rest)


# Calls and their results.


def _is_call(part: Any) -> bool:
    return isinstance(_field(part, "functionCall"), dict)


def _is_response(part: Any) -> bool:
    return isinstance(_field(part, "functionResponse"), dict)


def _calls(record: Mapping[str, Any]) -> Iterator[Draft]:
    """The calls of a message and the results of those that have ended. A content may repeat the calls."""
    said = set()
    for number, part in enumerate(filter(_is_call, parts_of(record.get("content")))):
        call = part["functionCall"]
        id = _id_of(call, number, record)
        said.add(id)
        yield _started(id, call, {**without(call, "id", "name", "args"), **without(part, "functionCall")})
    calls = record.get("toolCalls")
    recorded: Any = calls if _is_list_of_objects(calls) else []
    for number, call in enumerate(recorded):
        id, has_ended = _id_of(call, number, record), call.get("status") in _FINAL
        rest = without(call, *_CALL_FIELDS)
        if id not in said:
            yield _started(id, call, {} if has_ended else rest)
        if has_ended:
            yield _ended(id, call, rest)


def _id_of(call: Mapping[str, Any], number: int, record: Mapping[str, Any]) -> str:
    """The id of a call or a response. One without an id has that of its message, and a number."""
    id = call.get("id")
    return id if isinstance(id, str) and id else f"{record['id']}/{snake_case(call.get('name'))}-{number}"


def _started(id: str, call: Mapping[str, Any], rest: Document) -> Draft:
    data = {"name": call.get("name"), "input": call.get("args")}
    return Draft(f"call {id}", EventType.TOOL_CALL_STARTED, without(data), id, rest=rest)


def _ended(id: str, call: Mapping[str, Any], rest: Document) -> Draft:
    """The result of a call. That of one which began a sub-agent has the session of this."""
    responses = parts_of(call.get("result"))
    identity = next((part["functionResponse"] for part in responses if _is_response(part)), None)
    output = _output(responses, id)
    if output is None:
        output = rest.get("resultDisplay")
    at = time_of(call.get("timestamp"))
    agent = rest.pop("agentId", None)
    began = {} if agent is None else {"session_id": agent}
    if call["status"] == "success":
        return _result(id, {"output": output, **began}, at, identity, rest)
    message = output if isinstance(output, str) and output else None
    error: Any
    more = {} if isinstance(output, str | None) else {"content": output}
    if call["status"] == "cancelled":
        error = {"code": "cancelled", "message": message or "cancelled", **more}
    else:
        error = message if message else {"message": "the tool failed", **more}
    return _result(id, {"error": error, **began}, at, identity, rest)


def _result(id: str, data: Document, at: datetime | None, identity: Any, rest: Document) -> Draft:
    type = EventType.TOOL_CALL_FAILED if "error" in data else EventType.TOOL_CALL_COMPLETED
    return Draft(f"result {id}", type, data, id, at, identity, rest)


def _output(parts: list[Any], id: str) -> Any:
    """What a tool has returned: the text of its only response, or all parts of the result."""
    if not parts:
        return None
    response = _field(parts[0], "functionResponse") if len(parts) == 1 else None
    if not isinstance(response, dict) or response.keys() - {"id", "name", "response"}:
        return parts
    said = response.get("response")
    if response.get("id") not in (None, id) or not isinstance(said, dict):
        return parts
    only = next(iter(said)) if len(said) == 1 else None
    return said[only] if only in ("output", "error") else said


@dataclass(frozen=True, slots=True)
class Response:
    """A response to a call in a message of the user. `own_id` is for one whose call is not known."""

    id: str | None
    own_id: str
    name: str
    part: Document

    def draft(self, id: str) -> Draft:
        """The result of the call with this id."""
        response = self.part["functionResponse"]
        output = _output([self.part], id)
        said = response.get("response")
        if isinstance(said, dict) and said.keys() == {"error"}:
            failed = (
                output if isinstance(output, str) and output else {"message": "failed", "content": output}
            )
            return _result(id, {"error": failed}, None, response, {})
        return _result(id, {"output": output}, None, response, {})


def responses_of(record: Mapping[str, Any]) -> Iterator[Response]:
    """The responses to calls in a message."""
    for number, part in enumerate(filter(_is_response, parts_of(record.get("content")))):
        response = part["functionResponse"]
        id = response.get("id")
        own_id = _id_of(response, number, record)
        name = snake_case(response.get("name"))
        yield Response(id if isinstance(id, str) and id else None, own_id, name, part)


# Tokens.


def usage_of(record: Mapping[str, Any]) -> Counter[str]:
    """The tokens of a message: those from the cache beside the input, and thoughts among the output."""
    tokens = record.get("tokens")
    if not isinstance(tokens, dict):
        return Counter()
    names = ("input", "tool", "cached", "output", "thoughts")
    given, tool, cached, said, thought = (token_number(tokens.get(name)) for name in names)
    cached = min(cached, given + tool)
    return counts_of(
        input_tokens=given + tool - cached, output_tokens=said + thought, cache_read_tokens=cached
    )
