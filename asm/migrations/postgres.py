"""Applies migrations to a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from asm.engine.registry import Dialect, QueryRegistry, quote_identifier
from asm.engine.script import Rows
from asm.migrations.files import list_files
from asm.migrations.migrator import Migrator
from asm.postgres.errors import translated
from asm.postgres.server_checks import check_server

ADVISORY_LOCK = 0x61736D
"""The key of the advisory lock, the same in all versions of asm. It spells "asm"."""


class PostgresMigrator(Migrator):
    dialect: Dialect = "postgres"

    def __init__(self, connection: psycopg.Connection[Any], schema: str | None) -> None:
        self.queries = QueryRegistry("postgres", schema)
        self._connection = connection
        self._schema = schema

    @contextmanager
    def locked(self) -> Iterator[None]:
        with translated(), self._connection.transaction():
            self._connection.execute(f"set local lock_timeout = '{self.lock_timeout_s:g}s'".encode())
            self._connection.execute("select pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])
            if self._schema is not None:
                schema = quote_identifier(self._schema)
                if not self._has_schema():
                    self._connection.execute(f"create schema if not exists {schema}".encode())
                # For this transaction only: a pooler may give the next one another connection.
                self._connection.execute(f"set local search_path to {schema}".encode())
            yield

    def _has_schema(self) -> bool:
        # `create schema if not exists` needs the right to create schemas even if the schema exists.
        query = "select 1 from pg_namespace where nspname = %s"
        return self._connection.execute(query, [self._schema]).fetchone() is not None

    def backend(self) -> Any:
        from asm.migrations.yoyo_backends import PostgresBackend

        return PostgresBackend(self._connection, list_files("postgres"))

    def rows(self, query: str) -> Rows:
        statement = self.queries[query].render({}).statements[0]
        # A savepoint keeps the transaction around it usable if a table is missing.
        with translated(), self._connection.transaction():
            return self._connection.execute(statement.sql.encode(), {}).fetchall()


@contextmanager
def connected_migrator(conninfo: str, schema: str | None) -> Iterator[PostgresMigrator]:
    """A migrator with a connection of its own."""
    # Nothing is prepared, because a pooler may give each transaction another server process.
    with (
        translated(),
        psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection,
    ):
        check_server(connection)
        yield PostgresMigrator(connection, schema)
