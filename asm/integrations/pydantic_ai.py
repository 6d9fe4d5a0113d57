"""Conversations of pydantic-ai: a session each, with an event for each message and a run for each run."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from datetime import datetime

import asm
from asm.errors import missing_extra
from asm.integrations.common import awaited, joined_id, plain_id, settled

try:
    from pydantic import ConfigDict, TypeAdapter
    from pydantic_ai.conversation_store import ConversationConflict as Conflict
    from pydantic_ai.conversation_store import ConversationEntry as Entry
    from pydantic_ai.conversation_store import ConversationRecord as Record
    from pydantic_ai.conversation_store import ConversationStore
    from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
    from pydantic_ai.usage import RunUsage
    from pydantic_core import from_json, to_json
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("pydantic", "pydantic_ai", "pydantic_core"):
        raise
    raise missing_extra(__name__, "pydantic-ai", "pydantic-ai") from error

TAG = "pydantic_ai"
"""The tag of each session that has a conversation, and the key of the record in its context."""

SCOPE = "pydantic_ai.scope"
MESSAGE = "pydantic_ai.message"
PAGE_SIZE = 1_000

# As ModelMessagesTypeAdapter is configured, so that a deferred tool call may have bytes, too.
_RECORDS = TypeAdapter(list[Record], config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64"))


class AsmConversationStore(ConversationStore):
    """Keeps the conversations of pydantic-ai in a store, which is lent: this neither opens nor closes it.

    The id of a conversation is the id of its session, whose context has the record. If the application has
    saved a session of that id, the conversation becomes part of it. A fork has copies of the messages that
    it begins with. Deleting a conversation deletes its session, with everything that the session has.

    With a SessionStore, any number of event loops may use this. A save or a delete whose task is cancelled
    goes on to its outcome, and then raises CancelledError.
    """

    def __init__(self, store: asm.SessionStore | asm.AsyncSessionStore) -> None:
        self._store = awaited(store, "AsmConversationStore")

    async def read_record(self, conversation_id: str) -> Record | None:
        """The record of a conversation, or None if the store does not have it."""
        try:
            return _record(await self._store.get_session(plain_id(conversation_id)))
        except asm.SessionNotFound:
            return None

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> list[Record]:
        """The records, or those of a scope, the last updated first; at most `limit`."""
        tags = [TAG if scope is None else joined_id(SCOPE, scope)]
        records: list[Record] = []
        cursor = None
        while limit is None or len(records) < limit:
            size = PAGE_SIZE if limit is None else min(limit - len(records), PAGE_SIZE)
            page = await self._store.query.search_sessions(tags=tags, limit=size, cursor=cursor)
            records += filter(None, map(_record, page))
            if (cursor := page.cursor) is None:
                break
        return records

    async def write_record(
        self, record: Record, *, new_entries: Sequence[Entry] = (), expected_revision: str | None
    ) -> None:
        """Store a record and the new entries of its history, or neither and raise ConversationConflict.

        A record that is stored exactly as it is given counts as written.
        """
        document = from_json(_RECORDS.dump_json([record]))[0]
        session = _session(record)
        events = _events(session, new_entries)

        async def save(tx: asm.AsyncTransaction) -> None:
            copies = await _copies(tx, record, {entry.id for entry in new_entries})
            # This locks the counter and the row of the session until the commit: saves take turns.
            await tx.append_events([*copies, *events], session=session)
            stored = await tx.get_session(session.id)
            if stored.context.get(TAG) != document:
                before = _checked(stored, record.conversation_id, expected_revision)
                await tx.save_session(_saved(stored, session, document))
                messages = [entry.message for entry in new_entries]
                await _save_runs(
                    tx, session, messages, record.usage - (before.usage if before else RunUsage())
                )

        # Idempotent, because a repetition finds the record.
        await settled(self._store.run_transaction(save, idempotent=True))

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete the session of a conversation, with its messages and runs."""
        session = asm.Session(id=plain_id(conversation_id), agent_id="pydantic-ai")
        marker = asm.Event(type="pydantic_ai.deleted", session_id=session.id)

        async def delete(tx: asm.AsyncTransaction) -> None:
            # This locks the counter and the row of the session, as in a save.
            await tx.append_event(marker, session=session)
            _checked(await tx.get_session(session.id), conversation_id, expected_revision)
            await tx.delete_session(session.id)

        await settled(self._store.run_transaction(delete))

    async def read_entry(self, entry_id: str) -> Entry:
        """The entry of this id; LookupError if no conversation has it."""
        return _entries([await _find(self._store, entry_id)])[0]

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[Entry]:
        """The entries up to `head_id`, or the last `limit` of them; LookupError if there is no `head_id`.

        If retention has pruned the oldest messages, the history begins after them.
        """
        if head_id is None or limit == 0:
            return []
        return _entries(await _history(self._store, head_id, limit))


