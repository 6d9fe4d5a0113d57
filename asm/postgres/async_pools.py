"""Databases behind pools of their own."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg_pool import AsyncConnectionPool

from asm.postgres.async_connections import AsyncConnectionSetup, AsyncStoreConnection
from asm.postgres.async_database import AsyncPostgres

RECONNECT_S = 3.0
"""The pool retries a failed connection for this long. Then it connects again at the next checkout, with
short pauses at first."""


# begin: async only
class CancellablePool(AsyncConnectionPool[Any]):
    """A pool whose workers end when they are cancelled.

    A worker of psycopg_pool that is cancelled while it connects takes the cancellation for a failed
    connection, and goes on with the next task. `asyncio.run` cancels the tasks that are left and waits for
    their end: a program that leaves its store open would never end. Not reported upstream yet.
    """

    @classmethod
    async def worker(cls, q: Any) -> None:
        tasks: Any = _CancellableQueue(q)
        await super().worker(tasks)


class _CancellableQueue:
    """A queue that gives no more to a task that was cancelled."""

    def __init__(self, queue: asyncio.Queue[Any]) -> None:
        self._queue = queue

    async def get(self) -> Any:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        return await self._queue.get()


# end: async only
def connect(
    conninfo: str, *, min_size: int, max_size: int, timeout: float, prepare: bool, **options: Any
) -> AsyncPostgres:
    """A database behind a pool of its own, not yet opened."""
    setup = AsyncConnectionSetup(timeout)
    kwargs: dict[str, Any] = {"autocommit": True, "setup": setup}
    if not prepare:
        # Nor are an application's own statements in our transactions prepared.
        kwargs["prepare_threshold"] = None
    pool = CancellablePool(
        conninfo,
        connection_class=AsyncStoreConnection,
        kwargs=kwargs,
        min_size=min_size,
        max_size=max_size,
        timeout=timeout,
        reconnect_timeout=RECONNECT_S,
        open=False,
    )
    return AsyncPostgres(pool, conninfo=conninfo, setup=setup, timeout=timeout, prepare=prepare, **options)
