"""What every adapter's turn keeps to, as a function that tests of adapters call, also those of applications.

    events = await checked_turn(MyAdapter(), request)

An AssertionError says which sentence of the protocol the adapter breaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from asm.agents.protocol import CAPABILITIES, Adapter, AdapterEvent, Request
from asm.content import Text, read_content
from asm.documents import check_object
from asm.enums import EventType
from asm.errors import AsmError, ProviderError
from asm.provider_usage import TOKEN_COUNTS

_STREAMED = EventType.MESSAGE_STREAMED
_RECEIVED = EventType.MESSAGE_RECEIVED
_STARTED = EventType.TOOL_CALL_STARTED
_ENDED = (EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED)
_USAGE = EventType.TOKEN_USAGE_UPDATED


async def checked_turn(adapter: Adapter, request: Request) -> list[AdapterEvent]:
    """The events of one turn, after the checks of `check_turn`.

    A ProviderError of the adapter is raised as it is. Any other exception is an AssertionError.
    """
    try:
        events = [event async for event in adapter.turn(request)]
    except ProviderError:
        raise
    except Exception as error:
        raise AssertionError(f"a turn raises ProviderError and no other exception, not {error!r}") from error
    check_turn(adapter, events)
    return events


def check_turn(adapter: Adapter, events: Sequence[AdapterEvent]) -> None:
    """Raise an AssertionError if the events of a turn that ended well are not as the protocol says.

    For each message of the model: its deltas, which together are its text; the whole message, once; its
    tool calls with their whole input; only from an adapter with "own_tools", their results. Then the token
    usage, once per model. Without "own_tools", a turn has one message, and calls of tools exactly if its
    `stop_reason` is "tool_use".
    """
    _require(
        adapter.capabilities <= {*CAPABILITIES},
        f"an adapter has capabilities of {CAPABILITIES}, not {sorted(adapter.capabilities)}",
    )
    for event in events:
        _check_event(event)
    _check_order(events, "own_tools" in adapter.capabilities)
    _check_text(events, "streaming" in adapter.capabilities)
    _check_calls(events, "own_tools" in adapter.capabilities)
    _check_usage([event for event in events if event.type == _USAGE])


def _require(condition: object, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)


def _check_event(event: AdapterEvent) -> None:
    _require(isinstance(event, AdapterEvent), f"a turn yields AdapterEvents, not {event!r}")
    is_delta = event.type == _STREAMED
    _require(event.transient == is_delta, f"deltas and nothing else are transient, not {event}")
    try:
        data = check_object(dict(event.data), "data")
    except AsmError as error:
        raise AssertionError(f"the data of an event is JSON: {error}") from error
    if is_delta:
        _require(isinstance(data.get("delta"), str), f"a delta is a text: {event}")
    elif event.type == _RECEIVED:
        is_message = data.get("role") == "assistant" and isinstance(data.get("content"), str | list)
        _require(is_message, f"a message has a role and content: {event}")
    elif event.type == _STARTED:
        is_call = isinstance(data.get("name"), str) and "input" in data and event.correlation_id
        _require(is_call, f"a call has a name, an input and its id as correlation_id: {event}")


def _check_order(events: Sequence[AdapterEvent], own_tools: bool) -> None:
    """Each type is followed only by those that may follow it."""
    ends = _ENDED if own_tools else ()
    again = (_STREAMED, _RECEIVED) if own_tools else ()
    following: dict[str | None, tuple[str | None, ...]] = {
        None: (_STREAMED, _RECEIVED),
        _STREAMED: (_STREAMED, _RECEIVED),
        _RECEIVED: (_STARTED, _USAGE, *ends, *again),
        _STARTED: (_STARTED, _USAGE, *ends, *again),
        **dict.fromkeys(ends, (_USAGE, *ends, *again)),
        _USAGE: (_USAGE, None),
    }
    types = [None, *(event.type for event in events), None]
    for before, after in pairwise(types):
        _require(
            after in following.get(before, ()),
            f"{after or 'the end'} does not follow {before or 'the beginning'} in a turn",
        )


def _check_text(events: Sequence[AdapterEvent], streaming: bool) -> None:
    deltas = ""
    for event in events:
        if event.type == _STREAMED:
            deltas += event.data["delta"]
        elif event.type == _RECEIVED:
            if "parent_tool_use_id" in event.data:
                # The text of a subagent is part of the work of a tool, and is not streamed.
                continue
            parts = read_content(event.type, event.data).parts
            text = "".join(part.text for part in parts if isinstance(part, Text))
            _require(
                deltas == text or not streaming,
                f"the deltas are the text of their message: {deltas!r} is not {text!r}",
            )
            deltas = ""
    ids = [id for event in events if event.type == _RECEIVED and (id := event.data.get("message_id"))]
    _require(len(ids) == len({*ids}), f"each message is reported once: {ids}")


def _check_calls(events: Sequence[AdapterEvent], own_tools: bool) -> None:
    started: list[Any] = []
    for event in events:
        if event.type == _STARTED:
            _require(event.correlation_id not in started, f"each call is reported once: {event}")
            started.append(event.correlation_id)
        elif event.type in _ENDED:
            _require(event.correlation_id in started, f"a result has the id of a call: {event}")
    if not own_tools:
        [reason] = [event.data.get("stop_reason") for event in events if event.type == _RECEIVED]
        _require(
            (reason == "tool_use") == bool(started),
            f'a turn has calls exactly if its stop_reason is "tool_use", not {reason!r}',
        )


def _check_usage(events: Sequence[AdapterEvent]) -> None:
    for data in (event.data for event in events):
        counts = [data[name] for name in TOKEN_COUNTS if name in data]
        _require(
            counts and isinstance(data.get("model"), str) and all(type(each) is int for each in counts),
            f"token usage has counts and a model: {dict(data)}",
        )
    models = [event.data["model"] for event in events]
    _require(len(models) == len({*models}), f"the usage of a model is reported once, not {models}")
