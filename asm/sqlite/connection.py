"""One SQLite connection: opening the file, sharing it between threads, waiting for the file's lock."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any, TypeVar

from asm.dsn import MEMORY
from asm.engine.guards import check_process
from asm.engine.registry import Statement, positional
from asm.engine.script import Params, Row, Rows
from asm.errors import StorageError, store_closed
from asm.sqlite.errors import is_busy, open_transaction_error, raise_translated, translated
from asm.sqlite.fair_lock import FairLock
from asm.sqlite.files import DatabaseFiles, check_openable, create_private
from asm.sqlite.values import fetch_all

T = TypeVar("T")

SQLITE_VERSION_MIN = (3, 37, 0)

BUSY_RETRY_S = (0.0002, 0.003)
"""The shortest and the longest pause between two attempts to get the file's write lock."""

LONG_TRANSACTION_S, YIELD_FRACTION = 0.01, 0.025
"""After a transaction longer than this, the connection waits for this fraction of its duration, at most
one longest pause, before the next, so that other processes can get the file's write lock. Without it, of
three processes that wrote for 0.1 s at a time one waited 5 s."""

CHECK_READ_S = 0.1
"""A read finds out at most this often, in seconds, whether the file was replaced: it takes 2 µs."""

_LEAVES_NOTHING = re.compile(
    r"\s*(select|values|with|insert|replace|update|delete|savepoint|release|rollback)\b", re.IGNORECASE
)
"""Statements that change nothing of the connection but its transaction."""

_DATA_VERSION = Statement("pragma data_version", frozenset(), returns=True)


