# Generated from asm/postgres/async_server_checks.py by `make sync`. Change that file instead.

"""Whether a server and a connection can keep what the store promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

from asm.engine.registry import TABLES, quote_identifier
from asm.errors import StorageError
from asm.postgres.adapters import PlainCursor
from asm.postgres.connections import CONFIGURE_TIMEOUT_S, StoreConnection
from asm.postgres.distributed import Probed, check_distribution
from asm.postgres.errors import translated
from asm.postgres.outcomes import CHECK_IDENTIFICATION
from asm.postgres.timeouts import Limit, limited

SERVER_VERSION_MIN = 140000


def probe(conninfo: str, schema: str | None) -> Probed:
    """Connect once, and raise what is wrong; a pool would go on trying in the background."""
    with translated():
        connection = StoreConnection.connect(conninfo, autocommit=True)
        try:
            check_server(connection)
            with limited(connection, Limit(CONFIGURE_TIMEOUT_S)):
                is_distributed = check_database(connection, schema)
                # A coordinator knows its own part of a distributed transaction, and not what its workers did.
                return Probed(not is_distributed and can_identify(connection), is_distributed)
        finally:
            connection.close()


def check_server(connection: Connection[Any]) -> None:
    """Raise StorageError for a server that is too old, or an encoding that lacks characters."""
    info = connection.info
    if info.server_version < SERVER_VERSION_MIN:
        raise StorageError(
            f"asm requires PostgreSQL {SERVER_VERSION_MIN // 10000} or newer; this server is "
            f"PostgreSQL {info.server_version // 10000}"
        )
    encoding = info.parameter_status("server_encoding")
    if encoding not in _ENCODINGS:
        raise StorageError(
            f"the encoding of this database is {encoding}, which cannot represent every character: "
            "create one with `create database … encoding 'UTF8' template template0`"
        )
    if info.encoding != "utf-8":
        raise StorageError(
            f"the encoding of these connections is {info.parameter_status('client_encoding')}, which cannot "
            "represent every character: give the pool's connections client_encoding=UTF8"
        )


_ENCODINGS = ("UTF8", "SQL_ASCII")
"""A SQL_ASCII database stores the bytes of UTF-8 as they are and converts nothing."""


def check_database(connection: Connection[Any], schema: str | None) -> bool:
    """Raise StorageError if results may be incomplete, or statements may call functions of others.

    Citus may distribute a table of the store, and a statement may not be atomic there, unless all are as
    `asm migrate --distributed` distributes them. Returns whether they are. A GIN index, with
    gin_fuzzy_search_limit, leaves out sessions with a tag. `check_search_path` is about the functions.
    """
    cursor = PlainCursor(connection, row_factory=tuple_row)
    cursor.execute(_INSPECT, prepare=False)
    [(search_path, process, gin_limit, has_citus)] = cursor.fetchall()
    check_search_path(search_path)
    sets_gin_limit = isinstance(connection, StoreConnection) and process == connection.info.backend_pid
    if gin_limit != "0" and not sets_gin_limit:
        raise StorageError(
            f"gin_fuzzy_search_limit is {gin_limit} on these connections, which lets PostgreSQL leave out "
            "sessions with a tag: set it to 0 for the role or the database"
        )
    if not has_citus:
        return False
    prefix = "" if schema is None else f"{quote_identifier(schema)}."
    cursor.execute(_FIND_DISTRIBUTED, {"tables": [prefix + table for table in TABLES]}, prepare=False)
    return check_distribution(cursor.fetchall())


def check_search_path(schemas: Sequence[str]) -> None:
    """Raise StorageError if another schema precedes PostgreSQL's own.

    PostgreSQL searches pg_catalog first unless the search_path names it. An operator or a type of the same
    name in an earlier schema is used in place of PostgreSQL's own, and another role may have created it.
    """
    # PostgreSQL looks for no function and no operator in the schema of temporary tables.
    first, *_ = [schema for schema in schemas if not schema.startswith("pg_temp_")]
    if first != "pg_catalog":
        raise StorageError(
            f"the search_path of these connections names pg_catalog after {first}, so that operators and "
            "types in that schema would replace PostgreSQL's own: leave pg_catalog out of the search_path, "
            "and PostgreSQL searches it first"
        )


SHOW_SEARCH_PATH = "select pg_catalog.current_schemas(true)"
"""The schemas in the order in which PostgreSQL searches them."""

_INSPECT = f"""
{SHOW_SEARCH_PATH}, pg_catalog.pg_backend_pid(),
       pg_catalog.current_setting('gin_fuzzy_search_limit'),
       pg_catalog.to_regclass('pg_catalog.pg_dist_partition') is not null
"""

# Not a query file: its queries must prepare on every server, and only Citus has this table.
_FIND_DISTRIBUTED = """
select logicalrelid::text, relation.relname, partmethod::text, colocationid
  from pg_catalog.pg_dist_partition
  join pg_catalog.pg_class as relation on relation.oid = logicalrelid::oid
 where logicalrelid::oid in (
       select pg_catalog.to_regclass(name)::oid
         from pg_catalog.unnest(%(tables)s::text[]) as name
 )
 order by 1
"""


def can_identify(connection: Connection[Any]) -> bool:
    """Whether the server has and permits the functions that tell what became of a lost commit."""
    try:
        PlainCursor(connection).execute(CHECK_IDENTIFICATION, prepare=False)
    except psycopg.Error:
        if connection.closed:
            raise
        return False
    finally:
        if not (connection.autocommit or connection.closed):
            connection.rollback()
    return True


def is_direct(connection: Connection[Any]) -> bool:
    """Whether no pooler stands in between: a pooler reports a process id that is not the server's."""
    cursor = PlainCursor(connection, row_factory=tuple_row)
    cursor.execute(
        "select 1 where pg_catalog.pg_backend_pid() = %(process)s",
        {"process": connection.info.backend_pid},
        prepare=False,
    )
    return bool(cursor.rowcount)
