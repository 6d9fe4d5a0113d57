"""Files that other tools left behind, read as sessions.

A Reader is a format that has a name, knows its own files when it sees them, and makes a
Transcript of one. Formats agree on a few words, so that what was imported reads alike: a
message has a `role` and its `content`, a tool call its `name` and `input`, and what came of
it is its `output`, after `duration_s` seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asm.errors import SessionNotFound, ValidationError
from asm.models import Event, Run, Session
from asm.store import SessionStore

HEAD_BYTES = 4_096
"""So much of a file a Reader sees before it says whether the file is one of its own."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """One session with its one run, as a file tells it. The same content has the same ids."""

    session: Session
    run: Run
    events: list[Event]


@dataclass(frozen=True, slots=True)
class Reader:
    """A format: its name, whether a path and the head of its content look like it, and how to read it."""

    name: str
    recognises: Callable[[Path, bytes], bool]
    read: Callable[[Path], Transcript]


def keep(store: SessionStore, transcript: Transcript) -> bool:
    """Write a transcript, all of it or none of it. One whose session is there is left alone: False.

    Alone, because that session may have been tagged, paused or deleted since.
    """
    try:
        store.get_session(transcript.session.id)
    except SessionNotFound:
        store.flush(transcript.session, transcript.run, transcript.events)
        return True
    return False


def read(path: Path) -> Transcript:
    """The transcript in a file, or a ValidationError that names the file and what is wrong with it."""
    reader = find_reader(path)
    if reader is None:
        names = " or ".join(each.name for each in readers())
        raise ValidationError(
            f"{path}: asm does not know this format; it reads {names} files", path=str(path)
        )
    try:
        return reader.read(path)
    except ValidationError as error:
        raise ValidationError(f"{path}: {error}", path=str(path)) from error


def files(path: Path) -> list[Path]:
    """A file is itself; a folder is the files in it that some Reader recognises."""
    if not path.is_dir():
        return [path]
    found = [file for file in sorted(path.rglob("*")) if file.is_file() and find_reader(file)]
    if not found:
        raise ValidationError(f"{path}: there is no file in this folder that asm can read", path=str(path))
    return found


def find_reader(path: Path) -> Reader | None:
    """Who can read a file, or None."""
    head = _head(path)
    return next((reader for reader in readers() if reader.recognises(path, head)), None)


def readers() -> list[Reader]:
    """Every format there is."""
    # Here, because formats are made of what this module defines.
    from asm import trajectories

    return [trajectories.READER]


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise ValidationError(f"{path}: {error.strerror}", path=str(path)) from error
