"""What a run has come to: its row, its text, its calls and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from asm.agents.limits import Limits, cost_of
from asm.agents.protocol import AdapterEvent
from asm.content import ToolCall, read_content
from asm.documents import Document
from asm.enums import EventType
from asm.models import Run
from asm.pricing import Prices, prices
from asm.provider_usage import TOKEN_COUNTS, token_usage


class Call(NamedTuple):
    """A call of a tool that the model asks for."""

    id: str
    name: str
    input: Any


class Progress:
    """Adds up what the adapter reports."""

    def __init__(self, run: Run, limits: Limits) -> None:
        self.run = run
        self.open_calls: dict[str, Call] = {}
        self.stop_reason: str | None = None
        self.provider_session_id: str | None = None
        self.is_answered = False
        self._limits = limits
        self._texts: list[str] = []
        self._call_count = 0
        self._cost_usd: float | None = 0.0
        self._prices: Prices | None = None

    def begin_turn(self) -> None:
        self.open_calls.clear()
        self.stop_reason = None
        self.is_answered = False

    def end_turn(self) -> None:
        self.run = self.run.increment_turn()

    def add_message(self, data: Document) -> None:
        self.is_answered = True
        if text := read_content(EventType.MESSAGE_RECEIVED, data).text:
            self._texts.append(text)
        if isinstance(reason := data.get("stop_reason"), str):
            self.stop_reason = reason

    def add_call(self, id: str, data: Document) -> None:
        self.is_answered = True
        self._call_count += 1
        call: ToolCall = read_content(EventType.TOOL_CALL_STARTED, data).calls[0]
        self.open_calls[id] = Call(id, call.name or "", call.input)

    def add_result(self, id: str | None) -> None:
        if id is not None:
            self.open_calls.pop(id, None)

    def add_usage(self, usage: Document) -> None:
        """Add the counts of one model call, under their known names."""
        self.run = with_usage(self.run, usage)
        if self._limits.cost_usd is not None and self._cost_usd is not None:
            self._prices = self._prices or prices()
            model = self.run.provider_metadata.get("model")
            cost = cost_of(usage, self.run.provider or "", model, self._prices)
            self._cost_usd = None if cost is None else self._cost_usd + cost

    def check_limits(self) -> None:
        self._limits.check(self.run, self._call_count, self._cost_usd)

    def output(self) -> Document:
        """The output of the run, as it is shown to the caller."""
        output: Document = {"text": "\n\n".join(self._texts), "stop_reason": self.stop_reason}
        if self.open_calls:
            output["stop_reason"] = "tool_use"
            output["tool_calls"] = [call._asdict() for call in self.open_calls.values()]
        return output


def normalized_usage(event: AdapterEvent, provider: str) -> Document:
    """The data of a `token_usage_updated` with the counts under the names that the store knows."""
    more = {name: event.data[name] for name in ("model", "cost_usd") if event.data.get(name) is not None}
    counts = {name: value for name, value in event.data.items() if name not in ("model", "cost_usd")}
    if not counts.keys() <= set(TOKEN_COUNTS):
        counts = {**counts, **token_usage(counts, provider=provider)}
    return {**counts, **more}


def with_usage(run: Run, usage: Mapping[str, Any]) -> Run:
    """The run with the tokens of one model call added, and with its model."""
    run = run.update_token_usage({name: usage[name] for name in TOKEN_COUNTS if usage.get(name) is not None})
    if usage.get("cost_usd") is not None:
        run = replace(run, cost_usd=(run.cost_usd or 0.0) + usage["cost_usd"])
    if usage.get("model") is None:
        return run
    return replace(run, provider_metadata={**run.provider_metadata, "model": usage["model"]})
