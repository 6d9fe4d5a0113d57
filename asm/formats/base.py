"""What a file format is: a reader, and the types that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from asm.export_files.exported import ExportedSession
from asm.models import Event, Run, Session


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a file, or a part of a growing one, says of one session, as another tool recorded it.

    `session` and `runs` are whole rows, as far as they are known, and `events` are those that were not
    returned before, in their order and without sequence numbers. Ids are derived from the records or from the
    content, so the same records have the same ids.
    """

    session: Session
    runs: list[Run]
    events: list[Event]


class Log(Protocol):
    """Reads a file that grows, record by record.

    What it returns follows from the lines alone: the events of all calls of `take` together are the same
    wherever these are called, and of each run the last row counts. So it returns an event only when no later
    line can change it.
    """

    def add(self, record: bytes) -> None:
        """Read the next line, without its line end. Raises ValidationError if it is not a record."""

    def take(self) -> list[Transcript]:
        """What was added since the last time, one for each session."""


Parsed: TypeAlias = Transcript | ExportedSession
"""What a file may contain."""


def _unknown(_path: Path, _head: bytes) -> str | None:
    return None


def _alone(_path: Path) -> Path | None:
    return None


def _itself(path: Path) -> Sequence[Path]:
    return [path]


@dataclass(frozen=True, slots=True)
class Reader:
    """A format: its name, a test of whether a file has it, and a way to read such a file.

    `sniff` is given the path of a file and its first text, as `text.read_head` returns it, which may end in
    the middle of a line. A file that is written once has `read`, one that grows has `log`.
    """

    name: str
    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path], Iterable[Parsed]] | None = None
    log: Callable[[Path], Log] | None = None
    session_id: Callable[[Path, bytes], str | None] = _unknown
    """The session that keeps what was read of the file, by its path and its first text, if these tell."""
    main_file: Callable[[Path], Path | None] = _alone
    """The file with which this one is read, if it is not read by itself."""
    parts: Callable[[Path], Sequence[Path]] = _itself
    """The files of which a session that is read with this one consists."""
    has_times: bool = False
    """Whether a file that is read as a whole has times of its own: what it says of a run or a session may
    then change without a new event."""
