"""A DSN in a file.

A command takes `@FILE` wherever it takes a DSN, because other users of the machine can read a command line.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from asm.cli.text import one_line
from asm.dsn import SecretStr
from asm.files import reading

_BYTES_MAX = 65_536
_OTHERS = 0o066
"""The rights of the group and of all other users to read and to write."""


def given_dsn(text: str) -> str:
    """The DSN that a command was given, or the one in the file that `@FILE` names."""
    return SecretStr(_read(Path(text[1:])) if text.startswith("@") else text)


def _read(path: Path) -> str:
    with reading(path, follow_links=True) as file:
        mode = os.fstat(file.fileno()).st_mode
        content = file.read(_BYTES_MAX + 1)
    if mode & _OTHERS:
        click.echo(
            f"asm: other users may read or change {one_line(str(path))}: run chmod 600 on it", err=True
        )
    lines = content.decode("utf-8", "surrogateescape").rstrip("\r\n").split("\n")
    if len(lines) > 1 or len(content) > _BYTES_MAX or not lines[0].strip():
        raise click.BadParameter(f"{path} must contain one line, which is the DSN.")
    return lines[0]
