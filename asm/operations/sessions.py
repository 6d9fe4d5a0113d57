"""Saving, reading, listing, flushing and deleting sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

from asm.documents import dump_object, load
from asm.engine.script import Pipeline, Query, Row, Rows, Script, UnitOfWork, no_result, one_or_many
from asm.enums import SESSION_STATUSES, SessionStatus, session_status, status_filter
from asm.errors import SessionNotFound, ValidationError
from asm.models import Event, Run, Session, session_from_row
from asm.operations import runs
from asm.operations.appending import append_idempotently, append_pipeline
from asm.operations.changes import Change, applied
from asm.operations.encoding import EncodedEvent, encoded
from asm.operations.events import lock_counters
from asm.validation import VALUES_MAX, count, flag, is_collection, optional_count, plain_function, text


def save_session(session: Session) -> Query[None]:
    """Insert a session, or replace everything but the id of the stored one."""
    if not isinstance(session, Session):
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
    return Query("save_session", params, no_result)


def get_session(session_id: str) -> Query[Session]:
    """The session of that id, soft-deleted or not; SessionNotFound if there is none."""
    return _one("get_session", text(session_id, "session_id"))


def update_session(session_id: str, change: Callable[[Session], Session]) -> UnitOfWork[Session]:
    """Replace a session by what `change(session)` returns, and return that; SessionNotFound if there is none.

    `change` gets the stored session, which is locked until the result is stored: of concurrent updates none
    is lost. It is a plain function that does nothing but make a session of the same id; it may be called
    again after a failure, and in another thread. If it raises, nothing is written. The update is applied at
    most once: if the response to the commit is lost and its outcome cannot be determined, ConnectionFailed
    has `details["outcome"] == "unknown"`.
    """
    update = partial(change_session, text(session_id, "session_id"), plain_function(change, "change"))
    return UnitOfWork(update, idempotent=False)


def change_session(session_id: str, change: Change[Session]) -> Script[Session]:
    session = applied(change, (yield from _one("lock_session", session_id)), "id")
    yield from save_session(session)
    return session


def lock_session(session_id: str) -> Query[Session | None]:
    """The session, whose row is locked until the transaction ends; None if there is none."""
    return Query("lock_session", {"id": session_id}, _read_optional)


def touch_session(session_id: str, at: datetime, status: SessionStatus | None) -> Query[Session | None]:
    """Move the session to a time, if that is later, and to a status. Returns it; None if there is none."""
    params = {"id": session_id, "status": None if status is None else str(status), "updated_at": at}
    return Query("touch_session", params, _read_optional)


def _read_optional(rows: Rows) -> Session | None:
    return read_session(rows[0]) if rows else None


def _one(query: str, session_id: str) -> Query[Session]:
    def read(rows: Rows) -> Session:
        if not rows:
            raise session_not_found(session_id)
        return read_session(rows[0])

    return Query(query, {"id": session_id}, read)


def get_sessions(session_ids: Iterable[str]) -> Query[list[Session]] | UnitOfWork[list[Session]]:
    """The sessions of these ids, in the order of the ids, soft-deleted or not.

    Ids without a session are left out. An id that is given twice is answered twice. There may be any
    number of ids, and all sessions come from one snapshot.
    """
    if not is_collection(session_ids):
        raise ValidationError(
            f"session_ids must be a list of strings, not {type(session_ids).__name__}", path="session_ids"
        )
    ids = [text(each, f"session_ids[{index}]") for index, each in enumerate(session_ids)]
    distinct = list(dict.fromkeys(ids))
    if distinct and len(distinct) <= VALUES_MAX:
        params = {"ids": tuple(distinct)}
        return Query("find_sessions", params, lambda rows: _in_order(ids, read_sessions(rows)))
    return UnitOfWork(partial(_get_many, ids, distinct), snapshot=True)


def _get_many(ids: Sequence[str], distinct: Sequence[str]) -> Script[list[Session]]:
    found: list[Session] = []
    for start in range(0, len(distinct), VALUES_MAX):
        found += yield from find_sessions(distinct[start : start + VALUES_MAX])
    return _in_order(ids, found)


def _in_order(ids: Iterable[str], sessions: Iterable[Session]) -> list[Session]:
    by_id = {session.id: session for session in sessions}
    return [by_id[id] for id in ids if id in by_id]


def list_sessions(
    *,
    status: SessionStatus | str | Iterable[SessionStatus | str] | None = None,
    agent_id: str | None = None,
    include_deleted: bool = False,
    limit: int | None = None,
    offset: int = 0,
) -> Query[list[Session]]:
    """Sessions, the newest first; soft-deleted ones only with `include_deleted`.

    `status` is one or several. `limit=0` returns none.
    """
    params = {
        **one_or_many("status", "statuses", status_filter(status, session_status)),
        "agent_id": None if agent_id is None else text(agent_id, "agent_id"),
        "exclude_deleted": None if flag(include_deleted, "include_deleted") else True,
        "limit": optional_count(limit, "limit"),
        "offset": count(offset, "offset"),
    }
    # Whether a status is rare decides which index serves.
    return Query("list_sessions", params, read_sessions, prepare=status is None)


def delete_session(session_id: str) -> UnitOfWork[None]:
    """Delete a session with its runs, events, counter and artifact rows. No error if it is absent."""
    return UnitOfWork(partial(_delete, text(session_id, "session_id")))


def _delete(session_id: str) -> Script[None]:
    # The counter is locked first. A concurrent append has either committed, and its events are
    # deleted with the others, or it waits for the lock and starts the session again at 1.
    yield from lock_counters([session_id])
    for query in ("delete_session", "delete_session_rows", "delete_session_artifacts"):
        yield from Query(query, {"session_id": session_id}, no_result)


def flush(session: Session, run: Run, events: Iterable[Event] = ()) -> Pipeline[list[Event]]:
    """Save a session and one of its runs and append the run's new events, all of it or none of it.

    The events are returned with their sequence numbers, as from `append_events`.
    """
    saves = save_session(session), runs.save_run(run)
    batch = encoded(events, "flush")
    if run.session_id != session.id:
        raise ValidationError(f"the run belongs to session {run.session_id!r}, not to {session.id!r}")
    for new in batch:
        if new.session_id != session.id:
            raise ValidationError(
                f"event {new.event.id!r} belongs to session {new.session_id!r}, not to {session.id!r}"
            )
    # Counter, session, run: the order of delete_session, so that the two wait for each other and do
    # not deadlock. Without events, the counter is not locked.
    return append_pipeline(batch, partial(_flush, saves, batch), saves)


def _flush(saves: Iterable[Query[None]], batch: Sequence[EncodedEvent]) -> Script[list[Event]]:
    stored = yield from append_idempotently(batch)
    for save in saves:
        yield from save
    return stored


def find_sessions(ids: Iterable[str]) -> Query[list[Session]]:
    """The sessions of these ids that exist, in any order."""
    return Query("find_sessions", {"ids": tuple(ids)}, read_sessions)


def session_not_found(session_id: str) -> SessionNotFound:
    return SessionNotFound(f"no session has the id {session_id!r}", session_id=session_id)


def read_session(row: Row) -> Session:
    id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at = row
    return session_from_row(
        id,
        agent_id,
        SESSION_STATUSES.get(status, status),
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
