"""What the stores and the command call: `migrate`, `rollback`, `pending_migrations` and `status`.

Neither a PostgreSQL driver nor yoyo is imported before it is needed: a SQLite store needs no driver, and
a store that is up to date does not need yoyo.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager

from asm import dsn as dsns
from asm.engine.schema_version import TEXT_SEARCH
from asm.errors import ValidationError
from asm.migrations.migrator import Migrator
from asm.migrations.migrator import StoreStatus as StoreStatus
from asm.migrations.sqlite import SQLiteMigrator
from asm.sqlite.connection import open_file
from asm.validation import count, flag

SHARDS = 32
SHARDS_MAX = 64_000
"""What Citus takes at most."""


def migrate(
    dsn: str | None = None,
    *,
    schema: str | None = None,
    text_search: bool = False,
    distributed: bool = False,
    shards: int = SHARDS,
) -> list[str]:
    """Apply all pending migrations or none, and return their ids in the order applied.

    Returns [] when the database is up to date, which needs no right to write. Several processes may call
    it at the same time. Conflict when the file of an applied migration has changed since.

    `text_search` creates the index of the words in events that searches by `text` need, and adds to it the
    events that are not in it yet, in short transactions of their own. If that is stopped, the next call goes
    on with it.

    With `distributed`, the tables are distributed over the workers of Citus by the id of the session, in
    `shards` parts, in the same transaction. The database is that of the coordinator. Tables that are
    distributed already stay as they are. StorageError if there are rows, no workers, or no extension, and
    where the tables have the triggers of optional migrations, which Citus refuses. For the same reason
    tables that are distributed have no index of words.
    """
    dsn = dsns.as_secret(dsn)
    optional = [TEXT_SEARCH] if flag(text_search, "text_search") else []
    if flag(distributed, "distributed"):
        return migrate_distributed(dsn, schema=schema, optional=optional, shards=shards)
    applied = migrate_with(optional, dsn, schema=schema)
    if optional:
        # Imported here, because most programs have no such index.
        from asm.migrations.text_index import index_stored_events

        index_stored_events(dsn, schema=schema)
    return applied


def migrate_distributed(
    dsn: str | None = None,
    *,
    schema: str | None = None,
    optional: Collection[str] = (),
    shards: int = SHARDS,
    with_rows: bool = False,
) -> list[str]:
    """`migrate` with `distributed`. `with_rows` moves the rows that there are.

    ValidationError for `optional` migrations, because all of them create triggers.
    """
    dsn = dsns.as_secret(dsn)
    if optional:
        raise ValidationError(
            f"{', '.join(sorted(optional))} and distributed tables exclude each other, because Citus refuses "
            "the triggers: leave one of them out"
        )
    shards = count(shards, "shards", SHARDS_MAX, minimum=1)
    address = dsns.parse_dsn(dsn, schema)
    if address.dialect != "postgres":
        raise ValidationError("only PostgreSQL with the extension citus distributes tables, not SQLite")
    from asm.migrations.postgres import connected_migrator

    with connected_migrator(address.address, address.schema) as migrator:
        return migrator.migrate_distributed(shards=shards, with_rows=with_rows)


def migrate_with(
    optional: Collection[str], dsn: str | None = None, *, schema: str | None = None
) -> list[str]:
    """Apply all pending migrations, and the optional ones of these names."""
    dsn = dsns.as_secret(dsn)
    with _connected(dsns.parse_dsn(dsn, schema)) as migrator:
        return migrator.migrate(optional)


def migrate_connection(connection: sqlite3.Connection, optional: Collection[str] = ()) -> list[str]:
    """Migrate a SQLite database that only this connection can see."""
    return SQLiteMigrator(connection).migrate(optional)


def rollback(dsn: str | None = None, *, schema: str | None = None, steps: int | None = 1) -> list[str]:
    """Roll back the newest `steps` migrations, all of them for None, and return their ids, the newest first.

    This deletes what they added: the rollback of the first one deletes all data. `asm status` shows which
    migrations are applied. Migrations of an application of its own stay. Conflict if a newer version of asm
    has migrated the database.
    """
    dsn = dsns.as_secret(dsn)
    if steps is not None:
        steps = count(steps, "steps", minimum=1)
    with _connected_if_exists(dsns.parse_dsn(dsn, schema)) as migrator:
        return migrator.rollback(steps)


def pending_migrations(dsn: str | None = None, *, schema: str | None = None) -> list[str]:
    """The ids of the migrations that `migrate` would apply. Conflict when an applied file has changed."""
    dsn = dsns.as_secret(dsn)
    with _connected_if_exists(dsns.parse_dsn(dsn, schema)) as migrator:
        return migrator.pending()


def migration_script(
    dsn: str | None = None, *, schema: str | None = None, optional: Collection[str] = ()
) -> str:
    """The pending migrations as a script for psql or sqlite3, which also marks them as applied."""
    dsn = dsns.as_secret(dsn)
    with _connected_if_exists(dsns.parse_dsn(dsn, schema)) as migrator:
        return migrator.script(optional)


def status(dsn: str | None = None, *, schema: str | None = None) -> StoreStatus:
    """The migrations and the number of rows of a database, which may have no tables."""
    dsn = dsns.as_secret(dsn)
    with _connected_if_exists(dsns.parse_dsn(dsn, schema)) as migrator:
        return migrator.status()


@contextmanager
def _connected_if_exists(address: dsns.Target) -> Iterator[Migrator]:
    """Connect without creating a SQLite file: one that does not exist is treated as an empty database."""
    if address.is_new_file:
        with closing(sqlite3.connect(dsns.MEMORY)) as connection:
            yield SQLiteMigrator(connection)
    else:
        with _connected(address) as migrator:
            yield migrator


@contextmanager
def _connected(address: dsns.Target) -> Iterator[Migrator]:
    if address.dialect == "postgres":
        from asm.migrations.postgres import connected_migrator

        with connected_migrator(address.address, address.schema) as migrator:
            yield migrator
    elif address.address == dsns.MEMORY:
        raise ValidationError(
            "only its own store can see a SQLite database in memory: open the store with migrate=True"
        )
    else:
        with closing(open_file(address.address, timeout=Migrator.lock_timeout_s)) as connection:
            yield SQLiteMigrator(connection)
