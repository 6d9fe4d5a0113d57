"""Connections to PostgreSQL as the store wants them.

They wait for one statement only so long, tell whether the server has closed them, and read
documents as they stand and times in UTC. All of that is ours alone: nothing is set on a
connection that an application sees in `tx.connection`.
"""

from __future__ import annotations

import select
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Cursor, pq
from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import TextBinaryLoader

from asm.errors import StorageTimeout
from asm.plan import Row

T = TypeVar("T")


class PatientConnection(psycopg.Connection[Any]):
    """A connection that waits so long for one statement, and then stops it on the server."""

    patience_s: float | None = None

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        if self.patience_s is None:
            return super().wait(gen, *args, **kwargs)
        try:
            return super().wait(_until(time.monotonic() + self.patience_s, gen), *args, **kwargs)
        except _Overdue as overdue:
            self._stop(gen)
            raise StorageTimeout(
                f"no answer after {self.patience_s:g} s, so the statement was stopped"
            ) from overdue

    def _stop(self, gen: Generator[Any, Any, Any]) -> None:
        patience_s, self.patience_s = self.patience_s, None
        try:
            self.cancel_safe(timeout=5.0)
            super().wait(_until(time.monotonic() + 5.0, gen))
        except psycopg.errors.QueryCanceled:
            pass
        except (psycopg.Error, _Overdue):
            # Not even that was answered: nobody knows what state this connection is in.
            self.close()
        finally:
            self.patience_s = patience_s


class _Overdue(Exception):
    pass


def _until(deadline: float, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """A wait that is given up at the deadline; the driver looks in every tenth of a second."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise _Overdue
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


def was_cut(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> bool:
    """Whether a connection was closed by the server while it lay in the pool.

    One at rest has nothing to say; if there is something to read, the server has closed it or
    says that it will. This costs no trip, where the pool's own check costs one for every call,
    and waits a second or more before it looks at the next connection.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class _Moment(Loader):
    """A time in UTC, whatever the session's time zone: PostgreSQL counts microseconds since 2000."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> datetime:
        return _EPOCH + timedelta(microseconds=_INT64.unpack(data)[0])


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_INT64 = Struct("!q")


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    # A document as it stands, for documents.py to read.
    adapters.register_loader("json", TextBinaryLoader)
    adapters.register_loader("timestamptz", _Moment)
    # One width for all integers, or each would be a prepared statement of its own.
    adapters.register_dumper(int, Int8BinaryDumper)
    return adapters


_ADAPTERS = _adapters()


# On our cursors and not on the connections, which an application may use for its own
# statements, with its own idea of JSON.
class PlainCursor(Cursor[Row]):
    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS


class AsyncPlainCursor(AsyncCursor[Row]):
    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS
