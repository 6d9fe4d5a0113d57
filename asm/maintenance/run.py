"""One run of a retention policy: its conditions as query parameters, its counts, and its errors.

A step of a run finds rows in batches and processes each batch in a short transaction of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from asm.engine.jobs import Callback, Job, run_step
from asm.engine.script import Query, Row, Rows
from asm.errors import AsmError, SessionNotFound, ValidationError
from asm.maintenance.policy import PROTECTED_TYPES, Failure, Progress, RetentionPolicy
from asm.models import now
from asm.operations.exports import SessionExport, export_session
from asm.validation import flag

EVENTS_PER_TRANSACTION = 10_000
"""A transaction deletes at most this many events. More events of one session need several transactions."""

ARCHIVING_FAILURES_MAX = 10
"""A step ends when it could not archive this many sessions: a full disk fails every one of them."""


class MaintenanceRun:
    """One run of a policy: the conditions of its queries, and its counts and errors so far."""

    def __init__(
        self, policy: RetentionPolicy, *, dry_run: bool = False, progress: Progress | None = None
    ) -> None:
        if not isinstance(policy, RetentionPolicy):
            raise ValidationError(f"policy must be a RetentionPolicy, not {type(policy).__name__}")
        if progress is not None and not callable(progress):
            raise ValidationError(f"progress must be a function, not {type(progress).__name__}")
        self.policy = policy
        self.dry_run = flag(dry_run, "dry_run")
        self.counts: dict[str, int] = {}
        """How many rows each step has processed, by the names of the fields of a MaintenanceReport."""
        self.errors: list[Failure] = []
        self.now = now()
        self.exempt_tags = tuple(policy.exempt_tags)
        self.due = {
            "due_until": days_before(self.now, policy.hard_delete_after_days),
            "exempt_statuses": tuple(str(status) for status in policy.exempt_statuses),
            "exempt_tags": self.exempt_tags,
        }
        """The parameters by which queries recognise a session that is due for hard deletion."""
        self.first_types = tuple(
            str(type) for type in policy.prune_event_types_first if type not in PROTECTED_TYPES
        )
        self.events_per_transaction = EVENTS_PER_TRANSACTION
        self._progress = progress

    @property
    def requires_row(self) -> bool | None:
        """True if only sessions with a row may be pruned, because others cannot be archived."""
        return None if self.policy.archive is None else True

    def advance(self, step: str, number: int) -> Job[None]:
        """Add to the count of a step and report progress."""
        self.counts[step] = self.counts.get(step, 0) + number
        if self._progress is not None:
            yield from run_step(Callback(partial(self._progress, step, self.counts[step])))

    def archive(self, step: str, session_id: str) -> Job[SessionExport | None]:
        """Archive a session. Returns the archived export, None if the session could not be archived."""
        try:
            export = yield from run_step(export_session(session_id, include_artifacts=True))
        except SessionNotFound:
            return None
        except ValidationError as error:
            # Its counter or one of its rows has a value that another program must have written.
            self.errors.append(Failure(step, error, session_id))
            return None
        try:
            yield from run_step(_archiving(self.policy.archive, export))
        except Exception as error:
            self.errors.append(Failure(step, error, session_id))
            self._check_archive(step, error)
            return None
        return export

    def _check_archive(self, step: str, error: Exception) -> None:
        """AsmError if an archive has failed too often, other than by an error that is about one session."""
        if _names_session(error):
            return
        errors = [each.error for each in self.errors if each.step == step]
        failures = sum(not _names_session(each) for each in errors)
        if failures == ARCHIVING_FAILURES_MAX:
            raise AsmError(
                f"{failures} sessions could not be archived; the step stopped without trying the others"
            ) from error


def _names_session(error: Exception) -> bool:
    """Whether an error is about one session: anybody may cause it, and the others can be archived."""
    return isinstance(error, ValidationError) or (
        isinstance(error, AsmError) and "session_id" in error.details
    )


def _archiving(archive: Any, export: SessionExport) -> Callback[object]:
    if callable(archive):
        return Callback(partial(archive, export))
    # Imported here, because few programs write archives.
    from asm.export_files import archives

    return Callback(partial(archives.archive_session, Path(archive), export), blocks=True)


def count_or_raise(run: MaintenanceRun, step: str) -> int:
    """The count of a step that ran alone; its first error is raised."""
    if run.errors:
        raise run.errors[0].error
    return run.counts.get(step, 0)


def in_batches(find: Callable[[Row | None], Query[Rows]], process: Callable[[Rows], Job[None]]) -> Job[None]:
    """Find rows and process them, a batch at a time. `find` is given the last row of the batch before."""
    last: Row | None = None
    while found := (yield from run_step(find(last))):
        yield from process(found)
        last = found[-1]


def all_rows(rows: Rows) -> Rows:
    return rows


def days_before(time: datetime, days: int | None) -> datetime | None:
    """A time this many days earlier; the earliest possible time where the calendar ends before."""
    if days is None:
        return None
    try:
        return time - timedelta(days=days)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
