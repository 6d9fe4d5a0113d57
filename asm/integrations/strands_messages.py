"""How a conversation of Strands Agents is stored: the rows, the events of messages, and their changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from strands.types.session import SessionMessage

import asm
from asm.integrations.common import counts_of, joined_id, plain_id

TYPE = "strands.message"

SESSION, AGENT, MULTI_AGENT = "strands.session", "strands.agent", "strands.multi_agent"
"""The first part of the id of a row, and its tag."""


def session_row_id(session_id: str) -> str:
    return joined_id(SESSION, session_id)


def event_id(message_id: int) -> str:
    return f"message-{message_id}"


def row_of(id: str, state: dict[str, Any], agent_id: str, tag: str, parent: str | None = None) -> asm.Session:
    """The row of a session, an agent or a multi-agent that has none yet."""
    return asm.Session(
        id=id,
        agent_id=plain_id(agent_id),
        status="active",
        parent_session_id=parent,
        context={"state": state} if state else {},
        tags=[tag],
    )


def event_of(session_id: str, agent_id: str, message: SessionMessage, run: asm.Run | None) -> asm.Event:
    """The event of a message."""
    return asm.Event(
        id=event_id(message.message_id),
        type=TYPE,
        session_id=joined_id(AGENT, session_id, agent_id),
        run_id=None if run is None else run.id,
        data={"item": _item(message)},
    )


def run_of(
    session_id: str, agent_id: str, message: SessionMessage, provider: str | None, model: str | None
) -> asm.Run | None:
    """The run of a message that has token usage."""
    usage = _item(message)["message"].get("metadata", {}).get("usage") or {}
    counts = counts_of(usage, provider or "bedrock")
    if not any(counts.values()):
        return None
    now = datetime.now(UTC)
    return asm.Run(
        id=event_id(message.message_id),
        session_id=joined_id(AGENT, session_id, agent_id),
        status="completed",
        started_at=now,
        ended_at=now,
        turn_count=1,
        provider=provider,
        provider_metadata={} if model is None else {"model": model},
        token_usage=counts,
    )


def _item(message: SessionMessage) -> dict[str, Any]:
    """The message as it is stored. What a guardrail has redacted is not."""
    item: dict[str, Any] = message.to_dict()
    if item["redact_message"] is not None:
        item["message"] = item["redact_message"]
    return item


def append(event: asm.Event, row: asm.Session, run: asm.Run | None, tx: asm.Transaction) -> asm.Event:
    """Append a message with its run, unless another message has its id, which is returned."""
    stored = tx.append_event(event, session=row)
    if run is not None and stored.data == event.data:
        tx.save_run(run)
    return stored


def replace_message(event: asm.Event, tx: asm.Transaction) -> None:
    """Replace a message, whose words are gone then. EventNotFound if there is none of its id."""
    before = tx.get_event(event.session_id, event.id)
    item = {**event.data["item"], "created_at": before.data["item"]["created_at"]}
    if tx.delete_events(event.session_id, ids=[event.id]) == 0:
        # Deleted, with its agent, since it was read.
        raise asm.EventNotFound(event.id)
    tx.append_event(replace(event, run_id=before.run_id, data={"item": item}))


def with_state(state: dict[str, Any], row: asm.Session) -> asm.Session:
    """The row with another state."""
    return replace(row, context={**row.context, "state": state}, updated_at=datetime.now(UTC))


def with_new_state(state: dict[str, Any], row: asm.Session) -> asm.Session:
    """The row with another state, which was created when the one before it was."""
    before = row.context.get("state", {})
    kept = {"created_at": before["created_at"]} if "created_at" in before else {}
    return with_state({**state, **kept}, row)