class LockedConnection:
    """A connection that one thread uses at a time."""

    def __init__(
        self, path: str, timeout: float, statement_timeout: float | None, *, reads_only: bool = False
    ) -> None:
        # Absolute, because the program may change its working directory before the connection is replaced.
        self._path = path if path == MEMORY else str(Path(path).absolute())
        self._timeout = timeout
        self._statement_timeout = statement_timeout
        self._deadline: float | None = None
        self._begun_at = self._yield_until = 0.0
        self.lock = FairLock(timeout)
        self.process = os.getpid()
        self._open = True
        self._reads_only = reads_only
        self._check_read_at = 0.0
        self._is_lent = False
        self._replacements = 0
        with translated(path):
            self._use(self._connected())
            self._files = None if path == MEMORY else _files_of(path, self.driver)

    def _connected(self) -> sqlite3.Connection:
        driver = _connect(self._path, self._timeout, reads_only=self._reads_only)
        if not self._reads_only:
            driver.execute("pragma busy_timeout = 0")
        return driver

    def _use(self, driver: sqlite3.Connection) -> None:
        self.driver = driver
        # One cursor for all statements: a statement that an interrupt left half read would keep its
        # snapshot of the database, and ends when the cursor executes the next.
        self._cursor = driver.cursor()
        if self._statement_timeout is not None:
            driver.set_progress_handler(self._past_deadline, 1_000)

    def use(self, work: Callable[[], T], *, begin: str | None = None, sessions: Sequence[str] = ()) -> T:
        """Do work while no other thread uses the connection, in a transaction if `begin` begins one.

        The work appends to the `sessions`.
        """
        if self.lock.owner == get_ident():
            raise open_transaction_error()
        try:
            self.acquire()
            if begin is None:
                result = work()
            else:
                self.begin(begin)
                result = work()
                self.commit()
            if self._reads_only:
                self._check_read()
            return result
        except sqlite3.Error as error:
            raise_translated(error, sessions=sessions)
        finally:
            self.release()

    def acquire(self) -> None:
        """Wait until no other thread uses the connection. The caller calls `release` even if this fails."""
        if os.getpid() != self.process:
            check_process(self.process)
        if self._open:
            self.lock.acquire()
        if not self._open:
            raise store_closed()
        if self._is_lent:
            # It could not be replaced when the transaction ended.
            self._replace()

    def release(self) -> None:
        """Roll back what is not committed, and let the next thread use the connection."""
        # A forked child that leaves a block must not end its parent's transaction.
        if self.lock.owner != get_ident() or os.getpid() != self.process:
            return
        try:
            if not self._open:
                self._disconnect()
                return
            if self._is_lent:
                # The transaction has ended. What fails now fails again for the next caller.
                with suppress(sqlite3.Error, StorageError):
                    self._replace()
            else:
                with suppress(sqlite3.Error):
                    if self.driver.in_transaction:
                        self._roll_back()
            if self._files is not None and not self._reads_only:
                self._yield_file_lock()
        finally:
            self.lock.release()

    def lend(self) -> sqlite3.Connection:
        """The driver's connection, for an application. When its transaction has ended it is replaced."""
        self._is_lent = True
        return self.driver

    def begin(self, begin: str) -> None:
        # `begin immediate` for a transaction that writes: one that reads first and writes later can
        # be refused at its write, whatever the busy timeout is.
        if (pause_s := self._yield_until - time.monotonic()) > 0:
            time.sleep(pause_s)
        if self.driver.in_transaction:
            # A KeyboardInterrupt ended the last `release` before its rollback, but not before it freed
            # the lock. No transaction could begin any more.
            self._roll_back()
        _retry_while_busy(partial(self.driver.execute, begin), self._timeout)
        self._begun_at = time.monotonic()

    def commit(self) -> None:
        """Commit. StorageError if no other process can see what was written."""
        files = None if self._reads_only else self._files
        if files is not None:
            files.check_write_lock()
        self.driver.execute("commit")
        if files is not None:
            files.check()

    def execute(
        self, statement: Statement, values: Mapping[str, Any], columns: frozenset[str] = frozenset()
    ) -> Rows:
        """The rows of a statement, executed once for each element of its parameters named in `columns`."""
        if self._statement_timeout is not None:
            self._deadline = time.monotonic() + self._statement_timeout
        try:
            if columns and not columns.isdisjoint(statement.parameters):
                return self._execute_batch(statement, values)
            return fetch_all(self._cursor.execute(statement.sql, values), statement.sql)
        finally:
            # It would interrupt a later statement, such as an application's on `tx.connection`.
            self._deadline = None

    def execute_own(self, sql: str, params: Params) -> list[Row]:
        """The rows of a statement of the application."""
        if not _LEAVES_NOTHING.match(sql):
            self._is_lent = True
        if self._statement_timeout is not None:
            self._deadline = time.monotonic() + self._statement_timeout
        try:
            # A cursor for each: the application may have set a row factory on the connection.
            with closing(self.driver.cursor()) as cursor:
                cursor.row_factory = None
                return cursor.execute(sql, params).fetchall()
        finally:
            self._deadline = None

    def _execute_batch(self, statement: Statement, values: Mapping[str, Any]) -> Rows:
        # By position, because named values need a dict for each execution, which takes 1.4 times as long.
        sql, names = positional(statement.sql)
        columns = [values[name] for name in names]
        length = next(len(column) for column in columns if isinstance(column, list))
        batch = zip(
            *(column if isinstance(column, list) else [column] * length for column in columns), strict=True
        )
        if not statement.returns:
            self._cursor.executemany(sql, batch)
            return []
        return [row for item in batch for row in fetch_all(self._cursor.execute(sql, item), sql)]

    def version(self) -> object:
        """A value that differs after every commit, by this connection or another."""
        # data_version changes with the commits of others, total_changes with this connection's.
        return self.execute(_DATA_VERSION, {})[0][0], self.driver.total_changes, self._replacements

    def close(self) -> None:
        """Refuse further use, and wait for the thread that is using the connection.

        If that takes too long, or the caller itself is using the connection, `release` closes it.
        """
        if os.getpid() != self.process:
            return
        self._open = False
        if self.lock.owner == get_ident():
            return
        try:
            self.lock.acquire()
        finally:
            self.release()

    def _check_read(self) -> None:
        if self._files is not None and (now := time.monotonic()) > self._check_read_at:
            self._files.check()
            self._check_read_at = now + CHECK_READ_S

    def _replace(self) -> None:
        """Replace a connection that was lent to an application, which may have left anything on it.

        No list of settings would be complete: there are also temporary triggers, attached databases,
        functions that replace SQLite's, and handlers. A file is opened again; a database in memory is copied.
        """
        before = self.driver
        if self._files is None:
            _end_statements(before)
            copy = self._connected()
            before.backup(copy)
            self._use(copy)
            before.close()
        else:
            # An application may have closed it.
            with suppress(sqlite3.Error):
                _end_statements(before)
            # Before the next is opened, because it may have locks. The connection that reads keeps SQLite
            # from deleting the log.
            before.close()
            self._files.check()
            self._use(self._connected())
            self._files.check()
        self._replacements += 1
        self._is_lent = False

    def _roll_back(self) -> None:
        self.driver.execute("rollback")

    def _yield_file_lock(self) -> None:
        now = time.monotonic()
        if (took_s := now - self._begun_at) > LONG_TRANSACTION_S:
            self._yield_until = now + min(BUSY_RETRY_S[1], took_s * YIELD_FRACTION)

    def _disconnect(self) -> None:
        # After `executemany` a cursor of CPython's sqlite3 keeps its statement, and the statement keeps the
        # file open: its write-ahead log would be neither checkpointed nor deleted until the cursor is
        # garbage. Not reported upstream yet.
        if self._files is not None:
            self._files.before_close()
        with suppress(sqlite3.ProgrammingError):
            self._cursor.close()
        self.driver.close()
        if self._files is not None:
            self._files.after_close()

    def _past_deadline(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline


def _end_statements(connection: sqlite3.Connection) -> None:
    """Roll back what an application has begun and not committed on its connection."""
    # Its handlers could refuse the rollback.
    connection.set_authorizer(None)
    connection.set_progress_handler(None, 0)
    # Without `begin`, a statement that writes and has not returned all its rows would remain.
    if not connection.in_transaction:
        connection.execute("begin")
    connection.execute("rollback")


def open_file(path: str, *, timeout: float) -> sqlite3.Connection:
    """A new connection to a file, configured like a store's."""
    with translated(path):
        return _connect(path, timeout, reads_only=False)


def retry_while_busy(connection: sqlite3.Connection, sql: str, timeout: float) -> None:
    """Execute a statement that needs a lock on the file, on a connection with a busy timeout."""
    connection.execute("pragma busy_timeout = 0")
    try:
        _retry_while_busy(lambda: connection.execute(sql).fetchone(), timeout)
    finally:
        connection.execute(f"pragma busy_timeout = {max(1, int(timeout * 1000))}")


def _connect(path: str, timeout: float, *, reads_only: bool) -> sqlite3.Connection:
    if path != MEMORY:
        check_openable(path)
        create_private(path)
    connection = sqlite3.connect(
        path, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    try:
        connection.execute("pragma foreign_keys = on")
        if path != MEMORY:
            _enable_write_ahead_log(connection, timeout)
            # Sync the log at every commit: an acknowledged write survives a power failure.
            connection.execute("pragma synchronous = full")
            connection.execute("pragma wal_autocheckpoint = 10000")
        if reads_only:
            connection.execute("pragma query_only = on")
    except BaseException:
        connection.close()
        raise
    return connection


def _files_of(path: str, connection: sqlite3.Connection) -> DatabaseFiles:
    try:
        # SQLite opens the log at the first read.
        connection.execute("select 1 from sqlite_schema").fetchone()
        (mode,) = connection.execute("pragma journal_mode").fetchone()
        return DatabaseFiles(path, has_log=mode == "wal")
    except BaseException:
        connection.close()
        raise


def _enable_write_ahead_log(connection: sqlite3.Connection, timeout: float) -> None:
    # SQLite ignores the busy timeout here: two processes that open a new file at the same moment can
    # both be refused immediately.
    try:
        retry_while_busy(connection, "pragma journal_mode = wal", timeout)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise


def _retry_while_busy(attempt: Callable[[], object], timeout: float) -> None:
    # Not SQLite's busy timeout: its pauses grow, so that of four processes one appended ten times as
    # much as another.
    deadline = time.monotonic() + timeout
    while True:
        try:
            attempt()
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(*BUSY_RETRY_S))