class _EntryId(str):
    """The id of an entry and the session to read it from: a fork and its source have entries of equal ids."""

    session_id: str


def _record(session: asm.Session) -> Record | None:
    if (document := session.context.get(TAG)) is None:
        return None
    record: Record = _RECORDS.validate_json(to_json([document]))[0]
    if record.head_id is not None:
        record.head_id = head_id = _EntryId(record.head_id)
        head_id.session_id = session.id
    return record


def _checked(stored: asm.Session, conversation_id: str, expected_revision: str | None) -> Record | None:
    record = _record(stored)
    if (record and record.revision) != expected_revision:
        raise Conflict(conversation_id)
    return record


def _session(record: Record) -> asm.Session:
    """The session of a conversation that has none yet."""
    return asm.Session(
        id=plain_id(record.conversation_id),
        agent_id="pydantic-ai",
        status="active",
        parent_session_id=record.forked_from and plain_id(record.forked_from),
        tags=[TAG] if record.scope is None else [TAG, joined_id(SCOPE, record.scope)],
        created_at=record.updated_at,
        updated_at=record.updated_at,
    )


def _saved(stored: asm.Session, session: asm.Session, document: object) -> asm.Session:
    return replace(
        stored,
        context={**stored.context, TAG: document},
        tags=[*session.tags, *(tag for tag in stored.tags if tag != TAG and not tag.startswith(SCOPE))],
        updated_at=session.updated_at,
        # Retention may have soft-deleted a conversation that is continued now.
        deleted_at=None,
    )


def _events(session: asm.Session, entries: Sequence[Entry]) -> list[asm.Event]:
    items = from_json(ModelMessagesTypeAdapter.dump_json([entry.message for entry in entries]))
    return [
        asm.Event(
            id=entry.id,
            type=MESSAGE,
            session_id=session.id,
            run_id=entry.message.run_id and plain_id(entry.message.run_id),
            timestamp=_time(entry.message, session),
            data={"item": item},
            metadata={"parent_id": entry.parent_id and str(entry.parent_id)},
            provider=_provider([entry.message]),
            correlation_id=entry.id,
        )
        for entry, item in zip(entries, items, strict=True)
    ]


def _entries(events: Sequence[asm.Event]) -> list[Entry]:
    messages = ModelMessagesTypeAdapter.validate_json(to_json([event.data["item"] for event in events]))
    return [
        Entry(id=event.id, parent_id=event.metadata["parent_id"], message=message)
        for event, message in zip(events, messages, strict=True)
    ]


def _time(message: ModelMessage, session: asm.Session) -> datetime:
    """When a message was sent or received; when it is saved, if it does not say that."""
    at = message.timestamp
    return session.updated_at if at is None or at.tzinfo is None else at


def _provider(messages: Iterable[ModelMessage]) -> str | None:
    """The provider of the last response."""
    names = [each.provider_name for each in messages if isinstance(each, ModelResponse)]
    return plain_id(names[-1]) if names and names[-1] else None


