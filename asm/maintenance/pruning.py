"""Pruning: deleting the events that a policy no longer keeps.

First each session is pruned to `max_events_per_session`, then the oldest events of all sessions go
until `max_total_events` are left. A counter keeps the number of events that were pruned, and every
transaction that prunes locks the counters first. A session whose counter shows that another client
pruned it, or deleted it and appended again, since the run read it is left alone.

Counters find what may have to be pruned, because they are few. How many events are deleted follows from a
count of the rows, whatever a counter says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from asm.engine.jobs import Job, run_step
from asm.engine.script import Query, Row, Rows, Script, UnitOfWork, no_result, scalar, sum_of_halves
from asm.maintenance.policy import PROTECTED_TYPES
from asm.maintenance.run import MaintenanceRun, all_rows, count_or_raise, in_batches
from asm.operations.exports import SequenceCounter, read_counters
from asm.validation import INTEGER_MAX

_UNLIMITED = 2**31


class Excess(NamedTuple):
    """How many more events all sessions together have than a policy keeps, by rows and by counters."""

    by_rows: int
    by_counters: int


class PruneTarget(NamedTuple):
    """A session to prune: up to which event, how many were pruned when it was read, how many may go."""

    session_id: str
    up_to: int
    pruned: int
    max_events: int = _UNLIMITED

    def is_unchanged(self, counters: Mapping[str, SequenceCounter]) -> bool:
        """Whether no other client has pruned the session, or deleted it, since it was read."""
        counter = counters.get(self.session_id, SequenceCounter())
        return counter.last_sequence >= self.up_to and counter.pruned_events == self.pruned


def prune(run: MaintenanceRun) -> Job[None]:
    yield from _prune_long_sessions(run, {**run.due, "session_id": None})
    yield from _prune_total(run)


def prune_one(run: MaintenanceRun, session_id: str) -> Job[int]:
    yield from _prune_long_sessions(run, {**run.due, "due_until": None, "session_id": session_id})
    return count_or_raise(run, "events_pruned")


# A limit for each session.


def _prune_long_sessions(run: MaintenanceRun, conditions: Mapping[str, Any]) -> Job[None]:
    keep = run.policy.max_events_per_session
    if keep is not None:
        yield from in_batches(
            partial(_find_long_sessions, run, {**conditions, "keep": keep}),
            partial(_prune_batch, run, keep),
        )


def _find_long_sessions(run: MaintenanceRun, conditions: Mapping[str, Any], last: Row | None) -> Query[Rows]:
    params = {
        **conditions,
        "requires_row": run.requires_row,
        "after": None if last is None else last[0],
        "limit": run.policy.batch_size,
    }
    return Query("find_long_sessions", params, all_rows)


def _prune_batch(run: MaintenanceRun, keep: int, found: Rows) -> Job[None]:
    targets: Sequence[PruneTarget] = [PruneTarget(*row) for row in found]
    if run.dry_run or run.policy.archive is not None:
        # A session without prunable events is not archived.
        targets = yield from _with_prunable_events(run, keep, targets)
    if run.dry_run:
        yield from run.advance("events_pruned", sum(target.max_events for target in targets))
    else:
        targets = yield from _archive(run, targets)
        yield from _prune_in_transactions(run, keep, targets)


def _with_prunable_events(
    run: MaintenanceRun, keep: int, targets: Sequence[PruneTarget]
) -> Job[list[PruneTarget]]:
    numbers = yield from run_step(_count_prunable(run, keep, targets))
    return [
        target._replace(max_events=numbers[target.session_id])
        for target in targets
        if target.session_id in numbers
    ]


def _archive(run: MaintenanceRun, targets: Sequence[PruneTarget]) -> Job[Sequence[PruneTarget]]:
    """The targets that could be archived, each up to its last archived event."""
    if run.policy.archive is None:
        return targets
    archived = []
    for target in targets:
        export = yield from run.archive("events_pruned", target.session_id)
        if export is not None:
            archived.append(target._replace(up_to=export.last_sequence))
    return archived


def _prune_in_transactions(run: MaintenanceRun, keep: int, targets: Sequence[PruneTarget]) -> Job[None]:
    """Prune in transactions of limited size, until no target has events left to prune."""
    while targets:
        limit = max(1, run.events_per_transaction // len(targets))
        pruned = yield from _prune(run, keep, [target._replace(max_events=limit) for target in targets])
        targets = [
            target._replace(pruned=target.pruned + limit)
            for target in targets
            if pruned.get(target.session_id) == limit
        ]


# A limit for all sessions together.


def _prune_total(run: MaintenanceRun) -> Job[None]:
    if run.policy.max_total_events is None:
        return
    excess = yield from run_step(UnitOfWork(partial(_count_excess, run), snapshot=True))
    if run.dry_run:
        yield from _count_prunable_of_all(run, excess.by_rows)
        return
    first, rest = run.first_types, (*run.first_types, *PROTECTED_TYPES)
    pruned = yield from _prune_oldest(run, {"types": first, "not_types": None}, excess, excess.by_rows)
    max_events = excess.by_rows - pruned
    yield from _prune_oldest(run, {"types": None, "not_types": rest}, excess, max_events)


def _count_prunable_of_all(run: MaintenanceRun, excess: int) -> Job[None]:
    # A dry run has not pruned the long sessions, so this count includes what it counted there.
    counted = run.counts.get("events_pruned", 0)
    if excess > counted:
        params = {
            **run.due,
            "requires_row": run.requires_row,
            "not_types": PROTECTED_TYPES,
            "limit": excess,
        }
        number = yield from run_step(Query("count_prunable_events", params, scalar, prepare=False))
        yield from run.advance("events_pruned", number - counted)


def _prune_oldest(run: MaintenanceRun, types: Mapping[str, Any], excess: Excess, max_events: int) -> Job[int]:
    """Prune at most this many of the oldest events of all sessions, of these types. Returns how many."""
    pruned, since = 0, None
    # `max_events` is fixed at the start: a loop until none are in excess may never end while others append.
    while pruned < max_events:
        params = {
            **run.due,
            **types,
            "since": since,
            "requires_row": run.requires_row,
            "limit": min(max_events - pruned, run.events_per_transaction),
        }
        found = yield from run_step(UnitOfWork(partial(_find_oldest, run, params, excess), snapshot=True))
        number = yield from _prune_found(run, [PruneTarget(*row[:4]) for row in found])
        if not number:
            break
        pruned += number
        since = max(row[4] for row in found)
    return pruned


def _find_oldest(run: MaintenanceRun, params: Mapping[str, Any], before: Excess) -> Script[Rows]:
    # Both queries see one snapshot. If another run prunes the same sessions concurrently, either the
    # snapshot shows it, or the counters do later. Since the run counted the rows, the counters have changed
    # by as many as the rows, and to count the rows again would read a whole index in each transaction.
    by_counters = yield from _count_by_counters(run)
    limit = min(before.by_rows + by_counters - before.by_counters, params["limit"])
    return (yield from Query("find_oldest_events", {**params, "limit": limit}, all_rows)) if limit > 0 else []


def _count_excess(run: MaintenanceRun) -> Script[Excess]:
    by_counters = yield from _count_by_counters(run)
    if by_counters <= 0:
        return Excess(0, by_counters)
    stored: int = yield from Query("count_stored", run.due, scalar)
    return Excess(stored - (run.policy.max_total_events or 0), by_counters)


def _count_by_counters(run: MaintenanceRun) -> Query[int]:
    keep = run.policy.max_total_events or 0
    return Query("count_stored_by_counters", run.due, lambda rows: sum_of_halves(*rows[0]) - keep)


def _prune_found(run: MaintenanceRun, targets: Sequence[PruneTarget]) -> Job[int]:
    number = 0
    for start in range(0, len(targets), run.policy.batch_size):
        batch = yield from _archive(run, targets[start : start + run.policy.batch_size])
        pruned = yield from _prune(run, 0, batch)
        number += sum(pruned.values())
    return number


# One transaction.


def _prune(run: MaintenanceRun, keep: int, targets: Sequence[PruneTarget]) -> Job[dict[str, int]]:
    """Prune the targets in one transaction. Returns how many events of each session were pruned."""
    pruned = yield from run_step(UnitOfWork(partial(_prune_unchanged, run, keep, targets)))
    yield from run.advance("events_pruned", sum(pruned.values()))
    return pruned


def _prune_unchanged(
    run: MaintenanceRun, keep: int, targets: Sequence[PruneTarget]
) -> Script[dict[str, int]]:
    counters = yield from lock_existing_counters(target.session_id for target in targets)
    unchanged = [target for target in targets if target.is_unchanged(counters)]
    numbers = yield from _count_prunable(run, keep, unchanged)
    max_sequences = {target.session_id: target.up_to for target in unchanged}
    yield from prune_events(
        numbers, max_sequences, first_types=run.first_types, protected_types=PROTECTED_TYPES
    )
    return numbers


def _count_prunable(run: MaintenanceRun, keep: int, targets: Sequence[PruneTarget]) -> Query[dict[str, int]]:
    """How many events of each session may be pruned, without the sessions that have none."""
    params = {
        "session_ids": [target.session_id for target in targets],
        "max_sequences": [target.up_to for target in targets],
        # No session has more events than the largest sequence number.
        "limits": [min(keep + target.max_events, INTEGER_MAX) for target in targets],
        "keep": keep,
        "protected_types": PROTECTED_TYPES,
        "exempt_tags": run.exempt_tags,
    }
    return Query(
        "count_prunable_by_session", params, lambda rows: {id: number for id, number in rows if number}
    )


def count_events_beyond(session_id: str, keep: int, max_events: int) -> Query[int]:
    """How many events a session has beyond a number, at most `max_events`."""
    params = {
        "session_ids": [session_id],
        "max_sequences": [INTEGER_MAX],
        "limits": [keep + max_events],
        "keep": keep,
        "protected_types": (),
        "exempt_tags": (),
    }
    return Query("count_prunable_by_session", params, lambda rows: rows[0][1] if rows else 0)


def prune_events(
    numbers: Mapping[str, int],
    max_sequences: Mapping[str, int],
    *,
    first_types: Sequence[str] = (),
    protected_types: Sequence[str] = (),
) -> Query[None]:
    """Delete this many events of each session and count them as pruned.

    The oldest up to `max_sequences` go, those of `first_types` before others. That many must exist.
    """
    params = {
        "session_ids": list(numbers),
        "max_sequences": [max_sequences[session_id] for session_id in numbers],
        "numbers": list(numbers.values()),
        "first_types": tuple(first_types),
        "protected_types": tuple(protected_types),
    }
    return Query("prune_events", params, no_result, prepare=False)


def lock_existing_counters(session_ids: Iterable[str]) -> Query[dict[str, SequenceCounter]]:
    """Lock the counters of the sessions that have one."""
    return Query("lock_existing_counters", {"session_ids": tuple(session_ids)}, read_counters)
