"""PostgreSQL, awaited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from asm.engine.group_commit import AsyncGroupCommit
from asm.engine.polling import AsyncPoller, AsyncPollInTransaction
from asm.engine.registry import QueryRegistry
from asm.engine.retry import backoff, check_loop, check_process, is_retryable
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
    run_script_async,
)
from asm.engine.shielding import Shielded, detecting_lost_cancel, run_to_completion
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
    AsyncPlainCursor,
    AsyncStoreConnection,
    close_if_dirty,
    is_broken,
    timed_out,
)
from asm.postgres.errors import translated
from asm.postgres.server_checks import (
    AsyncSingleFlight,
    check_server,
    is_direct_async,
    probe_after_failure_async,
    probe_async,
    reset_encoding_async,
)
from asm.postgres.spare import Lease, SpareConnection
from asm.postgres.timeouts import Timeouts


class AsyncPostgres:
    """A PostgreSQL database, for any number of tasks of one event loop."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
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
        self._in_use: dict[AsyncConnection[Any], Lease[AsyncConnection[Any]]] = {}
        self._at_hand: SpareConnection[AsyncConnection[Any]] = SpareConnection()
        # A pool that may be empty is to see when nobody needs a connection.
        self._keeps = conninfo is not None and pool.min_size > 0
        self._gather = AsyncGroupCommit(
            self._with_retry,
            parallel_batches_from=PARALLEL_BATCHES_FROM,
            timeout=timeout or pool.timeout,
            retry_for=retry_for,
        )
        self._inquiry = AsyncSingleFlight(lambda: probe_after_failure_async(conninfo or ""))
        self.watch = AsyncPoller(self.run)
        self.process = os.getpid()
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        if self._conninfo is not None:
            await self._retried(
                partial(probe_async, self._conninfo),
                self._retry_for,
                partial(probe_after_failure_async, self._conninfo),
            )
            await self._pool.open()
        else:
            await self._retried(self._look_at_server, self._retry_for)

    async def run(self, question: Operation[T]) -> T:
        """Put a question to the database, and again while what cut it off may pass."""
        if isinstance(question, Batchable):
            check_process(self.process)
            check_loop(self._loop)
            answer = await self._gather.ask(question)
        else:
            answer = await self._with_retry(question, retry_for=self._retry_for)
        if self.watch.waiters:
            self.watch.notify(question.sessions)
        return answer

    async def _with_retry(
        self, question: Unbatched[T], *, retry_for: float, lock_timeout_s: float | None = None
    ) -> T:
        first = partial(self._attempt, question, lock_timeout_s=lock_timeout_s)
        try:
            return await self._retried(
                first, retry_for, lambda: self._attempt(for_retry(question), lock_timeout_s=lock_timeout_s)
            )
        except MigrationRequired as error:
            await self._add_versions(error)
            raise

    async def _add_versions(self, error: MigrationRequired) -> None:
        with suppress(StorageError):
            applied = await self._attempt(list_applied(), lock_timeout_s=None)
            add_versions(error, "postgres", applied)

    async def _attempt(self, question: Unbatched[T], *, lock_timeout_s: float | None) -> T:
        hold: Lease[AsyncConnection[Any]] = Lease()
        with translated():
            try:
                connection = await self._checkout(hold)
                try:
                    if isinstance(question, Query):
                        return question.read(
                            await self._autocommit(connection, question, lock_timeout_s=lock_timeout_s)
                        )
                    if isinstance(question, Pipeline):
                        return await self._pipelined(connection, question)
                except psycopg.errors.UniqueViolation:
                    if isinstance(question, UnitOfWork) or question.on_conflict is None:
                        raise
                begin = self._limits.begin_for(question, lock_timeout_s=lock_timeout_s)
                return await self._in_transaction(connection, question, begin)
            except (ConnectionFailed, psycopg.Error) as error:
                await self._drop_server(hold, error)
                raise
            finally:
                await self._checkin(hold)

    async def _in_transaction(
        self, connection: AsyncConnection[Any], plan: Operation[T] | Script[T], begin: str
    ) -> T:
        async with self._transaction(connection, begin):
            return await run_script_async(plan, partial(self.answer, connection))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncPostgresTransaction]:
        """One transaction that the caller ends, with the connection for statements of its own."""
        hold: Lease[AsyncConnection[Any]] = Lease()
        try:
            # Only taking a connection is ours to translate, not what the caller does with it.
            with translated():
                connection = await self._checkout(hold)
            async with self._transaction(connection, self._limits.begin_user):
                tx = AsyncPostgresTransaction(self, connection)
                try:
                    yield tx
                    tx.check_usable()
                finally:
                    tx.end()
            self.watch.notify(tx.changed_sessions)
            with suppress(psycopg.Error):
                await reset_encoding_async(connection)
        except MigrationRequired as error:
            with suppress(StorageError, psycopg.Error):
                applied = await self._in_transaction(connection, list_applied(), self._limits.begin)
                add_versions(error, "postgres", applied)
            raise
        except (ConnectionFailed, psycopg.Error) as error:
            await self._drop_server(hold, error)
            raise
        finally:
            await self._checkin(hold)

    async def close(self) -> None:
        if os.getpid() != self.process:
            return
        check_loop(self._loop)
        self.watch.close()
        await self._gather.finish()
        self._closed = True
        if self._conninfo is not None:
            # Cut short, the pool would be closed and its connections would not.
            await run_to_completion(self._close_pool())

    async def _close_pool(self) -> None:
        await self._pool.close()
        if (connection := self._at_hand.close()) is not None:
            await self._pool.putconn(connection)

    async def answer(self, connection: AsyncConnection[Any], ask: Query[Any]) -> Rows:
        """The rows of one question."""
        render = self.queries[ask.query].render(ask.params)
        cursor = AsyncPlainCursor(connection, row_factory=tuple_row)
        prepare = self._prepare and ask.prepare
        await cursor.execute(render.statements[0].sql, bind(ask.params), prepare=prepare, binary=True)
        return await cursor.fetchall() if cursor.description else []

    async def _autocommit(
        self, connection: AsyncConnection[Any], ask: Query[Any], *, lock_timeout_s: float | None
    ) -> Rows:
        if not connection.autocommit:
            # A borrowed connection; one of ours is always in autocommit.
            async with self._transaction(
                connection, self._limits.begin_for(ask, lock_timeout_s=lock_timeout_s)
            ):
                return await self.answer(connection, ask)
        render = self.queries[ask.query].render(ask.params)
        timeout_s = self._limits.timeout_s(render, lock_timeout_s=lock_timeout_s)
        if not isinstance(connection, AsyncStoreConnection):
            async with _patient(timeout_s):
                return await self.answer(connection, ask)
        sql = render.statements[0].sql
        exchange = connection.fast_path.ask(sql, ask.params, prepare=self._prepare and ask.prepare)
        async with _patient(timeout_s):
            return await connection.follow(exchange)

    async def _pipelined(self, connection: AsyncConnection[Any], volley: Pipeline[T]) -> T:
        if not isinstance(connection, AsyncStoreConnection):
            return await self._in_transaction(connection, volley.run_sequentially(), self._limits.begin)
        salvo = PipelineRun(self.queries, volley)
        async with _patient(self._limits.patience_with(volley)):
            exchange = connection.fast_path.ask_all(salvo, prepare=self._prepare)
            return salvo.read(await connection.follow(exchange))

    @asynccontextmanager
    async def _transaction(self, connection: AsyncConnection[Any], begin: str) -> AsyncIterator[None]:
        with translated():
            await connection.execute(begin, prepare=False)
        try:
            yield
            check_process(self.process)
            with translated():
                check_not_aborted(connection)
                await _commit_async(connection)
        except BaseException:
            if os.getpid() == self.process:
                with suppress(psycopg.Error):
                    await connection.rollback()
            raise

    async def _look_at_server(self) -> None:
        hold: Lease[AsyncConnection[Any]] = Lease()
        with translated():
            try:
                connection = await self._checkout(hold)
                check_server(connection)
                self._prepare = self._prepare and await is_direct_async(connection)
            finally:
                await self._checkin(hold)

    async def _checkout(self, hold: Lease[AsyncConnection[Any]]) -> AsyncConnection[Any]:
        check_process(self.process)
        check_loop(self._loop)
        if self._closed:
            raise StoreClosed("this store is closed")
        while True:
            connection = self._at_hand.take(hold)
            if connection is None:
                try:
                    connection = await self._getconn(hold)
                finally:
                    self._at_hand.found(hold)
            self._in_use[connection] = hold
            if not is_broken(connection):
                return connection
            connection.pgconn.finish()
            await self._checkin(hold)

    async def _drop_server(
        self, hold: Lease[AsyncConnection[Any]], error: ConnectionFailed | psycopg.Error
    ) -> None:
        if hold.connection is not None and is_unusable_server(error):
            hold.connection.pgconn.finish()
            if self._conninfo is not None and not self._closed:
                await self._pool.drain()

    async def _checkin(self, hold: Lease[AsyncConnection[Any]]) -> None:
        connection = hold.connection
        if connection is not None and os.getpid() == self.process:
            self._in_use.pop(connection, None)
            if not (self._keeps and self._at_hand.keep(hold)):
                hold.connection = None
                # Or the pool would wait for the server's answer to a rollback, uncancelled.
                close_if_dirty(connection)
                with suppress(ValueError):
                    await Shielded(self._pool.putconn(connection))

    async def _getconn(self, hold: Lease[AsyncConnection[Any]]) -> AsyncConnection[Any]:
        timeout = self._limits.timeout
        if timeout is None or self._conninfo is None:
            return await self._from_pool(hold, None)
        try:
            return await self._from_pool(hold, min(timeout, DIAGNOSE_AFTER_S))
        except PoolTimeout:
            # Either all are in use, and one will come back; or none is to be had, and to know
            # why takes a connection of our own, because the pool tries in the background.
            if len(self._in_use) < self._pool.max_size:
                await self._inquiry.answer()
                # The server is there. The pool connects again, or a connection is just changing hands.
                if timeout <= DIAGNOSE_AFTER_S:
                    raise ConnectionFailed("the pool has not connected again yet") from None
            elif timeout <= DIAGNOSE_AFTER_S:
                raise
        return await self._from_pool(hold, timeout - DIAGNOSE_AFTER_S)

    async def _from_pool(
        self, hold: Lease[AsyncConnection[Any]], timeout: float | None
    ) -> AsyncConnection[Any]:
        connection: AsyncConnection[Any]
        connection, was_cancelled = await detecting_lost_cancel(self._pool.getconn(timeout))
        hold.connection = connection
        if was_cancelled:
            raise asyncio.CancelledError
        return connection

    async def _retried(
        self,
        attempt: Callable[[], Awaitable[T]],
        budget_s: float,
        on_unknown_outcome: Callable[[], Awaitable[T]] | None = None,
    ) -> T:
        waits = None
        while True:
            try:
                return await attempt()
            except StorageError as error:
                # Made when it is needed, because mostly it is not.
                waits = waits or backoff(budget_s)
                pause_s = next(waits, None) if is_retryable(error) else None
                if pause_s is None or self._gather.is_closed:
                    raise
            attempt = on_unknown_outcome or attempt
            await asyncio.sleep(pause_s)


