"""The known formats, and how the format of a file is found.

A Reader recognises the files of its format by their path and first bytes. What another tool recorded
becomes a Transcript. The readers agree on the keys of event data, so that all imported sessions look
alike: a message has a `role` and its `content`, a tool call its `name` and `input`, and its result the
`output`, after `duration_s` seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from asm.errors import ValidationError
from asm.formats import jsonl, swe_agent
from asm.formats.base import Parsed, Reader

HEAD_BYTES = 4_096
"""How many bytes of a file `sniff` is given."""

EXPORT = Reader("asm export", jsonl.sniff, jsonl.read)

# An export is recognised before all others: it may contain text that looks like another format.
READERS = (EXPORT, swe_agent.READER)


def read(path: Path) -> Iterator[Parsed]:
    """The sessions in a file, one by one. A ValidationError names the file and the fault."""
    reader = find_reader(path)
    if reader is None:
        names = " and ".join(each.name for each in READERS)
        raise ValidationError(f"{path}: unknown file format; asm reads {names} files", path=str(path))
    try:
        yield from reader.read(path)
    except ValidationError as error:
        raise ValidationError(f"{path}: {error}", path=str(path)) from error


def files(path: Path) -> list[Path]:
    """The path itself, or if it is a folder, all files in it that have a known format."""
    if not path.is_dir():
        return [path]
    try:
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and find_reader(file)]
    except OSError as error:
        # A folder inside it was removed during the search.
        raise ValidationError(f"{error.filename or path}: {error.strerror}", path=str(path)) from error
    if not found:
        raise ValidationError(f"{path}: no file in this folder has a format that asm reads", path=str(path))
    return found


def find_reader(path: Path) -> Reader | None:
    """The reader of a file, None if its format is unknown."""
    if path.is_fifo():
        # Reading the head of a pipe would consume it.
        return EXPORT
    head = _head(path)
    return next((reader for reader in READERS if reader.sniff(path, head)), None)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise ValidationError(f"{path}: {error.strerror}", path=str(path)) from error
