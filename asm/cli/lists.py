"""Lists of sessions, runs and events: one line each.

On a terminal there is a heading, ids are as short as they may be given to a command, times are ages, and
the last column takes the width that is left. In a pipe ids are whole, times are UTC, and there is no heading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.cells import cell_len, set_cell_size
from rich.text import Text as Line

from asm.cli.display import ERROR_TYPES, model_of, style_of, usage_of
from asm.cli.printer import Part, Printer
from asm.cli.text import age, inline, shortened
from asm.content import Content, Media, Other, Text, Thinking, ToolCall, ToolResult
from asm.conversation import as_text, command_text, failure_text, multiline, read_entry
from asm.models import Event, EventType, Run, Session
from asm.operations.listing import SessionSummary
from asm.shown import identifier, prose

_WIDE = 100
_AGENT_WIDTHS = (12, 20)
"""The columns that an agent's id has at most: on a terminal narrower than `_WIDE`, and on others."""

_LAST_WIDTH_MIN = 16
"""The columns that the last cell has at least; if there are fewer, a row takes two lines."""

_PIPED_LENGTH_MAX = 200
"""The characters of an event's data in a pipe, unless all of it is asked for."""


@dataclass(frozen=True, slots=True)
class Times:
    """How a list prints a time: as an age, or in UTC."""

    is_utc: bool
    now: datetime

    @classmethod
    def of(cls, printer: Printer, *, utc: bool) -> Times:
        return cls(utc or printer.width is None, datetime.now(UTC))

    def text(self, time: datetime) -> str:
        return f"{time:%Y-%m-%d %H:%M:%S}" if self.is_utc else age(time, self.now)


@dataclass(frozen=True, slots=True)
class _Row:
    """The cells of a row. The second one, a status or a type, has a style."""

    cells: list[str]
    style: str = ""


def show_sessions(
    printer: Printer,
    sessions: Sequence[Session],
    summaries: Mapping[str, SessionSummary],
    *,
    by_creation: bool,
    times: Times,
    snippets: Sequence[str] | None = None,
) -> None:
    """Print sessions. The time is the one by which they are sorted."""
    rows = [
        _session_row(printer, session, summaries[session.id], by_creation=by_creation, times=times)
        for session in sessions
    ]
    heading = ["ID", "STATUS", "AGENT", "EVENTS", "CREATED" if by_creation else "UPDATED", "TITLE"]
    _show_table(printer, "sessions", heading, rows, snippets)


def show_runs(printer: Printer, runs: Sequence[Run], short_ids: Mapping[str, str], *, times: Times) -> None:
    rows = [
        _Row(
            [
                identifier(run.id),
                str(run.status),
                times.text(run.started_at),
                identifier(short_ids.get(run.session_id, run.session_id)),
                ", ".join(filter(None, [model_of(run), usage_of(run)])),
            ],
            style_of(str(run.status)),
        )
        for run in runs
    ]
    _show_table(printer, "runs", ["ID", "STATUS", "STARTED", "SESSION", "MODEL AND USAGE"], rows)


def show_events(
    printer: Printer,
    events: Sequence[Event],
    short_ids: Mapping[str, str],
    *,
    times: Times,
    full: bool,
    snippets: Sequence[str] | None = None,
) -> None:
    rows = [
        _Row(
            [
                identifier(short_ids.get(event.session_id, event.session_id)),
                identifier(str(event.type)),
                f"{event.sequence_number:>5}",
                times.text(event.timestamp),
                inline(event.data) if full else snippet or _event_text(event),
            ],
            "red" if event.type in (*ERROR_TYPES, EventType.TOOL_CALL_FAILED) else "",
        )
        for event, snippet in zip(events, snippets or [""] * len(events), strict=True)
    ]
    _show_table(printer, "events", ["SESSION", "TYPE", "  NO.", "TIME", "DATA"], rows)


def _session_row(
    printer: Printer, session: Session, summary: SessionSummary, *, by_creation: bool, times: Times
) -> _Row:
    status = "deleted" if session.deleted_at else str(session.status)
    agent, id = identifier(session.agent_id), identifier(session.id)
    if printer.width is not None and not printer.is_full:
        agent, id = _cut(agent, _AGENT_WIDTHS[printer.width >= _WIDE]), identifier(summary.short_id)
    tags = f"[{', '.join(map(identifier, session.tags))}]" if session.tags else ""
    time = session.created_at if by_creation else session.updated_at
    return _Row(
        [
            id,
            status,
            agent,
            f"{summary.event_count:>6,}",
            times.text(time),
            " ".join(filter(None, [summary.title, tags])),
        ],
        style_of(status),
    )


def _event_text(event: Event) -> str:
    return shortened(_content_text(read_entry(event).content) or inline(event.data), _PIPED_LENGTH_MAX)


def _content_text(content: Content) -> str:
    words = " ".join(map(_part_text, content.parts)).split()
    return prose(" ".join(words))


def _part_text(part: object) -> str:
    if isinstance(part, Text | Thinking):
        return part.text
    if isinstance(part, ToolCall):
        return f"{part.name or ''} {command_text(part)}".strip()
    if isinstance(part, ToolResult):
        return failure_text(part) if part.failed else multiline(part.output)
    if isinstance(part, Media):
        return f"[{part.kind}]"
    return as_text(part.value) if isinstance(part, Other) else ""


def _show_table(
    printer: Printer,
    plural: str,
    heading: list[str],
    rows: Sequence[_Row],
    notes: Sequence[str] | None = None,
) -> None:
    """Print a line for each row, and on a terminal its note below it.

    If the terminal is too narrow for a row, it takes two lines.
    """
    if not rows:
        printer.line(f"no {plural}")
        return
    table = [[*map(inline, row.cells)] for row in rows]
    columns = zip(*([heading, *table] if printer.width is not None else table), strict=True)
    widths = [max(map(cell_len, column)) for column in columns]
    fits = printer.fits(sum(widths[:-1]) + 2 * len(widths[:-1]) + _LAST_WIDTH_MIN)
    if printer.width is not None and fits:
        printer.truncated((_line(heading, widths), "dim"))
    for row, cells, note in zip(rows, table, notes or [""] * len(rows), strict=True):
        id, word, *rest = [
            set_cell_size(cell, width) for cell, width in zip(cells[:-1], widths, strict=False)
        ]
        start: list[Part] = [(id, "bold"), "  ", (word, row.style), "  "]
        if fits:
            printer.truncated(*start, "  ".join([*rest, cells[-1]]))
        else:
            printer.truncated(*start, "  ".join(rest))
            if cells[-1]:
                printer.truncated("  ", cells[-1])
        if note and printer.width is not None:
            printer.truncated("  ", (note, "dim"))


def _cut(text: str, width: int) -> str:
    cut = Line(text)
    cut.truncate(width, overflow="ellipsis")
    return cut.plain


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [set_cell_size(cell, width) for cell, width in zip(cells[:-1], widths, strict=False)]
    return "  ".join([*padded, cells[-1]])
