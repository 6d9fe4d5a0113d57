"""PostgreSQL, through a pool of connections in autocommit.

A question of one statement is one trip. A plan is one transaction, READ COMMITTED, because
the counter's lock has to show what its last holder committed. Nothing rests on what was set on a
connection before, so a pooler may give each transaction another server process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool, PoolTimeout

from asm.engine.group_commit import GroupCommit
from asm.engine.polling import Poller, PollInTransaction
from asm.engine.registry import QueryRegistry
from asm.engine.retry import backoff, check_process, is_retryable
from asm.engine.schema_version import add_versions, list_applied
from asm.engine.script import (
    Batchable,
    Operation,
    Pipeline,
    Query,
    Rows,
    Script,
    UnitOfWork,
    for_retry,
    run_script,
)
from asm.errors import ConnectionFailed, MigrationRequired, StorageError, StoreClosed
from asm.postgres.common import (
    DIAGNOSE_AFTER_S,
    PARALLEL_BATCHES_FROM,
    PipelineRun,
    T,
    Unbatched,
    bind,
    check_not_aborted,
    check_not_ended,
    is_unusable_server,
)
from asm.postgres.connections import (
    COMMIT,
    PlainCursor,
    StoreConnection,
    close_if_dirty,
    is_broken,
)
from asm.postgres.errors import translated
from asm.postgres.server_checks import (
    SingleFlight,
    check_server,
    is_direct,
    probe,
    probe_after_failure,
    reset_encoding,
)
from asm.postgres.spare import Lease, SpareConnection
from asm.postgres.timeouts import Timeouts


class Postgres:
    """A PostgreSQL database, for any number of threads."""

    def __init__(
        self,
        pool: ConnectionPool[Any],
        *,
        schema: str | None = None,
        conninfo: str | None = None,
        timeout: float | None = None,
        statement_timeout: float | None = None,
        retry_for: float = 10.0,
        prepare: bool = True,
    ) -> None:
        self.queries = QueryRegistry("postgres", schema)
        self._pool = pool
        self._conninfo = conninfo
        self._closed = False
        self._limits = Timeouts(timeout, statement_timeout)
        self._retry_for = retry_for
        self._prepare = prepare
        self._in_use: dict[psycopg.Connection[Any], Lease[psycopg.Connection[Any]]] = {}
        self._at_hand: SpareConnection[psycopg.Connection[Any]] = SpareConnection()
        # A pool that may be empty is to see when nobody needs a connection.
        self._keeps = conninfo is not None and pool.min_size > 0
        self._gather = GroupCommit(
            self._with_retry,
            parallel_batches_from=PARALLEL_BATCHES_FROM,
            timeout=timeout or pool.timeout,
            retry_for=retry_for,
        )
        self._inquiry = SingleFlight(lambda: probe_after_failure(conninfo or ""))
        self.watch = Poller(self.run)
        self.process = os.getpid()

    def open(self) -> None:
        if self._conninfo is not None:
            self._retried(
                partial(probe, self._conninfo), self._retry_for, partial(probe_after_failure, self._conninfo)
            )
            self._pool.open()
        else:
            self._retried(self._look_at_server, self._retry_for)

    def run(self, question: Operation[T]) -> T:
        """Put a question to the database, and again while what cut it off may pass."""
        if isinstance(question, Batchable):
            check_process(self.process)
            answer = self._gather.ask(question)
        else:
            answer = self._with_retry(question, retry_for=self._retry_for)
        if self.watch.waiters:
            self.watch.notify(question.sessions)
        return answer

    def _with_retry(
        self, question: Unbatched[T], *, retry_for: float, lock_timeout_s: float | None = None
    ) -> T:
        first = partial(self._attempt, question, lock_timeout_s=lock_timeout_s)
        try:
            return self._retried(
                first, retry_for, lambda: self._attempt(for_retry(question), lock_timeout_s=lock_timeout_s)
            )
        except MigrationRequired as error:
            self._add_versions(error)
            raise

    def _add_versions(self, error: MigrationRequired) -> None:
        with suppress(StorageError):
            applied = self._attempt(list_applied(), lock_timeout_s=None)
            add_versions(error, "postgres", applied)

    def _attempt(self, question: Unbatched[T], *, lock_timeout_s: float | None) -> T:
        hold: Lease[psycopg.Connection[Any]] = Lease()
        with translated():
            try:
                try:
                    connection = self._checkout(hold)
                    try:
                        if isinstance(question, Query):
                            return question.read(
                                self._autocommit(connection, question, lock_timeout_s=lock_timeout_s)
                            )
                        if isinstance(question, Pipeline):
                            return self._pipelined(connection, question)
                    except psycopg.errors.UniqueViolation:
                        if isinstance(question, UnitOfWork) or question.on_conflict is None:
                            raise
                    begin = self._limits.begin_for(question, lock_timeout_s=lock_timeout_s)
                    return self._in_transaction(connection, question, begin)
                except (ConnectionFailed, psycopg.Error) as error:
                    self._drop_server(hold, error)
                    raise
                finally:
                    self._checkin(hold)
            finally:
                # Once more, for an interrupt may have cut the first short.
                self._checkin(hold)

    def _in_transaction(
        self, connection: psycopg.Connection[Any], plan: Operation[T] | Script[T], begin: str
    ) -> T:
        with _Transaction(connection, begin):
            return run_script(plan, partial(self.answer, connection))

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        """One transaction that the caller ends, with the connection for statements of its own."""
        hold: Lease[psycopg.Connection[Any]] = Lease()
        try:
            try:
                # Only taking a connection is ours to translate, not what the caller does with it.
                with translated():
                    connection = self._checkout(hold)
                with _Transaction(connection, self._limits.begin_user):
                    tx = PostgresTransaction(self, connection)
                    try:
                        yield tx
                        tx.check_usable()
                    finally:
                        tx.end()
                self.watch.notify(tx.changed_sessions)
                with suppress(psycopg.Error):
                    reset_encoding(connection)
            except MigrationRequired as error:
                with suppress(StorageError, psycopg.Error):
                    applied = self._in_transaction(connection, list_applied(), self._limits.begin)
                    add_versions(error, "postgres", applied)
                raise
            except (ConnectionFailed, psycopg.Error) as error:
                self._drop_server(hold, error)
                raise
            finally:
                self._checkin(hold)
        finally:
            self._checkin(hold)

    def close(self) -> None:
        if os.getpid() != self.process:
            return
        self.watch.close()
        self._gather.finish()
        self._closed = True
        if self._conninfo is not None:
            self._pool.close()
            if (connection := self._at_hand.close()) is not None:
                self._pool.putconn(connection)

    def answer(self, connection: psycopg.Connection[Any], ask: Query[Any]) -> Rows:
        """The rows of one question."""
        render = self.queries[ask.query].render(ask.params)
        cursor = PlainCursor(connection, row_factory=tuple_row)
        prepare = self._prepare and ask.prepare
        cursor.execute(render.statements[0].sql, bind(ask.params), prepare=prepare, binary=True)
        return cursor.fetchall() if cursor.description else []

    def _autocommit(
        self, connection: psycopg.Connection[Any], ask: Query[Any], *, lock_timeout_s: float | None
    ) -> Rows:
        if not isinstance(connection, StoreConnection):
            return self._autocommit_on_borrowed(connection, ask, lock_timeout_s=lock_timeout_s)
        render = self.queries[ask.query].render(ask.params)
        connection.timeout_s = self._limits.timeout_s(render, lock_timeout_s=lock_timeout_s)
        try:
            sql = render.statements[0].sql
            prepare = self._prepare and ask.prepare
            return connection.follow(connection.fast_path.ask(sql, ask.params, prepare=prepare))
        finally:
            connection.timeout_s = None

    def _pipelined(self, connection: psycopg.Connection[Any], volley: Pipeline[T]) -> T:
        if not isinstance(connection, StoreConnection):
            return self._in_transaction(connection, volley.run_sequentially(), self._limits.begin)
        connection.timeout_s = self._limits.patience_with(volley)
        salvo = PipelineRun(self.queries, volley)
        try:
            return salvo.read(connection.follow(connection.fast_path.ask_all(salvo, prepare=self._prepare)))
        finally:
            connection.timeout_s = None

    def _autocommit_on_borrowed(
        self, connection: psycopg.Connection[Any], ask: Query[Any], *, lock_timeout_s: float | None
    ) -> Rows:
        # Only one of ours can be patient by itself; only one of ours is sure to be in autocommit.
        if connection.autocommit and not (lock_timeout_s or self._limits.bound_statements):
            return self.answer(connection, ask)
        with _Transaction(connection, self._limits.begin_for(ask, lock_timeout_s=lock_timeout_s)):
            return self.answer(connection, ask)

    def _look_at_server(self) -> None:
        hold: Lease[psycopg.Connection[Any]] = Lease()
        with translated():
            try:
                try:
                    connection = self._checkout(hold)
                    check_server(connection)
                    self._prepare = self._prepare and is_direct(connection)
                finally:
                    self._checkin(hold)
            finally:
                self._checkin(hold)

    def _checkout(self, hold: Lease[psycopg.Connection[Any]]) -> psycopg.Connection[Any]:
        check_process(self.process)
        if self._closed:
            raise StoreClosed("this store is closed")
        while True:
            connection = self._at_hand.take(hold)
            if connection is None:
                try:
                    connection = hold.connection = self._getconn()
                finally:
                    self._at_hand.found(hold)
            self._in_use[connection] = hold
            if not is_broken(connection):
                return connection
            # Not by `close()`, which some pools make into a way of giving it back.
            connection.pgconn.finish()
            self._checkin(hold)

    def _drop_server(
        self, hold: Lease[psycopg.Connection[Any]], error: ConnectionFailed | psycopg.Error
    ) -> None:
        # A server that only reads, or answers nobody, is not the one to ask, and the whole pool leads there.
        if hold.connection is not None and is_unusable_server(error):
            hold.connection.pgconn.finish()
            if self._conninfo is not None and not self._closed:
                self._pool.drain()

    def _checkin(self, hold: Lease[psycopg.Connection[Any]]) -> None:
        """Give back what a hold has. Cut short anywhere by an interrupt, it is done by doing it again."""
        connection = hold.connection
        if connection is None:
            self._at_hand.found(hold)
        elif self._in_use.get(connection, hold) is hold and os.getpid() == self.process:
            self._in_use.pop(connection, None)
            if not (self._keeps and self._at_hand.keep(hold)):
                close_if_dirty(connection)
                # A ValueError is the pool's way to say that it has it already.
                with suppress(ValueError):
                    self._pool.putconn(connection)
            hold.connection = None

    def _getconn(self) -> psycopg.Connection[Any]:
        timeout = self._limits.timeout
        if timeout is None or self._conninfo is None:
            return self._from_pool(None)
        try:
            return self._from_pool(min(timeout, DIAGNOSE_AFTER_S))
        except PoolTimeout:
            # Either all are in use, and one will come back; or none is to be had, and to know
            # why takes a connection of our own, because the pool tries in the background.
            if len(self._in_use) < self._pool.max_size:
                self._inquiry.answer()
                # The server is there. The pool connects again, or a connection is just changing hands.
                if timeout <= DIAGNOSE_AFTER_S:
                    raise ConnectionFailed("the pool has not connected again yet") from None
            elif timeout <= DIAGNOSE_AFTER_S:
                raise
        return self._from_pool(timeout - DIAGNOSE_AFTER_S)

    def _from_pool(self, timeout: float | None) -> psycopg.Connection[Any]:
        # In one line, too.
        return self._pool.getconn(timeout)  # type: ignore[no-any-return]

    def _retried(
        self, attempt: Callable[[], T], budget_s: float, on_unknown_outcome: Callable[[], T] | None = None
    ) -> T:
        waits = None
        while True:
            try:
                return attempt()
            except StorageError as error:
                # Made when it is needed, because mostly it is not.
                waits = waits or backoff(budget_s)
                pause_s = next(waits, None) if is_retryable(error) else None
                if pause_s is None or self._gather.is_closed:
                    raise
            attempt = on_unknown_outcome or attempt
            time.sleep(pause_s)


class _Transaction:
    """A transaction around a block, rolled back where the block is left by an exception.

    Not a generator made into a context manager: one that an interrupt leaves behind ends when it is
    collected, and would roll back what somebody else does on the connection by then.
    """

    __slots__ = ("_begin", "_connection", "_process")

    def __init__(self, connection: psycopg.Connection[Any], begin: str) -> None:
        self._connection = connection
        self._begin = begin
        self._process = os.getpid()

    def __enter__(self) -> None:
        with translated():
            self._connection.execute(self._begin, prepare=False)

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            if error is None:
                check_process(self._process)
                with translated():
                    check_not_aborted(self._connection)
                    _commit(self._connection)
        except BaseException:
            self._roll_back()
            raise
        if error is not None:
            self._roll_back()

    def _roll_back(self) -> None:
        # A forked child that leaves the block has no say in its parent's transaction.
        if os.getpid() == self._process:
            with suppress(psycopg.Error):
                self._connection.rollback()


class PostgresTransaction:
    """Operations within one transaction."""

    watch = PollInTransaction()

    def __init__(self, database: Postgres, connection: psycopg.Connection[Any]) -> None:
        self._database = database
        self._open = True
        self._was_cut = False
        self.changed_sessions: set[str] = set()
        self.connection = connection

    def run(self, question: Operation[T]) -> T:
        check_process(self._database.process)
        if not self._open:
            raise StoreClosed("this transaction has ended")
        self.check_usable()
        self.changed_sessions.update(question.sessions)
        try:
            with translated():
                return run_script(question, partial(self._database.answer, self.connection))
        except BaseException as error:
            self._was_cut = not isinstance(error, Exception)
            raise

    def check_usable(self) -> None:
        # A caller who catches an interrupt and goes on would commit half an operation.
        if self._was_cut:
            raise StorageError("an operation of this transaction was cut short, so nothing of it is kept")
        check_not_ended(self.connection)

    def end(self) -> None:
        self._open = False


def _commit(connection: psycopg.Connection[Any]) -> None:
    if isinstance(connection, StoreConnection):
        connection.commit_patiently()
    else:
        connection.execute(COMMIT, prepare=False)
