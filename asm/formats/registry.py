"""The known formats, and how the format of a file is found.

A Reader recognises the files of its format by their path and first bytes. What another tool recorded
becomes a Transcript. The readers agree on the keys of event data, so that all imported sessions look
alike: a message has a `role` and its `content`, a tool call its `name` and `input`, and its result the
`output`, after `duration_s` seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from asm import files
from asm.errors import ValidationError
from asm.export_files import jsonl, text
from asm.export_files.exported import ExportedSession
from asm.formats import (
    atif,
    claude_code,
    codex,
    databases,
    gemini_cli,
    mini_swe_agent,
    openai_agents,
    opencode,
    openhands,
    swe_agent,
)
from asm.formats.base import Log, Parsed, Reader, Transcript

T = TypeVar("T")

HEAD_BYTES = 4_096
"""How many bytes of a file `sniff` is given at most."""

EXPORT = Reader("asm export", jsonl.sniff, read=jsonl.iterate)

# An export is recognised before all others: it may contain text that looks like another format.
READERS = (
    EXPORT,
    claude_code.READER,
    codex.READER,
    *gemini_cli.READERS,
    *opencode.READERS,
    openai_agents.READER,
    *openhands.READERS,
    mini_swe_agent.READER,
    swe_agent.READER,
    atif.READER,
)


@dataclass(frozen=True, slots=True)
class Recognised:
    """What the path and the first text of a file tell: its reader, its session, and its main file."""

    reader: Reader | None = None
    session_id: str | None = None
    main: Path | None = None
    why_unknown: str = ""


@dataclass(slots=True)
class Folder:
    """What a folder and the folders in it contain."""

    files: dict[Path, Recognised | None] = field(default_factory=dict)
    """Those to read: their format is known, or they cannot be opened, which reading them reports."""
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    """The others, and why they are not read."""
    failures: list[ValidationError] = field(default_factory=list)
    """The folders that cannot be read."""


def read(path: Path) -> Iterator[Parsed]:
    """The sessions in a file, one by one. A ValidationError names the file and the fault."""
    return _of_file(_read(path), str(path))


def read_stream(file: BufferedReader, name: str) -> Iterator[Parsed]:
    """The sessions in an open export or a pipe, one by one. A ValidationError has this name."""
    return _of_file(jsonl.iterate_stream(file), name)


def _read(path: Path) -> Iterator[Parsed]:
    reader, head = _sniffed(path)
    if reader is None:
        names = ", ".join(dict.fromkeys(each.name for each in READERS))
        raise ValidationError(f"{_why_unknown(path, head)}; asm reads {names}")
    if reader.read is not None:
        yield from reader.read(path)
    elif reader.log is not None:
        yield from read_log(reader.log(path), path)


def read_log(log: Log, path: Path) -> Iterator[Transcript]:
    """What a log says as a whole. A last line that is not whole yet is left out."""
    with files.reading(path, follow_links=True) as file:
        for number, line in enumerate(whole_lines(text.read_lines(file)), 1):
            add_line(log, line, number)
    yield from log.take()


def add_line(log: Log, line: bytes, number: int) -> None:
    """Give a line to a log, unless it is blank. A ValidationError names its number."""
    if line:
        try:
            log.add(line)
        except ValidationError as error:
            raise ValidationError(f"line {number:,}: {error}", line=number) from error


def whole_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, without a last one that is not JSON: its writer has not finished it, or was killed."""
    before: bytes | None = None
    for line in lines:
        if before is not None:
            yield before
        before = line
    if before is not None and is_whole(before):
        yield before


def is_whole(line: bytes) -> bool:
    try:
        text.parse_json(line)
    except ValidationError:
        return not line
    return True


def _of_file(sessions: Iterable[Parsed], name: str) -> Iterator[Parsed]:
    for parsed in _naming(name, sessions):
        if isinstance(parsed, ExportedSession):
            yield replace(parsed, rows=_naming(name, parsed.rows))
        else:
            yield parsed


def in_file(name: str, error: ValidationError) -> ValidationError:
    """The error with the name of the file that caused it, unless it has that already."""
    if "file" in error.details:
        return error
    return ValidationError(f"{name}: {error}", **{**error.details, "file": name})


def _naming(name: str, items: Iterable[T]) -> Iterator[T]:
    """The same items, and the name of their file in every error."""
    try:
        yield from items
    except ValidationError as error:
        raise in_file(name, error) from error
    except OSError as error:
        raise ValidationError(f"{name}: {error.strerror or error}", file=name) from error
    except MemoryError:
        # Without its cause, which keeps what fills the memory.
        raise ValidationError(f"{name}: there is not enough memory to read the file", file=name) from None


def read_folder(path: Path, *, excluded: Callable[[Path], str | None] = lambda _: None) -> Folder:
    """What a folder contains. `excluded` says why a file must not be opened, or None.

    A symbolic link to a folder is not followed, because it may lead back.
    """
    found = Folder()

    def fail(error: OSError) -> None:
        name = error.filename or path
        found.failures.append(ValidationError(f"{name}: {error.strerror}", path=str(name)))

    for parent, folders, names in os.walk(path, onerror=fail):
        folders.sort()
        for name in sorted([*names, *folders]):
            file = Path(parent, name)
            if name in folders and not file.is_symlink():
                continue
            if reason := excluded(file) or _why_skipped(file):
                found.skipped.append((file, reason))
                continue
            try:
                recognised = recognise(file)
            except (OSError, ValidationError):
                found.files[file] = None
                continue
            if recognised.reader is None:
                found.skipped.append((file, recognised.why_unknown))
            else:
                found.files[file] = recognised
    return found


def find_reader(path: Path) -> Reader | None:
    """The reader of a file, None if its format is unknown."""
    return _sniffed(path)[0]


def recognise(path: Path, *, named: bool = False) -> Recognised:
    """What a file is. It is opened once, and not for its session if it is read with another one.

    One whose path the user has `named` is read by itself.
    """
    reader, head = _sniffed(path)
    if reader is None:
        return Recognised(why_unknown=_why_unknown(path, head))
    main = reader.main_file(path)
    session_id = reader.session_id(path, head) if named or main is None else None
    return Recognised(reader, session_id, main)


def _sniffed(path: Path) -> tuple[Reader | None, bytes]:
    """The reader of a file, and its first text."""
    if path.is_fifo():
        # Reading the head of a pipe would consume it.
        return EXPORT, b""
    head = text.read_head(path, HEAD_BYTES)
    return next((reader for reader in READERS if reader.sniff(path, head)), None), head


def is_unfinished(file: Path) -> bool:
    """Whether `files.replacing` writes a file, or was interrupted."""
    return file.name.startswith(".") and file.name.endswith(".new")


def _why_skipped(file: Path) -> str | None:
    """Why a file in a folder is not opened; None if it is."""
    if file.is_dir():
        return "a symbolic link to a folder"
    if not file.is_file():
        return "a broken symbolic link" if file.is_symlink() and not file.exists() else "not a regular file"
    return "an unfinished export" if is_unfinished(file) else None


def _why_unknown(file: Path, head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head.startswith(databases.MAGIC):
        return "a SQLite database, and `asm copy` copies stores"
    return gemini_cli.why_no_session(file, head) or "unknown file format"
