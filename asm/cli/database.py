"""`asm migrate`, `asm status` and `asm rollback`: the tables of a store."""

from __future__ import annotations

from dataclasses import asdict

import click

from asm.cli.display import show_status
from asm.cli.options import dsn_argument, json_option, print_json
from asm.cli.printer import Printer
from asm.dsn import parse_dsn
from asm.migrations import runner


@click.command()
@dsn_argument
def migrate(dsn: str | None, schema: str | None) -> None:
    """Create the tables, or bring them up to date.

    All pending migrations are applied in one transaction. Open stores go on working.
    """
    applied = runner.migrate(dsn, schema=schema)
    for migration in applied:
        click.echo(f"applied {migration}")
    if not applied:
        click.echo("up to date")


@click.command()
@dsn_argument
@json_option
def status(dsn: str | None, schema: str | None, *, as_json: bool) -> None:
    """Show the versions, the migrations and the number of rows."""
    found = runner.status(dsn, schema=schema)
    if as_json:
        print_json(asdict(found))
    else:
        show_status(Printer(), str(parse_dsn(dsn, schema)), found)


@click.command()
@dsn_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def rollback(dsn: str | None, schema: str | None, *, yes: bool) -> None:
    """Drop the tables with all their rows."""
    found = runner.status(dsn, schema=schema)
    if not found.applied:
        click.echo("nothing to roll back")
        return
    if not yes:
        rows = ", ".join(f"{number:,} {table}" for table, number in found.rows.items() if number)
        target = parse_dsn(dsn, schema)
        click.confirm(
            f"This deletes all data in {target}: {rows or 'no rows'}. Continue?", abort=True, err=True
        )
    for migration in runner.rollback(dsn, schema=schema):
        click.echo(f"rolled back {migration}")
