"""What a file format is: a reader, and the types that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from asm.models import Artifact, Event, Run, Session
from asm.operations.exports import SequenceCounter, SessionExport


@dataclass(frozen=True, slots=True)
class Transcript:
    """A session with one run, as another tool recorded it. Its events have no sequence numbers yet.

    Ids are derived from the content, so the same content has the same ids.
    """

    session: Session
    run: Run
    events: list[Event]


@dataclass(frozen=True, slots=True)
class ExportedSession:
    """A session in an export, with its counter after all its events.

    Its rows are read and checked when they are taken, once and in order, so that a session of any size can
    be imported. All are of the session, and they and the counter add up.
    """

    session: Session
    counter: SequenceCounter
    rows: Iterator[Run | Event | Artifact]

    def whole(self) -> SessionExport:
        """The session with all its rows."""
        rows = list(self.rows)
        return SessionExport(
            session=self.session,
            runs=[row for row in rows if isinstance(row, Run)],
            events=[row for row in rows if isinstance(row, Event)],
            artifacts=[row for row in rows if isinstance(row, Artifact)],
            last_sequence=self.counter.last_sequence,
            pruned_events=self.counter.pruned_events,
        )


Parsed: TypeAlias = Transcript | ExportedSession
"""What a file may contain."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A format: its name, a test of whether a file has it, and a function that reads such a file.

    `sniff` is given the path of a file and its first text, as `text.read_head` returns it.
    """

    name: str
    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path], Iterable[Parsed]]
