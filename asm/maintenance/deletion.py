"""Soft and hard deletion of sessions.

Sessions are found without locks, and other clients may change them. So each statement or transaction
that deletes repeats the conditions under which a session was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from asm.engine.jobs import Job, run_step
from asm.engine.script import Query, Row, Rows, Script, UnitOfWork, no_result
from asm.errors import Conflict, MigrationRequired
from asm.maintenance.policy import ENDED_STATUSES, Failure
from asm.maintenance.pruning import count_events_beyond, lock_existing_counters, prune_events
from asm.maintenance.run import MaintenanceRun, all_rows, days_before, in_batches
from asm.models import SessionStatus
from asm.operations.events import get_events, lock_counters
from asm.operations.exports import SequenceCounter, SessionExport, export_session, find_counters
from asm.validation import INTEGER_MAX

# Soft deletion.


def soft_delete(run: MaintenanceRun) -> Job[None]:
    for status, until in _expirations(run):
        conditions = {"status": status, "until": until, "exempt_tags": run.exempt_tags}
        yield from in_batches(
            partial(_find_by_age, run, "find_expired_sessions", conditions),
            partial(_soft_delete_batch, run, conditions),
        )


def _expirations(run: MaintenanceRun) -> Iterator[tuple[str, datetime]]:
    """Each status in which sessions expire, and the latest `updated_at` of those that have expired."""
    policy = run.policy
    for status in SessionStatus:
        ended_days = policy.max_completed_session_age_days if status in ENDED_STATUSES else None
        ages = [days for days in (policy.max_session_age_days, ended_days) if days is not None]
        until = days_before(run.now, min(ages, default=None))
        if until is not None and status not in policy.exempt_statuses:
            yield str(status), until


def _find_by_age(
    run: MaintenanceRun, query: str, conditions: Mapping[str, Any], last: Row | None
) -> Query[Rows]:
    last_at, last_id = last or (None, None)
    params = {**conditions, "last_at": last_at, "last_id": last_id, "limit": run.policy.batch_size}
    # The best index depends on how common the status and the age are.
    return Query(query, params, all_rows, prepare=False)


def _soft_delete_batch(run: MaintenanceRun, conditions: Mapping[str, Any], found: Rows) -> Job[None]:
    number = len(found)
    if not run.dry_run:
        params = {**conditions, "session_ids": tuple(id for _, id in found), "at": run.now}
        number = yield from run_step(Query("soft_delete_sessions", params, len))
    yield from run.advance("sessions_soft_deleted", number)


# Hard deletion.


def hard_delete(run: MaintenanceRun) -> Job[None]:
    if run.policy.hard_delete_after_days is not None:
        yield from in_batches(
            partial(_find_by_age, run, "find_due_sessions", run.due), partial(_hard_delete_batch, run)
        )


def _hard_delete_batch(run: MaintenanceRun, found: Rows) -> Job[None]:
    session_ids = [id for _, id in found]
    if run.policy.archive is not None:
        threads = yield from _find_threads(session_ids)
        run.errors += [Failure("sessions_hard_deleted", _not_in_archive(id), id) for id in threads]
        session_ids = [id for id in session_ids if id not in threads]
    if run.dry_run:
        yield from run.advance("sessions_hard_deleted", len(session_ids))
    elif run.policy.archive is None:
        yield from _delete_without_archive(run, session_ids)
    else:
        for session_id in session_ids:
            yield from _archive_and_delete(run, session_id)


def _find_threads(session_ids: Sequence[str]) -> Job[list[str]]:
    """Which of these sessions have checkpoints of LangGraph, whose tables are optional."""
    params = {"session_ids": tuple(session_ids)}
    try:
        found = yield from run_step(Query("find_threads", params, all_rows, prepare=False))
    except MigrationRequired:
        return []
    return [id for (id,) in found]


def _not_in_archive(session_id: str) -> Conflict:
    return Conflict(
        "the session has checkpoints of LangGraph, which an archive would not contain: delete them first, "
        "with delete_thread() or prune([thread_id], strategy='delete') of the saver, or use a policy without "
        "an archive",
        session_id=session_id,
    )


def _delete_without_archive(run: MaintenanceRun, session_ids: Sequence[str]) -> Job[None]:
    counters = yield from run_step(find_counters(session_ids))
    for group, size in _group_by_size(session_ids, counters, run.events_per_transaction):
        if size > run.events_per_transaction:
            yield from _trim_before_delete(run, group[0])
        yield from _delete(run, group)


def _archive_and_delete(run: MaintenanceRun, session_id: str) -> Job[None]:
    export = yield from run.archive("sessions_hard_deleted", session_id)
    if export is not None:
        if len(export.events) > run.events_per_transaction:
            export = yield from _trim_before_delete(run, session_id, export)
        yield from _delete(run, [session_id], export)


def _group_by_size(
    session_ids: Iterable[str], counters: Mapping[str, SequenceCounter], size_max: int
) -> Iterator[tuple[list[str], int]]:
    """Groups of sessions that together have at most `size_max` events, and their number of events.

    A session with more events is a group of its own. The numbers are those of the counters.
    """
    group: list[str] = []
    size = 0
    for session_id in session_ids:
        stored = counters.get(session_id, SequenceCounter()).stored
        if group and size + stored > size_max:
            yield group, size
            group, size = [], 0
        group.append(session_id)
        size += stored
    if group:
        yield group, size


def _delete(
    run: MaintenanceRun, session_ids: Sequence[str], archived: SessionExport | None = None
) -> Job[None]:
    number = yield from run_step(UnitOfWork(partial(_delete_if_due, run, session_ids, archived)))
    yield from run.advance("sessions_hard_deleted", number)


def _delete_if_due(
    run: MaintenanceRun, session_ids: Sequence[str], archived: SessionExport | None
) -> Script[int]:
    # Counters are locked before session rows, as in delete_session. A concurrent append is either
    # deleted with its session, or waits and starts the session again at 1.
    yield from lock_counters(session_ids)
    locked = yield from _lock_due(run, session_ids)
    if locked and archived is not None:
        current = yield from export_session(archived.session.id, include_artifacts=True)
        if current != archived:
            return 0
    for query in ("delete_sessions", "delete_artifacts_of_sessions"):
        yield from Query(query, {"session_ids": locked}, no_result, prepare=False)
    return len(locked)


def _trim_before_delete(
    run: MaintenanceRun, session_id: str, archived: SessionExport | None = None
) -> Job[SessionExport | None]:
    """Prune a long session to what one transaction deletes, and remove the same events from its export."""
    while number := (yield from run_step(UnitOfWork(partial(_trim, run, session_id, archived)))):
        if archived is not None:
            archived = replace(
                archived,
                events=archived.events[number:],
                pruned_events=archived.pruned_events + number,
            )
    return archived


def _trim(run: MaintenanceRun, session_id: str, archived: SessionExport | None) -> Script[int]:
    """Prune the first events of a session that has more than one transaction deletes. Returns how many.

    They count as pruned, so the session is consistent where the run is stopped here.
    """
    yield from lock_existing_counters([session_id])
    size_max = run.events_per_transaction
    number = yield from count_events_beyond(session_id, keep=size_max, max_events=size_max)
    if not number or not (yield from _lock_due(run, [session_id])):
        return 0
    if archived is not None:
        current = yield from get_events(session_id, limit=number)
        if current != archived.events[:number]:
            return 0
    yield from prune_events({session_id: number}, {session_id: INTEGER_MAX})
    return number


def _lock_due(run: MaintenanceRun, session_ids: Sequence[str]) -> Query[tuple[str, ...]]:
    """Lock the sessions that still are due."""
    params = {"session_ids": tuple(session_ids), **run.due}
    return Query("lock_due_sessions", params, lambda rows: tuple(id for (id,) in rows))
