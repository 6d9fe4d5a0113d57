"""Keeping only what should be kept.

A policy says for how long and how much. Each step of it goes through what is due in batches: it
finds some, archives them where that is wanted, and deletes them in a short transaction that
looks again at what it deletes, because sessions live on meanwhile. So a step may be stopped
anywhere and run again.
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
from asm.maintenance.run import MaintenanceRun, raise_or_count
from asm.validation import text


def execute(
    policy: RetentionPolicy, *, dry_run: bool = False, progress: Progress | None = None
) -> Job[MaintenanceReport]:
    """Do all that a policy asks for, step by step, and report it.

    Soft-deletes, hard-deletes, prunes, and cleans up artifacts and sequences of sessions that are
    gone. A step that fails is told in the report's `errors`, and the others run. `dry_run`
    changes and archives nothing, and reports the numbers that a run would.

    `progress(step, number)` is called after each batch with the name of the report's number and
    where it stands; what it raises fails the step. An AsyncSessionStore also takes an async one.
    """
    return _execute(MaintenanceRun(policy, dry_run=dry_run, progress=progress))


def soft_delete_expired_sessions(policy: RetentionPolicy) -> Job[int]:
    """Soft-delete the sessions that were not updated for as long as the policy allows, and say how many."""
    return _alone("sessions_soft_deleted", MaintenanceRun(policy))


def hard_delete_expired_sessions(policy: RetentionPolicy) -> Job[int]:
    """Delete the sessions that were soft-deleted long enough ago, with all of theirs, and say how many.

    A session that cannot be archived stays, and the error is raised when the others are done.
    """
    return _alone("sessions_hard_deleted", MaintenanceRun(policy))


def prune_session_events(session_id: str, policy: RetentionPolicy) -> Job[int]:
    """Prune one session to the policy's `max_events_per_session`, and say how many events went."""
    return prune_one(MaintenanceRun(policy), text(session_id, "session_id"))


def clean_orphaned_artifacts() -> Job[int]:
    """Delete the rows of artifacts whose session is gone, and say how many.

    A session that has events or runs, or had events before they were pruned, is not gone: its own
    row may yet come.
    """
    return _alone("artifacts_cleaned", MaintenanceRun(RetentionPolicy()))


def clean_orphaned_sequences() -> Job[int]:
    """Delete the counters of sessions that have neither a row nor an event, and say how many.

    A session whose events were all pruned goes on counting where it was.
    """
    return _alone("orphaned_sequences_cleaned", MaintenanceRun(RetentionPolicy()))


def _execute(job: MaintenanceRun) -> Job[MaintenanceReport]:
    started = time.monotonic()
    for step in _STEPS:
        yield from _guarded(step, job)
    duration_ms = round((time.monotonic() - started) * 1_000)
    return MaintenanceReport(**job.done, duration_ms=duration_ms, errors=job.errors)


def _guarded(step: str, job: MaintenanceRun) -> Job[None]:
    try:
        yield from _STEPS[step](job)
    except StoreClosed:
        # There is nothing left to try.
        raise
    except Exception as error:
        job.errors.append(Failure(step, error))


def _alone(step: str, job: MaintenanceRun) -> Job[int]:
    yield from _STEPS[step](job)
    return raise_or_count(step, job)


_STEPS: dict[str, Callable[[MaintenanceRun], Job[None]]] = {
    "sessions_soft_deleted": soft_delete,
    "sessions_hard_deleted": hard_delete,
    "events_pruned": prune,
    "artifacts_cleaned": clean_artifacts,
    "orphaned_sequences_cleaned": clean_sequences,
}
