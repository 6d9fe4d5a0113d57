"""SQLite for asyncio: the blocking database behind two threads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from asm.engine.async_group_commit import AsyncGroupCommit
from asm.engine.async_polling import AsyncPoller, AsyncPollInTransaction
from asm.engine.guards import check_process
from asm.engine.schema_version import list_applied
from asm.engine.script import Batchable, Operation, Params, Pipeline, Query, Row, UnitOfWork
from asm.engine.shielding import check_loop, run_to_completion
from asm.errors import MigrationRequired, StorageTimeout, store_closed
from asm.sqlite.database import SQLite, SQLiteTransaction
from asm.sqlite.errors import open_transaction_error

T = TypeVar("T")


class AsyncSQLite:
    """SQLite behind two threads, one that writes and one that reads. An operation crosses in one hop.

    Cancelling a call does not stop its thread: the write may still be committed.
    """

    def __init__(self, database: SQLite) -> None:
        self._database = database
        self._write_thread = ThreadPoolExecutor(1, "asm-sqlite-writer")
        self._read_thread = ThreadPoolExecutor(1, "asm-sqlite-reader")
        # Tasks wait for the write thread on this lock and not in the thread's queue, because a
        # transaction needs the thread to go on.
        self._lock = asyncio.Lock()
        self._transaction_task: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self.group_commit = AsyncGroupCommit(
            self._send, parallel_batches_from=None, timeout=database.timeout, retry_for=0
        )
        self.poller = AsyncPoller(self._poll)
        self._closed = False
        self._is_disconnected = False

    async def run(self, operation: Operation[T]) -> T:
        check_process(self._database.process)
        check_loop(self._loop)
        try:
            if isinstance(operation, Batchable):
                if self._is_in_transaction():
                    raise open_transaction_error()
                result = await self.group_commit.run(operation)
            else:
                result = await self._send(operation)
        except MigrationRequired as error:
            await self._in_thread(list_applied("sqlite"), partial(self._database.add_versions, error))
            raise
        if self.poller.subscriptions:
            self.poller.notify(operation.sessions)
        return result

    async def _send(self, operation: Query[T] | UnitOfWork[T] | Pipeline[T], **_limits: object) -> T:
        return await self._in_thread(operation, partial(self._database.send, operation))

    async def _poll(self, query: Query[T]) -> T | None:
        return await self._in_thread(query, partial(self._database.poll, query))

    async def _in_thread(
        self, operation: Query[Any] | UnitOfWork[Any] | Pipeline[Any], work: Callable[[], T]
    ) -> T:
        if not self._database.writes(operation):
            self._check_open()
            return await _run_in(self._read_thread, work)
        async with self._exclusive():
            return await _run_in(self._write_thread, work)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSQLiteTransaction]:
        check_process(self._database.process)
        check_loop(self._loop)
        async with self._exclusive():
            self._transaction_task = asyncio.current_task()
            managed = _ManagedTransaction(self._database.transaction())
            try:
                tx = await _run_in(self._write_thread, managed.enter)
                yield AsyncSQLiteTransaction(tx, self._write_thread)
            except BaseException as error:
                # The next writer needs a clean connection, so this waits for the rollback even if the
                # task is cancelled again; the thread executes it after the transaction's last statement.
                # A forked child that leaves the block has no such thread.
                if os.getpid() == self._database.process:
                    await run_to_completion(_run_in(self._write_thread, partial(managed.leave, error)))
                raise
            finally:
                self._transaction_task = None
            check_process(self._database.process)
            await run_to_completion(_run_in(self._write_thread, managed.leave))
            self.poller.notify(tx.changed_sessions)

    async def run_transaction(
        self, work: Callable[[AsyncSQLiteTransaction], Awaitable[T]], **_options: object
    ) -> T:
        async with self.transaction() as tx:
            return await work(tx)

    @property
    def connection(self) -> sqlite3.Connection:
        return self._database.connection

    async def close(self) -> None:
        if self._is_disconnected or os.getpid() != self._database.process:
            return
        check_loop(self._loop)
        self.poller.close()
        await self.group_commit.close()
        self._closed = True
        if self._is_in_transaction():
            # Its end disconnects.
            return
        await self._acquire()
        try:
            await self._disconnect()
        finally:
            self._lock.release()

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        if self._is_in_transaction():
            raise open_transaction_error()
        self._check_open()
        await self._acquire()
        try:
            self._check_open()
            yield
        finally:
            try:
                if self._closed:
                    with suppress(StorageTimeout):
                        await self._disconnect()
            finally:
                self._lock.release()

    async def _acquire(self) -> None:
        try:
            async with asyncio.timeout(self._database.timeout):
                await self._lock.acquire()
        except TimeoutError as error:
            raise StorageTimeout(
                f"the SQLite connection was not free within {self._database.timeout:g} s: another task holds "
                "a transaction open; end it sooner, or open the store with a longer timeout"
            ) from error

    async def _disconnect(self) -> None:
        if self._is_disconnected or os.getpid() != self._database.process:
            return
        await run_to_completion(_run_in(self._write_thread, self._database.close))
        self._is_disconnected = True
        self._write_thread.shutdown(wait=False)
        self._read_thread.shutdown(wait=False)

    def _is_in_transaction(self) -> bool:
        return self._transaction_task is not None and self._transaction_task is asyncio.current_task()

    def _check_open(self) -> None:
        if self._closed:
            raise store_closed()


class AsyncSQLiteTransaction:
    """Operations within one transaction, awaited."""

    poller = AsyncPollInTransaction()

    def __init__(self, tx: SQLiteTransaction, thread: Executor) -> None:
        self._tx = tx
        self._thread = thread

    @property
    def connection(self) -> sqlite3.Connection:
        return self._tx.connection

    async def run(self, operation: Operation[T]) -> T:
        return await _run_in(self._thread, partial(self._tx.run, operation))

    async def execute(self, sql: str, params: Params) -> list[Row]:
        return await _run_in(self._thread, partial(self._tx.execute, sql, params))


class _ManagedTransaction:
    """Leaves a transaction's context manager only if it was entered: a task can be cancelled before."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._inside = False

    def enter(self) -> SQLiteTransaction:
        tx: SQLiteTransaction = self._manager.__enter__()
        self._inside = True
        return tx

    def leave(self, error: BaseException | None = None) -> None:
        if self._inside:
            self._inside = False
            if error is None:
                self._manager.__exit__(None, None, None)
            else:
                with suppress(type(error)):
                    self._manager.__exit__(type(error), error, error.__traceback__)


async def _run_in(thread: Executor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, work)
