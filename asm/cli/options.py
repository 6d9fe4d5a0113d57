"""What the commands of `asm` have in common: options, the store they open, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from asm.dsn import as_secret
from asm.store import SessionStore

F = TypeVar("F", bound=Callable[..., Any])

TIMES = "TIME is ISO 8601, as in 2026-01-31 or 2026-01-31T12:30+01:00; without a zone it is UTC."
"""For the end of the help of a command that takes times."""


def takes_dsn(command: F) -> F:
    return click.argument("dsn", required=False, type=as_secret)(_takes_schema(command))


def takes_dsn_option(command: F) -> F:
    option = click.option(
        "--dsn", type=as_secret, metavar="DSN", help="The store. Default: $ASM_DSN, else sqlite:///asm.db."
    )
    return option(_takes_schema(command))


def prints_json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def several(*names: str, help: str = "", **extra: Any) -> Callable[[F], F]:
    """An option that may be repeated: a tuple of its values, or None where it is not given."""
    help = f"{help} May be repeated.".strip()
    return click.option(*names, multiple=True, callback=_any_or_none, help=help, **extra)


def moment(*names: str, help: str) -> Callable[[F], F]:
    """An option that takes a time."""
    return click.option(*names, type=_time, metavar="TIME", help=help)


def opened(dsn: str | None, schema: str | None, *, migrate: bool = False) -> SessionStore:
    # A person at a terminal would rather know at once than wait.
    return SessionStore(dsn, schema=schema, migrate=migrate, retry_for=0)


def print_json(value: Any) -> None:
    # ASCII, because a lone surrogate is nothing a stream could encode.
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def _takes_schema(command: F) -> F:
    return click.option("--schema", metavar="NAME", help="The PostgreSQL schema the tables are in.")(command)


def _any_or_none(_ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> Sequence[str] | None:
    return values or None


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is no time in ISO 8601, as in 2026-01-31 or 2026-01-31T12:30Z."
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
