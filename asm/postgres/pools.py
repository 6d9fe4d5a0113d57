"""Databases behind pools of their own."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from asm.postgres.async_database import AsyncPostgres
from asm.postgres.connections import AsyncStoreConnection, LivenessCheck, StoreConnection
from asm.postgres.database import Postgres
from asm.postgres.server_checks import configure, configure_async
from asm.postgres.timeouts import milliseconds

RECONNECT_S = 3.0
"""The pool tries to connect at growing intervals for so long, and then when it is next asked."""

SERVER_GRACE_S = 1.0
"""A server that stops a statement itself has so long to say so before we ask after it."""


class CancellablePool(AsyncConnectionPool[Any]):
    """A pool whose workers end when they are cancelled.

    psycopg_pool's own take a cancellation for a failed connection where it meets them at connecting,
    and ask for more work: a program that leaves its store open would wait for them for ever, because
    `asyncio.run` cancels what still runs and waits for its end.
    """

    @classmethod
    async def worker(cls, q: Any) -> None:
        tasks: Any = _UntilCancelled(q)
        await super().worker(tasks)


class _UntilCancelled:
    """A queue that gives nothing more to a task once it was cancelled."""

    def __init__(self, queue: asyncio.Queue[Any]) -> None:
        self._queue = queue

    async def get(self) -> Any:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        return await self._queue.get()


def connect(
    conninfo: str, *, min_size: int, max_size: int, timeout: float, prepare: bool, **options: Any
) -> Postgres:
    """A database behind a pool of its own, not yet opened."""
    doubt = _doubt(conninfo, timeout, options["statement_timeout"])

    def prepare_connection(connection: StoreConnection) -> None:
        configure(connection, lock_timeout=f"{milliseconds(timeout)}ms")
        connection.doubt = doubt

    pool = ConnectionPool(
        conninfo,
        connection_class=StoreConnection,
        kwargs=_kwargs(prepare=prepare),
        configure=prepare_connection,
        min_size=min_size,
        max_size=max_size,
        timeout=timeout,
        # So soon it begins anew, with short pauses, as long as somebody asks.
        reconnect_timeout=RECONNECT_S,
        open=False,
    )
    return Postgres(pool, conninfo=conninfo, timeout=timeout, prepare=prepare, **options)


def connect_async(
    conninfo: str, *, min_size: int, max_size: int, timeout: float, prepare: bool, **options: Any
) -> AsyncPostgres:
    """A database behind a pool of its own, not yet opened."""
    doubt = _doubt(conninfo, timeout, options["statement_timeout"])

    async def prepare_connection(connection: AsyncStoreConnection) -> None:
        await configure_async(connection, lock_timeout=f"{milliseconds(timeout)}ms")
        connection.doubt = doubt

    pool = CancellablePool(
        conninfo,
        connection_class=AsyncStoreConnection,
        kwargs=_kwargs(prepare=prepare),
        configure=prepare_connection,
        min_size=min_size,
        max_size=max_size,
        timeout=timeout,
        # So soon it begins anew, with short pauses, as long as somebody asks.
        reconnect_timeout=RECONNECT_S,
        open=False,
    )
    return AsyncPostgres(pool, conninfo=conninfo, timeout=timeout, prepare=prepare, **options)


def _kwargs(*, prepare: bool) -> dict[str, Any]:
    # An application's own statements in our transactions are not prepared either.
    return {"autocommit": True} if prepare else {"autocommit": True, "prepare_threshold": None}


def _doubt(conninfo: str, timeout: float, statement_timeout: float | None) -> LivenessCheck:
    # The server's own word that it has stopped a statement comes first.
    return LivenessCheck(conninfo, min(timeout, statement_timeout or timeout) + SERVER_GRACE_S)
