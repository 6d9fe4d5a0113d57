"""The transaction that stores what a transcript says, and keeps what was changed in the store."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

from asm import documents
from asm.documents import Document
from asm.enums import SessionStatus
from asm.errors import Conflict, RunNotFound, SessionNotFound
from asm.formats.base import Transcript
from asm.formats.sources import SOURCE, sources_of, with_source
from asm.models import Run, Session
from asm.store import Transaction


class Storing:
    """The transaction that stores a transcript."""

    def __init__(self, transcript: Transcript, source: Document | None, *, grows: bool) -> None:
        """Unless the file `grows`, its rows change only together with new events.

        A file without times gives its own time to all that it has.
        """
        self._transcript = transcript
        self._source = source
        self._grows = grows

    def __call__(self, tx: Transaction) -> tuple[int, int, int]:
        given, runs, events = self._transcript.session, self._transcript.runs, self._transcript.events
        before = tx.get_latest_sequence(given.id)
        # The counter is locked first, as by every append.
        stored = tx.append_events(events) if events else []
        after = max((event.sequence_number or 0 for event in stored), default=before)
        is_new, adds = False, after > before
        try:
            tx.update_session(given.id, partial(self._merged, adds))
        except SessionNotFound:
            is_new = True
            tx.save_session(_new(given, self._source))
        adds_nothing = not (adds or self._grows)
        changed = [run for run in runs if is_new or _is_changed(tx, run, unless_known=adds_nothing)]
        for run in changed:
            tx.save_run(run)
        return int(is_new), len(changed), max(after - before, 0)

    def _merged(self, adds: bool, stored: Session) -> Session:
        """The row of a session after an import, which keeps what was changed in the store."""
        given, before = self._transcript.session, sources_of(stored)
        if stored.metadata.get("format") != given.metadata.get("format"):
            raise Conflict(
                f"session {given.id!r} was not imported from a file of this format: delete it, or import "
                "into another store",
                session_id=given.id,
            )
        told: Any = before[0].get("told", {}) if before else {}
        if not adds and not (self._grows and given.updated_at >= stored.updated_at):
            # Nothing is new: it may be an older copy of the file.
            return replace(stored, metadata={**stored.metadata, **with_source(before, self._source, told)})
        unchanged = {
            name for name, mark in _told(stored.metadata, stored.status).items() if told.get(name) == mark
        }
        new = {
            name: value
            for name, value in given.metadata.items()
            if name not in stored.metadata or name in unchanged
        }
        source = with_source(before, self._source, {**told, **_told(new, given.status)})
        return replace(
            stored,
            status=given.status if _STATUS in unchanged else stored.status,
            metadata={**stored.metadata, **new, **source},
            updated_at=max(stored.updated_at, given.updated_at),
        )


def _is_changed(tx: Transaction, run: Run, *, unless_known: bool) -> bool:
    try:
        stored = tx.get_run(run.id, session_id=run.session_id)
    except RunNotFound:
        return True
    return stored != run and not unless_known and not _is_earlier(run, stored)


def _is_earlier(run: Run, stored: Run) -> bool:
    """Whether a run is as an older copy of its file has it."""
    return run.ended_at is not None and stored.ended_at is not None and run.ended_at < stored.ended_at


def _new(given: Session, source: Document | None) -> Session:
    return replace(
        given, metadata={**given.metadata, **with_source([], source, _told(given.metadata, given.status))}
    )


def _told(values: Document, status: SessionStatus) -> dict[str, str]:
    """Marks of the values that a file has given: a later import replaces those that are still the same."""
    return {name: _mark(value) for name, value in {**values, _STATUS: str(status)}.items() if name != SOURCE}


_STATUS = ".status"


def _mark(value: Any) -> str:
    return sha256(documents.dump(value, "metadata").encode(errors="surrogatepass")).hexdigest()[:8]
