"""Short reports, and how statuses, models and usage are written everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asm.cli.printer import Printer
from asm.cli.text import one_line, quantity, usd
from asm.conversation import as_text
from asm.maintenance.health import HealthIssue
from asm.maintenance.policy import MaintenanceReport
from asm.migrations.runner import StoreStatus
from asm.models import EventType, Run
from asm.shown import identifier
from asm.validation import is_number

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
_TOKENS = {
    "input_tokens": "in",
    "output_tokens": "out",
    "cache_read_tokens": "read from cache",
    "cache_creation_tokens": "written to cache",
}


def show_status(printer: Printer, target: str, status: StoreStatus) -> None:
    printer.line(
        (f"{_DATABASES[status.dialect]} {one_line(status.version)}", "bold"), f"  {one_line(target)}"
    )
    for migration in status.applied:
        printer.line(f"  {identifier(migration)}  ", ("applied", "green"))
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
        printer.line((identifier(issue.session_id), "bold"), "  ", (issue.code, "red"), f"  {issue.message}")


def model_of(run: Run) -> str:
    names = (run.provider_metadata.get("model"), run.provider)
    return " at ".join(identifier(as_text(name)) for name in names if name)


def usage_of(run: Run) -> str:
    """The turns, tokens and cost of a run."""
    words = [quantity(run.turn_count, "turn")] if run.turn_count else []
    # "1,200 tokens in, 30 out"
    words += filter(None, [tokens_text(run.token_usage).replace(" ", " tokens ", 1)])
    if run.cost_usd is not None:
        words.append(usd(run.cost_usd))
    return ", ".join(words)


def tokens_text(counts: Mapping[str, Any]) -> str:
    """The token counts that are not 0."""
    numbers = [(counts.get(name), word) for name, word in _TOKENS.items()]
    return ", ".join(f"{number:,} {word}" for number, word in numbers if is_number(number) and number)


def style_of(status: str) -> str:
    return _STYLES.get(status, "yellow")
