"""The command `asm`: its subcommands, and how it reports errors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EPIPE
from io import TextIOWrapper
from typing import Any

import click

from asm.cli.database import migrate, rollback, status
from asm.cli.exporting import export
from asm.cli.importing import import_
from asm.cli.maintenance import health, maintain
from asm.cli.misplaced import check_words
from asm.cli.options import Group
from asm.cli.running import recover, runs
from asm.cli.running import run as run_agent
from asm.cli.search import search, sessions
from asm.cli.serving import serve
from asm.cli.show import show
from asm.cli.summaries import cost, stats, usage
from asm.cli.text import one_line
from asm.cli.transfer import copy
from asm.documents import DIGITS_MAX
from asm.errors import AsmError

INTERRUPTED = 130


class _Asm(Group):
    """The command: it reports an error on one line."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _reporting():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _reporting():
            return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            check_words(ctx, self, args)
        return super().parse_args(ctx, args)


class _CliError(click.ClickException):
    def show(self, file: Any = None) -> None:
        click.echo(f"asm: {one_line(self.message)}", file=file, err=True)


class _UsageError(_CliError):
    exit_code = 2


@contextmanager
def _reporting() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "asm"
        # click ends a message that lists choices with the last of them.
        sentence = error.format_message().rstrip().removesuffix(".")
        raise _UsageError(f"{sentence}. See `{command} --help`.") from error
    except AsmError as error:
        raise _CliError(str(error)) from error
    except OSError as error:
        if error.errno == EPIPE:
            # The reader of a pipe has left. click ends the command without a message.
            raise
        _discard_what_cannot_be_written()
        where = error.filename or "cannot write to the standard output"
        raise _CliError(f"{where}: {error.strerror}") from error
    except KeyboardInterrupt:
        # What a shell reports of a command that SIGINT ended.
        raise click.exceptions.Exit(INTERRUPTED) from None


def _discard_what_cannot_be_written() -> None:
    # Python writes it once more when it ends, and would report the error again, with a status of its own.
    if isinstance(sys.stdout, TextIOWrapper):
        try:
            sys.stdout.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, sys.stdout.fileno())
            os.close(nothing)


@click.group(cls=_Asm, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="asm-store", message="asm %(version)s")
def cli() -> None:
    """Keep the sessions of AI agents in PostgreSQL or SQLite, and read them.

    A DSN names the store: postgresql://…, a libpq key=value string, sqlite:///relative.db or
    sqlite:////absolute.db. The default is the value of the environment variable ASM_DSN, or
    sqlite:///asm.db if that is not set. @FILE stands for the DSN in a file, wherever a DSN is given: other
    users of the machine can read a command line.

    The exit status is 0 if the command did what it was asked to do, 1 if the store or a file failed, 2 if
    the arguments are wrong, and 130 if Ctrl-C ended the command. `asm status`, `asm health`, `asm copy` and
    `asm maintain` also use 1 for what they found.

    \b
    asm migrate sqlite:///agents.db
    asm sessions --dsn sqlite:///agents.db
    """


for command in (
    *(migrate, status, rollback),
    *(sessions, show, search, serve),
    *(stats, usage, cost),
    *(import_, export, copy),
    *(run_agent, runs, recover),
    *(maintain, health),
):
    cli.add_command(command)


def run() -> None:
    """Run the command with the arguments of the process."""
    # The limit that the environment sets may be lower than the digits of an integer to show.
    sys.set_int_max_str_digits(DIGITS_MAX)
    # A connection that is lost, or that Ctrl-C interrupts, is what the command itself reports, if anything.
    logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="asm")
