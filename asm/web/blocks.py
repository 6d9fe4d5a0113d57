"""The entries of a conversation as a page shows them: each part with its markup made, within a budget."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from markupsafe import Markup

from asm import Event, EventType, Session
from asm.content import (
    IMAGE_TYPES,
    RESULTS,
    Media,
    Other,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    begun_by,
    error_text,
)
from asm.content.fields import text_or_none
from asm.conversation import SHELLS, Entry, as_text, entries_of, multiline
from asm.shown import prose
from asm.web import code, errors, markdown, summaries
from asm.web.budget import Budget
from asm.web.summaries import PATHS, shortened

_INSTRUCTING = ("system", "developer")
_FOLDED_LENGTH = 400
"""Characters of instructions that are shown at once. They are the same in many sessions."""

_NAME_LENGTH = 80
_OPEN_LINES_MAX = 24
_BASE64 = re.compile(r"[A-Za-z0-9+/\s_-]+={0,2}\s*\Z")
_OF_ADDRESSES = str.maketrans("-_", "+/")
"""Google's SDK and pydantic-ai have the variant of base64 that is meant for addresses."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Child(NamedTuple):
    """A session that this one began, such as a sub-agent's, and its title."""

    session: Session
    title: str


@dataclass(slots=True)
class Body:
    """Something long: its markup, and how many characters of the text it leaves out."""

    html: Markup
    kind: str = "text"
    label: str = ""
    left_out: int = 0


@dataclass(slots=True)
class Result:
    """What a tool returned."""

    number: int | None
    failed: bool
    bodies: list[Body]
    took: float | None = None


@dataclass(slots=True)
class Block:
    """One part of an entry. `kind` says which fields it has, and how a page shows it."""

    kind: str
    body: Body | None = None
    name: str = ""
    summary: str = ""
    call_id: str | None = None
    bodies: list[Body] = field(default_factory=list)
    result: Result | None = None
    source: Markup | None = None
    children: list[Child] = field(default_factory=list)
    is_open: bool = False
    is_left_out: bool = False


@dataclass(slots=True)
class Item:
    """One entry of a conversation."""

    event: Event
    number: int
    last: int | None
    kind: str
    role: str
    label: str
    blocks: list[Block]
    is_error: bool = False
    is_partial: bool = False
    anchors: list[int] = field(default_factory=list)
    began_run: str | None = None

    @property
    def time(self) -> datetime:
        return self.event.timestamp


@dataclass(slots=True)
class _OpenCall:
    block: Block
    at: datetime
    item: Item


def items_of(events: Sequence[Event], budget: Budget, children: Iterable[Child] = ()) -> list[Item]:
    """The items of consecutive events. A result stands in the call that it answers."""
    reader = _Reader(budget, _by_call(children))
    items = [item for entry in entries_of(events) if (item := reader.item(entry)) is not None]
    _set_anchors(items, events)
    return items


def _by_call(children: Iterable[Child]) -> Mapping[str, list[Child]]:
    """The sub-sessions by the ids of the tool calls that began them, which their metadata names."""
    found: dict[str, list[Child]] = {}
    for child in children:
        if (id := begun_by(child.session.metadata)) is not None:
            found.setdefault(id, []).append(child)
    return found


def _set_anchors(items: list[Item], events: Sequence[Event]) -> None:
    """Give each event on the page an item to which `#event-37` leads."""
    shown = {item.number for item in items}
    shown |= {r.number for item in items for block in item.blocks if (r := block.result) and r.number}
    following = iter([*items, *items[-1:]])
    item = next(following, None)
    for event in events:
        number = event.sequence_number or 0
        while item is not None and item.number < number and (after := next(following, None)) is not None:
            item = after
        if number not in shown and item is not None:
            item.anchors.append(number)


