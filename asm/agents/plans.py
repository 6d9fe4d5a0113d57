"""What a caller asks a manager to run, checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asm.agents.inputs import Message, read_input
from asm.agents.limits import Limits
from asm.agents.protocol import CAPABILITIES, Adapter
from asm.agents.tools import OnTool
from asm.errors import ValidationError
from asm.models import Session
from asm.validation import (
    a_type,
    count,
    did_you_mean,
    flag,
    function,
    is_collection,
    optional_text,
    safe_repr,
    seconds,
    text,
    texts,
)

RUN_ID_LENGTH_MAX = 200
"""The ids of a run's events begin with the run's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run to make. `new_session` is the session of a run that has one of its own."""

    session_id: str
    new_session: Session | None
    adapter: Adapter
    input: Any
    messages: Sequence[Message]
    run_id: str | None
    again: bool
    history: bool
    on_tool: OnTool | None
    tools: Sequence[Mapping[str, Any]]
    system: str | None
    model: str | None
    timeout: float | None
    max_turns: int
    limits: Limits


def run(
    session_id: str,
    adapter: Adapter,
    input: Any,
    *,
    run_id: str | None = None,
    again: bool = False,
    history: bool = True,
    on_tool: OnTool | None = None,
    tools: Iterable[Mapping[str, Any]] = (),
    system: str | None = None,
    model: str | None = None,
    timeout: float | None = None,
    max_turns: int = 16,
    limits: Limits | None = None,
    required: Iterable[str] = (),
) -> Plan:
    """Run in a session that exists, and leave it active.

    `input` is a text, a list of messages `{"role", "content"}`, or `{"messages": [...]}`. With `history`
    the adapter gets the session so far: it continues the provider's own session if it can, and otherwise
    gets the messages. `tools` are the provider's own definitions. `on_tool(name, input)` returns the
    output of each call, or an awaitable of it; a blocking function is called in a thread. If it raises,
    the model is told so, and the run goes on. Without it, a run whose model asks for a tool completes
    with the `stop_reason` "tool_use". A run that asks for tools after `max_turns` model calls fails.

    RunActive if a run of the session is going on, on whatever machine. With `run_id`, the call can be
    repeated: a run of that id that has completed is read, and nobody is called; one that has not is
    raised as it ended. `again=True` makes another attempt, under the same id.

    ProviderError, RunTimeout after `timeout` seconds, RunCancelled, RunFailed beyond `limits`, and what
    the application's functions raise: each after the run is stored so. RunLost if another program ended
    the run or claimed its session. A capability in `required` that the adapter has not is a
    ValidationError, before anything is written.
    """
    messages = read_input(input)
    return Plan(
        session_id=text(session_id, "session_id"),
        new_session=None,
        adapter=_with_capabilities(check_adapter(adapter), required),
        input=input if isinstance(input, str | list | dict) else messages,
        messages=messages,
        run_id=None if run_id is None else text(run_id, "run_id", RUN_ID_LENGTH_MAX),
        again=flag(again, "again"),
        history=flag(history, "history"),
        on_tool=None if on_tool is None else function(on_tool, "on_tool"),
        tools=_tools(tools),
        system=_optional_string(system, "system"),
        model=optional_text(model, "model"),
        timeout=seconds(timeout, "timeout"),
        max_turns=count(max_turns, "max_turns", minimum=1),
        limits=_limits(limits),
    )


def session_id_of(run_id: str) -> str:
    """The id of the session that has only the run of this id, so that two callers make the same session."""
    return f"ses_{hashlib.sha256(text(run_id, 'run_id', RUN_ID_LENGTH_MAX).encode()).hexdigest()[:32]}"


def check_adapter(adapter: Any) -> Adapter:
    if isinstance(adapter, type) or not isinstance(adapter, Adapter):
        what = f"the class {adapter.__name__}" if isinstance(adapter, type) else a_type(adapter)
        raise ValidationError(
            f"adapter must be an object with provider, capabilities and turn(request), not {what}",
            path="adapter",
        )
    text(adapter.provider, "adapter.provider")
    return adapter


def _with_capabilities(adapter: Adapter, required: Iterable[str]) -> Adapter:
    for name in texts(required, "required"):
        if name not in CAPABILITIES:
            raise ValidationError(
                f"{safe_repr(name)} is not a capability{did_you_mean(name, CAPABILITIES)}: "
                f"use some of {', '.join(CAPABILITIES)}",
                path="required",
            )
        if name not in adapter.capabilities:
            has = ", ".join(sorted(adapter.capabilities)) or "none"
            raise ValidationError(
                f"the adapter of {adapter.provider!r} has not the required capability {name!r}: it has {has}",
                path="required",
            )
    return adapter


def _tools(tools: Any) -> tuple[Mapping[str, Any], ...]:
    if not is_collection(tools) or isinstance(tools, Mapping):
        raise ValidationError(f"tools must be a list of definitions, not {a_type(tools)}", path="tools")
    given = tuple(tools)
    for index, tool in enumerate(given):
        if not isinstance(tool, Mapping):
            raise ValidationError(
                f"tools[{index}] must be the provider's definition, a dict, not {a_type(tool)}",
                path=f"tools[{index}]",
            )
    return given


def _optional_string(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValidationError(f"{name} must be a string, not {a_type(value)}", path=name)
    return value


def _limits(limits: Any) -> Limits:
    if limits is not None and not isinstance(limits, Limits):
        raise ValidationError(f"limits must be Limits(…), not {a_type(limits)}", path="limits")
    return limits or Limits()
