"""The store: a table of contents.

Every operation is a function in the module of its noun, which returns a question. `asks`
makes a method of it that puts the question to the store's database, `awaits` one that is
awaited; `waits` and `streams` do the same for questions that are asked more than once, and
`performs` for procedures. The method keeps the function's parameters, result and docstring, so
type checkers and `help()` see them, and all three are written once.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import (
    asynccontextmanager,
    contextmanager,
)
from functools import partial, update_wrapper
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from asm import (
    artifacts,
    dsn,
    events,
    exports,
    follow,
    health,
    imports,
    pools,
    postgres,
    retention,
    runs,
    search,
    sessions,
    summaries,
)
from asm.cancelling import finished
from asm.dsn import concealed
from asm.errors import MigrationRequired, StoreClosed, ValidationError
from asm.follow import Stream, Wait
from asm.migrate import check_complete, check_tables, list_applied, migrate_connection
from asm.migrate import migrate as apply_pending
from asm.models import Event, count, flag
from asm.plan import AsyncDatabase, Database, Question
from asm.procedures import Procedure, perform, perform_async
from asm.sqlite import AsyncSQLite, AsyncSQLiteTransaction, SQLite, SQLiteTransaction
from asm.watch import AsyncWatch

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

LIMIT_MAX_S = 2_147_483
"""PostgreSQL counts timeouts in milliseconds of 31 bits."""

NOT_OPEN = "this store is not open yet: use `async with`, or `await store.open()`"


def asks(operation: Callable[P, Question[T]]) -> Callable[Concatenate[Any, P], T]:
    """A method that puts the question an operation makes to the database, and returns the answer."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        answer: T = self._database.run(operation(*args, **kwargs))
        return answer

    return _described(method, operation, _answer(operation))


