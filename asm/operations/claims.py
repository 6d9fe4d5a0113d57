"""Claiming a session for a run, and ending a run, once each.

Both append events first. The append locks the counter of the session until the commit, so that what is read
behind it cannot change: of several clients that claim a session, or end a run, the others wait, and find what
the first one did. Mostly nothing is in the way. Then one pipeline does it all, whose guards fail with a
unique violation if something is; and a script that looks takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from asm.documents import dump, load
from asm.engine.script import Pipeline, Query, Rows, Script, UnitOfWork, no_result
from asm.enums import RunStatus, SessionStatus
from asm.errors import RunNotFound, SessionNotFound
from asm.models import Event, Run, Session
from asm.operations import runs, sessions
from asm.operations.appending import (
    EncodedEvent,
    append_idempotently,
    append_pipeline,
    attach,
    encoded,
    ensure_sessions,
)
from asm.operations.changes import Change


class ActiveRunFound(Exception):
    """Another run of the session is running, so that nothing is claimed."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.id)
        self.run = run


class RunChanged(Exception):
    """The run of that id is not as it was read, so that nothing is claimed."""


class Ended(NamedTuple):
    """What is stored at the end of a run: its last events, itself, and its session if there is one."""

    events: list[Event]
    run: Run
    session: Session | None


def claim_run(
    run: Run, session: Session, events: Sequence[Event], status: SessionStatus | None
) -> Pipeline[list[Event]]:
    """Save a running run with its first events; ActiveRunFound if another one of the session is running.

    The session is inserted if it is absent, and else its `updated_at` moves, and its status if one is given.
    """
    batch = encoded(events, "claim_run")
    ensured = attach(session, batch, "claim_run")
    guard = Query("refuse_active_run", {"session_id": session.id}, no_result)
    more: list[Query[Any]] = [
        ensure_sessions([ensured]),
        *_activation(session, status),
        guard,
        runs.save_run(run),
    ]
    on_conflict = partial(_claim, run, session, batch, status, None, is_named=False)
    return append_pipeline(batch, on_conflict, more)


def claim_named_run(
    run: Run, session: Session, events: Sequence[Event], status: SessionStatus | None, before: Run | None
) -> UnitOfWork[list[Event]]:
    """claim_run of a run whose id others may use; RunChanged if the stored one is not `before` any more."""
    batch = encoded(events, "claim_run")
    attach(session, batch, "claim_run")
    return UnitOfWork(
        partial(_claim, run, session, batch, status, before, is_named=True), sessions=(session.id,)
    )


def _claim(
    run: Run,
    session: Session,
    batch: Sequence[EncodedEvent],
    status: SessionStatus | None,
    before: Run | None,
    *,
    is_named: bool,
) -> Script[list[Event]]:
    stored = yield from append_idempotently(batch)
    for active in (yield from runs.list_runs(session.id, status=RunStatus.RUNNING)):
        # It is the caller's own if the response to the first commit was lost.
        if runs.owner(active) != runs.owner(run):
            raise ActiveRunFound(active)
    if is_named:
        yield from _check_unchanged(run, before)
    for query in _activation(session, status):
        yield from query
    yield from runs.save_run(run)
    return stored


def _check_unchanged(run: Run, before: Run | None) -> Script[None]:
    try:
        stored = yield from runs.get_run(run.id, session_id=run.session_id)
    except RunNotFound:
        stored = None
    if stored != before and (stored is None or runs.owner(stored) != runs.owner(run)):
        raise RunChanged


def end_run(
    run: Run,
    events: Sequence[Event],
    status: SessionStatus | None,
    change: Change[Run],
    change_session: Change[Session],
    *,
    expected: Run | None = None,
) -> Pipeline[Ended]:
    """Store a run as it ended, with its last events, if it is still running and its owner's.

    Everything but its metadata is stored. The session moves to `updated_at`, and to the status if one is
    given. If the run was cancelled, ended or claimed by others, or has not the lease of `expected`, then
    `change` of the stored run and `change_session` decide what is stored, or raise.
    """
    batch = encoded(events, "end_run")
    touch = _touch(run.session_id, events[-1].timestamp, status)
    more = [touch, _end_query(run, expected), _check(run, events[-1])]
    base = append_pipeline(batch, partial(append_idempotently, batch), more)

    def read(results: list[Any]) -> Ended:
        session, metadata, _ = results[-len(more) :]
        ended = run if metadata == run.metadata else replace(run, metadata=metadata)
        return Ended(base.read(results), ended, session)

    on_conflict = partial(_end, run, batch, change, change_session)
    return Pipeline(base.queries, read, on_conflict, size=base.size, sessions=base.sessions)


def _end_query(run: Run, expected: Run | None) -> Query[Any]:
    """Store how a run ended. Its result is the run's metadata, or None if the run is not as expected."""
    params = runs.save_run(run).params
    kept = {name: value for name, value in params.items() if name not in _NOT_CHANGED_BY_AN_END}
    owner = f'"owner":{dump(runs.owner(run), "owner")}'
    lease = owner if expected is None else f'"asm":{dump(runs.lease(expected), "asm")}'
    return Query("end_run", {**kept, "lease": lease}, lambda rows: load(rows[0][0]) if rows else None)


_NOT_CHANGED_BY_AN_END = ("input", "metadata", "started_at", "provider")


def _check(run: Run, last: Event) -> Query[None]:
    """Fail if the run has not ended."""
    ended = {"status": str(run.status), "ended_at": run.ended_at}
    return Query(
        "check_end", {"session_id": run.session_id, "id": run.id, "event_id": last.id, **ended}, no_result
    )


def end_changed_run(
    run: Run, events: Sequence[Event], change: Change[Run], change_session: Change[Session]
) -> UnitOfWork[Ended]:
    """Append the last events of a run, and change it and its session; RunNotFound if it is not stored."""
    batch = encoded(events, "end_run")
    return UnitOfWork(partial(_end, run, batch, change, change_session), sessions=(run.session_id,))


def _end(
    run: Run, batch: Sequence[EncodedEvent], change: Change[Run], change_session: Change[Session]
) -> Script[Ended]:
    # Counter, session, run: the order of `flush`.
    stored = yield from append_idempotently(batch)
    try:
        session = yield from sessions.change_session(run.session_id, change_session)
    except SessionNotFound:
        # A run may be stored without a session.
        session = None
    return Ended(stored, (yield from runs.change_run(run.id, run.session_id, change)), session)


def _activation(session: Session, status: SessionStatus | None) -> list[Query[Session | None]]:
    return [] if status is None else [_touch(session.id, session.updated_at, status)]


def _touch(session_id: str, at: datetime, status: SessionStatus | None) -> Query[Session | None]:
    params = {"id": session_id, "status": None if status is None else str(status), "updated_at": at}
    return Query("touch_session", params, _read_session)


def _read_session(rows: Rows) -> Session | None:
    return sessions.read_session(rows[0]) if rows else None
