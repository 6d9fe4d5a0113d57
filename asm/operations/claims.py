"""Claiming a session for a run: the session becomes active, and the run is stored as running.

A claim locks the counter of the session by an append of events, and holds the lock until the commit, so
what it reads after that cannot change: of several clients that claim a session, the others wait, and find
what the first one did. Usually one pipeline does it: the append, then statements that fail with a unique
violation if another run is active or the session has changed. Then the operation runs again as a script,
which reads first and raises the exact error. `owned_runs`, `run_ends` and `session_status` lock the same
counter.

A store has no methods for these four, because only a manager needs them. `asm.async_store.run_operation` runs
them: what they lock, check and write has to be one transaction, and with the methods of a store it would take
a round trip for each of six statements, and a commit that is shared with no other run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from asm.engine.script import Batchable, Query, Script, UnitOfWork, no_result
from asm.enums import RunStatus, SessionStatus
from asm.models import Event, Run, Session
from asm.operations import runs, sessions
from asm.operations.appending import Results, append_followed_by, append_idempotently
from asm.operations.encoding import EncodedEvent, attach, encoded
from asm.operations.runs import find_run, owner


class ActiveRunFound(Exception):
    """Another run of the session is running, so that nothing is claimed."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.id)
        self.run = run


class ReadAgain(Exception):
    """The session, or the run of that id, is not as it was read, so that nothing is claimed."""


def claim_run(
    run: Run, session: Session, events: Sequence[Event], read: Session | None
) -> Batchable[list[Event]]:
    """Save a running run with its first events; ActiveRunFound if another one of the session is running.

    The session becomes active; ReadAgain if it is not as it was `read`. If none was, it is inserted.
    """
    batch = _first_events(session, events, read)
    guards = [_refuse_active_run(run)]
    if read is not None:
        guards = [_refuse_changed_session(read, batch[0]), *guards, _activation(session)]
    more = [*guards, runs.save_run(run)]

    def script() -> Script[Results]:
        stored = yield from _claim(run, session, batch, read)
        return Results(stored, [None] * len(more))

    return append_followed_by(batch, more, script, lambda results: results.events)


def claim_named_run(
    run: Run, session: Session, events: Sequence[Event], read: Session | None, before: Run | None
) -> UnitOfWork[list[Event]]:
    """claim_run of a run whose id others may use; ReadAgain if the stored one is not `before` any more."""
    batch = _first_events(session, events, read)
    check = partial(_check_unchanged, before)
    return UnitOfWork(partial(_claim, run, session, batch, read, check), sessions=(session.id,))


def _first_events(session: Session, events: Sequence[Event], read: Session | None) -> list[EncodedEvent]:
    batch = encoded(events, "claim_run")
    if read is None:
        attach(session, batch, "claim_run")
    return batch


def _claim(
    run: Run,
    session: Session,
    batch: Sequence[EncodedEvent],
    read: Session | None,
    check: Callable[[Run | None], None] | None = None,
) -> Script[list[Event]]:
    stored = yield from append_idempotently(batch)
    known = yield from find_run(run)
    if known is not None and owner(known) == owner(run):
        # The response to the first commit was lost. Others may have changed the run since.
        return stored
    if read is not None:
        yield from _check_session(read)
    for active in (yield from runs.list_runs(session.id, status=RunStatus.RUNNING, limit=1)):
        raise ActiveRunFound(active)
    if check is not None:
        check(known)
    if read is not None:
        yield from _activation(session)
    yield from runs.save_run(run)
    return stored


def _refuse_active_run(run: Run) -> Query[Any]:
    return Query("refuse_active_run", {"session_id": run.session_id}, no_result)


def _refuse_changed_session(read: Session, first: EncodedEvent) -> Query[Any]:
    params = {"session_id": read.id, "status": str(read.status), "deleted_at": read.deleted_at}
    return Query("refuse_changed_session", {**params, "event_id": first.event.id}, no_result)


def _check_session(read: Session) -> Script[None]:
    session = yield from sessions.lock_session(read.id)
    if session is None or (session.status, session.deleted_at) != (read.status, read.deleted_at):
        raise ReadAgain


def _check_unchanged(before: Run | None, stored: Run | None) -> None:
    if stored != before:
        raise ReadAgain


def _activation(session: Session) -> Query[Any]:
    return sessions.touch_session(session.id, session.updated_at, SessionStatus.ACTIVE)
