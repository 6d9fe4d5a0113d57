"""Sessions, runs and events as a person wants to read them.

On a terminal it is coloured, fits the width, and long texts are shortened; in a pipe it is
plain and whole. Text that came from an agent may hold anything, so what a terminal would
obey is shown and not sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice, repeat, tee
from typing import Any, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from asm.documents import Document
from asm.maintenance.health import HealthIssue
from asm.maintenance.policy import MaintenanceReport
from asm.migrations.runner import StoreStatus
from asm.models import Event, EventType, Run, Session
from asm.store import SessionStore
from asm.validation import is_number


def show_session(store: SessionStore, session_id: str, *, full: bool = False) -> None:
    """Print a session, its runs and its events, as `asm show` does."""
    export = store.query.export_session(session_id)
    sheet = Printer(full=full)
    _show_session(sheet, export.session)
    for run in export.runs:
        _show_run(sheet, run)
    _show_events(sheet, export.events, has_runs=len(export.runs) > 1)


def show_status(sheet: Printer, place: str, found: StoreStatus) -> None:
    sheet.line((f"{_DATABASES[found.dialect]} {found.version}", "bold"), f"  {_safe(place)}")
    for migration in found.applied:
        sheet.line(f"  {migration}  ", ("applied", "green"))
    for migration in found.pending:
        sheet.line(f"  {migration}  ", ("pending: run `asm migrate`", "yellow"))
    for table, rows in found.rows.items():
        sheet.line(f"  {table:<22}{rows:>12,} {'row' if rows == 1 else 'rows'}")


_DATABASES = {"postgres": "PostgreSQL", "sqlite": "SQLite"}


def show_copied(sheet: Printer, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Print how many rows of each table the source of a copy has, and how many its target."""
    sheet.line((f"  {'':<12}{'SRC':>12}{'DST':>12}", "dim"))
    for table, rows in before.items():
        style = "red" if after[table] < rows else ""
        sheet.line(f"  {table:<12}{rows:>12,}", (f"{after[table]:>12,}", style))


def show_report(sheet: Printer, report: MaintenanceReport, *, dry_run: bool) -> None:
    if dry_run:
        sheet.line("nothing was changed; a run would make of it:")
    for name, number in report.to_dict().items():
        if name not in ("duration_ms", "errors"):
            sheet.line(f"{name.replace('_', ' '):<28}{number:>12,}")


def show_issues(sheet: Printer, issues: Sequence[HealthIssue]) -> None:
    if not issues:
        sheet.line("healthy")
        return
    for issue in issues:
        sheet.line((_inline(issue.session_id), "bold"), "  ", (issue.code, "red"), f"  {issue.message}")


def show_sessions(sheet: Printer, sessions: Sequence[Session]) -> None:
    _show_table(sheet, "sessions", [_session_row(session) for session in sessions])


def show_runs(sheet: Printer, runs: Sequence[Run]) -> None:
    _show_table(sheet, "runs", [_run_row(run) for run in runs])


