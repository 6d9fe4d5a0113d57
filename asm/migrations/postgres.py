"""Applies migrations to a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from asm.engine.registry import Dialect, QueryRegistry, quote_identifier
from asm.engine.schema_version import use_schema_of_tables
from asm.engine.script import Rows
from asm.migrations.distribution import check_optional, distribute, drop_function
from asm.migrations.files import list_files
from asm.migrations.migrator import Migrator
from asm.postgres.errors import translated
from asm.postgres.server_checks import SHOW_SEARCH_PATH, check_search_path, check_server

ADVISORY_LOCK = 0x61736D
"""The key of the advisory lock, the same in all versions of asm. It spells "asm"."""


class PostgresMigrator(Migrator):
    dialect: Dialect = "postgres"

    def __init__(self, connection: psycopg.Connection[Any], schema: str | None) -> None:
        # If the role may not use the schema, PostgreSQL says so only for names that are qualified.
        self.queries = QueryRegistry("postgres", schema)
        self._connection = connection
        self._schema = schema

    @contextmanager
    def locked(self) -> Iterator[None]:
        with translated(self._connection), self._connection.transaction():
            self._connection.execute(f"set local lock_timeout = '{self.lock_timeout_s:g}s'".encode())
            self._connection.execute("select pg_catalog.pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])
            if self._schema is not None and not self._has_schema():
                schema = quote_identifier(self._schema)
                self._connection.execute(f"create schema if not exists {schema}".encode())
            self._use_schema()
            yield

    def _has_schema(self) -> bool:
        # `create schema if not exists` needs the right to create schemas even if the schema exists.
        query = "select 1 from pg_catalog.pg_namespace where nspname = %s"
        return self._connection.execute(query, [self._schema]).fetchone() is not None

    def _use_schema(self) -> str | None:
        """Resolve the names in the rest of the transaction in the schema of the tables, and return it.

        Without a name it is the one that the names of the tables lead to, or None if they lead nowhere: new
        tables are then created in the first schema of the search path.
        """
        # For this transaction only: a pooler may give the next one another connection.
        if self._schema is not None:
            use = "select pg_catalog.set_config('search_path', %s, true)"
            found = self._connection.execute(use, [quote_identifier(self._schema)])
        else:
            query = use_schema_of_tables()
            params = {name: list(value) for name, value in query.params.items()}
            statement = self.queries[query.query].render(params).statements[0]
            found = self._connection.execute(statement.sql.encode(), params)
        row = found.fetchone()
        return row[0] if row else None

    def migrate_distributed(self, *, shards: int, with_rows: bool = False) -> list[str]:
        """Apply what is pending and distribute the tables, in one transaction."""

        def work(backend: Any) -> list[str]:
            applied = self._apply((), backend)
            schema = self._use_schema()
            distribute(self._connection, schema, shards, applied=self._applied(), with_rows=with_rows)
            return applied

        return self._with_lock(work)

    def _apply(self, optional: Collection[str], backend: Any) -> list[str]:
        check_optional(self._connection, optional)
        return super()._apply(optional, backend)

    def script(self, optional: Collection[str] = ()) -> str:
        with translated(self._connection), self._connection.transaction():
            self._use_schema()
            check_optional(self._connection, optional)
        return super().script(optional)

    def _roll_back(self, steps: int | None, backend: Any) -> list[str]:
        undone = super()._roll_back(steps, backend)
        if not self._applied():
            drop_function(self._connection, self._use_schema())
        return undone

    def backend(self) -> Any:
        from asm.migrations.yoyo_backends import PostgresBackend

        return PostgresBackend(self._connection, list_files("postgres"))

    def rows(self, query: str) -> Rows:
        statement = self.queries[query].render({}).statements[0]
        # A savepoint keeps the transaction around it usable if a table is missing.
        with translated(self._connection), self._connection.transaction():
            self._use_schema()
            return self._connection.execute(statement.sql.encode(), {}).fetchall()

    def script_head(self) -> str:
        with translated(self._connection), self._connection.transaction():
            creates = self._schema is not None and not self._has_schema()
            schema = self._use_schema()
        lines = [
            "\\set ON_ERROR_STOP on",
            "set client_encoding to 'UTF8';",
            "begin;",
            "set local client_min_messages to warning;",
            f"set local lock_timeout = '{self.lock_timeout_s:g}s';",
            f"select pg_catalog.pg_advisory_xact_lock({ADVISORY_LOCK});",
        ]
        if creates:
            lines.append(f"create schema if not exists {schema};")
        if schema is not None:
            lines.append(f"set local search_path to {schema};")
        return "\n".join(lines)

    utc_now = "pg_catalog.now() at time zone 'utc'"


@contextmanager
def connected_migrator(conninfo: str, schema: str | None) -> Iterator[PostgresMigrator]:
    """A migrator with a connection of its own."""
    # Nothing is prepared, because a pooler may give each transaction another server process.
    with (
        translated(),
        psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection,
    ):
        check_server(connection)
        [(schemas,)] = connection.execute(SHOW_SEARCH_PATH).fetchall()
        check_search_path(schemas)
        yield PostgresMigrator(connection, schema)
