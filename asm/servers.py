"""What a connection leads to: a PostgreSQL that can keep what is promised, directly or through a pooler."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import tuple_row

from asm.connections import AsyncPlainCursor, AsyncWiredConnection, PatientConnection, PlainCursor
from asm.errors import StorageError
from asm.plan import Rows

OLDEST_VERSION = 140000

SET_UP_S = 10.0
"""How long a new connection may take to be made ready: a pool has few workers, and they wait for it."""


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
