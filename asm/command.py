"""What the commands of `asm` have in common: options, the store they open, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from asm.store import SessionStore

F = TypeVar("F", bound=Callable[..., Any])


def takes_dsn(command: F) -> F:
    return click.argument("dsn", required=False)(_takes_schema(command))


def takes_dsn_option(command: F) -> F:
    option = click.option("--dsn", metavar="DSN", help="The store. Default: $ASM_DSN, else sqlite:///asm.db.")
    return option(_takes_schema(command))


def prints_json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def opened(dsn: str | None, schema: str | None, *, migrate: bool = False) -> SessionStore:
    # A person at a terminal would rather know at once than wait.
    return SessionStore(dsn, schema=schema, migrate=migrate, retry_for=0)


def print_json(value: Any) -> None:
    # ASCII, because a lone surrogate is nothing a stream could encode.
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def _takes_schema(command: F) -> F:
    return click.option("--schema", metavar="NAME", help="The PostgreSQL schema the tables are in.")(command)
