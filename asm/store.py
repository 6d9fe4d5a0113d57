# Generated from asm/async_store.py by `make sync`. Change that file instead.

"""The store: a table of contents.

Every operation is a function in the module of its noun, which returns a value that says what to ask the
database. `method` makes a method of it that has the store's database run that value;
`waiting_method` and `iterating_method` do the same for operations that poll, and
`job_method` for jobs. The method keeps the function's parameters, result and docstring, so that
type checkers and `help()` show them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from asm import observing
from asm.dsn import as_secret
from asm.engine.script import Database, Operation, Params
from asm.errors import MigrationRequired
from asm.maintenance import health, retention
from asm.methods import (
    following_method,
    iterating_method,
    job_method,
    method,
    paging_method,
    waiting_method,
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
from asm.sqlite.database import SQLite, SQLiteTransaction
from asm.validation import flag, not_a_coroutine, plain_function, statement, statement_values

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import ConnectionPool

    from asm.postgres.database import Postgres
    from asm.postgres.transaction import PostgresTransaction

T = TypeVar("T")


class ArtifactRegistry:
    """`store.artifacts`: where large objects are stored, by key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    register = method(artifacts.register, "None")
    get_by_key = method(artifacts.get_by_key, "Artifact | None")
    list_by_session = method(artifacts.list_by_session, "list[Artifact]")
    session_stats = method(artifacts.session_stats, "ArtifactStats")
    delete = method(artifacts.delete, "None")


class QueryAPI:
    """`store.query`: searches and sums across sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    search_sessions = method(search.search_sessions, "Page[Session]")
    search_runs = method(search.search_runs, "Page[Run]")
    search_events = method(search.search_events, "Page[Event]")
    count_events = method(search.count_events, "int")
    iter_sessions = paging_method(search.iter_sessions, "Iterator[Session]")
    iter_runs = paging_method(search.iter_runs, "Iterator[Run]")
    iter_events = paging_method(search.iter_events, "Iterator[Event]")
    get_session_stats = method(summaries.get_session_stats, "SessionStats")
    get_usage_summary = method(summaries.get_usage_summary, "UsageSummary")
    get_cost_summary = method(summaries.get_cost_summary, "CostSummary")
    export_session = method(exports.export_session, "SessionExport")


class Maintenance:
    """`store.maintenance`: retention and health checks.

    Nothing of it runs by itself, nor inside a transaction: it runs many short ones of its own.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    execute = job_method(retention.execute, "MaintenanceReport")
    soft_delete_expired_sessions = job_method(retention.soft_delete_expired_sessions, "int")
    hard_delete_expired_sessions = job_method(retention.hard_delete_expired_sessions, "int")
    prune_session_events = job_method(retention.prune_session_events, "int")
    clean_orphaned_artifacts = job_method(retention.clean_orphaned_artifacts, "int")
    clean_orphaned_sequences = job_method(retention.clean_orphaned_sequences, "int")
    health_check = job_method(health.health_check, "list[HealthIssue]")
    list_stale_runs = method(runs.list_stale_runs, "list[Run]")


class Operations:
    """The operations of a store, which a transaction has, too."""

    _database: Database

    @property
    def artifacts(self) -> ArtifactRegistry:
        """Where large objects are stored, by key."""
        return ArtifactRegistry(self._database)

    @property
    def query(self) -> QueryAPI:
        """Searches and sums across sessions."""
        return QueryAPI(self._database)

    save_session = method(sessions.save_session, "None")
    update_session = method(sessions.update_session, "Session")
    get_session = method(sessions.get_session, "Session")
    get_sessions = method(sessions.get_sessions, "list[Session]")
    list_sessions = method(sessions.list_sessions, "list[Session]")
    delete_session = method(sessions.delete_session, "None")
    fork_session = method(forks.fork_session, "Session")

    save_run = method(runs.save_run, "None")
    update_run = method(runs.update_run, "Run")
    get_run = method(runs.get_run, "Run")
    list_runs = method(runs.list_runs, "list[Run]")
    get_active_run = method(runs.get_active_run, "Run | None")

    append_event = method(appending.append_event, "Event")
    append_events = method(appending.append_events, "list[Event]")
    get_event = method(events.get_event, "Event")
    get_latest_sequence = method(events.get_latest_sequence, "int")
    pop_event = method(removing.pop_event, "Event | None")
    delete_events = method(removing.delete_events, "int")

    flush = method(sessions.flush, "list[Event]")
    import_session = method(imports.import_session, "None")

    get_events = waiting_method(reading.get_events)
    iter_events = iterating_method(reading.iter_events)
    follow_events = following_method(reading.follow_events)


