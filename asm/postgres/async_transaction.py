"""Transactions on one connection of PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.rows import tuple_row

from asm.engine.async_polling import AsyncPollInTransaction
from asm.engine.guards import check_process
from asm.engine.script import Operation, Params, Query, Row, Rows, run_script_async
from asm.errors import (
    StorageTimeout,
    ended_by_application,
    transaction_ended,
    transaction_failed,
    transaction_interrupted,
)
from asm.postgres.adapters import AsyncPlainCursor
from asm.postgres.async_connections import AsyncStoreConnection
from asm.postgres.client_state import ClientState
from asm.postgres.errors import statement_error, translated
from asm.postgres.outcomes import IDENTIFY_TRANSACTION, Commit
from asm.postgres.timeouts import Limit, limited

# sync only: from asm.engine.guards import not_reentrant

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
        self.client_state: ClientState | None = None
        """The connection's state before the application took it, if it did."""
        self._connection = connection
        # sync only: self.threads_inside = database.threads_inside

    @property
    def connection(self) -> AsyncConnection[Any]:
        """The connection, for the application. At the end of the transaction its session is reset."""
        if not self._open:
            raise transaction_ended()
        if self.client_state is None:
            self.client_state = ClientState(self._connection)
        return self._connection

    # sync only: @not_reentrant
    async def run(self, operation: Operation[T]) -> T:
        check_process(self._database.process)
        if not self._open:
            raise transaction_ended()
        self.check_usable()
        self.changed_sessions.update(operation.sessions)
        try:
            with translated(self._connection, operation.sessions):
                return await run_script_async(operation, self._database.executor(self._connection, operation))
        except BaseException as error:
            # Several tasks or threads may use one transaction at the same time.
            self._interrupted = self._interrupted or not isinstance(error, Exception)
            raise

    # sync only: @not_reentrant
    async def execute(self, sql: str, params: Params) -> list[Row]:
        """The rows of a statement of the application."""
        check_process(self._database.process)
        if not self._open:
            raise transaction_ended()
        self.check_usable()
        try:
            # The placeholders and adapters are those of the connection, which may be the application's own.
            cursor = self.connection.cursor(row_factory=tuple_row)
            await cursor.execute(sql, params or None)
            return await cursor.fetchall() if cursor.description else []
        except (psycopg.Error, UnicodeEncodeError, TypeError) as error:
            raise statement_error(error) from error
        except BaseException as error:
            self._interrupted = self._interrupted or not isinstance(error, Exception)
            raise

    def check_usable(self) -> None:
        # An application that catches an interrupt and goes on would commit half of an operation.
        if self._interrupted:
            raise transaction_interrupted()
        if self._connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            # Later statements would be committed one by one.
            raise ended_by_application()

    def end(self) -> None:
        self._open = False


@asynccontextmanager
async def begun(
    connection: AsyncConnection[Any],
    begin: str | None,
    limit: Limit | None,
    commit: Commit[Any] | None = None,
) -> AsyncIterator[None]:
    """A transaction around a block, rolled back if the block raises.

    Without `begin` the fast path has begun it, and ends it.
    """
    process = os.getpid()
    with translated(), limited(connection, limit):
        if begin is None:
            pass
        elif commit is None or commit.identified != "at start":
            await connection.execute(begin, prepare=False)
        else:
            await _identify(connection, commit, f"{begin}; {IDENTIFY_TRANSACTION}")
    try:
        yield
        check_process(process)
        if connection.pgconn.transaction_status == pq.TransactionStatus.INERROR:
            # PostgreSQL responds to the commit of a failed transaction with a rollback and no error.
            raise transaction_failed()
        with translated(), limited(connection, limit):
            if commit is not None:
                if commit.identified == "at end":
                    await _identify(connection, commit, IDENTIFY_TRANSACTION)
                commit.is_sent = True
            if begin is None and isinstance(connection, AsyncStoreConnection):
                await connection.run(connection.fast_path.execute("commit", {}, prepare=False), limit)
            else:
                await connection.execute("commit", prepare=False)
    except BaseException:
        # A forked child that leaves the block must not end its parent's transaction.
        if os.getpid() == process:
            with suppress(psycopg.Error, StorageTimeout), limited(connection, limit):
                await connection.rollback()
        raise


async def _identify(connection: AsyncConnection[Any], commit: Commit[Any], statements: str) -> None:
    """Execute statements of which the last returns what identifies the transaction."""
    cursor = AsyncPlainCursor(connection, row_factory=tuple_row)
    await cursor.execute(statements, prepare=False)
    while cursor.nextset():
        pass
    [row] = await cursor.fetchall()
    commit.identify(row)
