"""Files that other tools left behind, or another store, read as sessions.

A Reader is a format that has a name, knows its own files when it sees them, and finds the
sessions in one. What other tools recorded becomes a Transcript. Their formats agree on a few
words, so that what was imported reads alike: a message has a `role` and its `content`, a tool
call its `name` and `input`, and what came of it is its `output`, after `duration_s` seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from asm.errors import ValidationError
from asm.formats import jsonl, swe_agent
from asm.formats.base import Parsed, Reader

HEAD_BYTES = 4_096
"""So much of a file a Reader sees before it says whether the file is one of its own."""


EXPORT = Reader("asm export", jsonl.sniff, jsonl.read)


def read(path: Path) -> Iterator[Parsed]:
    """What is in a file, one session after another; a ValidationError names the file and what is wrong."""
    reader = find_reader(path)
    if reader is None:
        names = " or ".join(each.name for each in readers())
        raise ValidationError(
            f"{path}: asm does not know this format; it reads {names} files", path=str(path)
        )
    try:
        yield from reader.read(path)
    except ValidationError as error:
        raise ValidationError(f"{path}: {error}", path=str(path)) from error


def files(path: Path) -> list[Path]:
    """A file is itself; a folder is the files in it that some Reader recognises."""
    if not path.is_dir():
        return [path]
    try:
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and find_reader(file)]
    except OSError as error:
        # A folder within it that went away meanwhile.
        raise ValidationError(f"{error.filename or path}: {error.strerror}", path=str(path)) from error
    if not found:
        raise ValidationError(f"{path}: there is no file in this folder that asm can read", path=str(path))
    return found


def find_reader(path: Path) -> Reader | None:
    """Who can read a file, or None."""
    if path.is_fifo():
        # What was read of a pipe is gone, so nobody looks at it first.
        return EXPORT
    head = _head(path)
    return next((reader for reader in readers() if reader.sniff(path, head)), None)


def readers() -> list[Reader]:
    """Every format there is."""
    # Here, because formats are made of what this module defines.

    # Ours first: whatever an export tells of trajectories does not make it one.
    return [EXPORT, swe_agent.READER]


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise ValidationError(f"{path}: {error.strerror}", path=str(path)) from error
