"""How psycopg's cursors read and write the values of our own statements.

The adapters belong to our cursors and not to the connections, which an application may use for its
own statements with other adapters for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any

import psycopg
from psycopg import AsyncCursor, Cursor, pq
from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper
from psycopg.types.string import TextBinaryLoader

from asm.engine.script import Row


class _TimestampLoader(Loader):
    """A time in UTC, whatever the session's time zone: PostgreSQL counts microseconds since 2000."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> datetime:
        return _EPOCH + timedelta(microseconds=_INT64.unpack(data)[0])


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_INT64 = Struct("!q")


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    # The text of a document, for documents.py to parse.
    adapters.register_loader("json", TextBinaryLoader)
    adapters.register_loader("timestamptz", _TimestampLoader)
    # One width for all integers. Each width would be a prepared statement of its own, and of two lists
    # in one statement, in text, the second would have the width of the first.
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_dumper(int, Int8BinaryDumper)
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


def bind(params: Mapping[str, Any]) -> dict[str, Any]:
    """The values as psycopg takes them: it writes a tuple as a composite and a list as an array."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}
