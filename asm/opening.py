"""What both stores check before they open: the DSN or the pool, the limits, the file."""

from __future__ import annotations

from typing import Any

from asm import dsn
from asm.errors import ValidationError
from asm.migrations.files import check_complete
from asm.migrations.runner import migrate as apply_pending
from asm.migrations.runner import migrate_connection
from asm.operations import reading
from asm.validation import count, flag

LIMIT_MAX_S = 2_147_483
"""PostgreSQL counts timeouts in milliseconds of 31 bits."""


def target(dsn_: str | None, pool: Any, pool_class: type, schema: str | None, migrate: bool) -> dsn.Target:
    if pool is None:
        return dsn.parse_dsn(dsn_, schema)
    if dsn_ is not None or migrate:
        raise ValidationError(
            "a store with a borrowed pool takes no dsn and no migrate: run asm.migrate(dsn) before"
        )
    if not isinstance(pool, pool_class):
        raise ValidationError(f"pool must be a psycopg_pool.{pool_class.__name__}, not {type(pool).__name__}")
    return dsn.parse_dsn("postgresql://", schema)


def store_limits(
    min_size: int,
    max_size: int,
    timeout: float,
    statement_timeout: float | None,
    retry_for: float,
    prepare: bool,
) -> dict[str, Any]:
    min_size, max_size = count(min_size, "min_size"), count(max_size, "max_size")
    if min_size > max_size or max_size == 0:
        raise ValidationError(
            f"max_size must be at least 1 and at least min_size, not {max_size}", path="max_size"
        )
    timeout_s = reading.seconds(retry_for, "retry_for")
    if timeout_s is None:
        raise ValidationError("retry_for must be a number of seconds; 0 turns it off", path="retry_for")
    return {
        "min_size": min_size,
        "max_size": max_size,
        "timeout": limit(timeout, "timeout"),
        "statement_timeout": None
        if statement_timeout is None
        else limit(statement_timeout, "statement_timeout"),
        "retry_for": timeout_s,
        "prepare": flag(prepare, "prepare"),
    }


def limit(value: float, name: str) -> float:
    limit_s = reading.seconds(value, name) or 0.0
    if not 0 < limit_s <= LIMIT_MAX_S:
        raise ValidationError(f"{name} must be more than 0 and at most {LIMIT_MAX_S:,} seconds", path=name)
    return limit_s


def sqlite_limits(limits: dict[str, Any]) -> dict[str, Any]:
    return {name: limits[name] for name in ("timeout", "statement_timeout")}


def borrowed_pool_limits(limits: dict[str, Any]) -> dict[str, Any]:
    """What a borrowed pool leaves to its borrower."""
    return {name: limits[name] for name in ("statement_timeout", "retry_for", "prepare")}


def check_exists(place: dsn.Target, *, migrate: bool) -> None:
    if place.is_new_file and not migrate:
        check_complete("sqlite", [], f"there is no file {place.address} for this asm")


def migrate_target(place: dsn.Target, database: Any) -> None:
    if place.address == dsn.MEMORY:
        migrate_connection(database.connection)
    else:
        apply_pending(place.dsn, schema=place.schema)
