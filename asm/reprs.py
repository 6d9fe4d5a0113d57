"""Short representations of the models: one line for a console, an HTML table for a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from enum import Enum
from html import escape
from typing import Any, ClassVar

from asm.shown import strict

TEXT_LENGTH_MAX = 60
"""Characters of a string that are shown. An id of 36 characters is shown in full."""

ITEMS_MAX = 4
"""Items of a list or a dict that are shown."""

LEVELS_MAX = 3
"""Levels of nesting that are shown."""

ROWS_MAX = 50
"""Rows of an HTML table that are shown."""


def short_repr(value: Any, levels: int = LEVELS_MAX) -> str:
    """The repr of a field's value in one line, in which long strings and documents are shortened."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return _short_text(str.__str__(value.value if isinstance(value, Enum) else value))
    if isinstance(value, Mapping):
        items = [
            f"{short_repr(key, 0)}: {short_repr(value[key], levels - 1)}" for key in _first(value, levels)
        ]
        return f"{{{_listed(items, len(value))}}}"
    if isinstance(value, list | tuple):
        items = [short_repr(each, levels - 1) for each in _first(value, levels)]
        return (
            f"[{_listed(items, len(value))}]"
            if isinstance(value, list)
            else f"({_listed(items, len(value))})"
        )
    return _short(_number(value) if isinstance(value, int) else repr(value))


def _short_text(text: str) -> str:
    # Cut first: the repr of a text of megabytes takes milliseconds.
    shown = strict(repr(text[:TEXT_LENGTH_MAX]))
    return shown if len(text) <= TEXT_LENGTH_MAX else f"{shown[:-1]}…{shown[-1]}"


def _short(text: str) -> str:
    shown = strict(text[:TEXT_LENGTH_MAX])
    return shown if len(text) <= TEXT_LENGTH_MAX else f"{shown}…"


def _number(value: int) -> str:
    # Python refuses to convert an integer of more than 4,300 digits.
    return repr(value) if value.bit_length() <= 1_000 else f"an integer of {value.bit_length():,} bits"


def _first(values: Iterable[Any], levels: int) -> list[Any]:
    """The values that are shown: none below the last level."""
    return [] if levels <= 0 else [value for value, _ in zip(values, range(ITEMS_MAX), strict=False)]


def _listed(shown: list[str], count: int) -> str:
    return ", ".join([*shown, "…"] if len(shown) < count else shown)


class ResultRepr:
    """The repr of a result: that of its dataclass, of which every character is seen."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __repr__(self) -> str:
        values = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self))
        return strict(f"{type(self).__name__}({values})")


def model_repr(name: str, values: Mapping[str, Any]) -> str:
    """The repr of a model, of which these fields are shown."""
    return f"{name}({', '.join(f'{field}={short_repr(value)}' for field, value in values.items())})"


def html_table(names: Iterable[str], rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    """An HTML table of the rows, with those of the columns that have a value in one of them."""
    shown = rows[:ROWS_MAX]
    columns = [name for name in names if any(name in row for row in shown)]
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(_html_cell(row.get(name, '')) for name in columns)}</tr>" for row in shown)
    if len(rows) > len(shown):
        caption = f"{caption}, of which {len(shown)} are shown"
    return _html(caption, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")


def html_record(values: Mapping[str, Any], caption: str) -> str:
    """An HTML table with a row for each field."""
    rows = [f"<tr><th>{escape(name)}</th>{_html_cell(value)}</tr>" for name, value in values.items()]
    return _html(caption, f"<tbody>{''.join(rows)}</tbody>")


def _html(caption: str, content: str) -> str:
    return f"<table><caption>{escape(caption)}</caption>{content}</table>"


def _html_cell(value: Any) -> str:
    # A text is shown without its quotes, as in any other table.
    text = short_repr(value)[1:-1] if isinstance(value, str) else short_repr(value)
    return f"<td>{escape(text)}</td>"
