"""The check of a turn, which adapters of applications use, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

import asm
from asm.agents.conformance import checked_turn
from asm.agents.protocol import AdapterEvent, Request
from tests.agents.adapters.turns import request

Events = Sequence[Any]


class Said:
    """An adapter that reports the same events in every turn."""

    provider = "test"

    def __init__(self, *events: Any, capabilities: Sequence[str] = ("streaming", "tools")) -> None:
        self.capabilities = frozenset(capabilities)
        self.events = events

    async def turn(self, request: Request) -> AsyncIterator[AdapterEvent]:
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event


def delta(text: Any) -> AdapterEvent:
    return AdapterEvent("message_streamed", {"delta": text}, transient=True)


def message(content: Any = "Hi", stop_reason: str = "end_turn", **more: Any) -> AdapterEvent:
    fields = {"role": "assistant", "content": content, "stop_reason": stop_reason, **more}
    return AdapterEvent("message_received", fields)


def call(id: str | None = "1", **more: Any) -> AdapterEvent:
    return AdapterEvent("tool_call_started", {"name": "f", "input": {}, **more}, correlation_id=id)


def result(id: str = "1") -> AdapterEvent:
    return AdapterEvent("tool_call_completed", {"output": 1}, correlation_id=id)


def usage(**counts: Any) -> AdapterEvent:
    return AdapterEvent("token_usage_updated", {"model": "m", **(counts or {"input_tokens": 1})})


WELL = {
    "a text": (delta("H"), delta("i"), message(), usage()),
    "a text in blocks": (
        delta("Hi"),
        message([{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hi"}]),
        usage(),
    ),
    "a call": (message("", "tool_use"), call(), call("2"), usage()),
}
OWN = {
    "two messages": (
        delta("Hi"),
        message(stop_reason="tool_use", message_id="a"),
        call(),
        result(),
        message("", message_id="b"),
        usage(),
    ),
    "a subagent": (message("inner", parent_tool_use_id="1"), delta("Hi"), message(), usage()),
    "two models": (delta("Hi"), message(), usage(), usage(model="n", input_tokens=2)),
}
WRONG = {
    "are the text": (delta("H"), message(), usage()),
    "the end does not follow": (delta("Hi"), message()),
    "message_received does not follow": (delta("Hi"), message(), message(), usage()),
    "tool_call_completed does not follow": (message("", "tool_use"), call(), result(), usage()),
    "message_streamed does not follow": (message(""), delta(""), usage()),
    "turn_completed does not follow": (message(""), AdapterEvent("turn_completed"), usage()),
    "has a role and content": (AdapterEvent("message_received", {"content": "Hi"}), usage()),
    "deltas and nothing else are transient": (AdapterEvent("message_streamed", {"delta": ""}), usage()),
    "a delta is a text": (delta(None), message(), usage()),
    "is JSON": (message(content=[{"type": "text", "text": b"Hi"}]), usage()),
    "a call has a name": (message("", "tool_use"), call(None), usage()),
    "each call is reported once": (message("", "tool_use"), call(), call(), usage()),
    'if its stop_reason is "tool_use"': (message("", "end_turn"), call(), usage()),
    "usage has counts": (message(""), usage(cost=1)),
    "reported once": (message(""), usage(), usage()),
    "yields AdapterEvents": ({"type": "message_received"},),
    "raises ProviderError and no other": (delta("Hi"), ValueError("broken")),
}  # fmt: skip


def checked(*events: Any, **fields: Any) -> list[AdapterEvent]:
    return asyncio.run(checked_turn(Said(*events, **fields), request()))


@pytest.mark.parametrize("events", WELL.values(), ids=WELL)
def test_a_turn_that_follows_the_protocol_is_returned(events: Events) -> None:
    assert checked(*events) == [*events]


@pytest.mark.parametrize("events", OWN.values(), ids=OWN)
def test_an_adapter_with_tools_of_its_own_reports_several_messages_and_results(events: Events) -> None:
    assert checked(*events, capabilities=["streaming", "own_tools"]) == [*events]


def test_an_adapter_that_does_not_stream_reports_no_deltas() -> None:
    assert checked(message(), usage(), capabilities=[])


@pytest.mark.parametrize("sentence", WRONG)
def test_a_turn_that_breaks_the_protocol_is_found(sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        checked(*WRONG[sentence])


def test_an_unknown_capability_is_found() -> None:
    with pytest.raises(AssertionError, match="capabilities of"):
        checked(*WELL["a text"], capabilities=["telepathy"])


def test_the_error_of_a_provider_is_raised_as_it_is() -> None:
    with pytest.raises(asm.ProviderError, match="overloaded"):
        checked(delta("Hi"), asm.ProviderError("overloaded", status=529))
