# Generated from asm/postgres/async_database.py by `make sync`. Change that file instead.

"""PostgreSQL, through a pool of connections in autocommit.

A query is one round trip. A unit of work is one transaction, READ COMMITTED, because a statement that has
waited for the lock of a counter has to see what the lock's last holder committed. Nothing rests on a
setting made in an earlier transaction, so a pooler may give each transaction another server process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from logging import DEBUG
from typing import Any, TypeVar

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from asm.engine.group_commit import GroupCommit
from asm.engine.guards import check_process, not_reentrant, not_reentrant_around
from asm.engine.logs import StatementLog, logger, operation_name
from asm.engine.polling import Poller
from asm.engine.registry import QueryRegistry
from asm.engine.retry import Backoff, is_retryable
from asm.engine.schema_version import add_versions, list_applied
from asm.engine.script import (
    Batchable,
    Operation,
    Pipeline,
    Query,
    Rows,
    Script,
    Unbatched,
    UnitOfWork,
    for_retry,
    resume,
    run_script,
)
from asm.errors import ConnectionFailed, MigrationRequired, StorageError
from asm.postgres.adapters import PlainCursor, bind
from asm.postgres.at_most_once import AtMostOnce
from asm.postgres.checkouts import Checkouts
from asm.postgres.client_state import ClientState
from asm.postgres.connections import ConnectionSetup, StoreConnection
from asm.postgres.distributed import as_pipeline, merged, parts
from asm.postgres.errors import OUT_OF_RANGE, translated, translation
from asm.postgres.fast_path import DividedPipelineRun, PipelineRun
from asm.postgres.outcomes import Commit
from asm.postgres.server_checks import can_identify, check_database, check_server, is_direct, probe
from asm.postgres.session_reset import reset_session
from asm.postgres.timeouts import Timeouts, limited
from asm.postgres.transaction import PostgresTransaction, begun

T = TypeVar("T")

PARALLEL_BATCHES_FROM = 128
"""From this many waiting appends on, two batches at a time: 38,000/s from 512 tasks instead of 29,000;
with 64 tasks two are no faster than one, and cost the client a fifth more."""


class Postgres:
    """A PostgreSQL database, for any number of threads."""

    def __init__(
        self,
        pool: ConnectionPool[Any],
        *,
        schema: str | None = None,
        conninfo: str | None = None,
        setup: ConnectionSetup | None = None,
        timeout: float | None = None,
        statement_timeout: float | None = None,
        retry_for: float = 10.0,
        prepare: bool = True,
        slow_statement: float | None = None,
    ) -> None:
        """`conninfo` is that of a pool of our own, without one the pool is borrowed."""
        self.queries = QueryRegistry("postgres", schema)
        self._pool = pool
        self._conninfo = conninfo
        self._schema = schema
        self._statement_timeout = statement_timeout
        self._timeouts = Timeouts(timeout, statement_timeout)
        self._retry_for = retry_for
        self._prepare = prepare
        self._borrows_direct = False
        self._is_distributed = False
        self._checkouts = Checkouts(pool, setup, timeout, is_own=conninfo is not None)
        self._at_most_once = AtMostOnce(self._checkouts, self._timeouts, retry_for, self._pause_before_retry)
        self.group_commit = GroupCommit(
            self.send,
            parallel_batches_from=PARALLEL_BATCHES_FROM,
            timeout=timeout or pool.timeout,
            retry_for=retry_for,
        )
        self.poller = Poller(self.run)
        self.log = StatementLog(slow_statement)
        self.process = os.getpid()
        self.threads_inside: set[int] = set()

    @property
    def pool_name(self) -> str:
        return self._pool.name

    def pool_statistics(self) -> dict[str, int]:
        """What psycopg_pool counts."""
        return self._checkouts.statistics()

    def observe_waits(self, waited: Callable[[float], object] | None) -> None:
        """Have a function called with the seconds of each wait for a connection; None: no more."""
        self._checkouts.waited = waited

    def open(self) -> None:
        """Connect, and retry while the failure may pass."""
        delays = Backoff(self._retry_for, "opening the store")
        while True:
            try:
                self._check_server()
                delays.succeeded()
                break
            except StorageError as error:
                pause_s = self._pause_before_retry(error, delays)
            time.sleep(pause_s)
        if self._conninfo is not None:
            self._pool.open()

    @not_reentrant
    def run(self, operation: Operation[T]) -> T:
        """Run an operation, again after a failure that may pass."""
        check_process(self.process)
        if isinstance(operation, Batchable):
            result = self.group_commit.run(operation)
        elif isinstance(operation, UnitOfWork) and not operation.idempotent:
            result = self._run_once(operation)
        else:
            result = self.send(operation, retry_for=self._retry_for)
        if self.poller.subscriptions:
            self.poller.notify(operation.sessions)
        return result

    def send(self, operation: Unbatched[T], *, retry_for: float, lock_timeout_s: float | None = None) -> T:
        """Run an operation by itself."""
        delays = None
        while True:
            try:
                result = self._attempt(operation, lock_timeout_s)
                if delays is not None:
                    delays.succeeded()
                return result
            except MigrationRequired as error:
                self._add_versions(error)
                raise
            except StorageError as error:
                delays = delays or Backoff(retry_for, operation_name(operation))
                pause_s = self._pause_before_retry(error, delays)
            operation = for_retry(operation)
            time.sleep(pause_s)

    def _run_once(self, unit: UnitOfWork[T]) -> T:
        attempt: Callable[[Commit[T]], T] = partial(self._attempt, unit, None)
        try:
            return self._at_most_once.run(attempt, operation_name(unit))
        except MigrationRequired as error:
            self._add_versions(error)
            raise

    def _pause_before_retry(self, error: StorageError | psycopg.Error, delays: Backoff) -> float:
        """How long to wait, in seconds; raises the error where another attempt is of no use."""
        pause_s = next(delays, None) if is_retryable(translation(error) or error) else None
        if pause_s is None or self.group_commit.is_closed:
            raise error
        delays.failed(error, pause_s)
        return pause_s

    def _add_versions(self, error: MigrationRequired) -> None:
        with suppress(StorageError):
            applied = self._attempt(list_applied("postgres"), None)
            add_versions(error, applied)

    def _attempt(
        self, operation: Unbatched[T], lock_timeout_s: float | None, commit: Commit[T] | None = None
    ) -> T:
        connection = self._checkouts.checkout()
        started_at = time.perf_counter()
        try:
            try:
                if self._is_distributed and isinstance(operation, Query):
                    operation = self._divided(operation)
                if isinstance(operation, Query):
                    rows = self._autocommit(connection, operation, lock_timeout_s)
                    if self.log.slow_s is not None or logger.isEnabledFor(DEBUG):
                        self.log.executed(operation, started_at, operation)
                    return operation.read(rows)
                if isinstance(operation, Pipeline):
                    result = self._pipelined(connection, operation, lock_timeout_s)
                    if self.log.slow_s is not None or logger.isEnabledFor(DEBUG):
                        self.log.executed(operation, started_at)
                    return result
            except (psycopg.errors.UniqueViolation, OUT_OF_RANGE):
                if isinstance(operation, UnitOfWork) or operation.on_conflict is None:
                    raise
            begin = self._timeouts.begin_for(operation, lock_timeout_s)
            return self._in_transaction(connection, operation, begin, commit)
        except (psycopg.Error, UnicodeEncodeError, ConnectionFailed) as error:
            # Now, because it reads the connection, which `drop_server` may close.
            ours = translation(error, connection, operation.sessions)
            self._checkouts.drop_server(connection, error)
            if ours is not None:
                raise ours from error
            raise
        finally:
            self._checkouts.checkin(connection)

    def _divided(self, query: Query[T]) -> Query[T] | Pipeline[T]:
        return as_pipeline(query) if self.queries[query.query].is_divided else query

    def _autocommit(
        self, connection: Connection[Any], query: Query[Any], lock_timeout_s: float | None
    ) -> Rows:
        if not isinstance(connection, StoreConnection):
            return self._autocommit_borrowed(connection, query, lock_timeout_s)
        rendered = self.queries[query.query].render(query.params)
        gen = connection.fast_path.execute(
            rendered.statements[0].sql, query.params, self._prepare and query.prepare
        )
        limit = self._timeouts.write if rendered.writes else self._timeouts.read
        if limit is not None and lock_timeout_s is not None:
            limit = limit.shortened(lock_timeout_s)
        return connection.run(gen, limit)

    def _pipelined(
        self, connection: Connection[Any], pipeline: Pipeline[T], lock_timeout_s: float | None
    ) -> T:
        if not isinstance(connection, StoreConnection):
            begin = self._timeouts.begin_for(pipeline, lock_timeout_s)
            return self._in_transaction(connection, pipeline.as_unit(), begin)
        execution = (DividedPipelineRun if self._is_distributed else PipelineRun)(self.queries, pipeline)
        gen = connection.fast_path.execute_pipeline(execution, self._prepare)
        return execution.read(connection.run(gen, self._timeouts.pipeline(pipeline, lock_timeout_s)))

    def _in_transaction(
        self,
        connection: Connection[Any],
        operation: Operation[T],
        begin: str,
        commit: Commit[T] | None = None,
    ) -> T:
        # Citus hands the settings of a transaction to the workers only if they are `set` by statements.
        is_local = not self._is_distributed
        if commit is not None and is_local and isinstance(connection, StoreConnection):
            rest = self._begin_with_first(connection, operation, commit)
            with begun(connection, None, self._timeouts.begin_and_commit, commit):
                commit.result = run_script(rest, self.executor(connection, operation))
                return commit.result
        with begun(connection, begin, self._timeouts.begin_and_commit, commit):
            result = run_script(operation, self.executor(connection, operation))
            if commit is not None:
                commit.result = result
            return result

    def _begin_with_first(
        self, connection: StoreConnection, operation: Operation[T], commit: Commit[T]
    ) -> Script[T]:
        """Begin, identify the transaction and execute the first query, in one round trip; the rest to do."""
        script, started_at = iter(operation), time.perf_counter()
        query = next(script)
        sql = self.queries[query.query].render(query.params).statements[0].sql
        is_direct = self._prepare and connection.fast_path.prepares
        first = commit.select(self._timeouts.settings, connection.server)
        statements = [(first, {}), (sql, query.params)]
        gen = connection.fast_path.execute_pipeline(statements, is_direct, commits=False)
        [identity], rows = connection.run(gen, self._timeouts.in_transaction)
        commit.identify(identity, connection.server)
        if is_direct and commit.transaction is not None:
            connection.server = commit.transaction.server
        if self.log.slow_s is not None or logger.isEnabledFor(DEBUG):
            self.log.executed(operation, started_at, query)
        return resume(script, rows)

    def _autocommit_borrowed(
        self, connection: Connection[Any], query: Query[Any], lock_timeout_s: float | None
    ) -> Rows:
        # The server has to bound the statement, and the connection may not be in autocommit.
        if connection.autocommit and not (lock_timeout_s or self._timeouts.bounds_statements):
            return self.execute(connection, query)
        with begun(connection, self._timeouts.begin_for(query, lock_timeout_s), None):
            return self.execute(connection, query)

    def executor(
        self, connection: Connection[Any], operation: Operation[Any]
    ) -> Callable[[Query[Any]], Rows]:
        """The function that executes the queries of an operation inside a transaction."""
        execute = partial(self.execute, connection)
        if self.log.slow_s is not None or logger.isEnabledFor(DEBUG):
            return self.log.timed(operation, execute)
        return execute

    def execute(self, connection: Connection[Any], query: Query[Any]) -> Rows:
        """The rows of a query inside a transaction."""
        named = self.queries[query.query]
        prepare = self._prepare and query.prepare
        if not named.is_divided:
            sql = named.render(query.params).statements[0].sql
            return self._execute(connection, sql, query.params, prepare)
        found = [
            (part, self._execute(connection, part.sql, part.params, prepare))
            for part in parts(named, query.params)
        ]
        return merged(found)

    def _execute(
        self, connection: Connection[Any], sql: str, params: Mapping[str, Any], prepare: bool
    ) -> Rows:
        cursor = PlainCursor(connection, row_factory=tuple_row)
        with limited(connection, self._timeouts.in_transaction):
            cursor.execute(sql, bind(sql, params), prepare=prepare, binary=True)
        return cursor.fetchall() if cursor.description else []

    @not_reentrant_around
    @contextmanager
    def transaction(self, commit: Commit[Any] | None = None) -> Iterator[PostgresTransaction]:
        """One transaction that the application ends, with the connection for statements of its own."""
        check_process(self.process)
        connection = self._checkouts.checkout()
        tx = PostgresTransaction(self, connection)
        try:
            limit = self._timeouts.begin_and_commit
            with begun(connection, self._timeouts.begin_user, limit, commit):
                try:
                    yield tx
                    tx.check_usable()
                finally:
                    tx.end()
            self.poller.notify(tx.changed_sessions)
        except MigrationRequired as error:
            with suppress(StorageError, psycopg.Error):
                applied = self._in_transaction(connection, list_applied("postgres"), self._timeouts.begin)
                add_versions(error, applied)
            raise
        except (ConnectionFailed, psycopg.Error) as error:
            # Errors of the application's own statements are not translated.
            self._checkouts.drop_server(connection, error)
            raise
        finally:
            self._give_back(connection, tx.client_state)

    def _give_back(self, connection: Connection[Any], before: ClientState | None) -> None:
        """Return a connection to its pool as it was before the application took it, if it did."""
        is_reusable = before is None
        try:
            if before is not None and os.getpid() == self.process:
                direct = self._is_direct(connection)
                is_reusable = reset_session(connection, before, self._pool, is_direct=direct)
        finally:
            self._checkouts.checkin(connection, is_reusable=is_reusable)

    def run_transaction(self, work: Callable[[PostgresTransaction], T], *, idempotent: bool) -> T:
        """Work in a transaction, again after a failure that left nothing of it."""

        def attempt(commit: Commit[T]) -> T:
            with self.transaction(commit) as tx:
                commit.result = work(tx)
            return commit.result

        return self._at_most_once.run(attempt, "run_transaction", idempotent=idempotent, identified="at end")

    @not_reentrant
    def close(self) -> None:
        if os.getpid() != self.process:
            return
        self.poller.close()
        self.group_commit.close()
        # A cancellation half way would leave the pool closed and its connections open.
        self._checkouts.close()

    def _check_server(self) -> None:
        if self._conninfo is not None:
            server = probe(self._conninfo, self._schema)
            self._at_most_once.can_identify = server.can_identify
            if server.is_distributed:
                self._use_distributed()
            return
        connection = self._checkouts.checkout()
        try:
            with translated():
                check_server(connection)
                with connection.transaction():
                    if check_database(connection, self._schema):
                        self._use_distributed()
                    self._borrows_direct = is_direct(connection)
                    self._prepare = self._prepare and self._borrows_direct
                self._at_most_once.can_identify = not self._is_distributed and can_identify(connection)
        finally:
            self._checkouts.checkin(connection)

    def _use_distributed(self) -> None:
        """Have each statement be about one session, and commits be shared within a session only."""
        self._is_distributed = True
        self.queries = QueryRegistry("postgres", self._schema, distributed=True)
        self._timeouts = Timeouts(self._timeouts.timeout, self._statement_timeout, propagates=True)
        self._at_most_once.timeouts = self._timeouts
        self.group_commit.divide_by_session()

    def _is_direct(self, connection: Connection[Any]) -> bool:
        """Whether no pooler stands between a connection and the server."""
        if isinstance(connection, StoreConnection):
            return bool(connection.settings)
        return self._borrows_direct
