"""What a program does with a run that it has claimed, as long as the run is its own.

A run is a program's while it is running and its lease has the program's owner. The lease itself is read and
written in `runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from asm.documents import dump
from asm.engine.script import Batchable, Query, Script, UnitOfWork, no_result
from asm.enums import RunStatus
from asm.errors import RunActive, RunCancelled, RunLost
from asm.models import Event, Run
from asm.operations import runs
from asm.operations.appending import Results, append_followed_by, append_idempotently
from asm.operations.encoding import encoded, iso_text
from asm.operations.runs import find_run, lease, lease_end, owner, with_lease


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
    guard = refuse_changed_run(run, batch[0].event, RunStatus.RUNNING, owner=owner_text(run))

    def script() -> Script[Results]:
        stored = yield from append_idempotently(batch)
        known = yield from find_run(run)
        if known is None:
            raise run_lost(run, "it was deleted")
        check_own(run, known)
        return Results(stored, [])

    return append_followed_by(batch, [], script, lambda results: results.events, guard=guard)


def refuse_changed_run(
    run: Run,
    event: Event,
    status: RunStatus,
    *,
    ended_at: datetime | None = None,
    owner: str | None = None,
) -> Query[None]:
    """A statement that fails if a run does not have the status, and the end or the text of its owner.

    The event is one of the same transaction. The values are columns: the statements of many runs are merged.
    """
    values = {
        "session_ids": run.session_id,
        "ids": run.id,
        "event_ids": event.id,
        "statuses": str(status),
        "ended_at_list": iso_text(ended_at),
        "owners": owner,
    }
    return Query("refuse_changed_runs", {name: [value] for name, value in values.items()}, no_result)


def owner_text(run: Run) -> str:
    """How the owner stands in the metadata of a run of the caller's."""
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
