"""Files that other tools left behind, or another store, read as sessions.

A Reader is a format that has a name, knows its own files when it sees them, and finds the
sessions in one. What other tools recorded becomes a Transcript. Their formats agree on a few
words, so that what was imported reads alike: a message has a `role` and its `content`, a tool
call its `name` and `input`, and what came of it is its `output`, after `duration_s` seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from asm import lines
from asm.errors import SessionNotFound, ValidationError
from asm.exports import SessionExport
from asm.imports import Batch, Written
from asm.models import Event, Run, Session
from asm.store import SessionStore, ask

HEAD_BYTES = 4_096
"""So much of a file a Reader sees before it says whether the file is one of its own."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """One session with its one run, as a file tells it. The same content has the same ids."""

    session: Session
    run: Run
    events: list[Event]


Found: TypeAlias = Transcript | SessionExport
"""What a file may hold: a session to be numbered here, or one that has its numbers."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A format: its name, whether a path and the head of its content look like it, and how to read it."""

    name: str
    recognises: Callable[[Path, bytes], bool]
    read: Callable[[Path], Iterable[Found]]


EXPORT = Reader("asm export", lines.recognises, lines.read)


def keep(store: SessionStore, found: Found) -> Written:
    """Write what is not there yet, all of it or none of it, and say how much that was.

    A transcript whose session is there is left alone, because that session may have been tagged,
    paused or deleted since. An export that differs from what is there is a Conflict.
    """
    if isinstance(found, SessionExport):
        return ask(store, Batch.of(found).import_all())
    try:
        store.get_session(found.session.id)
    except SessionNotFound:
        store.flush(found.session, found.run, found.events)
        return Written(sessions=1, runs=1, events=len(found.events))
    return Written()


def read(path: Path) -> Iterator[Found]:
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
    return next((reader for reader in readers() if reader.recognises(path, head)), None)


def readers() -> list[Reader]:
    """Every format there is."""
    # Here, because formats are made of what this module defines.
    from asm import trajectories

    # Ours first: whatever an export tells of trajectories does not make it one.
    return [EXPORT, trajectories.READER]


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise ValidationError(f"{path}: {error.strerror}", path=str(path)) from error
