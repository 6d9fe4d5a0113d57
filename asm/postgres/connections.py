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
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper
from psycopg.types.string import TextBinaryLoader

from asm.dsn import SecretStr
from asm.engine.script import Row
from asm.errors import StorageTimeout
from asm.postgres.fast_path import FastPath, PQGen
from asm.postgres.login_errors import login_sqlstate

T = TypeVar("T")

COMMIT = "commit"

LIVENESS_TIMEOUT_S = 5.0
CANCEL_TIMEOUT_S = 5.0
LATE_RESULT_S = 1.0
"""How long a server that is there may take to say what it does, to stop, and for an answer on its way."""


class StoreConnection(psycopg.Connection[Any]):
    """A connection that waits so long for one statement, and then stops it on the server."""

    timeout_s: float | None = None
    doubt: LivenessCheck | None = None
    is_committing = False

    @cached_property
    def fast_path(self) -> FastPath:
        return FastPath(self.pgconn)

    def commit_patiently(self) -> None:
        """Commit. StorageTimeout where a server that is there does not say in time that it has."""
        self.is_committing = True
        try:
            self.execute(COMMIT, prepare=False)
        finally:
            self.is_committing = False

    def follow(self, exchange: PQGen[T]) -> T:
        """What comes of an exchange by the short way."""
        try:
            return self.wait(exchange)
        finally:
            close_if_dirty(self)

    @cached_property
    def readable(self) -> select.poll:
        """Polled, it gives something when there is something to read."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return poll

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        if self.timeout_s is None:
            # Told how long, it waits for what others say and not for the answer to a statement.
            if self.doubt is None or args or kwargs:
                return super().wait(gen, *args, **kwargs)
            return self._doubted(self.doubt, gen)
        try:
            return super().wait(_with_deadline(time.monotonic() + self.timeout_s, gen), *args, **kwargs)
        except _DeadlineExceeded as overdue:
            self._stop(gen)
            raise timed_out("statement", self.timeout_s) from overdue

    def _doubted(self, doubt: LivenessCheck, gen: Generator[Any, Any, T]) -> T:
        while True:
            with suppress(_DeadlineExceeded):
                return super().wait(_with_deadline(time.monotonic() + doubt.after_s, gen))
            if doubt.is_lost(self):
                # The answer may have come while we asked.
                with suppress(_DeadlineExceeded):
                    return super().wait(_with_deadline(time.monotonic() + LATE_RESULT_S, gen))
                self.close()
                raise doubt.silent()
            if self.is_committing:
                self._stop(gen)
                raise timed_out("commit", doubt.after_s)

    def _stop(self, gen: Generator[Any, Any, Any]) -> None:
        # The answer to a commit that is stopped says that it was done: here, and on no standby.
        timeout_s, self.timeout_s = self.timeout_s, None
        try:
            self.cancel_safe(timeout=CANCEL_TIMEOUT_S)
            super().wait(_with_deadline(time.monotonic() + CANCEL_TIMEOUT_S, gen))
        except psycopg.errors.QueryCanceled:
            pass
        except (psycopg.Error, _DeadlineExceeded):
            # Not even that was answered: nobody knows what state this connection is in.
            self.close()
        finally:
            self.timeout_s = timeout_s


class AsyncStoreConnection(AsyncConnection[Any]):
    """A connection with a short way for lone statements."""

    doubt: LivenessCheck | None = None
    is_committing = False

    @cached_property
    def fast_path(self) -> FastPath:
        return FastPath(self.pgconn)

    async def commit_patiently(self) -> None:
        """Commit. StorageTimeout where a server that is there does not say in time that it has."""
        self.is_committing = True
        try:
            await self.execute(COMMIT, prepare=False)
        finally:
            self.is_committing = False

    async def follow(self, exchange: PQGen[T]) -> T:
        """What comes of an exchange by the short way. Cancelled, the driver stops it on the server."""
        try:
            return await self.wait(exchange)
        finally:
            close_if_dirty(self)

    async def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        if self.doubt is None or args or kwargs:
            return await super().wait(gen, *args, **kwargs)
        doubt = self.doubt
        while True:
            with suppress(_DeadlineExceeded):
                return await super().wait(_with_deadline(time.monotonic() + doubt.after_s, gen))
            if await in_a_thread(partial(doubt.is_lost, self)):
                with suppress(_DeadlineExceeded):
                    return await super().wait(_with_deadline(time.monotonic() + LATE_RESULT_S, gen))
                await self.close()
                raise doubt.silent()
            if self.is_committing:
                await self._stop(gen)
                raise timed_out("commit", doubt.after_s)

    async def _stop(self, gen: Generator[Any, Any, Any]) -> None:
        try:
            await self.cancel_safe(timeout=CANCEL_TIMEOUT_S)
            await super().wait(_with_deadline(time.monotonic() + CANCEL_TIMEOUT_S, gen))
        except psycopg.errors.QueryCanceled:
            pass
        except (psycopg.Error, _DeadlineExceeded):
            await self.close()


def timed_out(what: str, after_s: float) -> StorageTimeout:
    return StorageTimeout(f"no answer after {after_s:g} s, so the {what} was given up")


class ServerUnresponsive(psycopg.OperationalError):
    """A server that is there for nobody, or has forgotten us."""


class LivenessCheck(NamedTuple):
    """Asks, after so long a silence, whether the server is there and still at work on a statement.

    Packets that are lost are the kernel's to notice. This is for a server, or a pooler in front of it,
    whose kernel lives and which is stuck, or has forgotten us.
    """

    conninfo: str
    after_s: float

    def is_lost(self, connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> bool:
        """Whether no answer can come any more. It takes seconds where nobody answers at all."""
        where = connection.info
        # The same server, and not the next of several.
        conninfo = SecretStr(
            make_conninfo(
                self.conninfo,
                host=where.host,
                hostaddr=where.hostaddr,
                port=where.port,
                target_session_attrs="any",
            )
        )
        try:
            other = StoreConnection.connect(conninfo, autocommit=True)
        except psycopg.errors.ConnectionTimeout:
            return True
        except psycopg.Error:
            # A server that is full is there.
            return login_sqlstate(conninfo) in (None, "57P03")
        with closing(other):
            other.timeout_s = LIVENESS_TIMEOUT_S
            try:
                found = other.execute(_IS_ACTIVE, [connection.pgconn.backend_pid]).fetchone()
            except (psycopg.Error, StorageTimeout):
                return True
        # A pooler tells numbers of processes that the server does not know: then nobody can say.
        return found is not None and not found[0]

    def silent(self) -> ServerUnresponsive:
        return ServerUnresponsive(f"no answer in {self.after_s:g} s, and none will come")


_IS_ACTIVE = "select state not like 'idle%%' from pg_stat_activity where pid = %s and usename = current_user"


async def in_a_thread(work: Callable[[], T]) -> T:
    """What blocks, in a thread of its own: the loop's are few, and to look up a host takes one of them."""
    thread = ThreadPoolExecutor(1, "asm-doubt")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    finally:
        thread.shutdown(wait=False)


class _DeadlineExceeded(Exception):
    pass


def _with_deadline(deadline: float, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """A wait that is given up at the deadline; the driver looks in every tenth of a second."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise _DeadlineExceeded
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


def close_if_dirty(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    """Close a connection on which an exchange was broken off half way; the pool makes another."""
    pgconn = connection.pgconn
    if pgconn.pipeline_status != pq.PipelineStatus.OFF or pgconn.transaction_status not in _CLEAN:
        pgconn.finish()


_CLEAN = (pq.TransactionStatus.IDLE, pq.TransactionStatus.UNKNOWN)


def is_broken(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> bool:
    """Whether a connection was closed by the server while it lay in the pool.

    One at rest has nothing to say; if there is something to read, the server has closed it or
    says that it will. This costs no trip, where the pool's own check costs one for every call,
    and waits a second or more before it looks at the next connection.
    """
    if connection.closed:
        return True
    if isinstance(connection, StoreConnection):
        return bool(connection.readable.poll(0))
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class _TimestampLoader(Loader):
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
    adapters.register_loader("timestamptz", _TimestampLoader)
    # One width for all integers, or each would be a prepared statement of its own.
    adapters.register_dumper(int, Int8Dumper)
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
