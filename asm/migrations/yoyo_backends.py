"""yoyo backends that use an open connection, inside the caller's transaction.

yoyo's own backends open connections and transactions themselves. These set a savepoint where yoyo
begins a transaction, and do nothing where it commits. yoyo 9 has no way to be given a connection; not
reported upstream yet. yoyo is imported here and nowhere else.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from asm.migrations.files import Migration

if TYPE_CHECKING:
    import psycopg

try:
    from yoyo import internalmigrations
    from yoyo.backends.base import DatabaseBackend, SavepointTransactionManager
    from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
    from yoyo.backends.core.sqlite3 import SQLiteBackend as YoyoSQLiteBackend
    from yoyo.connections import DatabaseURI
    from yoyo.migrations import Migration as YoyoMigration
    from yoyo.migrations import MigrationList, default_migration_table
except ModuleNotFoundError as error:
    raise ImportError("migrations need yoyo: pip install yoyo-migrations") from error


class _ExistingConnection(DatabaseBackend):
    """The part of a yoyo backend that handles connections and transactions."""

    log_migration_sql = (
        "INSERT INTO {0.log_table_quoted} "
        "({quoted.id}, {quoted.migration_hash}, {quoted.migration_id}, {quoted.operation}, "
        "{quoted.username}, {quoted.hostname}, {quoted.created_at_utc}, {quoted.comment}) "
        "VALUES (:id, :migration_hash, :migration_id, :operation, "
        ":username, :hostname, :created_at_utc, :comment)"
    )

    def __init__(self, connection: Any, files: Sequence[Migration]) -> None:
        self._open_connection = connection
        self._files = {file.id: file for file in files}
        super().__init__(DatabaseURI("asm", None, None, None, None, None, {}), default_migration_table)
        self.create_lock_table()

    def __enter__(self) -> _ExistingConnection:
        return self

    def __exit__(self, *error: object) -> None:
        # The caller closes the connection.
        return None

    def connect(self, _uri: Any) -> Any:
        return self._open_connection

    def copy(self) -> _ExistingConnection:
        return self

    def transaction(self, rollback_on_exit: bool = False) -> AbstractContextManager[Any]:
        transaction: AbstractContextManager[Any] = SavepointTransactionManager(self, rollback_on_exit)
        return transaction

    def disable_transactions(self) -> AbstractContextManager[Any]:
        raise RuntimeError("`transactional: false` is not supported: all migrations run in one transaction")

    def create_lock_table(self) -> None:
        if self.lock_table in self.list_tables():
            return
        try:
            with self.transaction():
                self.execute(self.format_sql(self.create_lock_table_sql))
        except self.DatabaseError:
            # yoyo's own command, which does not take the database's lock, may have just created it.
            if self.lock_table not in self.list_tables():
                raise

    def ensure_internal_schema_updated(self) -> None:
        with _logging_at_debug():
            if internalmigrations.needs_upgrading(self):
                internalmigrations.upgrade(self)

    def apply_migrations(self, migrations: MigrationList, force: bool = False) -> None:
        with _logging_at_debug():
            super().apply_migrations(migrations, force)

    def rollback_migrations(self, migrations: MigrationList, force: bool = False) -> None:
        with _logging_at_debug():
            super().rollback_migrations(migrations, force)

    def insert_lock_row(self) -> bool:
        """Insert yoyo's lock row. False if its own command holds it, or a crash has left it behind.

        yoyo's own method is not used: it takes a lost connection for a held lock, and waits. Not reported
        upstream yet.
        """
        insert = f"insert into {self.lock_table_quoted} (locked, pid) values (1, :pid) on conflict do nothing"
        return bool(self.execute(insert, {"pid": os.getpid()}).rowcount)

    def lock_holder(self) -> tuple[int, datetime] | None:
        """The process that inserted the visible lock row, and when in UTC; None if it has ended."""
        row = self.execute(f"select pid, ctime from {self.lock_table_quoted}").fetchone()
        if row is None:
            return None
        pid, since = row
        since = datetime.fromisoformat(since) if isinstance(since, str) else since or datetime.min
        return pid, since.replace(tzinfo=UTC)

    def read_migrations(self) -> MigrationList:
        # yoyo's own function takes the folder for a glob pattern, and executes every Python file in it.
        return MigrationList(
            [YoyoMigration(id, str(each.file), str(each.file.parent)) for id, each in self._files.items()]
        )

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
        # yoyo's own method looks up the fully qualified host name, which can wait long for a name server,
        # and a user name, which a container may not have. Not reported upstream yet.
        return {
            "id": str(uuid.uuid1()),
            "migration_id": migration.id,
            "migration_hash": migration.hash,
            "operation": operation,
            "username": _user(),
            "hostname": socket.gethostname(),
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "comment": self._files[migration.id].checksum if operation == "apply" else None,
        }


class PostgresBackend(_ExistingConnection, PostgresqlPsycopgBackend):
    """yoyo on a psycopg connection."""

    # PostgreSQL has no operator for the types of these columns, and another role may have made one.
    list_tables_sql = (
        "SELECT table_name FROM information_schema.tables WHERE table_schema OPERATOR(pg_catalog.=) :schema"
    )
    unmark_migration_sql = (
        "DELETE FROM {0.migration_table_quoted} "
        "WHERE {quoted.migration_hash} OPERATOR(pg_catalog.=) :migration_hash"
    )

    _open_connection: psycopg.Connection[Any]


class SQLiteBackend(_ExistingConnection, YoyoSQLiteBackend):
    """yoyo on a sqlite3 connection."""

    _open_connection: sqlite3.Connection

    def execute(self, sql: str, params: Mapping[str, Any] | None = None) -> Any:
        # Python's default datetime adapter is deprecated, and one registered with sqlite3 would apply to
        # every connection of the process.
        encoded = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in (params or {}).items()
        }
        return super().execute(sql, encoded)


@contextmanager
def _logging_at_debug() -> Iterator[None]:
    """Log at DEBUG what yoyo logs at INFO: a line for each step, of which a migration has many."""
    log = logging.getLogger("yoyo.migrations")

    def lower(record: logging.LogRecord) -> bool:
        if record.levelno != logging.INFO:
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return log.isEnabledFor(logging.DEBUG)

    log.addFilter(lower)
    try:
        yield
    finally:
        log.removeFilter(lower)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
