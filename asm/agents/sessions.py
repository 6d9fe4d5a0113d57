"""Starting a session, and changing its status with the event that says so."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from asm.agents.lifecycle import run_active
from asm.agents.outcomes import failure_of
from asm.agents.recording import Redactor
from asm.async_store import AsyncSessionStore, AsyncTransaction
from asm.documents import Document
from asm.enums import EventType, RunStatus, SessionStatus
from asm.errors import AlreadyExists, SessionNotFound
from asm.models import Event, Session

_EVENTS = {
    SessionStatus.ACTIVE: EventType.SESSION_RESUMED,
    SessionStatus.PAUSED: EventType.SESSION_PAUSED,
    SessionStatus.COMPLETED: EventType.SESSION_COMPLETED,
    SessionStatus.FAILED: EventType.SESSION_FAILED,
}


class Sessions:
    """Changes the status of sessions in which nothing is running."""

    def __init__(self, store: AsyncSessionStore, redact: Redactor) -> None:
        self._store = store
        self._redact = redact

    async def start(self, session: Session) -> Session:
        types = (EventType.SESSION_CREATED, EventType.SESSION_STARTED)
        events = [self._event(session.id, type) for type in types]
        await self._store.run_transaction(partial(_start, session, events), idempotent=True)
        return session

    async def change(self, session_id: str, status: SessionStatus, error: Any = None) -> Session:
        """Set the status of a session, and return it. One that has the status already stays as it is."""
        event = self._event(session_id, _EVENTS[status], failure_of(error) if error is not None else {})
        try:
            return await self._store.run_transaction(partial(_change, status, event), idempotent=True)
        except _Unchanged as found:
            return found.session

    def _event(self, session_id: str, type: EventType, data: Document | None = None) -> Event:
        return self._redact(Event(session_id=session_id, type=type, data=data or {}))


async def _start(session: Session, events: Sequence[Event], tx: AsyncTransaction) -> None:
    await tx.append_events(events)
    try:
        stored = await tx.get_session(session.id)
    except SessionNotFound:
        await tx.save_session(session)
        return
    if stored != session:
        raise AlreadyExists(f"there is a session of the id {session.id!r}: use another id", id=session.id)


async def _change(status: SessionStatus, event: Event, tx: AsyncTransaction) -> Session:
    await tx.append_event(event)
    session = await tx.get_session(event.session_id)
    if session.status == status:
        raise _Unchanged(session)
    if status != SessionStatus.ACTIVE:
        for run in await tx.list_runs(session.id, status=RunStatus.RUNNING, limit=1):
            raise run_active(run)
    return await tx.update_session(session.id, lambda stored: stored.update_status(status))


class _Unchanged(Exception):
    """The session has the status already, so that nothing is written."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.id)
        self.session = session
