"""What a caller gives to a run: its input, and the events of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asm.enums import EventType
from asm.errors import ValidationError
from asm.validation import a_type, is_collection, safe_repr

Message = dict[str, Any]
"""A message as `asm.agents.Request` describes it."""

ROLES = ("user", "assistant", "system", "tool")


def read_input(input: Any) -> list[Message]:
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


def event_type_of(message: Message) -> EventType:
    """The type of the event that stores a message of an input."""
    return EventType.MESSAGE_RECEIVED if message["role"] == "assistant" else EventType.MESSAGE_SENT
