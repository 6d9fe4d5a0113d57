"""Requests and turns of adapters, for their tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

import asm
from asm.agents.conformance import checked_turn
from asm.agents.protocol import Adapter, AdapterEvent, Request
from asm.errors import ProviderError

WEATHER_TOOL = {"name": "weather", "input_schema": {"type": "object"}}
QUESTION = [{"role": "user", "content": "How is the weather in Paris?"}]


def request(messages: Sequence[Mapping[str, Any]] = QUESTION, **fields: Any) -> Request:
    session = asm.Session(agent_id="agent")
    return Request(run=asm.Run(session_id=session.id), session=session, messages=messages, **fields)


def turn(
    adapter: Adapter, messages: Sequence[Mapping[str, Any]] = QUESTION, **fields: Any
) -> list[AdapterEvent]:
    """The events of one turn, which are as the protocol says."""
    return asyncio.run(checked_turn(adapter, request(messages, **fields)))


def failed_turn(adapter: Adapter, **fields: Any) -> tuple[list[AdapterEvent], ProviderError]:
    """The events of a turn that fails, and its error."""
    events: list[AdapterEvent] = []

    async def main() -> None:
        async for event in adapter.turn(request(**fields)):
            events.append(event)  # noqa: PERF401 - they are needed although the turn fails

    with pytest.raises(ProviderError) as caught:
        asyncio.run(main())
    return events, caught.value


def shown(events: Sequence[AdapterEvent]) -> list[tuple[Any, ...]]:
    """Each event as its type, its call, and its data."""
    return [
        (event.type, *([event.correlation_id] if event.correlation_id else []), dict(event.data))
        for event in events
    ]


def types(events: Sequence[AdapterEvent]) -> list[str]:
    return [event.type for event in events]


def data(events: Sequence[AdapterEvent], type: str) -> Mapping[str, Any]:
    """The data of the one event of a type."""
    [found] = [event.data for event in events if event.type == type]
    return found
