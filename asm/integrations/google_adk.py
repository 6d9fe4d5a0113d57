"""The session service of Google's Agent Development Kit (ADK), on a store.

The number of a session's newest event is its revision. An append expects the revision of the object that it
is given, so of several objects with one revision, only one can be appended to: the others are stale.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from asm.async_store import AsyncSessionStore, AsyncTransaction
from asm.errors import SequenceConflict, missing_extra
from asm.integrations.common import awaited, plain_id, settled
from asm.models import Event as StoredEvent
from asm.models import EventType
from asm.models import Session as StoredSession
from asm.store import SessionStore

try:
    from google.adk.errors import StaleSessionError
    from google.adk.errors.already_exists_error import AlreadyExistsError
    from google.adk.errors.session_not_found_error import SessionNotFoundError
    from google.adk.events import Event, EventActions
    from google.adk.sessions import BaseSessionService, Session
    from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse

    from asm.integrations import google_adk_records as records
except ModuleNotFoundError as error:
    if error.name not in ("google", "google.adk"):
        raise
    raise missing_extra(__name__, "google-adk", "google-adk") from error

_REVISIONS = (records.EVENT, EventType.SESSION_CREATED)
"""The events that change the revision. An application's own events in the session do not."""


class AsmSessionService(BaseSessionService):
    """A session service for ADK's `Runner`. The store is lent, and stays open.

    With a SessionStore, any number of event loops may use one service.
    """

    def __init__(self, store: SessionStore | AsyncSessionStore) -> None:
        self._store = awaited(store, "AsmSessionService")
        self._locks: WeakValueDictionary[Any, asyncio.Lock] = WeakValueDictionary()

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """A new session. AlreadyExistsError if there is one with that id."""
        session_id = (session_id or "").strip() or str(uuid4())
        state = records.json_of(EventActions(state_delta=state or {}))["state_delta"]
        new, *states = records.sessions_of(app_name, user_id, session_id, state, datetime.now(UTC))
        created = StoredEvent(type=EventType.SESSION_CREATED, session_id=new.id, timestamp=new.created_at)

        async def work(tx: AsyncTransaction) -> None:
            try:
                await tx.append_event(created, expected_sequence=0, session=new)
            except SequenceConflict:
                # A session that retention has deleted, but not removed, does not keep its id.
                if not any(stored.deleted_at for stored in await tx.get_sessions([new.id])):
                    raise
                await tx.delete_session(new.id)
                await tx.append_event(created, expected_sequence=0, session=new)
            await records.add_states(tx, [each for each in states if each.context])

        try:
            await settled(self._store.run_transaction(work))
        except SequenceConflict as conflict:
            raise AlreadyExistsError(f"Session with id {session_id} already exists.") from conflict
        app, user = (each.id for each in states)
        return records.read_session(new, app, await self._sessions(app, user), revision=1)

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """A session and its events, in the order in which they were appended, or None."""
        id, app, user = records.ids_of(app_name, user_id, session_id.strip())
        last, after = (config.num_recent_events, config.after_timestamp) if config else (None, None)
        # The revision is read first. If it changes meanwhile, an append finds the session stale.
        newest = 1 if after else None if last is None else max(last, 1)
        events = await self._store.get_events(id, type=_REVISIONS, last=newest)
        revision = events[-1].sequence_number if events else None
        if after:
            since = records.time_of(after)
            events = await self._store.get_events(id, type=records.EVENT, since=since, last=last)
        stored = await self._sessions(id, app, user)
        if id not in stored or stored[id].deleted_at:
            return None
        session = records.read_session(stored[id], app, stored, revision)
        session.events = [] if last == 0 else records.read_events(events)
        return session

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """The sessions of an app, or of one of its users, without events; the one updated last at the end."""
        _, app, user = records.ids_of(app_name, user_id or "")
        owner: Any = {"agent_id": plain_id(app_name)} if user_id is None else {"parent_session_id": user}
        found: list[StoredSession] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await self._store.query.search_sessions(
                **owner, order_by="created_at_asc", limit=1_000, cursor=cursor or None
            )
            # Others may have the same agent, such as forks.
            found += [each for each in page if each.id.startswith(f"{records.PREFIX}:")]
            cursor = page.cursor
        states = await self._sessions(app, *{each.parent_session_id or "" for each in found})
        sessions = [records.read_session(each, app, states) for each in found]
        sessions.sort(key=lambda each: (each.last_update_time, each.user_id, each.id))
        return ListSessionsResponse(sessions=sessions)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session with its events and runs. The states of its user and its app stay."""
        id, _, _ = records.ids_of(app_name, user_id, session_id.strip())
        await settled(self._store.delete_session(id))

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """The state of a user in an app, with keys without `user:`."""
        _, _, user = records.ids_of(app_name, user_id)
        return next((each.context for each in await self._store.get_sessions([user])), {})

    async def append_event(self, session: Session, event: Event) -> Event:
        """Append an event, and change the states and the object as it says.

        StaleSessionError if the session has changed since the object was read, SessionNotFoundError if
        it was deleted. An event that is stored already changes nothing. A partial event is not stored.
        """
        if event.partial:
            return event
        key = asyncio.get_running_loop(), session.app_name, session.user_id, session.id
        # Tasks that share an object take turns: each needs the revision that the one before it left.
        async with self._locks.setdefault(key, asyncio.Lock()):
            return await settled(self._append(session, event))

    async def _append(self, session: Session, event: Event) -> Event:
        id, _, _ = records.ids_of(session.app_name, session.user_id, session.id)
        new = records.event_of(id, event)
        stored = await self._write(session, event, new)
        if stored.data != new.data:
            raise AlreadyExistsError(f"Session {session.id} has another event with the id {event.id}.")
        session._storage_update_marker = str(max(stored.sequence_number or 0, records.revision_of(session)))
        session.last_update_time = max(session.last_update_time, new.timestamp.timestamp())
        if records.is_new(stored, new) or all(each.id != event.id for each in session.events):
            await super().append_event(session, event)
        return event

    async def _write(self, session: Session, event: Event, new: StoredEvent) -> StoredEvent:
        """Append an event, with what it changes, if the session is still as the object says."""
        own, *states = records.changes_of(session, event, new)
        changed = [each for each in (own, *states) if each.context or "title" in each.metadata]
        run = records.run_of(session, event, new)
        if any(each.deleted_at for each in await self._store.get_sessions([own.id])):
            raise SessionNotFoundError(f"Session {session.id} was deleted.")
        expected = records.revision_of(session) or await self._check_revision(session, own.id)

        async def work(tx: AsyncTransaction) -> StoredEvent:
            touched = None if own in changed else own
            stored = await tx.append_event(new, expected_sequence=expected, session=touched)
            if records.is_new(stored, new):
                await records.add_states(tx, changed)
                if run is not None:
                    await records.add_run(tx, run)
            return stored

        while True:
            try:
                if changed or run:
                    return await self._store.run_transaction(work)
                return await self._store.append_event(new, expected_sequence=expected, session=own)
            except SequenceConflict as conflict:
                await self._check_revision(session, own.id)
                expected = conflict.details["latest_sequence"]

    async def _check_revision(self, session: Session, id: str) -> int:
        """The stored revision if the object has it, else the error that ADK expects."""
        newest = await self._store.get_events(id, type=_REVISIONS, last=1)
        if not newest:
            raise SessionNotFoundError(f"Session {session.id} not found.")
        [event], known = newest, records.revision_of(session)
        is_current = event.sequence_number == known
        if not known:
            # The object was made from JSON, which has no revision.
            is_current = event.timestamp <= records.time_of(session.last_update_time)
            is_current |= any(plain_id(each.id) == event.id for each in session.events[-1:])
        if not is_current:
            raise StaleSessionError(
                f"Session {session.id} has been modified in storage since it was loaded. "
                "Reload the session before appending more events."
            )
        return event.sequence_number or 0

    async def _sessions(self, *ids: str) -> dict[str, StoredSession]:
        return {each.id: each for each in await self._store.get_sessions(ids)}
