"""The events of a session as `asm show` prints them: a conversation, with tools and their output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rich.text import Text as Line

from asm.cli.display import ERROR_TYPES, tokens_text
from asm.cli.printer import Printer
from asm.cli.text import duration, inline
from asm.content import (
    RESULTS,
    Delta,
    Media,
    Other,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    error_text,
    read_delta,
)
from asm.conversation import (
    SHELLS,
    Entry,
    Repetitions,
    UnfinishedMessage,
    command_text,
    entries_of,
    failure_text,
    multiline,
    read_entry,
    with_parts,
)
from asm.models import Event, EventType, Run
from asm.shown import identifier, prose
from asm.validation import is_number

_INDENT = " " * 7
_ROLES = {
    "assistant": "bold green",
    "model": "bold green",
    "system": "bold magenta",
    "developer": "bold magenta",
    "user": "bold blue",
}
_NOTES = (EventType.TOKEN_USAGE_UPDATED, EventType.TURN_COMPLETED)
"""What belongs to the lines before it."""


class Transcript:
    """Prints one event after another, with what they have in common only once.

    `runs` are those whose beginning is marked: those of a session with several, by their ids.
    """

    def __init__(self, printer: Printer, runs: dict[str, Run]) -> None:
        self._printer = printer
        self._runs = runs
        self._previous: Entry | None = None
        self._run_id: str | None = None

    def show(self, events: Iterable[Event]) -> None:
        """Print events that are all there."""
        for entry in entries_of(events):
            self._show(entry)

    def follow(self, events: Iterable[Event]) -> None:
        """Print events as they arrive, and a message while it is streamed."""
        repetitions = Repetitions()
        stream: _Stream | None = None
        for event in events:
            delta = read_delta(event.data) if event.type == EventType.MESSAGE_STREAMED else None
            if stream is not None and (delta is None or stream.run_id != event.run_id):
                stream.interrupt()
            if delta is not None:
                if stream is None or stream.run_id != event.run_id:
                    stream = _Stream(self._printer, event)
                if stream.is_interrupted:
                    stream.begin(self._begin(read_entry(event)))
                stream.add(event, delta)
            else:
                self._show_rest(repetitions.without(read_entry(event)), stream)
                # Usage is reported in the middle of a message, too.
                stream = stream if event.type == EventType.TOKEN_USAGE_UPDATED else None

    def _show_rest(self, entry: Entry | None, stream: _Stream | None) -> None:
        """Print an entry without what was streamed of it."""
        if entry is not None and stream is not None:
            entry = stream.without(entry)
        if entry is not None:
            self._show(entry)

    def _show(self, entry: Entry) -> None:
        entry = self._begin(entry)
        type = entry.event.type
        if entry.is_message:
            _show_message(self._printer, entry)
        elif type == EventType.TOOL_CALL_STARTED or type in RESULTS:
            _show_parts(self._printer, entry, _number(entry))
        else:
            _show_other(self._printer, entry)

    def _begin(self, entry: Entry) -> Entry:
        """Print what separates an entry from the one before it. Returns it with the time of that one."""
        run_id = entry.event.run_id
        if run_id is not None and run_id != self._run_id and run_id in self._runs:
            self._printer.line()
            _show_run_heading(self._printer, self._runs[run_id])
            self._printer.line()
        elif self._starts_a_paragraph(entry):
            self._printer.line()
        self._run_id = run_id or self._run_id
        previous, self._previous = self._previous, entry
        return replace(entry, previous_at=None if previous is None else previous.event.timestamp)

    def _starts_a_paragraph(self, entry: Entry) -> bool:
        previous = self._previous
        return (
            previous is None
            or entry.is_message
            or previous.is_message
            or (previous.event.type in RESULTS and entry.event.type not in (*RESULTS, *_NOTES))
        )


class _Stream:
    """A message that is printed while it arrives."""

    def __init__(self, printer: Printer, event: Event) -> None:
        self._printer = printer
        self._message = UnfinishedMessage(event)
        self._kind: str | None = None
        self.run_id = event.run_id
        self.is_interrupted = True

    def begin(self, entry: Entry) -> None:
        _show_role(self._printer, entry, "assistant")
        self._kind = None
        self.is_interrupted = False

    def add(self, event: Event, delta: Delta) -> None:
        self._message.add(event, delta)
        if delta.kind == "input":
            # The call is printed when it is complete.
            return
        if self._kind != delta.kind:
            self._printer.continued("\n" * (self._kind is not None) + _INDENT)
        self._kind = delta.kind
        text = prose(delta.text).replace("\n", f"\n{_INDENT}")
        self._printer.continued(text, "dim" if delta.kind == "thinking" else "")

    def interrupt(self) -> None:
        """End the line, so that something else can be printed."""
        if not self.is_interrupted and self._kind is not None:
            self._printer.continued("\n")
        self.is_interrupted = True

    def without(self, entry: Entry) -> Entry | None:
        """The entry without the text that has been printed, or None if that is all of it."""
        if not entry.finishes_deltas:
            return entry
        printed = {
            (type(part), part.text.strip())
            for unfinished in self._message.entries(None)
            for part in unfinished.content.parts
            if isinstance(part, Text | Thinking)
        }
        return with_parts(
            entry,
            tuple(
                part
                for part in entry.content.parts
                if not (isinstance(part, Text | Thinking) and (type(part), part.text.strip()) in printed)
            ),
        )


def _show_run_heading(printer: Printer, run: Run) -> None:
    printer.line((f"── Run {identifier(run.id)} ──", "dim"))


def _show_message(printer: Printer, entry: Entry) -> None:
    parts = entry.content.parts
    if parts and all(isinstance(part, ToolCall | ToolResult) for part in parts):
        _show_parts(printer, entry, _number(entry))
        return
    _show_role(printer, entry, entry.role)
    _show_parts(printer, entry, _INDENT)
    if not parts and entry.content.rest:
        printer.block(multiline(entry.content.rest), first=Line(_INDENT), others=_INDENT, lines_max=12)


def _show_role(printer: Printer, entry: Entry, role: str) -> None:
    role = identifier(role)
    notes = [_elapsed(entry), "unfinished" if entry.event.data.get("partial") is True else ""]
    more = "".join(f"  {note}" for note in notes if note)
    printer.line((_number(entry), "dim"), (role, _ROLES.get(role, "bold")), (more, "dim"))


def _show_parts(printer: Printer, entry: Entry, margin: str) -> None:
    """Print the parts of an entry, the first one after its number or after the margin."""
    for part in entry.content.parts:
        _show_part(printer, entry, part, margin)
        margin = _INDENT


def _show_part(printer: Printer, entry: Entry, part: Part, margin: str) -> None:
    if isinstance(part, ToolCall):
        _show_call(printer, part, margin)
    elif isinstance(part, ToolResult):
        _show_result(printer, entry, part, margin)
    elif isinstance(part, Media):
        words = filter(None, [identifier(part.kind), inline(part.description)])
        described = f"[{': '.join(words)}]"
        printer.truncated((margin, "dim"), (described, "magenta"))
    elif isinstance(part, Other):
        printer.block(inline(part.value), first=Line(margin, "dim"), others=_INDENT, style="dim", lines_max=1)
    else:
        style = "dim italic" if isinstance(part, Thinking) else ""
        printer.block(
            multiline(part.text), first=Line(margin, "dim"), others=_INDENT, style=style, lines_max=12
        )


def _show_call(printer: Printer, call: ToolCall, margin: str) -> None:
    name, body = identifier(call.name or ""), command_text(call)
    names_its_tool = not name or name.lower() in SHELLS or body.startswith(name)
    first = Line.assemble((margin, "dim"), ("$ " if names_its_tool else f"{name} ", "bold yellow"))
    printer.block(body, first=first, others=" " * first.cell_len, style="yellow", lines_max=12)


def _show_result(printer: Printer, entry: Entry, result: ToolResult, margin: str) -> None:
    rest = entry.content.rest
    printer.block(
        _result_text(result),
        first=Line.assemble((f"{margin}│ ", "dim")),
        others=f"{_INDENT}│ ",
        style="red" if result.failed else "",
        lines_max=9,
    )
    took = rest.get("duration_s")
    taken = duration(took) if is_number(took) and took is not None else _elapsed(entry)
    session_id = rest.get("session_id")
    if isinstance(session_id, str):
        # On a line of its own: `asm show` takes it as it is here.
        printer.line((f"{_INDENT}└ session ", "dim"), (identifier(session_id), "cyan"))
    shown = ("duration_s", "session_id") if isinstance(session_id, str) else ("duration_s",)
    others = {name: value for name, value in rest.items() if name not in shown}
    notes = list(filter(None, [taken, inline(others) if others else None]))
    if notes and entry.event.type in RESULTS:
        printer.truncated((f"{_INDENT}└ {'  '.join(notes)}", "dim"))


def _result_text(result: ToolResult) -> str:
    output = multiline(result.output)
    if not result.failed:
        return output or "(no output)"
    return "\n".join(filter(None, [failure_text(result), result.error and output]))


def _show_other(printer: Printer, entry: Entry) -> None:
    event = entry.event
    words = identifier(event.type) if "." in event.type else event.type.replace("_", " ")
    style = "red" if event.type in ERROR_TYPES else "dim"
    elapsed = _elapsed(entry)
    first = Line.assemble(
        (_number(entry), "dim"), (words, style), (f"  {elapsed}" if elapsed else "", "dim"), "  "
    )
    printer.block(_other_text(event), first=first, others=" " * first.cell_len, lines_max=1)


def _other_text(event: Event) -> str:
    data = event.data
    if event.type in ERROR_TYPES and isinstance(data.get("message"), str):
        rest = {name: value for name, value in data.items() if name not in ("message", "code", "type")}
        said = error_text({name: value for name, value in data.items() if name not in rest})
        return "  ".join(filter(None, [inline(said), inline(rest) if rest else None]))
    if event.type == EventType.TOKEN_USAGE_UPDATED and (tokens := tokens_text(data)):
        return tokens
    return inline(data)


def _number(entry: Entry) -> str:
    number = str(entry.event.sequence_number)
    return f"{number if entry.last is None else f'{number}-{entry.last}':>5}  "


def _elapsed(entry: Entry) -> str | None:
    """The time since the entry before it."""
    if entry.previous_at is None:
        return None
    return duration((entry.event.timestamp - entry.previous_at).total_seconds())
