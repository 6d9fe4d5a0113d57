"""One SQLite connection: opening the file, its locks, and waiting for them."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from asm.dsn import MEMORY
from asm.engine.registry import Statement, positional
from asm.engine.retry import check_process
from asm.engine.script import Rows
from asm.errors import StorageError, StoreClosed
from asm.postgres.timeouts import milliseconds
from asm.sqlite.errors import is_busy, translated
from asm.sqlite.fair_lock import FairLock, Ticket
from asm.sqlite.values import rows

T = TypeVar("T")

OLDEST_VERSION = (3, 37, 0)

BUSY_RETRY_S = (0.0002, 0.003)
"""How long to wait before asking for the file's write lock again, from and to."""

LONG_TRANSACTION_S, YIELD_FRACTION = 0.01, 0.025
"""Whoever has had the write lock for longer rests for such a part of that time, or one longest step,
before it asks again: others ask meanwhile."""


class LockedConnection:
    """A connection that one thread uses at a time."""

    def __init__(
        self, path: str, timeout: float, statement_timeout: float | None, *, reads_only: bool = False
    ) -> None:
        self._timeout = timeout
        self._statement_timeout = statement_timeout
        self._deadline: float | None = None
        self._begun_at = self._rests_until = 0.0
        self._turns = FairLock(timeout)
        self.process = os.getpid()
        self._open = True
        with translated(path):
            self.driver = _connect(path, timeout, reads_only=reads_only)
            if not reads_only:
                self.driver.execute("pragma busy_timeout = 0")
        self._file = None if reads_only or path == MEMORY else File(path)
        # One for all: a statement that an interrupt left half read, and that would go on showing
        # what was there at its beginning, ends with the next.
        self._cursor = self.driver.cursor()
        if statement_timeout is not None:
            self.driver.set_progress_handler(self._overdue, 1_000)

    def use(self, work: Callable[[], T], *, begin: str | None = None) -> T:
        """Do work in a turn, and in a transaction where it begins with one: all of it or none."""
        turn = Ticket()
        try:
            try:
                with translated():
                    self.take(turn)
                    if begin is None:
                        return work()
                    self.begin(begin)
                    result = work()
                    self.commit()
                    return result
            finally:
                self.release(turn)
        finally:
            # Once more, for an interrupt may have cut the first short.
            self.release(turn)

    def take(self, turn: Ticket) -> None:
        """Wait for a turn with this connection, which the caller gives back whatever happens."""
        self.check_process()
        self._turns.take(turn)
        if not self._open:
            raise StoreClosed("this store is closed")

    def release(self, turn: Ticket) -> None:
        """Roll back what was not committed, and let the next have a turn. Done twice, it is done once."""
        # A forked child that leaves a block has no say in its parent's transaction.
        if os.getpid() != self.process:
            return
        if self._turns.held_by(turn):
            self._end()
        self._turns.release(turn)

    def _end(self) -> None:
        if not self._open:
            self._disconnect()
            return
        # Where an application has closed its `tx.connection`, there is nothing to roll back.
        with suppress(sqlite3.Error):
            if self.driver.in_transaction:
                self._one("rollback")
        if self._file is not None:
            self._rest()

    def _rest(self) -> None:
        # Else, between two long transactions, nobody of another process hits the moment in which the
        # file is free: of three that wrote for 0.1 s at a time, one waited 5 s.
        now = time.monotonic()
        if (took_s := now - self._begun_at) > LONG_TRANSACTION_S:
            self._rests_until = now + min(BUSY_RETRY_S[1], took_s * YIELD_FRACTION)

    def check_process(self) -> None:
        check_process(self.process)

    def begin(self, begin: str) -> None:
        # Immediate, where it writes: a transaction that reads first and writes later can be refused
        # at its write, however long it is willing to wait.
        if (rest_s := self._rests_until - time.monotonic()) > 0:
            time.sleep(rest_s)
        _retry_while_busy(partial(self._one, begin), self._timeout)
        self._begun_at = time.monotonic()
        if self._file is not None:
            self._file.check_there()

    def commit(self) -> None:
        self._one("commit")

    def execute(self, statement: Statement, values: Mapping[str, Any]) -> Rows:
        self._deadline = (
            None if self._statement_timeout is None else time.monotonic() + self._statement_timeout
        )
        if not any(isinstance(values[name], list) for name in statement.parameters):
            return rows(self._cursor.execute(statement.sql, values))
        # A list is a column of a batch: the statement is for each of its elements, by position,
        # because named values need a dict for each: 1.4 times as dear.
        sql, names = positional(statement.sql)
        columns = [values[name] for name in names]
        length = next(len(column) for column in columns if isinstance(column, list))
        each = zip(
            *(column if isinstance(column, list) else [column] * length for column in columns), strict=True
        )
        if not statement.returns:
            self._cursor.executemany(sql, each)
            return []
        return [row for element in each for row in rows(self._cursor.execute(sql, element))]

    def version(self) -> object:
        """Another after every commit, whoever's it was."""
        # The one changes with every other connection's commits, the other with this one's changes.
        return self.execute(_DATA_VERSION, {})[0][0], self.driver.total_changes

    def close(self) -> None:
        """Let nobody have a turn any more. Whoever has one now closes the connection at its end."""
        if os.getpid() != self.process or not self._open:
            return
        turn = Ticket()
        self._open = False
        try:
            # Or it is our own, in whose midst a signal's handler closes the store.
            with suppress(StorageError):
                self._turns.take(turn)
        finally:
            self.release(turn)

    def _disconnect(self) -> None:
        # After `executemany` a cursor keeps its statement, and with it SQLite the file: until the
        # store is garbage, its log would neither be folded into the file nor go away.
        with suppress(sqlite3.ProgrammingError):
            self._cursor.close()
        self.driver.close()

    def _one(self, sql: str) -> None:
        self._deadline = None
        self.driver.execute(sql)

    def _overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline


