"""Stats, usage and cost as tables of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat

from rich.cells import cell_len, set_cell_size

from asm.cli.printer import Printer
from asm.cli.text import quantity, timestamp, usd
from asm.operations.summaries import Cost, CostSummary, SessionStats, Usage, UsageSummary
from asm.pricing import PricedBy
from asm.shown import identifier

TableRow = Sequence[str]

_TOKENS = {
    "input_tokens": "in",
    "output_tokens": "out",
    "cache_read_tokens": "from cache",
    "cache_creation_tokens": "to cache",
    "total_tokens": "total",
}
_PRICED_BY: dict[PricedBy, str] = {
    "cost_usd": "own cost",
    "exact": "exact name",
    "prefix": "prefix",
    "default": "default",
    "maker": "maker",
}
_UNNAMED = "(none)"


def show_stats(printer: Printer, session_id: str, stats: SessionStats) -> None:
    printer.line(("Session ", "bold"), (identifier(session_id), "bold cyan"))
    tokens = [f"{number:,} {_TOKENS[name]}" for name, number in stats.token_totals.items() if number]
    statuses = [f"{number:,} {status}" for status, number in stats.status_counts.items()]
    for name, value in {
        "events": f"{stats.event_count:,}",
        "first": timestamp(stats.first_event_at),
        "last": timestamp(stats.last_event_at),
        "runs": ", ".join(statuses) or "0",
        "tokens": ", ".join(tokens),
        "providers": ", ".join(map(identifier, stats.providers_used)),
    }.items():
        if value:
            printer.line((f"  {name:<10}", "dim"), value)


def show_usage(printer: Printer, usage: UsageSummary) -> None:
    total = f"{quantity(usage.total_tokens, 'token')} in {quantity(usage.run_count, 'run')}"
    printer.line((total, "bold"))
    _show_parts(printer, "provider", ["runs", *_TOKENS.values()], _usage_rows(usage.by_provider))
    _show_parts(printer, "model", ["runs", *_TOKENS.values()], _usage_rows(usage.by_model))


def show_cost(printer: Printer, cost: CostSummary) -> None:
    priced = cost.run_count - cost.unmapped_runs
    printer.line((f"{usd(cost.total_cost_usd)} for {quantity(priced, 'run')}", "bold"))
    if cost.unmapped_runs:
        unpriced = f"{quantity(cost.unmapped_runs, 'more run')} without a price: see `asm cost --help`"
        printer.line((unpriced, "yellow"))
    heading = ["cost", "runs", *_PRICED_BY.values(), "no price"]
    _show_parts(printer, "provider", heading, _cost_rows(cost.by_provider))
    _show_parts(printer, "model", heading, _cost_rows(cost.by_model))


def _usage_rows(parts: Mapping[str | None, Usage]) -> Iterable[TableRow]:
    for name, part in parts.items():
        tokens = [getattr(part, name) for name in _TOKENS]
        yield [identifier(name or _UNNAMED), *map(_count, [part.run_count, *tokens])]


def _cost_rows(parts: Mapping[str | None, Cost]) -> Iterable[TableRow]:
    for name, part in parts.items():
        counts = [part.run_count, *(part.priced_by.get(by, 0) for by in _PRICED_BY), part.unmapped_runs]
        cost = usd(part.cost_usd) if part.priced_by else ""
        yield [identifier(name or _UNNAMED), cost, *map(_count, counts)]


def _show_parts(printer: Printer, kind: str, heading: TableRow, rows: Iterable[TableRow]) -> None:
    """Print a table of names and numbers without its empty columns.

    If the terminal is too narrow, each name is printed on a line of its own.
    """
    columns = [column for column in zip([kind, *heading], *rows, strict=True) if any(column[1:])]
    if not columns:
        return
    widths = [max(map(cell_len, column)) for column in columns]
    fits = printer.fits(sum(widths) + 2 * len(widths))
    printer.line()
    for (name, *cells), style in zip(zip(*columns, strict=True), chain(["dim"], repeat("")), strict=False):
        numbers = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        if fits:
            printer.line((f"{set_cell_size(name, widths[0])}  {numbers}", style))
        else:
            printer.line((name, style or "bold"))
            printer.line((f"  {numbers}", style))


def _count(number: int) -> str:
    return f"{number:,}" if number else ""