async def _copies(tx: asm.AsyncTransaction, record: Record, new_ids: Container[str]) -> list[asm.Event]:
    """The history that a fork begins with, as events of its own session."""
    if record.head_id is None or record.head_id in new_ids:
        return []
    session_id = plain_id(record.conversation_id)
    try:
        history = await _history(tx, record.head_id)
    except LookupError as error:
        raise Conflict(record.conversation_id) from error
    return [replace(event, session_id=session_id) for event in history if event.session_id != session_id]


async def _find(store: asm.AsyncSessionStore | asm.AsyncTransaction, entry_id: str) -> asm.Event:
    page = await store.query.search_events(types=MESSAGE, correlation_id=entry_id, limit=1)
    for event in page:
        return event
    raise LookupError(f"no conversation has the entry {entry_id!r}")


async def _history(
    store: asm.AsyncSessionStore | asm.AsyncTransaction, head_id: str, limit: int | None = None
) -> list[asm.Event]:
    """The events of a history, looked for from its end: those of other branches lie between them."""
    session_id = (
        head_id.session_id if isinstance(head_id, _EntryId) else (await _find(store, head_id)).session_id
    )
    newest_first: list[asm.Event] = []
    wanted, before, size = str(head_id), None, limit
    while wanted and (limit is None or len(newest_first) < limit):
        events = await store.get_events(session_id, type=MESSAGE, before=before, last=size)
        for event in reversed(events):
            if event.id == wanted:
                newest_first.append(event)
                wanted = event.metadata["parent_id"]
        if size is None or len(events) < size:
            break
        before, size = events[0].sequence_number, 2 * size
    if not newest_first:
        raise LookupError(f"session {session_id!r} does not have the entry {head_id!r}")
    return newest_first[:limit][::-1]


async def _save_runs(
    tx: asm.AsyncTransaction, session: asm.Session, messages: Iterable[ModelMessage], spent: RunUsage
) -> None:
    """Save the runs of new messages with their usage, and the last one with all else that was spent.

    Agents that a tool called and attempts that failed are in no message. A rewritten history has messages
    of runs that are stored, and were counted.
    """
    runs: dict[str, list[ModelMessage]] = {}
    for message in messages:
        if message.run_id:
            runs.setdefault(plain_id(message.run_id), []).append(message)
    for id, own in runs.items():
        used = sum((each.usage for each in own if isinstance(each, ModelResponse)), RunUsage())
        try:
            run, is_stored = await tx.get_run(id, session_id=session.id), True
        except asm.RunNotFound:
            run = asm.Run(id=id, session_id=session.id, started_at=_time(own[0], session))
            is_stored = False
        if id == next(reversed(runs)) and spent.total_tokens > 0:
            used = spent
        elif is_stored:
            continue
        spent -= used
        await tx.save_run(_ended(run, own, used, _time(own[-1], session)))


def _ended(run: asm.Run, messages: Sequence[ModelMessage], used: RunUsage, at: datetime) -> asm.Run:
    responses = [each for each in messages if isinstance(each, ModelResponse)]
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    counts = {name: max(getattr(used, name), 0) for name in names}
    counts["input_tokens"] = max(
        counts["input_tokens"], counts["cache_read_tokens"] + counts["cache_write_tokens"]
    )
    # The cost is whole if pydantic-ai knows the price of each response.
    is_priced = used.cost is not None and all(each.usage.cost is not None for each in responses)
    return replace(
        run.update_token_usage(asm.token_usage(counts, provider="pydantic-ai")),
        status="completed",
        ended_at=at,
        turn_count=run.turn_count + len(responses),
        provider=_provider(messages),
        provider_metadata={"model": responses[-1].model_name} if responses else {},
        cost_usd=float(used.cost) + (run.cost_usd or 0.0) if is_priced else None,
    )
