"""How psycopg's cursors read and write the values of our own statements.

The adapters belong to our cursors and not to the connections, which an application may use for its
own statements with other adapters for JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from struct import Struct
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncCursor, Cursor, pq
from psycopg.adapt import AdaptersMap, Buffer, Dumper, Loader
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper
from psycopg.types.string import TextBinaryLoader

from asm.engine.script import Row
from asm.errors import unreadable_value
from asm.postgres.fast_path import ARRAY_TYPES, typed_array


class _TimestampLoader(Loader):
    """A time in UTC, whatever the session's time zone: PostgreSQL counts microseconds since 2000."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> datetime:
        try:
            return _EPOCH + timedelta(microseconds=_INT64.unpack(data)[0])
        except OverflowError as error:
            # Such as `infinity`.
            raise unreadable_value(error) from error


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_INT64 = Struct("!q")


class _Array(NamedTuple):
    """The values of an array, and the type of its items in the statement."""

    values: Sequence[Any]
    type_name: str


class _ArrayDumper(Dumper):
    """A list as a binary array.

    In an array in text, as psycopg writes it, NULL is the word "NULL" where `array_nulls` is off.
    """

    format = pq.Format.BINARY

    def dump(self, obj: _Array) -> bytes:
        # An application may have set another encoding in its transaction.
        encoding = self.connection.info.encoding if self.connection else "utf-8"
        return typed_array(obj.values, obj.type_name, encoding)


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    # The text of a document, for documents.py to parse.
    adapters.register_loader("json", TextBinaryLoader)
    adapters.register_loader("timestamptz", _TimestampLoader)
    # One width for all integers: each width would be a prepared statement of its own.
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_dumper(int, Int8BinaryDumper)
    adapters.register_dumper(_Array, _ArrayDumper)
    return adapters


_ADAPTERS = _adapters()


class PlainCursor(Cursor[Row]):
    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS


class AsyncPlainCursor(AsyncCursor[Row]):
    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS


def bind(sql: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a statement as its cursor takes them."""
    array_types = _array_types(sql)
    return {
        name: _Array(value, array_types.get(name, "text")) if isinstance(value, list | tuple) else value
        for name, value in params.items()
    }


@cache
def _array_types(sql: str) -> dict[str, str]:
    """The type of the items of each parameter that the statement casts to an array."""
    return dict(_ARRAY_CAST.findall(sql))


_ARRAY_CAST = re.compile(rf"%\((\w+)\)s::({'|'.join(ARRAY_TYPES)})\[\]")
