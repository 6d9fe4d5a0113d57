"""What can be asked about sessions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from asm import runs
from asm.documents import dump_object, load
from asm.errors import SessionNotFound, ValidationError
from asm.events import New, listed, lock_counters, settle, volley
from asm.models import (
    Event,
    Run,
    Session,
    SessionStatus,
    are_several,
    count,
    flag,
    optional_count,
    session_from_row,
    session_status,
    text,
)
from asm.plain import is_a
from asm.plan import Ask, Plan, Row, Rows, Steps, Volley, nothing, one_or_several

_STATUSES = {str(status): status for status in SessionStatus}


def save_session(session: Session) -> Ask[None]:
    """Keep a session: insert it, or replace everything but the id of the one that is there."""
    if not is_a(session, Session):
        raise ValidationError(f"save_session takes a Session, not {type(session).__name__}")
    params = {
        "id": session.id,
        "agent_id": session.agent_id,
        "status": str(session.status),
        "parent_session_id": session.parent_session_id,
        "metadata": dump_object(session.metadata, "metadata"),
        "context": dump_object(session.context, "context"),
        "tags": session.tags,
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "deleted_at": session.deleted_at,
    }
    return Ask("save_session", params, nothing)


def get_session(session_id: str) -> Ask[Session]:
    """The session of that id, soft-deleted or not. SessionNotFound where there is none."""

    def read(rows: Rows) -> Session:
        if not rows:
            raise SessionNotFound(f"no session has the id {session_id!r}", session_id=session_id)
        return read_session(rows[0])

    session_id = text(session_id, "session_id")
    return Ask("get_session", {"id": session_id}, read)


def list_sessions(
    *,
    status: SessionStatus | str | Iterable[SessionStatus | str] | None = None,
    agent_id: str | None = None,
    include_deleted: bool = False,
    limit: int | None = None,
    offset: int = 0,
) -> Ask[list[Session]]:
    """Sessions, the newest first; soft-deleted ones only when asked for.

    `status` is one or several. `limit=0` gives nothing.
    """
    params = {
        **one_or_several("status", "statuses", statuses(status)),
        "agent_id": None if agent_id is None else text(agent_id, "agent_id"),
        "only_live": None if flag(include_deleted, "include_deleted") else True,
        "limit": optional_count(limit, "limit"),
        "offset": count(offset, "offset"),
    }
    return Ask("list_sessions", params, read_sessions)


def delete_session(session_id: str) -> Steps[None]:
    """Remove a session with its runs, events, artifacts' rows and counter. Gone already is fine."""
    return Steps(partial(_delete, text(session_id, "session_id")))


def _delete(session_id: str) -> Plan[None]:
    # The counter first: whoever appends at this moment either is done and goes with the rest,
    # or waits for us and starts again at 1.
    yield from lock_counters([session_id])
    yield from Ask("delete_session", {"session_id": session_id}, nothing)
    yield from Ask("delete_counter", {"session_id": session_id}, nothing)


def flush(session: Session, run: Run, events: Iterable[Event] = ()) -> Volley[list[Event]]:
    """A session, one of its runs and the run's new events, all of it or none of it.

    The events come back with their sequence numbers, as from `append_events`.
    """
    asks = save_session(session), runs.save_run(run)
    batch = [New(event) for event in listed(events)]
    if run.session_id != session.id:
        raise ValidationError(f"the run belongs to session {run.session_id!r}, not to {session.id!r}")
    for new in batch:
        if new.session_id != session.id:
            raise ValidationError(
                f"event {new.event.id!r} belongs to session {new.session_id!r}, not to {session.id!r}"
            )
    # Counter, session, run: the order in which a session is deleted, so that the two wait for each
    # other and do not deadlock. Where there are no events, nobody takes the counter.
    return volley(batch, partial(_flush, asks, batch), asks)


def _flush(asks: Iterable[Ask[None]], batch: Sequence[New]) -> Plan[list[Event]]:
    stored = yield from settle(batch)
    for ask in asks:
        yield from ask
    return stored


def statuses(value: Any) -> tuple[str, ...] | None:
    """One status or several, as a set to look for."""
    if value is None:
        return None
    values = value if are_several(value) else [value]
    return tuple(str(session_status(each)) for each in values)


def read_session(row: Row) -> Session:
    id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at = row
    return session_from_row(
        id,
        agent_id,
        _STATUSES.get(status, status),
        parent_session_id,
        load(metadata),
        load(context),
        tuple(tags),
        created_at,
        updated_at,
        deleted_at,
    )


def read_sessions(rows: Rows) -> list[Session]:
    return [read_session(row) for row in rows]
