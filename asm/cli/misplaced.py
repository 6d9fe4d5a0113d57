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

from asm.dsn import parse_dsn

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
    """A word of the command line, and what the command expects in its place."""

    text: str
    expected: str
    is_option: bool = False
    is_dsn: bool = False


def check_words(ctx: click.Context, command: click.Command, words: list[str]) -> None:
    """Raise UsageError if a DSN, or what looks like one, is where a command takes none."""
    try:
        values, extra, _ = command.make_parser(ctx).parse_args(args=list(words))
    except click.UsageError as error:
        # click raises the error again. Its message repeats no argument but the name of an option.
        _check_each(ctx, command, [_Word(str(getattr(error, "option_name", "")), "an option")])
        return
    if isinstance(command, click.Group):
        _check_subcommand(ctx, command, extra)
        return
    given = [*_given(command, values), *(_Word(text, "no argument") for text in extra)]
    _check_each(ctx, command, given)
    # With words too many, or after an unreadable DSN, a shell may have split a string at its spaces.
    _check_together(ctx, [word for word in given if (extra if word.is_dsn else not word.is_option)])
    _check_readable([word.text for word in given if word.is_dsn])
    if not any(word.is_dsn and not word.is_option for word in given):
        _check_sqlite(ctx, [word for word in given if not word.is_option])


def _check_subcommand(ctx: click.Context, group: click.Group, words: list[str]) -> None:
    if not words:
        return
    name, *rest = words
    subcommand = group.get_command(ctx, name)
    if subcommand is None:
        _check_each(ctx, group, [_Word(name, "COMMAND")])
    else:
        check_words(click.Context(subcommand, parent=ctx, info_name=name), subcommand, rest)


def _given(command: click.Command, values: Mapping[str, Any]) -> Iterator[_Word]:
    for param in command.params:
        is_option = isinstance(param, click.Option)
        expected = f"the value of {param.opts[0]}" if is_option else param.human_readable_name.strip("[].")
        for text in _texts(values.get(param.name)):
            yield _Word(text, expected, is_option, param.name in _TAKES_DSN)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _check_each(ctx: click.Context, command: click.Command, words: Iterable[_Word]) -> None:
    for word in words:
        if not word.is_dsn and _is_connection_string(word.text):
            raise click.UsageError(
                f"An argument that looks like a connection string was given where {word.expected} was "
                f"expected: {_advice(command)}.",
                ctx,
            )


def _advice(command: click.Command) -> str:
    names = {param.name for param in command.params}
    if "source" in names:
        return "use SRC and DST"
    if "prompt" in names:
        return "use --dsn, or give the prompt on the standard input, as `-`"
    return "use --dsn"


def _check_together(ctx: click.Context, words: Iterable[_Word]) -> None:
    if _is_connection_string(" ".join(word.text for word in words)):
        raise click.UsageError(
            "The arguments contain a connection string and other words: put quotation marks around the "
            "whole string.",
            ctx,
        )


def _check_readable(dsns: Iterable[str]) -> None:
    """Raise ValidationError for a DSN that cannot be read, before another word is looked at."""
    for dsn in dsns:
        if not dsn.startswith("@"):
            parse_dsn(dsn)


def _check_sqlite(ctx: click.Context, words: Iterable[_Word]) -> None:
    """Raise UsageError with the correct command for the DSN of a SQLite file, or for a file."""
    for word in words:
        is_file = word.expected == "no argument" and Path(word.text).is_file()
        if is_file or _SQLITE.match(word.text):
            dsn = f"sqlite:///{word.text}" if is_file else word.text
            name = ctx.command_path.partition(" ")[2]
            raise click.UsageError(
                f"The DSN is an option of this command: write `asm {name} --dsn {dsn}`.", ctx
            )


def _is_connection_string(text: str) -> bool:
    # Before it may be what begins an option, its value or a string.
    return _CONNECTION_STRING.search(text.lstrip("-='\" \t\n")) is not None
