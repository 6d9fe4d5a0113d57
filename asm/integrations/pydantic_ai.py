"""Conversations of pydantic-ai: each is a session, and each of its messages an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    entries_of,
    events_of,
    find_entry,
    read_history,
    save_runs,
)

TAG = "pydantic_ai"
"""The tag of each session that has a conversation, and the key of the record in its context."""

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
            return _record(await self._store.get_session(plain_id(conversation_id)))
        except SessionNotFound:
            return None

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
            records += filter(None, map(_record, page))
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
        """Store a record and the new entries of its history, or neither and raise ConversationConflict.

        A record that is stored exactly as it is given counts as written.
        """
        session, document = _session(record), from_json(_RECORDS.dump_json([record]))[0]
        events = events_of(session, new_entries)

        async def save(tx: AsyncTransaction) -> None:
            copies = await _copies(tx, record, new_entries)
            # This locks the counter and the row of the session until the commit, so that saves take turns.
            await tx.append_events([*copies, *events], session=session)
            stored = await tx.get_session(session.id)
            if stored.context.get(TAG) == document:
                return
            before = _checked(stored, record.conversation_id, expected_revision)
            await tx.save_session(_saved(stored, session, document))
            spent = record.usage - (before.usage if before else RunUsage())
            await save_runs(tx, session, [entry.message for entry in new_entries], spent)

        # Idempotent, because a repetition finds the record.
        await settled(self._store.run_transaction(save, idempotent=True))

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete the session of a conversation, with its messages and runs."""
        session = Session(id=plain_id(conversation_id), agent_id="pydantic-ai")
        marker = Event(type="pydantic_ai.deleted", session_id=session.id)

        async def delete(tx: AsyncTransaction) -> None:
            # This locks what a save locks.
            await tx.append_event(marker, session=session)
            _checked(await tx.get_session(session.id), conversation_id, expected_revision)
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


def _record(session: Session) -> ConversationRecord | None:
    if (document := session.context.get(TAG)) is None:
        return None
    record: ConversationRecord = _RECORDS.validate_json(to_json([document]))[0]
    if record.head_id is not None:
        record.head_id = head_id = EntryId(record.head_id)
        head_id.session_id = session.id
    return record


def _checked(
    stored: Session, conversation_id: str, expected_revision: str | None
) -> ConversationRecord | None:
    record = _record(stored)
    if (record and record.revision) != expected_revision:
        raise ConversationConflict(conversation_id)
    return record


def _session(record: ConversationRecord) -> Session:
    """The session of a conversation that has none yet."""
    return Session(
        id=plain_id(record.conversation_id),
        agent_id="pydantic-ai",
        status="active",
        parent_session_id=None if record.forked_from is None else plain_id(record.forked_from),
        tags=[TAG] if record.scope is None else [TAG, joined_id(SCOPE, record.scope)],
        created_at=record.updated_at,
        updated_at=record.updated_at,
    )


def _saved(stored: Session, session: Session, document: Any) -> Session:
    others = [tag for tag in stored.tags if tag != TAG and not tag.startswith(f"{SCOPE}:")]
    return replace(
        stored,
        context={**stored.context, TAG: document},
        tags=[*session.tags, *others],
        updated_at=session.updated_at,
        deleted_at=None,  # Retention may have soft-deleted a conversation that is continued.
    )


async def _copies(
    tx: AsyncTransaction, record: ConversationRecord, new_entries: Sequence[ConversationEntry]
) -> list[Event]:
    """The history that a fork begins with, as events of its own session."""
    if record.head_id is None or any(entry.id == record.head_id for entry in new_entries):
        return []
    try:
        history = await read_history(tx, record.head_id)
    except LookupError as error:
        raise ConversationConflict(record.conversation_id) from error
    session_id = plain_id(record.conversation_id)
    return [replace(event, session_id=session_id) for event in history if event.session_id != session_id]
