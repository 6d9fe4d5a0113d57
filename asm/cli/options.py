"""What the subcommands share: options, opening the store, JSON output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from asm.cli.dsn_file import given_dsn
from asm.dsn import parse_dsn
from asm.store import SessionStore
from asm.store_files import StoreFiles

F = TypeVar("F", bound=Callable[..., Any])

_DSN_OPTION: dict[str, Any] = {
    "type": given_dsn,
    "metavar": "DSN",
    "help": "The store, or @FILE with its DSN. Default: $ASM_DSN, or sqlite:///asm.db.",
}
_GIVEN_DSN = "asm.cli.dsn"

TIMES = "TIME is ISO 8601, as in 2026-01-31 or 2026-01-31T12:30+01:00. Without a time zone it is UTC."
"""The last line of the help of a command with time options."""


class Group(click.Group):
    """A group of commands. Without arguments it prints its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)


def dsn_argument(command: F) -> F:
    """The DSN as an argument, or as the option that every other command has."""
    argument = click.argument("dsn", required=False, type=given_dsn, callback=_either_dsn)
    # Eager, so that its value is known when the argument is read.
    option = click.option(
        "--dsn", "given_dsn", is_eager=True, expose_value=False, callback=_keep_dsn, **_DSN_OPTION
    )
    return argument(option(_schema_option(command)))


def dsn_option(command: F) -> F:
    return click.option("--dsn", **_DSN_OPTION)(_schema_option(command))


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def repeatable_option(*names: str, help: str = "", **extra: Any) -> Callable[[F], F]:
    """An option that may be given several times. Its value is a tuple, or None if it is not given."""
    help = f"{help} May be repeated.".strip()
    return click.option(*names, multiple=True, callback=_values_or_none, help=help, **extra)


def time_option(*names: str, help: str) -> Callable[[F], F]:
    return click.option(*names, type=_time, metavar="TIME", help=help)


def open_store(dsn: str | None, schema: str | None, *, migrate: bool = False) -> SessionStore:
    if StoreFiles(parse_dsn(dsn, schema)).has_output():
        raise click.UsageError("The standard output is a file of the store.")
    # Without retries, a user at a terminal sees at once that the server is down.
    return SessionStore(dsn, schema=schema, migrate=migrate, retry_for=0)


def print_json(value: Any) -> None:
    # ASCII, because no encoding of a stream can represent a lone surrogate.
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def _schema_option(command: F) -> F:
    return click.option("--schema", metavar="NAME", help="The PostgreSQL schema of the tables.")(command)


def _keep_dsn(ctx: click.Context, _param: click.Parameter, dsn: str | None) -> None:
    ctx.meta[_GIVEN_DSN] = dsn


def _either_dsn(ctx: click.Context, _param: click.Parameter, dsn: str | None) -> str | None:
    option: str | None = ctx.meta.get(_GIVEN_DSN)
    if dsn is not None and option is not None:
        raise click.UsageError("Give the DSN as an argument or with --dsn, not both.", ctx)
    return option if dsn is None else dsn


def _values_or_none(
    _ctx: click.Context, _param: click.Parameter, values: Sequence[str]
) -> Sequence[str] | None:
    return values or None


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not an ISO 8601 time such as 2026-01-31 or 2026-01-31T12:30Z."
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
