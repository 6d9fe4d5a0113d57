"""What both stores check before they open: the DSN or the pool, the options, the file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from asm import dsn
from asm.errors import ValidationError
from asm.migrations.files import check_complete
from asm.validation import count, flag, safe_repr, seconds

LIMIT_MAX_S = 2_147_483
"""PostgreSQL stores a timeout as milliseconds in 31 bits."""


def target(dsn_: str | None, pool: Any, pool_class: str, schema: str | None, migrate: bool) -> dsn.Target:
    if pool is None:
        return dsn.parse_dsn(dsn_, schema)
    if dsn_ is not None or migrate:
        raise ValidationError(
            "a store with a borrowed pool takes no dsn and no migrate: run asm.migrate(dsn) before"
        )
    server = dsn.parse_dsn("postgresql://", schema)
    import psycopg_pool

    if not isinstance(pool, getattr(psycopg_pool, pool_class)):
        raise ValidationError(f"pool must be a psycopg_pool.{pool_class}, not {type(pool).__name__}")
    return server


def store_options(
    min_size: int,
    max_size: int,
    timeout: float,
    statement_timeout: float | None,
    retry_for: float,
    prepare: bool,
    slow_statement: float | None,
) -> dict[str, Any]:
    min_size, max_size = count(min_size, "min_size"), count(max_size, "max_size", minimum=1)
    if min_size > max_size:
        raise ValidationError(
            f"max_size must be at least min_size, which is {min_size}, not {max_size}", path="max_size"
        )
    timeout_s = seconds(retry_for, "retry_for")
    if timeout_s is None:
        raise ValidationError(
            "retry_for must be a number of seconds, not None: 0 turns retries off", path="retry_for"
        )
    return {
        "min_size": min_size,
        "max_size": max_size,
        "timeout": limit(timeout, "timeout"),
        "statement_timeout": None
        if statement_timeout is None
        else limit(statement_timeout, "statement_timeout"),
        "retry_for": timeout_s,
        "prepare": flag(prepare, "prepare"),
        "slow_statement": seconds(slow_statement, "slow_statement"),
    }


def limit(value: float, name: str) -> float:
    limit_s = seconds(value, name) or 0.0
    if not 0 < limit_s <= LIMIT_MAX_S:
        raise ValidationError(
            f"{name} must be more than 0 and at most {LIMIT_MAX_S:,} seconds, not {safe_repr(value)}",
            path=name,
        )
    return limit_s


def sqlite_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("timeout", "statement_timeout", "slow_statement")}


def borrowed_pool_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options that do not belong to the owner of a borrowed pool."""
    return {name: options[name] for name in ("statement_timeout", "retry_for", "prepare", "slow_statement")}


def check_exists(at: dsn.Target, *, migrate: bool) -> None:
    if at.is_new_file and not migrate:
        check_complete([], f"there is no file {at.address} for this asm")


def migrate_store(store: Any, optional: Collection[str]) -> None:
    """Apply what is pending in the database of an open store, and the optional migrations of these names."""
    if store._pool is not None:
        raise ValidationError(
            "a store with a borrowed pool does not know its DSN: migrate with the DSN before"
        )
    migrate_target(store._dsn_target, store._database, optional)


def migrate_target(at: dsn.Target, database: Any, optional: Collection[str] = ()) -> None:
    """Apply what is pending, and the optional migrations of these names."""
    # Imported here, because most programs open a store that is up to date.
    from asm.migrations.runner import migrate_connection, migrate_with

    if at.address == dsn.MEMORY:
        migrate_connection(database.connection, optional)
    else:
        migrate_with(optional, at.dsn, schema=at.schema)