class _Reader:
    def __init__(self, budget: Budget, children: Mapping[str, list[Child]]) -> None:
        self._budget = budget
        self._children = children
        self._open: dict[str, _OpenCall] = {}
        self._run_id: str | None = None

    def item(self, entry: Entry) -> Item | None:
        event = entry.event
        item = Item(
            event=event,
            number=event.sequence_number or 0,
            last=entry.last,
            kind=_kind(entry),
            role=entry.role[:_NAME_LENGTH] if entry.is_message else "",
            label=_label(entry),
            blocks=[],
            is_error=event.type in errors.TYPES,
            is_partial=event.data.get("partial") is True,
        )
        parts = entry.content.parts
        answered = [part for part in parts if isinstance(part, ToolResult) and self._answer(entry, part)]
        rest = [part for part in parts if part not in answered]
        if answered and not rest:
            return None
        self._mark_run(item)
        item.blocks = [block for part in rest for block in self._blocks(item, part)]
        if not parts:
            item.blocks = self._note(entry)
        return item

    def _mark_run(self, item: Item) -> None:
        run_id = item.event.run_id
        if run_id is not None and run_id != self._run_id:
            item.began_run = self._run_id = run_id

    def _answer(self, entry: Entry, result: ToolResult) -> bool:
        """Show a result in its call, if that is on the same page."""
        id = _known_id(result.id or entry.event.correlation_id)
        call = self._open.pop(id, None) if id is not None else None
        if call is None:
            return False
        call.block.result = self._result(
            entry.event, result, (entry.event.timestamp - call.at).total_seconds()
        )
        call.block.is_open |= call.block.result.failed
        call.item.is_error |= call.block.result.failed
        return True

    def _blocks(self, item: Item, part: Any) -> list[Block]:
        if isinstance(part, Text):
            is_folded = item.role in _INSTRUCTING and len(part.text) > _FOLDED_LENGTH
            kind = "folded" if is_folded else "text"
            return [Block(kind, self._text(part.text), summary=shortened(part.text) if is_folded else "")]
        if isinstance(part, Thinking):
            body = self._text(part.text)
            return [Block("thinking", body, summary=shortened(part.text))]
        if isinstance(part, ToolCall):
            return [self._call(item, part)]
        if isinstance(part, ToolResult):
            result = self._result(item.event, part, None)
            item.is_error |= result.failed
            id = _known_id(part.id or item.event.correlation_id)
            return [Block("result", name=(part.name or "")[:_NAME_LENGTH], call_id=id, result=result)]
        if isinstance(part, Media):
            return [self._media(part)]
        assert isinstance(part, Other)
        if (text := _instructions(part.value)) is not None:
            return [Block("folded", self._text(text), summary=shortened(text))]
        return [Block("other", self._pre(_json(part.value), "json"), summary=shortened(as_text(part.value)))]

    def _text(self, text: str) -> Body:
        shown, left_out = self._budget.take(text.strip("\n"))
        html = markdown.markdown(shown) if self._budget.take_markup(shown) else markdown.plain(shown)
        return Body(html, left_out=left_out)

    def _pre(self, text: str, language: str = "", label: str = "") -> Body:
        shown, left_out = self._budget.take(text)
        if code.is_diff(shown):
            return Body(code.diff(shown), "diff", label, left_out)
        if language and self._budget.take_markup(shown):
            return Body(code.highlighted(shown, language), "code", label, left_out)
        return Body(Markup.escape(prose(shown)), "code", label, left_out)

    def _changes(self, old: str, new: str, label: str = "") -> Body:
        before, left_out = self._budget.take(old)
        after, more_left_out = self._budget.take(new)
        return Body(code.changes(before, after), "diff", label, left_out + more_left_out)

    def _call(self, item: Item, call: ToolCall) -> Block:
        id = _known_id(call.id or item.event.correlation_id)
        block = Block(
            "call", name=(call.name or "tool")[:_NAME_LENGTH], summary=summaries.of_call(call), call_id=id
        )
        block.bodies = self._input(call)
        block.children = list(self._children.get(id, ())) if id is not None else []
        block.is_open = any(
            body.kind == "diff" and body.html.count("\n") <= _OPEN_LINES_MAX for body in block.bodies
        )
        if id is not None:
            self._open[id] = _OpenCall(block, item.event.timestamp, item)
        return block

    def _input(self, call: ToolCall) -> list[Body]:
        given = call.input
        if not isinstance(given, dict):
            text = multiline(given)
            return [self._pre(text, "bash" if (call.name or "").lower() in SHELLS else "")] if text else []
        rest = dict(given)
        path = next((shortened(rest[name]) for name in PATHS if isinstance(rest.get(name), str)), "")
        bodies = [
            self._changes(rest.pop(old), rest.pop(new), path)
            for old, new in (("old_string", "new_string"), ("old_str", "new_str"))
            if isinstance(rest.get(old), str) and isinstance(rest.get(new), str)
        ]
        if (
            isinstance(edits := rest.get("edits"), list)
            and all(map(_is_edit, edits[:20]))
            and len(edits) <= 20
        ):
            del rest["edits"]
            bodies += [self._changes(each["old_string"], each["new_string"], path) for each in edits]
        for name, language in _LONG.items():
            if isinstance(value := rest.get(name), str) and (name in _ALWAYS or "\n" in value):
                del rest[name]
                bodies.append(
                    self._pre(value, language or code.language_of(path), "" if name in _ALWAYS else name)
                )
        if path and bodies:
            rest = {name: value for name, value in rest.items() if name not in PATHS}
        if rest:
            is_brief = summaries.is_brief(rest)
            bodies.append(self._pre(multiline(rest)) if is_brief else self._pre(_json(rest), "json"))
        return bodies

    def _result(self, event: Event, result: ToolResult, took: float | None) -> Result:
        bodies = []
        if result.error:
            bodies.append(self._pre(_COLOURS.sub("", result.error)))
        if result.output not in (None, "", [], {}):
            text = result.output if isinstance(result.output, str) else None
            bodies.append(
                self._pre(_COLOURS.sub("", text).rstrip().lstrip("\n"))
                if text is not None
                else self._pre(_json(result.output), "json")
            )
        return Result(event.sequence_number, result.failed, bodies, took)

    def _media(self, media: Media) -> Block:
        shows = media.kind == "image" and media.media_type in IMAGE_TYPES and media.encoded
        if shows and self._budget.take_image(media.encoded) and _BASE64.match(media.encoded):
            source = Markup(
                f"data:{media.media_type};base64,{''.join(media.encoded.split()).translate(_OF_ADDRESSES)}"
            )
            return Block("image", name=media.kind, summary=shortened(media.description), source=source)
        return Block("media", name=media.kind, summary=shortened(media.description), is_left_out=bool(shows))

    def _note(self, entry: Entry) -> list[Block]:
        """What is not a message, a call or a result: its most telling words, and all of it folded."""
        data = {**entry.event.data}
        if entry.event.type == EventType.WORKSPACE_DIFF_COMPUTED and isinstance(
            text := data.get("diff"), str
        ):
            return [Block("diff", self._pre(text))]
        if not data:
            return []
        if entry.event.type == EventType.TOKEN_USAGE_UPDATED and (counts := summaries.of_usage(data)):
            return [Block("usage", summary=counts)]
        is_told = entry.event.type in errors.TYPES or "message" in data
        words = error_text(data) if is_told else summaries.of_fields(data)
        if not is_told and summaries.is_brief(data):
            return [Block("brief", summary=words)]
        return [Block("note", self._pre(_json(data), "json"), summary=shortened(words))]


