"""The head of `asm show`: what a session is, and what happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from asm.cli.display import ERROR_TYPES, model_of, style_of, tokens_text, usage_of
from asm.cli.printer import Printer
from asm.cli.text import age, duration, inline, quantity, timestamp, usd
from asm.content import ITEMS, Content, ToolResult, error_text, read_content
from asm.documents import Document
from asm.models import Event, EventType, Run, Session
from asm.operations.summaries import CostSummary, SessionStats
from asm.shown import identifier
from asm.validation import is_number

SUMMARIZED_TYPES = (
    EventType.MESSAGE_SENT,
    EventType.MESSAGE_RECEIVED,
    EventType.TOOL_CALL_STARTED,
    EventType.TOOL_CALL_FAILED,
    EventType.TURN_COMPLETED,
    *ERROR_TYPES,
    *ITEMS,
)
"""The types of the events that a summary is made of. Deltas and the output of tools are not read for it."""

_FAILURES = (EventType.TOOL_CALL_FAILED, *ERROR_TYPES)
_FIELD_STYLES = {"title": "bold", "error": "red", "errors": "red"}
_RUNS_MAX = 10
_NUMBERS_MAX = 20
_TOOLS_MAX = 12


@dataclass(slots=True)
class Happenings:
    """What happened in a session, counted event by event."""

    turns: int = 0
    tools: Counter[str] = field(default_factory=Counter)
    errors: list[int] = field(default_factory=list)
    _called: set[str] = field(default_factory=set)

    def count(self, event: Event) -> None:
        content = read_content(event.type, event.data)
        self.turns += event.type == EventType.TURN_COMPLETED
        for call in content.calls:
            # A message may contain the call of an event that follows it.
            id = call.id or event.correlation_id
            if id is None or id not in self._called:
                self.tools[call.name or "unnamed"] += 1
            if id is not None:
                self._called.add(id)
        if self._is_error(event, content):
            self.errors.append(event.sequence_number or 0)

    def _is_error(self, event: Event, content: Content) -> bool:
        if event.type in _FAILURES:
            return True
        return any(result.failed for result in content.of(ToolResult))


def happenings(events: Iterable[Event]) -> Happenings:
    found = Happenings()
    for event in events:
        found.count(event)
    return found


def show_head(
    printer: Printer,
    session: Session,
    title: str | None,
    runs: Sequence[Run],
    stats: SessionStats,
    cost: CostSummary,
    happened: Happenings | None,
) -> None:
    """Print what a session is, and if its events were read for it, which tools and errors it has."""
    _show_heading(printer, "Session", session)
    turns = sum(run.turn_count for run in runs) or (happened.turns if happened else 0)
    _show_fields(
        printer,
        {
            "title": title,
            "agent": identifier(session.agent_id),
            "parent": identifier(session.parent_session_id or ""),
            "created": _with_age(session.created_at),
            "updated": None if session.updated_at == session.created_at else _with_age(session.updated_at),
            "deleted": timestamp(session.deleted_at),
            "took": _took(stats),
            "events": f"{stats.event_count:,}",
            "turns": f"{turns:,}" if turns else None,
            "tools": _tools(happened.tools) if happened else None,
            "errors": _numbers(happened.errors) if happened and happened.errors else None,
            "tokens": tokens_text(stats.token_totals),
            "cost": _cost(cost),
            "tags": ", ".join(map(identifier, session.tags)),
            "metadata": {key: value for key, value in session.metadata.items() if key != "title"},
            "context": session.context,
        },
    )
    _show_runs(printer, runs)


def _show_runs(printer: Printer, runs: Sequence[Run]) -> None:
    shown = runs if printer.is_full else runs[:_RUNS_MAX]
    for run in shown:
        printer.line()
        _show_heading(printer, "Run", run)
        took = duration((run.ended_at - run.started_at).total_seconds()) if run.ended_at else None
        fields = {
            "model": model_of(run),
            "usage": usage_of(run),
            "started": timestamp(run.started_at),
            "took": took,
            "input": run.input,
            "output": run.output,
            "error": error_text(run.error) if run.error else None,
            "metadata": run.metadata,
        }
        _show_fields(printer, fields)
    if len(shown) < len(runs):
        printer.line()
        printer.line((f"… {quantity(len(runs) - len(shown), 'more run')}: --full shows them", "dim italic"))


def _show_heading(printer: Printer, kind: str, item: Session | Run) -> None:
    status = str(item.status)
    printer.line((f"{kind} ", "bold"), (identifier(item.id), "bold cyan"), "  ", (status, style_of(status)))


def _show_fields(printer: Printer, fields: Document) -> None:
    """Print each field that has a value on a line of its own."""
    for name, value in fields.items():
        if value or is_number(value):
            printer.truncated((f"  {name:<10}", "dim"), (inline(value), _FIELD_STYLES.get(name, "")))


def _with_age(time: datetime) -> str:
    return f"{timestamp(time)}, {age(time, datetime.now(UTC))}"


def _took(stats: SessionStats) -> str | None:
    if stats.first_event_at is None or stats.last_event_at is None:
        return None
    return duration((stats.last_event_at - stats.first_event_at).total_seconds())


def _tools(tools: Counter[str]) -> str:
    words = [f"{identifier(name)} {number:,}" for name, number in tools.most_common(_TOOLS_MAX)]
    left_out = len(tools) - len(words)
    return ", ".join([*words, *([f"{left_out} others"] if left_out else [])])


def _numbers(numbers: Sequence[int]) -> str:
    shown = [f"{number}" for number in numbers[:_NUMBERS_MAX]]
    more = ", …" if len(numbers) > len(shown) else ""
    return f"{len(numbers):,}: event{'s' * (len(numbers) > 1)} {', '.join(shown)}{more}"


def _cost(cost: CostSummary) -> str | None:
    unpriced = f"{quantity(cost.unmapped_runs, 'run')} without a price" if cost.unmapped_runs else None
    priced = usd(cost.total_cost_usd) if cost.run_count > cost.unmapped_runs else None
    return ", ".join(filter(None, [priced, unpriced])) or None
