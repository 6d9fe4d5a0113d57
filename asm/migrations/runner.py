"""Bringing a database up to date, with yoyo and nothing else.

yoyo marks a migration as applied in another transaction than it runs it in, keeps its own
lock as a row that a crash leaves behind, and knows a migration by its file name only. So it
is given one connection, inside one transaction that holds the database's own lock: all of
it happens or nothing does, a process that is killed leaves nothing, and several that start
together wait for each other. What the files held when they were applied is written into
yoyo's log, in its comment.
"""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import psycopg

from asm import dsn as dsns
from asm.engine.registry import Dialect, QueryRegistry, quote_identifier
from asm.engine.script import Rows
from asm.errors import (
    Conflict,
    ConnectionFailed,
    MigrationRequired,
    StorageError,
    StorageTimeout,
    ValidationError,
)
from asm.migrations.files import list_files, migrations_folder
from asm.migrations.yoyo_backends import PostgresBackend, SQLiteBackend
from asm.postgres import errors as postgres_errors
from asm.postgres.server_checks import check_server
from asm.sqlite import errors as sqlite_errors
from asm.sqlite.connection import open_file, retry_while_busy

T = TypeVar("T")

LOCK_TIMEOUT_S = 60.0
"""How long to wait for another process that is migrating."""

STALE_AFTER_S = 10.0
"""How long a lock row of yoyo's own command may stand before it counts as left by a crash."""

# Any number serves, so long as all versions of asm take the same one. It spells "asm".
_ADVISORY_LOCK = 0x61736D


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What a database holds of ours. `rows` is empty while there are no tables."""

    dialect: Dialect
    version: str
    applied: list[str]
    pending: list[str]
    rows: dict[str, int]


def migrate(dsn: str | None = None, *, schema: str | None = None) -> list[str]:
    """Apply what is pending, all of it or none of it, and return the ids in the order applied.

    Returns [] when the database is up to date. Several processes may call it at once. Conflict
    when the file of a migration that was applied has been changed since.
    """
    dsn = dsns.as_secret(dsn)
    with _opened(dsns.parse_dsn(dsn, schema)) as database:
        return database.migrate()


def migrate_connection(connection: sqlite3.Connection) -> list[str]:
    """The same for a SQLite database that only this connection can see."""
    return _SQLite(connection).migrate()


def rollback(dsn: str | None = None, *, schema: str | None = None) -> list[str]:
    """Take every migration back, the last one first, with all that is stored, and return their ids."""
    dsn = dsns.as_secret(dsn)
    with _read_only(dsns.parse_dsn(dsn, schema)) as database:
        return database.rollback()


def pending_migrations(dsn: str | None = None, *, schema: str | None = None) -> list[str]:
    """The ids of what `migrate` would apply. Conflict when an applied file was changed."""
    dsn = dsns.as_secret(dsn)
    with _read_only(dsns.parse_dsn(dsn, schema)) as database:
        return database.pending()


def status(dsn: str | None = None, *, schema: str | None = None) -> StoreStatus:
    """What a database holds of ours, tables or not."""
    dsn = dsns.as_secret(dsn)
    with _read_only(dsns.parse_dsn(dsn, schema)) as database:
        return database.status()


class _Database(ABC):
    """What is done alike on both: yoyo inside one transaction that holds the database's lock."""

    dialect: Dialect
    queries: QueryRegistry

    def migrate(self) -> list[str]:
        return self._exclusively(self._apply)

    def rollback(self) -> list[str]:
        return self._exclusively(self._take_back)

    def pending(self) -> list[str]:
        self._check_unchanged()
        applied = self._applied()
        return [step.id for step in list_files(self.dialect) if step.id not in applied]

    def status(self) -> StoreStatus:
        applied = self._applied()
        pending = [step.id for step in list_files(self.dialect) if step.id not in applied]
        rows: dict[str, int] = dict(self.rows("count_rows")) if applied else {}
        return StoreStatus(self.dialect, self.rows("get_version")[0][0], applied, pending, rows)

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """A transaction that no other migration runs beside."""

    @abstractmethod
    def backend(self) -> Any:
        """yoyo, on this connection."""

    @abstractmethod
    def rows(self, query: str) -> Rows:
        """The rows of a query without parameters."""

    def _exclusively(self, work: Callable[[Any], T]) -> T:
        begun = time.monotonic()
        while True:
            # Not waiting inside: whoever holds yoyo's lock by hand needs the database to finish.
            with _retry_conflicts(until=begun + LOCK_TIMEOUT_S), self.locked():
                backend = self.backend()
                if time.monotonic() > begun + STALE_AFTER_S:
                    backend.break_lock()
                if backend.takes_lock():
                    backend.ensure_internal_schema_updated()
                    done = work(backend)
                    backend.break_lock()
                    return done
            time.sleep(0.1)

    def _apply(self, backend: Any) -> list[str]:
        self._check_unchanged()
        steps = backend.read_migrations(migrations_folder(self.dialect))
        if not self._applied():
            # What is marked all the same was dropped by hand, and is made again.
            backend.unmark_migrations(backend.to_rollback(steps))
        steps = backend.to_apply(steps)
        backend.apply_migrations(steps)
        return [step.id for step in steps]

    def _take_back(self, backend: Any) -> list[str]:
        steps = backend.to_rollback(backend.read_migrations(migrations_folder(self.dialect)))
        backend.rollback_migrations(steps)
        return [step.id for step in steps]

    def _applied(self) -> list[str]:
        """The ids of what is marked. Without the tables a mark counts for nothing."""
        try:
            self.rows("check_tables")
            return [migration_id for (migration_id,) in self.rows("list_migrations")]
        except MigrationRequired:
            return []

    def _check_unchanged(self) -> None:
        """Conflict where a file is not what it was when it was applied."""
        applied = self._applied()
        noted: dict[str, str | None] = dict(self.rows("list_checksums")) if applied else {}
        for step in list_files(self.dialect):
            # yoyo's own command notes nothing, so what it applied cannot be compared.
            if step.id in applied and noted.get(step.id) not in (None, step.checksum):
                raise Conflict(
                    f"migration {step.id} was changed after it was applied: restore its file, "
                    "and put the change into a migration of its own",
                    migration=step.id,
                )