def awaits(operation: Callable[P, Question[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        answer: T = await self._database.run(operation(*args, **kwargs))
        return answer

    return _described(method, operation, _answer(operation))


def waits(operation: Callable[P, Wait]) -> Callable[Concatenate[Any, P], list[Event]]:
    """A method that asks until there is an answer, or no time left."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> list[Event]:
        return follow.wait(self._database, operation(*args, **kwargs))

    return _described(method, operation, "list[Event]")


def waits_async(
    operation: Callable[P, Wait],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, list[Event]]]:
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> list[Event]:
        return await follow.wait_async(self._database, operation(*args, **kwargs))

    return _described(method, operation, "list[Event]")


def streams(operation: Callable[P, Stream]) -> Callable[Concatenate[Any, P], Iterator[Event]]:
    """A method that asks for page after page, when its caller wants the next event."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Event]:
        return follow.stream(self._database, operation(*args, **kwargs))

    return _described(method, operation, "Iterator[Event]")


def streams_async(operation: Callable[P, Stream]) -> Callable[Concatenate[Any, P], AsyncIterator[Event]]:
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Event]:
        return follow.stream_async(self._database, operation(*args, **kwargs))

    return _described(method, operation, "AsyncIterator[Event]")


def performs(operation: Callable[P, Procedure[T]]) -> Callable[Concatenate[Any, P], T]:
    """A method that takes a procedure from step to step, and returns its result."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return perform(operation(*args, **kwargs), self._database)

    return _described(method, operation, _answer(operation))


def performs_async(
    operation: Callable[P, Procedure[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await perform_async(operation(*args, **kwargs), self._database)

    return _described(method, operation, _answer(operation))


def _described(method: F, operation: Callable[..., Any], answer: str) -> F:
    """The method with the operation's name, docstring and parameters, and the answer's own type."""
    update_wrapper(method, operation)
    described = inspect.signature(operation)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = described.replace(  # type: ignore[attr-defined]
        parameters=[itself, *described.parameters.values()],
        return_annotation=answer,
    )
    return method


def _answer(operation: Callable[..., Any]) -> str:
    """`list[Event]` of an operation that returns `Joining[list[Event]] | Steps[list[Event]]`."""
    questions: str = inspect.signature(operation).return_annotation
    return _NEXT_QUESTION.split(questions)[0].partition("[")[2].removesuffix("]")


_NEXT_QUESTION = re.compile(r" \| (?=(?:Ask|Joining|Steps|Volley)\[)")


class Artifacts:
    """`store.artifacts`: where something large lies, under a key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    register = asks(artifacts.register)
    get_by_key = asks(artifacts.get_by_key)
    list_by_session = asks(artifacts.list_by_session)
    session_stats = asks(artifacts.session_stats)
    delete = asks(artifacts.delete)


class AsyncArtifacts:
    """`store.artifacts`, awaited."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    register = awaits(artifacts.register)
    get_by_key = awaits(artifacts.get_by_key)
    list_by_session = awaits(artifacts.list_by_session)
    session_stats = awaits(artifacts.session_stats)
    delete = awaits(artifacts.delete)


class Query:
    """`store.query`: questions across sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    search_sessions = asks(search.search_sessions)
    search_runs = asks(search.search_runs)
    search_events = asks(search.search_events)
    count_events = asks(search.count_events)
    get_session_stats = asks(summaries.get_session_stats)
    get_usage_summary = asks(summaries.get_usage_summary)
    get_cost_summary = asks(summaries.get_cost_summary)
    export_session = asks(exports.export_session)


class AsyncQuery:
    """`store.query`, awaited."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    search_sessions = awaits(search.search_sessions)
    search_runs = awaits(search.search_runs)
    search_events = awaits(search.search_events)
    count_events = awaits(search.count_events)
    get_session_stats = awaits(summaries.get_session_stats)
    get_usage_summary = awaits(summaries.get_usage_summary)
    get_cost_summary = awaits(summaries.get_cost_summary)
    export_session = awaits(exports.export_session)


class Maintenance:
    """`store.maintenance`: keeping only what should be kept, and looking whether all is well.

    Nothing of it runs by itself, nor inside a transaction: it has many short ones of its own.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    execute = performs(retention.execute)
    soft_delete_expired_sessions = performs(retention.soft_delete_expired_sessions)
    hard_delete_expired_sessions = performs(retention.hard_delete_expired_sessions)
    prune_session_events = performs(retention.prune_session_events)
    clean_orphaned_artifacts = performs(retention.clean_orphaned_artifacts)
    clean_orphaned_sequences = performs(retention.clean_orphaned_sequences)
    health_check = performs(health.health_check)


class AsyncMaintenance:
    """`store.maintenance`, awaited."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    execute = performs_async(retention.execute)
    soft_delete_expired_sessions = performs_async(retention.soft_delete_expired_sessions)
    hard_delete_expired_sessions = performs_async(retention.hard_delete_expired_sessions)
    prune_session_events = performs_async(retention.prune_session_events)
    clean_orphaned_artifacts = performs_async(retention.clean_orphaned_artifacts)
    clean_orphaned_sequences = performs_async(retention.clean_orphaned_sequences)
    health_check = performs_async(health.health_check)


class Operations:
    """What can be asked of a store, and within a transaction of one."""

    _database: Database
    artifacts: Artifacts
    query: Query

    save_session = asks(sessions.save_session)
    get_session = asks(sessions.get_session)
    list_sessions = asks(sessions.list_sessions)
    delete_session = asks(sessions.delete_session)

    save_run = asks(runs.save_run)
    get_run = asks(runs.get_run)
    list_runs = asks(runs.list_runs)
    get_active_run = asks(runs.get_active_run)

    append_event = asks(events.append_event)
    append_events = asks(events.append_events)
    get_latest_sequence = asks(events.get_latest_sequence)

    flush = asks(sessions.flush)
    import_session = asks(imports.import_session)

    get_events = waits(follow.get_events)
    iter_events = streams(follow.iter_events)
    follow_events = streams(follow.follow_events)


class AsyncOperations:
    """What can be asked of a store, and within a transaction of one, awaited."""

    _database: AsyncDatabase
    artifacts: AsyncArtifacts
    query: AsyncQuery

    save_session = awaits(sessions.save_session)
    get_session = awaits(sessions.get_session)
    list_sessions = awaits(sessions.list_sessions)
    delete_session = awaits(sessions.delete_session)

    save_run = awaits(runs.save_run)
    get_run = awaits(runs.get_run)
    list_runs = awaits(runs.list_runs)
    get_active_run = awaits(runs.get_active_run)

    append_event = awaits(events.append_event)
    append_events = awaits(events.append_events)
    get_latest_sequence = awaits(events.get_latest_sequence)

    flush = awaits(sessions.flush)
    import_session = awaits(imports.import_session)

    get_events = waits_async(follow.get_events)
    iter_events = streams_async(follow.iter_events)
    follow_events = streams_async(follow.follow_events)


class Transaction(Operations):
    """The operations of a store on one connection, committed together when its block ends."""

    _database: SQLiteTransaction | postgres.PostgresTransaction

    def __init__(self, database: SQLiteTransaction | postgres.PostgresTransaction) -> None:
        self._database = database
        self.artifacts = Artifacts(database)
        self.query = Query(database)

    @property
    def connection(self) -> Any:
        """The driver's own connection, for statements of the application that commit with ours."""
        return self._database.connection


class AsyncTransaction(AsyncOperations):
    """The operations of a store on one connection, committed together when its block ends."""

    _database: AsyncSQLiteTransaction | postgres.AsyncPostgresTransaction

    def __init__(self, database: AsyncSQLiteTransaction | postgres.AsyncPostgresTransaction) -> None:
        self._database = database
        self.artifacts = AsyncArtifacts(database)
        self.query = AsyncQuery(database)

    @property
    def connection(self) -> Any:
        """The driver's own connection, for statements of the application that commit with ours."""
        return self._database.connection


class SessionStore(Operations):
    """Sessions, runs and events in PostgreSQL or SQLite.

    `dsn` is `postgresql://…`, a libpq `key=value` string, `sqlite:///relative.db`,
    `sqlite:////absolute.db` or `sqlite://` (in memory); without one, the environment variable
    ASM_DSN; without that, `sqlite:///asm.db`. A borrowed `pool` is never closed, and keeps the
    limits its owner gave it. `schema` is PostgreSQL's.

    `timeout` seconds wait for a connection or a lock, `statement_timeout` bounds one statement;
    both end in StorageTimeout. For `retry_for` seconds an operation that was cut off is asked
    again. `prepare=False` prepares no statement, as behind a pooler that cannot keep them.

    Opening checks that the tables are there and current, else MigrationRequired; `migrate=True`
    applies what is pending first. A store may be shared by threads, not by processes.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: ConnectionPool[Any] | None = None,
        schema: str | None = None,
        migrate: bool = False,
        min_size: int = 1,
        max_size: int = 10,
        timeout: float = 30.0,
        statement_timeout: float | None = None,
        retry_for: float = 10.0,
        prepare: bool = True,
    ) -> None:
        dsn = concealed(dsn)
        limits = _limits(min_size, max_size, timeout, statement_timeout, retry_for, prepare)
        self._place = _place(dsn, pool, ConnectionPool, schema, migrate)
        self._database: SQLite | postgres.Postgres
        _check_exists(self._place, migrate=migrate)
        if self._place.dialect == "sqlite":
            self._database = SQLite(self._place.address, **_of_a_file(limits))
        elif pool is not None:
            self._database = postgres.Postgres(pool, schema=self._place.schema, **_without_pools_own(limits))
        else:
            self._database = pools.connect(self._place.address, schema=self._place.schema, **limits)
        self.artifacts = Artifacts(self._database)
        self.query = Query(self._database)
        self.maintenance = Maintenance(self._database)
        try:
            self._open(migrate=migrate)
        except BaseException:
            self.close()
            raise

    def _open(self, *, migrate: bool) -> None:
        if isinstance(self._database, postgres.Postgres):
            self._database.open()
        try:
            self._check()
        except MigrationRequired:
            if not migrate:
                raise
            _migrate(self._place, self._database)
            self._check()

    def _check(self) -> None:
        try:
            applied = self._database.run(list_applied())
        except MigrationRequired:
            applied = []
        check_complete(self._place.dialect, applied)
        self._database.run(check_tables())

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """The same operations on one connection, committed at the end, rolled back on any exception.

        Nothing in it is retried. `tx.connection` is the driver's own connection.
        """
        with self._database.transaction() as database:
            yield Transaction(database)

    def close(self) -> None:
        """Give the connections back. A closed store raises StoreClosed; closing it again does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        # Also while it is being made, for whoever prints the variables of a traceback.
        return f"<SessionStore {getattr(self, '_place', None)}>"


class AsyncSessionStore(AsyncOperations):
    """SessionStore, awaited. Opened by `async with` or `await store.open()`, in the loop that uses it."""

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: AsyncConnectionPool[Any] | None = None,
        schema: str | None = None,
        migrate: bool = False,
        min_size: int = 1,
        max_size: int = 10,
        timeout: float = 30.0,
        statement_timeout: float | None = None,
        retry_for: float = 10.0,
        prepare: bool = True,
    ) -> None:
        dsn = concealed(dsn)
        self._limits = _limits(min_size, max_size, timeout, statement_timeout, retry_for, prepare)
        self._place = _place(dsn, pool, AsyncConnectionPool, schema, migrate)
        self._pool = pool
        self._migrate = migrate
        self._closed = False
        self._opening = asyncio.Lock()
        self._database: AsyncSQLite | postgres.AsyncPostgres | _Unopened = _Unopened()
        self.artifacts = AsyncArtifacts(self._database)
        self.query = AsyncQuery(self._database)
        self.maintenance = AsyncMaintenance(self._database)

    async def open(self) -> Self:
        """Connect, and check that the tables are there and current. A closed store stays closed."""
        async with self._opening:
            if isinstance(self._database, _Unopened) or self._closed:
                await self._open()
        return self

    async def _open(self) -> None:
        self._check_not_closed()
        database = await self._connected()
        try:
            self._check_not_closed()
        except StoreClosed:
            await database.close()
            raise
        self._database = database
        self.artifacts = AsyncArtifacts(self._database)
        self.query = AsyncQuery(self._database)
        self.maintenance = AsyncMaintenance(self._database)
        try:
            await self._checked()
        except BaseException:
            await self.close()
            raise

    def _check_not_closed(self) -> None:
        if self._closed:
            raise StoreClosed("this store is closed: make another")

    async def _connected(self) -> AsyncSQLite | postgres.AsyncPostgres:
        address, schema = self._place.address, self._place.schema
        _check_exists(self._place, migrate=self._migrate)
        if self._place.dialect == "sqlite":
            return AsyncSQLite(await _opened_file(partial(SQLite, address, **_of_a_file(self._limits))))
        if self._pool is not None:
            return postgres.AsyncPostgres(self._pool, schema=schema, **_without_pools_own(self._limits))
        return pools.connect_async(address, schema=schema, **self._limits)

    async def _checked(self) -> None:
        if isinstance(self._database, postgres.AsyncPostgres):
            await self._database.open()
        try:
            await self._check()
        except MigrationRequired:
            if not self._migrate:
                raise
            await asyncio.to_thread(_migrate, self._place, self._database)
            await self._check()

    async def _check(self) -> None:
        try:
            applied = await self._database.run(list_applied())
        except MigrationRequired:
            applied = []
        check_complete(self._place.dialect, applied)
        await self._database.run(check_tables())

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncTransaction]:
        """The same operations on one connection, committed at the end, rolled back on any exception.

        Nothing in it is retried. `tx.connection` is the driver's own connection.
        """
        async with self._database.transaction() as database:
            yield AsyncTransaction(database)

    async def close(self) -> None:
        """Give the connections back. A closed store raises StoreClosed; closing it again does nothing.

        Appends under way are answered first, but what fails meanwhile is not asked again. A SQLite file
        is closed when the transaction that is open has ended; StorageTimeout where that takes longer than
        `timeout`, and then it can be closed again.
        """
        self._closed = True
        await self._database.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        # Also while it is being made, for whoever prints the variables of a traceback.
        return f"<AsyncSessionStore {getattr(self, '_place', None)}>"


