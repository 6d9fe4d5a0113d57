"""One run of the retention policy: what it asks for, how far it has come, and how it reads in batches."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from asm.engine.jobs import Callback, Job, run_step
from asm.engine.script import Query, Row, Rows
from asm.errors import AsmError, SessionNotFound, ValidationError
from asm.formats import archives
from asm.maintenance.policy import PROTECTED_TYPES, Failure, Progress, RetentionPolicy
from asm.models import now
from asm.operations.exports import SessionExport, export_session
from asm.validation import flag

EVENTS_PER_TRANSACTION = 10_000
"""So many events at most go in one transaction. Of a session with more, the first go before it."""

STEPS = (
    "sessions_soft_deleted",
    "sessions_hard_deleted",
    "events_pruned",
    "artifacts_cleaned",
    "orphaned_sequences_cleaned",
)
"""The steps of a run in their order, named as the report counts them."""

ARCHIVING_FAILURES_MAX = 10
"""So many sessions that cannot be archived end a step: a full disk fails every one of them."""


class MaintenanceRun:
    """One time through a policy: what it asks for, and how far it has come."""

    def __init__(
        self, policy: RetentionPolicy, *, dry_run: bool = False, progress: Progress | None = None
    ) -> None:
        if not isinstance(policy, RetentionPolicy):
            raise ValidationError(f"policy must be a RetentionPolicy, not {type(policy).__name__}")
        if progress is not None and not callable(progress):
            raise ValidationError(f"progress must be a function, not {type(progress).__name__}")
        self.policy = policy
        self.dry_run = flag(dry_run, "dry_run")
        self.done = dict.fromkeys(STEPS, 0)
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
        return ago(self.at, self.policy.hard_delete_after_days)

    def advance(self, step: str, number: int) -> Job[None]:
        """Count what was done, and tell whoever wants to know."""
        self.done[step] += number
        if self._progress is not None:
            yield from run_step(Callback(partial(self._progress, step, self.done[step])))

    def archived(self, step: str, session_id: str) -> Job[SessionExport | None]:
        """The session as it was archived, or None where it could not be."""
        try:
            export = yield from run_step(export_session(session_id, include_artifacts=True))
        except SessionNotFound:
            return None
        try:
            yield from run_step(archiving(self.policy.archive, export))
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


def archiving(archive: Any, export: SessionExport) -> Callback[object]:
    if callable(archive):
        return Callback(partial(archive, export))
    return Callback(partial(archives.archive_session, Path(archive), export), blocks=True)


def raise_or_count(step: str, job: MaintenanceRun) -> int:
    if job.errors:
        raise job.errors[0].error
    return job.done[step]


def in_batches(find: Callable[[Row | None], Query[Rows]], take: Callable[[Rows], Job[None]]) -> Job[None]:
    """Take what is found, a batch at a time; what was found last says where the next one begins."""
    last: Row | None = None
    while found := (yield from run_step(find(last))):
        yield from take(found)
        last = found[-1]


def all_rows(rows: Rows) -> Rows:
    return rows


def ids(rows: Rows) -> tuple[str, ...]:
    return tuple(id for (id,) in rows)


def ago(at: datetime, days: int | None) -> datetime | None:
    """So many days before a moment; the beginning of time where there is no such day."""
    if days is None:
        return None
    try:
        return at - timedelta(days=days)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
