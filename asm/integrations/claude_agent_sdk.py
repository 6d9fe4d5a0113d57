"""The Claude Agent SDK's transcripts in a store: `ClaudeAgentOptions(session_store=AsmSessionStore(store))`.

A transcript is a session, and each of its entries is an event `claude.entry` with the data `{"item": entry}`.
The transcript of a subagent is a session of its own whose parent is the main one, because it can be deleted
by itself and may repeat the uuids of the main transcript.

An append is one round trip, but for a look at the row once an hour. The summary, the title and the runs with
their token usage are derived from the entries, and stored when summaries are listed: from the entries after
number `metadata["through"]`, and in one transaction with that number, so that each entry counts once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from asm.async_store import AsyncSessionStore, AsyncTransaction
from asm.errors import SessionNotFound, missing_extra
from asm.integrations.claude_transcripts import (
    ENTRY,
    MAIN,
    SUBAGENT,
    agent_id,
    entry_of,
    events_of,
    is_transcript,
    mtime,
    new_session,
    runs_after,
    session_id,
    subpath,
    through,
    title_of,
)
from asm.integrations.common import Appends, awaited, settled
from asm.models import Event, Run, Session
from asm.store import SessionStore

try:
    import claude_agent_sdk as sdk
except ImportError as error:
    if error.name != "claude_agent_sdk":
        raise
    raise missing_extra(__name__, "claude-agent-sdk", "claude-agent-sdk") from error

PAGE = 1_000
FOLDS_AT_ONCE = 8
SETTLED_AFTER = timedelta(minutes=5)
"""More than an append takes, and more than the clocks of two clients differ.

