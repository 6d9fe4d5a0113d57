"""yoyo on a connection of ours, inside a transaction of ours.

yoyo's backends open connections and transactions as they go. These take one that is open:
where yoyo begins they set a savepoint, where it commits they do nothing, and a copy of one
is itself. yoyo is imported here and nowhere else, because a store that is up to date has no
use for it.
"""

from __future__ import annotations

import getpass
import os
import socket
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import yoyo
from yoyo import internalmigrations
from yoyo.backends.base import DatabaseBackend, SavepointTransactionManager
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.backends.core.sqlite3 import SQLiteBackend as YoyoSQLiteBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import MigrationList, default_migration_table

from asm.migrations.files import Migration


class _ExistingConnection(DatabaseBackend):
    """The part of a yoyo backend that minds connections and transactions."""

    log_migration_sql = (
        "INSERT INTO {0.log_table_quoted} "
        "({quoted.id}, {quoted.migration_hash}, {quoted.migration_id}, {quoted.operation}, "
        "{quoted.username}, {quoted.hostname}, {quoted.created_at_utc}, {quoted.comment}) "
        "VALUES (:id, :migration_hash, :migration_id, :operation, "
        ":username, :hostname, :created_at_utc, :comment)"
    )

    def __init__(self, connection: Any, known: Sequence[Migration]) -> None:
        self._getconn = connection
        self._checksums = {step.id: step.checksum for step in known}
        super().__init__(DatabaseURI("asm", None, None, None, None, None, {}), default_migration_table)
        self.create_lock_table()

    def __enter__(self) -> _ExistingConnection:
        return self

    def __exit__(self, *error: object) -> None:
        # Ours to close, not yoyo's.
        return None

    def connect(self, _uri: Any) -> Any:
        return self._getconn

    def copy(self) -> _ExistingConnection:
        return self

    def transaction(self, rollback_on_exit: bool = False) -> AbstractContextManager[Any]:
        transaction: AbstractContextManager[Any] = SavepointTransactionManager(self, rollback_on_exit)
        return transaction

    def disable_transactions(self) -> AbstractContextManager[Any]:
        raise RuntimeError(
            "asm's migrations all run in one transaction: `transactional: false` is not for them"
        )

    def create_lock_table(self) -> None:
        if self.lock_table in self.list_tables():
            return
        try:
            with self.transaction():
                self.execute(self.format_sql(self.create_lock_table_sql))
        except self.DatabaseError:
            # yoyo's own command, which knows nothing of our lock, may have made it meanwhile.
            if self.lock_table not in self.list_tables():
                raise

    def ensure_internal_schema_updated(self) -> None:
        if internalmigrations.needs_upgrading(self):
            internalmigrations.upgrade(self)

    def takes_lock(self) -> bool:
        """Whether yoyo's lock row is ours now. It is not where its own command set one, or a crash left it.

        Not yoyo's own way, which takes a lost connection for a lock, and waits.
        """
        insert = f"insert into {self.lock_table_quoted} (locked, pid) values (1, :pid) on conflict do nothing"
        return bool(self.execute(insert, {"pid": os.getpid()}).rowcount)

    def read_migrations(self, folder: Path) -> MigrationList:
        return yoyo.read_migrations(str(folder))

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
        # Not yoyo's own: it asks for the host's full name, which can wait long for a name
        # server, and for a user name, which a container may not have.
        return {
            "id": str(uuid.uuid1()),
            "migration_id": migration.id,
            "migration_hash": migration.hash,
            "operation": operation,
            "username": _user(),
            "hostname": socket.gethostname(),
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "comment": self._checksums.get(migration.id) if operation == "apply" else None,
        }


class PostgresBackend(_ExistingConnection, PostgresqlPsycopgBackend):
    """yoyo on a psycopg connection."""

    _getconn: psycopg.Connection[Any]


class SQLiteBackend(_ExistingConnection, YoyoSQLiteBackend):
    """yoyo on a sqlite3 connection."""

    _getconn: sqlite3.Connection

    def execute(self, sql: str, params: Mapping[str, Any] | None = None) -> Any:
        # Spelled here, because Python's own adapter for times is deprecated and yoyo's is
        # registered for every connection of the process.
        spelled = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in (params or {}).items()
        }
        return super().execute(sql, spelled)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