class File:
    """A file as it was when it was opened."""

    def __init__(self, path: str) -> None:
        # Another working folder does not lead elsewhere.
        self._path = Path(path).absolute()
        try:
            self._opened = self._path.stat()
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error

    def check_there(self) -> None:
        """StorageError where its path leads to another file, or to none."""
        # It lives on for whoever has it open, and what is written to it is lost when they close it. SQLite
        # looks, too, but not where it writes ahead. This takes 3 µs.
        try:
            is_there = os.path.samestat(self._path.stat(), self._opened)
        except FileNotFoundError:
            is_there = False
        except OSError:
            # A folder that may not be looked into any more says nothing.
            return
        if not is_there:
            raise StorageError(
                f"{self._path} was deleted, moved or replaced since the store was opened, and what is "
                "written would be lost: open the store again"
            )


_DATA_VERSION = Statement("pragma data_version", frozenset(), returns=True)


def open_file(path: str, *, timeout: float) -> sqlite3.Connection:
    """A connection of its own to a file, set up like the store's."""
    with translated(path):
        return _connect(path, timeout, reads_only=False)


def _connect(path: str, timeout: float, *, reads_only: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    try:
        connection.execute("pragma foreign_keys = on")
        if path != MEMORY:
            _write_ahead(connection, timeout)
            # The log is synced at every commit: what was acknowledged survives a power cut.
            connection.execute("pragma synchronous = full")
            connection.execute("pragma wal_autocheckpoint = 10000")
        if reads_only:
            connection.execute("pragma query_only = on")
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection, timeout: float) -> None:
    # Two processes that open a new file at once can both be refused here, at once and without
    # regard to the busy timeout.
    try:
        retry_while_busy(connection, "pragma journal_mode = wal", timeout)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise


def retry_while_busy(connection: sqlite3.Connection, sql: str, timeout: float) -> None:
    """Execute what has to wait until nobody else has the file, on a connection that waits so long."""
    connection.execute("pragma busy_timeout = 0")
    try:
        _retry_while_busy(lambda: connection.execute(sql).fetchone(), timeout)
    finally:
        connection.execute(f"pragma busy_timeout = {milliseconds(timeout)}")


def _retry_while_busy(ask: Callable[[], object], timeout: float) -> None:
    # SQLite's busy timeout waits longer the longer one has waited, so that of four processes one
    # appends ten times as much as another.
    deadline = time.monotonic() + timeout
    while True:
        try:
            ask()
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(*BUSY_RETRY_S))
