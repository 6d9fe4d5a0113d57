"""SQLite: one connection that writes and one that reads, each behind a lock.

A transaction that writes begins immediately; the reader sees the last commit and waits for
no writer. In memory one connection serves for both.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from asm.cancelling import finished
from asm.dsn import MEMORY
from asm.errors import (
    Conflict,
    StorageError,
    StorageTimeout,
    StoreClosed,
)
from asm.gather import AsyncGather, Gather
from asm.limits import milliseconds
from asm.patience import check_loop, check_process
from asm.plan import Ask, Joining, Plan, Question, Row, Rows, Steps, Volley, drive
from asm.queries import Queries, Statement, by_position
from asm.sqlite_errors import is_busy, translated
from asm.turns import Turn, Turns
from asm.watch import AsyncWatch, AsyncWatchInTransaction, Watch, WatchInTransaction

T = TypeVar("T")

OLDEST_VERSION = (3, 37, 0)

STEP_S = (0.0002, 0.003)
"""How long to wait before asking for the file's write lock again, from and to."""

LONG_S, REST = 0.01, 0.025
"""Whoever has had the write lock for longer rests for such a part of that time, or one longest step,
before it asks again: others ask meanwhile."""


class SQLite:
    """A SQLite file, or a database in memory, for any number of threads."""

    def __init__(self, path: str, *, timeout: float, statement_timeout: float | None) -> None:
        if sqlite3.sqlite_version_info < OLDEST_VERSION:
            raise StorageError(
                f"asm needs SQLite {'.'.join(map(str, OLDEST_VERSION))} or newer, for STRICT tables; "
                f"this Python has {sqlite3.sqlite_version}"
            )
        self.queries = Queries("sqlite")
        self.timeout = timeout
        self._writer = _Shared(path, timeout, statement_timeout)
        self._reader = (
            self._writer if path == MEMORY else _Shared(path, timeout, statement_timeout, reads_only=True)
        )
        # Never two batches at a time, because there is one writer.
        self._gather = Gather(self.send, crowd=None, timeout=timeout, retry_for=0)
        self.watch = Watch(self.look)
        self._looked: tuple[object, ...] = ()

    def run(self, question: Question[T]) -> T:
        """Put a question to the database: alone where it is one statement, else as a transaction."""
        if isinstance(question, Joining):
            self.check_process()
            answer = self._gather.ask(question)
        else:
            answer = self.send(question)
        if self.watch.waiters:
            self.watch.announce(question.sessions)
        return answer

    def send(self, question: Ask[T] | Steps[T] | Volley[T], **_limits: object) -> T:
        """One question at a time. The file's lock is everybody's, so nobody waits more briefly for it."""
        try:
            if isinstance(question, Ask):
                return self._alone(question)
            if isinstance(question, Volley):
                return self._driven(question.bet())
        except Conflict:
            if isinstance(question, Steps) or question.instead is None:
                raise
        if self.writes(question):
            return self._driven(question)
        answer = partial(self.answer, self._reader)
        return self._reader.use(partial(drive, question, answer), begin="begin")

    def look(self, question: Ask[T]) -> T | None:
        """The answer, or None if the same was asked last and nobody has written since."""
        return self._reader.use(partial(self._looked_at, question))

    def _looked_at(self, question: Ask[T]) -> T | None:
        looked = (self._reader.version(), question.params)
        if looked == self._looked:
            return None
        answer = self._read(self._reader, question)
        self._looked = looked
        return answer

    def _driven(self, plan: Question[T] | Plan[T]) -> T:
        answer = partial(self.answer, self._writer)
        return self._writer.use(partial(drive, plan, answer), begin="begin immediate")

    @contextmanager
    def transaction(self) -> Iterator[SQLiteTransaction]:
        """One transaction that the caller ends, with the connection for statements of its own."""
        turn = Turn(is_brief=False)
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
                shared.give_back(turn)
        finally:
            shared.give_back(turn)
        self.watch.announce(tx.moved)

    def close(self) -> None:
        if os.getpid() == self._writer.process:
            self.watch.close()
            self._gather.finish()
        self._reader.close()
        self._writer.close()

    def answer(self, shared: _Shared, ask: Ask[Any]) -> Rows:
        """The rows of one question on a connection that is held."""
        form = self.queries[ask.query].form(ask.params)
        values = bind(ask.params)
        rows: Rows = []
        for statement in form.statements:
            rows = shared.execute(statement, values)
        return rows

    def check_process(self) -> None:
        self._writer.check_process()

    @property
    def process(self) -> int:
        return self._writer.process

    def writes(self, question: Ask[Any] | Steps[Any] | Volley[Any]) -> bool:
        """Whether a question needs the connection that writes."""
        if self._reader is self._writer:
            return True
        if isinstance(question, Ask):
            return self.queries[question.query].writes
        return isinstance(question, Volley) or not question.snapshot

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that writes, for migrating a database that only it can see."""
        return self._writer.driver

    def _alone(self, ask: Ask[T]) -> T:
        if self.queries[ask.query].writes:
            return self._writer.use(partial(self._read, self._writer, ask), begin="begin immediate")
        return self._reader.use(partial(self._read, self._reader, ask))

    def _read(self, shared: _Shared, ask: Ask[T]) -> T:
        return ask.read(self.answer(shared, ask))


class SQLiteTransaction:
    """Operations within one transaction. An operation that failed in the database spoils it."""

    watch = WatchInTransaction()

    def __init__(self, database: SQLite, shared: _Shared) -> None:
        self._database = database
        self._shared = shared
        self._open = True
        self._spoilt = False
        self.moved: set[str] = set()

    @property
    def connection(self) -> sqlite3.Connection:
        return self._shared.driver

    def run(self, question: Question[T]) -> T:
        self._shared.check_process()
        if not self._open:
            raise StoreClosed("this transaction has ended")
        self.check_not_spoilt()
        self.moved.update(question.sessions)
        try:
            with translated():
                return drive(question, partial(self._database.answer, self._shared))
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


class _Shared:
    """A connection that one thread uses at a time."""

    def __init__(
        self, path: str, timeout: float, statement_timeout: float | None, *, reads_only: bool = False
    ) -> None:
        self._timeout = timeout
        self._statement_timeout = statement_timeout
        self._deadline: float | None = None
        self._begun_at = self._rests_until = 0.0
        self._turns = Turns(timeout)
        self.process = os.getpid()
        self._open = True
        with translated(path):
            self.driver = _connect(path, timeout, reads_only=reads_only)
            if not reads_only:
                self.driver.execute("pragma busy_timeout = 0")
        self._file = None if reads_only or path == MEMORY else _File(path)
        # One for all: a statement that an interrupt left half read, and that would go on showing
        # what was there at its beginning, ends with the next.
        self._cursor = self.driver.cursor()
        if statement_timeout is not None:
            self.driver.set_progress_handler(self._overdue, 1_000)

    def use(self, work: Callable[[], T], *, begin: str | None = None) -> T:
        """Do work in a turn, and in a transaction where it begins with one: all of it or none."""
        turn = Turn()
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
                self.give_back(turn)
        finally:
            # Once more, for an interrupt may have cut the first short.
            self.give_back(turn)

    def take(self, turn: Turn) -> None:
        """Wait for a turn with this connection, which the caller gives back whatever happens."""
        self.check_process()
        self._turns.take(turn)
        if not self._open:
            raise StoreClosed("this store is closed")

    def give_back(self, turn: Turn) -> None:
        """Roll back what was not committed, and let the next have a turn. Done twice, it is done once."""
        # A forked child that leaves a block has no say in its parent's transaction.
        if os.getpid() != self.process:
            return
        if self._turns.has(turn):
            self._end()
        self._turns.give_back(turn)

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
        if (took_s := now - self._begun_at) > LONG_S:
            self._rests_until = now + min(STEP_S[1], took_s * REST)

    def check_process(self) -> None:
        check_process(self.process)

    def begin(self, begin: str) -> None:
        # Immediate, where it writes: a transaction that reads first and writes later can be refused
        # at its write, however long it is willing to wait.
        if (rest_s := self._rests_until - time.monotonic()) > 0:
            time.sleep(rest_s)
        _in_steps(partial(self._one, begin), self._timeout)
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
            return _rows(self._cursor.execute(statement.sql, values))
        # A list is a column of a batch: the statement is for each of its elements, by position,
        # because named values need a dict for each: 1.4 times as dear.
        sql, names = by_position(statement.sql)
        columns = [values[name] for name in names]
        length = next(len(column) for column in columns if isinstance(column, list))
        each = zip(
            *(column if isinstance(column, list) else [column] * length for column in columns), strict=True
        )
        if not statement.returns:
            self._cursor.executemany(sql, each)
            return []
        return [row for element in each for row in _rows(self._cursor.execute(sql, element))]

    def version(self) -> object:
        """Another after every commit, whoever's it was."""
        # The one changes with every other connection's commits, the other with this one's changes.
        return self.execute(_DATA_VERSION, {})[0][0], self.driver.total_changes

    def close(self) -> None:
        """Let nobody have a turn any more. Whoever has one now closes the connection at its end."""
        if os.getpid() != self.process or not self._open:
            return
        turn = Turn()
        self._open = False
        try:
            # Or it is our own, in whose midst a signal's handler closes the store.
            with suppress(StorageError):
                self._turns.take(turn)
        finally:
            self.give_back(turn)

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


