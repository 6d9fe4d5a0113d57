"""A session is started, and its status changes, each with the events that say so."""

from __future__ import annotations

from collections.abc import Sequence

from asm.engine.script import Script, UnitOfWork
from asm.enums import RunStatus, SessionStatus
from asm.errors import AlreadyExists
from asm.models import Event, Session
from asm.operations import runs, sessions
from asm.operations.appending import append_idempotently
from asm.operations.encoding import encoded
from asm.operations.events import lock_counters
from asm.operations.owned_runs import run_active


def start_session(session: Session, events: Sequence[Event]) -> UnitOfWork[None]:
    """Save a session with its first events; AlreadyExists if there is another one of its id."""
    batch = encoded(events, "start_session")

    def script() -> Script[None]:
        yield from append_idempotently(batch)
        stored = yield from sessions.find_sessions([session.id])
        if stored and stored != [session]:
            raise AlreadyExists(f"there is a session of the id {session.id!r}: use another id", id=session.id)
        yield from sessions.save_session(session)

    return UnitOfWork(script, sessions=(session.id,))


def change_status(session_id: str, status: SessionStatus, event: Event) -> UnitOfWork[Session]:
    """Set the status of a session, with an event; RunActive if it is not active then, and has an active run.

    A session that has the status already is returned as it is, and nothing is appended.
    """
    batch = encoded([event], "change_status")

    def script() -> Script[Session]:
        yield from lock_counters([session_id])
        session = yield from sessions.get_session(session_id)
        if session.status == status:
            return session
        if status != SessionStatus.ACTIVE:
            for run in (yield from runs.list_runs(session_id, status=RunStatus.RUNNING, limit=1)):
                raise run_active(run)
        yield from append_idempotently(batch)
        return (yield from sessions.touch_session(session_id, event.timestamp, status)) or session

    return UnitOfWork(script, sessions=(session_id,))
