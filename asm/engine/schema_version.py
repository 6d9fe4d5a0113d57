"""Names the version of the program and of the database when a statement does not fit the tables."""

from __future__ import annotations

from collections.abc import Sequence

from asm.engine.registry import Dialect, sql_folder
from asm.engine.script import Query
from asm.errors import MigrationRequired


def list_applied() -> Query[list[str]]:
    """The ids of the applied migrations, in order. MigrationRequired if the database never had one."""
    return Query("list_migrations", {}, lambda rows: [row[0] for row in rows])


def add_versions(error: MigrationRequired, dialect: Dialect, applied: Sequence[str]) -> None:
    """Say in the error which migration is the program's newest and which the database's, and what to do."""
    known = sorted(
        file.name.removesuffix(".rollback.sql")
        for file in (sql_folder(dialect) / "migrations").glob("*.rollback.sql")
    )
    newer = [id for id in applied if id not in known]
    if newer and set(known) <= set(applied):
        newest, advice = newer[-1], "upgrade asm, because the database is newer"
    else:
        newest, advice = (
            max(applied, default="none"),
            "run `asm migrate`, or open the store with migrate=True",
        )
    reason = str(error.__cause__ or error).partition("\n")[0]
    message = (
        f"the newest migration of this program is {known[-1]}, that of the database is {newest}; {advice}"
    )
    error.args = (f"{reason}: {message}",)
    error.details = {**error.details, "program_migration": known[-1], "database_migration": newest}
