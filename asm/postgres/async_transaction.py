"""Transactions on one connection of PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection, pq

from asm.engine.async_polling import AsyncPollInTransaction
from asm.engine.retry import check_process
from asm.engine.script import Operation, Query, Rows, run_script_async
from asm.errors import (
    StorageTimeout,
    ended_by_application,
    transaction_ended,
    transaction_failed,
    transaction_interrupted,
)
from asm.postgres.errors import translated
from asm.postgres.timeouts import Limit, limited

# sync only: from asm.postgres.reentrancy import not_reentrant

T = TypeVar("T")


class AsyncExecutor(Protocol):
    """The database of a transaction: it executes the queries."""

    process: int
    # sync only: threads_inside: set[int]

    def executor(
        self, connection: AsyncConnection[Any], operation: Operation[Any]
    ) -> Callable[[Query[Any]], Awaitable[Rows]]: ...


class AsyncPostgresTransaction:
    """Operations within one transaction of the application."""

    poller = AsyncPollInTransaction()

    def __init__(self, database: AsyncExecutor, connection: AsyncConnection[Any]) -> None:
        self._database = database
        self._open = True
        self._interrupted = False
        self.changed_sessions: set[str] = set()
        self.connection = connection
        # sync only: self.threads_inside = database.threads_inside

    # sync only: @not_reentrant
    async def run(self, operation: Operation[T]) -> T:
        check_process(self._database.process)
        if not self._open:
            raise transaction_ended()
        self.check_usable()
        self.changed_sessions.update(operation.sessions)
        try:
            with translated():
                return await run_script_async(operation, self._database.executor(self.connection, operation))
        except BaseException as error:
            # Several tasks or threads may use one transaction at the same time.
            self._interrupted = self._interrupted or not isinstance(error, Exception)
            raise

    def check_usable(self) -> None:
        # An application that catches an interrupt and goes on would commit half of an operation.
        if self._interrupted:
            raise transaction_interrupted()
        if self.connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            # Later statements would be committed one by one.
            raise ended_by_application()

    def end(self) -> None:
        self._open = False


@asynccontextmanager
async def begun(connection: AsyncConnection[Any], begin: str, limit: Limit | None) -> AsyncIterator[None]:
    """A transaction around a block, rolled back if the block raises."""
    process = os.getpid()
    with translated(), limited(connection, limit):
        await connection.execute(begin, prepare=False)
    try:
        yield
        check_process(process)
        if connection.pgconn.transaction_status == pq.TransactionStatus.INERROR:
            # PostgreSQL responds to the commit of a failed transaction with a rollback and no error.
            raise transaction_failed()
        with translated(), limited(connection, limit):
            await connection.execute("commit", prepare=False)
    except BaseException:
        # A forked child that leaves the block must not end its parent's transaction.
        if os.getpid() == process:
            with suppress(psycopg.Error, StorageTimeout), limited(connection, limit):
                await connection.rollback()
        raise
