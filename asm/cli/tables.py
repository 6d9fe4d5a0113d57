"""Stats, usage and cost as a person wants to read them: tables of numbers, as wide as they need to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain, repeat

from rich.cells import cell_len, set_cell_size

from asm.cli.display import Printer, counted, one_line
from asm.operations.summaries import Cost, CostSummary, SessionStats, Usage, UsageSummary
from asm.pricing import PricedBy

Row = Sequence[str]

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
}
_NAMELESS = "(none)"


def show_stats(sheet: Printer, session_id: str, stats: SessionStats) -> None:
    """Print what there is of a session, as `asm stats` does."""
    sheet.line(("Session ", "bold"), (one_line(session_id), "bold cyan"))
    tokens = [f"{number:,} {_TOKENS[name]}" for name, number in stats.token_totals.items() if number]
    statuses = [f"{number:,} {status}" for status, number in stats.status_counts.items()]
    for name, told in {
        "events": f"{stats.event_count:,}",
        "first": _moment(stats.first_event_at),
        "last": _moment(stats.last_event_at),
        "runs": ", ".join(statuses) or "0",
        "tokens": ", ".join(tokens),
        "providers": one_line(", ".join(stats.providers_used)),
    }.items():
        if told:
            sheet.line((f"  {name:<10}", "dim"), told)


def show_usage(sheet: Printer, usage: UsageSummary) -> None:
    """Print how many tokens runs have used, as `asm usage` does."""
    total = f"{counted(usage.total_tokens, 'token')} in {counted(usage.run_count, 'run')}"
    sheet.line((total, "bold"))
    _show_parts(sheet, "provider", ["runs", *_TOKENS.values()], _usage_rows(usage.by_provider))
    _show_parts(sheet, "model", ["runs", *_TOKENS.values()], _usage_rows(usage.by_model))


def show_cost(sheet: Printer, cost: CostSummary) -> None:
    """Print what runs have cost and what priced them, as `asm cost` does."""
    priced = cost.run_count - cost.unmapped_runs
    sheet.line((f"{_usd(cost.total_cost_usd)} for {counted(priced, 'run')}", "bold"))
    if cost.unmapped_runs:
        without = f"{counted(cost.unmapped_runs, 'more run')} without a price: see `asm cost --help`"
        sheet.line((without, "yellow"))
    heading = ["cost", "runs", *_PRICED_BY.values(), "no price"]
    _show_parts(sheet, "provider", heading, _cost_rows(cost.by_provider))
    _show_parts(sheet, "model", heading, _cost_rows(cost.by_model))


def _usage_rows(parts: Mapping[str | None, Usage]) -> Iterable[Row]:
    for name, part in parts.items():
        tokens = [getattr(part, name) for name in _TOKENS]
        yield [one_line(name or _NAMELESS), *map(_count, [part.run_count, *tokens])]


def _cost_rows(parts: Mapping[str | None, Cost]) -> Iterable[Row]:
    for name, part in parts.items():
        counts = [part.run_count, *(part.priced_by.get(by, 0) for by in _PRICED_BY), part.unmapped_runs]
        cost = _usd(part.cost_usd) if part.priced_by else ""
        yield [one_line(name or _NAMELESS), cost, *map(_count, counts)]


def _show_parts(sheet: Printer, kind: str, heading: Row, rows: Iterable[Row]) -> None:
    """A table of names and numbers, without columns that are empty.

    Where the terminal is too narrow for it, each name has a line of its own.
    """
    columns = [column for column in zip([kind, *heading], *rows, strict=True) if any(column[1:])]
    if not columns:
        return
    widths = [max(map(cell_len, column)) for column in columns]
    fits = sheet.fits(sum(widths) + 2 * len(widths))
    sheet.line()
    for (name, *cells), style in zip(zip(*columns, strict=True), chain(["dim"], repeat("")), strict=False):
        numbers = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        if fits:
            sheet.line((f"{set_cell_size(name, widths[0])}  {numbers}", style))
        else:
            sheet.line((name, style or "bold"))
            sheet.line((f"  {numbers}", style))


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _usd(dollars: float) -> str:
    return f"${dollars:,.2f}" if dollars >= 1 or not dollars else f"${max(dollars, 0.0001):.4f}"


def _moment(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"
