"""Connections to PostgreSQL as the store wants them.

They wait for one statement only so long, tell whether the server has closed them, and read
documents as they stand and times in UTC. All of that is ours alone: nothing is set on a
connection that an application sees in `tx.connection`, but how long it waits for a lock.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections.abc import Generator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from struct import Struct
from typing import Any, Generic, NamedTuple, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Cursor, pq, sql
from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import TextBinaryLoader

from asm.errors import StorageError, StorageTimeout
from asm.plan import Row, Rows
from asm.refusals import refusal
from asm.wire import Exchange, Wire

T = TypeVar("T")
C = TypeVar("C", psycopg.Connection[Any], AsyncConnection[Any])

OLDEST_VERSION = 140000

ANSWER_S = 5.0
AT_ONCE_S = 1.0
"""How long a server that is there may take to say what it does, and for an answer that is on its way."""

AT_HAND_S = 1.0
"""How long a connection may stay out of its pool."""


SET_UP_S = 10.0
"""How long a new connection may take to be made ready: a pool has few workers, and they wait for it."""


class PatientConnection(psycopg.Connection[Any]):
    """A connection that waits so long for one statement, and then stops it on the server."""

    patience_s: float | None = None
    doubt: Doubt | None = None

    @cached_property
    def wire(self) -> Wire:
        return Wire(self.pgconn)

    def follow(self, exchange: Exchange[T]) -> T:
        """What comes of an exchange by the short way."""
        try:
            return self.wait(exchange)
        finally:
            close_if_amiss(self)

    @cached_property
    def readable(self) -> select.poll:
        """Polled, it gives something when there is something to read."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return poll

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        if self.patience_s is None:
            return self._doubted(self.doubt, gen) if self.doubt else super().wait(gen, *args, **kwargs)
        try:
            return super().wait(_until(time.monotonic() + self.patience_s, gen), *args, **kwargs)
        except _Overdue as overdue:
            if not self._stopped(gen):
                raise Silent(f"no answer in {self.patience_s:g} s, and it could not be stopped") from overdue
            raise StorageTimeout(
                f"no answer after {self.patience_s:g} s, so the statement was stopped"
            ) from overdue

    def _doubted(self, doubt: Doubt, gen: Generator[Any, Any, T]) -> T:
        while True:
            with suppress(_Overdue):
                return super().wait(_until(time.monotonic() + doubt.silence_s, gen))
            if doubt.is_lost(self):
                # The answer may have come while we asked.
                with suppress(_Overdue):
                    return super().wait(_until(time.monotonic() + AT_ONCE_S, gen))
                self.close()
                raise doubt.silent()

    def _stopped(self, gen: Generator[Any, Any, Any]) -> bool:
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
        return not self.closed


class AsyncWiredConnection(AsyncConnection[Any]):
    """A connection with a short way for lone statements."""

    doubt: Doubt | None = None

    @cached_property
    def wire(self) -> Wire:
        return Wire(self.pgconn)

    async def follow(self, exchange: Exchange[T]) -> T:
        """What comes of an exchange by the short way. Cancelled, the driver stops it on the server."""
        try:
            return await self.wait(exchange)
        finally:
            close_if_amiss(self)

    async def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        if self.doubt is None:
            return await super().wait(gen, *args, **kwargs)
        doubt = self.doubt
        while True:
            with suppress(_Overdue):
                return await super().wait(_until(time.monotonic() + doubt.silence_s, gen))
            if await asyncio.to_thread(doubt.is_lost, self):
                with suppress(_Overdue):
                    return await super().wait(_until(time.monotonic() + AT_ONCE_S, gen))
                await self.close()
                raise doubt.silent()


class Silent(psycopg.OperationalError):
    """A server that is there for nobody, or has forgotten us."""