An append moves `updated_at` to the time at which it began, if that is later. So if nothing new is found this
long after `updated_at`, there is nothing new until it moves."""


class AsmSessionStore(sdk.SessionStore):
    """Keeps the transcripts of the Claude Agent SDK in a store, which is lent and is not closed.

    With a SessionStore any number of event loops may use it, with an AsyncSessionStore the one in which that
    was opened. A transcript that is soft-deleted is in no list, but can be loaded; an append restores it.
    """

    def __init__(self, store: SessionStore | AsyncSessionStore) -> None:
        self._store = awaited(store, "AsmSessionStore")
        self._appends = Appends(self._store)

    async def append(self, key: sdk.SessionKey, entries: list[sdk.SessionStoreEntry]) -> None:
        """Append entries as one block. An entry whose uuid is stored already is not appended again."""
        if entries:
            # A title is only needed by a new transcript. Later entries have a parent.
            begins = entries[0].get("parentUuid") is None
            session = new_session(key, _summary(key, entries) if begins else {})
            await self._appends.append(events_of(session.id, entries), session)

    async def load(self, key: sdk.SessionKey) -> list[sdk.SessionStoreEntry] | None:
        """The entries of a transcript in the order in which they were appended; None if there are none."""
        events = await self._store.get_events(session_id(key), type=ENTRY)
        return [entry_of(event) for event in events] or None

    async def list_sessions(self, project_key: str) -> list[sdk.SessionStoreListEntry]:
        """The main transcripts of a project, with the time of the last append in milliseconds since 1970."""
        found = await _find(self._store, agent_id=agent_id(project_key), tags=MAIN)
        return [{"session_id": each.metadata["session_id"], "mtime": mtime(each)} for each in found]

    async def list_session_summaries(self, project_key: str) -> list[sdk.SessionSummaryEntry]:
        """The summaries of the main transcripts of a project.

        Entries that are not folded yet are read and folded, those of subagents into their runs, too.
        """
        found = await _find(self._store, agent_id=agent_id(project_key))
        gate = asyncio.Semaphore(FOLDS_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as tasks:
                folds = [tasks.create_task(self._fold(each, gate)) for each in found]
        except ExceptionGroup as failed:
            error = failed.exceptions[0]
            raise error from error.__cause__
        return [
            # What was appended after the session was found may not be folded: its time is not reported.
            {"session_id": each.metadata["session_id"], "mtime": mtime(each), "data": now.context["summary"]}
            for each, fold in zip(found, folds, strict=True)
            if (now := fold.result()) is not None and "summary" in now.context
        ]

    async def delete(self, key: sdk.SessionKey) -> None:
        """Delete a transcript; a main one with those of its subagents, all or none."""
        id = session_id(key)

        async def work(tx: AsyncTransaction) -> None:
            ids = {id}
            if not subpath(key):
                children = await _find(tx, parent_session_id=id, tags=SUBAGENT, include_deleted=True)
                ids |= {child.id for child in children}
            # In one order, so that two deletes wait for each other and do not deadlock.
            for each in sorted(ids):
                await tx.delete_session(each)

        await settled(self._store.run_transaction(work, idempotent=True))

    async def list_subkeys(self, key: sdk.SessionListSubkeysKey) -> list[str]:
        """The subpaths of the transcripts of a session's subagents, of all that can be loaded."""
        id = session_id(key)
        found = await _find(self._store, parent_session_id=id, tags=SUBAGENT, include_deleted=True)
        return [each.metadata["subpath"] for each in found]

    async def _fold(self, found: Session, gate: asyncio.Semaphore) -> Session | None:
        """A session with every entry folded that it had when it was found; None if it is deleted."""
        settled_at = found.updated_at.isoformat()
        if found.metadata.get("settled_at") == settled_at:
            return found
        is_quiet = datetime.now(UTC) - found.updated_at > SETTLED_AFTER

        def settle(stored: Session) -> Session:
            return replace(stored, metadata={**stored.metadata, "settled_at": settled_at})

        async with gate:
            session = found
            try:
                while events := await self._store.get_events(
                    session.id, type=ENTRY, after=through(session), limit=PAGE
                ):
                    session = await settled(self._fold_events(session, events))
                return await settled(self._store.update_session(session.id, settle)) if is_quiet else session
            except SessionNotFound:
                return None

    async def _fold_events(self, session: Session, events: Sequence[Event]) -> Session:
        async def work(tx: AsyncTransaction) -> Session:
            runs: list[Run] = []

            def change(stored: Session) -> Session:
                if stored.created_at != session.created_at or through(stored) < through(session):
                    # The session was deleted and has begun again: these are not its events.
                    return stored
                folded, runs[:] = _folded(stored, events)
                return folded

            stored = await tx.update_session(session.id, change)
            for run in runs:
                await tx.save_run(run)
            return stored

        return await self._store.run_transaction(work, idempotent=True)


def _folded(session: Session, events: Iterable[Event]) -> tuple[Session, list[Run]]:
    """A session with the events folded that it has not folded yet, and the runs that they change."""
    new = [event for event in events if (event.sequence_number or 0) > through(session)]
    if not new:
        return session, []
    metadata: Any = {**session.metadata, "through": new[-1].sequence_number}
    context = dict(session.context)
    context["run"], runs = runs_after(context.get("run"), new)
    if not subpath(metadata):
        entries = [entry_of(event) for event in new]
        context["summary"] = _summary(metadata, entries, context.get("summary", {}))
        metadata |= title_of(context["summary"])
    return replace(session, metadata=metadata, context=context), runs


def _summary(key: Any, entries: list[Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    previous: Any = {"session_id": key["session_id"], "mtime": 0, "data": before or {}}
    data: dict[str, Any] = sdk.fold_session_summary(previous, key, entries)["data"]
    return data


async def _find(store: AsyncSessionStore | AsyncTransaction, **filters: Any) -> list[Session]:
    """All sessions that are transcripts. A fork that the store itself made has the metadata of its parent."""
    found: list[Session] = []
    # In this order, a session that is appended to meanwhile is not missed.
    search: Any = {"order_by": "created_at_asc", "limit": PAGE, **filters}
    while True:
        page = await store.query.search_sessions(**search)
        found += page
        if page.cursor is None:
            return [each for each in found if is_transcript(each)]
        search["cursor"] = page.cursor
