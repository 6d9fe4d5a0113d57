"""Conversations of pydantic-ai: each is a session, and each of its messages an event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from asm.async_store import AsyncSessionStore, AsyncTransaction
from asm.errors import SessionNotFound, missing_extra
from asm.integrations.common import awaited, joined_id, plain_id, settled
from asm.models import Event, Session
from asm.store import SessionStore

try:
    from pydantic import ConfigDict, TypeAdapter
    from pydantic_ai.conversation_store import (
        ConversationConflict,
        ConversationEntry,
        ConversationRecord,
        ConversationStore,
    )
    from pydantic_ai.usage import RunUsage
    from pydantic_core import from_json, to_json
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("pydantic", "pydantic_ai", "pydantic_core"):
        raise
    raise missing_extra(__name__, "pydantic-ai", "pydantic-ai") from error

from asm.integrations.pydantic_ai_messages import (
    EntryId,
    copies_of,
    entries_of,
    events_of,
    find_entry,
    read_history,
    runs_of,
)

TAG = "pydantic_ai"
"""The tag of each session that has a conversation, and the key of the record in its context."""

AGENT_ID = "pydantic-ai"
SCOPE = "pydantic_ai.scope"
PAGE_SIZE = 1_000

# As ModelMessagesTypeAdapter is configured, so that a deferred tool call may have bytes, too.
_RECORDS = TypeAdapter(
    list[ConversationRecord], config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
)


class AsmConversationStore(ConversationStore):
    """Keeps the conversations of pydantic-ai in a store, which is lent: this neither opens nor closes it.

    The id of a conversation is the id of its session, whose context has the record. If the application has
    saved a session of that id, the conversation becomes part of it. A fork has copies of the messages that
    it begins with. Deleting a conversation deletes its session, with everything that the session has.

    With a SessionStore, any number of event loops may use this. A save or a delete whose task is cancelled
    goes on to its outcome, and then raises CancelledError.
    """

    def __init__(self, store: SessionStore | AsyncSessionStore) -> None:
        self._store = awaited(store, "AsmConversationStore")

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """The record of a conversation, or None if the store does not have it."""
        try:
            session = await self._store.get_session(plain_id(conversation_id))
        except SessionNotFound:
            return None
        return next(_records([session]), None)

    async def read_records(
        self, *, scope: str | None = None, limit: int | None = None
    ) -> list[ConversationRecord]:
        """The records, or those of a scope, the last updated first; at most `limit`."""
        tags = [TAG if scope is None else joined_id(SCOPE, scope)]
        records: list[ConversationRecord] = []
        cursor = None
        while limit is None or len(records) < limit:
            size = PAGE_SIZE if limit is None else min(limit - len(records), PAGE_SIZE)
            page = await self._store.query.search_sessions(tags=tags, limit=size, cursor=cursor)
            records += _records(page)
            if (cursor := page.cursor) is None:
                break
        return records

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Store a record and the new entries of its history, or neither and raise ConversationConflict."""
        session, document = _session(record), from_json(_RECORDS.dump_json([record]))[0]
        messages, is_new = [entry.message for entry in new_entries], expected_revision is None
        events = events_of(session, new_entries) or [_event(session, "saved", head_id=record.head_id)]

        async def save(tx: AsyncTransaction) -> None:
            copies = await copies_of(tx, record, new_entries)
            # This locks the counter of the session until the commit, so that saves take turns.
            await tx.append_events([*copies, *events], session=session if is_new else None)
            change = partial(_saved, session, document)
            before = await _replace(tx, record.conversation_id, expected_revision, change)
            spent = record.usage - (before.usage if before else RunUsage())
            for run in await runs_of(tx, session, messages, spent, is_new=is_new):
                await tx.save_run(run)

        await settled(self._store.run_transaction(save))

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete the session of a conversation, with its messages and runs."""
        session = Session(id=plain_id(conversation_id), agent_id=AGENT_ID)
        event = _event(session, "deleted")

        async def delete(tx: AsyncTransaction) -> None:
            # This locks what a save locks.
            await tx.append_event(event)
            await _replace(tx, conversation_id, expected_revision, lambda stored: stored)
            await tx.delete_session(session.id)

        await settled(self._store.run_transaction(delete))

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """The entry of this id; LookupError if no conversation has it."""
        return entries_of([await find_entry(self._store, entry_id)])[0]

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """The entries up to `head_id`, or the last `limit` of them; LookupError if there is no `head_id`.

        If retention has pruned the oldest messages, the history begins after them.
        """
        if head_id is None or limit == 0:
            return []
        return entries_of(await read_history(self._store, head_id, limit))


def _records(sessions: Iterable[Session]) -> Iterator[ConversationRecord]:
    """The records of the sessions that have one."""
    documents = {session.id: session.context[TAG] for session in sessions if TAG in session.context}
    records = _RECORDS.validate_json(to_json(list(documents.values())))
    for session_id, record in zip(documents, records, strict=True):
        if record.head_id is not None:
            record.head_id = head_id = EntryId(record.head_id)
            head_id.session_id = session_id
        yield record


async def _replace(
    tx: AsyncTransaction,
    conversation_id: str,
    expected_revision: str | None,
    change: Callable[[Session], Session],
) -> ConversationRecord | None:
    """Change the session of a conversation that has this revision, and return the record that it had."""
    before: list[ConversationRecord] = []

    def changed(stored: Session) -> Session:
        before[:] = _records([stored])
        if (before[0].revision if before else None) != expected_revision:
            raise ConversationConflict(conversation_id)
        return change(stored)

    try:
        await tx.update_session(plain_id(conversation_id), changed)
    except SessionNotFound as error:
        raise ConversationConflict(conversation_id) from error
    return before[0] if before else None


def _event(session: Session, what: str, **data: Any) -> Event:
    return Event(type=f"{TAG}.{what}", session_id=session.id, timestamp=session.updated_at, data=data)


def _session(record: ConversationRecord) -> Session:
    """The session of a conversation that has none yet."""
    return Session(
        id=plain_id(record.conversation_id),
        agent_id=AGENT_ID,
        status="active",
        parent_session_id=None if record.forked_from is None else plain_id(record.forked_from),
        tags=[TAG] if record.scope is None else [TAG, joined_id(SCOPE, record.scope)],
        created_at=record.updated_at,
        updated_at=record.updated_at,
    )


def _saved(session: Session, document: Any, stored: Session) -> Session:
    others = [tag for tag in stored.tags if tag != TAG and not tag.startswith(f"{SCOPE}:")]
    return replace(
        stored,
        context={**stored.context, TAG: document},
        tags=[*session.tags, *others],
        updated_at=session.updated_at,
        deleted_at=None,  # Retention may have soft-deleted a conversation that is continued.
    )
