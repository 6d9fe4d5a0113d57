"""Artifacts and counters whose session is gone."""

from __future__ import annotations

from functools import partial

from asm.engine.jobs import Job, run_step
from asm.engine.script import Query, Row, Rows, Script, UnitOfWork
from asm.maintenance.pruning import _lock_counters
from asm.maintenance.run import MaintenanceRun, all_rows, ids, in_batches

# Cleaning up.


def clean_artifacts(job: MaintenanceRun) -> Job[None]:
    yield from in_batches(
        partial(_find_orphans, job, "find_orphaned_artifacts"), partial(_clean_artifacts_batch, job)
    )


def _clean_artifacts_batch(job: MaintenanceRun, found: Rows) -> Job[None]:
    number = sum(number for _, number in found)
    if not job.dry_run:
        params = {"session_ids": tuple(id for id, _ in found)}
        number = yield from run_step(Query("delete_orphaned_artifacts", params, len))
    yield from job.advance("artifacts_cleaned", number)


def clean_sequences(job: MaintenanceRun) -> Job[None]:
    yield from in_batches(
        partial(_find_orphans, job, "find_orphaned_counters"), partial(_clean_sequences_batch, job)
    )


def _clean_sequences_batch(job: MaintenanceRun, found: Rows) -> Job[None]:
    number = len(found)
    if not job.dry_run:
        number = yield from run_step(UnitOfWork(partial(_delete_counters, ids(found))))
    yield from job.advance("orphaned_sequences_cleaned", number)


def _delete_counters(session_ids: tuple[str, ...]) -> Script[int]:
    # Locked, and looked at again in a statement after that: an append that was under way has
    # left its event by then.
    yield from _lock_counters(session_ids)
    return (yield from Query("delete_orphaned_counters", {"session_ids": session_ids}, len))


def _find_orphans(job: MaintenanceRun, query: str, last: Row | None) -> Query[Rows]:
    params = {"after": None if last is None else last[0], "limit": job.policy.batch_size}
    return Query(query, params, all_rows)
