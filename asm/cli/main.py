"""The `asm` command. What it prints is meant for a person, and with `--json` for a program."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from errno import EPIPE
from io import TextIOWrapper
from typing import Any

import click

import asm
from asm import dsn as dsns
from asm.cli.display import Printer, one_line, show_session, show_sessions, show_status
from asm.cli.maintenance import health, maintain
from asm.cli.options import opened, print_json, prints_json, several, takes_dsn, takes_dsn_option
from asm.cli.search import search
from asm.cli.summaries import cost, stats, usage
from asm.cli.transfer import copy, export, import_
from asm.errors import AsmError
from asm.migrations.runner import status as look_at
from asm.models import SessionStatus

_PASSWORD = re.compile(r"(?<=:)[^/@\s][^@\s]*(?=@)|(?<=password=)(?:'[^']*'?|[^\s&'()]+)", re.IGNORECASE)


class _Asm(click.Group):
    """A group of commands that says in one line what went wrong."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _reporting_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _reporting_errors():
            return super().invoke(ctx)


class _CliError(click.ClickException):
    def show(self, file: Any = None) -> None:
        click.echo(f"asm: {one_line(self.message)}", file=file, err=True)


class _UsageError(_CliError):
    exit_code = 2


@contextmanager
def _reporting_errors() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "asm"
        # A DSN where none belongs is repeated by click.
        complaint = _PASSWORD.sub("…", error.format_message())
        raise _UsageError(f"{complaint} See `{command} --help`.") from error
    except AsmError as error:
        raise _CliError(str(error)) from error
    except OSError as error:
        if error.errno == EPIPE:
            # Who read what is printed has left, which click knows to be no mistake.
            raise
        raise _CliError(
            f"{error.filename or 'what is printed cannot be written'}: {error.strerror}"
        ) from error


@click.group(cls=_Asm, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="asm-store", message="asm %(version)s")
def cli() -> None:
    """Keep the sessions of AI agents in PostgreSQL or SQLite, and read them.

    A store is named by a DSN: postgresql://…, a libpq key=value string, sqlite:///relative.db or
    sqlite:////absolute.db. Without one it is the environment variable ASM_DSN, and without that
    sqlite:///asm.db.
    """


@cli.command()
@takes_dsn
def migrate(dsn: str | None, schema: str | None) -> None:
    """Create the tables, or bring them up to date."""
    applied = asm.migrate(dsn, schema=schema)
    for migration in applied:
        click.echo(f"applied {migration}")
    if not applied:
        click.echo("up to date")


@cli.command()
@takes_dsn
@click.option("--yes", is_flag=True, help="Do not ask.")
def rollback(dsn: str | None, schema: str | None, *, yes: bool) -> None:
    """Take the tables away again, with all that is in them."""
    found = look_at(dsn, schema=schema)
    if not found.applied:
        click.echo("there is nothing to take back")
        return
    if not yes:
        rows = ", ".join(f"{number:,} {table}" for table, number in found.rows.items() if number)
        place = dsns.parse_dsn(dsn, schema)
        click.confirm(f"This deletes all of {place}: {rows or 'no rows'}. Go on?", abort=True, err=True)
    for migration in asm.rollback(dsn, schema=schema):
        click.echo(f"took back {migration}")


@cli.command()
@takes_dsn
@prints_json
def status(dsn: str | None, schema: str | None, *, as_json: bool) -> None:
    """Say which database it is, its migrations and its rows."""
    found = look_at(dsn, schema=schema)
    if as_json:
        print_json(asdict(found))
    else:
        show_status(Printer(), str(dsns.parse_dsn(dsn, schema)), found)


@cli.command()
@several("--status", type=click.Choice([each.value for each in SessionStatus]))
@click.option("--agent", metavar="ID", help="Of this agent.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@click.option("--all", "include_deleted", is_flag=True, help="Soft-deleted ones too.")
@takes_dsn_option
@prints_json
def sessions(
    dsn: str | None,
    schema: str | None,
    status: Sequence[str] | None,
    agent: str | None,
    limit: int,
    *,
    include_deleted: bool,
    as_json: bool,
) -> None:
    """List sessions, the newest first."""
    with opened(dsn, schema) as store:
        found = store.list_sessions(
            status=status, agent_id=agent, include_deleted=include_deleted, limit=limit + 1
        )
    if as_json:
        print_json([session.to_dict() for session in found[:limit]])
    else:
        show_sessions(Printer(), found[:limit])
    if len(found) > limit:
        click.echo(f"asm: these are the newest {limit}, and there are more: see --limit", err=True)


@cli.command()
@click.argument("session")
@takes_dsn_option
@click.option("--full", is_flag=True, help="Shorten nothing. In a pipe nothing ever is.")
@prints_json
def show(session: str, dsn: str | None, schema: str | None, *, full: bool, as_json: bool) -> None:
    """Show a session, its runs and its events. As JSON, its artifacts' rows and its counter too."""
    with opened(dsn, schema) as store:
        if as_json:
            print_json(store.query.export_session(session, include_artifacts=True).to_dict())
        else:
            show_session(store, session, full=full)


for command in (search, stats, usage, cost, import_, export, copy, maintain, health):
    cli.add_command(command)


def main() -> None:
    """Run the command."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="asm")
