"""Orphans: artifacts and counters of sessions that do not exist any more.

An application may register an artifact or append an event before it saves the session. So only rows
older than an hour count as orphans, and only where nothing else of the session is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from asm.engine.jobs import Job, run_step
from asm.engine.script import Query, Row, Rows, Script, UnitOfWork
from asm.maintenance.pruning import lock_existing_counters
from asm.maintenance.run import MaintenanceRun, all_rows, in_batches

GRACE_PERIOD = timedelta(hours=1)


def clean_artifacts(run: MaintenanceRun) -> Job[None]:
    yield from in_batches(
        partial(_find_orphans, run, "find_orphaned_artifacts"), partial(_delete_artifacts, run)
    )


def clean_sequences(run: MaintenanceRun) -> Job[None]:
    yield from in_batches(
        partial(_find_orphans, run, "find_orphaned_counters"), partial(_delete_counters, run)
    )


def _find_orphans(run: MaintenanceRun, query: str, last: Row | None) -> Query[Rows]:
    params = {
        "before": _before(run),
        "after": None if last is None else last[0],
        "limit": run.policy.batch_size,
    }
    return Query(query, params, all_rows, prepare=False)


def _delete_artifacts(run: MaintenanceRun, found: Rows) -> Job[None]:
    number = sum(number for _, number in found)
    if not run.dry_run:
        number = yield from run_step(Query("delete_orphaned_artifacts", _to_delete(run, found), len))
    yield from run.advance("artifacts_cleaned", number)


def _delete_counters(run: MaintenanceRun, found: Rows) -> Job[None]:
    number = len(found)
    if not run.dry_run:
        number = yield from run_step(UnitOfWork(partial(_lock_and_delete, _to_delete(run, found))))
    yield from run.advance("orphaned_sequences_cleaned", number)


def _lock_and_delete(params: Mapping[str, Any]) -> Script[int]:
    # The lock waits for an append that is in progress, so the next statement sees its event.
    yield from lock_existing_counters(params["session_ids"])
    return (yield from Query("delete_orphaned_counters", params, len))


def _to_delete(run: MaintenanceRun, found: Rows) -> dict[str, Any]:
    return {"session_ids": tuple(row[0] for row in found), "before": _before(run)}


def _before(run: MaintenanceRun) -> Any:
    return run.now - GRACE_PERIOD
