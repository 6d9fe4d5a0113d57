"""The messages of a session, made of its events.

Any events will do that `asm.content` reads: those of a SessionManager, of the importers, and of
agent_session_manager. A call of a tool and its result are never separated, and a call that was not answered
is answered "interrupted", because providers refuse one without the other.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asm.agents.plans import Message
from asm.async_store import AsyncSessionStore
from asm.content import Content, ToolCall, ToolResult, read_content
from asm.content.blocks import read_blocks
from asm.enums import EventType
from asm.errors import ValidationError
from asm.models import Event
from asm.validation import function, optional_count

TYPES = (
    EventType.RUN_STARTED,
    EventType.MESSAGE_SENT,
    EventType.MESSAGE_RECEIVED,
    EventType.TOOL_CALL_STARTED,
    EventType.TOOL_CALL_COMPLETED,
    EventType.TOOL_CALL_FAILED,
)
"""The events that a transcript is made of."""

PAGE = 1_000

INTERRUPTED = "interrupted"

_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}


@dataclass(frozen=True, slots=True)
class Transcript:
    """The messages of a session, as `asm.agents.Request` describes them.

    `left_out` is the number of turns at its beginning that the limits left out. A turn is what follows a
    message of the user, up to the next one. `last_sequence` is the number of the last event that was read.
    """

    messages: Sequence[Message] = ()
    left_out: int = 0
    last_sequence: int = 0

    @classmethod
    def from_events(
        cls,
        events: Iterable[Event],
        *,
        max_messages: int | None = None,
        max_chars: int | None = None,
        max_tokens: int | None = None,
        count: Callable[[str], int] | None = None,
    ) -> Transcript:
        """The transcript of events, which limits keep to whole turns from the end.

        `max_chars` counts the text, the calls with their input, and the results. `max_tokens` counts the
        same by `count(text)`, which it needs: no tokenizer fits every model.
        """
        limits = _limits(max_messages, max_chars, max_tokens, count)
        builder = TranscriptBuilder()
        last = 0
        for event in events:
            builder.add_event(event)
            last = event.sequence_number or last
        turns = builder.turns()
        kept = _fitting(turns, limits)
        messages = [message for turn in turns[len(turns) - kept :] for message in turn]
        return cls(messages, len(turns) - kept, last)


def _limits(
    max_messages: int | None,
    max_chars: int | None,
    max_tokens: int | None,
    count: Callable[[str], int] | None,
) -> list[tuple[int, Callable[[str], int]]]:
    """The limits that are given, each with the function that measures a message's text for it."""
    if (max_tokens is None) != (count is None):
        raise ValidationError(
            "max_tokens and count go together: count(text) returns the tokens of a text", path="count"
        )
    limits: list[tuple[int | None, Callable[[str], int]]] = [
        (optional_count(max_messages, "max_messages"), lambda _: 1),
        (optional_count(max_chars, "max_chars"), len),
        (optional_count(max_tokens, "max_tokens"), len if count is None else function(count, "count")),
    ]
    return [(limit, measure) for limit, measure in limits if limit is not None]


def _fitting(turns: Sequence[Sequence[Message]], limits: Iterable[tuple[int, Callable[[str], int]]]) -> int:
    """How many turns from the end are within the limits."""
    left = list(limits)
    for number, turn in enumerate(reversed(turns)):
        texts = [_counted_text(message) for message in turn]
        left = [(limit - sum(map(measure, texts)), measure) for limit, measure in left]
        if any(limit < 0 for limit, _ in left):
            return number
    return len(turns)


def _counted_text(message: Message) -> str:
    calls = (f"{call['name']}{_as_text(call['input'])}" for call in message.get("tool_calls", ()))
    return _as_text(message["content"]) + "".join(calls)


@dataclass(slots=True)
class _Entry:
    """A message, and the results of its calls by the calls' ids."""

    message: Message
    run_id: str | None
    results: dict[str, Message] = field(default_factory=dict)

    @property
    def role(self) -> str:
        return str(self.message["role"])

    @property
    def call_ids(self) -> list[str]:
        return [call["id"] for call in self.message.get("tool_calls", ())]

    def messages(self) -> list[Message]:
        answers = (self.results.get(id) or _result(id, INTERRUPTED, is_error=True) for id in self.call_ids)
        return [self.message, *answers]


