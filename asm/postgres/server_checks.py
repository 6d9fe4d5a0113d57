"""What a connection leads to: a PostgreSQL that can keep what is promised, directly or through a pooler."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from asm.errors import ConnectionFailed, StorageError, copied
from asm.postgres.connections import (
    AsyncPlainCursor,
    AsyncStoreConnection,
    PlainCursor,
    StoreConnection,
    in_a_thread,
)
from asm.postgres.errors import translated
from asm.postgres.login_errors import with_sqlstate

LEADER_TIMEOUT_S = 3.0
"""Whoever has waited so long for another's answer asks: the other may have been interrupted."""


class SingleFlight:
    """A question that several threads have, and one of them asks."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        # A signal's handler may ask while its own thread is in here.
        self._lock = threading.RLock()
        self._under_way: _Flight | None = None

    def answer(self) -> None:
        """Raise what the question raised."""
        ours = _Flight()
        with self._lock:
            theirs = self._under_way
            self._under_way = theirs or ours
        if theirs is None or not theirs.is_there.wait(LEADER_TIMEOUT_S):
            self._put(ours)
        elif theirs.error is not None:
            raise copied(theirs.error)

    def _put(self, ours: _Flight) -> None:
        try:
            self._ask()
        except Exception as error:
            # A copy, or the error and this frame would keep one another alive.
            ours.error = copied(error)
            raise
        finally:
            self._under_way = None
            ours.is_there.set()


class _Flight:
    def __init__(self) -> None:
        self.is_there = threading.Event()
        self.error: Exception | None = None


class AsyncSingleFlight:
    """A question that several tasks have. A task of its own asks, because any of them may be cancelled."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._ask = ask
        self._under_way: asyncio.Task[None] | None = None

    async def answer(self) -> None:
        """Raise what the question raised."""
        if self._under_way is None:
            self._under_way = asyncio.get_running_loop().create_task(self._ask())
            self._under_way.add_done_callback(self._end)
        task = self._under_way
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise copied(error)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._under_way = None
        if not task.cancelled():
            # Looked at, or asyncio would report it where all who wanted to know have left.
            task.exception()


OLDEST_VERSION = 140000

CONFIGURE_TIMEOUT_S = 10.0
"""How long a new connection may take to be made ready: a pool has few workers, and they wait for it."""


def configure(connection: StoreConnection, *, lock_timeout: str) -> None:
    """Make a new connection ready: patient with locks, unless a pooler stands in between.

    A pooler may give each transaction another server process. What is set there would be set for others,
    and what is prepared would not be found again, or be the statement of another client, which would be
    run in place of ours. One that keeps statements apart for its clients forgets them when the driver has it
    forget its own, and then cuts the connection. So nothing is set, and nothing prepared.
    """
    cursor = PlainCursor(connection, row_factory=tuple_row)
    connection.timeout_s = CONFIGURE_TIMEOUT_S
    if not cursor.execute(_SET_IF_DIRECT, _params(connection, lock_timeout), prepare=False).rowcount:
        _prepare_nothing(connection)
    connection.timeout_s = None


async def configure_async(connection: AsyncStoreConnection, *, lock_timeout: str) -> None:
    cursor = AsyncPlainCursor(connection, row_factory=tuple_row)
    async with asyncio.timeout(CONFIGURE_TIMEOUT_S):
        await cursor.execute(_SET_IF_DIRECT, _params(connection, lock_timeout), prepare=False)
        if not cursor.rowcount:
            _prepare_nothing(connection)


def _prepare_nothing(connection: StoreConnection | AsyncStoreConnection) -> None:
    connection.prepare_threshold = None
    connection.fast_path.prepares = False


def is_direct(connection: psycopg.Connection[Any]) -> bool:
    """Whether no pooler stands in between: one tells of a process that is none of the server's."""
    cursor = PlainCursor(connection, row_factory=tuple_row)
    with connection.transaction():
        return bool(cursor.execute(_IS_DIRECT, _params(connection), prepare=False).rowcount)


async def is_direct_async(connection: AsyncConnection[Any]) -> bool:
    cursor = AsyncPlainCursor(connection, row_factory=tuple_row)
    async with connection.transaction():
        await cursor.execute(_IS_DIRECT, _params(connection), prepare=False)
        return bool(cursor.rowcount)


_IS_DIRECT = "select 1 where pg_backend_pid() = %(process)s"
_SET_IF_DIRECT = (
    "select set_config('lock_timeout', %(lock_timeout)s, false) where pg_backend_pid() = %(process)s"
)


def _params(
    connection: psycopg.Connection[Any] | AsyncConnection[Any], lock_timeout: str | None = None
) -> dict[str, Any]:
    return {"process": connection.info.backend_pid, "lock_timeout": lock_timeout}


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


def probe(conninfo: str) -> None:
    """Say at once and in full what is wrong, where a pool would go on trying in the background."""
    with translated(), psycopg.connect(conninfo, autocommit=True) as connection:
        check_server(connection)


def probe_after_failure(conninfo: str) -> None:
    """The same after a failure, which may be for good."""
    try:
        probe(conninfo)
    except ConnectionFailed as error:
        raise with_sqlstate(error, conninfo) from error.__cause__


async def probe_async(conninfo: str) -> None:
    with translated():
        connection = await AsyncConnection.connect(conninfo, autocommit=True)
        # Cancelled at the end of `async with`, the driver's own would stay open.
        try:
            check_server(connection)
        finally:
            await connection.close()


async def probe_after_failure_async(conninfo: str) -> None:
    try:
        await probe_async(conninfo)
    except ConnectionFailed as error:
        raise await in_a_thread(partial(with_sqlstate, error, conninfo)) from error.__cause__


def reset_encoding(connection: psycopg.Connection[Any]) -> None:
    """Have a connection of ours speak UTF-8 again, if an application set another encoding on it."""
    if isinstance(connection, StoreConnection) and not connection.fast_path.speaks_utf8:
        connection.execute(_SPEAK_UTF8, prepare=False)


async def reset_encoding_async(connection: AsyncConnection[Any]) -> None:
    if isinstance(connection, AsyncStoreConnection) and not connection.fast_path.speaks_utf8:
        await connection.execute(_SPEAK_UTF8, prepare=False)


_SPEAK_UTF8 = "set client_encoding to 'UTF8'"
