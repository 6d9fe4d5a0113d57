"""Soft and hard deletion of sessions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from asm.engine.jobs import Job, run_step
from asm.engine.script import Query, Row, Rows, Script, UnitOfWork, no_result
from asm.maintenance import run
from asm.maintenance.policy import ENDED_STATUSES
from asm.maintenance.pruning import _lock_counters, _prune_events
from asm.maintenance.run import MaintenanceRun, ago, all_rows, ids, in_batches
from asm.models import SessionStatus
from asm.operations.events import get_events, lock_counters
from asm.operations.exports import Counter, SessionExport, export_session, find_counters

# Soft-deleting.


def soft_delete(job: MaintenanceRun) -> Job[None]:
    for status, until in _expiries(job):
        wanted = {"status": status, "until": until, "exempt_tags": job.exempt["exempt_tags"]}
        yield from in_batches(
            partial(_find_aged, job, "find_expired_sessions", wanted),
            partial(_soft_delete_batch, job, wanted),
        )


def _expiries(job: MaintenanceRun) -> Iterator[tuple[str, datetime]]:
    """The statuses in which sessions expire, and when at the latest those that do were updated last."""
    policy = job.policy
    for status in SessionStatus:
        ended_days = policy.max_completed_session_age_days if status in ENDED_STATUSES else None
        ages = [days for days in (policy.max_session_age_days, ended_days) if days is not None]
        until = ago(job.at, min(ages, default=None))
        if until is not None and status not in policy.exempt_statuses:
            yield str(status), until


def _find_aged(job: MaintenanceRun, query: str, wanted: Mapping[str, Any], last: Row | None) -> Query[Rows]:
    last_at, last_id = last or (None, None)
    params = {**wanted, "last_at": last_at, "last_id": last_id, "limit": job.policy.batch_size}
    # How many are of a status and how many are old decides which index serves.
    return Query(query, params, all_rows, prepare=False)


def _soft_delete_batch(job: MaintenanceRun, wanted: Mapping[str, Any], found: Rows) -> Job[None]:
    number = len(found)
    if not job.dry_run:
        params = {**wanted, "session_ids": tuple(id for _, id in found), "at": job.at}
        number = yield from run_step(Query("soft_delete_sessions", params, len))
    yield from job.advance("sessions_soft_deleted", number)


# Hard-deleting.


def hard_delete(job: MaintenanceRun) -> Job[None]:
    if job.due_until is not None:
        due = {"due_until": job.due_until, **job.exempt}
        yield from in_batches(
            partial(_find_aged, job, "find_due_sessions", due), partial(_hard_delete_batch, job, due)
        )


def _hard_delete_batch(job: MaintenanceRun, due: Mapping[str, Any], found: Rows) -> Job[None]:
    session_ids = [id for _, id in found]
    if job.dry_run:
        yield from job.advance("sessions_hard_deleted", len(session_ids))
    elif job.policy.archive is None:
        counters = yield from run_step(find_counters(session_ids))
        for portion, size in _transactions(session_ids, counters):
            if size > run.EVENTS_PER_TRANSACTION:
                yield from _trim_before_delete(due, portion[0])
            yield from _hard_delete_now(job, due, portion)
    else:
        for session_id in session_ids:
            export = yield from job.archived("sessions_hard_deleted", session_id)
            if export is not None:
                if len(export.events) > run.EVENTS_PER_TRANSACTION:
                    export = yield from _trim_before_delete(due, session_id, export)
                yield from _hard_delete_now(job, due, [session_id], export)


def _transactions(
    session_ids: Iterable[str], counters: Mapping[str, Counter]
) -> Iterator[tuple[list[str], int]]:
    """Sessions with no more events together than a short transaction deletes, or a single one; how many."""
    portion: list[str] = []
    size = 0
    for session_id in session_ids:
        more = counters.get(session_id, Counter(0, 0)).stored
        if portion and size + more > run.EVENTS_PER_TRANSACTION:
            yield portion, size
            portion, size = [], 0
        portion.append(session_id)
        size += more
    if portion:
        yield portion, size


def _hard_delete_now(
    job: MaintenanceRun,
    due: Mapping[str, Any],
    session_ids: Sequence[str],
    archived: SessionExport | None = None,
) -> Job[None]:
    number = yield from run_step(UnitOfWork(partial(_delete, due, session_ids, archived)))
    yield from job.advance("sessions_hard_deleted", number)


def _trim_before_delete(
    due: Mapping[str, Any], session_id: str, archived: SessionExport | None = None
) -> Job[SessionExport | None]:
    """Leave as many of a session's last events as a short transaction deletes, and of its archive."""
    while gone := (yield from run_step(UnitOfWork(partial(_trim, due, session_id, archived)))):
        if archived is not None:
            archived = replace(
                archived, events=archived.events[gone:], pruned_events=archived.pruned_events + gone
            )
    return archived


def _trim(due: Mapping[str, Any], session_id: str, archived: SessionExport | None) -> Script[int]:
    """Delete the first events of a session that has more than a short transaction deletes, and say how many.

    They count as pruned: who stops here leaves a session that is as healthy as any other.
    """
    counters = yield from _lock_counters([session_id])
    counter = counters.get(session_id, Counter(0, 0))
    number = min(counter.stored - run.EVENTS_PER_TRANSACTION, run.EVENTS_PER_TRANSACTION)
    if number <= 0 or not (yield from _lock_due(due, [session_id])):
        return 0
    if archived is not None:
        stands = yield from get_events(session_id, limit=number)
        if stands != archived.events[:number]:
            return 0
    yield from _prune_events({session_id: number}, {session_id: counter.last_sequence})
    return number


def _delete(
    due: Mapping[str, Any], session_ids: Sequence[str], archived: SessionExport | None
) -> Script[int]:
    # The counters first, as in delete_session: whoever appends at this moment either is done and
    # goes with the rest, or waits for us and starts again at 1.
    yield from lock_counters(session_ids)
    held = yield from _lock_due(due, session_ids)
    if held and archived is not None:
        # What is deleted must be what was archived.
        stands = yield from export_session(archived.session.id, include_artifacts=True)
        if stands != archived:
            return 0
    yield from Query("delete_sessions", {"session_ids": held}, no_result)
    return len(held)


def _lock_due(due: Mapping[str, Any], session_ids: Sequence[str]) -> Query[tuple[str, ...]]:
    """Those that still are due, held still until the transaction ends."""
    return Query("hold_due_sessions", {"session_ids": tuple(session_ids), **due}, ids)
