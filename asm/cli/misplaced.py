"""Connection strings where a command takes none.

A command repeats its arguments, in errors, headings and JSON. A connection string may contain a password. So
a word that looks like one is refused where no DSN belongs, before anything is done with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

_TAKES_DSN = {"dsn", "given_dsn", "source", "target"}

_PARAMETERS = (
    "host|hostaddr|port|dbname|user|passfile|service|options|sslmode|sslcert|sslkey|target_session_attrs"
)
_FORMS = (
    # A URL of PostgreSQL, also with a driver or after another word.
    r"postgres(?:ql)?(?:\+\w+)?:/",
    # A password in another URL, or in a URL without its scheme.
    r"://[^/?#:]*:[^/?#]*@",
    r"(?:^|[/:])[^\s/:@]+:[^\s/@]+@[^\s/:@]+(?::\d|/\w)",
    # A parameter or an environment variable of libpq that is secret, or several others.
    r"(?:^|[\s;?&,])\w*(?:password|passwd|passphrase|pwd|secret)\s*=",
    rf"(?:^|\s)(?:{_PARAMETERS})\s*=.*\s(?:{_PARAMETERS})\s*=",
    # A line of libpq's password file.
    r"^(?:(?:\*|localhost|/[^:]*|[\w-]+(?:\.[\w-]+)+):(?:\*|\d+)|[\w-]+:(?:\*|5432)):[^:]+:[^:]+:.",
)
_CONNECTION_STRING = re.compile("|".join(_FORMS), re.IGNORECASE | re.DOTALL)
_SQLITE = re.compile(r"sqlite(?:\+\w+)?:/")


class _Word(NamedTuple):
    """A word of the command line that is no DSN, and what the command expects in its place."""

    text: str
    expected: str
    is_option: bool


def check_words(ctx: click.Context, command: click.Command, words: list[str]) -> None:
    """Raise UsageError if a DSN, or what looks like one, is where a command takes none."""
    try:
        values, rest, _ = command.make_parser(ctx).parse_args(args=list(words))
    except click.UsageError as error:
        # click reports the error again, with the name of the option.
        _check(ctx, command, [_Word(getattr(error, "option_name", None) or "", "an option", True)])
        return
    if isinstance(command, click.Group):
        _check_subcommand(ctx, command, rest)
        return
    _check(ctx, command, [*_given(command, values), *(_Word(text, "no argument", False) for text in rest)])


def _check_subcommand(ctx: click.Context, group: click.Group, rest: list[str]) -> None:
    if not rest:
        return
    subcommand = group.get_command(ctx, rest[0])
    if subcommand is None:
        _check(ctx, group, [_Word(rest[0], "COMMAND", False)])
    else:
        check_words(click.Context(subcommand, parent=ctx, info_name=rest[0]), subcommand, rest[1:])


def _given(command: click.Command, values: Mapping[str, Any]) -> Iterator[_Word]:
    for param in command.params:
        if param.name is not None and param.name not in _TAKES_DSN:
            is_option = isinstance(param, click.Option)
            expected = (
                f"the value of {param.opts[0]}" if is_option else param.human_readable_name.strip("[].")
            )
            for text in _texts(values.get(param.name)):
                yield _Word(text, expected, is_option)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _check(ctx: click.Context, command: click.Command, words: Iterable[_Word]) -> None:
    words = list(words)
    for word in words:
        if _CONNECTION_STRING.search(word.text):
            raise _misplaced(ctx, command, word.expected)
    arguments = [word for word in words if not word.is_option]
    # A shell has split a string with spaces that was not quoted.
    if _CONNECTION_STRING.search(" ".join(word.text for word in arguments)):
        raise _misplaced(ctx, command, arguments[0].expected)
    if not _takes_dsn_as_argument(command):
        for word in arguments:
            _check_sqlite(ctx, word)


def _misplaced(ctx: click.Context, command: click.Command, expected: str) -> click.UsageError:
    """An error that repeats nothing of the word."""
    place = "SRC and DST" if {param.name for param in command.params} >= {"source", "target"} else "--dsn"
    found = f"was given where {expected} was expected: use {place}."
    return click.UsageError(f"An argument that looks like a connection string {found}", ctx)


def _check_sqlite(ctx: click.Context, word: _Word) -> None:
    """Raise UsageError with the correct command for the DSN of a SQLite file, or for a file."""
    is_file = word.expected == "no argument" and Path(word.text).is_file()
    if is_file or _SQLITE.match(word.text):
        dsn = f"sqlite:///{word.text}" if is_file else word.text
        name = ctx.command_path.partition(" ")[2]
        raise click.UsageError(f"The DSN is an option of this command: write `asm {name} --dsn {dsn}`.", ctx)


def _takes_dsn_as_argument(command: click.Command) -> bool:
    return any(isinstance(each, click.Argument) and each.name in _TAKES_DSN for each in command.params)
