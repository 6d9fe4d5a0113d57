"""A DSN where a command takes none: most commands take it as an option."""

from __future__ import annotations

import re
from pathlib import Path

import click

_DSN = re.compile(r"(?:postgres|postgresql|sqlite)(?:\+\w+)?:/")
_TAKES_DSN = {"dsn", "source", "target"}


def check_dsn_place(ctx: click.Context, command: click.Command, args: list[str]) -> None:
    """Raise UsageError if a DSN is among the arguments of a command whose DSN is an option."""
    name = command.name
    while isinstance(command, click.Group) and args:
        subcommand = command.get_command(ctx, args[0])
        if subcommand is None:
            return
        command, args, name = subcommand, args[1:], f"{name} {subcommand.name}"
    arguments = {each.name for each in command.params if isinstance(each, click.Argument)}
    if arguments & _TAKES_DSN:
        return
    for word in _arguments(command, args):
        if (dsn := _shown_dsn(word, may_be_file=not arguments)) is not None:
            raise click.UsageError(
                f"The DSN is an option of this command: write `asm {name} --dsn {dsn}`.",
                click.Context(command, parent=ctx, info_name=name),
            )


def _shown_dsn(word: str, *, may_be_file: bool) -> str | None:
    """The DSN that a word is or means, without the parts that may have a password; else None."""
    if found := _DSN.match(word):
        return word if word.startswith("sqlite:") else f"{found[0]}/…"
    return f"sqlite:///{word}" if may_be_file and Path(word).is_file() else None


def _arguments(command: click.Command, args: list[str]) -> list[str]:
    """The words that are neither options nor their values."""
    with_value = {
        name
        for option in command.params
        if isinstance(option, click.Option) and not (option.is_flag or option.count)
        for name in (*option.opts, *option.secondary_opts)
    }
    return [
        word
        for before, word in zip(["", *args], args, strict=False)
        if not word.startswith("-") and before not in with_value
    ]