def show_events(sheet: Printer, events: Sequence[Event]) -> None:
    """Print events of any sessions, a row each."""
    _show_table(sheet, "events", [_event_row(event) for event in events])


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a table: whose it is, what it is in a word, when it was, and what else there is to say."""

    id: str
    word: str
    style: str
    time: datetime
    rest: tuple[str, ...]

    def cells(self) -> list[str]:
        return [_inline(self.id), _inline(self.word), f"{self.time:%Y-%m-%d %H:%M}", *map(_inline, self.rest)]


def _show_table(sheet: Printer, what: str, rows: Sequence[_Row]) -> None:
    if not rows:
        sheet.line(f"no {what}")
        return
    table = [row.cells() for row in rows]
    # The last column has nothing behind it, and may be long.
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    fits = sheet.fits(sum(widths) + 2 * len(widths))
    for row, (*cells, last) in zip(rows, table, strict=True):
        id, word, time, *rest = map(set_cell_size, cells, widths)
        heading: list[Part] = [(id, "bold"), "  ", (word, row.style), "  ", time]
        words = "  ".join([*rest, last])
        if fits:
            sheet.line(*heading, "  ", words)
        else:
            sheet.line(*heading)
            sheet.brief("  ", words)


def _session_row(session: Session) -> _Row:
    about = [*session.tags, *(value for value in session.metadata.values() if isinstance(value, str))]
    return _Row(
        id=session.id,
        word="deleted" if session.deleted_at else str(session.status),
        style=_style(session.status),
        time=session.created_at,
        rest=(session.agent_id, ", ".join(about)),
    )


def _run_row(run: Run) -> _Row:
    status = str(run.status)
    return _Row(run.id, status, _style(status), run.started_at, (run.session_id, _model(run), _usage(run)))


def _event_row(event: Event) -> _Row:
    style = "red" if event.type in _TROUBLE else ""
    rest = (f"{event.sequence_number:>5}", _inline(event.data))
    return _Row(event.session_id, str(event.type), style, event.timestamp, rest)


def _show_session(sheet: Printer, session: Session) -> None:
    _show_heading(sheet, "Session", session)
    created, updated = _moment(session.created_at), _moment(session.updated_at)
    _show_fields(
        sheet,
        {
            "agent": session.agent_id,
            "parent": session.parent_session_id,
            "created": created,
            "updated": None if updated == created else updated,
            "deleted": _moment(session.deleted_at),
            "tags": ", ".join(session.tags),
            "metadata": session.metadata,
            "context": session.context,
        },
    )


def _show_run(sheet: Printer, run: Run) -> None:
    sheet.line()
    _show_heading(sheet, "Run", run)
    _show_fields(
        sheet,
        {
            "model": _model(run),
            "usage": _usage(run),
            "started": _moment(run.started_at),
            "took": _span((run.ended_at - run.started_at).total_seconds()) if run.ended_at else None,
            "input": run.input,
            "output": run.output,
            "error": run.error,
            "metadata": run.metadata,
        },
    )


def _show_heading(sheet: Printer, kind: str, what: Session | Run) -> None:
    status = str(what.status)
    sheet.line((f"{kind} ", "bold"), (_inline(what.id), "bold cyan"), "  ", (status, _style(status)))


def _show_fields(sheet: Printer, fields: Document) -> None:
    """What there is to say of these, a line for each."""
    for name, value in fields.items():
        if value or is_number(value):
            sheet.brief((f"  {name:<10}", "dim"), _inline(value))


def _show_events(sheet: Printer, events: Iterable[Event], *, has_runs: bool) -> None:
    for moment in _moments(events):
        if has_runs and moment.starts_a_run:
            sheet.line()
            sheet.line((f"Run {_inline(moment.event.run_id)}", "dim"))
        elif moment.starts_a_paragraph:
            sheet.line()
        _show_event(sheet, moment)


def _show_event(sheet: Printer, moment: _EventInContext) -> None:
    type = moment.event.type
    if type in _MESSAGES:
        _show_message(sheet, moment)
    elif type == EventType.TOOL_CALL_STARTED:
        _show_call(sheet, moment)
    elif type in _RESULTS:
        _show_result(sheet, moment)
    else:
        _show_other(sheet, moment)


def _show_message(sheet: Printer, moment: _EventInContext) -> None:
    sent = moment.event.type == EventType.MESSAGE_SENT
    role = _inline(moment.event.data.get("role") or ("user" if sent else "assistant"))
    sheet.line((moment.number, "dim"), (role, _ROLES.get(role, "bold")), (f"  {moment.waited or ''}", "dim"))
    if said := _said(moment):
        sheet.block(said, first=Text(_INDENT), others=_INDENT, lines_max=12)


def _show_call(sheet: Printer, moment: _EventInContext) -> None:
    name, asked = _inline(moment.event.data.get("name", "")), _asked(moment.event)
    says_its_name = name in _SHELLS or asked.startswith(name)
    first = Text.assemble((moment.number, "dim"), ("$ " if says_its_name else f"{name} ", "bold yellow"))
    sheet.block(asked, first=first, others=" " * first.cell_len, style="yellow", lines_max=12)


def _show_result(sheet: Printer, moment: _EventInContext) -> None:
    data = moment.event.data
    style = "red" if moment.event.type == EventType.TOOL_CALL_FAILED else ""
    bar = Text.assemble((f"{moment.number}│ ", "dim"))
    rest = _without(data, "output", "duration_s")
    output = _legible(data.get("output", rest)) or "(no output)"
    sheet.block(output, first=bar, others=f"{_INDENT}│ ", style=style, lines_max=9)
    took = _span(data["duration_s"]) if is_number(data.get("duration_s")) else moment.waited
    notes = [took, _inline(rest) if "output" in data else None]
    if any(notes):
        sheet.brief((f"{_INDENT}└ {'  '.join(filter(None, notes))}", "dim"))


def _show_other(sheet: Printer, moment: _EventInContext) -> None:
    type = moment.event.type
    words = _inline(type) if "." in type else type.replace("_", " ")
    style = "red" if type in _TROUBLE else "dim"
    waited = f"  {moment.waited}" if moment.waited else ""
    first = Text.assemble((moment.number, "dim"), (words, style), (waited, "dim"), "  ")
    sheet.block(_inline(moment.event.data), first=first, others=" " * first.cell_len, lines_max=1)


_INDENT = " " * 7
_ROLES = {"assistant": "bold green", "system": "bold magenta", "user": "bold blue"}
_SHELLS = ("bash", "sh", "shell")

_MESSAGES = (EventType.MESSAGE_SENT, EventType.MESSAGE_RECEIVED, EventType.MESSAGE_STREAMED)
_RESULTS = (EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED)
_SPACIOUS = (*_MESSAGES, *_RESULTS)
_TROUBLE = (
    EventType.ERROR_OCCURRED,
    EventType.POLICY_VIOLATION,
    EventType.RUN_FAILED,
    EventType.RUN_TIMEOUT,
    EventType.SESSION_FAILED,
    EventType.TOOL_APPROVAL_DENIED,
)


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
    def waited(self) -> str | None:
        """How long it came after the one before."""
        return (
            _span((self.event.timestamp - self.previous.timestamp).total_seconds()) if self.previous else None
        )

    @property
    def starts_a_run(self) -> bool:
        run_id = self.event.run_id
        return run_id is not None and (self.previous is None or self.previous.run_id != run_id)

    @property
    def starts_a_paragraph(self) -> bool:
        return self.previous is None or self.event.type in _MESSAGES or self.previous.type in _SPACIOUS


def _moments(events: Iterable[Event]) -> Iterable[_EventInContext]:
    before, here, after = tee(events, 3)
    return map(_EventInContext, chain([None], before), here, chain(islice(after, 1, None), [None]))


# Words.


def _said(moment: _EventInContext) -> str:
    """What a message says; only the thought in it where the rest is the call that follows."""
    data = moment.event.data
    content, thought = (_legible(data.get(name)) for name in ("content", "thought"))
    if content.startswith(thought) and _is_call(content.removeprefix(thought), moment.following):
        return thought
    return content or thought or _inline(_without(data, "role", "content", "thought"))


def _is_call(text: str, event: Event | None) -> bool:
    if event is None or event.type != EventType.TOOL_CALL_STARTED:
        return False
    return not text or _FENCED.fullmatch(text.replace(_asked(event), "", 1)) is not None


_FENCED = re.compile(r"\s*(?:```\w*\s*```|<\w+>\s*</\w+>)\s*")


def _asked(call: Event) -> str:
    return _legible(call.data["input"] if "input" in call.data else _without(call.data, "name"))


def _without(data: Document, *names: str) -> Document:
    return {name: value for name, value in data.items() if name not in names}


def _legible(value: Any) -> str:
    """A value as a text of several lines, without the empty ones around it."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_plain(each)}" for key, each in value.items())
    if isinstance(value, list) and all(isinstance(part, dict) and "text" in part for part in value):
        return "\n".join(_plain(part["text"]) for part in value)
    return _plain(value).replace("\r\n", "\n").lstrip("\n").rstrip()


