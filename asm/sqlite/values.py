"""Values as SQLite stores them, and rows as Python reads them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from asm.engine.script import Row, Rows


def bind(params: Mapping[str, Any]) -> dict[str, Any]:
    """The values as sqlite3 takes them."""
    return {name: _bound(value) for name, value in params.items()}


def _bound(value: Any) -> Any:
    if isinstance(value, datetime):
        return _timestamp(value)
    if isinstance(value, tuple):
        return json.dumps(value)
    if isinstance(value, list) and isinstance(_first_given(value), datetime):
        return [each and _timestamp(each) for each in value]
    return value


def _first_given(values: list[Any]) -> Any:
    return next((each for each in values if each is not None), None)


def _timestamp(value: datetime) -> str:
    # One width for every year, so that times sort as text.
    return value.isoformat(timespec="microseconds")[:26] + "Z"


def rows(cursor: sqlite3.Cursor) -> Rows:
    # All rows at once: until the last is fetched, a `returning` holds the write lock.
    rows: list[Row] = cursor.fetchall()
    if not rows:
        return rows
    readers = [
        (index, _READERS[name]) for index, (name, *_) in enumerate(cursor.description) if name in _READERS
    ]
    return [_read(row, readers) for row in rows] if readers else rows


def _read(row: Row, readers: list[tuple[int, Callable[[str], Any]]]) -> Row:
    values = list(row)
    for index, reader in readers:
        if values[index] is not None:
            values[index] = reader(values[index])
    return tuple(values)


# What SQLite has no type for, told by the column's name.
_READERS: dict[str, Callable[[str], Any]] = {
    "tags": json.loads,
    **dict.fromkeys(
        (
            *("timestamp", "created_at", "updated_at", "deleted_at", "started_at", "ended_at"),
            *("first_event_at", "last_event_at"),
        ),
        datetime.fromisoformat,
    ),
}
