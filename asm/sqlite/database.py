"""SQLite: one connection that writes and one that reads, each behind a lock.

A transaction that writes begins immediately; the reader sees the last commit and waits for
no writer. In memory one connection serves for both.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from asm.dsn import MEMORY
from asm.engine.group_commit import GroupCommit
from asm.engine.polling import Poller, PollInTransaction
from asm.engine.registry import QueryRegistry
from asm.engine.script import Batchable, Operation, Pipeline, Query, Rows, Script, UnitOfWork, run_script
from asm.errors import Conflict, StorageError, StoreClosed
from asm.sqlite.connection import OLDEST_VERSION, LockedConnection
from asm.sqlite.errors import translated
from asm.sqlite.fair_lock import Ticket
from asm.sqlite.values import bind

T = TypeVar("T")


class SQLite:
    """A SQLite file, or a database in memory, for any number of threads."""

    def __init__(self, path: str, *, timeout: float, statement_timeout: float | None) -> None:
        if sqlite3.sqlite_version_info < OLDEST_VERSION:
            raise StorageError(
                f"asm needs SQLite {'.'.join(map(str, OLDEST_VERSION))} or newer, for STRICT tables; "
                f"this Python has {sqlite3.sqlite_version}"
            )
        self.queries = QueryRegistry("sqlite")
        self.timeout = timeout
        self._writer = LockedConnection(path, timeout, statement_timeout)
        self._reader = (
            self._writer
            if path == MEMORY
            else LockedConnection(path, timeout, statement_timeout, reads_only=True)
        )
        # Never two batches at a time, because there is one writer.
        self._group_commit = GroupCommit(self.send, parallel_batches_from=None, timeout=timeout, retry_for=0)
        self.poller = Poller(self.look)
        self._looked: tuple[object, ...] = ()

    def run(self, question: Operation[T]) -> T:
        """Put a question to the database: alone where it is one statement, else as a transaction."""
        if isinstance(question, Batchable):
            self.check_process()
            answer = self._group_commit.run(question)
        else:
            answer = self.send(question)
        if self.poller.subscriptions:
            self.poller.notify(question.sessions)
        return answer

    def send(self, question: Query[T] | UnitOfWork[T] | Pipeline[T], **_limits: object) -> T:
        """One question at a time. The file's lock is everybody's, so nobody waits more briefly for it."""
        try:
            if isinstance(question, Query):
                return self._alone(question)
            if isinstance(question, Pipeline):
                return self._in_transaction(question.run_sequentially())
        except Conflict:
            if isinstance(question, UnitOfWork) or question.on_conflict is None:
                raise
        if self.writes(question):
            return self._in_transaction(question)
        answer = partial(self.answer, self._reader)
        return self._reader.use(partial(run_script, question, answer), begin="begin")

    def look(self, question: Query[T]) -> T | None:
        """The answer, or None if the same was asked last and nobody has written since."""
        return self._reader.use(partial(self._looked_at, question))

    def _looked_at(self, question: Query[T]) -> T | None:
        looked = (self._reader.version(), question.params)
        if looked == self._looked:
            return None
        answer = self._read(self._reader, question)
        self._looked = looked
        return answer

    def _in_transaction(self, plan: Operation[T] | Script[T]) -> T:
        answer = partial(self.answer, self._writer)
        return self._writer.use(partial(run_script, plan, answer), begin="begin immediate")

    @contextmanager
    def transaction(self) -> Iterator[SQLiteTransaction]:
        """One transaction that the caller ends, with the connection for statements of its own."""
        turn = Ticket(is_brief=False)
        shared = self._writer
        try:
            try:
                with translated():
                    shared.take(turn)
                    shared.begin("begin immediate")
                tx = SQLiteTransaction(self, shared)
                try:
                    yield tx
                    tx.check_not_spoilt()
                finally:
                    tx.end()
                shared.check_process()
                with translated():
                    shared.commit()
            finally:
                shared.release(turn)
        finally:
            shared.release(turn)
        self.poller.notify(tx.changed_sessions)

    def close(self) -> None:
        if os.getpid() == self._writer.process:
            self.poller.close()
            self._group_commit.close()
        self._reader.close()
        self._writer.close()

    def answer(self, shared: LockedConnection, ask: Query[Any]) -> Rows:
        """The rows of one question on a connection that is held."""
        render = self.queries[ask.query].render(ask.params)
        values = bind(ask.params)
        rows: Rows = []
        for statement in render.statements:
            rows = shared.execute(statement, values)
        return rows

    def check_process(self) -> None:
        self._writer.check_process()

    @property
    def process(self) -> int:
        return self._writer.process

    def writes(self, question: Query[Any] | UnitOfWork[Any] | Pipeline[Any]) -> bool:
        """Whether a question needs the connection that writes."""
        if self._reader is self._writer:
            return True
        if isinstance(question, Query):
            return self.queries[question.query].writes
        return isinstance(question, Pipeline) or not question.snapshot

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that writes, for migrating a database that only it can see."""
        return self._writer.driver

    def _alone(self, ask: Query[T]) -> T:
        if self.queries[ask.query].writes:
            return self._writer.use(partial(self._read, self._writer, ask), begin="begin immediate")
        return self._reader.use(partial(self._read, self._reader, ask))

    def _read(self, shared: LockedConnection, ask: Query[T]) -> T:
        return ask.read(self.answer(shared, ask))


class SQLiteTransaction:
    """Operations within one transaction. An operation that failed in the database spoils it."""

    poller = PollInTransaction()

    def __init__(self, database: SQLite, shared: LockedConnection) -> None:
        self._database = database
        self._shared = shared
        self._open = True
        self._spoilt = False
        self.changed_sessions: set[str] = set()

    @property
    def connection(self) -> sqlite3.Connection:
        return self._shared.driver

    def run(self, question: Operation[T]) -> T:
        self._shared.check_process()
        if not self._open:
            raise StoreClosed("this transaction has ended")
        self.check_not_spoilt()
        self.changed_sessions.update(question.sessions)
        try:
            with translated():
                return run_script(question, partial(self._database.answer, self._shared))
        except BaseException as error:
            # Where a caller catches an interrupt and goes on, half an operation would be committed.
            self._spoilt = (
                not isinstance(error, Exception)
                or isinstance(error, sqlite3.Error)
                or isinstance(error.__cause__, sqlite3.Error)
            )
            raise

    def check_not_spoilt(self) -> None:
        # PostgreSQL refuses whatever follows a failed statement, and keeps nothing of what came
        # before it; SQLite would go on and commit the rest.
        if self._spoilt:
            raise StorageError("an earlier statement of this transaction failed, so nothing of it is kept")
        with translated():
            if not self._shared.driver.in_transaction:
                # What came next would be committed statement by statement.
                raise StorageError("`tx.connection` has committed this transaction or rolled it back")

    def end(self) -> None:
        self._open = False
