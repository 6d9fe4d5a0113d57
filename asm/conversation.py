"""The events of a session as entries of a conversation, read in one pass with a bounded look ahead.

The deltas of a message are joined, and left out where the finished message follows. A message's tool calls
and results are left out where events of their own show them.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from asm.content import (
    ITEMS,
    MESSAGES,
    Content,
    Delta,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    read_content,
    read_delta,
)
from asm.models import Event, EventType
from asm.shown import identifier

SHELLS = ("bash", "execute_bash", "local_shell", "run_shell_command", "sh", "shell", "zsh")
"""The names of tools whose input is a command."""

_COMMANDS = ("command", "cmd", "commands")
_USER_ROLES = ("user", "human", "system", "developer", "tool")
_LOOKAHEAD = 32
"""The entries in which a message's tool call is looked for. Models start fewer calls in one message."""

_UNFINISHED_MAX = 16
"""The runs whose deltas are joined at the same time."""

_REMEMBERED_MAX = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as it is shown, or the joined deltas of a message. `last` is the number of the last delta."""

    event: Event
    content: Content
    last: int | None = None
    previous_at: datetime | None = None

    @property
    def role(self) -> str:
        """Who said it, by its own role or by the type of the event."""
        if self.content.role:
            return self.content.role
        return "user" if self.event.type == EventType.MESSAGE_SENT else "assistant"

    @property
    def is_message(self) -> bool:
        """Whether someone says it. The item of a framework may be something else, such as a setting."""
        if self.event.type in ITEMS:
            return bool(self.content.role or self.content.parts)
        return self.event.type in MESSAGES

    @property
    def finishes_deltas(self) -> bool:
        return self.is_message and self.role not in _USER_ROLES


def read_entry(event: Event) -> Entry:
    return Entry(event, read_content(event.type, event.data))


def entries_of(events: Iterable[Event]) -> Iterator[Entry]:
    """The entries of a session's events, in their order."""
    return _without_repetitions(_joined_deltas(events))


def command_text(call: ToolCall) -> str:
    """What a tool was called with: of a shell the command, of other tools their input."""
    input = call.input
    if isinstance(input, dict) and call.name is not None and call.name.lower() in SHELLS:
        for name in _COMMANDS:
            if isinstance(command := input.get(name), str | list):
                rest = {key: value for key, value in input.items() if key != name}
                text = " ".join(map(multiline, command)) if isinstance(command, list) else multiline(command)
                return "\n".join(filter(None, [text, multiline(rest)]))
    return multiline(input)


def failure_text(result: ToolResult) -> str:
    """Which tool failed, if the result names it, and with which error."""
    name = identifier(result.name or "")
    return f"{name} failed: {result.error or multiline(result.output)}".strip(" :")


def multiline(value: Any) -> str:
    """A value of a document on several lines, without empty lines around it. It is not escaped yet."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {as_text(each)}".replace("\n", "\n  ") for key, each in value.items())
    return as_text(value).replace("\r\n", "\n").lstrip("\n").rstrip()


def as_text(value: Any) -> str:
    """A string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# Deltas.


class UnfinishedMessage:
    """The deltas of a message, until it is finished."""

    def __init__(self, event: Event) -> None:
        self.event = event
        self.last = event.sequence_number
        self._kinds: list[str] = []
        self._texts: list[list[str]] = []

    def add(self, event: Event, delta: Delta) -> None:
        self.last = event.sequence_number
        if not self._kinds or self._kinds[-1] != delta.kind:
            self._kinds.append(delta.kind)
            self._texts.append([])
        self._texts[-1].append(delta.text)

    def entries(self, finished: Entry | None) -> Iterator[Entry]:
        """The entry of the deltas that the finished message, or the tool call that follows, does not have."""
        parts = [
            part
            for kind, texts in zip(self._kinds, self._texts, strict=True)
            if (part := _part(kind, "".join(texts))) is not None and not _is_finished(part, finished)
        ]
        if parts:
            last = self.last if self.last != self.event.sequence_number else None
            yield Entry(self.event, Content("assistant", tuple(parts)), last)


def _part(kind: str, text: str) -> Part | None:
    if not text.strip():
        return None
    if kind == "input":
        return ToolCall(None, text)
    return Text(text) if kind == "text" else Thinking(text)


def _is_finished(part: Part, by: Entry | None) -> bool:
    if by is None:
        return False
    if isinstance(part, ToolCall):
        return by.event.type == EventType.TOOL_CALL_STARTED or bool(by.content.calls)
    return by.finishes_deltas and bool(by.content.of(type(part)))


