"""Events and sessions with their documents as JSON text, as the statements of an append take them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import orjson

from asm.documents import dump, dump_object
from asm.engine.script import Query
from asm.errors import ValidationError
from asm.models import Event, Session, event_from_row
from asm.validation import is_collection

Key: TypeAlias = tuple[str, str]
"""An event's session and its id."""


class EncodedEvent:
    """An event to append, with its documents as JSON text. Encoding is the last check of them."""

    __slots__ = ("data", "ensured", "event", "guard", "key", "metadata", "more", "session_id", "size_bytes")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.session_id = event.session_id
        self.key: Key = (event.session_id, event.id)
        self.data = dump(event.data, "data") if event.data else "{}"
        self.metadata = dump(event.metadata, "metadata") if event.metadata else "{}"
        self.size_bytes = len(self.data) + len(self.metadata)
        self.ensured: EncodedSession | None = None
        """The session whose row is ensured with the event."""
        self.more: Sequence[Query[Any]] = ()
        """What is sent after the event in its transaction."""
        self.guard: Query[None] | None = None
        """What is sent at the end of that transaction, and fails it unless it may be committed."""

    def params(self) -> dict[str, Any]:
        event = self.event
        return {
            "id": event.id,
            "type": str(event.type),
            "timestamp": event.timestamp,
            "session_id": event.session_id,
            "run_id": event.run_id,
            "data": self.data,
            "metadata": self.metadata,
            "schema_version": event.schema_version,
            "provider": event.provider,
            "correlation_id": event.correlation_id,
        }

    def with_sequence_number(self, sequence_number: int) -> Event:
        """The event as it is stored."""
        event = self.event
        return event_from_row(
            event.id,
            event.type,
            event.timestamp,
            event.session_id,
            event.run_id,
            sequence_number,
            event.data,
            event.metadata,
            event.schema_version,
            event.provider,
            event.correlation_id,
        )


class EncodedSession:
    """A session whose row an append inserts if it is absent, with its documents as JSON text."""

    __slots__ = ("id", "size_bytes", "values")

    def __init__(self, session: Session) -> None:
        metadata = dump_object(session.metadata, "metadata")
        context = dump_object(session.context, "context")
        self.id = session.id
        self.size_bytes = len(metadata) + len(context)
        self.values = {
            "ensured_id": session.id,
            "ensured_agent_id": session.agent_id,
            "ensured_status": str(session.status),
            "ensured_parent_session_id": session.parent_session_id,
            "ensured_metadata": metadata,
            "ensured_context": context,
            "ensured_tags": orjson.dumps(session.tags).decode() if session.tags else "[]",
            "ensured_created_at": session.created_at,
            "ensured_updated_at": session.updated_at,
            "ensured_deleted_at": iso_text(session.deleted_at),
        }


def iso_text(at: datetime | None) -> str | None:
    """A time as text, in the form that SQLite stores.

    Of most sessions it is None, and a list of nothing but None is sent as a list of text.
    """
    return None if at is None else f"{at.isoformat(timespec='microseconds')[:26]}Z"


def attach(session: Session, batch: Sequence[EncodedEvent], caller: str) -> EncodedSession:
    """Have the row of a session ensured with the events of a batch, which are all of that session."""
    if not isinstance(session, Session):
        raise ValidationError(f"{caller} takes a Session as session, not {type(session).__name__}")
    for new in batch:
        if new.session_id != session.id:
            raise ValidationError(
                f"event {new.event.id!r} belongs to session {new.session_id!r}, not to {session.id!r}"
            )
    ensured = EncodedSession(session)
    if batch:
        batch[0].ensured = ensured
        batch[0].size_bytes += ensured.size_bytes
    return ensured


def session_columns(sessions: Iterable[EncodedSession]) -> dict[str, list[Any]]:
    """Each session once, with the values that ensuring them one after another would leave."""
    rows: dict[str, dict[str, Any]] = {}
    for session in sessions:
        row = rows.setdefault(session.id, session.values)
        if row["ensured_updated_at"] < session.values["ensured_updated_at"]:
            rows[session.id] = row | {"ensured_updated_at": session.values["ensured_updated_at"]}
    return {name: [row[name] for row in rows.values()] for name in session.values}


def encoded(events: Iterable[Any], caller: str) -> list[EncodedEvent]:
    """The events that a caller gave to an operation, ready to append."""
    if not is_collection(events):
        raise ValidationError(f"{caller} takes a list of Event, not {type(events).__name__}")
    batch = []
    for index, event in enumerate(events):
        if not isinstance(event, Event):
            kind = type(event).__name__
            raise ValidationError(f"{caller} takes a list of Event, but events[{index}] is of type {kind}")
        batch.append(EncodedEvent(event))
    return batch


def event_columns(batch: Sequence[EncodedEvent]) -> dict[str, list[Any]]:
    events = [new.event for new in batch]
    return {
        "ids": [event.id for event in events],
        "types": [str(event.type) for event in events],
        "timestamps": [event.timestamp for event in events],
        "session_ids": [event.session_id for event in events],
        "run_ids": [event.run_id for event in events],
        "data_list": [new.data for new in batch],
        "metadata_list": [new.metadata for new in batch],
        "schema_versions": [event.schema_version for event in events],
        "providers": [event.provider for event in events],
        "correlation_ids": [event.correlation_id for event in events],
    }