class Doubt(NamedTuple):
    """Asks, after so long a silence, whether the server is there and still at work on a statement.

    Packets that are lost are the kernel's to notice. This is for a server, or a pooler in front of it,
    whose kernel lives and which is stuck, or has forgotten us.
    """

    conninfo: str
    silence_s: float

    def is_lost(self, connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> bool:
        """Whether no answer can come any more. It takes seconds where nobody answers at all."""
        try:
            other = PatientConnection.connect(self.conninfo, autocommit=True)
        except psycopg.errors.ConnectionTimeout:
            return True
        except psycopg.Error:
            # A server that is full is there.
            return refusal(self.conninfo) in (None, "57P03")
        with closing(other):
            if (other.info.host, other.info.port) != (connection.info.host, connection.info.port):
                return True
            other.patience_s = ANSWER_S
            try:
                found = other.execute(_AT_WORK, [connection.pgconn.backend_pid]).fetchone()
            except (psycopg.Error, StorageTimeout):
                return True
        # A pooler tells numbers of processes that the server does not know: then nobody can say.
        return found is not None and not found[0]

    def silent(self) -> Silent:
        return Silent(f"no answer in {self.silence_s:g} s, and none will come")


_AT_WORK = "select state not like 'idle%%' from pg_stat_activity where pid = %s and usename = current_user"


class Hold(Generic[C]):
    """The connection that a caller has taken, and must give back."""

    __slots__ = ("connection",)

    def __init__(self) -> None:
        self.connection: C | None = None


class AtHand(Generic[C]):
    """One connection that stays out of its pool between two questions.

    Giving it to the pool and taking it out again costs 14 of the 280 µs of an append. The pool gets it
    back when somebody waits for one, and once a second, to look at its age and to count it.
    """

    def __init__(self) -> None:
        # A signal's handler may ask while its own thread is in here, between any two lines.
        self._lock = threading.RLock()
        self._kept: C | None = None
        self._latest: C | None = None
        self._since = 0.0
        self._wanted: set[Hold[C]] = set()
        self._closed = False

    def take(self, hold: Hold[C]) -> C | None:
        """The connection, held. None: take one from the pool, and say when it is found."""
        with self._lock:
            # It changes hands in one line: Python lets no interrupt in between two assignments.
            hold.connection, self._kept = self._kept, None
            if hold.connection is None:
                self._wanted.add(hold)
            return hold.connection

    def found(self, hold: Hold[C]) -> None:
        """The one who wanted a connection from the pool has it, or wants it no more."""
        self._wanted.discard(hold)

    def keep(self, hold: Hold[C]) -> bool:
        """Whether it stays here. If not, it is the pool's."""
        connection = hold.connection
        if connection is None:
            return True
        now = time.monotonic()
        is_idle = connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        with self._lock:
            if self._kept is not None or self._wanted or self._closed or not is_idle:
                return False
            if connection is not self._latest:
                self._latest, self._since = connection, now
            elif now - self._since > AT_HAND_S:
                self._latest = None
                return False
            self._kept, hold.connection = connection, None
            return True

    def close(self) -> C | None:
        """Keep none from now on; the one that was kept."""
        with self._lock:
            self._closed = True
            kept, self._kept = self._kept, None
            return kept


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


def close_if_amiss(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    """Close a connection on which an exchange was broken off half way; the pool makes another."""
    pgconn = connection.pgconn
    if pgconn.pipeline_status != pq.PipelineStatus.OFF or pgconn.transaction_status not in _AT_REST:
        pgconn.finish()


_AT_REST = (pq.TransactionStatus.IDLE, pq.TransactionStatus.UNKNOWN)


def set_up(connection: PatientConnection, *, lock_timeout: str, prepare: bool) -> None:
    """Make a new connection ready: patient with locks, and preparing only what it finds again.

    Neither holds behind a pooler, which may give each transaction another server process: what is set
    would be set for others.
    """
    cursor = PlainCursor(connection, row_factory=tuple_row)
    connection.patience_s = SET_UP_S
    is_direct = cursor.execute(_SET_IF_DIRECT, _own(connection, lock_timeout), prepare=False).rowcount
    if not is_direct and not (prepare and keeps_prepared(connection)):
        connection.prepare_threshold = None
        connection.wire.prepares = False
    connection.patience_s = None


async def set_up_async(connection: AsyncWiredConnection, *, lock_timeout: str, prepare: bool) -> None:
    cursor = AsyncPlainCursor(connection, row_factory=tuple_row)
    async with asyncio.timeout(SET_UP_S):
        await cursor.execute(_SET_IF_DIRECT, _own(connection, lock_timeout), prepare=False)
        if not cursor.rowcount and not (prepare and await keeps_prepared_async(connection)):
            connection.prepare_threshold = None
            connection.wire.prepares = False


def keeps_prepared(connection: psycopg.Connection[Any]) -> bool:
    """Whether what is prepared under a name is found there again, and nothing else.

    In another server process the name may stand for nothing, or for the statement of another client,
    which would be run in place of ours. A pooler is known by the process it tells of, which is none of
    the server's. PgBouncer 1.21 and newer have names of their own for what is prepared, if
    `max_prepared_statements` is set.
    """
    cursor = PlainCursor(connection, row_factory=tuple_row)
    try:
        # In one transaction, and so on one server process.
        with connection.transaction():
            if cursor.execute(_IS_DIRECT, _own(connection), prepare=False).rowcount:
                return True
            names = cursor.execute(_OWN_NAME, prepare=True).fetchall()
            for name in _not_poolers(names):
                cursor.execute(sql.SQL("deallocate {}").format(sql.Identifier(name)), prepare=False)
            return bool(names) and not _not_poolers(names)
    except psycopg.errors.DuplicatePreparedStatement:
        return False


async def keeps_prepared_async(connection: AsyncConnection[Any]) -> bool:
    cursor = AsyncPlainCursor(connection, row_factory=tuple_row)
    try:
        async with connection.transaction():
            await cursor.execute(_IS_DIRECT, _own(connection), prepare=False)
            if cursor.rowcount:
                return True
            await cursor.execute(_OWN_NAME, prepare=True)
            names = await cursor.fetchall()
            for name in _not_poolers(names):
                await cursor.execute(sql.SQL("deallocate {}").format(sql.Identifier(name)), prepare=False)
            return bool(names) and not _not_poolers(names)
    except psycopg.errors.DuplicatePreparedStatement:
        return False


_IS_DIRECT = "select 1 where pg_backend_pid() = %(process)s"
_SET_IF_DIRECT = (
    "select set_config('lock_timeout', %(lock_timeout)s, false) where pg_backend_pid() = %(process)s"
)
_OWN_NAME = (
    "select name from pg_prepared_statements where strpos(statement, 'select name from pg_prepared') > 0"
)


def _own(
    connection: psycopg.Connection[Any] | AsyncConnection[Any], lock_timeout: str | None = None
) -> dict[str, Any]:
    return {"process": connection.info.backend_pid, "lock_timeout": lock_timeout}


def _not_poolers(names: Rows) -> list[str]:
    return [name for (name,) in names if not name.startswith("PGBOUNCER_")]


def check_server(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    """StorageError for a server or a connection that could not keep what the store promises to keep."""
    if connection.info.server_version < OLDEST_VERSION:
        raise StorageError(
            f"asm needs PostgreSQL {OLDEST_VERSION // 10000} or newer; "
            f"this is {connection.info.server_version // 10000}"
        )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in _ENCODINGS:
        raise StorageError(
            f"this database is kept in {encoding}, which has no way to write all characters: "
            "create one with `create database … encoding 'UTF8' template template0`"
        )
    if connection.info.encoding != "utf-8":
        raise StorageError(
            f"these connections speak {connection.info.parameter_status('client_encoding')}, which has no "
            "way to write all characters: give the pool's connections client_encoding=UTF8"
        )


_ENCODINGS = ("UTF8", "SQL_ASCII")
"""In the second, too, what is sent in UTF-8 is kept as it is: nothing is ever converted."""


def restore(connection: psycopg.Connection[Any]) -> None:
    """Have a connection of ours speak UTF-8 again, if an application set another encoding on it."""
    if isinstance(connection, PatientConnection) and not connection.wire.speaks_utf8:
        connection.execute(_SPEAK_UTF8, prepare=False)


async def restore_async(connection: AsyncConnection[Any]) -> None:
    if isinstance(connection, AsyncWiredConnection) and not connection.wire.speaks_utf8:
        await connection.execute(_SPEAK_UTF8, prepare=False)


_SPEAK_UTF8 = "set client_encoding to 'UTF8'"


def was_cut(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> bool:
    """Whether a connection was closed by the server while it lay in the pool.

    One at rest has nothing to say; if there is something to read, the server has closed it or
    says that it will. This costs no trip, where the pool's own check costs one for every call,
    and waits a second or more before it looks at the next connection.
    """
    if connection.closed:
        return True
    if isinstance(connection, PatientConnection):
        return bool(connection.readable.poll(0))
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
