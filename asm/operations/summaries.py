"""The token usage and the cost of runs, summed in the database.

The database returns one row for each provider and model, however many runs there are, and prices are
applied to the sums. Token counts are exact. Costs are floats and the order of summation is
unspecified; expect about ten significant digits.

No summary is a prepared statement: which index is best depends on whether a filter leaves an hour or
many years.
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
from asm.reprs import ResultRepr
from asm.validation import Texts, optional_utc_datetime, text, text_filter

T = TypeVar("T", "Usage", "Cost")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Usage(ResultRepr):
    """The tokens that a group of runs has used, and the number of these runs."""

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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class UsageSummary(Usage):
    """The usage of all runs that match, by provider and by model, those with the most tokens first.

    Runs without a provider, or without a model, are under None.
    """

    by_provider: dict[str | None, Usage] = field(default_factory=dict)
    by_model: dict[str | None, Usage] = field(default_factory=dict)

    def to_dict(self) -> Document:
        """JSON-ready. The groups are lists, because None cannot be a key in JSON."""
        return asdict(self) | _lists(self)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Cost(ResultRepr):
    """The cost of a group of runs in USD, the number of these runs, and how they were priced.

    `priced_by` counts the runs under "cost_usd" (their own cost), "exact" (the price of their model's
    name), "prefix" (that of the longest name their model's name begins with), "default" (their
    provider's) and "maker" (an estimate for a run on a cloud: what the model's maker charges).
    `unmapped_runs` have no price, and `cost_usd` does not include them.
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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CostSummary(ResultRepr):
    """The cost of all runs that match in USD, by provider and by model, the most expensive first.

    Runs without a provider, or without a model, are under None. `unmapped_runs` have no price, and
    the total does not include them.
    """

    total_cost_usd: float
    run_count: int
    unmapped_runs: int
    by_provider: dict[str | None, Cost]
    by_model: dict[str | None, Cost]

    def to_dict(self) -> Document:
        """JSON-ready. The groups are lists, because None cannot be a key in JSON."""
        return asdict(self) | _lists(self)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SessionStats(ResultRepr):
    """Figures of a session.

    `event_count` counts the stored events; `first_event_at` and `last_event_at` are the earliest and
    the latest of their timestamps, None without events. `token_totals` has the sums of its runs'
    known counts, `status_counts` the number of its runs in each status that occurs.
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
    """Figures of a session: its events, its runs, their tokens.

    A session that has events or runs but is not saved yet has figures, too; SessionNotFound if there
    is none of these. All events of the session are counted, which takes about 20 ms for 100,000.
    """

    def read(rows: Rows) -> SessionStats:
        is_saved, event_count, first_event_at, last_event_at, *_ = rows[0]
        runs = [_run_stats(row) for row in rows]
        if not (is_saved or event_count or runs[0].usage.run_count):
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
    """The tokens that runs have used: in total, by provider and by model.

    A filter with several values matches any of them; [] matches nothing. The window of start times is
    `since` (inclusive) to `until` (exclusive). Runs of soft-deleted sessions count, too. `agent_id` is
    that of the session, so it does not match a run whose session is not saved yet.
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
    """The cost of runs in USD: in total, by provider and by model.

    A run's own `cost_usd` wins. Otherwise its cost is its tokens times the price of its model (the
    string at `provider_metadata["model"]`): the price under the model's exact name, else under the
    longest name that it begins with, else the provider's default. A run on Azure, Bedrock or Vertex AI
    whose provider has no price of its own is priced by the model's maker, which `priced_by` tells. A run
    without any of these counts in `unmapped_runs` and in no cost: one without a provider, for example,
    whatever its model. So does a run with `total_tokens` but no tokens of a kind that has a price:
    input, output, cache read or cache creation.

    `pricing` is in USD per token, in the form that `asm.pricing` describes, with its defaults. The
    filters are those of `get_usage_summary`.
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


class _Group(NamedTuple):
    """The sums of one provider and model."""

    provider: str | None
    model: str | None
    sums: Any


def _usage_summary(rows: Rows) -> UsageSummary:
    groups = [_Group(provider, model, _usage(run_count, sums)) for provider, model, run_count, *sums in rows]
    total = sum((group.sums for group in groups), Usage())
    return UsageSummary(**asdict(total), **_by_provider_and_model(groups, attrgetter("total_tokens")))


def _cost_summary(prices: Prices, rows: Rows) -> CostSummary:
    groups = [_Group(row[0], row[1], _cost(prices.find(row[0], row[1]), *row[2:])) for row in rows]
    total = sum((group.sums for group in groups), Cost())
    return CostSummary(
        total_cost_usd=total.cost_usd,
        run_count=total.run_count,
        unmapped_runs=total.unmapped_runs,
        **_by_provider_and_model(groups, attrgetter("cost_usd")),
    )


def _cost(
    match: Match | None,
    run_count: int,
    own_count: int,
    own_cost: float | None,
    unpriced_count: int,
    *tokens: int | None,
) -> Cost:
    own = Cost(cost_usd=own_cost or 0.0, run_count=own_count, priced_by={"cost_usd": own_count})
    return own + _priced(match, run_count - own_count, unpriced_count, [int(count or 0) for count in tokens])


def _priced(match: Match | None, run_count: int, unpriced_count: int, tokens: list[int]) -> Cost:
    if match is None:
        return Cost(run_count=run_count, unmapped_runs=run_count)
    input, output, cache_read, cache_creation = tokens
    usd = match.price.of(input=input, output=output, cache_read=cache_read, cache_creation=cache_creation)
    return Cost(
        cost_usd=usd,
        run_count=run_count,
        unmapped_runs=unpriced_count,
        priced_by={match.by: run_count - unpriced_count},
    )


def _usage(run_count: int | None, sums: Sequence[int | None]) -> Usage:
    # PostgreSQL adds up to a numeric, which cannot overflow.
    input, output, cache_read, cache_creation, total = (int(count or 0) for count in sums)
    return Usage(
        input_tokens=input,
        output_tokens=output,
        cache_read_tokens=cache_read,
        cache_creation_tokens=cache_creation,
        total_tokens=total,
        run_count=run_count or 0,
    )


def _by_provider_and_model(groups: list[_Group], size: Callable[[Any], float]) -> dict[str, Any]:
    return {
        "by_provider": _largest_first(_summed((group.provider, group.sums) for group in groups), size),
        "by_model": _largest_first(_summed((group.model, group.sums) for group in groups), size),
    }


def _summed(items: Iterable[tuple[str | None, T]]) -> dict[str | None, T]:
    totals: dict[str | None, T] = {}
    for name, sums in items:
        totals[name] = totals[name] + sums if name in totals else sums
    return totals


def _largest_first(groups: dict[str | None, T], size: Callable[[T], float]) -> dict[str | None, T]:
    return dict(sorted(groups.items(), key=lambda group: (-size(group[1]), group[0] or "")))


def _lists(summary: UsageSummary | CostSummary) -> Document:
    return {
        "by_provider": [{"provider": name, **asdict(sums)} for name, sums in summary.by_provider.items()],
        "by_model": [{"model": name, **asdict(sums)} for name, sums in summary.by_model.items()],
    }


class _RunStats(NamedTuple):
    """The sums of a session's runs of one status and provider."""

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
