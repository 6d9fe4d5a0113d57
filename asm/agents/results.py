"""What a run returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from asm.documents import Document
from asm.models import Event, Run, Session, token_counts
from asm.pricing import prices


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that completed.

    `text` is all that the model said in it, one message after another; `output` is the run's output as it
    is stored, `{text, stop_reason}`, with the `tool_calls` that nobody answered, if there are any. `events`
    are those of the run in their order. `cost_usd` is what the provider says, or the cost of the tokens by
    the prices of `get_cost_summary`, or None if the model has no price.
    """

    session: Session
    run: Run
    events: Sequence[Event] = field(repr=False)

    @property
    def output(self) -> Any:
        return self.run.output

    @property
    def text(self) -> str:
        text = self._of_output("text")
        return text if isinstance(text, str) else ""

    @property
    def stop_reason(self) -> str | None:
        reason = self._of_output("stop_reason")
        return reason if isinstance(reason, str) else None

    @property
    def token_usage(self) -> Document:
        return self.run.token_usage

    @property
    def cost_usd(self) -> float | None:
        return self.run.cost_usd if self.run.cost_usd is not None else _price(self.run)

    def _of_output(self, name: str) -> Any:
        return self.run.output.get(name) if isinstance(self.run.output, dict) else None


def _price(run: Run) -> float | None:
    counts = token_counts(run.token_usage)
    match = prices().find(run.provider, run.provider_metadata.get("model"))
    if match is None:
        return None
    return match.price.of(
        input=counts["input_tokens"] or 0,
        output=counts["output_tokens"] or 0,
        cache_read=counts["cache_read_tokens"] or 0,
        cache_creation=counts["cache_creation_tokens"] or 0,
    )
