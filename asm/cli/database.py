"""`asm migrate`, `asm status` and `asm rollback`: the tables of a store."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.console import Console

from asm.cli.display import show_status
from asm.cli.options import dsn_argument, json_option, print_json
from asm.cli.printer import Printer
from asm.cli.text import one_line, quantity
from asm.dsn import parse_dsn
from asm.engine.schema_version import TEXT_SEARCH
from asm.migrations import runner
from asm.migrations.files import list_files
from asm.migrations.migrator import StoreStatus
from asm.migrations.text_index import index_stored_events


@click.command()
@dsn_argument
@click.option("--langgraph", is_flag=True, help="Also create the tables of LangGraph's checkpoints.")
@click.option("--text-search", is_flag=True, help="Also index the words in events, for searches by text.")
@click.option("--distributed", is_flag=True, help="Also distribute the tables over the workers of Citus.")
@click.option(
    "--shards", type=click.IntRange(1, runner.SHARDS_MAX), metavar="N", help="In N parts. Default: 32."
)
@click.option("--with-rows", is_flag=True, help="Also move rows, while the tables are locked.")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL of what is pending, and change nothing.")
def migrate(
    dsn: str | None,
    schema: str | None,
    *,
    distributed: bool,
    shards: int | None,
    with_rows: bool,
    as_sql: bool,
    **optional: bool,
) -> None:
    """Create the tables, or bring them up to date.

    All pending migrations are applied in one transaction. Open stores go on working.

    Optional tables are created where an option asks for them, and kept up to date from then on.

    --text-search also indexes the events that are not in the index yet, in short transactions of their own.
    Run it from time to time: a search reads the events that are not in the index. It can be stopped and run
    again, beside programs that append.

    --distributed is for the coordinator of a Citus cluster. A session and all that it has are on one worker.
    It excludes the optional tables, which need triggers.

    The output of --sql is a script for psql or sqlite3, which also marks the migrations as applied.

    \b
    asm migrate sqlite:///agents.db
    asm migrate --distributed postgresql://app@coordinator/agents
    asm migrate postgresql://app@db/agents --sql | psql postgresql://app@db/agents
    """
    asked = [name.replace("_", "-") for name, is_asked in optional.items() if is_asked]
    if not distributed and (shards or with_rows):
        raise click.UsageError("--shards and --with-rows are about --distributed: give that, too.")
    if as_sql and distributed:
        raise click.UsageError("--sql does not print how tables are distributed: leave one of them out.")
    if as_sql:
        click.echo(runner.migration_script(dsn, schema=schema, optional=asked), nl=False)
        return
    if distributed:
        applied = runner.migrate_distributed(
            dsn, schema=schema, optional=asked, shards=shards or runner.SHARDS, with_rows=with_rows
        )
    else:
        applied = runner.migrate_with(asked, dsn, schema=schema)
    for migration in applied:
        click.echo(f"applied {migration}")
    indexed = _index(dsn, schema) if TEXT_SEARCH in asked else 0
    if not applied and not indexed:
        click.echo("up to date")


def _index(dsn: str | None, schema: str | None) -> int:
    """Index the events that are not in the index yet, and return how many there were."""
    console = Console(stderr=True)
    with console.status("Indexing") as status:
        indexed = index_stored_events(
            dsn,
            schema=schema,
            progress=lambda number: status.update(f"Indexing: {quantity(number, 'event')}"),
        )
    if indexed:
        click.echo(f"indexed {quantity(indexed, 'event')}")
    return indexed


@click.command()
@dsn_argument
@json_option
@click.pass_context
def status(ctx: click.Context, dsn: str | None, schema: str | None, *, as_json: bool) -> None:
    """Show the versions, the migrations and the number of rows.

    The exit status is 1 when a migration is pending.

    \b
    asm status sqlite:///agents.db
    asm status --json | jq .rows
    """
    found = runner.status(dsn, schema=schema)
    if as_json:
        print_json(asdict(found))
    else:
        show_status(Printer(), str(parse_dsn(dsn, schema)), found)
    ctx.exit(1 if found.pending else 0)


@click.command()
@dsn_argument
@click.option(
    "--steps", type=click.IntRange(1), metavar="N", help="Undo the newest N migrations. Default: 1."
)
@click.option("--all", "undo_all", is_flag=True, help="Undo all migrations.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def rollback(dsn: str | None, schema: str | None, *, steps: int | None, undo_all: bool, yes: bool) -> None:
    """Undo the newest migration, or several.

    A table that a migration added is dropped with its rows. Before it asks for confirmation it prints which
    tables are dropped, and how many rows they have.

    \b
    asm rollback sqlite:///agents.db
    asm rollback sqlite:///agents.db --all --yes
    """
    if undo_all and steps is not None:
        raise click.UsageError("--steps and --all contradict each other: give one of them.")
    number = None if undo_all else steps or 1
    found = runner.status(dsn, schema=schema)
    if not found.applied:
        click.echo("nothing to roll back")
        return
    click.echo(one_line(_consequences(found, number, str(parse_dsn(dsn, schema)))), err=True)
    if not yes:
        click.confirm("Continue?", abort=True, err=True)
    for migration in runner.rollback(dsn, schema=schema, steps=number):
        click.echo(f"rolled back {migration}")


def _consequences(found: StoreStatus, steps: int | None, target: str) -> str:
    """What the rollback of the newest migrations deletes."""
    undone = found.applied[::-1][:steps]
    dropped = [table for file in list_files(found.dialect) if file.id in undone for table in file.drops]
    rows = {f"asm_{table}": number for table, number in found.rows.items()}
    tables = [
        f"{table} ({rows[table]:,} {'row' if rows[table] == 1 else 'rows'})" if table in rows else table
        for table in dropped
    ]
    consequence = f"drops {', '.join(tables)}" if tables else "drops no table"
    return f"Rolling back {', '.join(undone)} in {target} {consequence}."
