"""Messages of pydantic-ai as events: writing them, reading a history, and the runs that they are of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias

from pydantic_ai.conversation_store import ConversationConflict, ConversationEntry, ConversationRecord
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.usage import RunUsage
from pydantic_core import from_json, to_json

from asm.async_store import AsyncSessionStore, AsyncTransaction
from asm.errors import RunNotFound
from asm.integrations.common import plain_id, usage_or
from asm.models import Event, Run, Session
from asm.provider_usage import token_usage

MESSAGE = "pydantic_ai.message"

Store: TypeAlias = AsyncSessionStore | AsyncTransaction


class EntryId(str):
    """The id of an entry and the session to read it from: a fork and its source have entries of equal ids."""

    session_id: str


def events_of(session: Session, entries: Sequence[ConversationEntry]) -> list[Event]:
    items = from_json(ModelMessagesTypeAdapter.dump_json([entry.message for entry in entries]))
    return [
        Event(
            id=entry.id,
            type=MESSAGE,
            session_id=session.id,
            run_id=plain_id(entry.message.run_id) if entry.message.run_id else None,
            timestamp=_time(entry.message, session),
            data={"item": item},
            metadata={"parent_id": entry.parent_id and str(entry.parent_id)},
            provider=_provider(entry.message),
            correlation_id=entry.id,
        )
        for entry, item in zip(entries, items, strict=True)
    ]


def entries_of(events: Sequence[Event]) -> list[ConversationEntry]:
    messages = ModelMessagesTypeAdapter.validate_json(to_json([event.data["item"] for event in events]))
    return [
        ConversationEntry(id=event.id, parent_id=event.metadata["parent_id"], message=message)
        for event, message in zip(events, messages, strict=True)
    ]


async def find_entry(store: Store, entry_id: str) -> Event:
    for event in await store.query.search_events(types=MESSAGE, correlation_id=entry_id, limit=1):
        return event
    raise LookupError(f"no conversation has the entry {entry_id!r}")


async def read_history(store: Store, head_id: str, limit: int | None = None) -> list[Event]:
    """The events of a history, looked for from its end: events of other branches lie between them."""
    home = head_id if isinstance(head_id, EntryId) else await find_entry(store, head_id)
    newest_first: list[Event] = []
    wanted, before, size = str(head_id), None, limit
    while wanted and (limit is None or len(newest_first) < limit):
        events = await store.get_events(home.session_id, type=MESSAGE, before=before, last=size)
        for event in reversed(events):
            if event.id == wanted:
                newest_first.append(event)
                wanted = event.metadata["parent_id"]
        if size is None or len(events) < size:
            break
        before, size = events[0].sequence_number, 2 * size
    if not newest_first:
        raise LookupError(f"session {home.session_id!r} does not have the entry {head_id!r}")
    return newest_first[:limit][::-1]


async def copies_of(
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


# Runs.


async def runs_of(
    tx: AsyncTransaction, session: Session, messages: Iterable[ModelMessage], spent: RunUsage, *, is_new: bool
) -> list[Run]:
    """The runs of new messages, to be saved. `spent` is the usage since the last save, if there was one.

    A run has used what its responses say, and the last run what is left: agents that a tool called, and
    attempts that failed, are in no message. A rewritten history has messages of runs that are stored;
    they are not counted again.
    """
    messages_of: dict[str, list[ModelMessage]] = {}
    for message in messages:
        if message.run_id:
            messages_of.setdefault(plain_id(message.run_id), []).append(message)
    runs = []
    for id, own in messages_of.items():
        stored = None if is_new else await _stored(tx, id, session)
        used = sum((each.usage for each in _responses(own)), RunUsage())
        if id == next(reversed(messages_of)) and spent.total_tokens > 0:
            used = spent
        elif stored:
            continue
        spent -= used
        run = stored or Run(id=id, session_id=session.id, started_at=_time(own[0], session))
        runs.append(_ended(run, own, used, _time(own[-1], session)))
    return runs


async def _stored(tx: AsyncTransaction, id: str, session: Session) -> Run | None:
    try:
        return await tx.get_run(id, session_id=session.id)
    except RunNotFound:
        return None


def _ended(run: Run, messages: Sequence[ModelMessage], used: RunUsage, at: datetime) -> Run:
    run = replace(run, status="completed", ended_at=at)
    if responses := _responses(messages):
        run = replace(
            run,
            turn_count=run.turn_count + len(responses),
            provider=_provider(responses[-1]),
            provider_metadata={"model": responses[-1].model_name},
            cost_usd=_cost(run, responses, used),
        )
    return usage_or(run, lambda: run.update_token_usage(_counts(used)))


def _cost(run: Run, responses: Sequence[ModelResponse], used: RunUsage) -> float | None:
    """The cost that pydantic-ai computed, if it knew the price of each response."""
    if used.cost is None or any(each.usage.cost is None for each in responses):
        return None
    return float(max(used.cost, 0)) + (run.cost_usd or 0.0)


def _counts(used: RunUsage) -> dict[str, int]:
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    input_tokens, output_tokens, read, written = (max(getattr(used, name), 0) for name in names)
    # A model of the application's own may report cached tokens beside the input tokens.
    counts = (max(input_tokens, read + written), output_tokens, read, written)
    return token_usage(dict(zip(names, counts, strict=True)), provider="pydantic-ai")


def _responses(messages: Iterable[ModelMessage]) -> list[ModelResponse]:
    return [each for each in messages if isinstance(each, ModelResponse)]


def _time(message: ModelMessage, session: Session) -> datetime:
    """When a message was sent or received; when it is saved, if it does not say."""
    at = message.timestamp
    return session.updated_at if at is None or at.tzinfo is None else at


def _provider(message: ModelMessage) -> str | None:
    name = message.provider_name if isinstance(message, ModelResponse) else None
    return plain_id(name) if name else None
