"""Taking fields out of a document by the names that they may have."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from asm.documents import Document, dump

EMPTY: tuple[Any, ...] = (None, "", [], {})
"""Values that say nothing."""


def take(data: Document, names: Iterable[str], default: Any = None) -> tuple[Any, Document]:
    """The first of these fields that is there, and the other fields."""
    for name in names:
        if name in data and data[name] is not None:
            return data[name], {key: value for key, value in data.items() if key != name}
    return default, dict(data)


def take_text(data: Document, names: Iterable[str]) -> tuple[str | None, Document]:
    """The first of these fields that is text, and the other fields."""
    value, rest = take({key: each for key, each in data.items() if isinstance(each, str)}, names)
    if value is None:
        return None, dict(data)
    return value, {key: each for key, each in data.items() if key in rest or not isinstance(each, str)}


def text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def as_text(value: Any) -> str:
    """A string as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except ValueError:
        # sys.set_int_max_str_digits is lower in this process than the digits of an integer.
        return dump(value, "value")
