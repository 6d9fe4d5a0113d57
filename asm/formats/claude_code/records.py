"""What one record of a Claude Code log says. The functions know no other record and no session.

A log is foreign data: any field may be absent or have another type, and is then left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from asm.documents import Document
from asm.models import EventType
from asm.validation import TEXT_LENGTH_MAX, is_text

Kind: TypeAlias = Literal["prompt", "results", "summary", "interruption", "output", "note"]

SYNTHETIC = "<synthetic>"
"""The model of messages that Claude Code writes itself."""

NO_CONTENT = "(no content)"
"""What Claude Code writes in place of a text that is empty."""

_INTERRUPTION = re.compile(r"\[Request interrupted by user[^\]]{0,40}\]")
_OUTPUT_TAGS = ("local-command-stdout", "local-command-stderr", "bash-stdout", "bash-stderr")
_OUTPUT_STARTS = tuple(f"<{tag}>" for tag in _OUTPUT_TAGS)
_CONTEXT_STARTS = ("<ide_", "<system-reminder>")
_NOTIFICATION_START = "<task-notification>"
_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
_TYPE_LENGTH_MAX = 60


@dataclass(slots=True)
class Draft:
    """An event before it has an id, a time and a session. `rest` is what the data does not have."""

    type: str
    data: Document = field(default_factory=dict)
    rest: Document = field(default_factory=dict)
    correlation_id: str | None = None


# Fields.


def text_of(value: Any) -> str | None:
    """A string that may be an id, or None."""
    if not isinstance(value, str):
        return None
    if value.isascii() and 0 < len(value) <= TEXT_LENGTH_MAX and "\0" not in value:
        # A tenth of the time of the check of all texts: each record has several.
        return value
    return value if is_text(value) else None


def time_of(record: Mapping[str, Any]) -> datetime | None:
    """The time of a record in UTC, or None if it has none that can be read."""
    try:
        time = datetime.fromisoformat(record["timestamp"])
        if time.tzinfo is UTC:
            return time
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def message_of(record: Mapping[str, Any]) -> Document | None:
    """The message of a `user` or `assistant` record, None if it has none that can be read."""
    message = record.get("message")
    is_message = isinstance(message, dict) and isinstance(message.get("content"), str | list)
    return message if is_message else None


def without(document: Mapping[str, Any], *names: str) -> Document:
    """The other fields of a document that have a value."""
    return {name: value for name, value in document.items() if name not in names and value is not None}


def type_of(record: Mapping[str, Any]) -> str:
    """The type of an event for a record that has no type of ours: "claude_code.file_history_snapshot"."""
    name = record.get("subtype") or record.get("type")
    words = (
        re.sub("[^a-z0-9]+", "_", name[:_TYPE_LENGTH_MAX].lower()).strip("_") if isinstance(name, str) else ""
    )
    return f"claude_code.{words or 'record'}"


# What a user record is.


def kind_of(record: Mapping[str, Any], content: str | list[Any]) -> Kind:
    """What a `user` record is: only some are what a person typed."""
    if any(is_result(block) for block in blocks_of(content)):
        return "results"
    if record.get("isCompactSummary") is True:
        return "summary"
    text = joined_text(content).strip()
    if _INTERRUPTION.fullmatch(text):
        return "interruption"
    if is_output(text):
        return "output"
    if record.get("isMeta") is True or record.get("isVisibleInTranscriptOnly") is True:
        return "note"
    return "prompt"


def is_interruption(block: Any) -> bool:
    """Whether a block beside a tool's result says that the user interrupted the agent."""
    text = block.get("text") if isinstance(block, dict) else None
    return isinstance(text, str) and _INTERRUPTION.fullmatch(text.strip()) is not None


def is_notification(text: str) -> bool:
    """Whether a text is what Claude Code says of a task that has ended in the background."""
    return text.lstrip().startswith(_NOTIFICATION_START)


def is_output(text: str) -> bool:
    """Whether a text is what a command printed that Claude Code runs itself."""
    return text.lstrip().startswith(_OUTPUT_STARTS)


def is_command(text: str) -> bool:
    """Whether a text is a command to Claude Code itself, such as /clear, or to the shell, such as !ls."""
    return typed(text) != text


def queued_prompt(record: Mapping[str, Any]) -> str | list[Any] | None:
    """What a person typed while the agent worked, if it was given to the model in the middle of a run."""
    match record:
        case {
            "type": "attachment",
            "attachment": {"type": "queued_command", "prompt": str() | list() as prompt} as queued,
        }:
            is_typed = queued.get("commandMode", "prompt") == "prompt"
            origin = queued.get("origin")
            is_human = not isinstance(origin, dict) or origin.get("kind", "human") == "human"
            return prompt if is_typed and is_human else None
    return None


def typed(text: str) -> str:
    """What a person typed: of a command `/review 12` or `!ls`, which the log has in tags."""
    start = text.lstrip()
    if start.startswith("<command-"):
        return f"{_between(text, 'command-name')} {_between(text, 'command-args')}".strip() or text
    if start.startswith("<bash-input>"):
        command = _between(text, "bash-input")
        return f"!{command}" if command else text
    return text


def own_text(content: str | list[Any]) -> str:
    """The text of a prompt without the blocks in which an editor says what it shows."""
    others = [block for block in blocks_of(content) if not joined_text([block]).startswith(_CONTEXT_STARTS)]
    return joined_text(others) if isinstance(content, list) else content