class TranscriptBuilder:
    """Makes messages of events, one after another."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._unanswered: dict[str, _Entry] = {}
        self._unnamed = 0

    def add_event(self, event: Event) -> None:
        if event.type == EventType.RUN_STARTED:
            self.restart(event.run_id)
        else:
            self.add(event.type, event.data, event.correlation_id, event.run_id)

    def restart(self, run_id: str | None) -> None:
        """Leave out an earlier attempt of a run that begins again."""
        if run_id is not None and any(entry.run_id == run_id for entry in self._entries):
            self._entries = [each for each in self._entries if each.run_id != run_id]
            open_calls = self._unanswered.items()
            self._unanswered = {id: each for id, each in open_calls if each.run_id != run_id}

    def add(
        self,
        type: str,
        data: Mapping[str, Any],
        correlation_id: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Add what an event of this type and data says. An event without messages and calls adds nothing."""
        if type == EventType.TOOL_CALL_STARTED:
            for call in read_content(type, data).calls:
                self.add_call(call, correlation_id, run_id)
        elif type in (EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED):
            for result in read_content(type, data).of(ToolResult):
                self._add_result(result, correlation_id)
        elif type in (EventType.MESSAGE_SENT, EventType.MESSAGE_RECEIVED):
            self._add_message(type, data, run_id)

    def messages(self) -> list[Message]:
        return [message for entry in self._entries for message in entry.messages()]

    def turns(self) -> list[list[Message]]:
        """The messages in turns, each of which begins with the messages of a user."""
        turns: list[list[Message]] = []
        before = "user"
        for entry in self._entries:
            if not turns or (entry.role == "user" and before != "user"):
                turns.append([])
            turns[-1] += entry.messages()
            before = entry.role
        return turns

    def _add_message(self, type: str, data: Mapping[str, Any], run_id: str | None) -> None:
        if (text := plain_text(data)) and (role := _ROLES.get(str(data.get("role")))):
            self._entries.append(_Entry({"role": role, "content": text}, run_id))
            return
        default = "user" if type == EventType.MESSAGE_SENT else "assistant"
        content, read = _split(type, data)
        for result in read.of(ToolResult):
            self._add_result(result, None)
        if content and read.role != "tool":
            role = _ROLES.get(read.role or default, default)
            self._entries.append(_Entry({"role": role, "content": content}, run_id))
        for call in read.calls:
            self.add_call(call, None, run_id)

    def add_call(self, call: ToolCall, correlation_id: str | None, run_id: str | None) -> None:
        id = correlation_id or call.id or self._new_id()
        if id in self._unanswered and self._unanswered[id].run_id == run_id:
            # The message has the call as a block, too.
            return
        last = self._entries[-1] if self._entries else None
        if last is None or last.role != "assistant" or last.results:
            last = _Entry({"role": "assistant", "content": ""}, run_id)
            self._entries.append(last)
        last.message.setdefault("tool_calls", []).append({"id": id, "name": call.name, "input": call.input})
        self._unanswered[id] = last

    def _add_result(self, result: ToolResult, correlation_id: str | None) -> None:
        # A result that names no call answers the first one that is open.
        id = correlation_id or result.id or next(iter(self._unanswered), None)
        entry = self._unanswered.pop(id, None) if id is not None else None
        if id is not None and entry is not None:
            texts = filter(None, (result.error, _as_text(result.output)))
            entry.results[id] = _result(id, "\n".join(texts), is_error=result.failed)

    def _new_id(self) -> str:
        self._unnamed += 1
        return f"call_{self._unnamed}"


def _result(id: str, content: str, *, is_error: bool) -> Message:
    return {"role": "tool", "tool_call_id": id, "content": content, "is_error": is_error}


def _split(type: str, data: Mapping[str, Any]) -> tuple[str | list[Any], Content]:
    """The content of a message without its calls and results, and what has these.

    Blocks stay as the provider has them. The calls of tools that the provider runs itself are content.
    """
    content = data.get("content")
    if not isinstance(content, list):
        read = read_content(type, data)
        return (content if isinstance(content, str) else read.text), read
    is_sent = type == EventType.MESSAGE_SENT
    moved = [_is_call(block) or (is_sent and _is_result(block)) for block in content]
    kept = [block for block, is_moved in zip(content, moved, strict=True) if not is_moved]
    rest = [block for block, is_moved in zip(content, moved, strict=True) if is_moved]
    return kept, read_content(type, {**data, "content": rest})


def plain_text(data: Mapping[str, Any]) -> str | None:
    """The text of a message that is nothing else, as most are; another one has to be read as content."""
    text = data.get("content")
    return text if data.keys() <= _PLAIN and isinstance(text, str) and text.strip() else None


_PLAIN = frozenset({"role", "content", "stop_reason", "message_id", "partial"})

_CALLS = ("tool_use", "tool_call", "function", "function_call", "custom", "custom_tool_call")
"""The types of the blocks that call a tool of the application."""


def _is_call(block: Any) -> bool:
    if not any(isinstance(part, ToolCall) for part in read_blocks([block])):
        return False
    kind = block.get("type")
    return kind is None or str(kind).replace("-", "_") in _CALLS


def _is_result(block: Any) -> bool:
    return any(isinstance(part, ToolResult) for part in read_blocks([block]))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


async def read_events(
    store: AsyncSessionStore, session_id: str, *, after: int, before: int | None = None
) -> AsyncIterator[Event]:
    """The events of a session that a transcript is made of, a page at a time."""
    while True:
        page = await store.get_events(session_id, type=TYPES, after=after, before=before, limit=PAGE)
        for event in page:
            yield event
        if len(page) < PAGE:
            return
        after = page[-1].sequence_number or 0
