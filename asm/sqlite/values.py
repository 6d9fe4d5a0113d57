"""Encodes parameters for SQLite, and decodes the columns that SQLite has no type for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from asm.engine.script import Row, Rows
from asm.errors import unreadable_value

Decoders = list[tuple[int, Callable[[str], Any]]]

_STORED_UNCHANGED = frozenset({str, int, float, bool, bytes, type(None)})


def bind(params: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """The values as sqlite3 takes them, and the names of those that are columns of a batch."""
    values: dict[str, Any] = {}
    columns: frozenset[str] = frozenset()
    for name, value in params.items():
        if type(value) not in _STORED_UNCHANGED:
            if isinstance(value, list):
                columns |= {name}
            value = _encoded(value)
        values[name] = value
    return values, columns


def _encoded(value: Any) -> Any:
    if isinstance(value, datetime):
        # One width for every year, so that times sort as text.
        return value.isoformat(timespec="microseconds")[:26] + "Z"
    if isinstance(value, tuple):
        return json.dumps(value)
    if isinstance(value, list) and isinstance(_first_given(value), datetime):
        return [item and _encoded(item) for item in value]
    return value


def _first_given(values: list[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def fetch_all(cursor: sqlite3.Cursor, sql: str) -> Rows:
    """All rows of the statement that the cursor has executed, decoded."""
    # All of them at once: until the last row is fetched, a `returning` holds the write lock.
    rows: list[Row] = cursor.fetchall()
    if not rows:
        return rows
    decoders = _decoders_by_sql.get(sql)
    if decoders is None:
        decoders = _decoders_by_sql[sql] = _decoders(cursor)
    try:
        return [_decoded(row, decoders) for row in rows] if decoders else rows
    except (ValueError, RecursionError) as error:
        raise unreadable_value(error) from error


def _decoders(cursor: sqlite3.Cursor) -> Decoders:
    names = [column[0] for column in cursor.description]
    return [(index, _DECODERS[name]) for index, name in enumerate(names) if name in _DECODERS]


def _decoded(row: Row, decoders: Decoders) -> Row:
    values = list(row)
    for index, decode in decoders:
        if values[index] is not None:
            values[index] = decode(values[index])
    return tuple(values)


_decoders_by_sql: dict[str, Decoders] = {}

# By the column's name.
_DECODERS: dict[str, Callable[[str], Any]] = {
    "tags": json.loads,
    **dict.fromkeys(
        (
            *("timestamp", "created_at", "updated_at", "deleted_at", "started_at", "ended_at"),
            *("first_event_at", "last_event_at"),
        ),
        datetime.fromisoformat,
    ),
}
