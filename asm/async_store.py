"""The store, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import (
    asynccontextmanager,
)
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from psycopg_pool import AsyncConnectionPool

from asm.dsn import as_secret
from asm.engine.polling import AsyncPoller
from asm.engine.script import AsyncDatabase, Operation
from asm.engine.shielding import run_to_completion
from asm.errors import MigrationRequired, StoreClosed
from asm.maintenance import health, retention
from asm.methods import async_iterating_method, async_job_method, async_method, async_waiting_method
from asm.migrations.files import check_complete, check_tables, list_applied
from asm.opening import (
    borrowed_pool_limits,
    check_exists,
    migrate_target,
    sqlite_limits,
    store_limits,
    target,
)
from asm.operations import artifacts, events, exports, imports, reading, runs, search, sessions, summaries
from asm.postgres import async_database, pools
from asm.sqlite.async_database import AsyncSQLite, AsyncSQLiteTransaction
from asm.sqlite.database import SQLite

T = TypeVar("T")

NOT_OPEN = "this store is not open yet: use `async with`, or `await store.open()`"


class AsyncArtifactRegistry:
    """`store.artifacts`, awaited."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    register = async_method(artifacts.register, "None")
    get_by_key = async_method(artifacts.get_by_key, "Artifact | None")
    list_by_session = async_method(artifacts.list_by_session, "list[Artifact]")
    session_stats = async_method(artifacts.session_stats, "ArtifactStats")
    delete = async_method(artifacts.delete, "None")


class AsyncQueryAPI:
    """`store.query`, awaited."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    search_sessions = async_method(search.search_sessions, "Page[Session]")
    search_runs = async_method(search.search_runs, "Page[Run]")
    search_events = async_method(search.search_events, "Page[Event]")
    count_events = async_method(search.count_events, "int")
    get_session_stats = async_method(summaries.get_session_stats, "SessionStats")
    get_usage_summary = async_method(summaries.get_usage_summary, "UsageSummary")
    get_cost_summary = async_method(summaries.get_cost_summary, "CostSummary")
    export_session = async_method(exports.export_session, "SessionExport")


class AsyncMaintenance:
    """`store.maintenance`, awaited."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    execute = async_job_method(retention.execute, "MaintenanceReport")
    soft_delete_expired_sessions = async_job_method(retention.soft_delete_expired_sessions, "int")
    hard_delete_expired_sessions = async_job_method(retention.hard_delete_expired_sessions, "int")
    prune_session_events = async_job_method(retention.prune_session_events, "int")
    clean_orphaned_artifacts = async_job_method(retention.clean_orphaned_artifacts, "int")
    clean_orphaned_sequences = async_job_method(retention.clean_orphaned_sequences, "int")
    health_check = async_job_method(health.health_check, "list[HealthIssue]")


class AsyncOperations:
    """What can be asked of a store, and within a transaction of one, awaited."""

    _database: AsyncDatabase
    artifacts: AsyncArtifactRegistry
    query: AsyncQueryAPI

    save_session = async_method(sessions.save_session, "None")
    get_session = async_method(sessions.get_session, "Session")
    list_sessions = async_method(sessions.list_sessions, "list[Session]")
    delete_session = async_method(sessions.delete_session, "None")

    save_run = async_method(runs.save_run, "None")
    get_run = async_method(runs.get_run, "Run")
    list_runs = async_method(runs.list_runs, "list[Run]")
    get_active_run = async_method(runs.get_active_run, "Run | None")

    append_event = async_method(events.append_event, "Event")
    append_events = async_method(events.append_events, "list[Event]")
    get_latest_sequence = async_method(events.get_latest_sequence, "int")

    flush = async_method(sessions.flush, "list[Event]")
    import_session = async_method(imports.import_session, "None")

    get_events = async_waiting_method(reading.get_events)
    iter_events = async_iterating_method(reading.iter_events)
    follow_events = async_iterating_method(reading.follow_events)


class AsyncTransaction(AsyncOperations):
    """The operations of a store on one connection, committed together when its block ends."""

    _database: AsyncSQLiteTransaction | async_database.AsyncPostgresTransaction

    def __init__(self, database: AsyncSQLiteTransaction | async_database.AsyncPostgresTransaction) -> None:
        self._database = database
        self.artifacts = AsyncArtifactRegistry(database)
        self.query = AsyncQueryAPI(database)

    @property
    def connection(self) -> Any:
        """The driver's own connection, for statements of the application that commit with ours."""
        return self._database.connection


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
        dsn = as_secret(dsn)
        self._limits = store_limits(min_size, max_size, timeout, statement_timeout, retry_for, prepare)
        self._place = target(dsn, pool, AsyncConnectionPool, schema, migrate)
        self._pool = pool
        self._migrate = migrate
        self._closed = False
        self._opening = asyncio.Lock()
        self._database: AsyncSQLite | async_database.AsyncPostgres | _Unopened = _Unopened()
        self.artifacts = AsyncArtifactRegistry(self._database)
        self.query = AsyncQueryAPI(self._database)
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
        self.artifacts = AsyncArtifactRegistry(self._database)
        self.query = AsyncQueryAPI(self._database)
        self.maintenance = AsyncMaintenance(self._database)
        try:
            await self._checked()
        except BaseException:
            await self.close()
            raise

    def _check_not_closed(self) -> None:
        if self._closed:
            raise StoreClosed("this store is closed: make another")

    async def _connected(self) -> AsyncSQLite | async_database.AsyncPostgres:
        address, schema = self._place.address, self._place.schema
        check_exists(self._place, migrate=self._migrate)
        if self._place.dialect == "sqlite":
            return AsyncSQLite(await _open_file(partial(SQLite, address, **sqlite_limits(self._limits))))
        if self._pool is not None:
            return async_database.AsyncPostgres(
                self._pool, schema=schema, **borrowed_pool_limits(self._limits)
            )
        return pools.connect_async(address, schema=schema, **self._limits)

    async def _checked(self) -> None:
        if isinstance(self._database, async_database.AsyncPostgres):
            await self._database.open()
        try:
            await self._check()
        except MigrationRequired:
            if not self._migrate:
                raise
            await asyncio.to_thread(migrate_target, self._place, self._database)
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
        return f"<AsyncSessionStore {getattr(self, 'target', None)}>"


class _Unopened:
    """What an async store has for a database before it is opened."""

    async def run(self, _question: Operation[T]) -> T:
        raise StoreClosed(NOT_OPEN)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        await self.run(check_tables())
        yield

    @property
    def poller(self) -> AsyncPoller:
        raise StoreClosed(NOT_OPEN)

    async def close(self) -> None:
        pass


async def _open_file(open_file: Callable[[], SQLite]) -> SQLite:
    # To the end, because the thread goes on where the task is cancelled.
    opened: list[SQLite] = []
    try:
        await run_to_completion(asyncio.to_thread(lambda: opened.append(open_file())))
    except BaseException:
        for database in opened:
            database.close()
        raise
    return opened[0]