def printed(text: str) -> str:
    """What a command printed, which the log has in tags."""
    return "\n".join(filter(None, (_between(text, tag) for tag in _OUTPUT_TAGS)))


def _between(text: str, tag: str) -> str:
    _, _, after = text.partition(f"<{tag}>")
    inner, closed, _ = after.partition(f"</{tag}>")
    return inner.strip() if closed else ""


# Content.


def blocks_of(content: str | list[Any]) -> list[Any]:
    return content if isinstance(content, list) else []


def joined_text(content: Any) -> str:
    """The text of a message's content, of its text blocks."""
    if isinstance(content, str):
        return content
    blocks = (block for block in content if isinstance(block, dict) and block.get("type") == "text")
    return "\n".join(block["text"] for block in blocks if isinstance(block.get("text"), str))


def plain(content: str | list[Any]) -> str | list[Any]:
    """The content as a string, if a single text block is all of it."""
    match content:
        case [{"type": "text", "text": str(text), **others}] if not others:
            return text
    return content


def is_result(block: Any) -> bool:
    """Whether a block is the result of a tool, also of one that the provider runs."""
    type = block.get("type") if isinstance(block, dict) else None
    return isinstance(type, str) and type.endswith("tool_result")


def drafts_of(content: str | list[Any], message_id: str | None) -> Iterator[Draft]:
    """The events of an assistant's message, one for each block."""
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        yield _draft(block, message_id)


def _draft(block: Any, message_id: str | None) -> Draft:
    said = {"role": "assistant"} if message_id is None else {"role": "assistant", "message_id": message_id}
    kind = block.get("type") if isinstance(block, dict) else None
    if kind in _CALLS and "name" in block and "input" in block:
        rest = without(block, "name", "input", *(("type",) if kind == "tool_use" else ()))
        data = {"name": block["name"], "input": block["input"]}
        return _correlated(EventType.TOOL_CALL_STARTED, data, rest, "id")
    if kind == "text" and isinstance(block.get("text"), str):
        data, rest = {**said, "content": block["text"]}, without(block, "type", "text")
        return Draft(EventType.MESSAGE_RECEIVED, data, rest)
    if kind == "thinking" and isinstance(block.get("thinking"), str) and block["thinking"]:
        data, rest = {**said, "thinking": block["thinking"]}, without(block, "type", "thinking")
        return Draft(EventType.MESSAGE_RECEIVED, data, rest)
    if is_result(block):
        return result_draft(block)
    return Draft(EventType.MESSAGE_RECEIVED, {**said, "content": [block]})


def result_draft(block: Document) -> Draft:
    """The event of a tool's result."""
    own_type = ("type",) if block["type"] == "tool_result" else ()
    rest = without(block, *own_type, "content", "is_error")
    content = block.get("content")
    if block.get("is_error") is True:
        return _correlated(EventType.TOOL_CALL_FAILED, {"error": _error(content)}, rest, "tool_use_id")
    return _correlated(EventType.TOOL_CALL_COMPLETED, {"output": content}, rest, "tool_use_id")


def _correlated(type: EventType, data: Document, rest: Document, name: str) -> Draft:
    """An event with the id of its call, which stays in the rest if a store cannot have it."""
    id = text_of(rest.get(name))
    return Draft(type, data, rest if id is None else without(rest, name), id)


def _error(content: Any) -> Any:
    """The error of a tool, which is a text or an object."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    text = joined_text(blocks)
    if blocks and all(isinstance(block, dict) and block.keys() == {"type", "text"} for block in blocks):
        return text
    return {"message": text or "the tool failed", **({} if content is None else {"content": content})}


# Errors.


def api_error(record: Mapping[str, Any]) -> Document:
    """`{code, message}` of a failed request, from a message in its place or from a record of a retry."""
    error = record.get("error")
    inner = error.get("error") if isinstance(error, dict) else None
    details = [each for each in (error, inner) if isinstance(each, dict)]
    if isinstance(inner, dict) and isinstance(inner.get("error"), dict):
        details.append(inner["error"])
    content = (message_of(record) or {}).get("content") or record.get("content") or ""
    said = joined_text(content) if isinstance(content, str | list) else ""
    named = error if isinstance(error, str) else None
    status = record.get("apiErrorStatus") or _first(details, "status")
    code = named or _first(reversed(details), "type") or status
    message = said or _first(reversed(details), "message") or named or "the request to the API failed"
    return {"message": message} if code is None else {"code": code, "message": message}


def _first(documents: Any, name: str) -> Any:
    return next((each[name] for each in documents if isinstance(each.get(name), str | int)), None)


# Records of the system.


def compaction(record: Mapping[str, Any]) -> Document:
    """Why a conversation was compacted, and the tokens that it had."""
    details = record.get("compactMetadata")
    names = {"trigger": "trigger", "preTokens": "pre_tokens", "postTokens": "post_tokens"}
    found = details if isinstance(details, dict) else {}
    return {own: found[name] for name, own in names.items() if found.get(name) is not None}


def turn(record: Mapping[str, Any]) -> Document:
    """How long a turn took, {} if the record does not say it."""
    took = record.get("durationMs")
    if isinstance(took, bool) or not isinstance(took, int | float) or not 0 <= took < _DURATION_MS_MAX:
        return {}
    return {"duration_s": took / 1000}


_DURATION_MS_MAX = 10**15


def with_content(rest: Document, content: str | list[Any]) -> Document:
    """The rest of a record with the content that its event shows in another way."""
    return {**rest, "message": {**rest.get("message", {}), "content": content}}