class AsyncPostgresTransaction:
    """Operations within one transaction, awaited."""

    watch = AsyncPollInTransaction()

    def __init__(self, database: AsyncPostgres, connection: AsyncConnection[Any]) -> None:
        self._database = database
        self._open = True
        self._was_cut = False
        self.changed_sessions: set[str] = set()
        self.connection = connection

    async def run(self, question: Operation[T]) -> T:
        check_process(self._database.process)
        if not self._open:
            raise StoreClosed("this transaction has ended")
        self.check_usable()
        self.changed_sessions.update(question.sessions)
        try:
            with translated():
                return await run_script_async(question, partial(self._database.answer, self.connection))
        except BaseException as error:
            # Others of the same transaction may be under way.
            self._was_cut = self._was_cut or not isinstance(error, Exception)
            raise

    def check_usable(self) -> None:
        if self._was_cut:
            raise StorageError("an operation of this transaction was cut short, so nothing of it is kept")
        check_not_ended(self.connection)

    def end(self) -> None:
        self._open = False


@asynccontextmanager
async def _patient(timeout_s: float | None) -> AsyncIterator[None]:
    try:
        # Cancelled, the driver stops the statement on the server and waits for that.
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise timed_out("statement", timeout_s or 0.0) from error


async def _commit_async(connection: AsyncConnection[Any]) -> None:
    if isinstance(connection, AsyncStoreConnection):
        await connection.commit_patiently()
    else:
        await connection.execute(COMMIT, prepare=False)
