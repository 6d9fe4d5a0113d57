# Generated from asm/postgres/async_transaction.py by `make sync`. Change that file instead.

"""Transactions on one connection of PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg import Connection, pq
from psycopg.rows import tuple_row

from asm.engine.guards import check_process, not_reentrant
from asm.engine.polling import PollInTransaction
from asm.engine.script import Operation, Params, Query, Row, Rows, run_script
from asm.errors import (
    StorageTimeout,
    ended_by_application,
    transaction_ended,
    transaction_failed,
    transaction_interrupted,
)
from asm.postgres.adapters import PlainCursor
from asm.postgres.client_state import ClientState
from asm.postgres.connections import StoreConnection
from asm.postgres.errors import statement_error, translated
from asm.postgres.outcomes import IDENTIFY_TRANSACTION, Commit
from asm.postgres.timeouts import Limit, limited

T = TypeVar("T")


class Executor(Protocol):
    """The database of a transaction: it executes the queries."""

    process: int
    threads_inside: set[int]

    def executor(
        self, connection: Connection[Any], operation: Operation[Any]
    ) -> Callable[[Query[Any]], Rows]: ...


class PostgresTransaction:
    """Operations within one transaction of the application."""

    poller = PollInTransaction()

    def __init__(self, database: Executor, connection: Connection[Any]) -> None:
        self._database = database
        self._open = True
        self._interrupted = False
        self.changed_sessions: set[str] = set()
        self.client_state: ClientState | None = None
        """The connection's state before the application took it, if it did."""
        self._connection = connection
        self.threads_inside = database.threads_inside

    @property
    def connection(self) -> Connection[Any]:
        """The connection, for the application. At the end of the transaction its session is reset."""
        if not self._open:
            raise transaction_ended()
        if self.client_state is None:
            self.client_state = ClientState(self._connection)
        return self._connection

    @not_reentrant
    def run(self, operation: Operation[T]) -> T:
        check_process(self._database.process)
        if not self._open:
            raise transaction_ended()
        self.check_usable()
        self.changed_sessions.update(operation.sessions)
        try:
            with translated(self._connection, operation.sessions):
                return run_script(operation, self._database.executor(self._connection, operation))
        except BaseException as error:
            # Several tasks or threads may use one transaction at the same time.
            self._interrupted = self._interrupted or not isinstance(error, Exception)
            raise

    @not_reentrant
    def execute(self, sql: str, params: Params) -> list[Row]:
        """The rows of a statement of the application."""
        check_process(self._database.process)
        if not self._open:
            raise transaction_ended()
        self.check_usable()
        try:
            # The placeholders and adapters are those of the connection, which may be the application's own.
            cursor = self.connection.cursor(row_factory=tuple_row)
            cursor.execute(sql, params or None)
            return cursor.fetchall() if cursor.description else []
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


@contextmanager
def begun(
    connection: Connection[Any],
    begin: str | None,
    limit: Limit | None,
    commit: Commit[Any] | None = None,
) -> Iterator[None]:
    """A transaction around a block, rolled back if the block raises.

    Without `begin` the fast path has begun it, and ends it.
    """
    process = os.getpid()
    with translated(), limited(connection, limit):
        if begin is None:
            pass
        elif commit is None or commit.identified != "at start":
            connection.execute(begin, prepare=False)
        else:
            _identify(connection, commit, f"{begin}; {IDENTIFY_TRANSACTION}")
    try:
        yield
        check_process(process)
        if connection.pgconn.transaction_status == pq.TransactionStatus.INERROR:
            # PostgreSQL responds to the commit of a failed transaction with a rollback and no error.
            raise transaction_failed()
        with translated(), limited(connection, limit):
            if commit is not None:
                if commit.identified == "at end":
                    _identify(connection, commit, IDENTIFY_TRANSACTION)
                commit.is_sent = True
            if begin is None and isinstance(connection, StoreConnection):
                connection.run(connection.fast_path.execute("commit", {}, prepare=False), limit)
            else:
                connection.execute("commit", prepare=False)
    except BaseException:
        # A forked child that leaves the block must not end its parent's transaction.
        if os.getpid() == process:
            with suppress(psycopg.Error, StorageTimeout), limited(connection, limit):
                connection.rollback()
        raise


def _identify(connection: Connection[Any], commit: Commit[Any], statements: str) -> None:
    """Execute statements of which the last returns what identifies the transaction."""
    cursor = PlainCursor(connection, row_factory=tuple_row)
    cursor.execute(statements, prepare=False)
    while cursor.nextset():
        pass
    [row] = cursor.fetchall()
    commit.identify(row)