def _inline(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{_inline(key)}: {_inline(_plain(each))}" for key, each in value.items())
    return _safe(_plain(value)).replace("\n", "\\n").replace("\t", "\\t")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def one_line(message: str) -> str:
    return _safe(" ".join(message.split()))


def _safe(text: str) -> str:
    """A text with nothing in it that a terminal would obey, or that would reorder what stands around it."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _model(run: Run) -> str:
    names = (run.provider_metadata.get("model"), run.provider)
    return " at ".join(_plain(name) for name in names if name)


def _usage(run: Run) -> str:
    words = [counted(run.turn_count, "turn")] if run.turn_count else []
    tokens = ((run.token_usage.get(name), word) for name, word in _TOKENS.items())
    words += [f"{number:,} tokens {word}" for number, word in tokens if number]
    if run.cost_usd is not None:
        words.append(f"${run.cost_usd:,.2f}" if run.cost_usd >= 1 else f"${run.cost_usd:.4f}")
    return ", ".join(words)


_TOKENS = {"input_tokens": "in", "output_tokens": "out", "cache_read_tokens": "read from cache"}


def _span(seconds: float) -> str | None:
    """How long something took, or None for no time at all."""
    if seconds < 0.001:
        return None
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _moment(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _style(status: str) -> str:
    return _STYLES.get(status, "yellow")


_STYLES = {"completed": "green", "failed": "red", "timeout": "red", "cancelled": "dim"}


# Lines.

Part: TypeAlias = str | tuple[str, str]
"""Text, or text and its style."""

_LINES_TO_SPARE = 3
"""So few lines more than a text may have are not worth a line that says they are missing."""

_ROWS_PER_LINE = 5
"""How much of a terminal one line of a text may take."""


class Printer:
    """Where lines are printed: fitted to a terminal, whole in a pipe."""

    def __init__(self, *, full: bool = False) -> None:
        self._console = Console(highlight=False)
        self._width = self._console.width if self._console.is_terminal else None
        self._full = full or self._width is None

    def fits(self, width: int) -> bool:
        """Whether a line of that width stays one line."""
        return self._width is None or width <= self._width

    def line(self, *parts: Part) -> None:
        """A line, which the terminal wraps where it is too long."""
        self._print(Text.assemble(*parts))

    def brief(self, *parts: Part) -> None:
        """A line, which ends where the terminal does."""
        text = Text.assemble(*parts)
        if self._width is not None and not self._full:
            text.truncate(self._width, overflow="ellipsis")
        self._print(text)

    def block(self, body: str, *, first: Text, others: str, style: str = "", lines_max: int) -> None:
        """Lines behind a margin; where there are too many, without those in the middle."""
        rows = self._rows(body, style, lines_max, first.cell_len)
        margins = chain([first], repeat(Text.assemble((others, "dim"))))
        for margin, row in zip(margins, rows, strict=False):
            self._print(margin + row)

    def _rows(self, body: str, style: str, lines_max: int, margin: int) -> Iterator[Text]:
        lines = _safe(body).split("\n")
        left_out = len(lines) - lines_max
        if self._full or left_out <= _LINES_TO_SPARE:
            yield from self._fitted(lines, style, margin)
            return
        # The end tells most, after the beginning.
        last = max(1, lines_max // 4)
        yield from self._fitted(lines[: lines_max - last], style, margin)
        yield Text(f"… {left_out:,} more lines", "dim italic")
        yield from self._fitted(lines[-last:], style, margin)

    def _fitted(self, lines: Iterable[str], style: str, margin: int) -> Iterator[Text]:
        for line in lines:
            if self._width is None:
                yield Text(line, style)
            else:
                yield from self._wrapped(line, style, max(self._width - margin, 20))

    def _wrapped(self, line: str, style: str, width: int) -> Iterator[Text]:
        most = len(line) if self._full else width * _ROWS_PER_LINE
        text = Text(line[:most].expandtabs(), style)
        yield from text.wrap(self._console, width)
        if len(line) > most:
            yield Text(f"… {len(line) - most:,} more characters", "dim italic")

    def _print(self, text: Text) -> None:
        text.rstrip()
        self._console.print(text, soft_wrap=True)
