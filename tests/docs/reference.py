"""The commands and the exceptions as Markdown, from the code itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import click

from asm import errors as classes
from asm.cli.command import cli


def errors() -> str:
    """A table of all exceptions, each under its base class."""
    rows = ["| exception | `code` | retryable | |", "|---|---|---|---|"]
    return "\n".join([*rows, *(_error(error, depth) for error, depth in _tree(classes.AsmError, 0))])


def _tree(error: type[classes.AsmError], depth: int) -> Iterator[tuple[type[classes.AsmError], int]]:
    yield error, depth
    for each in sorted(error.__subclasses__(), key=_line):
        if each.__module__ == classes.__name__:
            yield from _tree(each, depth + 1)


def _line(error: type) -> int:
    return inspect.getsourcelines(error)[1]


def _error(error: type[classes.AsmError], depth: int) -> str:
    others = [base.__name__ for base in error.__bases__ if not issubclass(base, classes.AsmError)]
    also = f", also a `{others[0]}`" if depth and others else ""
    indent = "&ensp;&ensp;" * depth
    raised = inspect.cleandoc(error.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    retryable = "yes" if error.retryable else "no"
    return f"| {indent}`{error.__name__}`{also} | `{error.code}` | {retryable} | {raised} |"


def commands() -> str:
    """The help of every command."""
    return "\n\n".join(_sections([cli]))


def _sections(path: Sequence[click.Command]) -> Iterator[str]:
    command = path[-1]
    if len(path) > 1:
        names = " ".join(["asm", *(each.name or "" for each in path[1:])])
        yield f"{'#' * (len(path) + 1)} {names}\n\n```text\n{_help(names, command)}\n```"
    if isinstance(command, click.Group):
        for name in command.commands:
            yield from _sections([*path, command.commands[name]])


def _help(names: str, command: click.Command) -> str:
    settings = {"help_option_names": ["-h", "--help"], "terminal_width": 100, "max_content_width": 100}
    with click.Context(command, info_name=names, **settings) as context:  # type: ignore[arg-type]
        return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
