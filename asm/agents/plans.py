"""What a caller asks a manager to run, checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from asm.agents.limits import Limits
from asm.agents.protocol import CAPABILITIES, Adapter
from asm.agents.tools import OnTool
from asm.enums import EventType
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

Message = dict[str, Any]
"""A message as `asm.agents.Request` describes it."""

ROLES = ("user", "assistant", "system", "tool")

RUN_ID_LENGTH_MAX = 200
"""The ids of a run's events begin with the run's id."""


# Its parameters and its docstring are those of the manager's `run`.
@dataclass(slots=True)
class Plan:
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

    session_id: str
    adapter: Adapter
    input: Any
    _: KW_ONLY
    run_id: str | None = None
    again: bool = False
    history: bool = True
    on_tool: OnTool | None = None
    tools: Iterable[Mapping[str, Any]] = ()
    system: str | None = None
    model: str | None = None
    timeout: float | None = None
    max_turns: int = 16
    limits: Limits | None = None
    required: Iterable[str] = ()
    messages: Sequence[Message] = field(init=False)
    new_session: Session | None = field(init=False, default=None)
    """The session of a run that has one of its own."""

    def __post_init__(self) -> None:
        self.session_id = text(self.session_id, "session_id")
        _check_adapter(self.adapter)
        _check_capabilities(self.adapter, self.required)
        self.messages = _read_input(self.input)
        if not isinstance(self.input, str | list | dict):
            self.input = self.messages
        if self.run_id is not None:
            self.run_id = text(self.run_id, "run_id", RUN_ID_LENGTH_MAX)
        flag(self.again, "again")
        flag(self.history, "history")
        if self.on_tool is not None:
            function(self.on_tool, "on_tool")
        self.tools = _tools(self.tools)
        if self.system is not None and not isinstance(self.system, str):
            raise ValidationError(f"system must be a string, not {a_type(self.system)}", path="system")
        self.model = optional_text(self.model, "model")
        self.timeout = seconds(self.timeout, "timeout")
        count(self.max_turns, "max_turns", minimum=1)
        if self.limits is not None and not isinstance(self.limits, Limits):
            raise ValidationError(f"limits must be Limits(…), not {a_type(self.limits)}", path="limits")


def session_id_of(run_id: str) -> str:
    """The id of the session that has only the run of this id, so that two callers make the same session."""
    return f"ses_{hashlib.sha256(text(run_id, 'run_id', RUN_ID_LENGTH_MAX).encode()).hexdigest()[:32]}"


def event_type_of(message: Message) -> EventType:
    """The type of the event that stores a message of an input."""
    return EventType.MESSAGE_RECEIVED if message["role"] == "assistant" else EventType.MESSAGE_SENT


def _check_adapter(adapter: Any) -> None:
    is_one = all(hasattr(adapter, name) for name in ("provider", "capabilities", "turn"))
    if isinstance(adapter, type) or not is_one:
        what = f"the class {adapter.__name__}" if isinstance(adapter, type) else a_type(adapter)
        raise ValidationError(
            f"adapter must be an object with provider, capabilities and turn(request), not {what}",
            path="adapter",
        )
    text(adapter.provider, "adapter.provider")


def _check_capabilities(adapter: Adapter, required: Iterable[str]) -> None:
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


def _read_input(input: Any) -> list[Message]:
    """The messages of an input: a text, a list of messages, or `{"messages": [...]}`."""
    if isinstance(input, str):
        return [{"role": "user", "content": input}]
    messages: Any = input.get("messages") if isinstance(input, Mapping) else input
    if not is_collection(messages) or isinstance(messages, Mapping):
        raise ValidationError(
            f'input must be a text, a list of messages or {{"messages": [...]}}, not {a_type(input)}',
            path="input",
        )
    read = [_read_message(message, f"input[{index}]") for index, message in enumerate(messages)]
    if not read:
        raise ValidationError("input has no message: give at least one", path="input")
    return read


def _read_message(message: Any, path: str) -> Message:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise ValidationError(
            f'{path} must be {{"role": …, "content": …}} with the role {", ".join(ROLES)}, '
            f"not {safe_repr(message)}",
            path=path,
        )
    if not isinstance(message.get("content"), str | list):
        raise ValidationError(
            f"{path}.content must be a text or a list of blocks, not {a_type(message.get('content'))}",
            path=f"{path}.content",
        )
    return dict(message)


def _tools(tools: Any) -> Sequence[Mapping[str, Any]]:
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