def _joined_deltas(events: Iterable[Event]) -> Iterator[Entry]:
    unfinished: dict[str | None, UnfinishedMessage] = {}
    for event in events:
        run_id = event.run_id
        if event.type == EventType.MESSAGE_STREAMED and (delta := read_delta(event.data)) is not None:
            if run_id not in unfinished and len(unfinished) == _UNFINISHED_MAX:
                yield from unfinished.pop(next(iter(unfinished))).entries(None)
            unfinished.setdefault(run_id, UnfinishedMessage(event)).add(event, delta)
            continue
        entry = read_entry(event)
        # Usage is reported in the middle of a message, too.
        if run_id in unfinished and event.type != EventType.TOKEN_USAGE_UPDATED:
            yield from unfinished.pop(run_id).entries(entry)
        yield entry
    for message in unfinished.values():
        yield from message.entries(None)


# Repetitions.


class Repetitions:
    """Leaves out tool calls and results that a message and an event of their own both have.

    They are recognized by their ids. Some models number the calls of each turn from 0, so what an event
    shows is never left out because of an earlier event, nor a message because of a message.
    """

    def __init__(self) -> None:
        self._shown: dict[tuple[bool, type[Part], str], None] = {}

    def without(self, entry: Entry) -> Entry | None:
        """The entry without what has been shown, or None if that is all of it."""
        parts = tuple(part for part in entry.content.parts if not self._has_shown(entry, part))
        return with_parts(entry, parts)

    def _has_shown(self, entry: Entry, part: Part) -> bool:
        if not isinstance(part, ToolCall | ToolResult) or (id := _tool_id(entry, part)) is None:
            return False
        if (key := (not entry.is_message, type(part), id)) in self._shown:
            del self._shown[key]
            return True
        if len(self._shown) == _REMEMBERED_MAX:
            del self._shown[next(iter(self._shown))]
        self._shown[entry.is_message, type(part), id] = None
        return False


def _without_repetitions(entries: Iterable[Entry]) -> Iterator[Entry]:
    source = iter(entries)
    ahead: deque[Entry] = deque()
    repetitions = Repetitions()
    while True:
        while len(ahead) <= _LOOKAHEAD and (following := next(source, None)) is not None:
            ahead.append(following)
        if not ahead:
            return
        entry: Entry | None = ahead.popleft()
        if entry is not None and entry.is_message:
            entry = _without_calls(entry, _calls_in(ahead))
        if entry is not None and (rest := repetitions.without(entry)) is not None:
            yield rest


def _calls_in(entries: Iterable[Entry]) -> list[ToolCall]:
    """The tool calls that have events of their own, up to the next message of the assistant."""
    calls = []
    for entry in entries:
        if entry.finishes_deltas:
            break
        if entry.event.type == EventType.TOOL_CALL_STARTED:
            calls += [replace(call, id=_tool_id(entry, call)) for call in entry.content.calls]
    return calls


def _tool_id(entry: Entry, part: ToolCall | ToolResult) -> str | None:
    return part.id or (None if entry.is_message else entry.event.correlation_id)


def _without_calls(entry: Entry, calls: list[ToolCall]) -> Entry | None:
    """A message without the calls that have events of their own, or None if that is all of it."""
    parts: list[Part] = []
    for part in entry.content.parts:
        if isinstance(part, Text):
            text = _without_command(part.text, calls)
            parts += [Text(text)] if text else []
        elif not _is_one_of(part, calls):
            parts.append(part)
    return with_parts(entry, tuple(parts))


def with_parts(entry: Entry, parts: tuple[Part, ...]) -> Entry | None:
    if parts == entry.content.parts:
        return entry
    return replace(entry, content=replace(entry.content, parts=parts)) if parts else None


def _is_one_of(part: Part, calls: list[ToolCall]) -> bool:
    if not isinstance(part, ToolCall):
        return False
    if part.id is not None and any(part.id == call.id for call in calls):
        return True
    return any((part.name, part.input) == (call.name, call.input) for call in calls)


def _without_command(text: str, calls: list[ToolCall]) -> str:
    """A text without the fenced block at its end that a tool call repeats."""
    for call in calls:
        command = command_text(call).strip()
        if not command or command not in text:
            continue
        before, _, after = text.rpartition(command)
        if fence := _EMPTY_FENCE_AT_END.search(before + after):
            return before[: fence.start()]
    return text


_EMPTY_FENCE_AT_END = re.compile(r"\s*(?:```\w*\s*```|<(?P<tag>\w+)>\s*</(?P=tag)>)\s*\Z")
