"""PostgreSQL, through a pool of connections in autocommit.

A question of one statement is one trip. A plan is one transaction, READ COMMITTED, because
the counter's lock has to show what its last holder committed. Nothing rests on what was set on a
connection before, so a pooler may give each transaction another server process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from asm.at_hand import AtHand, Hold
from asm.cancelling import Uncut, cancellable, finished
from asm.connections import (
    COMMIT,
    AsyncPlainCursor,
    AsyncWiredConnection,
    PatientConnection,
    PlainCursor,
    Silent,
    close_if_amiss,
    given_up,
    was_cut,
)
from asm.errors import (
    ConnectionFailed,
    StorageError,
    StoreClosed,
)
from asm.gather import AsyncGather, Gather
from asm.inquiries import AsyncInquiry, Inquiry
from asm.limits import Limits
from asm.patience import check_loop, check_process, pauses, worth_another_try
from asm.plan import Ask, Joining, Plan, Question, Rows, Steps, Volley, drive, drive_async, once_more
from asm.postgres_errors import only_reads, translated
from asm.queries import Queries
from asm.servers import (
    check_server,
    is_direct,
    is_direct_async,
    probe,
    probe_again,
    probe_again_async,
    probe_async,
    restore,
    restore_async,
)
from asm.watch import AsyncWatch, AsyncWatchInTransaction, Watch, WatchInTransaction

T = TypeVar("T")

_Once: TypeAlias = "Ask[T] | Steps[T] | Volley[T]"
"""A question that is put to the database by itself, with no other."""

CROWD = 128
"""From so many waiting appends on, two batches at a time: 38,000/s from 512 tasks instead of 29,000;
with 64 tasks two are no faster than one, and cost the client a fifth more."""

SOON_S = 1.0
"""A pool that gives no connection in that time is asked why."""


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
        self.queries = Queries("postgres", schema)
        self._pool = pool
        self._conninfo = conninfo
        self._closed = False
        self._limits = Limits(timeout, statement_timeout)
        self._retry_for = retry_for
        self._prepare = prepare
        self._in_use: dict[psycopg.Connection[Any], Hold[psycopg.Connection[Any]]] = {}
        self._at_hand: AtHand[psycopg.Connection[Any]] = AtHand()
        # A pool that may be empty is to see when nobody needs a connection.
        self._keeps = conninfo is not None and pool.min_size > 0
        self._gather = Gather(self._sent, crowd=CROWD, timeout=timeout or pool.timeout, retry_for=retry_for)
        self._inquiry = Inquiry(lambda: probe_again(conninfo or ""))
        self.watch = Watch(self.run)
        self.process = os.getpid()

    def open(self) -> None:
        if self._conninfo is not None:
            self._retried(
                partial(probe, self._conninfo), self._retry_for, partial(probe_again, self._conninfo)
            )
            self._pool.open()
        else:
            self._retried(self._look_at_server, self._retry_for)

    def run(self, question: Question[T]) -> T:
        """Put a question to the database, and again while what cut it off may pass."""
        if isinstance(question, Joining):
            check_process(self.process)
            answer = self._gather.ask(question)
        else:
            answer = self._sent(question, retry_for=self._retry_for)
        if self.watch.waiters:
            self.watch.announce(question.sessions)
        return answer

    def _sent(self, question: _Once[T], *, retry_for: float, brief_s: float | None = None) -> T:
        first = partial(self._once, question, brief_s=brief_s)
        return self._retried(first, retry_for, lambda: self._once(once_more(question), brief_s=brief_s))

    def _once(self, question: _Once[T], *, brief_s: float | None) -> T:
        hold: Hold[psycopg.Connection[Any]] = Hold()
        with translated():
            try:
                try:
                    connection = self._taken(hold)
                    try:
                        if isinstance(question, Ask):
                            return question.read(self._alone(connection, question, brief_s=brief_s))
                        if isinstance(question, Volley):
                            return self._at_once(connection, question)
                    except psycopg.errors.UniqueViolation:
                        if isinstance(question, Steps) or question.instead is None:
                            raise
                    begin = self._limits.begin_for(question, brief_s=brief_s)
                    return self._driven(connection, question, begin)
                except (ConnectionFailed, psycopg.Error) as error:
                    self._turn_away(hold, error)
                    raise
                finally:
                    self._give_back(hold)
            finally:
                # Once more, for an interrupt may have cut the first short.
                self._give_back(hold)

    def _driven(self, connection: psycopg.Connection[Any], plan: Question[T] | Plan[T], begin: str) -> T:
        with _Transacting(connection, begin):
            return drive(plan, partial(self.answer, connection))

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        """One transaction that the caller ends, with the connection for statements of its own."""
        hold: Hold[psycopg.Connection[Any]] = Hold()
        try:
            try:
                # Only taking a connection is ours to translate, not what the caller does with it.
                with translated():
                    connection = self._taken(hold)
                with _Transacting(connection, self._limits.begin_callers):
                    tx = PostgresTransaction(self, connection)
                    try:
                        yield tx
                        tx.check_whole()
                    finally:
                        tx.end()
                self.watch.announce(tx.moved)
                with suppress(psycopg.Error):
                    restore(connection)
            except (ConnectionFailed, psycopg.Error) as error:
                self._turn_away(hold, error)
                raise
            finally:
                self._give_back(hold)
        finally:
            self._give_back(hold)

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

    def answer(self, connection: psycopg.Connection[Any], ask: Ask[Any]) -> Rows:
        """The rows of one question."""
        form = self.queries[ask.query].form(ask.params)
        cursor = PlainCursor(connection, row_factory=tuple_row)
        prepare = self._prepare and ask.prepare
        cursor.execute(form.statements[0].sql, bind(ask.params), prepare=prepare, binary=True)
        return cursor.fetchall() if cursor.description else []

    def _alone(self, connection: psycopg.Connection[Any], ask: Ask[Any], *, brief_s: float | None) -> Rows:
        if not isinstance(connection, PatientConnection):
            return self._alone_on_borrowed(connection, ask, brief_s=brief_s)
        form = self.queries[ask.query].form(ask.params)
        connection.patience_s = self._limits.patience_s(form, brief_s=brief_s)
        try:
            sql = form.statements[0].sql
            prepare = self._prepare and ask.prepare
            return connection.follow(connection.wire.ask(sql, ask.params, prepare=prepare))
        finally:
            connection.patience_s = None

    def _at_once(self, connection: psycopg.Connection[Any], volley: Volley[T]) -> T:
        if not isinstance(connection, PatientConnection):
            return self._driven(connection, volley.bet(), self._limits.begin)
        connection.patience_s = self._limits.patience_with(volley)
        salvo = _Salvo(self.queries, volley)
        try:
            return salvo.read(connection.follow(connection.wire.ask_all(salvo, prepare=self._prepare)))
        finally:
            connection.patience_s = None

    def _alone_on_borrowed(
        self, connection: psycopg.Connection[Any], ask: Ask[Any], *, brief_s: float | None
    ) -> Rows:
        # Only one of ours can be patient by itself; only one of ours is sure to be in autocommit.
        if connection.autocommit and not (brief_s or self._limits.bound_statements):
            return self.answer(connection, ask)
        with _Transacting(connection, self._limits.begin_for(ask, brief_s=brief_s)):
            return self.answer(connection, ask)

    def _look_at_server(self) -> None:
        hold: Hold[psycopg.Connection[Any]] = Hold()
        with translated():
            try:
                try:
                    connection = self._taken(hold)
                    check_server(connection)
                    self._prepare = self._prepare and is_direct(connection)
                finally:
                    self._give_back(hold)
            finally:
                self._give_back(hold)

    def _taken(self, hold: Hold[psycopg.Connection[Any]]) -> psycopg.Connection[Any]:
        check_process(self.process)
        if self._closed:
            raise StoreClosed("this store is closed")
        while True:
            connection = self._at_hand.take(hold)
            if connection is None:
                try:
                    connection = hold.connection = self._given()
                finally:
                    self._at_hand.found(hold)
            self._in_use[connection] = hold
            if not was_cut(connection):
                return connection
            # Not by `close()`, which some pools make into a way of giving it back.
            connection.pgconn.finish()
            self._give_back(hold)

    def _turn_away(
        self, hold: Hold[psycopg.Connection[Any]], error: ConnectionFailed | psycopg.Error
    ) -> None:
        # A server that only reads, or answers nobody, is not the one to ask, and the whole pool leads there.
        if hold.connection is not None and _leads_nowhere(error):
            hold.connection.pgconn.finish()
            if self._conninfo is not None and not self._closed:
                self._pool.drain()

    def _give_back(self, hold: Hold[psycopg.Connection[Any]]) -> None:
        """Give back what a hold has. Cut short anywhere by an interrupt, it is done by doing it again."""
        connection = hold.connection
        if connection is None:
            self._at_hand.found(hold)
        elif self._in_use.get(connection, hold) is hold and os.getpid() == self.process:
            self._in_use.pop(connection, None)
            if not (self._keeps and self._at_hand.keep(hold)):
                close_if_amiss(connection)
                # A ValueError is the pool's way to say that it has it already.
                with suppress(ValueError):
                    self._pool.putconn(connection)
            hold.connection = None

    def _given(self) -> psycopg.Connection[Any]:
        timeout = self._limits.timeout
        if timeout is None or self._conninfo is None:
            return self._from_pool(None)
        try:
            return self._from_pool(min(timeout, SOON_S))
        except PoolTimeout:
            # Either all are in use, and one will come back; or none is to be had, and to know
            # why takes a connection of our own, because the pool tries in the background.
            if len(self._in_use) < self._pool.max_size:
                self._inquiry.answer()
                # The server is there. The pool connects again, or a connection is just changing hands.
                if timeout <= SOON_S:
                    raise ConnectionFailed("the pool has not connected again yet") from None
            elif timeout <= SOON_S:
                raise
        return self._from_pool(timeout - SOON_S)

    def _from_pool(self, timeout: float | None) -> psycopg.Connection[Any]:
        # In one line, too.
        return self._pool.getconn(timeout)  # type: ignore[no-any-return]

    def _retried(self, attempt: Callable[[], T], budget_s: float, again: Callable[[], T] | None = None) -> T:
        waits = None
        while True:
            try:
                return attempt()
            except StorageError as error:
                # Made when it is needed, because mostly it is not.
                waits = waits or pauses(budget_s)
                pause_s = next(waits, None) if worth_another_try(error) else None
                if pause_s is None or self._gather.is_closed:
                    raise
            attempt = again or attempt
            time.sleep(pause_s)


class _Transacting:
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
                    _check_not_spoilt(self._connection)
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

    watch = WatchInTransaction()

    def __init__(self, database: Postgres, connection: psycopg.Connection[Any]) -> None:
        self._database = database
        self._open = True
        self._was_cut = False
        self.moved: set[str] = set()
        self.connection = connection

    def run(self, question: Question[T]) -> T:
        check_process(self._database.process)
        if not self._open:
            raise StoreClosed("this transaction has ended")
        self.check_whole()
        self.moved.update(question.sessions)
        try:
            with translated():
                return drive(question, partial(self._database.answer, self.connection))
        except BaseException as error:
            self._was_cut = not isinstance(error, Exception)
            raise

    def check_whole(self) -> None:
        # A caller who catches an interrupt and goes on would commit half an operation.
        if self._was_cut:
            raise StorageError("an operation of this transaction was cut short, so nothing of it is kept")
        _check_not_ended(self.connection)

    def end(self) -> None:
        self._open = False


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
        self.queries = Queries("postgres", schema)
        self._pool = pool
        self._conninfo = conninfo
        self._closed = False
        self._limits = Limits(timeout, statement_timeout)
        self._retry_for = retry_for
        self._prepare = prepare
        self._in_use: dict[AsyncConnection[Any], Hold[AsyncConnection[Any]]] = {}
        self._at_hand: AtHand[AsyncConnection[Any]] = AtHand()
        # A pool that may be empty is to see when nobody needs a connection.
        self._keeps = conninfo is not None and pool.min_size > 0
        self._gather = AsyncGather(
            self._sent, crowd=CROWD, timeout=timeout or pool.timeout, retry_for=retry_for
        )
        self._inquiry = AsyncInquiry(lambda: probe_again_async(conninfo or ""))
        self.watch = AsyncWatch(self.run)
        self.process = os.getpid()
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        if self._conninfo is not None:
            await self._retried(
                partial(probe_async, self._conninfo),
                self._retry_for,
                partial(probe_again_async, self._conninfo),
            )
            await self._pool.open()
        else:
            await self._retried(self._look_at_server, self._retry_for)

    async def run(self, question: Question[T]) -> T:
        """Put a question to the database, and again while what cut it off may pass."""
        if isinstance(question, Joining):
            check_process(self.process)
            check_loop(self._loop)
            answer = await self._gather.ask(question)
        else:
            answer = await self._sent(question, retry_for=self._retry_for)
        if self.watch.waiters:
            self.watch.announce(question.sessions)
        return answer

    async def _sent(self, question: _Once[T], *, retry_for: float, brief_s: float | None = None) -> T:
        first = partial(self._once, question, brief_s=brief_s)
        return await self._retried(first, retry_for, lambda: self._once(once_more(question), brief_s=brief_s))

    async def _once(self, question: _Once[T], *, brief_s: float | None) -> T:
        hold: Hold[AsyncConnection[Any]] = Hold()
        with translated():
            try:
                connection = await self._taken(hold)
                try:
                    if isinstance(question, Ask):
                        return question.read(await self._alone(connection, question, brief_s=brief_s))
                    if isinstance(question, Volley):
                        return await self._at_once(connection, question)
                except psycopg.errors.UniqueViolation:
                    if isinstance(question, Steps) or question.instead is None:
                        raise
                begin = self._limits.begin_for(question, brief_s=brief_s)
                return await self._driven(connection, question, begin)
            except (ConnectionFailed, psycopg.Error) as error:
                await self._turn_away(hold, error)
                raise
            finally:
                await self._give_back(hold)

    async def _driven(self, connection: AsyncConnection[Any], plan: Question[T] | Plan[T], begin: str) -> T:
        async with self._transaction(connection, begin):
            return await drive_async(plan, partial(self.answer, connection))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncPostgresTransaction]:
        """One transaction that the caller ends, with the connection for statements of its own."""
        hold: Hold[AsyncConnection[Any]] = Hold()
        try:
            # Only taking a connection is ours to translate, not what the caller does with it.
            with translated():
                connection = await self._taken(hold)
            async with self._transaction(connection, self._limits.begin_callers):
                tx = AsyncPostgresTransaction(self, connection)
                try:
                    yield tx
                    tx.check_whole()
                finally:
                    tx.end()
            self.watch.announce(tx.moved)
            with suppress(psycopg.Error):
                await restore_async(connection)
        except (ConnectionFailed, psycopg.Error) as error:
            await self._turn_away(hold, error)
            raise
        finally:
            await self._give_back(hold)

    async def close(self) -> None:
        if os.getpid() != self.process:
            return
        check_loop(self._loop)
        self.watch.close()
        await self._gather.finish()
        self._closed = True
        if self._conninfo is not None:
            # Cut short, the pool would be closed and its connections would not.
            await finished(self._close_pool())

    async def _close_pool(self) -> None:
        await self._pool.close()
        if (connection := self._at_hand.close()) is not None:
            await self._pool.putconn(connection)

    async def answer(self, connection: AsyncConnection[Any], ask: Ask[Any]) -> Rows:
        """The rows of one question."""
        form = self.queries[ask.query].form(ask.params)
        cursor = AsyncPlainCursor(connection, row_factory=tuple_row)
        prepare = self._prepare and ask.prepare
        await cursor.execute(form.statements[0].sql, bind(ask.params), prepare=prepare, binary=True)
        return await cursor.fetchall() if cursor.description else []

    async def _alone(self, connection: AsyncConnection[Any], ask: Ask[Any], *, brief_s: float | None) -> Rows:
        if not connection.autocommit:
            # A borrowed connection; one of ours is always in autocommit.
            async with self._transaction(connection, self._limits.begin_for(ask, brief_s=brief_s)):
                return await self.answer(connection, ask)
        form = self.queries[ask.query].form(ask.params)
        patience_s = self._limits.patience_s(form, brief_s=brief_s)
        if not isinstance(connection, AsyncWiredConnection):
            async with _patient(patience_s):
                return await self.answer(connection, ask)
        sql = form.statements[0].sql
        exchange = connection.wire.ask(sql, ask.params, prepare=self._prepare and ask.prepare)
        async with _patient(patience_s):
            return await connection.follow(exchange)

    async def _at_once(self, connection: AsyncConnection[Any], volley: Volley[T]) -> T:
        if not isinstance(connection, AsyncWiredConnection):
            return await self._driven(connection, volley.bet(), self._limits.begin)
        salvo = _Salvo(self.queries, volley)
        async with _patient(self._limits.patience_with(volley)):
            exchange = connection.wire.ask_all(salvo, prepare=self._prepare)
            return salvo.read(await connection.follow(exchange))

    @asynccontextmanager
    async def _transaction(self, connection: AsyncConnection[Any], begin: str) -> AsyncIterator[None]:
        with translated():
            await connection.execute(begin, prepare=False)
        try:
            yield
            check_process(self.process)
            with translated():
                _check_not_spoilt(connection)
                await _commit_async(connection)
        except BaseException:
            if os.getpid() == self.process:
                with suppress(psycopg.Error):
                    await connection.rollback()
            raise

    async def _look_at_server(self) -> None:
        hold: Hold[AsyncConnection[Any]] = Hold()
        with translated():
            try:
                connection = await self._taken(hold)
                check_server(connection)
                self._prepare = self._prepare and await is_direct_async(connection)
            finally:
                await self._give_back(hold)

    async def _taken(self, hold: Hold[AsyncConnection[Any]]) -> AsyncConnection[Any]:
        check_process(self.process)
        check_loop(self._loop)
        if self._closed:
            raise StoreClosed("this store is closed")
        while True:
            connection = self._at_hand.take(hold)
            if connection is None:
                try:
                    connection = await self._given(hold)
                finally:
                    self._at_hand.found(hold)
            self._in_use[connection] = hold
            if not was_cut(connection):
                return connection
            connection.pgconn.finish()
            await self._give_back(hold)

    async def _turn_away(
        self, hold: Hold[AsyncConnection[Any]], error: ConnectionFailed | psycopg.Error
    ) -> None:
        if hold.connection is not None and _leads_nowhere(error):
            hold.connection.pgconn.finish()
            if self._conninfo is not None and not self._closed:
                await self._pool.drain()

    async def _give_back(self, hold: Hold[AsyncConnection[Any]]) -> None:
        connection = hold.connection
        if connection is not None and os.getpid() == self.process:
            self._in_use.pop(connection, None)
            if not (self._keeps and self._at_hand.keep(hold)):
                hold.connection = None
                # Or the pool would wait for the server's answer to a rollback, uncancelled.
                close_if_amiss(connection)
                with suppress(ValueError):
                    await Uncut(self._pool.putconn(connection))

    async def _given(self, hold: Hold[AsyncConnection[Any]]) -> AsyncConnection[Any]:
        timeout = self._limits.timeout
        if timeout is None or self._conninfo is None:
            return await self._from_pool(hold, None)
        try:
            return await self._from_pool(hold, min(timeout, SOON_S))
        except PoolTimeout:
            # Either all are in use, and one will come back; or none is to be had, and to know
            # why takes a connection of our own, because the pool tries in the background.
            if len(self._in_use) < self._pool.max_size:
                await self._inquiry.answer()
                # The server is there. The pool connects again, or a connection is just changing hands.
                if timeout <= SOON_S:
                    raise ConnectionFailed("the pool has not connected again yet") from None
            elif timeout <= SOON_S:
                raise
        return await self._from_pool(hold, timeout - SOON_S)

    async def _from_pool(
        self, hold: Hold[AsyncConnection[Any]], timeout: float | None
    ) -> AsyncConnection[Any]:
        connection: AsyncConnection[Any]
        connection, was_cancelled = await cancellable(self._pool.getconn(timeout))
        hold.connection = connection
        if was_cancelled:
            raise asyncio.CancelledError
        return connection

    async def _retried(
        self,
        attempt: Callable[[], Awaitable[T]],
        budget_s: float,
        again: Callable[[], Awaitable[T]] | None = None,
    ) -> T:
        waits = None
        while True:
            try:
                return await attempt()
            except StorageError as error:
                # Made when it is needed, because mostly it is not.
                waits = waits or pauses(budget_s)
                pause_s = next(waits, None) if worth_another_try(error) else None
                if pause_s is None or self._gather.is_closed:
                    raise
            attempt = again or attempt
            await asyncio.sleep(pause_s)


class AsyncPostgresTransaction:
    """Operations within one transaction, awaited."""

    watch = AsyncWatchInTransaction()

    def __init__(self, database: AsyncPostgres, connection: AsyncConnection[Any]) -> None:
        self._database = database
        self._open = True
        self._was_cut = False
        self.moved: set[str] = set()
        self.connection = connection

    async def run(self, question: Question[T]) -> T:
        check_process(self._database.process)
        if not self._open:
            raise StoreClosed("this transaction has ended")
        self.check_whole()
        self.moved.update(question.sessions)
        try:
            with translated():
                return await drive_async(question, partial(self._database.answer, self.connection))
        except BaseException as error:
            # Others of the same transaction may be under way.
            self._was_cut = self._was_cut or not isinstance(error, Exception)
            raise

    def check_whole(self) -> None:
        if self._was_cut:
            raise StorageError("an operation of this transaction was cut short, so nothing of it is kept")
        _check_not_ended(self.connection)

    def end(self) -> None:
        self._open = False


class _Salvo(Generic[T]):
    """A volley on its way, spelled out for the wire one question after the other."""

    def __init__(self, queries: Queries, volley: Volley[T]) -> None:
        self._queries = queries
        self._volley = volley
        self._reads: list[Callable[[Rows], Any]] = []

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        self._reads = []
        for ask in self._volley.asks():
            self._reads.append(ask.read)
            yield self._queries[ask.query].form(ask.params).statements[0].sql, ask.params

    def read(self, answers: Sequence[Rows]) -> T:
        return self._volley.read([read(rows) for read, rows in zip(self._reads, answers, strict=True)])


@asynccontextmanager
async def _patient(patience_s: float | None) -> AsyncIterator[None]:
    try:
        # Cancelled, the driver stops the statement on the server and waits for that.
        async with asyncio.timeout(patience_s):
            yield
    except TimeoutError as error:
        raise given_up("statement", patience_s or 0.0) from error


def _leads_nowhere(error: ConnectionFailed | psycopg.Error) -> bool:
    return only_reads(error) or isinstance(error, Silent) or isinstance(error.__cause__, Silent)


def _check_not_spoilt(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    # PostgreSQL answers the commit of a failed transaction with a rollback and no error.
    if connection.info.transaction_status == pq.TransactionStatus.INERROR:
        raise StorageError("an earlier statement of this transaction failed, so nothing of it is kept")


def _check_not_ended(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    # What came next would be committed statement by statement.
    if connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        raise StorageError("`tx.connection` has committed this transaction or rolled it back")


def _commit(connection: psycopg.Connection[Any]) -> None:
    if isinstance(connection, PatientConnection):
        connection.commit_patiently()
    else:
        connection.execute(COMMIT, prepare=False)


async def _commit_async(connection: AsyncConnection[Any]) -> None:
    if isinstance(connection, AsyncWiredConnection):
        await connection.commit_patiently()
    else:
        await connection.execute(COMMIT, prepare=False)


def bind(params: Mapping[str, Any]) -> dict[str, Any]:
    """The values as psycopg takes them: to it, a tuple would be a composite."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}