class _File:
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
        in_steps(connection, "pragma journal_mode = wal", timeout)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise


def in_steps(connection: sqlite3.Connection, sql: str, timeout: float) -> None:
    """Execute what has to wait until nobody else has the file, on a connection that waits so long."""
    connection.execute("pragma busy_timeout = 0")
    try:
        _in_steps(lambda: connection.execute(sql).fetchone(), timeout)
    finally:
        connection.execute(f"pragma busy_timeout = {milliseconds(timeout)}")


def _in_steps(ask: Callable[[], object], timeout: float) -> None:
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
        time.sleep(random.uniform(*STEP_S))


def bind(params: Mapping[str, Any]) -> dict[str, Any]:
    """The values as sqlite3 takes them."""
    return {name: _bound(value) for name, value in params.items()}


def _bound(value: Any) -> Any:
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, tuple):
        return json.dumps(value)
    if isinstance(value, list) and isinstance(_first_given(value), datetime):
        return [each and _moment(each) for each in value]
    return value


def _first_given(values: list[Any]) -> Any:
    return next((each for each in values if each is not None), None)


def _moment(value: datetime) -> str:
    # One width for every year, so that times sort as text.
    return value.isoformat(timespec="microseconds")[:26] + "Z"


def _rows(cursor: sqlite3.Cursor) -> Rows:
    # All rows at once: until the last is fetched, a `returning` holds the write lock.
    rows: list[Row] = cursor.fetchall()
    if not rows:
        return rows
    readers = [
        (index, _READERS[name]) for index, (name, *_) in enumerate(cursor.description) if name in _READERS
    ]
    return [_read(row, readers) for row in rows] if readers else rows


