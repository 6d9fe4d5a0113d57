"""The migration files of this version of asm, and whether a database has them all."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from asm.engine.registry import Dialect, sql_folder
from asm.engine.schema_version import MIGRATIONS as MIGRATIONS
from asm.engine.schema_version import OPTIONAL
from asm.engine.schema_version import list_applied as list_applied
from asm.engine.script import Query, no_result
from asm.errors import MigrationRequired


class Migration(NamedTuple):
    """The file of a migration, and that of its rollback."""

    id: str
    checksum: str
    file: Path

    @property
    def drops(self) -> list[str]:
        """The names of the tables that its rollback drops."""
        return _DROP_TABLE.findall(self.file.with_suffix(".rollback.sql").read_text("utf-8"))


_DROP_TABLE = re.compile(r"^drop table (?:if exists )?(\w+)", re.IGNORECASE | re.MULTILINE)


def check_tables() -> Query[None]:
    """Nothing, or MigrationRequired with the name of the missing table."""
    return Query("check_tables", {}, no_result)


def check_complete(
    applied: list[str],
    reason: str = "the tables are missing or older than this version of asm",
) -> None:
    """MigrationRequired if the database lacks a migration of this version of asm.

    Migrations that only the database has are fine: a newer version of asm has applied them.
    """
    if pending := [id for id in MIGRATIONS if id not in applied]:
        raise MigrationRequired(
            f"{reason}, which needs {', '.join(pending)}. "
            "Run `asm migrate`, or open the store with migrate=True",
            pending=pending,
        )


def migrations_folder(dialect: Dialect) -> Path:
    """The folder of the migrations that a store needs, for yoyo's own command."""
    return sql_folder(dialect) / "migrations"


def list_files(dialect: Dialect) -> list[Migration]:
    """All migrations of this version of asm, in order, whatever else lies beside their files.

    The optional ones are the last.
    """
    files = {id: migrations_folder(dialect) / f"{id}.sql" for id in MIGRATIONS}
    for each in OPTIONAL.values():
        files |= {id: sql_folder(dialect) / "optional" / f"{id}.sql" for id in each.migrations}
    return [Migration(id, _checksum(file), file) for id, file in files.items()]


def needed_migrations(marked: Collection[str], optional: Collection[str] = ()) -> list[str]:
    """The ids of the migrations that a database is to have, in order.

    They are those that a store needs, and the optional ones that are asked for by name, or of which a part
    is marked as applied.
    """
    wanted = [
        each.migrations
        for name, each in OPTIONAL.items()
        if name in optional or not set(marked).isdisjoint(each.migrations)
    ]
    return [*MIGRATIONS, *(id for ids in wanted for id in ids)]


def _checksum(file: Path) -> str:
    # Imported here, because a store that is up to date compares no checksum.
    import hashlib

    # Line ends depend on the checkout.
    content = file.read_bytes().replace(b"\r\n", b"\n")
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