class Transaction(Operations):
    """The operations of a store on one connection, committed together when its block ends."""

    _database: SQLiteTransaction | PostgresTransaction

    def __init__(self, database: SQLiteTransaction | PostgresTransaction) -> None:
        self._database = database

    def execute(self, sql: str, params: Params = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement of the application's own, as tuples; [] where a statement returns none.

        The placeholders are the driver's: `%s` or `%(name)s` with psycopg, `?` or `:name` with sqlite3. An
        error of the driver is the `__cause__` of ours: Conflict where a row with that key exists,
        ValidationError where the driver did not send the statement, and otherwise StorageError or the class
        of it that fits (ConnectionFailed, StorageTimeout). Nothing can be executed after a statement that
        failed, and nothing of the transaction is committed; only PostgreSQL goes on after `rollback to` a
        savepoint. Do not begin, commit or roll back with it.
        """
        return self._database.execute(statement(sql), statement_values(params))

    @property
    def connection(self) -> psycopg.Connection[Any] | sqlite3.Connection:
        """The driver's own connection, for an application's statements that commit with ours.

        What an application leaves on it, such as a setting or a temporary table, ends with the transaction.
        From then on, this raises StoreClosed. On SQLite, `execute` takes less time.
        In an async store on SQLite it is sqlite3's own blocking connection: there, and in code for every
        database, use `execute`.
        """
        return self._database.connection


class SessionStore(Operations):
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

    _database: SQLite | Postgres
    _observer: observing.Observer | None = None

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
        slow_statement: float | None = None,
    ) -> None:
        dsn = as_secret(dsn)
        self._options = store_options(
            min_size, max_size, timeout, statement_timeout, retry_for, prepare, slow_statement
        )
        self._dsn_target = target(dsn, pool, "ConnectionPool", schema, migrate)
        self._pool = pool
        self._migrate = migrate
        self._open()

    def _open(self) -> None:
        check_exists(self._dsn_target, migrate=self._migrate)
        database = self._connect()
        self._database = database
        try:
            self._migrate_or_check()
        except BaseException:
            database.close()
            raise
        observing.opened(self)

    def _connect(self) -> SQLite | Postgres:
        address, schema = self._dsn_target.address, self._dsn_target.schema
        if self._dsn_target.dialect == "sqlite":
            return SQLite(address, **sqlite_options(self._options))
        from asm.postgres import database, pools

        if self._pool is None:
            opened = pools.connect(address, schema=schema, **self._options)
        else:
            options = borrowed_pool_options(self._options)
            opened = database.Postgres(self._pool, schema=schema, **options)
        try:
            opened.open()
        except BaseException:
            opened.close()
            raise
        return opened

    def _migrate_or_check(self) -> None:
        try:
            self._check()
        except MigrationRequired:
            if not self._migrate:
                raise
            migrate_target(self._dsn_target, self._database)
            self._check()

    def _check(self) -> None:
        try:
            applied = self._database.run(list_applied(self._dsn_target.dialect))
        except MigrationRequired:
            applied = []
        check_complete(applied)
        self._database.run(check_tables())

    @property
    def maintenance(self) -> Maintenance:
        """Retention and health checks. Nothing of it runs by itself."""
        return Maintenance(self._database)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """The same operations on one connection, committed at the end, rolled back on any exception.

        Nothing in it is retried; `run_transaction` does that. `tx.execute` executes a statement of the
        application's own, and `tx.connection` is the driver's connection.
        """
        with self._database.transaction() as database:
            yield Transaction(database)

    def run_transaction(self, work: Callable[[Transaction], T], *, idempotent: bool = False) -> T:
        """What `work(tx)` returns, in a transaction that is committed when it does.

        `work` is called again, in another transaction, after a failure that certainly left nothing: a
        deadlock, a serialization failure, or a connection that was lost before the commit was sent. Errors of
        the application's own statements count, too. It goes on for `retry_for` seconds, and raises the last
        error then. So `work` should do nothing that a rollback does not undo.

        If the response to the commit is lost, the store determines whether it was applied. If it cannot,
        `work` is called again if it is `idempotent`; otherwise ConnectionFailed is raised, with
        `details["outcome"] == "unknown"`.
        """
        plain_function(work, "work")
        flag(idempotent, "idempotent")

        def in_transaction(database: SQLiteTransaction | PostgresTransaction) -> T:
            called = work(Transaction(database))
            result: T = not_a_coroutine(called, "work")
            return result

        return self._database.run_transaction(in_transaction, idempotent=idempotent)

    def close(self) -> None:
        """Give the connections back. A closed store raises StoreClosed; closing it again does nothing.

        Appends that have begun are completed first, and not retried. A SQLite file is closed when the open
        transaction has ended; StorageTimeout where that takes longer than `timeout`. The store refuses
        calls from then on, and can be closed again.
        """
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        # A debugger may show a store that is still being made.
        return f"<SessionStore {getattr(self, '_dsn_target', None)}>"


def run_operation(store: SessionStore | Transaction, operation: Operation[T]) -> T:
    """Run an operation that is no method of a store, such as the command or a run of an agent needs."""
    return store._database.run(operation)
