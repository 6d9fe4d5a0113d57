"""What a run has come to: its row, its text, its calls and its usage."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from asm.agents.limits import Limits
from asm.agents.transcript import plain_text
from asm.content import ToolCall, read_content
from asm.documents import Document, dump_object
from asm.enums import EventType
from asm.errors import ValidationError
from asm.models import Run
from asm.provider_usage import TOKEN_COUNTS, token_usage
from asm.usage import add_usage, check_cost


class Progress:
    """Adds up what the adapter reports. The run's row is made of it once, at the end."""

    def __init__(self, run: Run, limits: Limits | None) -> None:
        self.turns = 0
        self.open_calls: dict[str, ToolCall] = {}
        """The calls of the turn that have no result, by their ids."""
        self.is_answered = False
        """Whether the turn has a whole message or call."""
        self.provider_session_id: str | None = None
        self._run = run
        self._limits = limits
        self._messages: list[Document] = []
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

    def add_message(self, data: Document) -> None:
        self.is_answered = True
        self._messages.append(data)
        if isinstance(reason := data.get("stop_reason"), str):
            self._stop_reason = reason

    def add_call(self, id: str | None, call: ToolCall) -> str:
        """Add a call, and return its id."""
        self.is_answered = True
        self._call_count += 1
        id = id or call.id or f"call_{self.turns + 1}_{self._call_count}"
        self.open_calls[id] = call
        return id

    def add_usage(self, data: Document) -> Document:
        """Add the usage of a model call, and return it with the counts under their known names."""
        more = {name: data[name] for name in ("model", "cost_usd") if data.get(name) is not None}
        counts = {name: value for name, value in data.items() if name not in ("model", "cost_usd")}
        if not counts.keys() <= set(TOKEN_COUNTS):
            counts |= token_usage(counts, provider=self._run.provider)
        usage = {**counts, **more}
        self._run = with_usage(self._run, usage)
        return usage

    def check_limits(self) -> None:
        if self._limits is not None:
            self._limits.check(self.row(), self._call_count)

    def row(self, **changes: Any) -> Run:
        """The run with its turns and its usage so far."""
        return replace(self._run, turn_count=self.turns, **changes)

    def output(self) -> Document:
        """The output of the run, as it is shown to the caller."""
        texts = [
            plain_text(data) or read_content(EventType.MESSAGE_RECEIVED, data).text for data in self._messages
        ]
        output: Document = {"text": "\n\n".join(filter(None, texts)), "stop_reason": self.stop_reason}
        if self.open_calls:
            output["tool_calls"] = [
                {"id": id, "name": call.name or "", "input": call.input}
                for id, call in self.open_calls.items()
            ]
        return output


def with_usages(run: Run, usages: Iterable[Document]) -> Run:
    """The run with the usage of model calls added. What cannot be added is left out, so that the run ends."""
    for usage in usages:
        with suppress(ValidationError):
            run = with_usage(run, usage)
    return run


def with_usage(run: Run, usage: Document) -> Run:
    """The run with a usage added: tokens, cost and model. ValidationError if it cannot be added."""
    dump_object(usage, "token_usage")
    counts = {name: usage[name] for name in TOKEN_COUNTS if usage.get(name) is not None}
    cost_usd, model = usage.get("cost_usd"), usage.get("model")
    return replace(
        run,
        token_usage=add_usage(run.token_usage, counts),
        cost_usd=run.cost_usd
        if cost_usd is None
        else (run.cost_usd or 0.0) + check_cost(cost_usd, "cost_usd"),
        provider_metadata=run.provider_metadata
        if model is None
        else {**run.provider_metadata, "model": model},
    )
