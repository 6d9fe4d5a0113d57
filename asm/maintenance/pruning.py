"""Deleting the events that a policy no longer keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from asm.engine.jobs import Job, run_step
from asm.engine.script import Query, Row, Rows, Script, UnitOfWork, no_result, scalar
from asm.maintenance import run
from asm.maintenance.policy import PROTECTED_TYPES
from asm.maintenance.run import (
    MaintenanceRun,
    all_rows,
    in_batches,
    raise_or_count,
)
from asm.operations.exports import Counter, read_counters

_ANY_NUMBER = 2**31


# Pruning.


class PruneTarget(NamedTuple):
    """So many events of a session may go at most, up to a number, if it stands as it was seen."""

    session_id: str
    upto: int
    pruned: int
    most: int = _ANY_NUMBER

    def stands(self, counters: Mapping[str, Counter]) -> bool:
        """Whether no other has pruned the session since, nor has it begun anew."""
        counter = counters.get(self.session_id, Counter(0, 0))
        return counter.last_sequence >= self.upto and counter.pruned_events == self.pruned


def prune(job: MaintenanceRun) -> Job[None]:
    prunable = {"due_until": job.due_until, **job.exempt}
    yield from _prune_long(job, {**prunable, "session_id": None})
    yield from _prune_total(job, prunable)


def prune_one(job: MaintenanceRun, session_id: str) -> Job[int]:
    yield from _prune_long(job, {"due_until": None, **job.exempt, "session_id": session_id})
    return raise_or_count("events_pruned", job)


def _prune_long(job: MaintenanceRun, prunable: Mapping[str, Any]) -> Job[None]:
    keep = job.policy.max_events_per_session
    if keep is not None:
        yield from in_batches(
            partial(_find_long, job, {**prunable, "keep": keep}), partial(_prune_batch, job, keep)
        )


def _find_long(job: MaintenanceRun, prunable: Mapping[str, Any], last: Row | None) -> Query[Rows]:
    params = {
        **prunable,
        "saved": _requires_row(job),
        "after": None if last is None else last[0],
        "limit": job.policy.batch_size,
    }
    return Query("find_long_sessions", params, all_rows)


def _prune_batch(job: MaintenanceRun, keep: int, found: Rows) -> Job[None]:
    shares: Sequence[PruneTarget] = [PruneTarget(*row) for row in found]
    if job.dry_run or job.policy.archive is not None:
        # A session of which nothing may go is not worth an archive.
        numbers = yield from run_step(_count_prunable(job, keep, shares))
        shares = [
            share._replace(most=numbers[share.session_id]) for share in shares if share.session_id in numbers
        ]
    if job.dry_run:
        yield from job.advance("events_pruned", sum(share.most for share in shares))
        return
    shares = yield from _archived_shares(job, shares)
    while shares:
        most = max(1, run.EVENTS_PER_TRANSACTION // len(shares))
        gone = yield from _prune_now(job, keep, [share._replace(most=most) for share in shares])
        shares = [
            share._replace(pruned=share.pruned + most)
            for share in shares
            if gone.get(share.session_id) == most
        ]


def _archived_shares(job: MaintenanceRun, shares: Sequence[PruneTarget]) -> Job[Sequence[PruneTarget]]:
    """Of those that could be archived, what may go now: nothing that came after."""
    if job.policy.archive is None:
        return shares
    archived = []
    for share in shares:
        export = yield from job.archived("events_pruned", share.session_id)
        if export is not None:
            archived.append(share._replace(upto=export.last_sequence))
    return archived


def _prune_now(job: MaintenanceRun, keep: int, shares: Sequence[PruneTarget]) -> Job[dict[str, int]]:
    gone = yield from run_step(UnitOfWork(partial(_take, job, keep, shares)))
    yield from job.advance("events_pruned", sum(gone.values()))
    return gone


def _take(job: MaintenanceRun, keep: int, shares: Sequence[PruneTarget]) -> Script[dict[str, int]]:
    counters = yield from _lock_counters(share.session_id for share in shares)
    standing = [share for share in shares if share.stands(counters)]
    numbers = yield from _count_prunable(job, keep, standing)
    uptos = {share.session_id: share.upto for share in standing}
    yield from _prune_events(numbers, uptos, first=job.first_types, never=PROTECTED_TYPES)
    return numbers


def _prune_events(
    numbers: Mapping[str, int],
    uptos: Mapping[str, int],
    *,
    first: Sequence[str] = (),
    never: Sequence[str] = (),
) -> Query[None]:
    """Delete so many of each session's events up to a number, the oldest, and keep how many. They exist."""
    params = {
        "session_ids": list(numbers),
        "uptos": [uptos[session_id] for session_id in numbers],
        "numbers": list(numbers.values()),
        "first_types": tuple(first),
        "protected_types": tuple(never),
    }
    return Query("prune_events", params, no_result)


