"""Connections to PostgreSQL as the store wants them.

They wait for one statement only so long, tell whether the server has closed them, and read
documents as they stand and times in UTC. All of that is ours alone: nothing is set on a
connection that an application sees in `tx.connection`, but how long it waits for a lock.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from struct import Struct
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Cursor, pq
from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.conninfo import make_conninfo
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import TextBinaryLoader

from asm.dsn import Address
from asm.errors import StorageTimeout
from asm.plan import Row
from asm.refusals import refusal
from asm.wire import Exchange, Wire

T = TypeVar("T")

COMMIT = "commit"

ANSWER_S = 5.0
STOP_S = 5.0
AT_ONCE_S = 1.0
"""How long a server that is there may take to say what it does, to stop, and for an answer on its way."""


class PatientConnection(psycopg.Connection[Any]):
    """A connection that waits so long for one statement, and then stops it on the server."""

    patience_s: float | None = None
    doubt: Doubt | None = None
    is_committing = False

    @cached_property
    def wire(self) -> Wire:
        return Wire(self.pgconn)

    def commit_patiently(self) -> None:
        """Commit. StorageTimeout where a server that is there does not say in time that it has."""
        self.is_committing = True
        try:
            self.execute(COMMIT, prepare=False)
        finally:
            self.is_committing = False

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
            # Told how long, it waits for what others say and not for the answer to a statement.
            if self.doubt is None or args or kwargs:
                return super().wait(gen, *args, **kwargs)
            return self._doubted(self.doubt, gen)
        try:
            return super().wait(_until(time.monotonic() + self.patience_s, gen), *args, **kwargs)
        except _Overdue as overdue:
            self._stop(gen)
            raise given_up("statement", self.patience_s) from overdue

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
            if self.is_committing:
                self._stop(gen)
                raise given_up("commit", doubt.silence_s)

    def _stop(self, gen: Generator[Any, Any, Any]) -> None:
        # The answer to a commit that is stopped says that it was done: here, and on no standby.
        patience_s, self.patience_s = self.patience_s, None
        try:
            self.cancel_safe(timeout=STOP_S)
            super().wait(_until(time.monotonic() + STOP_S, gen))
        except psycopg.errors.QueryCanceled:
            pass
        except (psycopg.Error, _Overdue):
            # Not even that was answered: nobody knows what state this connection is in.
            self.close()
        finally:
            self.patience_s = patience_s


class AsyncWiredConnection(AsyncConnection[Any]):
    """A connection with a short way for lone statements."""

    doubt: Doubt | None = None
    is_committing = False

    @cached_property
    def wire(self) -> Wire:
        return Wire(self.pgconn)

    async def commit_patiently(self) -> None:
        """Commit. StorageTimeout where a server that is there does not say in time that it has."""
        self.is_committing = True
        try:
            await self.execute(COMMIT, prepare=False)
        finally:
            self.is_committing = False

    async def follow(self, exchange: Exchange[T]) -> T:
        """What comes of an exchange by the short way. Cancelled, the driver stops it on the server."""
        try:
            return await self.wait(exchange)
        finally:
            close_if_amiss(self)

    async def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        if self.doubt is None or args or kwargs:
            return await super().wait(gen, *args, **kwargs)
        doubt = self.doubt
        while True:
            with suppress(_Overdue):
                return await super().wait(_until(time.monotonic() + doubt.silence_s, gen))
            if await in_a_thread(partial(doubt.is_lost, self)):
                with suppress(_Overdue):
                    return await super().wait(_until(time.monotonic() + AT_ONCE_S, gen))
                await self.close()
                raise doubt.silent()
            if self.is_committing:
                await self._stop(gen)
                raise given_up("commit", doubt.silence_s)

    async def _stop(self, gen: Generator[Any, Any, Any]) -> None:
        try:
            await self.cancel_safe(timeout=STOP_S)
            await super().wait(_until(time.monotonic() + STOP_S, gen))
        except psycopg.errors.QueryCanceled:
            pass
        except (psycopg.Error, _Overdue):
            await self.close()


def given_up(what: str, after_s: float) -> StorageTimeout:
    return StorageTimeout(f"no answer after {after_s:g} s, so the {what} was given up")


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
        where = connection.info
        # The same server, and not the next of several.
        conninfo = Address(
            make_conninfo(
                self.conninfo,
                host=where.host,
                hostaddr=where.hostaddr,
                port=where.port,
                target_session_attrs="any",
            )
        )
        try:
            other = PatientConnection.connect(conninfo, autocommit=True)
        except psycopg.errors.ConnectionTimeout:
            return True
        except psycopg.Error:
            # A server that is full is there.
            return refusal(conninfo) in (None, "57P03")
        with closing(other):
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


async def in_a_thread(work: Callable[[], T]) -> T:
    """What blocks, in a thread of its own: the loop's are few, and to look up a host takes one of them."""
    thread = ThreadPoolExecutor(1, "asm-doubt")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    finally:
        thread.shutdown(wait=False)


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