@contextmanager
def _retry_conflicts(until: float) -> Iterator[None]:
    """Pass over what a transaction that met another is told, for some time."""
    try:
        yield
    except StorageError as error:
        # A step may lock tables in another order than those who write to them meanwhile.
        met = error.retryable and not isinstance(error, ConnectionFailed | StorageTimeout)
        if not met or time.monotonic() > until:
            raise


class _Postgres(_Database):
    dialect: Dialect = "postgres"

    def __init__(self, connection: psycopg.Connection[Any], schema: str | None) -> None:
        self.queries = QueryRegistry("postgres", schema)
        self._connection = connection
        self._schema = schema

    @contextmanager
    def locked(self) -> Iterator[None]:
        with postgres_errors.translated(), self._connection.transaction():
            self._connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT_S:g}s'".encode())
            self._connection.execute("select pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
            if self._schema is not None:
                # Only in this transaction: a pooler hands the next one another connection.
                schema = quote_identifier(self._schema)
                if not self._has_schema():
                    self._connection.execute(f"create schema if not exists {schema}".encode())
                self._connection.execute(f"set local search_path to {schema}".encode())
            yield

    def _has_schema(self) -> bool:
        # `if not exists` asks for the right to make schemas even where there is nothing to make.
        named = "select 1 from pg_namespace where nspname = %s"
        return self._connection.execute(named, [self._schema]).fetchone() is not None

    def backend(self) -> Any:

        return PostgresBackend(self._connection, list_files(self.dialect))

    def rows(self, query: str) -> Rows:
        statement = self.queries[query].render({}).statements[0]
        # In a savepoint, so that a table that is missing does not spoil the transaction around it.
        with postgres_errors.translated(), self._connection.transaction():
            return self._connection.execute(statement.sql.encode(), {}).fetchall()


class _SQLite(_Database):
    dialect: Dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.queries = QueryRegistry("sqlite")
        self._connection = connection

    @contextmanager
    def locked(self) -> Iterator[None]:
        with sqlite_errors.translated():
            retry_while_busy(self._connection, "begin immediate", LOCK_TIMEOUT_S)
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def backend(self) -> Any:

        return SQLiteBackend(self._connection, list_files(self.dialect))

    def rows(self, query: str) -> Rows:
        statement = self.queries[query].render({}).statements[0]
        with sqlite_errors.translated():
            return self._connection.execute(statement.sql).fetchall()


@contextmanager
def _read_only(place: dsns.Target) -> Iterator[_Database]:
    if place.is_new_file:
        # As empty as one in memory, and not created by a question.
        with closing(sqlite3.connect(dsns.MEMORY)) as connection:
            yield _SQLite(connection)
    else:
        with _opened(place) as database:
            yield database


@contextmanager
def _opened(place: dsns.Target) -> Iterator[_Database]:
    if place.dialect == "postgres":
        # Nothing is prepared, because a pooler may give each transaction another server process.
        connected = partial(psycopg.connect, place.address, autocommit=True, prepare_threshold=None)
        with postgres_errors.translated(), connected() as connection:
            check_server(connection)
            yield _Postgres(connection, place.schema)
    elif place.address == dsns.MEMORY:
        raise ValidationError(
            "a SQLite database in memory is seen by its own store only: open that with migrate=True"
        )
    else:
        with closing(open_file(place.address, timeout=LOCK_TIMEOUT_S)) as connection:
            yield _SQLite(connection)