def _count_prunable(job: MaintenanceRun, keep: int, shares: Sequence[PruneTarget]) -> Query[dict[str, int]]:
    """Of which of the sessions how many events may go; none of the others."""
    params = {
        "session_ids": [share.session_id for share in shares],
        "uptos": [share.upto for share in shares],
        "mosts": [share.most for share in shares],
        "keep": keep,
        "protected_types": PROTECTED_TYPES,
        "exempt_tags": job.exempt["exempt_tags"],
    }
    return Query("count_prunable", params, lambda rows: {id: number for id, number in rows if number})


def _prune_total(job: MaintenanceRun, prunable: Mapping[str, Any]) -> Job[None]:
    if job.policy.max_total_events is None:
        return
    excess = yield from run_step(_count_excess(job, prunable))
    if job.dry_run:
        yield from _count_total(job, prunable, excess)
        return
    rest = (*job.first_types, *PROTECTED_TYPES)
    excess -= yield from _prune_oldest(job, prunable, {"types": job.first_types, "not_types": None}, excess)
    yield from _prune_oldest(job, prunable, {"types": None, "not_types": rest}, excess)


def _count_total(job: MaintenanceRun, prunable: Mapping[str, Any], excess: int) -> Job[None]:
    # What pruning each session would take is still there, and is among what may go.
    counted = job.done["events_pruned"]
    if excess > counted:
        params = {**prunable, "saved": _requires_row(job), "not_types": PROTECTED_TYPES, "limit": excess}
        number = yield from run_step(Query("count_oldest", params, scalar))
        yield from job.advance("events_pruned", number - counted)


def _prune_oldest(
    job: MaintenanceRun, prunable: Mapping[str, Any], wanted: Mapping[str, Any], most: int
) -> Job[int]:
    """Prune the oldest of all events that are wanted, so many at most, and say how many went."""
    gone, since = 0, None
    # Not until nothing is too many: while others append, that may never be.
    while gone < most:
        limit = min(most - gone, run.EVENTS_PER_TRANSACTION)
        params = {**prunable, **wanted, "since": since, "saved": _requires_row(job), "limit": limit}
        found = yield from run_step(UnitOfWork(partial(_find_oldest, job, prunable, params), snapshot=True))
        number = yield from _prune_shares(job, [PruneTarget(*row[:4]) for row in found])
        if not number:
            break
        gone += number
        since = max(row[4] for row in found)
    return gone


def _find_oldest(job: MaintenanceRun, prunable: Mapping[str, Any], params: Mapping[str, Any]) -> Script[Rows]:
    # How many are too many, and which are the oldest, as of one moment: where another run prunes
    # at the same time, either we know, or the session no longer stands as it was seen.
    excess = yield from _count_excess(job, prunable)
    limit = min(excess, params["limit"])
    return (yield from Query("find_oldest", {**params, "limit": limit}, all_rows)) if limit > 0 else []


def _count_excess(job: MaintenanceRun, prunable: Mapping[str, Any]) -> Query[int]:
    """How many events more there are than all sessions together may have."""
    bound = job.policy.max_total_events or 0
    return Query("count_stored", prunable, lambda rows: rows[0][0] - bound)


def _prune_shares(job: MaintenanceRun, shares: Sequence[PruneTarget]) -> Job[int]:
    number = 0
    for start in range(0, len(shares), job.policy.batch_size):
        batch = yield from _archived_shares(job, shares[start : start + job.policy.batch_size])
        gone = yield from _prune_now(job, 0, batch)
        number += sum(gone.values())
    return number


def _requires_row(job: MaintenanceRun) -> bool | None:
    """Only sessions that have a row can be archived."""
    return None if job.policy.archive is None else True


def _lock_counters(session_ids: Iterable[str]) -> Query[dict[str, Counter]]:
    """The counters of those that have one, held still until the transaction ends."""
    return Query("hold_counters", {"session_ids": tuple(session_ids)}, read_counters)
