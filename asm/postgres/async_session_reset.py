"""Undoes what an application has done to a session through `tx.connection`, or gives the connection up.

Only a transaction whose application took the connection pays for it: one round trip.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import AsyncConnection, pq
from psycopg_pool import AsyncConnectionPool

from asm.errors import StorageTimeout
from asm.postgres.async_connections import CONFIGURE_TIMEOUT_S, AsyncStoreConnection
from asm.postgres.client_state import ClientState
from asm.postgres.timeouts import Limit, limited

# What `discard all` does, except that it keeps prepared statements, of which some are ours; and PostgreSQL
# refuses `discard all` together with other statements. `from_sql` is true for those of the application.
_RESET = """
close all;
set session authorization default;
reset role;
reset all;
unlisten *;
select pg_catalog.pg_advisory_unlock_all();
discard temp;
discard sequences;
"""
_FIND_PREPARED = "select name from pg_catalog.pg_prepared_statements where from_sql"


async def reset_session(
    connection: AsyncConnection[Any], before: ClientState, pool: AsyncConnectionPool[Any], *, is_direct: bool
) -> bool:
    """Make an idle connection what it was when it was new. False if its pool has to replace it."""
    if connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
        return False
    is_reset = False
    try:
        # A pooler in front of the server may have given the session to another client.
        if before.restore() and is_direct:
            with limited(connection, Limit(CONFIGURE_TIMEOUT_S)):
                is_reset = await _reset(connection, pool)
        if not is_reset:
            # The pool logs a WARNING about a closed connection, and none about an old one.
            connection._expire_at = 0.0
    except BaseException as error:
        connection.pgconn.finish()
        if not isinstance(error, psycopg.Error | StorageTimeout):
            raise
    return is_reset


async def _reset(connection: AsyncConnection[Any], pool: AsyncConnectionPool[Any]) -> bool:
    if isinstance(connection, AsyncStoreConnection):
        return await _reset_and_find_prepared(connection, connection.settings)
    if pool.connection_class is not AsyncConnection:
        # What such a connection sets when it is made is not known.
        return False
    is_reset = await _reset_and_find_prepared(connection, "")
    if is_reset and pool._configure is not None:
        await pool._configure(connection)
    return is_reset and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE


async def _reset_and_find_prepared(connection: AsyncConnection[Any], settings: str) -> bool:
    """Whether the reset session has no statement that the application prepared."""
    cursor = await connection.execute(f"{_RESET}{settings}{_FIND_PREPARED}", prepare=False)
    while cursor.nextset():
        pass
    prepared = await cursor.fetchone()
    if not connection.autocommit:
        await connection.commit()
    return prepared is None
