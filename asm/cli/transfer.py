"""`asm copy`: a whole store to another."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from asm.cli import copying
from asm.cli.display import show_copied
from asm.cli.dsn_file import given_dsn
from asm.cli.printer import Printer
from asm.dsn import MEMORY, Target, parse_dsn
from asm.migrations import runner
from asm.store import SessionStore
from asm.store_files import StoreFiles

_SAME = "SRC and DST are the same store."


@click.command()
@click.argument("source", metavar="SRC", type=given_dsn)
@click.argument("target", metavar="DST", type=given_dsn)
@click.option("--from-schema", metavar="NAME", help="The PostgreSQL schema of the tables of SRC.")
@click.option("--to-schema", metavar="NAME", help="The PostgreSQL schema of the tables of DST.")
def copy(source: str, target: str, from_schema: str | None, to_schema: str | None) -> None:
    """Copy a whole store into another.

    SRC and DST are DSNs, such as those of a SQLite file and of a PostgreSQL server, or @FILE with a DSN. If
    DST has no tables, they are created. Ids, sequence numbers, times, soft-deleted sessions and the rows
    of artifacts are copied unchanged. Stop all programs that write to SRC first.

    Rows that exist in DST are skipped, so an interrupted copy is completed by running it again. A row
    that exists in DST with different contents is an error. At the end the rows of both stores are
    counted. The exit status is 1 if DST has fewer.

    \b
    asm copy sqlite:///agents.db postgresql://app@db/agents
    asm copy @old.dsn @new.dsn
    """
    _check_target(parse_dsn(source, from_schema), parse_dsn(target, to_schema))
    with SessionStore(source, schema=from_schema) as src:
        is_empty = not runner.status(target, schema=to_schema).applied
        with SessionStore(target, schema=to_schema, migrate=is_empty) as dst:
            if copying.is_same_store(src, dst):
                raise click.UsageError(_SAME)
            _copy(src, dst)
            source_rows, target_rows = copying.count_rows(src), copying.count_rows(dst)
    show_copied(Printer(), source_rows, target_rows)
    if any(target_rows[table] < rows for table, rows in source_rows.items()):
        click.echo(
            "asm: DST has fewer rows than SRC: stop the programs that write to SRC and copy again", err=True
        )
        sys.exit(1)


def _check_target(source: Target, target: Target) -> None:
    if target.address == MEMORY:
        raise click.UsageError("DST is in memory and would be lost when the command ends: name a file.")
    if target.dialect == "sqlite" and Path(target.address) in StoreFiles(source):
        raise click.UsageError(_SAME)


def _copy(source: SessionStore, target: SessionStore) -> None:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("Copying", total=sum(copying.count_rows(source).values()))
        for number in copying.copy(source, target):
            progress.advance(bar, number)
