"""What a run returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from asm.agents.limits import cost_of
from asm.documents import Document
from asm.models import Event, Run, Session


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that completed.

    `text` is all that the model said in it, one message after another; `output` is the run's output as it
    is stored, `{text, stop_reason}`, with the `tool_calls` that nobody answered, if there are any. `events`
    are those of the run in their order. `cost_usd` is what the provider says, or the cost of the tokens by
    the prices of `get_cost_summary`, or None if they have no price.
    """

    session: Session
    run: Run
    events: Sequence[Event] = field(repr=False)

    @property
    def output(self) -> Any:
        return self.run.output

    @property
    def text(self) -> str:
        return self._of_output("text") or ""

    @property
    def stop_reason(self) -> str | None:
        return self._of_output("stop_reason")

    @property
    def token_usage(self) -> Document:
        return self.run.token_usage

    @property
    def cost_usd(self) -> float | None:
        return cost_of(self.run)

    def _of_output(self, name: str) -> str | None:
        value = self.run.output.get(name) if isinstance(self.run.output, dict) else None
        return value if isinstance(value, str) else None