def ask(store: SessionStore, question: Question[T]) -> T:
    """The answer to a question that is no operation of a store, such as a command needs."""
    return store._database.run(question)


class _Unopened:
    """What an async store has for a database before it is opened."""

    async def run(self, _question: Question[T]) -> T:
        raise StoreClosed(NOT_OPEN)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        await self.run(check_tables())
        yield

    @property
    def watch(self) -> AsyncWatch:
        raise StoreClosed(NOT_OPEN)

    async def close(self) -> None:
        pass


def _place(dsn_: str | None, pool: Any, pool_class: type, schema: str | None, migrate: bool) -> dsn.Place:
    if pool is None:
        return dsn.place(dsn_, schema)
    if dsn_ is not None or migrate:
        raise ValidationError(
            "a store with a borrowed pool takes no dsn and no migrate: run asm.migrate(dsn) before"
        )
    if not isinstance(pool, pool_class):
        raise ValidationError(f"pool must be a psycopg_pool.{pool_class.__name__}, not {type(pool).__name__}")
    return dsn.place("postgresql://", schema)


def _limits(
    min_size: int,
    max_size: int,
    timeout: float,
    statement_timeout: float | None,
    retry_for: float,
    prepare: bool,
) -> dict[str, Any]:
    min_size, max_size = count(min_size, "min_size"), count(max_size, "max_size")
    if min_size > max_size or max_size == 0:
        raise ValidationError(
            f"max_size must be at least 1 and at least min_size, not {max_size}", path="max_size"
        )
    patience_s = follow.seconds(retry_for, "retry_for")
    if patience_s is None:
        raise ValidationError("retry_for must be a number of seconds; 0 turns it off", path="retry_for")
    return {
        "min_size": min_size,
        "max_size": max_size,
        "timeout": _limit(timeout, "timeout"),
        "statement_timeout": None
        if statement_timeout is None
        else _limit(statement_timeout, "statement_timeout"),
        "retry_for": patience_s,
        "prepare": flag(prepare, "prepare"),
    }


