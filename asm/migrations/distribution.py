"""Distributes the tables of a store over the workers of Citus, by the id of the session."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import psycopg

from asm.engine.registry import TABLES, in_schema, sql_folder
from asm.engine.schema_version import OPTIONAL
from asm.errors import StorageError
from asm.postgres.distributed import REFERENCE_TABLES

_FIRST = "asm_sessions"
"""The table whose shards the others follow: TABLES begins with it."""

_FUNCTION = "asm_append_event"
_ARGUMENTS = "text,text,text,timestamptz,text,json,json,bigint,text,text"


def distribute(
    connection: psycopg.Connection[Any],
    schema: str | None,
    shards: int,
    *,
    applied: Collection[str],
    with_rows: bool,
) -> None:
    """Distribute the tables that are not distributed yet, in the connection's transaction.

    The names of the tables lead to `schema`, a quoted identifier. The function by which single events are
    appended is created again in any case, because a newer asm may have another one. `applied` are the ids of
    the applied migrations.
    """
    _check_cluster(connection)
    _check_no_triggers(applied)
    # Citus creates a function in a transaction only if that has one connection to each worker.
    connection.execute("set local citus.multi_shard_modify_mode to 'sequential'")
    tables = _local_tables(connection)
    if not with_rows:
        _check_empty(connection, tables)
    for table in tables:
        _distribute_table(connection, table, shards)
    create_function(connection, schema)
    _distribute_function(connection, schema)


def _check_cluster(connection: psycopg.Connection[Any]) -> None:
    """StorageError unless the server is the coordinator of a cluster with workers."""
    if not _is_citus(connection):
        raise StorageError(
            "this database has no extension citus, which distributes tables: run `create extension citus` on "
            "the coordinator and on each worker, in databases of this name"
        )
    workers = connection.execute(
        "select pg_catalog.count(*) from pg_catalog.pg_dist_node where isactive and shouldhaveshards"
    ).fetchone()
    if workers == (0,):
        raise StorageError(
            "the coordinator knows no worker that may have shards: add each with "
            "`select citus_add_node('host', 5432)`"
        )


def _is_citus(connection: psycopg.Connection[Any]) -> bool:
    """Whether the database has the extension."""
    query = "select 1 from pg_catalog.pg_extension where extname = 'citus'"
    return connection.execute(query).fetchone() is not None


def _check_no_triggers(applied: Collection[str]) -> None:
    found = [option for option, each in OPTIONAL.items() if not set(each.migrations).isdisjoint(applied)]
    if found:
        raise StorageError(
            f"{_options(found)} has created triggers on the tables, and Citus distributes no table that has "
            "one: run `asm migrate --distributed` in an empty database, and `asm copy` the sessions into it",
            options=found,
        )


def check_optional(connection: psycopg.Connection[Any], optional: Collection[str]) -> None:
    """StorageError where the tables are distributed, and cannot have the triggers of optional ones."""
    if optional and _is_citus(connection) and len(_local_tables(connection)) < len(TABLES):
        raise StorageError(
            f"{_options(optional)} needs triggers on the tables, which Citus refuses on tables that are "
            "distributed: use a database for it that is not distributed",
            options=sorted(optional),
        )


def _options(names: Collection[str]) -> str:
    """How the command spells the options of optional migrations."""
    return f"`asm migrate {' '.join(f'--{name}' for name in sorted(names))}`"


def _local_tables(connection: psycopg.Connection[Any]) -> list[str]:
    """The tables that are not distributed."""
    query = "select 1 from pg_catalog.pg_dist_partition where logicalrelid = pg_catalog.to_regclass(%s)"
    return [table for table in TABLES if connection.execute(query, [table]).fetchone() is None]


def _check_empty(connection: psycopg.Connection[Any], tables: Sequence[str]) -> None:
    filled = [
        table
        for table in tables
        if connection.execute(f"select 1 from {table} limit 1".encode()).fetchone() is not None
    ]
    if filled:
        raise StorageError(
            f"{', '.join(filled)} has rows, and to distribute them locks the tables until all are copied to "
            "the workers: run `asm migrate --distributed --with-rows` while no program uses the store, or "
            "`asm copy` into an empty database that is distributed",
            tables=filled,
        )


def _distribute_table(connection: psycopg.Connection[Any], table: str, shards: int) -> None:
    if table in REFERENCE_TABLES:
        connection.execute("select pg_catalog.create_reference_table(%s)", [table])
    elif table == _FIRST:
        # Not together with the tables of others that have as many shards.
        create = (
            "select pg_catalog.create_distributed_table(%s, 'id', shard_count := %s, colocate_with := 'none')"
        )
        connection.execute(create, [table, shards])
    else:
        create = "select pg_catalog.create_distributed_table(%s, 'session_id', colocate_with := %s)"
        connection.execute(create, [table, _FIRST])
    # What it has copied is still there, too, and takes space.
    connection.execute("select pg_catalog.truncate_local_data_after_distributing_table(%s)", [table])


def create_function(connection: psycopg.Connection[Any], schema: str | None) -> None:
    """Create the function that appends a single event, whether the tables are distributed or not."""
    create = sql_folder("citus").joinpath("append_event.sql").read_text("utf-8")
    connection.execute("\n".join(in_schema(line, schema) for line in create.splitlines()).encode())


def _distribute_function(connection: psycopg.Connection[Any], schema: str | None) -> None:
    """Have the coordinator hand each call to the worker with the session."""
    call = "select pg_catalog.create_distributed_function(%s, 'session', colocate_with := 'asm_events')"
    connection.execute(call, [f"{in_schema(_FUNCTION, schema)}({_ARGUMENTS})"])


def drop_function(connection: psycopg.Connection[Any], schema: str | None) -> None:
    """Drop the function that `distribute` creates, if it is there."""
    connection.execute(f"drop function if exists {in_schema(_FUNCTION, schema)}({_ARGUMENTS})".encode())
