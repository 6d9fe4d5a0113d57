"""SQLite: one connection that writes and one that reads, each used by one thread at a time.

A transaction that writes takes the file's write lock when it begins. The connection that reads sees
the last commit and waits for no writer. In memory one connection does both.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from logging import DEBUG
from threading import get_ident
from typing import Any, TypeVar

from asm.dsn import MEMORY
from asm.engine.group_commit import GroupCommit
from asm.engine.guards import check_process, not_reentrant, not_reentrant_around, reentrant_call
from asm.engine.logs import StatementLog, logger
from asm.engine.polling import Poller, PollInTransaction
from asm.engine.registry import QueryRegistry
from asm.engine.schema_version import add_versions, list_applied
from asm.engine.script import (
    Batchable,
    Operation,
    Params,
    Pipeline,
    Query,
    Row,
    Rows,
    UnitOfWork,
    run_script,
)
from asm.errors import (
    Conflict,
    MigrationRequired,
    StorageError,
    ValidationError,
    ended_by_application,
    transaction_ended,
    transaction_failed,
)
from asm.sqlite.connection import SQLITE_VERSION_MIN, LockedConnection
from asm.sqlite.errors import (
    NOT_EXECUTED,
    is_out_of_range,
    open_transaction_error,
    statement_error,
    translated,
)
from asm.sqlite.values import bind

T = TypeVar("T")


class SQLite:
    """A SQLite file, or a database in memory, for any number of threads."""

    def __init__(
        self,
        path: str,
        *,
        timeout: float,
        statement_timeout: float | None,
        slow_statement: float | None = None,
    ) -> None:
        if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
            raise StorageError(
                f"asm requires SQLite {'.'.join(map(str, SQLITE_VERSION_MIN))} or newer, for STRICT tables; "
                f"this Python has SQLite {sqlite3.sqlite_version}"
            )
        self.queries = QueryRegistry("sqlite")
        self.timeout = timeout
        self._writer = LockedConnection(path, timeout, statement_timeout)
        self._reader = (
            self._writer
            if path == MEMORY
            else LockedConnection(path, timeout, statement_timeout, reads_only=True)
        )
        self.process = self._writer.process
        # One batch at a time, because SQLite has one writer.
        self.group_commit = GroupCommit(self.send, parallel_batches_from=None, timeout=timeout, retry_for=0)
        self.poller = Poller(self.poll)
        self.log = StatementLog(slow_statement)
        self._last_poll: tuple[object, ...] = ()
        self.threads_inside: set[int] = set()

    def run(self, operation: Operation[T]) -> T:
        """Run an operation: a lone query as one statement, any other in one transaction."""
        # What `not_reentrant` does, without its call.
        thread = get_ident()
        if thread in self.threads_inside:
            raise reentrant_call()
        try:
            self.threads_inside.add(thread)
            if isinstance(operation, Batchable):
                result = self._append(operation, thread)
            else:
                result = self.send(operation)
            if self.poller.subscriptions:
                self.poller.notify(operation.sessions)
            return result
        except MigrationRequired as error:
            self.add_versions(error)
            raise
        finally:
            self.threads_inside.discard(thread)

    def _append(self, operation: Batchable[T], thread: int) -> T:
        # Before the group commit, which would wait for a batch that waits for this thread or process.
        if os.getpid() != self.process:
            check_process(self.process)
        if self._writer.lock.owner == thread:
            raise open_transaction_error()
        return self.group_commit.run(operation)

    def send(self, operation: Query[T] | UnitOfWork[T] | Pipeline[T], **_limits: object) -> T:
        """Run one operation. The group commit's `_limits` are for databases whose writers run in parallel."""
        try:
            if isinstance(operation, Query):
                return self._run_query(operation)
            if isinstance(operation, Pipeline):
                return self._in_transaction(operation.as_unit())
        except (Conflict, StorageError) as error:
            if isinstance(operation, UnitOfWork) or operation.on_conflict is None:
                raise
            if not (isinstance(error, Conflict) or is_out_of_range(error.__cause__)):
                raise
        if self.writes(operation):
            return self._in_transaction(operation)
        execute = self.executor(self._reader, operation)
        return self._reader.use(partial(run_script, operation, execute), begin="begin")

    def poll(self, query: Query[T]) -> T | None:
        """The query's result, or None if the last poll was the same and there was no commit since."""
        return self._reader.use(partial(self._poll, query))

    def _poll(self, query: Query[T]) -> T | None:
        poll = (self._reader.version(), query.params)
        if poll == self._last_poll:
            return None
        result = query.read(self.execute(self._reader, query))
        self._last_poll = poll
        return result

    @not_reentrant_around
    @contextmanager
    def transaction(self) -> Iterator[SQLiteTransaction]:
        """One transaction that the caller ends, with the connection for statements of its own."""
        connection = self._writer
        if connection.lock.owner == get_ident():
            raise open_transaction_error()
        try:
            with translated():
                connection.acquire()
                connection.begin("begin immediate")
            tx = SQLiteTransaction(self, connection)
            try:
                yield tx
            finally:
                # A forked child has no other thread, and the lock of one may be locked for ever.
                if os.getpid() == self.process:
                    tx.end()
            check_process(self.process)
            tx.check_usable()
            with translated():
                connection.commit()
        except MigrationRequired as error:
            self.add_versions(error)
            raise
        finally:
            connection.release()
        self.poller.notify(tx.changed_sessions)

    def run_transaction(self, work: Callable[[SQLiteTransaction], T], **_options: object) -> T:
        """Work in a transaction. The response to a commit cannot be lost here."""
        with self.transaction() as tx:
            return work(tx)

    @not_reentrant
    def close(self) -> None:
        if os.getpid() != self.process:
            return
        self.poller.close()
        self.group_commit.close()
        try:
            self._reader.close()
        finally:
            self._writer.close()

    def executor(
        self, connection: LockedConnection, operation: Operation[Any]
    ) -> Callable[[Query[Any]], Rows]:
        """The function that executes the queries of an operation, on a connection that the caller uses."""
        execute = partial(self.execute, connection)
        if self.log.slow_s is not None or logger.isEnabledFor(DEBUG):
            return self.log.timed(operation, execute)
        return execute

    def execute(self, connection: LockedConnection, query: Query[Any]) -> Rows:
        """The rows of one query, on a connection that the caller uses."""
        rendered = self.queries[query.query].render(query.params)
        values, columns = bind(query.params)
        rows: Rows = []
        for statement in rendered.statements:
            rows = connection.execute(statement, values, columns)
        return rows

    def add_versions(self, error: MigrationRequired) -> None:
        with suppress(StorageError):
            applied = self.send(list_applied("sqlite"))
            add_versions(error, applied)

    def writes(self, operation: Query[Any] | UnitOfWork[Any] | Pipeline[Any]) -> bool:
        """Whether an operation needs the connection that writes."""
        if self._reader is self._writer:
            return True
        if isinstance(operation, Query):
            return self.queries[operation.query].writes
        return isinstance(operation, Pipeline) or not operation.snapshot

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that writes, for migrating a database that only it can see."""
        return self._writer.driver

    def _run_query(self, query: Query[T]) -> T:
        started_at = time.perf_counter()
        if self.queries[query.query].writes:
            rows = self._writer.use(partial(self.execute, self._writer, query), begin="begin immediate")
        else:
            rows = self._reader.use(partial(self.execute, self._reader, query))
        if self.log.slow_s is not None or logger.isEnabledFor(DEBUG):
            self.log.executed(query, started_at, query)
        return query.read(rows)

    def _in_transaction(self, operation: Operation[T]) -> T:
        execute = self.executor(self._writer, operation)
        work = partial(run_script, operation, execute)
        return self._writer.use(work, begin="begin immediate", sessions=operation.sessions)


class SQLiteTransaction:
    """Operations within one transaction, of one thread at a time.

    After one that failed in the database, all others are refused.
    """

    poller = PollInTransaction()

    def __init__(self, database: SQLite, connection: LockedConnection) -> None:
        self._database = database
        self._connection = connection
        self._open = True
        self._aborted = False
        self._lock = threading.Lock()
        self.changed_sessions: set[str] = set()
        self.threads_inside = database.threads_inside

    @property
    def connection(self) -> sqlite3.Connection:
        """The driver's connection, for the application. It is closed when the transaction has ended."""
        # Marked before the check, for a thread that calls this while another one ends the transaction.
        driver = self._connection.lend()
        if not self._open:
            raise transaction_ended()
        return driver

    @not_reentrant
    def run(self, operation: Operation[T]) -> T:
        check_process(self._database.process)
        with self._lock:
            if not self._open:
                raise transaction_ended()
            self.check_usable()
            self.changed_sessions.update(operation.sessions)
            try:
                with translated(sessions=operation.sessions):
                    return run_script(operation, self._database.executor(self._connection, operation))
            except BaseException as error:
                # An interrupt that the caller catches would leave half an operation to be committed.
                self._aborted = (
                    not isinstance(error, Exception)
                    or isinstance(error, StorageError | sqlite3.Error)
                    or isinstance(error.__cause__, sqlite3.Error)
                )
                raise

    @not_reentrant
    def execute(self, sql: str, params: Params) -> list[Row]:
        """The rows of a statement of the application."""
        check_process(self._database.process)
        with self._lock:
            if not self._open:
                raise transaction_ended()
            self.check_usable()
            try:
                return self._connection.execute_own(sql, params)
            except NOT_EXECUTED as error:
                ours = statement_error(error)
                self._aborted = not isinstance(ours, ValidationError)
                raise ours from error
            except BaseException as error:
                self._aborted = not isinstance(error, Exception)
                raise

    def check_usable(self) -> None:
        # PostgreSQL refuses every statement after a failed one and keeps nothing of the transaction;
        # SQLite would go on and commit the rest.
        if self._aborted:
            raise transaction_failed()
        with translated():
            if not self._connection.driver.in_transaction:
                # Every further statement would be committed by itself.
                raise ended_by_application()

    def end(self) -> None:
        """Refuse further operations, and wait for the one that another thread is executing."""
        self._open = False
        with self._lock:
            pass
