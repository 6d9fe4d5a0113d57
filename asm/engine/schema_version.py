"""Names the version of the program and of the database when a statement does not fit the tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from asm import shown
from asm.engine.registry import TABLES, Dialect
from asm.engine.script import Pipeline, Query, Rows, no_result
from asm.errors import MigrationRequired

MIGRATIONS: Sequence[str] = ("0001-agent-sessions",)
"""The ids of the migrations of this version of asm, in order, the same for both dialects.

Another file in the folder of the migrations is not asm's, and is neither applied nor counted.
"""


class OptionalTables(NamedTuple):
    """Migrations that are applied only where they are asked for, after those that a store needs."""

    migrations: Sequence[str]
    """Their ids, in order. Each begins with a letter, so that it sorts after those that a store needs."""
    check: str
    """A query that returns no row, and fails where one of their tables is missing."""
    count_rows: str
    """A query of the names of their tables, without "asm_", and their numbers of rows."""


TEXT_SEARCH = "text-search"
"""The option of the index for searches by text."""

OPTIONAL: Mapping[str, OptionalTables] = {
    "langgraph": OptionalTables(
        ("langgraph-0001-checkpoints",), "check_checkpoint_tables", "count_checkpoint_rows"
    ),
    TEXT_SEARCH: OptionalTables(("text-search-0001-words",), "check_text_tables", "count_text_rows"),
}
"""The optional migrations, by the options of `asm migrate`. Their files are in `sql/<dialect>/optional/`."""


def list_applied(dialect: Dialect) -> Query[list[str]] | Pipeline[list[str]]:
    """The ids of asm's applied migrations, in order. MigrationRequired if the database never had one."""
    applied = Query("list_migrations", {}, partial(own_migrations, known=MIGRATIONS))
    if dialect == "sqlite":
        return applied
    pipeline: Pipeline[list[str]] = Pipeline(
        lambda: (use_schema_of_tables(), applied),
        itemgetter(-1),
        lambda: pipeline.run_sequentially(),
        size=2,
        sessions=(),
    )
    return pipeline


def use_schema_of_tables() -> Query[None]:
    """Resolves the names in the rest of the transaction in the schema of the tables, if there are any."""
    return Query("use_schema_of_tables", {"tables": TABLES}, no_result)


def own_migrations(rows: Rows, known: Collection[str]) -> list[str]:
    """Of the rows of list_migrations, the ids that this program knows, or that a newer asm applied."""
    return [id for id, is_logged_by_asm in rows if is_logged_by_asm or id in known]


def add_versions(error: MigrationRequired, applied: Sequence[str]) -> None:
    """Say in the error which migration is the program's newest and which the database's, and what to do."""
    optional = {id for each in OPTIONAL.values() for id in each.migrations}
    applied = [id for id in applied if id not in optional]
    newer = [id for id in applied if id not in MIGRATIONS]
    if newer and set(MIGRATIONS) <= set(applied):
        newest, advice = newer[-1], "upgrade asm, because the database is newer"
    else:
        newest, advice = (
            max(applied, default="none"),
            "run `asm migrate`, or open the store with migrate=True",
        )
    reason = str(error.__cause__ or error).partition("\n")[0]
    known = MIGRATIONS[-1]
    message = f"the newest migration of this program is {known}, that of the database is {newest}; {advice}"
    error.args = (shown.message(f"{reason}: {message}"),)
    error.details |= shown.details({"program_migration": known, "database_migration": newest})
