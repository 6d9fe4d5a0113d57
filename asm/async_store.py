"""The store: a table of contents.

Every operation is a function in the module of its noun, which returns a value that says what to ask the
database. `async_method` makes a method of it that has the store's database run that value;
`async_waiting_method` and `async_iterating_method` do the same for operations that poll, and
`async_job_method` for jobs. The method keeps the function's parameters, result and docstring, so that
type checkers and `help()` show them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from asm import observing
from asm.dsn import as_secret
from asm.engine.async_polling import AsyncPoller
from asm.engine.script import AsyncDatabase, Operation, Params
from asm.engine.shielding import run_to_completion
from asm.errors import MigrationRequired, StoreClosed, store_closed
from asm.maintenance import health, retention
from asm.methods import (
    async_following_method,
    async_iterating_method,
    async_job_method,
    async_method,
    async_paging_method,
    async_waiting_method,
)
from asm.migrations.files import check_complete, check_tables, list_applied
from asm.opening import (
    borrowed_pool_options,
    check_exists,
    migrate_target,
    sqlite_options,
    store_options,
    target,
)
from asm.operations import (
    appending,
    artifacts,
    events,
    exports,
    forks,
    imports,
    reading,
    removing,
    runs,
    search,
    sessions,
    summaries,
)
from asm.sqlite.async_database import AsyncSQLite, AsyncSQLiteTransaction
from asm.sqlite.database import SQLite  # async only
from asm.validation import awaitable, flag, function, statement, statement_values  # async only

# sync only: from asm.validation import flag, not_a_coroutine, plain_function, statement, statement_values

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import AsyncConnectionPool

    from asm.postgres.async_database import AsyncPostgres
    from asm.postgres.async_transaction import AsyncPostgresTransaction

# begin: async only
NOT_OPEN = "this store is not open yet: use `async with`, or `await store.open()`"
# end: async only
T = TypeVar("T")


class AsyncArtifactRegistry:
    """`store.artifacts`: where large objects are stored, by key."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    register = async_method(artifacts.register, "None")
    get_by_key = async_method(artifacts.get_by_key, "Artifact | None")
    list_by_session = async_method(artifacts.list_by_session, "list[Artifact]")
    session_stats = async_method(artifacts.session_stats, "ArtifactStats")
    delete = async_method(artifacts.delete, "None")


class AsyncQueryAPI:
    """`store.query`: searches and sums across sessions."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    search_sessions = async_method(search.search_sessions, "Page[Session]")
    search_runs = async_method(search.search_runs, "Page[Run]")
    search_events = async_method(search.search_events, "Page[Event]")
    count_events = async_method(search.count_events, "int")
    iter_sessions = async_paging_method(search.iter_sessions, "AsyncIterator[Session]")
    iter_runs = async_paging_method(search.iter_runs, "AsyncIterator[Run]")
    iter_events = async_paging_method(search.iter_events, "AsyncIterator[Event]")
    get_session_stats = async_method(summaries.get_session_stats, "SessionStats")
    get_usage_summary = async_method(summaries.get_usage_summary, "UsageSummary")
    get_cost_summary = async_method(summaries.get_cost_summary, "CostSummary")
    export_session = async_method(exports.export_session, "SessionExport")


class AsyncMaintenance:
    """`store.maintenance`: retention and health checks.

    Nothing of it runs by itself, nor inside a transaction: it runs many short ones of its own.
    """

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    execute = async_job_method(retention.execute, "MaintenanceReport")
    soft_delete_expired_sessions = async_job_method(retention.soft_delete_expired_sessions, "int")
    hard_delete_expired_sessions = async_job_method(retention.hard_delete_expired_sessions, "int")
    prune_session_events = async_job_method(retention.prune_session_events, "int")
    clean_orphaned_artifacts = async_job_method(retention.clean_orphaned_artifacts, "int")
    clean_orphaned_sequences = async_job_method(retention.clean_orphaned_sequences, "int")
    health_check = async_job_method(health.health_check, "list[HealthIssue]")
    list_stale_runs = async_method(runs.list_stale_runs, "list[Run]")


class AsyncOperations:
    """The operations of a store, which a transaction has, too."""

    _database: AsyncDatabase

    @property
    def artifacts(self) -> AsyncArtifactRegistry:
        """Where large objects are stored, by key."""
        return AsyncArtifactRegistry(self._database)

    @property
    def query(self) -> AsyncQueryAPI:
        """Searches and sums across sessions."""
        return AsyncQueryAPI(self._database)

    save_session = async_method(sessions.save_session, "None")
    update_session = async_method(sessions.update_session, "Session")
    get_session = async_method(sessions.get_session, "Session")
    get_sessions = async_method(sessions.get_sessions, "list[Session]")
    list_sessions = async_method(sessions.list_sessions, "list[Session]")
    delete_session = async_method(sessions.delete_session, "None")
    fork_session = async_method(forks.fork_session, "Session")

    save_run = async_method(runs.save_run, "None")
    update_run = async_method(runs.update_run, "Run")
    get_run = async_method(runs.get_run, "Run")
    list_runs = async_method(runs.list_runs, "list[Run]")
    get_active_run = async_method(runs.get_active_run, "Run | None")

    append_event = async_method(appending.append_event, "Event")
    append_events = async_method(appending.append_events, "list[Event]")
    get_event = async_method(events.get_event, "Event")
    get_latest_sequence = async_method(events.get_latest_sequence, "int")
    pop_event = async_method(removing.pop_event, "Event | None")
    delete_events = async_method(removing.delete_events, "int")

    flush = async_method(sessions.flush, "list[Event]")
    import_session = async_method(imports.import_session, "None")

    get_events = async_waiting_method(reading.get_events)
    iter_events = async_iterating_method(reading.iter_events)
    follow_events = async_following_method(reading.follow_events)


class AsyncTransaction(AsyncOperations):
    """The operations of a store on one connection, committed together when its block ends."""

    _database: AsyncSQLiteTransaction | AsyncPostgresTransaction

    def __init__(self, database: AsyncSQLiteTransaction | AsyncPostgresTransaction) -> None:
        self._database = database

    async def execute(self, sql: str, params: Params = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement of the application's own, as tuples; [] where a statement returns none.

        The placeholders are the driver's: `%s` or `%(name)s` with psycopg, `?` or `:name` with sqlite3. An
        error of the driver is the `__cause__` of ours: Conflict where a row with that key exists,
        ValidationError where the driver did not send the statement, and otherwise StorageError or the class
        of it that fits (ConnectionFailed, StorageTimeout). Nothing can be executed after a statement that
        failed, and nothing of the transaction is committed; only PostgreSQL goes on after `rollback to` a
        savepoint. Do not begin, commit or roll back with it.
        """
        return await self._database.execute(statement(sql), statement_values(params))

    @property
    def connection(self) -> psycopg.AsyncConnection[Any] | sqlite3.Connection:
        """The driver's own connection, for an application's statements that commit with ours.

        What an application leaves on it, such as a setting or a temporary table, ends with the transaction.
        From then on, this raises StoreClosed. On SQLite, `execute` takes less time.
        In an async store on SQLite it is sqlite3's own blocking connection: there, and in code for every
        database, use `execute`.
        """
        return self._database.connection


