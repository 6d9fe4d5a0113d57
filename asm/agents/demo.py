"""An adapter that needs no key: a play with one role, for `asm run --adapter demo` and `make demo`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from asm.agents.protocol import AdapterEvent, Request

TOOLS = (
    {"name": "forecast", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}},
    {"name": "departures", "input_schema": {"type": "object", "properties": {"from": {"type": "string"}}}},
)

_TURNS: tuple[tuple[str, str | None, dict[str, Any]], ...] = (
    ("Let me look at the forecast.", "forecast", {"city": "Bergen"}),
    ("Rain from two o'clock on. When does the bus leave?", "departures", {"from": "Bryggen"}),
    ("Yes, from two o'clock on. Take the bus at 13:40, and an umbrella.", None, {}),
)
_OUTPUTS = {"forecast": {"rain_from": "14:00", "celsius": 7}, "departures": ["13:10", "13:40", "14:10"]}


def on_tool(name: str, _input: Any) -> Any:
    """The output of a tool of the play."""
    return _OUTPUTS[name]


class Demo:
    """Plays a model that calls two tools before it answers. It invents its tokens and their cost."""

    provider = "demo"
    capabilities = frozenset({"streaming", "tools"})
    model = "demo-1"

    async def turn(self, request: Request) -> AsyncIterator[AdapterEvent]:
        number = _answers_since_the_user(request) % len(_TURNS)
        text, tool, input = _TURNS[number]
        for word in re.findall(r"\S+\s*", text):
            yield AdapterEvent("message_streamed", {"delta": word}, transient=True)
        reason = "end_turn" if tool is None else "tool_use"
        yield AdapterEvent("message_received", {"role": "assistant", "content": text, "stop_reason": reason})
        if tool is not None:
            id = f"call_{len(request.messages)}"
            yield AdapterEvent("tool_call_started", {"name": tool, "input": input}, correlation_id=id)
        usage = {"input_tokens": 120 + 60 * number, "output_tokens": len(text) // 4, "cost_usd": 0.0004}
        yield AdapterEvent("token_usage_updated", {**usage, "model": self.model})


def _answers_since_the_user(request: Request) -> int:
    roles = [message["role"] for message in request.messages]
    return roles[len(roles) - roles[::-1].index("user") :].count("assistant") if "user" in roles else 0
