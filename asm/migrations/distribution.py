"""Distributes the tables of a store over the workers of Citus, by the id of the session."""

from __future__ import annotations

from typing import Any

import psycopg

from asm.engine.registry import TABLES, in_schema, sql_folder
from asm.errors import StorageError
from asm.postgres.distributed import REFERENCE_TABLES

_KEYS = {"asm_sessions": "id"}
"""The column by which a table is distributed, if it is not `session_id`."""

_FUNCTION = "asm_append_event"
_ARGUMENTS = "text,text,text,timestamptz,text,json,json,bigint,text,text"


def distribute(
    connection: psycopg.Connection[Any], schema: str | None, shards: int, *, with_rows: bool
) -> bool:
    """Distribute the tables, in the connection's transaction. Returns whether they were not distributed yet.

    The names of the tables lead to `schema`, a quoted identifier. The function by which single events are
    appended is created again in any case, because a newer asm may have another one.
    """
    _check_cluster(connection)
    # Citus creates a function in a transaction only if that has one connection to each worker.
    connection.execute("set local citus.multi_shard_modify_mode to 'sequential'")
    is_new = not _is_distributed(connection)
    if is_new:
        if not with_rows:
            _check_empty(connection)
        _distribute_tables(connection, shards)
    _create_function(connection, schema)
    return is_new


def _check_cluster(connection: psycopg.Connection[Any]) -> None:
    """StorageError unless the server is the coordinator of a cluster with workers."""
    found = connection.execute("select 1 from pg_catalog.pg_extension where extname = 'citus'").fetchone()
    if found is None:
        raise StorageError(
            "this database has no extension citus, which distributes tables: run `create extension citus` on "
            "the coordinator and on each worker, in databases of this name"
        )
    workers = connection.execute(
        "select count(*) from pg_catalog.pg_dist_node where isactive and shouldhaveshards"
    ).fetchone()
    if workers == (0,):
        raise StorageError(
            "the coordinator knows no worker that may have shards: add each with "
            "`select citus_add_node('host', 5432)`"
        )


def _is_distributed(connection: psycopg.Connection[Any]) -> bool:
    found = connection.execute(
        "select 1 from pg_catalog.pg_dist_partition where logicalrelid = 'asm_sessions'::regclass"
    ).fetchone()
    return found is not None


def _check_empty(connection: psycopg.Connection[Any]) -> None:
    filled = [
        table
        for table in TABLES
        if connection.execute(f"select 1 from {table} limit 1".encode()).fetchone() is not None
    ]
    if filled:
        raise StorageError(
            f"{', '.join(filled)} has rows, and to distribute them locks the tables until all are copied to "
            "the workers: run `asm migrate --distributed --with-rows` while no program uses the store, or "
            "`asm copy` into an empty database that is distributed",
            tables=filled,
        )


def _distribute_tables(connection: psycopg.Connection[Any], shards: int) -> None:
    for table in TABLES:
        if table in REFERENCE_TABLES:
            connection.execute("select pg_catalog.create_reference_table(%s)", [table])
        elif table == "asm_sessions":
            create = "select pg_catalog.create_distributed_table(%s, %s, shard_count := %s)"
            connection.execute(create, [table, _KEYS[table], shards])
        else:
            create = "select pg_catalog.create_distributed_table(%s, 'session_id', colocate_with := %s)"
            connection.execute(create, [table, "asm_sessions"])


def _create_function(connection: psycopg.Connection[Any], schema: str | None) -> None:
    create = sql_folder("citus").joinpath("append_event.sql").read_text("utf-8")
    connection.execute("\n".join(in_schema(line, schema) for line in create.splitlines()).encode())
    call = "select pg_catalog.create_distributed_function(%s, 'session', colocate_with := 'asm_events')"
    connection.execute(call, [f"{in_schema(_FUNCTION, schema)}({_ARGUMENTS})"])