def _read(row: Row, readers: list[tuple[int, Callable[[str], Any]]]) -> Row:
    values = list(row)
    for index, reader in readers:
        if values[index] is not None:
            values[index] = reader(values[index])
    return tuple(values)


# What SQLite has no type for, told by the column's name.
_READERS: dict[str, Callable[[str], Any]] = {
    "tags": json.loads,
    **dict.fromkeys(
        (
            *("timestamp", "created_at", "updated_at", "deleted_at", "started_at", "ended_at"),
            *("first_event_at", "last_event_at"),
        ),
        datetime.fromisoformat,
    ),
}


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
        self._gather = AsyncGather(self._send, crowd=None, timeout=database.timeout, retry_for=0)
        self.watch = AsyncWatch(self._look)
        self._closed = False

    async def run(self, question: Question[T]) -> T:
        self._database.check_process()
        check_loop(self._loop)
        if isinstance(question, Joining):
            answer = await self._gather.ask(question)
        else:
            answer = await self._send(question)
        if self.watch.waiters:
            self.watch.announce(question.sessions)
        return answer

    async def _send(self, question: Ask[T] | Steps[T] | Volley[T], **_limits: object) -> T:
        return await self._in_thread(question, partial(self._database.send, question))

    async def _look(self, question: Ask[T]) -> T | None:
        return await self._in_thread(question, partial(self._database.look, question))

    async def _in_thread(self, question: Ask[Any] | Steps[Any] | Volley[Any], work: Callable[[], T]) -> T:
        if not self._closed and not self._database.writes(question):
            return await _in(self._reading, work)
        async with self._our_turn():
            return await _in(self._writing, work)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSQLiteTransaction]:
        self._database.check_process()
        check_loop(self._loop)
        async with self._our_turn():
            entered = _Entered(self._database.transaction())
            try:
                tx = await _in(self._writing, entered.enter)
                yield AsyncSQLiteTransaction(tx, self._writing)
            except BaseException as error:
                # Queued behind whatever of ours still runs in the thread, and waited for even
                # when we are cancelled, because the next writer needs a clean connection.
                # A forked child that leaves the block has no such thread.
                if os.getpid() == self._database.process:
                    await finished(_in(self._writing, partial(entered.leave, error)))
                raise
            self._database.check_process()
            await finished(_in(self._writing, entered.leave))
            self.watch.announce(tx.moved)

    @property
    def connection(self) -> sqlite3.Connection:
        return self._database.connection

    async def close(self) -> None:
        if self._closed or os.getpid() != self._database.process:
            return
        check_loop(self._loop)
        self.watch.close()
        await self._gather.finish()
        try:
            # In turn, because a transaction that is open needs the thread to end. Another task may
            # have closed it meanwhile.
            with suppress(StoreClosed):
                async with self._our_turn():
                    self._closed = True
                    await finished(_in(self._writing, self._database.close))
        finally:
            if self._closed:
                self._writing.shutdown(wait=False)
                self._reading.shutdown(wait=False)

    @asynccontextmanager
    async def _our_turn(self) -> AsyncIterator[None]:
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

    watch = AsyncWatchInTransaction()

    def __init__(self, tx: SQLiteTransaction, thread: Executor) -> None:
        self._tx = tx
        self._thread = thread

    @property
    def connection(self) -> sqlite3.Connection:
        return self._tx.connection

    async def run(self, question: Question[T]) -> T:
        return await _in(self._thread, partial(self._tx.run, question))


class _Entered:
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


async def _in(thread: Executor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, work)
