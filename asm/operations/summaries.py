"""What runs have used and cost, added up in the database.

A summary is read from one row for each provider and model, however many runs there are. Counts of
tokens are exact, however large. Prices are applied to the sums. Costs are floats, which a database
adds in the order it likes: of their sixteen digits the first ten or so are sure.

Summaries are not prepared: whether a filter leaves an hour or all the years decides which index
serves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from asm.documents import Document
from asm.engine.script import Query, Row, Rows, one_or_many
from asm.errors import SessionNotFound
from asm.models import RunStatus
from asm.pricing import Match, PricedBy, Prices, Pricing, prices
from asm.validation import Texts, optional_utc_datetime, text, text_filter

T = TypeVar("T", "Usage", "Cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How many tokens some runs have used, and how many runs they are."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    total_tokens: int = 0
    run_count: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_creation_tokens=self.cache_creation_tokens + other.cache_creation_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            run_count=self.run_count + other.run_count,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSummary(Usage):
    """The usage of all runs that were asked for, and its parts, those with the most tokens first.

    Runs that name no provider, or no model, are found under None.
    """

    by_provider: dict[str | None, Usage] = field(default_factory=dict)
    by_model: dict[str | None, Usage] = field(default_factory=dict)

    def to_dict(self) -> Document:
        """JSON-ready: the parts as lists, because JSON has no name for None."""
        return asdict(self) | _lists(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What some runs cost in USD, how many they are, and how many of them were priced by what.

    `priced_by` counts the runs under "cost_usd" (their own), "exact" (the model's name), "prefix"
    (the longest name that the model's begins with) and "default" (the provider's). The others are
    `unmapped_runs`: nothing prices them, and `cost_usd` is without them.
    """

    cost_usd: float = 0.0
    run_count: int = 0
    unmapped_runs: int = 0
    priced_by: dict[PricedBy, int] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            cost_usd=self.cost_usd + other.cost_usd,
            run_count=self.run_count + other.run_count,
            unmapped_runs=self.unmapped_runs + other.unmapped_runs,
            priced_by=dict(Counter(self.priced_by) + Counter(other.priced_by)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSummary:
    """What all runs that were asked for cost in USD, and the parts of it, the dearest first.

    Runs that name no provider, or no model, are found under None. `unmapped_runs` have no price, and
    the total is without them.
    """

    total_cost_usd: float
    run_count: int
    unmapped_runs: int
    by_provider: dict[str | None, Cost]
    by_model: dict[str | None, Cost]

    def to_dict(self) -> Document:
        """JSON-ready: the parts as lists, because JSON has no name for None."""
        return asdict(self) | _lists(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStats:
    """What there is of a session.

    `event_count` is that of the events stored; `first_event_at` and `last_event_at` are the earliest
    and the latest of their times, whatever their order, None without any. The rest is of its runs:
    `token_totals` by the names of `Run.token_usage`, `status_counts` by those statuses that any has.
    """

    event_count: int
    run_count: int
    token_totals: dict[str, int]
    providers_used: tuple[str, ...]
    first_event_at: datetime | None
    last_event_at: datetime | None
    status_counts: dict[RunStatus, int]

    def to_dict(self) -> Document:
        """JSON-ready: times in ISO 8601, statuses as plain strings."""
        return asdict(self) | {
            "providers_used": list(self.providers_used),
            "first_event_at": self.first_event_at and self.first_event_at.isoformat(),
            "last_event_at": self.last_event_at and self.last_event_at.isoformat(),
            "status_counts": {str(status): number for status, number in self.status_counts.items()},
        }


def get_session_stats(session_id: str) -> Query[SessionStats]:
    """What there is of a session: its events, its runs, their tokens.

    A session whose events or runs came before itself has stats. SessionNotFound where there is
    neither a session of that id, nor anything that belongs to it. All events of the session are
    counted, which takes about 20 ms for 100,000.
    """

    def read(rows: Rows) -> SessionStats:
        is_kept, event_count, first_event_at, last_event_at, *_ = rows[0]
        runs = [_run_stats(row) for row in rows]
        if not (is_kept or event_count or runs[0].usage.run_count):
            raise SessionNotFound(f"no session has the id {session_id!r}", session_id=session_id)
        totals = asdict(sum((each.usage for each in runs), Usage()))
        return SessionStats(
            event_count=event_count,
            run_count=totals.pop("run_count"),
            token_totals=totals,
            providers_used=tuple(sorted({each.provider for each in runs if each.provider})),
            first_event_at=first_event_at,
            last_event_at=last_event_at,
            status_counts=_counts(runs),
        )

    session_id = text(session_id, "session_id")
    return Query("get_session_stats", {"session_id": session_id}, read)


def get_usage_summary(
    *,
    session_id: Texts | None = None,
    agent_id: Texts | None = None,
    provider: Texts | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Query[UsageSummary]:
    """How many tokens runs have used, together, by provider and by model.

    Each filter takes one value or several, any of which will do; [] finds nothing. Runs started from
    `since` (inclusive) to `until` (exclusive). Those of soft-deleted sessions count too: deleting
    does not undo what was used. An `agent_id` is found in the session, so it finds no run that came
    before its session.
    """
    filters = _filters(session_id, agent_id, provider, since, until)
    return Query("get_usage_summary", filters, _usage_summary, prepare=False)


def get_cost_summary(
    *,
    session_id: Texts | None = None,
    agent_id: Texts | None = None,
    provider: Texts | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    pricing: Pricing | None = None,
) -> Query[CostSummary]:
    """What runs have cost in USD, together, by provider and by model.

    A run's own `cost_usd` wins. Otherwise it is its tokens times the price of its model (the string
    at `provider_metadata["model"]`): that under the model's exact name, else under the longest name
    that it begins with, else the provider's default. A run that none of these prices is in
    `unmapped_runs`, and in no sum of money.

    `pricing` is in USD per token, as `asm.pricing` describes it, which also says what holds without
    one. The filters are those of `get_usage_summary`.
    """
    filters = _filters(session_id, agent_id, provider, since, until)
    return Query("get_cost_summary", filters, partial(_cost_summary, prices(pricing)), prepare=False)


def _filters(
    session_id: Texts | None,
    agent_id: Texts | None,
    provider: Texts | None,
    since: datetime | None,
    until: datetime | None,
) -> dict[str, Any]:
    return {
        **one_or_many("session_id", "session_ids", text_filter(session_id, "session_id")),
        **one_or_many("agent_id", "agent_ids", text_filter(agent_id, "agent_id")),
        **one_or_many("provider", "providers", text_filter(provider, "provider")),
        "since": optional_utc_datetime(since, "since"),
        "until": optional_utc_datetime(until, "until"),
    }


# Rows.


class _Part(NamedTuple):
    """What one row tells of the runs of one provider and model."""

    provider: str | None
    model: str | None
    sums: Any


def _usage_summary(rows: Rows) -> UsageSummary:
    parts = [_Part(provider, model, _usage(run_count, sums)) for provider, model, run_count, *sums in rows]
    total = sum((part.sums for part in parts), Usage())
    return UsageSummary(**asdict(total), **_grouped(parts, attrgetter("total_tokens")))


def _cost_summary(prices: Prices, rows: Rows) -> CostSummary:
    parts = [_Part(row[0], row[1], _cost(prices.find(row[0], row[1]), *row[2:])) for row in rows]
    total = sum((part.sums for part in parts), Cost())
    return CostSummary(
        total_cost_usd=total.cost_usd,
        run_count=total.run_count,
        unmapped_runs=total.unmapped_runs,
        **_grouped(parts, attrgetter("cost_usd")),
    )


def _cost(match: Match | None, run_count: int, own_count: int, own_cost: float | None, *sums: Any) -> Cost:
    own = Cost(cost_usd=(own_cost or 0.0) * _SCALE, run_count=own_count, priced_by={"cost_usd": own_count})
    return own + _priced(match, run_count - own_count, _whole(sums))


def _priced(match: Match | None, run_count: int, tokens: list[int]) -> Cost:
    if match is None:
        return Cost(run_count=run_count, unmapped_runs=run_count)
    input, output, cache_read, cache_creation = tokens
    usd = match.price.of(input=input, output=output, cache_read=cache_read, cache_creation=cache_creation)
    return Cost(cost_usd=usd, run_count=run_count, priced_by={match.by: run_count})


_SCALE = 2.0**64
"""What the query divides costs by, so that no database meets a sum too large for a float."""


def _usage(run_count: int | None, sums: Sequence[Any]) -> Usage:
    input, output, cache_read, cache_creation, total = _whole(sums)
    return Usage(
        input_tokens=input,
        output_tokens=output,
        cache_read_tokens=cache_read,
        cache_creation_tokens=cache_creation,
        total_tokens=total,
        run_count=run_count or 0,
    )


def _whole(sums: Sequence[Any]) -> list[int]:
    """Sums in two halves: first those of the lower 32 bits of each number, then those of what is above."""
    half = len(sums) // 2
    halves = zip(sums[:half], sums[half:], strict=True)
    return [int(low or 0) + (int(high or 0) << 32) for low, high in halves]


def _grouped(parts: list[_Part], size: Callable[[Any], float]) -> dict[str, Any]:
    return {
        "by_provider": _largest_first(_added_up((part.provider, part.sums) for part in parts), size),
        "by_model": _largest_first(_added_up((part.model, part.sums) for part in parts), size),
    }


def _added_up(named: Iterable[tuple[str | None, T]]) -> dict[str | None, T]:
    groups: dict[str | None, T] = {}
    for name, sums in named:
        groups[name] = groups[name] + sums if name in groups else sums
    return groups


def _largest_first(groups: dict[str | None, T], size: Callable[[T], float]) -> dict[str | None, T]:
    return dict(sorted(groups.items(), key=lambda group: (-size(group[1]), group[0] or "")))


def _lists(summary: UsageSummary | CostSummary) -> Document:
    return {
        "by_provider": [{"provider": name, **asdict(part)} for name, part in summary.by_provider.items()],
        "by_model": [{"model": name, **asdict(part)} for name, part in summary.by_model.items()],
    }


class _RunStats(NamedTuple):
    """What one row tells of a session's runs of one status and provider."""

    status: str | None
    provider: str | None
    usage: Usage


def _run_stats(row: Row) -> _RunStats:
    _, _, _, _, status, provider, run_count, *sums = row
    return _RunStats(status, provider, _usage(run_count, sums))


def _counts(runs: list[_RunStats]) -> dict[RunStatus, int]:
    counts = Counter[RunStatus]()
    for status, _, usage in runs:
        if status is not None:
            counts[RunStatus(status)] += usage.run_count
    return dict(counts)
