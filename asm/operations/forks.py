"""Forking a session: a child that begins with a copy of its parent's events.

The database copies the events in one statement, so the client needs no memory for them and no statement
waits for the client. The statement sees one snapshot and locks no counter of the parent: while it runs,
other clients append to the parent. The events that it copies cannot change: an event is never updated, and
all numbers up to the fork point are assigned. Events that other clients remove before the snapshot count as
pruned in the child, like those that were removed before the fork. Only the deletion of the parent waits for
the fork, which locks the parent's row against it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import NamedTuple

from asm.engine.script import Query, Rows, Script, UnitOfWork, scalar
from asm.errors import AlreadyExists, SessionNotFound, ValidationError
from asm.models import Session, SessionStatus, new_id, now
from asm.operations.events import lock_counters
from asm.operations.exports import SequenceCounter
from asm.operations.imports import set_counters
from asm.operations.sessions import find_sessions, read_session, save_session, session_not_found
from asm.validation import optional_count, optional_text, text


def fork_session(session_id: str, *, upto: int | None = None, id: str | None = None) -> UnitOfWork[Session]:
    """Make a child of a session with copies of its events 1 to `upto`, or of all, and return the child.

    The copies have the ids and the sequence numbers of the events, and the child's next event takes the
    number after `upto`. Events that the parent no longer stores are missing in the child, too, and count
    as pruned. `upto=0` copies none.

    The child's `parent_session_id` is the session, and its `metadata["forked_at"]` is the sequence number
    at which it was forked. It has the agent id, the metadata, the context and the tags of the parent, the
    status pending, and is created now. A soft-deleted session can be forked; the child is not deleted.
    Runs and artifacts stay with the parent, so that their tokens and costs count once: the copies keep
    their `run_id`, with which `get_run` finds the parent's run.

    The fork is atomic, whatever the number of events. On PostgreSQL other clients append to the session
    meanwhile; on SQLite they wait, as for any write. `id` is that of the child; AlreadyExists if a session
    of that id exists or has events. Raises SessionNotFound if the session does not exist, and
    ValidationError if it has not reached `upto`.
    """
    fork = Fork(
        parent_id=text(session_id, "session_id"),
        upto=optional_count(upto, "upto"),
        id=optional_text(id, "id") or new_id("ses_"),
        at=now(),
    )
    return UnitOfWork(partial(_fork, fork), sessions=(fork.id,))


class Fork(NamedTuple):
    """The arguments of one call. An attempt that is repeated recognizes its child by the id and the time."""

    parent_id: str
    upto: int | None
    id: str
    at: datetime


def _fork(fork: Fork) -> Script[Session]:
    try:
        return (yield from _make_child(fork))
    except (SessionNotFound, ValidationError, AlreadyExists):
        # The response to the commit of an earlier attempt may have been lost. Since then the parent may
        # even have been deleted.
        for session in (yield from find_sessions([fork.id])):
            if (session.parent_session_id, session.created_at) == (fork.parent_id, fork.at):
                return session
        raise


def _make_child(fork: Fork) -> Script[Session]:
    # The counter before the rows of sessions, as in all operations that lock both. The child's id may be
    # that of a session that another client deletes.
    yield from lock_counters([fork.id])
    # All checks precede the first copy, because a caller's transaction may go on after an error.
    parent, last_sequence = yield from _lock_parent(fork.parent_id)
    upto = _fork_point(fork, last_sequence)
    child = _child(fork, parent, upto)
    is_new = yield from Query("insert_fork", save_session(child).params, bool)
    if not is_new:
        raise AlreadyExists(
            f"session {child.id!r} exists already, or has events: fork into another id, or leave `id` out",
            id=child.id,
        )
    yield from _copy_events(parent.id, upto, child.id)
    return child


def _copy_events(parent_id: str, upto: int, id: str) -> Script[None]:
    params = {"parent_id": parent_id, "upto": upto, "id": id}
    # Which plan is best depends on the session's share of all events.
    copied: int = yield from Query("copy_events_to_fork", params, scalar, prepare=False)
    yield from set_counters({id: SequenceCounter(upto, pruned_events=upto - copied)})


def _lock_parent(session_id: str) -> Query[tuple[Session, int]]:
    """Lock a session against its deletion. Returns it and its last sequence number."""

    def read(rows: Rows) -> tuple[Session, int]:
        if not rows:
            raise session_not_found(session_id)
        *session, last_sequence = rows[0]
        return read_session(tuple(session)), last_sequence or 0

    return Query("lock_fork_parent", {"session_id": session_id}, read)


def _fork_point(fork: Fork, last_sequence: int) -> int:
    upto = last_sequence if fork.upto is None else fork.upto
    if upto > last_sequence:
        raise ValidationError(
            f"upto is {upto:,}, but session {fork.parent_id!r} is at sequence number {last_sequence:,}: give "
            "that or less, or leave `upto` out to copy all events",
            path="upto",
            session_id=fork.parent_id,
            latest_sequence=last_sequence,
        )
    return upto


def _child(fork: Fork, parent: Session, upto: int) -> Session:
    return replace(
        parent,
        id=fork.id,
        status=SessionStatus.PENDING,
        parent_session_id=parent.id,
        metadata={**parent.metadata, "forked_at": upto},
        created_at=fork.at,
        updated_at=fork.at,
        deleted_at=None,
    )
