"""The life of a run in a session: the session is started and claimed, and the run ends once.

All of these lock the counter of the session first, mostly by an append of events, until the commit, so that
what is read after that cannot change: of several clients that claim a session, or end a run, the others wait,
and find what the first one did. Usually one pipeline does it: the append, then statements that fail with a
unique violation if another run is active, or the run or its session has changed. Then the operation runs
again as a script, which reads first and raises the exact error.

A store has no methods for these, because only a manager needs them. `asm.async_store.run_operation` runs
them: what they lock, check and write has to be one transaction, and with the methods of a store it would take
a round trip for each of six statements, and a commit that is shared with no other run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from asm.documents import dump, load
from asm.engine.script import Batchable, Query, Rows, Script, UnitOfWork, no_result
from asm.enums import RunStatus, SessionStatus
from asm.errors import AlreadyExists, RunActive, RunCancelled, RunLost, RunNotFound
from asm.models import Event, Run, Session
from asm.operations import runs, sessions
from asm.operations.appending import Results, append_followed_by, append_idempotently
from asm.operations.changes import Change
from asm.operations.encoding import EncodedEvent, attach, encoded
from asm.operations.events import lock_counters
from asm.operations.runs import lease, lease_end, owner, with_lease


class ActiveRunFound(Exception):
    """Another run of the session is running, so that nothing is claimed."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.id)
        self.run = run


class ReadAgain(Exception):
    """The session, or the run of that id, is not as it was read, so that nothing is claimed."""


class Ended(NamedTuple):
    """What is stored at the end of a run: its last events, itself, and its session if there is one."""

    events: list[Event]
    run: Run
    session: Session | None


# Claims.


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
    known = yield from _find_run(run)
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
    session = yield from Query("lock_session", {"id": read.id}, _read_session)
    if session is None or (session.status, session.deleted_at) != (read.status, read.deleted_at):
        raise ReadAgain


def _find_run(run: Run) -> Script[Run | None]:
    try:
        return (yield from runs.get_run(run.id, session_id=run.session_id))
    except RunNotFound:
        return None


def _check_unchanged(before: Run | None, stored: Run | None) -> None:
    if stored != before:
        raise ReadAgain


def _activation(session: Session) -> Query[Any]:
    return _touch(session.id, session.updated_at, SessionStatus.ACTIVE)


# Leases.


def check_own(run: Run, stored: Run) -> Run:
    """The stored run. RunLost if it is not the caller's any more."""
    if stored.status != RunStatus.RUNNING:
        raise run_lost(run, f"another program ended it as {stored.status}")
    if owner(stored) != owner(run):
        raise run_lost(run, f"{owner(stored)} has claimed it")
    return stored


def renewed(run: Run, until: datetime, stored: Run) -> Run:
    return with_lease(check_own(run, stored), until)


def append_own(run: Run, events: Sequence[Event]) -> Batchable[list[Event]]:
    """Append events of a run of the caller's; RunLost if it is not the caller's, and nothing is stored."""
    batch = encoded(events, "append_events")
    guard = _refuse_changed_run(run, batch[0].event, RunStatus.RUNNING, lease=_owner_text(run))

    def script() -> Script[Results]:
        stored = yield from append_idempotently(batch)
        known = yield from _find_run(run)
        if known is None:
            raise run_lost(run, "it was deleted")
        check_own(run, known)
        return Results(stored, [None])

    return append_followed_by(batch, [guard], script, lambda results: results.events)


def _refuse_changed_run(run: Run, event: Event, status: RunStatus | str, **fields: Any) -> Query[Any]:
    key = {"session_id": run.session_id, "id": run.id, "event_id": event.id}
    return Query("refuse_changed_run", {**key, "status": str(status), **fields}, no_result)


def _owner_text(run: Run) -> str:
    return f'"owner":{dump(owner(run), "owner")}'


def request_cancel(run: Run, event: Event) -> UnitOfWork[Run]:
    """Ask the program that runs a run to cancel it: with an event, and beside the lease of the run."""

    def add(stored: Run) -> Run:
        end = lease_end(stored)
        if stored.status.is_terminal or end is None:
            return stored
        return with_lease(stored, end, cancel_requested=event.data)

    def script() -> Script[Run]:
        yield from append_idempotently(batch)
        return (yield from runs.change_run(run.id, run.session_id, add))

    batch = encoded([event], "cancel_run")
    return UnitOfWork(script, sessions=(run.session_id,))


# Ends.


def end_run(
    run: Run, events: Sequence[Event], status: SessionStatus | None, keep: Change[Session] | None = None
) -> Batchable[Ended] | UnitOfWork[Ended]:
    """Store a run of the caller's as it ended, with its last events; RunLost if it is not the caller's.

    RunCancelled if the run completed, and another program has asked to cancel it. Everything of the run but
    its metadata is stored. Its session moves to the time of the last event, to the status if one is given,
    and to what `keep` makes of it.
    """
    return _end_run(run, events, status, keep, partial(_ended, run), _owner_text(run))


def end_run_of_another(
    run: Run, ended: Run, events: Sequence[Event], status: SessionStatus | None
) -> Batchable[Ended] | UnitOfWork[Ended]:
    """The same for a run that nobody is running; RunLost if it is not as it was read any more."""
    change = partial(_ended_if_unchanged, run, ended)
    return _end_run(ended, events, status, None, change, f'"asm":{dump(lease(run), "asm")}')


