"""The tokens and costs in OpenHands' records: of one response, or of all so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asm.documents import Document
from asm.formats.session_rows import counts_of, object_of, token_number
from asm.usage import COST_USD_MAX
from asm.validation import is_number


def usage_of(usage: Any) -> Counter[str]:
    """The tokens of a response or of a sum, in the store's names."""
    if not isinstance(usage, dict):
        return Counter()
    details = object_of(usage, "prompt_tokens_details")
    asked, said = token_number(usage.get("prompt_tokens")), token_number(usage.get("completion_tokens"))
    read = _first(usage, "cache_read_tokens", "cache_read_input_tokens") or _first(details, "cached_tokens")
    written = _first(usage, "cache_write_tokens", "cache_creation_input_tokens")
    return counts_of(
        input_tokens=_beside(asked, read, written),
        output_tokens=said,
        cache_read_tokens=read,
        cache_creation_tokens=written,
    )


def _first(usage: Document, *names: str) -> int:
    return next((number for name in names if (number := token_number(usage.get(name)))), 0)


def _beside(asked: int, read: int, written: int) -> int:
    """The input without what was cached. Some agents count that beside the input, which is then less."""
    return next((left for left in (asked - read - written, asked - read) if left >= 0), asked)


def cost_of(value: Any) -> float:
    """A cost in US dollars, 0 for what is none."""
    return float(value) if is_number(value) and 0 < value < COST_USD_MAX else 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used: tokens in the store's names, and US dollars."""

    counts: Counter[str]
    cost_usd: float
    model: Any = None

    def __bool__(self) -> bool:
        return bool(self.counts) or self.cost_usd > 0


class Meter:
    """What was counted so far. Of a sum that is told again and again only the increase counts."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._cost_usd = 0.0
        self._last: Counter[str] = Counter()
        self._last_cost_usd = 0.0

    def add(self, usage: Usage) -> Usage:
        """Count a response."""
        self._counts.update(usage.counts)
        self._cost_usd += usage.cost_usd
        return usage

    def increase(self, total: Usage) -> Usage:
        """Count by how much a sum exceeds what was counted. One that falls has begun again."""
        if total.counts and sum(total.counts.values()) < sum(self._last.values()):
            self._counts = Counter()
        if 0 < total.cost_usd < self._last_cost_usd:
            self._cost_usd = 0.0
        more = Usage(total.counts - self._counts, max(total.cost_usd - self._cost_usd, 0.0), total.model)
        self._counts |= total.counts
        self._cost_usd = max(self._cost_usd, total.cost_usd)
        self._last = total.counts or self._last
        self._last_cost_usd = total.cost_usd or self._last_cost_usd
        return more


def metrics_of(metrics: Any) -> Usage:
    """The sum in a document of metrics."""
    found = metrics if isinstance(metrics, dict) else {}
    usage = object_of(found, "accumulated_token_usage")
    model = next((each for each in (found.get("model_name"), usage.get("model")) if is_model(each)), None)
    return Usage(usage_of(usage), cost_of(found.get("accumulated_cost")), model)


def is_model(name: Any) -> bool:
    """Whether this names a model. OpenHands writes "default" where it knows none."""
    return isinstance(name, str) and name not in ("", "default")


class Stats:
    """The statistics of a conversation: metrics for each use of a model."""

    def __init__(self, stats: Any, *, with_agents: bool = True) -> None:
        """Without those of sub-agents, if these have sessions of their own."""
        found = stats if isinstance(stats, dict) else {}
        uses = object_of(found, "usage_to_metrics") or object_of(found, "service_to_metrics")
        self._metrics = [
            each
            for name, each in uses.items()
            if isinstance(each, dict) and (with_agents or not name.startswith(("task:", "delegate:")))
        ]

    def total(self) -> Usage:
        found = [metrics_of(each) for each in self._metrics]
        counts = sum((each.counts for each in found), Counter())
        return Usage(
            counts,
            sum(each.cost_usd for each in found),
            next((each.model for each in found if each.model), None),
        )

    def by_response(self) -> dict[str, Usage]:
        """What each response used, by its id."""
        return {id: usage for each in self._metrics for id, usage in _responses(each)}


def _responses(metrics: Document) -> Iterator[tuple[str, Usage]]:
    usages, costs = metrics.get("token_usages"), metrics.get("costs")
    if not isinstance(usages, list):
        return
    # A call that cost nothing known has no entry among the costs: they cannot be matched then.
    if not isinstance(costs, list) or len(costs) != len(usages):
        costs = [None] * len(usages)
    for usage, cost in zip(usages, costs, strict=True):
        if isinstance(usage, dict) and isinstance(id := usage.get("response_id"), str) and id:
            cost_usd = cost_of(cost.get("cost")) if isinstance(cost, dict) else 0.0
            model = usage.get("model") if is_model(usage.get("model")) else None
            yield id, Usage(usage_of(usage), cost_usd, model)
