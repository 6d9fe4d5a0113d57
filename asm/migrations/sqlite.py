"""Applies migrations to a SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asm.engine.registry import Dialect, QueryRegistry
from asm.engine.script import Rows
from asm.migrations.files import list_files
from asm.migrations.migrator import Migrator
from asm.sqlite.connection import retry_while_busy
from asm.sqlite.errors import translated


class SQLiteMigrator(Migrator):
    dialect: Dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.queries = QueryRegistry("sqlite")
        self._connection = connection

    @contextmanager
    def locked(self) -> Iterator[None]:
        with translated():
            retry_while_busy(self._connection, "begin immediate", self.lock_timeout_s)
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def backend(self) -> Any:
        from asm.migrations.yoyo_backends import SQLiteBackend

        return SQLiteBackend(self._connection, list_files("sqlite"))

    def rows(self, query: str) -> Rows:
        statement = self.queries[query].render({}).statements[0]
        with translated():
            return self._connection.execute(statement.sql).fetchall()

    def script_head(self) -> str:
        return ".bail on\nbegin immediate;"

    utc_now = "strftime('%Y-%m-%dT%H:%M:%f', 'now')"