def _end_run(
    run: Run,
    events: Sequence[Event],
    status: SessionStatus | None,
    keep: Change[Session] | None,
    change: Change[Run],
    lease_text: str,
) -> Batchable[Ended] | UnitOfWork[Ended]:
    batch = encoded(events, "end_run")
    touch = _touch(run.session_id, events[-1].timestamp, status)

    def script() -> Script[Results]:
        # Counter, session, run: the order of `flush`.
        stored = yield from append_idempotently(batch)
        session = yield from touch
        if session is not None and keep is not None:
            session = yield from sessions.change_session(run.session_id, keep)
        try:
            changed = yield from runs.change_run(run.id, run.session_id, change)
        except RunNotFound as error:
            raise run_lost(run, "it was deleted") from error
        return Results(stored, [session, changed, None])

    def read(results: Results) -> Ended:
        session, stored, _ = results.more
        return Ended(results.events, stored, session)

    def ended() -> Script[Ended]:
        return read((yield from script()))

    if keep is not None:
        return UnitOfWork(ended, sessions=(run.session_id,))
    guard = _refuse_changed_run(run, events[-1], run.status, ended_at=run.ended_at)
    more: list[Query[Any]] = [touch, _end_query(run, lease_text), guard]
    return append_followed_by(batch, more, script, read)


def _end_query(run: Run, lease_text: str) -> Query[Run]:
    """Store how a run ended. The result is the run with the metadata that are stored."""
    params = {name: value for name, value in runs.save_run(run).params.items() if name not in _KEPT}

    def read(rows: Rows) -> Run:
        metadata = load(rows[0][0]) if rows else run.metadata
        return run if metadata == run.metadata else replace(run, metadata=metadata)

    return Query("end_run", {**params, "lease": lease_text}, read)


_KEPT = ("input", "metadata", "started_at", "provider")
"""The columns of a run that do not change when it ends."""


def _ended(ended: Run, stored: Run) -> Run:
    if _is_same_end(ended, stored):
        return stored
    check_own(ended, stored)
    if ended.status == RunStatus.COMPLETED and "cancel_requested" in lease(stored):
        raise cancel_requested(stored)
    return _final(ended, stored)


def _ended_if_unchanged(run: Run, ended: Run, stored: Run) -> Run:
    if _is_same_end(ended, stored):
        return stored
    if stored.status.is_terminal or stored.metadata != run.metadata:
        raise run_lost(run, "another program ended or renewed it")
    return _final(ended, stored)


def _is_same_end(ended: Run, stored: Run) -> bool:
    """Whether the run was ended by the same call, whose first commit had no response."""
    return (stored.status, stored.ended_at) == (ended.status, ended.ended_at)


def _final(ended: Run, stored: Run) -> Run:
    # The application may have changed the metadata meanwhile.
    return replace(ended, metadata=stored.metadata)


# Sessions.


def start_session(session: Session, events: Sequence[Event]) -> UnitOfWork[None]:
    """Save a session with its first events; AlreadyExists if there is another one of its id."""
    batch = encoded(events, "start_session")

    def script() -> Script[None]:
        yield from append_idempotently(batch)
        stored = yield from sessions.find_sessions([session.id])
        if stored and stored != [session]:
            raise AlreadyExists(f"there is a session of the id {session.id!r}: use another id", id=session.id)
        yield from sessions.save_session(session)

    return UnitOfWork(script, sessions=(session.id,))


def change_status(session_id: str, status: SessionStatus, event: Event) -> UnitOfWork[Session]:
    """Set the status of a session, with an event; RunActive if it is not active then, and has an active run.

    A session that has the status already is returned as it is, and nothing is appended.
    """
    batch = encoded([event], "change_status")

    def script() -> Script[Session]:
        yield from lock_counters([session_id])
        session = yield from sessions.get_session(session_id)
        if session.status == status:
            return session
        if status != SessionStatus.ACTIVE:
            for run in (yield from runs.list_runs(session_id, status=RunStatus.RUNNING, limit=1)):
                raise run_active(run)
        yield from append_idempotently(batch)
        return (yield from _touch(session_id, event.timestamp, status)) or session

    return UnitOfWork(script, sessions=(session_id,))


def _touch(session_id: str, at: datetime, status: SessionStatus | None) -> Query[Session | None]:
    params = {"id": session_id, "status": None if status is None else str(status), "updated_at": at}
    return Query("touch_session", params, _read_session)


def _read_session(rows: Rows) -> Session | None:
    return sessions.read_session(rows[0]) if rows else None


# Errors.


def run_lost(run: Run, reason: str) -> RunLost:
    return RunLost(
        f"run {run.id!r} is not this program's any more: {reason}. Read what is stored of it",
        run_id=run.id,
        session_id=run.session_id,
    )


def run_active(active: Run) -> RunActive:
    who = (
        f"{owner(active)} is running it" if owner(active) else "it has no lease, so its program is not known"
    )
    return RunActive(
        f"session {active.session_id!r} has the active run {active.id!r}; {who}: wait for its end, or "
        "cancel it",
        session_id=active.session_id,
        run_id=active.id,
    )


def run_cancelled(run_id: str, reason: str | None) -> RunCancelled:
    because = f": {reason}" if reason else ""
    return RunCancelled(f"run {run_id!r} was cancelled{because}", run_id=run_id, reason=reason or "cancelled")


def cancel_requested(stored: Run) -> RunCancelled:
    """The exception for a run that another program asks to cancel."""
    requested = lease(stored).get("cancel_requested")
    return run_cancelled(stored.id, requested.get("reason") if isinstance(requested, dict) else None)
