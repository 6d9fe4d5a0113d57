"""Limits that end a run, and what a run costs."""

from __future__ import annotations

from dataclasses import dataclass

from asm.agents.outcomes import RunFailed
from asm.models import Run, token_counts
from asm.pricing import prices
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

    def check(self, run: Run, tool_calls: int) -> None:
        """Raise RunFailed if a run, of which this is the row so far, has used more."""
        tokens = token_counts(run.token_usage)["total_tokens"] or 0
        if self.total_tokens is not None and tokens > self.total_tokens:
            raise limit_exceeded(run, f"used {tokens:,} tokens, more than total_tokens={self.total_tokens:,}")
        if self.tool_calls is not None and tool_calls > self.tool_calls:
            reason = f"made {tool_calls:,} tool calls, more than tool_calls={self.tool_calls:,}"
            raise limit_exceeded(run, reason)
        if self.cost_usd is None or not run.token_usage:
            return
        cost_usd, model = cost_of(run), run.provider_metadata.get("model")
        if cost_usd is None:
            raise limit_exceeded(
                run,
                f"has the limit cost_usd={self.cost_usd:g}, but what {model!r} of {run.provider!r} used has "
                "no price: give one with ASM_PRICING",
            )
        if cost_usd > self.cost_usd:
            raise limit_exceeded(run, f"cost {cost_usd:g} USD, more than cost_usd={self.cost_usd:g}")


def limit_exceeded(run: Run, reason: str) -> RunFailed:
    return RunFailed(f"run {run.id!r} {reason}", run_id=run.id, code=LIMIT_EXCEEDED)


def cost_of(run: Run) -> float | None:
    """The cost of a run in USD as in `get_cost_summary`, None if its tokens have no price."""
    if run.cost_usd is not None:
        return run.cost_usd
    return prices().cost(run.provider, run.provider_metadata.get("model"), token_counts(run.token_usage))
