"""What an adapter reports: the same events with the same keys, whatever the provider."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from asm.agents.protocol import AdapterEvent
from asm.documents import check
from asm.enums import EventType
from asm.errors import ProviderError
from asm.provider_usage import token_usage


def delta(text: str) -> AdapterEvent:
    """A piece of the text of a message that is still being written."""
    return AdapterEvent(EventType.MESSAGE_STREAMED, {"delta": text}, transient=True)


def message(content: str | Sequence[Mapping[str, Any]], **more: Any) -> AdapterEvent:
    """A whole message of the model, with `more` of it such as `message_id` and `stop_reason`.

    A message that is one block of plain text is reported as this text. What is None is left out.
    """
    data = {"role": "assistant", "content": _plain(content), **more}
    return AdapterEvent(EventType.MESSAGE_RECEIVED, {k: v for k, v in data.items() if v is not None})


def _plain(content: str | Sequence[Mapping[str, Any]]) -> str | list[Mapping[str, Any]]:
    if isinstance(content, str):
        return content
    blocks = list(content)
    is_text = len(blocks) == 1 and blocks[0].keys() == {"type", "text"} and blocks[0]["type"] == "text"
    return str(blocks[0]["text"]) if is_text else blocks


def block(dataclass: Any) -> dict[str, Any]:
    """A block of an SDK that has a class for each type: `{"type": "tool_use", …}` for a ToolUseBlock."""
    name = type(dataclass).__name__.removesuffix("Block")
    return {"type": re.sub(r"\B([A-Z])", r"_\1", name).lower(), **asdict(dataclass)}


def tool_call(id: str, name: str, input: Any) -> AdapterEvent:
    """A call whose input is whole."""
    return AdapterEvent(EventType.TOOL_CALL_STARTED, {"name": name, "input": input}, correlation_id=id)


def decoded(input: str) -> Any:
    """The input of a call that a provider gives as JSON in a text. What is not JSON stays text."""
    try:
        return check(json.loads(input), "input")
    except (ValueError, RecursionError):
        return input


def tool_result(id: str, output: Any, is_error: bool | None) -> AdapterEvent:
    """The result of a call that the provider's program made itself."""
    if is_error:
        return AdapterEvent(EventType.TOOL_CALL_FAILED, {"error": output}, correlation_id=id)
    return AdapterEvent(EventType.TOOL_CALL_COMPLETED, {"output": output}, correlation_id=id)


def usage(counts: Any, *, provider: str, model: str, **more: Any) -> AdapterEvent:
    """The tokens of a model in this turn, from the provider's own usage."""
    data = {**token_usage(counts, provider=provider), "model": model, **more}
    return AdapterEvent(EventType.TOKEN_USAGE_UPDATED, {k: v for k, v in data.items() if v is not None})


def early_end(provider: str, end: str, request_id: str | None = None) -> ProviderError:
    """The error for an answer that ended without its last event, even if its connection ended cleanly."""
    return ProviderError(
        f"the answer of {provider} ended before its {end}: ask again", request_id=request_id, retryable=True
    )


def is_retryable_status(status: int) -> bool:
    """Whether the same request may succeed after this HTTP status."""
    return status in (408, 409, 429) or status >= 500