class AsyncSessionStore(AsyncOperations):
    """Sessions, runs and events in PostgreSQL or SQLite.

    `dsn` is `postgresql://…`, a libpq `key=value` string, `sqlite:///relative.db`,
    `sqlite:////absolute.db` or `sqlite://` (in memory); without one, the environment variable
    ASM_DSN; without that, `sqlite:///asm.db`. A borrowed `pool` is never closed, and keeps the
    limits its owner gave it. `schema` is PostgreSQL's.

    `timeout` seconds wait for a connection or a lock, `statement_timeout` bounds one statement; both
    end in StorageTimeout. Without `statement_timeout`, a read takes as long as it takes while its
    server accepts connections. After a failure that may pass, an operation is retried for `retry_for`
    seconds. `prepare=False` prepares no statement, for a pooler that does not keep them. A statement that
    takes longer than `slow_statement` seconds is a warning of the logger `asm`.

    Opening checks that the tables are there and current, else MigrationRequired; `migrate=True`
    applies what is pending first. A blocking store opens when it is made, and threads may share it. An
    asyncio one is opened by its block or its `open()`, in the event loop that uses it. Processes do not
    share a store.
    """

    _database: AsyncSQLite | AsyncPostgres
    _observer: observing.Observer | None = None

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
        slow_statement: float | None = None,
    ) -> None:
        dsn = as_secret(dsn)
        self._options = store_options(
            min_size, max_size, timeout, statement_timeout, retry_for, prepare, slow_statement
        )
        self._dsn_target = target(dsn, pool, "AsyncConnectionPool", schema, migrate)
        self._pool = pool
        self._migrate = migrate
        # sync only: self._open()
        # begin: async only
        self._closed = False
        self._opening = asyncio.Lock()
        self._database = _UNOPENED

    async def open(self) -> Self:
        """Connect, and check that the tables are there and current. A closed store stays closed."""
        async with self._opening:
            if self._database is _UNOPENED or self._closed:
                self._check_not_closed()
                await self._open()
        return self

    def _check_not_closed(self) -> None:
        if self._closed:
            raise store_closed()

    # end: async only
    async def _open(self) -> None:
        check_exists(self._dsn_target, migrate=self._migrate)
        database = await self._connect()
        # begin: async only
        try:
            self._check_not_closed()
        except StoreClosed:
            await database.close()
            raise
        # end: async only
        self._database = database
        try:
            await self._migrate_or_check()
        except BaseException:
            # begin: async only
            if not self._closed:
                self._database = _UNOPENED
            # end: async only
            await database.close()
            raise
        observing.opened(self)

    async def _connect(self) -> AsyncSQLite | AsyncPostgres:
        address, schema = self._dsn_target.address, self._dsn_target.schema
        if self._dsn_target.dialect == "sqlite":
            # sync only: return SQLite(address, **sqlite_options(self._options))
            return AsyncSQLite(await _open_file(address, sqlite_options(self._options)))  # async only
        from asm.postgres import async_database, async_pools

        if self._pool is None:
            opened = async_pools.connect(address, schema=schema, **self._options)
        else:
            options = borrowed_pool_options(self._options)
            opened = async_database.AsyncPostgres(self._pool, schema=schema, **options)
        try:
            await opened.open()
        except BaseException:
            await opened.close()
            raise
        return opened

    async def _migrate_or_check(self) -> None:
        try:
            await self._check()
        except MigrationRequired:
            if not self._migrate:
                raise
            await asyncio.to_thread(migrate_target, self._dsn_target, self._database)
            await self._check()

    async def _check(self) -> None:
        try:
            applied = await self._database.run(list_applied(self._dsn_target.dialect))
        except MigrationRequired:
            applied = []
        check_complete(applied)
        await self._database.run(check_tables())

    @property
    def maintenance(self) -> AsyncMaintenance:
        """Retention and health checks. Nothing of it runs by itself."""
        return AsyncMaintenance(self._database)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncTransaction]:
        """The same operations on one connection, committed at the end, rolled back on any exception.

        Nothing in it is retried; `run_transaction` does that. `tx.execute` executes a statement of the
        application's own, and `tx.connection` is the driver's connection.
        """
        async with self._database.transaction() as database:
            yield AsyncTransaction(database)

    async def run_transaction(
        self, work: Callable[[AsyncTransaction], Awaitable[T]], *, idempotent: bool = False
    ) -> T:
        """What `work(tx)` returns, in a transaction that is committed when it does.

        `work` is called again, in another transaction, after a failure that certainly left nothing: a
        deadlock, a serialization failure, or a connection that was lost before the commit was sent. Errors of
        the application's own statements count, too. It goes on for `retry_for` seconds, and raises the last
        error then. So `work` should do nothing that a rollback does not undo.

        If the response to the commit is lost, the store determines whether it was applied. If it cannot,
        `work` is called again if it is `idempotent`; otherwise ConnectionFailed is raised, with
        `details["outcome"] == "unknown"`.
        """
        # sync only: plain_function(work, "work")
        function(work, "work")  # async only
        flag(idempotent, "idempotent")

        async def in_transaction(database: AsyncSQLiteTransaction | AsyncPostgresTransaction) -> T:
            called = work(AsyncTransaction(database))
            result: T = await awaitable(called, "work")  # async only
            # sync only: result: T = not_a_coroutine(called, "work")
            return result

        return await self._database.run_transaction(in_transaction, idempotent=idempotent)

    async def close(self) -> None:
        """Give the connections back. A closed store raises StoreClosed; closing it again does nothing.

        Appends that have begun are completed first, and not retried. A SQLite file is closed when the open
        transaction has ended; StorageTimeout where that takes longer than `timeout`. The store refuses
        calls from then on, and can be closed again.
        """
        self._closed = True  # async only
        await self._database.close()

    async def __aenter__(self) -> Self:
        # sync only: return self
        return await self.open()  # async only

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        # A debugger may show a store that is still being made.
        return f"<AsyncSessionStore {getattr(self, '_dsn_target', None)}>"


# begin: async only
class _Unopened:
    """The database of an async store before it is opened."""

    async def run(self, _operation: Operation[T]) -> T:
        raise StoreClosed(NOT_OPEN)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        await self.run(check_tables())
        yield

    async def run_transaction(self, *_: Any, **_options: Any) -> Any:
        raise StoreClosed(NOT_OPEN)

    @property
    def poller(self) -> AsyncPoller:
        raise StoreClosed(NOT_OPEN)

    async def close(self) -> None:
        pass


_UNOPENED: Any = _Unopened()


async def _open_file(path: str, options: dict[str, Any]) -> SQLite:
    # The thread goes on when the task is cancelled: wait for it, and close what it opened.
    opened: list[SQLite] = []
    try:
        await run_to_completion(asyncio.to_thread(lambda: opened.append(SQLite(path, **options))))
    except BaseException:
        for database in opened:
            database.close()
        raise
    return opened[0]


# end: async only
async def run_operation(store: AsyncSessionStore | AsyncTransaction, operation: Operation[T]) -> T:
    """Run an operation that is no method of a store, such as the command or a run of an agent needs."""
    return await store._database.run(operation)
