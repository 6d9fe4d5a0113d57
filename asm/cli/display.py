"""Lists of sessions, runs and events, and the short reports of the other commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.cells import cell_len, set_cell_size

from asm.cli.printer import Part, Printer
from asm.cli.text import as_text, escaped, inline, quantity
from asm.maintenance.health import HealthIssue
from asm.maintenance.policy import MaintenanceReport
from asm.migrations.runner import StoreStatus
from asm.models import Event, EventType, Run, Session

ERROR_TYPES = (
    EventType.ERROR_OCCURRED,
    EventType.POLICY_VIOLATION,
    EventType.RUN_FAILED,
    EventType.RUN_TIMEOUT,
    EventType.SESSION_FAILED,
    EventType.TOOL_APPROVAL_DENIED,
)
_DATABASES = {"postgres": "PostgreSQL", "sqlite": "SQLite"}
_STYLES = {"completed": "green", "failed": "red", "timeout": "red", "cancelled": "dim"}
_TOKENS = {"input_tokens": "in", "output_tokens": "out", "cache_read_tokens": "read from cache"}


def show_status(printer: Printer, target: str, status: StoreStatus) -> None:
    printer.line((f"{_DATABASES[status.dialect]} {status.version}", "bold"), f"  {escaped(target)}")
    for migration in status.applied:
        printer.line(f"  {migration}  ", ("applied", "green"))
    for migration in status.pending:
        printer.line(f"  {migration}  ", ("pending: run `asm migrate`", "yellow"))
    for table, rows in status.rows.items():
        printer.line(f"  {table:<22}{rows:>12,} {'row' if rows == 1 else 'rows'}")


def show_copied(printer: Printer, source: Mapping[str, int], target: Mapping[str, int]) -> None:
    """Print the number of rows of each table on both sides of a copy."""
    printer.line((f"  {'':<12}{'SRC':>12}{'DST':>12}", "dim"))
    for table, rows in source.items():
        style = "red" if target[table] < rows else ""
        printer.line(f"  {table:<12}{rows:>12,}", (f"{target[table]:>12,}", style))


def show_report(printer: Printer, report: MaintenanceReport, *, dry_run: bool) -> None:
    if dry_run:
        printer.line("dry run: nothing was changed; without --dry-run the result would be:")
    for name, number in report.to_dict().items():
        if name not in ("duration_ms", "errors"):
            printer.line(f"{name.replace('_', ' '):<28}{number:>12,}")


def show_issues(printer: Printer, issues: Sequence[HealthIssue]) -> None:
    if not issues:
        printer.line("healthy")
    for issue in issues:
        printer.line((inline(issue.session_id), "bold"), "  ", (issue.code, "red"), f"  {issue.message}")


def show_sessions(printer: Printer, sessions: Sequence[Session]) -> None:
    _show_table(printer, "sessions", [_session_row(session) for session in sessions])


def show_runs(printer: Printer, runs: Sequence[Run]) -> None:
    _show_table(printer, "runs", [_run_row(run) for run in runs])


def show_events(printer: Printer, events: Sequence[Event]) -> None:
    _show_table(printer, "events", [_event_row(event) for event in events])


def model_of(run: Run) -> str:
    names = (run.provider_metadata.get("model"), run.provider)
    return " at ".join(as_text(name) for name in names if name)


def usage_of(run: Run) -> str:
    """The turns, tokens and cost of a run."""
    words = [quantity(run.turn_count, "turn")] if run.turn_count else []
    tokens = ((run.token_usage.get(name), word) for name, word in _TOKENS.items())
    words += [f"{number:,} tokens {word}" for number, word in tokens if number]
    if run.cost_usd is not None:
        words.append(f"${run.cost_usd:,.2f}" if run.cost_usd >= 1 else f"${run.cost_usd:.4f}")
    return ", ".join(words)


def style_of(status: str) -> str:
    return _STYLES.get(status, "yellow")


@dataclass(frozen=True, slots=True)
class _ListItem:
    """A row of a table: an id, a status or type with its style, a time, and further columns."""

    id: str
    word: str
    style: str
    time: datetime
    rest: tuple[str, ...]

    def cells(self) -> list[str]:
        return [inline(self.id), inline(self.word), f"{self.time:%Y-%m-%d %H:%M}", *map(inline, self.rest)]


def _session_row(session: Session) -> _ListItem:
    notes = [*session.tags, *(value for value in session.metadata.values() if isinstance(value, str))]
    return _ListItem(
        id=session.id,
        word="deleted" if session.deleted_at else str(session.status),
        style=style_of(session.status),
        time=session.created_at,
        rest=(session.agent_id, ", ".join(notes)),
    )


def _run_row(run: Run) -> _ListItem:
    status = str(run.status)
    rest = (run.session_id, model_of(run), usage_of(run))
    return _ListItem(run.id, status, style_of(status), run.started_at, rest)


def _event_row(event: Event) -> _ListItem:
    style = "red" if event.type in ERROR_TYPES else ""
    rest = (f"{event.sequence_number:>5}", inline(event.data))
    return _ListItem(event.session_id, str(event.type), style, event.timestamp, rest)


def _show_table(printer: Printer, plural: str, rows: Sequence[_ListItem]) -> None:
    """Print a line for each row. On a narrow terminal a row takes two lines."""
    if not rows:
        printer.line(f"no {plural}")
        return
    table = [row.cells() for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    fits = printer.fits(sum(widths) + 2 * len(widths))
    for row, (*cells, last) in zip(rows, table, strict=True):
        # The last column is not padded: it may be long, and no column follows it.
        id, word, time, *rest = map(set_cell_size, cells, widths)
        heading: list[Part] = [(id, "bold"), "  ", (word, row.style), "  ", time]
        words = "  ".join([*rest, last])
        if fits:
            printer.line(*heading, "  ", words)
        else:
            printer.line(*heading)
            printer.truncated("  ", words)
