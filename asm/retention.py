"""Keeping only what should be kept.

A policy says for how long and how much. Each step of it goes through what is due in batches: it
finds some, archives them where that is wanted, and deletes them in a short transaction that
looks again at what it deletes, because sessions live on meanwhile. So a step may be stopped
anywhere and run again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from asm import archives
from asm.errors import AsmError, SessionNotFound, StoreClosed, ValidationError
from asm.events import get_events, lock_counters, types
from asm.exports import Counter, SessionExport, export_session, find_counters, read_counters
from asm.models import EventType, SessionStatus, count, flag, now, session_status, text, texts
from asm.plain import is_a
from asm.plan import Ask, Plan, Row, Rows, Steps, first, nothing
from asm.procedures import Procedure, Work, result_of

EVENTS_PER_TRANSACTION = 10_000
"""So many events at most go in one transaction. Of a session with more, the first go before it."""

ARCHIVING_FAILURES_MAX = 10
"""So many sessions that cannot be archived end a step: a full disk fails every one of them."""

PROTECTED_TYPES = (
    str(EventType.SESSION_CREATED),
    str(EventType.RUN_STARTED),
    str(EventType.RUN_COMPLETED),
    str(EventType.RUN_FAILED),
    str(EventType.ERROR_OCCURRED),
)
"""Events of these types are never pruned."""

_ENDED = (SessionStatus.COMPLETED, SessionStatus.FAILED, SessionStatus.CANCELLED)
_ANY_NUMBER = 2**31

Archive: TypeAlias = "str | os.PathLike[str] | Callable[[SessionExport], object]"
Progress: TypeAlias = "Callable[[str, int], object]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """What is kept, for how long, and how much of it. None is no bound.

    Completed, failed and cancelled sessions are soft-deleted when they were not updated for
    `max_completed_session_age_days`, any session when it was not for `max_session_age_days`;
    what was soft-deleted is hard-deleted after `hard_delete_after_days`. Sessions in one of the
    `exempt_statuses` or with one of the `exempt_tags` are neither.

    Of events, `max_events_per_session` are kept in each session and `max_total_events` in all
    together, counted without what is about to be hard-deleted. Those of the types
    `prune_event_types_first` go first, the oldest first, then the oldest of the rest;
    session_created, run_started, run_completed, run_failed and error_occurred never. A session
    with an exempt tag keeps all of its events, one in an exempt status does not: it is the
    active ones that grow.

    `archive` is a folder, which gets a `.jsonl.gz` for each session, or a function that is given
    each SessionExport before anything of the session is hard-deleted or pruned. What was not
    archived is not deleted; a session without a row cannot be archived. An AsyncSessionStore
    also takes an async function.

    `batch_size` is how many sessions at most are dealt with in one transaction.
    """

    max_session_age_days: int | None = None
    max_completed_session_age_days: int | None = 90
    hard_delete_after_days: int | None = 30
    max_events_per_session: int | None = None
    max_total_events: int | None = None
    exempt_statuses: Sequence[SessionStatus | str] = (SessionStatus.ACTIVE, SessionStatus.PAUSED)
    exempt_tags: Sequence[str] = ("pinned",)
    prune_event_types_first: Sequence[EventType | str] = (
        EventType.MESSAGE_STREAMED,
        EventType.TOKEN_USAGE_UPDATED,
    )
    archive: Archive | None = None
    batch_size: int = 100

    def __post_init__(self) -> None:
        for name in _BOUNDS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _positive(getattr(self, name), name))
        object.__setattr__(self, "batch_size", _positive(self.batch_size, "batch_size"))
        statuses = texts(self.exempt_statuses, "exempt_statuses")
        object.__setattr__(self, "exempt_statuses", tuple(map(session_status, statuses)))
        object.__setattr__(self, "exempt_tags", texts(self.exempt_tags, "exempt_tags"))
        first_types = texts(self.prune_event_types_first, "prune_event_types_first")
        object.__setattr__(self, "prune_event_types_first", types(first_types))
        if not (
            self.archive is None or callable(self.archive) or isinstance(self.archive, str | os.PathLike)
        ):
            raise ValidationError(
                f"archive must be a folder or a function, not {type(self.archive).__name__}", path="archive"
            )


_BOUNDS = (
    "max_session_age_days",
    "max_completed_session_age_days",
    "hard_delete_after_days",
    "max_events_per_session",
    "max_total_events",
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong. `step` is the number in the report that would have grown."""

    step: str
    error: Exception
    session_id: str | None = None

    def __str__(self) -> str:
        where = "" if self.session_id is None else f" of session {self.session_id!r}"
        return f"{self.step}{where}: {self.error}"

    def to_dict(self) -> dict[str, Any]:
        return {"step": self.step, "session_id": self.session_id, "message": str(self.error)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceReport:
    """What was done, or with `dry_run` what would be. `errors` tells what failed, and is empty otherwise."""

    sessions_soft_deleted: int = 0
    sessions_hard_deleted: int = 0
    events_pruned: int = 0
    artifacts_cleaned: int = 0
    orphaned_sequences_cleaned: int = 0
    duration_ms: int = 0
    errors: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """This report as JSON-ready values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**values, "errors": [failure.to_dict() for failure in self.errors]}


def execute(
    policy: RetentionPolicy, *, dry_run: bool = False, progress: Progress | None = None
) -> Procedure[MaintenanceReport]:
    """Do all that a policy asks for, step by step, and report it.

    Soft-deletes, hard-deletes, prunes, and cleans up artifacts and sequences of sessions that are
    gone. A step that fails is told in the report's `errors`, and the others run. `dry_run`
    changes and archives nothing, and reports the numbers that a run would.

    `progress(step, number)` is called after each batch with the name of the report's number and
    where it stands; what it raises fails the step. An AsyncSessionStore also takes an async one.
    """
    return _execute(_Job(policy, dry_run=dry_run, progress=progress))


def soft_delete_expired_sessions(policy: RetentionPolicy) -> Procedure[int]:
    """Soft-delete the sessions that were not updated for as long as the policy allows, and say how many."""
    return _alone("sessions_soft_deleted", _Job(policy))


def hard_delete_expired_sessions(policy: RetentionPolicy) -> Procedure[int]:
    """Delete the sessions that were soft-deleted long enough ago, with all of theirs, and say how many.

    A session that cannot be archived stays, and the error is raised when the others are done.
    """
    return _alone("sessions_hard_deleted", _Job(policy))


def prune_session_events(session_id: str, policy: RetentionPolicy) -> Procedure[int]:
    """Prune one session to the policy's `max_events_per_session`, and say how many events went."""
    return _prune_one(_Job(policy), text(session_id, "session_id"))


def clean_orphaned_artifacts() -> Procedure[int]:
    """Delete the rows of artifacts whose session is gone, and say how many.

    A session that has events or runs, or had events before they were pruned, is not gone: its own
    row may yet come.
    """
    return _alone("artifacts_cleaned", _Job(RetentionPolicy()))


def clean_orphaned_sequences() -> Procedure[int]:
    """Delete the counters of sessions that have neither a row nor an event, and say how many.

    A session whose events were all pruned goes on counting where it was.
    """
    return _alone("orphaned_sequences_cleaned", _Job(RetentionPolicy()))


class _Job:
    """One time through a policy: what it asks for, and how far it has come."""

    def __init__(
        self, policy: RetentionPolicy, *, dry_run: bool = False, progress: Progress | None = None
    ) -> None:
        if not is_a(policy, RetentionPolicy):
            raise ValidationError(f"policy must be a RetentionPolicy, not {type(policy).__name__}")
        if progress is not None and not callable(progress):
            raise ValidationError(f"progress must be a function, not {type(progress).__name__}")
        self.policy = policy
        self.dry_run = flag(dry_run, "dry_run")
        self.done = dict.fromkeys(_STEPS, 0)
        self.errors: list[Failure] = []
        self.at = now()
        self.exempt = {
            "exempt_statuses": tuple(str(status) for status in policy.exempt_statuses),
            "exempt_tags": tuple(policy.exempt_tags),
        }
        self.first_types = tuple(
            str(type) for type in policy.prune_event_types_first if type not in PROTECTED_TYPES
        )
        self._progress = progress

    @property
    def due_until(self) -> datetime | None:
        """Since when at the latest a session must be soft-deleted to be due for the hard way."""
        return _ago(self.at, self.policy.hard_delete_after_days)

    def advance(self, step: str, number: int) -> Procedure[None]:
        """Count what was done, and tell whoever wants to know."""
        self.done[step] += number
        if self._progress is not None:
            yield from result_of(Work(partial(self._progress, step, self.done[step])))

    def archived(self, step: str, session_id: str) -> Procedure[SessionExport | None]:
        """The session as it was archived, or None where it could not be."""
        try:
            export = yield from result_of(export_session(session_id, include_artifacts=True))
        except SessionNotFound:
            return None
        try:
            yield from result_of(_archiving(self.policy.archive, export))
        except Exception as error:
            self._note(Failure(step, error, session_id))
            return None
        return export

    def _note(self, failure: Failure) -> None:
        self.errors.append(failure)
        failures = sum(1 for each in self.errors if each.step == failure.step)
        if failures == ARCHIVING_FAILURES_MAX:
            raise AsmError(
                f"{failures} sessions could not be archived, so no more were tried"
            ) from failure.error


def _archiving(archive: Any, export: SessionExport) -> Work[object]:
    if callable(archive):
        return Work(partial(archive, export))
    return Work(partial(archives.keep, Path(archive), export), blocks=True)


def _execute(job: _Job) -> Procedure[MaintenanceReport]:
    started = time.monotonic()
    for step in _STEPS:
        yield from _tried(step, job)
    duration_ms = round((time.monotonic() - started) * 1_000)
    return MaintenanceReport(**job.done, duration_ms=duration_ms, errors=job.errors)


def _tried(step: str, job: _Job) -> Procedure[None]:
    try:
        yield from _STEPS[step](job)
    except StoreClosed:
        # There is nothing left to try.
        raise
    except Exception as error:
        job.errors.append(Failure(step, error))


def _alone(step: str, job: _Job) -> Procedure[int]:
    yield from _STEPS[step](job)
    return _all_right(step, job)


def _all_right(step: str, job: _Job) -> int:
    if job.errors:
        raise job.errors[0].error
    return job.done[step]


def _in_batches(
    find: Callable[[Row | None], Ask[Rows]], take: Callable[[Rows], Procedure[None]]
) -> Procedure[None]:
    """Take what is found, a batch at a time; what was found last says where the next one begins."""
    last: Row | None = None
    while found := (yield from result_of(find(last))):
        yield from take(found)
        last = found[-1]


# Soft-deleting.


def _soft_delete(job: _Job) -> Procedure[None]:
    for status, until in _expiries(job):
        wanted = {"status": status, "until": until, "exempt_tags": job.exempt["exempt_tags"]}
        yield from _in_batches(
            partial(_find_aged, job, "find_expired_sessions", wanted),
            partial(_soft_delete_batch, job, wanted),
        )


def _expiries(job: _Job) -> Iterator[tuple[str, datetime]]:
    """The statuses in which sessions expire, and when at the latest those that do were updated last."""
    policy = job.policy
    for status in SessionStatus:
        ended_days = policy.max_completed_session_age_days if status in _ENDED else None
        ages = [days for days in (policy.max_session_age_days, ended_days) if days is not None]
        until = _ago(job.at, min(ages, default=None))
        if until is not None and status not in policy.exempt_statuses:
            yield str(status), until


def _find_aged(job: _Job, query: str, wanted: Mapping[str, Any], last: Row | None) -> Ask[Rows]:
    last_at, last_id = last or (None, None)
    params = {**wanted, "last_at": last_at, "last_id": last_id, "limit": job.policy.batch_size}
    # How many are of a status and how many are old decides which index serves.
    return Ask(query, params, _rows, prepare=False)


def _soft_delete_batch(job: _Job, wanted: Mapping[str, Any], found: Rows) -> Procedure[None]:
    number = len(found)
    if not job.dry_run:
        params = {**wanted, "session_ids": tuple(id for _, id in found), "at": job.at}
        number = yield from result_of(Ask("soft_delete_sessions", params, len))
    yield from job.advance("sessions_soft_deleted", number)


# Hard-deleting.


def _hard_delete(job: _Job) -> Procedure[None]:
    if job.due_until is not None:
        due = {"due_until": job.due_until, **job.exempt}
        yield from _in_batches(
            partial(_find_aged, job, "find_due_sessions", due), partial(_hard_delete_batch, job, due)
        )


def _hard_delete_batch(job: _Job, due: Mapping[str, Any], found: Rows) -> Procedure[None]:
    session_ids = [id for _, id in found]
    if job.dry_run:
        yield from job.advance("sessions_hard_deleted", len(session_ids))
    elif job.policy.archive is None:
        counters = yield from result_of(find_counters(session_ids))
        for portion, size in _portions(session_ids, counters):
            if size > EVENTS_PER_TRANSACTION:
                yield from _thinned(due, portion[0])
            yield from _hard_delete_now(job, due, portion)
    else:
        for session_id in session_ids:
            export = yield from job.archived("sessions_hard_deleted", session_id)
            if export is not None:
                if len(export.events) > EVENTS_PER_TRANSACTION:
                    export = yield from _thinned(due, session_id, export)
                yield from _hard_delete_now(job, due, [session_id], export)


def _portions(session_ids: Iterable[str], counters: Mapping[str, Counter]) -> Iterator[tuple[list[str], int]]:
    """Sessions with no more events together than a short transaction deletes, or a single one; how many."""
    portion: list[str] = []
    size = 0
    for session_id in session_ids:
        more = counters.get(session_id, Counter(0, 0)).stored
        if portion and size + more > EVENTS_PER_TRANSACTION:
            yield portion, size
            portion, size = [], 0
        portion.append(session_id)
        size += more
    if portion:
        yield portion, size


def _hard_delete_now(
    job: _Job, due: Mapping[str, Any], session_ids: Sequence[str], archived: SessionExport | None = None
) -> Procedure[None]:
    number = yield from result_of(Steps(partial(_delete, due, session_ids, archived)))
    yield from job.advance("sessions_hard_deleted", number)


def _thinned(
    due: Mapping[str, Any], session_id: str, archived: SessionExport | None = None
) -> Procedure[SessionExport | None]:
    """Leave as many of a session's last events as a short transaction deletes, and of its archive."""
    while gone := (yield from result_of(Steps(partial(_thin, due, session_id, archived)))):
        if archived is not None:
            archived = replace(
                archived, events=archived.events[gone:], pruned_events=archived.pruned_events + gone
            )
    return archived


def _thin(due: Mapping[str, Any], session_id: str, archived: SessionExport | None) -> Plan[int]:
    """Delete the first events of a session that has more than a short transaction deletes, and say how many.

    They count as pruned: who stops here leaves a session that is as healthy as any other.
    """
    counters = yield from _hold_counters([session_id])
    counter = counters.get(session_id, Counter(0, 0))
    number = min(counter.stored - EVENTS_PER_TRANSACTION, EVENTS_PER_TRANSACTION)
    if number <= 0 or not (yield from _hold_due(due, [session_id])):
        return 0
    if archived is not None:
        stands = yield from get_events(session_id, limit=number)
        if stands != archived.events[:number]:
            return 0
    yield from _prune_events({session_id: number}, {session_id: counter.last_sequence})
    return number


def _delete(due: Mapping[str, Any], session_ids: Sequence[str], archived: SessionExport | None) -> Plan[int]:
    # The counters first, as in delete_session: whoever appends at this moment either is done and
    # goes with the rest, or waits for us and starts again at 1.
    yield from lock_counters(session_ids)
    held = yield from _hold_due(due, session_ids)
    if held and archived is not None:
        # What is deleted must be what was archived.
        stands = yield from export_session(archived.session.id, include_artifacts=True)
        if stands != archived:
            return 0
    yield from Ask("delete_sessions", {"session_ids": held}, nothing)
    return len(held)


def _hold_due(due: Mapping[str, Any], session_ids: Sequence[str]) -> Ask[tuple[str, ...]]:
    """Those that still are due, held still until the transaction ends."""
    return Ask("hold_due_sessions", {"session_ids": tuple(session_ids), **due}, _ids)


# Pruning.


class _Share(NamedTuple):
    """So many events of a session may go at most, up to a number, if it stands as it was seen."""

    session_id: str
    upto: int
    pruned: int
    most: int = _ANY_NUMBER

    def stands(self, counters: Mapping[str, Counter]) -> bool:
        """Whether no other has pruned the session since, nor has it begun anew."""
        counter = counters.get(self.session_id, Counter(0, 0))
        return counter.last_sequence >= self.upto and counter.pruned_events == self.pruned


def _prune(job: _Job) -> Procedure[None]:
    prunable = {"due_until": job.due_until, **job.exempt}
    yield from _prune_long(job, {**prunable, "session_id": None})
    yield from _prune_total(job, prunable)


def _prune_one(job: _Job, session_id: str) -> Procedure[int]:
    yield from _prune_long(job, {"due_until": None, **job.exempt, "session_id": session_id})
    return _all_right("events_pruned", job)


def _prune_long(job: _Job, prunable: Mapping[str, Any]) -> Procedure[None]:
    keep = job.policy.max_events_per_session
    if keep is not None:
        yield from _in_batches(
            partial(_find_long, job, {**prunable, "keep": keep}), partial(_prune_batch, job, keep)
        )


def _find_long(job: _Job, prunable: Mapping[str, Any], last: Row | None) -> Ask[Rows]:
    params = {
        **prunable,
        "saved": _saved(job),
        "after": None if last is None else last[0],
        "limit": job.policy.batch_size,
    }
    return Ask("find_long_sessions", params, _rows)


def _prune_batch(job: _Job, keep: int, found: Rows) -> Procedure[None]:
    shares: Sequence[_Share] = [_Share(*row) for row in found]
    if job.dry_run or job.policy.archive is not None:
        # A session of which nothing may go is not worth an archive.
        numbers = yield from result_of(_count_prunable(job, keep, shares))
        shares = [
            share._replace(most=numbers[share.session_id]) for share in shares if share.session_id in numbers
        ]
    if job.dry_run:
        yield from job.advance("events_pruned", sum(share.most for share in shares))
        return
    shares = yield from _archived_shares(job, shares)
    while shares:
        most = max(1, EVENTS_PER_TRANSACTION // len(shares))
        gone = yield from _prune_now(job, keep, [share._replace(most=most) for share in shares])
        shares = [
            share._replace(pruned=share.pruned + most)
            for share in shares
            if gone.get(share.session_id) == most
        ]


def _archived_shares(job: _Job, shares: Sequence[_Share]) -> Procedure[Sequence[_Share]]:
    """Of those that could be archived, what may go now: nothing that came after."""
    if job.policy.archive is None:
        return shares
    archived = []
    for share in shares:
        export = yield from job.archived("events_pruned", share.session_id)
        if export is not None:
            archived.append(share._replace(upto=export.last_sequence))
    return archived


def _prune_now(job: _Job, keep: int, shares: Sequence[_Share]) -> Procedure[dict[str, int]]:
    gone = yield from result_of(Steps(partial(_take, job, keep, shares)))
    yield from job.advance("events_pruned", sum(gone.values()))
    return gone


def _take(job: _Job, keep: int, shares: Sequence[_Share]) -> Plan[dict[str, int]]:
    counters = yield from _hold_counters(share.session_id for share in shares)
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
) -> Ask[None]:
    """Delete so many of each session's events up to a number, the oldest, and keep how many. They exist."""
    params = {
        "session_ids": list(numbers),
        "uptos": [uptos[session_id] for session_id in numbers],
        "numbers": list(numbers.values()),
        "first_types": tuple(first),
        "protected_types": tuple(never),
    }
    return Ask("prune_events", params, nothing)


def _count_prunable(job: _Job, keep: int, shares: Sequence[_Share]) -> Ask[dict[str, int]]:
    """Of which of the sessions how many events may go; none of the others."""
    params = {
        "session_ids": [share.session_id for share in shares],
        "uptos": [share.upto for share in shares],
        "mosts": [share.most for share in shares],
        "keep": keep,
        "protected_types": PROTECTED_TYPES,
        "exempt_tags": job.exempt["exempt_tags"],
    }
    return Ask("count_prunable", params, lambda rows: {id: number for id, number in rows if number})


def _prune_total(job: _Job, prunable: Mapping[str, Any]) -> Procedure[None]:
    if job.policy.max_total_events is None:
        return
    excess = yield from result_of(_count_excess(job, prunable))
    if job.dry_run:
        yield from _count_total(job, prunable, excess)
        return
    rest = (*job.first_types, *PROTECTED_TYPES)
    excess -= yield from _prune_oldest(job, prunable, {"types": job.first_types, "not_types": None}, excess)
    yield from _prune_oldest(job, prunable, {"types": None, "not_types": rest}, excess)


def _count_total(job: _Job, prunable: Mapping[str, Any], excess: int) -> Procedure[None]:
    # What pruning each session would take is still there, and is among what may go.
    counted = job.done["events_pruned"]
    if excess > counted:
        params = {**prunable, "saved": _saved(job), "not_types": PROTECTED_TYPES, "limit": excess}
        number = yield from result_of(Ask("count_oldest", params, first))
        yield from job.advance("events_pruned", number - counted)


def _prune_oldest(
    job: _Job, prunable: Mapping[str, Any], wanted: Mapping[str, Any], most: int
) -> Procedure[int]:
    """Prune the oldest of all events that are wanted, so many at most, and say how many went."""
    gone, since = 0, None
    # Not until nothing is too many: while others append, that may never be.
    while gone < most:
        limit = min(most - gone, EVENTS_PER_TRANSACTION)
        params = {**prunable, **wanted, "since": since, "saved": _saved(job), "limit": limit}
        found = yield from result_of(Steps(partial(_find_oldest, job, prunable, params), snapshot=True))
        number = yield from _prune_shares(job, [_Share(*row[:4]) for row in found])
        if not number:
            break
        gone += number
        since = max(row[4] for row in found)
    return gone


def _find_oldest(job: _Job, prunable: Mapping[str, Any], params: Mapping[str, Any]) -> Plan[Rows]:
    # How many are too many, and which are the oldest, as of one moment: where another run prunes
    # at the same time, either we know, or the session no longer stands as it was seen.
    excess = yield from _count_excess(job, prunable)
    limit = min(excess, params["limit"])
    return (yield from Ask("find_oldest", {**params, "limit": limit}, _rows)) if limit > 0 else []


def _count_excess(job: _Job, prunable: Mapping[str, Any]) -> Ask[int]:
    """How many events more there are than all sessions together may have."""
    bound = job.policy.max_total_events or 0
    return Ask("count_stored", prunable, lambda rows: rows[0][0] - bound)


def _prune_shares(job: _Job, shares: Sequence[_Share]) -> Procedure[int]:
    number = 0
    for start in range(0, len(shares), job.policy.batch_size):
        batch = yield from _archived_shares(job, shares[start : start + job.policy.batch_size])
        gone = yield from _prune_now(job, 0, batch)
        number += sum(gone.values())
    return number


def _saved(job: _Job) -> bool | None:
    """Only sessions that have a row can be archived."""
    return None if job.policy.archive is None else True


def _hold_counters(session_ids: Iterable[str]) -> Ask[dict[str, Counter]]:
    """The counters of those that have one, held still until the transaction ends."""
    return Ask("hold_counters", {"session_ids": tuple(session_ids)}, read_counters)


# Cleaning up.


def _clean_artifacts(job: _Job) -> Procedure[None]:
    yield from _in_batches(
        partial(_find_orphans, job, "find_orphaned_artifacts"), partial(_clean_artifacts_batch, job)
    )


def _clean_artifacts_batch(job: _Job, found: Rows) -> Procedure[None]:
    number = sum(number for _, number in found)
    if not job.dry_run:
        params = {"session_ids": tuple(id for id, _ in found)}
        number = yield from result_of(Ask("delete_orphaned_artifacts", params, len))
    yield from job.advance("artifacts_cleaned", number)


def _clean_sequences(job: _Job) -> Procedure[None]:
    yield from _in_batches(
        partial(_find_orphans, job, "find_orphaned_counters"), partial(_clean_sequences_batch, job)
    )


def _clean_sequences_batch(job: _Job, found: Rows) -> Procedure[None]:
    number = len(found)
    if not job.dry_run:
        number = yield from result_of(Steps(partial(_delete_counters, _ids(found))))
    yield from job.advance("orphaned_sequences_cleaned", number)


def _delete_counters(session_ids: tuple[str, ...]) -> Plan[int]:
    # Locked, and looked at again in a statement after that: an append that was under way has
    # left its event by then.
    yield from _hold_counters(session_ids)
    return (yield from Ask("delete_orphaned_counters", {"session_ids": session_ids}, len))


def _find_orphans(job: _Job, query: str, last: Row | None) -> Ask[Rows]:
    params = {"after": None if last is None else last[0], "limit": job.policy.batch_size}
    return Ask(query, params, _rows)


def _rows(rows: Rows) -> Rows:
    return rows


def _ids(rows: Rows) -> tuple[str, ...]:
    return tuple(id for (id,) in rows)


def _positive(value: Any, name: str) -> int:
    number = count(value, name)
    if number == 0:
        raise ValidationError(f"{name} must be at least 1, not 0", path=name)
    return number


def _ago(at: datetime, days: int | None) -> datetime | None:
    """So many days before a moment; the beginning of time where there is no such day."""
    if days is None:
        return None
    try:
        return at - timedelta(days=days)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


_STEPS: dict[str, Callable[[_Job], Procedure[None]]] = {
    "sessions_soft_deleted": _soft_delete,
    "sessions_hard_deleted": _hard_delete,
    "events_pruned": _prune,
    "artifacts_cleaned": _clean_artifacts,
    "orphaned_sequences_cleaned": _clean_sequences,
}