_LONG = {
    "command": "bash",
    "cmd": "bash",
    "patch": "",
    "diff": "",
    "content": "",
    "file_text": "",
    "new_source": "",
    "code": "python",
    "prompt": "",
    "script": "bash",
    "query": "sql",
}
"""The fields of an input that are shown as texts of their own, with their languages; "" is the file's."""

_ALWAYS = ("command", "cmd", "patch", "diff", "code")


def _known_id(id: str | None) -> str | None:
    """The id of a call, if it is no longer than ids are."""
    return id if id is not None and len(id) <= 255 else None


def _instructions(value: Any) -> str | None:
    """The text of a system prompt, which pydantic-ai has in a message of the user."""
    is_prompt = isinstance(value, dict) and value.keys() == {"system"}
    return text_or_none(value["system"]) if is_prompt else None


def _is_edit(edit: Any) -> bool:
    return isinstance(edit, dict) and all(
        isinstance(edit.get(name), str) for name in ("old_string", "new_string")
    )


def _kind(entry: Entry) -> str:
    if entry.is_message:
        parts = entry.content.parts
        is_aside = parts and all(isinstance(part, ToolCall | ToolResult | Thinking) for part in parts)
        return "tool" if is_aside else "message"
    type = entry.event.type
    if type == EventType.TOOL_CALL_STARTED or type in RESULTS:
        return "tool"
    return "error" if type in errors.TYPES else "note"


def _label(entry: Entry) -> str:
    if entry.is_message:
        return entry.role[:_NAME_LENGTH]
    type = str(entry.event.type)
    return type if "." in type else type.replace("_", " ")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
