"""Usage and cost: tokens and dollars by day, agent, provider and model. Filters are the address."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asm import AsyncSessionStore, CostSummary, UsageSummary, ValidationError
from asm.web.pages import Pages, page_url
from asm.web.periods import Period, last_days, parse_day, split
from asm.web.plots import Plot, plot

DAYS = 30
SPANS = (7, 30, 90, 365)

AGENTS_MAX = 20
_SESSIONS_MAX = 1_000
"""Sessions that are read to find the agents."""

_AT_ONCE = 4
"""The summaries that are asked for at the same time: other pages need connections, too."""

_KINDS = (
    ("output", "output_tokens"),
    ("input", "input_tokens"),
    ("written", "cache_creation_tokens"),
    ("read", "cache_read_tokens"),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a row of a table shows. `name` is None for runs that do not say it, `url` narrows the page."""

    name: str | None
    usage: Any
    cost_usd: float
    unpriced: int
    url: str | None = None


async def usage(request: Request) -> Response:
    """The usage of the days that the address names; otherwise of the 30 days to the newest run."""
    store: AsyncSessionStore = request.app.state.store
    pages: Pages = request.app.state.pages
    query = [(name, value.strip()) for name, value in request.query_params.multi_items() if value.strip()]
    given = dict(query)
    filters: dict[str, Any] = {key: given[name] for name, key in _FILTERS.items() if name in given}
    period = await _period(store, given, filters)
    unit, parts = split(period)
    total = await _figures(store, None, period, filters)
    by_period, agents = (
        await _gathered(lambda part: _figures(store, part.first.isoformat(), part, filters), parts),
        await _by_agent(store, period, filters),
    )

    def url(**changes: str | None) -> str:
        return page_url("/usage", query, **changes)

    return await pages.render(
        request,
        "usage.html",
        given=given,
        period=period,
        unit=unit,
        total=total,
        is_known=bool(total.usage.run_count),
        tokens=_tokens_plot(by_period),
        costs=_costs_plot(by_period),
        by_period=by_period,
        agents=[_linked(each, "agent", url) for each in agents.listed],
        has_more_agents=agents.has_more,
        providers=_groups(total, "by_provider", lambda name: url(provider=name)),
        models=_groups(total, "by_model", None),
        unpriced=_unpriced(total),
        spans=[(days, url(**_days_of(last_days(days, period.last)))) for days in SPANS],
    )


_FILTERS = {"agent": "agent_id", "provider": "provider"}


def _days_of(period: Period) -> dict[str, str | None]:
    return {"from": period.first.isoformat(), "to": period.last.isoformat()}


@dataclass(frozen=True, slots=True)
class Total:
    """The summaries of a period."""

    name: str | None
    usage: UsageSummary
    cost: CostSummary


async def _period(store: AsyncSessionStore, given: Mapping[str, str], filters: Mapping[str, Any]) -> Period:
    last = parse_day(given["to"], "to") if "to" in given else await _newest_day(store, filters)
    first = parse_day(given["from"], "from") if "from" in given else last_days(DAYS, last).first
    if "from" in given and "to" not in given:
        last = max(first, last)
    if first > last:
        raise ValidationError(f"from must not be after to, but {first} is after {last}")
    return Period(first, last)


async def _newest_day(store: AsyncSessionStore, filters: Mapping[str, Any]) -> date:
    """The day of the newest run, but not one in the future, which a wrong clock wrote."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    found = await store.query.search_runs(
        provider=filters.get("provider"), started_before=tomorrow, order_by="started_at_desc", limit=1
    )
    return found.items[0].started_at.astimezone(UTC).date() if found.items else datetime.now(UTC).date()


async def _figures(
    store: AsyncSessionStore, name: str | None, period: Period, filters: Mapping[str, Any]
) -> Total:
    window: dict[str, Any] = {"since": period.since, "until": period.until}
    used = await store.query.get_usage_summary(**filters, **window)
    if not used.run_count:
        return Total(
            name,
            used,
            CostSummary(total_cost_usd=0.0, run_count=0, unmapped_runs=0, by_provider={}, by_model={}),
        )
    return Total(name, used, await store.query.get_cost_summary(**filters, **window))


async def _gathered(read: Callable[[Any], Awaitable[Total]], items: Iterable[Any]) -> list[Total]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(item: Any) -> Total:
        async with gate:
            return await read(item)

    return list(await asyncio.gather(*map(one, items)))


@dataclass(frozen=True, slots=True)
class Agents:
    listed: list[Total]
    has_more: bool


async def _by_agent(store: AsyncSessionStore, period: Period, filters: Mapping[str, Any]) -> Agents:
    """The agents of the sessions that were updated last: the sums of each are one query."""
    names, seen = dict[str, None](), 0
    if "agent_id" in filters:
        names[filters["agent_id"]] = None
    else:
        found = await store.query.search_sessions(provider=filters.get("provider"), limit=_SESSIONS_MAX)
        seen = len(found.items)
        names = dict.fromkeys(session.agent_id for session in found.items)
    chosen = list(names)[:AGENTS_MAX]
    totals = await _gathered(
        lambda name: _figures(store, name, period, {**filters, "agent_id": name}), chosen
    )
    listed = [each for each in totals if each.usage.run_count]
    listed.sort(key=lambda each: -each.usage.total_tokens)
    return Agents(listed, len(names) > AGENTS_MAX or seen == _SESSIONS_MAX)


def _linked(total: Total, name: str, url: Callable[..., str]) -> Figures:
    return Figures(
        total.name,
        total.usage,
        total.cost.total_cost_usd,
        total.cost.unmapped_runs,
        url(**{name: total.name}),
    )


def _groups(total: Total, attribute: str, url: Callable[[str], str] | None) -> list[Figures]:
    costs = getattr(total.cost, attribute)
    return [
        Figures(
            name,
            used,
            costs[name].cost_usd if name in costs else 0.0,
            costs[name].unmapped_runs if name in costs else 0,
            url(name) if url and name else None,
        )
        for name, used in list(getattr(total.usage, attribute).items())[:_ROWS_MAX]
    ]


_ROWS_MAX = 100


def _unpriced(total: Total) -> list[tuple[str | None, int]]:
    """The models of runs without a price, and how many runs each has."""
    return [(name, cost.unmapped_runs) for name, cost in total.cost.by_model.items() if cost.unmapped_runs][
        :_ROWS_MAX
    ]


def _tokens_plot(totals: list[Total]) -> Plot | None:
    return plot(
        [
            (str(each.name), [(kind, float(getattr(each.usage, name))) for kind, name in _KINDS])
            for each in totals
        ]
    )


def _costs_plot(totals: list[Total]) -> Plot | None:
    return plot([(str(each.name), [("cost", each.cost.total_cost_usd)]) for each in totals])


routes = [Route("/usage", usage, name="usage")]