def _limit(value: float, name: str) -> float:
    limit_s = follow.seconds(value, name) or 0.0
    if not 0 < limit_s <= LIMIT_MAX_S:
        raise ValidationError(f"{name} must be more than 0 and at most {LIMIT_MAX_S:,} seconds", path=name)
    return limit_s


def _of_a_file(limits: dict[str, Any]) -> dict[str, Any]:
    return {name: limits[name] for name in ("timeout", "statement_timeout")}


def _without_pools_own(limits: dict[str, Any]) -> dict[str, Any]:
    """What a borrowed pool leaves to its borrower."""
    return {name: limits[name] for name in ("statement_timeout", "retry_for", "prepare")}


async def _opened_file(open_file: Callable[[], SQLite]) -> SQLite:
    # To the end, because the thread goes on where the task is cancelled.
    opened: list[SQLite] = []
    try:
        await finished(asyncio.to_thread(lambda: opened.append(open_file())))
    except BaseException:
        for database in opened:
            database.close()
        raise
    return opened[0]


def _check_exists(place: dsn.Place, *, migrate: bool) -> None:
    if place.is_new_file and not migrate:
        check_complete("sqlite", [], f"there is no file {place.address} for this asm")


def _migrate(place: dsn.Place, database: Any) -> None:
    if place.address == dsn.MEMORY:
        migrate_connection(database.connection)
    else:
        apply_pending(place.dsn, schema=place.schema)
