"""A session in an export, whose rows are read as they are taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from asm.models import Artifact, Event, Run, Session
from asm.operations.exports import SequenceCounter, SessionExport


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
