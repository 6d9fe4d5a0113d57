"""Ends of runs: each run ends once, and one client stores how.

The counter of the session is locked first, as in `claims`, so that of several clients that end a run the
others wait and find it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from asm.documents import dump, load
from asm.engine.script import Batchable, Query, Rows, Script, UnitOfWork
from asm.enums import RunStatus, SessionStatus
from asm.errors import RunNotFound
from asm.models import Event, Run, Session
from asm.operations import runs, sessions
from asm.operations.appending import Results, append_followed_by, append_idempotently
from asm.operations.changes import Change
from asm.operations.encoding import encoded
from asm.operations.owned_runs import cancel_requested, check_own, owner_text, refuse_changed_run, run_lost
from asm.operations.runs import lease


class Ended(NamedTuple):
    """What is stored at the end of a run: its last events, itself, and its session if there is one."""

    events: list[Event]
    run: Run
    session: Session | None


def end_run(
    run: Run, events: Sequence[Event], status: SessionStatus | None, keep: Change[Session] | None = None
) -> Batchable[Ended] | UnitOfWork[Ended]:
    """Store a run of the caller's as it ended, with its last events; RunLost if it is not the caller's.

    RunCancelled if the run completed, and another program has asked to cancel it. Everything of the run but
    its metadata is stored. Its session moves to the time of the last event, to the status if one is given,
    and to what `keep` makes of it.
    """
    return _end_run(run, events, status, keep, partial(_ended, run), owner_text(run))


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
    touch = sessions.touch_session(run.session_id, events[-1].timestamp, status)

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
        return Results(stored, [session, changed])

    def read(results: Results) -> Ended:
        session, stored = results.more
        return Ended(results.events, stored, session)

    def ended() -> Script[Ended]:
        return read((yield from script()))

    if keep is not None:
        return UnitOfWork(ended, sessions=(run.session_id,))
    guard = refuse_changed_run(run, events[-1], run.status, ended_at=run.ended_at)
    more: list[Query[Any]] = [touch, _end_query(run, lease_text)]
    return append_followed_by(batch, more, script, read, guard=guard)


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
