"""Retention: the methods of `store.maintenance` that enforce a policy.

A policy says how long sessions are kept and how many events. Each step of a run finds rows to delete in
batches, archives their sessions if the policy says so, and deletes each batch in a short transaction.
The transaction checks its conditions again, because other clients write concurrently. So a step can be
stopped at any point and run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from asm.engine.jobs import Job
from asm.errors import StoreClosed
from asm.maintenance.cleanup import clean_artifacts, clean_sequences
from asm.maintenance.deletion import hard_delete, soft_delete
from asm.maintenance.policy import Failure, MaintenanceReport, Progress, RetentionPolicy
from asm.maintenance.pruning import prune, prune_one
from asm.maintenance.run import MaintenanceRun, count_or_raise
from asm.validation import text


def execute(
    policy: RetentionPolicy, *, dry_run: bool = False, progress: Progress | None = None
) -> Job[MaintenanceReport]:
    """Enforce a policy and return a report.

    Soft-deletes, hard-deletes, prunes, and deletes orphaned artifacts and counters. A step that fails
    is listed in the report's `errors`, and the other steps run. `dry_run` changes and archives
    nothing, and reports the numbers that a run would.

    `progress(step, number)` is called after each batch with the name of a number in the report and its
    value so far; an error that it raises fails the step. An AsyncSessionStore also takes an async
    function.
    """
    return _execute(MaintenanceRun(policy, dry_run=dry_run, progress=progress))


def soft_delete_expired_sessions(policy: RetentionPolicy) -> Job[int]:
    """Soft-delete the sessions that were last updated longer ago than the policy allows. Returns how many."""
    return _run_alone("sessions_soft_deleted", MaintenanceRun(policy))


def hard_delete_expired_sessions(policy: RetentionPolicy) -> Job[int]:
    """Delete the sessions that were soft-deleted long enough ago, with all their rows. Returns how many.

    A session that cannot be archived stays; the error is raised after the other sessions are deleted.
    """
    return _run_alone("sessions_hard_deleted", MaintenanceRun(policy))


def prune_session_events(session_id: str, policy: RetentionPolicy) -> Job[int]:
    """Prune one session to the policy's `max_events_per_session`. Returns how many events were deleted."""
    return prune_one(MaintenanceRun(policy), text(session_id, "session_id"))


def clean_orphaned_artifacts() -> Job[int]:
    """Delete the rows of artifacts whose session does not exist. Returns how many.

    An artifact younger than one hour stays, and so do those of a session that has events or runs, or
    had events before they were pruned: the session may be about to be saved.
    """
    return _run_alone("artifacts_cleaned", MaintenanceRun(RetentionPolicy()))


def clean_orphaned_sequences() -> Job[int]:
    """Delete the counters of sessions that have neither a row nor an event. Returns how many.

    A counter that changed within the last hour stays: its session may be about to be saved. So does
    the counter of a session whose events were all pruned, which continues its sequence.
    """
    return _run_alone("orphaned_sequences_cleaned", MaintenanceRun(RetentionPolicy()))


def _execute(run: MaintenanceRun) -> Job[MaintenanceReport]:
    started = time.monotonic()
    for step in _STEPS:
        yield from _run_guarded(step, run)
    duration_ms = round((time.monotonic() - started) * 1_000)
    return MaintenanceReport(**run.counts, duration_ms=duration_ms, errors=run.errors)


def _run_guarded(step: str, run: MaintenanceRun) -> Job[None]:
    try:
        yield from _STEPS[step](run)
    except StoreClosed:
        raise
    except Exception as error:
        run.errors.append(Failure(step, error))


def _run_alone(step: str, run: MaintenanceRun) -> Job[int]:
    yield from _STEPS[step](run)
    return count_or_raise(run, step)


_STEPS: dict[str, Callable[[MaintenanceRun], Job[None]]] = {
    "sessions_soft_deleted": soft_delete,
    "sessions_hard_deleted": hard_delete,
    "events_pruned": prune,
    "artifacts_cleaned": clean_artifacts,
    "orphaned_sequences_cleaned": clean_sequences,
}
"""The steps of a run in their order, by the fields of a MaintenanceReport that count them."""
