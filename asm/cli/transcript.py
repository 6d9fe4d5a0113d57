"""One session as `asm show` prints it: its fields, its runs, and its events as a conversation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice, tee

from rich.text import Text

from asm.cli.display import ERROR_TYPES, model_of, style_of, usage_of
from asm.cli.printer import Printer
from asm.cli.text import duration, inline, multiline, timestamp
from asm.documents import Document
from asm.models import Event, EventType, Run, Session
from asm.operations.exports import SessionExport
from asm.validation import is_number

_INDENT = " " * 7
_ROLES = {"assistant": "bold green", "system": "bold magenta", "user": "bold blue"}
_SHELLS = ("bash", "sh", "shell")

_MESSAGES = (EventType.MESSAGE_SENT, EventType.MESSAGE_RECEIVED, EventType.MESSAGE_STREAMED)
_RESULTS = (EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED)
_FOLLOWED_BY_SPACE = (*_MESSAGES, *_RESULTS)


def show_session(printer: Printer, export: SessionExport) -> None:
    """Print a session, its runs and its events."""
    _show_session(printer, export.session)
    for run in export.runs:
        _show_run(printer, run)
    _show_events(printer, export.events, has_runs=len(export.runs) > 1)


def _show_session(printer: Printer, session: Session) -> None:
    _show_heading(printer, "Session", session)
    created, updated = timestamp(session.created_at), timestamp(session.updated_at)
    _show_fields(
        printer,
        {
            "agent": session.agent_id,
            "parent": session.parent_session_id,
            "created": created,
            "updated": None if updated == created else updated,
            "deleted": timestamp(session.deleted_at),
            "tags": ", ".join(session.tags),
            "metadata": session.metadata,
            "context": session.context,
        },
    )


def _show_run(printer: Printer, run: Run) -> None:
    printer.line()
    _show_heading(printer, "Run", run)
    _show_fields(
        printer,
        {
            "model": model_of(run),
            "usage": usage_of(run),
            "started": timestamp(run.started_at),
            "took": duration((run.ended_at - run.started_at).total_seconds()) if run.ended_at else None,
            "input": run.input,
            "output": run.output,
            "error": run.error,
            "metadata": run.metadata,
        },
    )


def _show_heading(printer: Printer, kind: str, item: Session | Run) -> None:
    status = str(item.status)
    printer.line((f"{kind} ", "bold"), (inline(item.id), "bold cyan"), "  ", (status, style_of(status)))


def _show_fields(printer: Printer, fields: Document) -> None:
    """Print each field that has a value on a line of its own."""
    for name, value in fields.items():
        if value or is_number(value):
            printer.truncated((f"  {name:<10}", "dim"), inline(value))


@dataclass(frozen=True, slots=True)
class _EventInContext:
    """An event between its neighbours."""

    previous: Event | None
    event: Event
    following: Event | None

    @property
    def number(self) -> str:
        return f"{self.event.sequence_number:>5}  "

    @property
    def elapsed(self) -> str | None:
        """The time since the previous event."""
        if self.previous is None:
            return None
        return duration((self.event.timestamp - self.previous.timestamp).total_seconds())

    @property
    def starts_a_run(self) -> bool:
        run_id = self.event.run_id
        return run_id is not None and (self.previous is None or self.previous.run_id != run_id)

    @property
    def starts_a_paragraph(self) -> bool:
        return (
            self.previous is None or self.event.type in _MESSAGES or self.previous.type in _FOLLOWED_BY_SPACE
        )


def _in_context(events: Iterable[Event]) -> Iterable[_EventInContext]:
    before, here, after = tee(events, 3)
    return map(_EventInContext, chain([None], before), here, chain(islice(after, 1, None), [None]))


def _show_events(printer: Printer, events: Iterable[Event], *, has_runs: bool) -> None:
    for item in _in_context(events):
        if has_runs and item.starts_a_run:
            printer.line()
            printer.line((f"Run {inline(item.event.run_id)}", "dim"))
        elif item.starts_a_paragraph:
            printer.line()
        _show_event(printer, item)


def _show_event(printer: Printer, item: _EventInContext) -> None:
    type = item.event.type
    if type in _MESSAGES:
        _show_message(printer, item)
    elif type == EventType.TOOL_CALL_STARTED:
        _show_call(printer, item)
    elif type in _RESULTS:
        _show_result(printer, item)
    else:
        _show_other(printer, item)


def _show_message(printer: Printer, item: _EventInContext) -> None:
    default = "user" if item.event.type == EventType.MESSAGE_SENT else "assistant"
    role = inline(item.event.data.get("role") or default)
    printer.line((item.number, "dim"), (role, _ROLES.get(role, "bold")), (f"  {item.elapsed or ''}", "dim"))
    if body := _message_text(item):
        printer.block(body, first=Text(_INDENT), others=_INDENT, lines_max=12)


def _show_call(printer: Printer, item: _EventInContext) -> None:
    name, body = inline(item.event.data.get("name", "")), _call_text(item.event)
    names_its_tool = name in _SHELLS or body.startswith(name)
    first = Text.assemble((item.number, "dim"), ("$ " if names_its_tool else f"{name} ", "bold yellow"))
    printer.block(body, first=first, others=" " * first.cell_len, style="yellow", lines_max=12)


def _show_result(printer: Printer, item: _EventInContext) -> None:
    data = item.event.data
    style = "red" if item.event.type == EventType.TOOL_CALL_FAILED else ""
    first = Text.assemble((f"{item.number}│ ", "dim"))
    rest = _without(data, "output", "duration_s")
    output = multiline(data.get("output", rest)) or "(no output)"
    printer.block(output, first=first, others=f"{_INDENT}│ ", style=style, lines_max=9)
    took = duration(data["duration_s"]) if is_number(data.get("duration_s")) else item.elapsed
    notes = [took, inline(rest) if "output" in data else None]
    if any(notes):
        printer.truncated((f"{_INDENT}└ {'  '.join(filter(None, notes))}", "dim"))


def _show_other(printer: Printer, item: _EventInContext) -> None:
    type = item.event.type
    words = inline(type) if "." in type else type.replace("_", " ")
    style = "red" if type in ERROR_TYPES else "dim"
    elapsed = f"  {item.elapsed}" if item.elapsed else ""
    first = Text.assemble((item.number, "dim"), (words, style), (elapsed, "dim"), "  ")
    printer.block(inline(item.event.data), first=first, others=" " * first.cell_len, lines_max=1)


def _message_text(item: _EventInContext) -> str:
    """The content of a message, or its thought alone if the rest only repeats the tool call that follows."""
    data = item.event.data
    content, thought = (multiline(data.get(name)) for name in ("content", "thought"))
    if content.startswith(thought) and _repeats_call(content.removeprefix(thought), item.following):
        return thought
    return content or thought or inline(_without(data, "role", "content", "thought"))


def _repeats_call(text: str, event: Event | None) -> bool:
    if event is None or event.type != EventType.TOOL_CALL_STARTED:
        return False
    return not text or _EMPTY_FENCE.fullmatch(text.replace(_call_text(event), "", 1)) is not None


_EMPTY_FENCE = re.compile(r"\s*(?:```\w*\s*```|<\w+>\s*</\w+>)\s*")


def _call_text(call: Event) -> str:
    return multiline(call.data["input"] if "input" in call.data else _without(call.data, "name"))


def _without(data: Document, *names: str) -> Document:
    return {name: value for name, value in data.items() if name not in names}
