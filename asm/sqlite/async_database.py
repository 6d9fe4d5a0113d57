"""SQLite behind two threads, awaited."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from asm.engine.group_commit import AsyncGroupCommit
from asm.engine.polling import AsyncPoller, AsyncPollInTransaction
from asm.engine.retry import check_loop
from asm.engine.script import Batchable, Operation, Pipeline, Query, UnitOfWork
from asm.engine.shielding import run_to_completion
from asm.errors import StorageTimeout, StoreClosed
from asm.sqlite.database import SQLite, SQLiteTransaction

T = TypeVar("T")


class AsyncSQLite:
    """SQLite behind two threads, one that writes and one that reads. A plan crosses in one hop.

    Cancelling a call does not stop its thread: the write may still land.
    """

    def __init__(self, database: SQLite) -> None:
        self._database = database
        self._writing = ThreadPoolExecutor(1, "asm-sqlite-writer")
        self._reading = ThreadPoolExecutor(1, "asm-sqlite-reader")
        self._turn = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._group_commit = AsyncGroupCommit(
            self._send, parallel_batches_from=None, timeout=database.timeout, retry_for=0
        )
        self.poller = AsyncPoller(self._look)
        self._closed = False

    async def run(self, question: Operation[T]) -> T:
        self._database.check_process()
        check_loop(self._loop)
        if isinstance(question, Batchable):
            answer = await self._group_commit.run(question)
        else:
            answer = await self._send(question)
        if self.poller.subscriptions:
            self.poller.notify(question.sessions)
        return answer

    async def _send(self, question: Query[T] | UnitOfWork[T] | Pipeline[T], **_limits: object) -> T:
        return await self._in_thread(question, partial(self._database.send, question))

    async def _look(self, question: Query[T]) -> T | None:
        return await self._in_thread(question, partial(self._database.look, question))

    async def _in_thread(
        self, question: Query[Any] | UnitOfWork[Any] | Pipeline[Any], work: Callable[[], T]
    ) -> T:
        if not self._closed and not self._database.writes(question):
            return await _run_in(self._reading, work)
        async with self._exclusive():
            return await _run_in(self._writing, work)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSQLiteTransaction]:
        self._database.check_process()
        check_loop(self._loop)
        async with self._exclusive():
            entered = _ManagedTransaction(self._database.transaction())
            try:
                tx = await _run_in(self._writing, entered.enter)
                yield AsyncSQLiteTransaction(tx, self._writing)
            except BaseException as error:
                # Queued behind whatever of ours still runs in the thread, and waited for even
                # when we are cancelled, because the next writer needs a clean connection.
                # A forked child that leaves the block has no such thread.
                if os.getpid() == self._database.process:
                    await run_to_completion(_run_in(self._writing, partial(entered.leave, error)))
                raise
            self._database.check_process()
            await run_to_completion(_run_in(self._writing, entered.leave))
            self.poller.notify(tx.changed_sessions)

    @property
    def connection(self) -> sqlite3.Connection:
        return self._database.connection

    async def close(self) -> None:
        if self._closed or os.getpid() != self._database.process:
            return
        check_loop(self._loop)
        self.poller.close()
        await self._group_commit.close()
        try:
            # In turn, because a transaction that is open needs the thread to end. Another task may
            # have closed it meanwhile.
            with suppress(StoreClosed):
                async with self._exclusive():
                    self._closed = True
                    await run_to_completion(_run_in(self._writing, self._database.close))
        finally:
            if self._closed:
                self._writing.shutdown(wait=False)
                self._reading.shutdown(wait=False)

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        # Waiting here and not in the thread: whoever holds a transaction needs the thread.
        try:
            async with asyncio.timeout(self._database.timeout):
                await self._turn.acquire()
        except TimeoutError as error:
            raise StorageTimeout(
                f"no turn with the database after {self._database.timeout:g} s: a transaction is "
                "open (inside `transaction()`, ask the transaction and not the store)"
            ) from error
        try:
            if self._closed:
                raise StoreClosed("this store is closed")
            yield
        finally:
            self._turn.release()


class AsyncSQLiteTransaction:
    """Operations within one transaction, awaited."""

    poller = AsyncPollInTransaction()

    def __init__(self, tx: SQLiteTransaction, thread: Executor) -> None:
        self._tx = tx
        self._thread = thread

    @property
    def connection(self) -> sqlite3.Connection:
        return self._tx.connection

    async def run(self, question: Operation[T]) -> T:
        return await _run_in(self._thread, partial(self._tx.run, question))


class _ManagedTransaction:
    """A context manager that is left only if it was entered."""

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
