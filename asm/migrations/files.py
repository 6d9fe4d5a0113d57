"""The migrations as their files have them, and what the database says of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from asm.engine.registry import Dialect, sql_folder
from asm.engine.script import Query, no_result
from asm.errors import (
    MigrationRequired,
)


class Migration(NamedTuple):
    """A step as its file has it today."""

    id: str
    checksum: str


def list_applied() -> Query[list[str]]:
    """The ids of the migrations a store's database has. MigrationRequired where it never had one."""
    return Query("list_migrations", {}, lambda rows: [row[0] for row in rows])


def check_tables() -> Query[None]:
    """Nothing, or MigrationRequired naming the table that is missing."""
    return Query("check_tables", {}, no_result)


def check_complete(
    dialect: Dialect, applied: list[str], lack: str = "the tables are missing or older than this asm"
) -> None:
    """MigrationRequired when a database lacks a step this version of asm needs."""
    if missing := [step.id for step in list_files(dialect) if step.id not in applied]:
        raise MigrationRequired(
            f"{lack}, which needs {', '.join(missing)}. "
            "Run `asm migrate`, or open the store with migrate=True",
            pending=missing,
        )


def migrations_folder(dialect: Dialect) -> Path:
    return sql_folder(dialect) / "migrations"


def list_files(dialect: Dialect) -> list[Migration]:
    """Every step this version of asm knows, in order."""
    files = sorted(migrations_folder(dialect).glob("*.sql"))
    return [
        Migration(file.stem, _checksum(file)) for file in files if not file.name.endswith(".rollback.sql")
    ]


def _checksum(file: Path) -> str:
    # Line ends are a matter of the checkout, not of the migration.
    content = file.read_bytes().replace(b"\r\n", b"\n")
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
