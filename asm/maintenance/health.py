"""What should not be: rows that belong to nobody, counters that do not add up.

The ids of all sessions are gone through in stretches, each looked at in a few statements that
sum up in the database. Each statement sees one moment, so nothing that is being written now
looks half written, and only what is wrong comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from asm.engine.jobs import Job, run_step
from asm.engine.script import Query, Rows

SESSIONS_PER_STATEMENT = 10_000

ISSUES_MAX = 10_000
"""More than so many are not looked for: whoever has them knows enough."""


@dataclass(frozen=True, slots=True)
class HealthIssue:
    """Something that should not be, in one session.

    `code` is one of events_without_session, runs_without_session, artifacts_without_session,
    counter_behind, counter_ahead, sequence_holes, pruned_miscounted and several_running_runs.
    """

    code: str
    message: str
    session_id: str


def health_check() -> Job[list[HealthIssue]]:
    """Look for what should not be; nothing is what a healthy store has. Nothing is changed.

    Events, runs and artifacts without a session (one that has yet to be saved looks the same),
    counters behind or ahead of their events, holes in a sequence that pruning does not explain,
    counts of pruned events that cannot be, and several running runs in one session. A session is
    told of once for each kind; the first 10,000 issues are told.
    """
    return _health_check()


def _health_check() -> Job[list[HealthIssue]]:
    issues: list[HealthIssue] = []
    after: str | None = None
    while len(issues) < ISSUES_MAX:
        upto = yield from run_step(_find_boundary(after))
        for query, tell in _LOOKS.items():
            params = {"after": after, "upto": upto, "limit": ISSUES_MAX}
            issues += yield from run_step(Query(query, params, _telling(tell)))
        if upto is None:
            break
        after = upto
    return issues[:ISSUES_MAX]


def _find_boundary(after: str | None) -> Query[str | None]:
    """Where a stretch of sessions ends that begins after another, None where it is the last."""
    params = {"after": after, "number": SESSIONS_PER_STATEMENT - 1}
    return Query("find_boundary", params, lambda rows: rows[0][0] if rows else None)


def _telling(tell: Callable[..., Iterator[HealthIssue]]) -> Callable[[Rows], list[HealthIssue]]:
    return lambda rows: [issue for row in rows for issue in tell(*row)]


def _odd_sequence(
    session_id: str, last: int, pruned: int, stored: int, latest: int, is_saved: bool
) -> Iterator[HealthIssue]:
    if stored and not is_saved:
        yield HealthIssue(
            "events_without_session", f"events of a session that is not there: {stored:,}", session_id
        )
    holes = latest - stored
    if latest > last:
        message = f"the counter stands at {last}, but event {latest} is there"
        yield HealthIssue("counter_behind", message, session_id)
    if holes > pruned:
        message = f"{holes:,} of the events up to {latest} are missing, but {pruned} were pruned"
        yield HealthIssue("sequence_holes", message, session_id)
    # What pruning took and is not missing before the latest event may have stood after it.
    if last - latest > max(0, pruned - holes):
        message = f"the counter stands at {last}, but the latest event is {latest}"
        yield HealthIssue("counter_ahead", message, session_id)
    if latest <= last < stored + pruned:
        message = f"{pruned} events are counted as pruned, but {last - stored} of {last} are missing"
        yield HealthIssue("pruned_miscounted", message, session_id)


def _lone_runs(session_id: str, number: int) -> Iterator[HealthIssue]:
    yield HealthIssue("runs_without_session", f"runs of a session that is not there: {number:,}", session_id)


def _lone_artifacts(session_id: str, number: int) -> Iterator[HealthIssue]:
    yield HealthIssue(
        "artifacts_without_session",
        f"artifacts of a session that is not there: {number:,}",
        session_id,
    )


def _crowded(session_id: str, number: int) -> Iterator[HealthIssue]:
    yield HealthIssue("several_running_runs", f"{number} runs are running at once", session_id)


_LOOKS: dict[str, Callable[..., Iterator[HealthIssue]]] = {
    "find_odd_sequences": _odd_sequence,
    "find_lone_runs": _lone_runs,
    "find_lone_artifacts": _lone_artifacts,
    "find_crowded_sessions": _crowded,
}
