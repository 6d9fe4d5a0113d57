"""The few words that stand for something long, such as the call of a tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asm.content import ToolCall
from asm.content.fields import text_or_none
from asm.conversation import as_text
from asm.validation import is_number
from asm.web.wording import short

_LENGTH = 160

PATHS = ("file_path", "path", "filename", "notebook_path")
"""The fields of an input that name a file."""

_TELLING = (
    *("command", "cmd", *PATHS, "pattern", "query", "url", "description", "prompt", "subject", "skill"),
)


def of_call(call: ToolCall) -> str:
    given = call.input
    if isinstance(given, dict):
        for name in _TELLING:
            if isinstance(value := given.get(name), str | list) and value:
                return shortened(" ".join(map(as_text, value)) if isinstance(value, list) else value)
        return shortened(of_fields(given))
    return shortened(as_text(given) if given is not None else "")


def of_fields(data: Mapping[str, Any]) -> str:
    """The first fields of an object, without the marks of JSON."""
    return ", ".join(f"{key}: {as_text(value)[:80]}" for key, value in list(data.items())[:6])


def is_brief(data: Mapping[str, Any]) -> bool:
    """Whether `of_fields` says all that an object has."""
    return len(data) <= 6 and all(
        len(key) <= 40
        and (isinstance(each, bool | int | float | None) or (isinstance(each, str) and len(each) <= 80))
        for key, each in data.items()
    )


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    words = " ".join(text[: 4 * _LENGTH].split())
    return words if len(words) <= _LENGTH else f"{words[:_LENGTH].rstrip()}…"


def of_usage(data: Mapping[str, Any]) -> str:
    """The token counts that are not 0."""
    known = []
    for name, word in _COUNTS.items():
        count: Any = data.get(name)
        if is_number(count) and 0 < count < _COUNT_MAX:
            known.append(f"{short(count)} {word}")
    return ", ".join(known and [*known, *filter(None, [text_or_none(data.get("model"))])])


_COUNT_MAX = 10**15
_COUNTS = {
    "input_tokens": "in",
    "output_tokens": "out",
    "cache_read_tokens": "from cache",
    "cache_creation_tokens": "to cache",
}
