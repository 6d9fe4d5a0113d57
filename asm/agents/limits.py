"""Limits that end a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from asm.agents.outcomes import RunFailed
from asm.documents import Document
from asm.models import Run, token_counts
from asm.pricing import Prices, prices
from asm.usage import check_cost
from asm.validation import optional_count

LIMIT_EXCEEDED = "limit_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may use. One that uses more is ended as failed, with the code "limit_exceeded".

    `total_tokens` counts input and output tokens of all model calls, `cost_usd` is their cost by the prices
    of `get_cost_summary`, and `tool_calls` the number of calls. A run is checked after each model call.
    """

    total_tokens: int | None = None
    cost_usd: float | None = None
    tool_calls: int | None = None

    def __post_init__(self) -> None:
        optional_count(self.total_tokens, "limits.total_tokens")
        optional_count(self.tool_calls, "limits.tool_calls")
        if self.cost_usd is not None:
            check_cost(self.cost_usd, "limits.cost_usd")

    def check(self, run: Run, tool_calls: int, usages: Iterable[Document]) -> None:
        """Raise RunFailed if a run has used more. `usages` are those of its model calls."""
        tokens = token_counts(run.token_usage)["total_tokens"] or 0
        if self.total_tokens is not None and tokens > self.total_tokens:
            raise _exceeded(run, f"used {tokens:,} tokens, more than total_tokens={self.total_tokens:,}")
        if self.tool_calls is not None and tool_calls > self.tool_calls:
            raise _exceeded(run, f"made {tool_calls:,} tool calls, more than tool_calls={self.tool_calls:,}")
        if self.cost_usd is not None:
            _check_cost(run, usages, self.cost_usd)


def _check_cost(run: Run, usages: Iterable[Document], limit_usd: float) -> None:
    priced, cost_usd = prices(), 0.0
    for usage in usages:
        model = usage.get("model", run.provider_metadata.get("model"))
        cost = _cost_of(usage, run.provider, model, priced)
        if cost is None:
            raise _exceeded(
                run,
                f"has the limit cost_usd={limit_usd:g}, but what {model!r} of {run.provider!r} used has no "
                "price: give one with ASM_PRICING",
            )
        cost_usd += cost
    if cost_usd > limit_usd:
        raise _exceeded(run, f"cost {cost_usd:g} USD, more than cost_usd={limit_usd:g}")


def _exceeded(run: Run, reason: str) -> RunFailed:
    return RunFailed(f"run {run.id!r} {reason}", run_id=run.id, code=LIMIT_EXCEEDED)


def _cost_of(usage: Document, provider: str | None, model: str | None, priced: Prices) -> float | None:
    """The cost of one model call in USD, by the provider or by the price of its tokens; None without one."""
    if usage.get("cost_usd") is not None:
        return check_cost(usage["cost_usd"], "cost_usd")
    return priced.cost(provider, model, token_counts(usage))
