"""The health check: rows without a session, and counters that disagree with their events.

The check goes through the session ids in ranges. For each range it runs a few statements that aggregate
in the database and return only inconsistent sessions. A statement sees one snapshot, so a write in
progress is never reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from asm.engine.jobs import Job, run_step
from asm.engine.script import Query, Rows
from asm.models import Run
from asm.operations.runs import find_stale_runs, lease
from asm.reprs import ResultRepr

SESSIONS_PER_STATEMENT = 10_000

ISSUES_MAX = 10_000
"""Stop after this many issues."""

STALE_AFTER_S = 30.0
"""A run is stale this long after the end of its lease, because clocks differ between machines."""


@dataclass(frozen=True, slots=True, repr=False)
class HealthIssue(ResultRepr):
    """An inconsistency of one session.

    `code` is one of events_without_session, runs_without_session, artifacts_without_session,
    counter_behind, counter_ahead, sequence_holes, pruned_miscounted, several_running_runs and stale_run.
    """

    code: str
    message: str
    session_id: str


def health_check() -> Job[list[HealthIssue]]:
    """Look for inconsistencies. An empty list is healthy. Nothing is changed.

    Finds events, runs and artifacts without a session (a session that is saved after them looks the
    same until then), counters behind or ahead of their events, holes in a sequence that pruning does
    not explain, impossible counts of pruned events, several running runs in one session, and runs of a
    SessionManager that nobody is running any more. Each session is reported once for each code, and at most
    the first 10,000 issues are returned.
    """
    issues: list[HealthIssue] = []
    after: str | None = None
    while len(issues) < ISSUES_MAX:
        up_to = yield from run_step(_find_range_end(after))
        params = {"after": after, "up_to": up_to, "limit": ISSUES_MAX}
        for query, read in _CHECKS.items():
            issues += yield from run_step(Query(query, params, read))
        stale = find_stale_runs(STALE_AFTER_S, _stale_issues, **params)
        issues += yield from run_step(stale)
        if up_to is None:
            break
        after = up_to
    return issues[:ISSUES_MAX]


def _find_range_end(after: str | None) -> Query[str | None]:
    """The last session id of the range that starts after an id, None where it is the last range."""
    params = {"after": after, "number": SESSIONS_PER_STATEMENT - 1}
    return Query("find_range_end", params, lambda rows: rows[0][0] if rows else None)


def _sequence_issues(rows: Rows) -> list[HealthIssue]:
    return [issue for row in rows for issue in _issues_of_sequence(*row)]


def _issues_of_sequence(
    session_id: str, last: int, pruned: int, stored: int, latest: int, is_saved: bool
) -> Iterator[HealthIssue]:
    if stored and not is_saved:
        message = f"{stored:,} events of a session that does not exist"
        yield HealthIssue("events_without_session", message, session_id)
    holes = latest - stored
    if latest > last:
        message = f"the counter is at {last}, but event {latest} exists"
        yield HealthIssue("counter_behind", message, session_id)
    if holes > pruned:
        message = f"{holes:,} of the events up to {latest} are missing, but only {pruned} were pruned"
        yield HealthIssue("sequence_holes", message, session_id)
    # Pruned events that do not explain a hole may have followed the latest event.
    if last - latest > max(0, pruned - holes):
        message = f"the counter is at {last}, but the latest event is {latest}"
        yield HealthIssue("counter_ahead", message, session_id)
    if latest <= last < stored + pruned:
        message = f"{pruned} events are counted as pruned, but only {last - stored} of {last} are missing"
        yield HealthIssue("pruned_miscounted", message, session_id)


def _stale_issues(runs: list[Run]) -> list[HealthIssue]:
    by_session: dict[str, list[Run]] = {}
    for run in runs:
        by_session.setdefault(run.session_id, []).append(run)
    return [HealthIssue("stale_run", _stale(each[0], len(each)), id) for id, each in by_session.items()]


def _stale(run: Run, number: int) -> str:
    others = f", and {number - 1:,} more" if number > 1 else ""
    return f"run {run.id} is running, but its lease ended at {lease(run)['lease_until']}{others}: recover it"


def _count_issues(code: str, message: str) -> Callable[[Rows], list[HealthIssue]]:
    """A reader of rows that each are a session id and a number of rows."""
    return lambda rows: [
        HealthIssue(code, f"{number:,} {message}", session_id) for session_id, number in rows
    ]


_CHECKS: dict[str, Callable[[Rows], list[HealthIssue]]] = {
    "find_inconsistent_sequences": _sequence_issues,
    "find_runs_without_session": _count_issues(
        "runs_without_session", "runs of a session that does not exist"
    ),
    "find_artifacts_without_session": _count_issues(
        "artifacts_without_session", "artifacts of a session that does not exist"
    ),
    "find_concurrent_runs": _count_issues("several_running_runs", "runs are running at the same time"),
}
