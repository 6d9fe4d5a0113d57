"""What the subcommands share: options, opening the store, JSON output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from asm.dsn import as_secret
from asm.store import SessionStore

F = TypeVar("F", bound=Callable[..., Any])

TIMES = "TIME is ISO 8601, as in 2026-01-31 or 2026-01-31T12:30+01:00. Without a time zone it is UTC."
"""The last line of the help of a command with time options."""


def dsn_argument(command: F) -> F:
    return click.argument("dsn", required=False, type=as_secret)(_schema_option(command))


def dsn_option(command: F) -> F:
    option = click.option(
        "--dsn", type=as_secret, metavar="DSN", help="The store. Default: $ASM_DSN, or sqlite:///asm.db."
    )
    return option(_schema_option(command))


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def repeatable_option(*names: str, help: str = "", **extra: Any) -> Callable[[F], F]:
    """An option that may be given several times. Its value is a tuple, or None if it is not given."""
    help = f"{help} May be repeated.".strip()
    return click.option(*names, multiple=True, callback=_values_or_none, help=help, **extra)


def time_option(*names: str, help: str) -> Callable[[F], F]:
    return click.option(*names, type=_time, metavar="TIME", help=help)


def open_store(dsn: str | None, schema: str | None, *, migrate: bool = False) -> SessionStore:
    # Without retries, a user at a terminal sees at once that the server is down.
    return SessionStore(dsn, schema=schema, migrate=migrate, retry_for=0)


def print_json(value: Any) -> None:
    # ASCII, because no encoding of a stream can represent a lone surrogate.
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def _schema_option(command: F) -> F:
    return click.option("--schema", metavar="NAME", help="The PostgreSQL schema of the tables.")(command)


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
