"""What a run has come to: its row, its text, its calls and its cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from asm.agents.limits import Limits
from asm.agents.protocol import AdapterEvent
from asm.content import ToolCall, read_content
from asm.documents import Document
from asm.enums import EventType
from asm.models import Run
from asm.provider_usage import TOKEN_COUNTS, token_usage


class Call(NamedTuple):
    """A call of a tool that the model asks for."""

    id: str
    name: str
    input: Any


class Progress:
    """Adds up what the adapter reports. The run's row is made of it once, at the end."""

    def __init__(self, run: Run, limits: Limits) -> None:
        self.turns = run.turn_count
        self.open_calls: dict[str, Call] = {}
        self.provider_session_id: str | None = None
        self.is_answered = False
        self._run = run
        self._limits = limits
        self._usages: list[Document] = []
        self._texts: list[str] = []
        self._stop_reason: str | None = None
        self._call_count = 0

    @property
    def stop_reason(self) -> str | None:
        """Why the model stopped in the last turn."""
        return "tool_use" if self.open_calls else self._stop_reason

    def begin_turn(self) -> None:
        self.open_calls.clear()
        self._stop_reason = None
        self.is_answered = False

    def end_turn(self) -> int:
        """Count the turn, and return its number."""
        self.turns += 1
        return self.turns

    def add_message(self, data: Document) -> None:
        self.is_answered = True
        if text := read_content(EventType.MESSAGE_RECEIVED, data).text:
            self._texts.append(text)
        if isinstance(reason := data.get("stop_reason"), str):
            self._stop_reason = reason

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
        self._usages.append(usage)

    def check_limits(self) -> None:
        if self._limits != Limits():
            self._limits.check(self.row(), self._call_count, self._usages)

    def row(self) -> Run:
        """The run with its turns and its usage so far."""
        return with_usages(replace(self._run, turn_count=self.turns), self._usages)

    def output(self) -> Document:
        """The output of the run, as it is shown to the caller."""
        output: Document = {"text": "\n\n".join(self._texts), "stop_reason": self.stop_reason}
        if self.open_calls:
            output["tool_calls"] = [call._asdict() for call in self.open_calls.values()]
        return output


def normalized_usage(event: AdapterEvent, provider: str) -> Document:
    """The data of a `token_usage_updated` with the counts under the names that the store knows."""
    more = {name: event.data[name] for name in ("model", "cost_usd") if event.data.get(name) is not None}
    counts = {name: value for name, value in event.data.items() if name not in ("model", "cost_usd")}
    if not counts.keys() <= set(TOKEN_COUNTS):
        counts = {**counts, **token_usage(counts, provider=provider)}
    return {**counts, **more}


def with_usages(run: Run, usages: Iterable[Document]) -> Run:
    """The run with the tokens and the cost of model calls added, and with the model of the last one."""
    total: Counter[str] = Counter()
    cost_usd, model = run.cost_usd, run.provider_metadata.get("model")
    for usage in usages:
        total.update({name: usage[name] for name in TOKEN_COUNTS if usage.get(name) is not None})
        model = usage.get("model", model)
        if usage.get("cost_usd") is not None:
            cost_usd = (cost_usd or 0.0) + usage["cost_usd"]
    metadata = run.provider_metadata if model is None else {**run.provider_metadata, "model": model}
    return replace(run.update_token_usage(dict(total)), cost_usd=cost_usd, provider_metadata=metadata)
