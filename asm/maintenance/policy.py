"""The retention policy, and the report of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from asm.errors import ValidationError
from asm.models import EventType, SessionStatus, session_status
from asm.operations.events import types
from asm.operations.exports import SessionExport
from asm.reprs import ResultRepr
from asm.shown import message
from asm.validation import check_tags, count, texts

PROTECTED_TYPES = (
    str(EventType.SESSION_CREATED),
    str(EventType.RUN_STARTED),
    str(EventType.RUN_COMPLETED),
    str(EventType.RUN_FAILED),
    str(EventType.ERROR_OCCURRED),
)
"""Events of these types are never pruned."""

ENDED_STATUSES = (SessionStatus.COMPLETED, SessionStatus.FAILED, SessionStatus.CANCELLED)

Archive: TypeAlias = "str | os.PathLike[str] | Callable[[SessionExport], object]"
Progress: TypeAlias = "Callable[[str, int], object]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long sessions are kept, and how many events. None is no limit.

    Completed, failed and cancelled sessions are soft-deleted when they were not updated for
    `max_completed_session_age_days`, any session when it was not updated for
    `max_session_age_days`. A soft-deleted session is hard-deleted after `hard_delete_after_days`.
    Sessions in one of the `exempt_statuses` or with one of the `exempt_tags` are not deleted.

    Each session keeps `max_events_per_session` events, and all sessions together keep
    `max_total_events`, not counting sessions that are due for hard deletion. Events of the types
    `prune_event_types_first` are pruned first, oldest first, then the oldest of the rest. Events of
    the types session_created, run_started, run_completed, run_failed and error_occurred are never
    pruned. A session with an exempt tag keeps all its events; a session in an exempt status is
    pruned like others, because active sessions are the ones that grow.

    `archive` is a folder, which gets a `.jsonl.gz` file for each session, or a function that is
    called with the SessionExport of a session before any of its rows are hard-deleted or pruned. If
    archiving fails, or the session has no row, nothing of it is deleted. An AsyncSessionStore also
    takes an async function.

    `batch_size` is the maximum number of sessions in one transaction.
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
        for name in _LIMITS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, count(getattr(self, name), name, minimum=1))
        object.__setattr__(self, "batch_size", count(self.batch_size, "batch_size", minimum=1))
        statuses = texts(self.exempt_statuses, "exempt_statuses")
        object.__setattr__(self, "exempt_statuses", tuple(map(session_status, statuses)))
        object.__setattr__(self, "exempt_tags", check_tags(self.exempt_tags, "exempt_tags"))
        first_types = texts(self.prune_event_types_first, "prune_event_types_first")
        object.__setattr__(self, "prune_event_types_first", types(first_types))
        if not (callable(self.archive) or isinstance(self.archive, str | os.PathLike | None)):
            raise ValidationError(
                f"archive must be a folder or a function, not {type(self.archive).__name__}", path="archive"
            )


_LIMITS = (
    "max_session_age_days",
    "max_completed_session_age_days",
    "hard_delete_after_days",
    "max_events_per_session",
    "max_total_events",
)


@dataclass(frozen=True, slots=True, repr=False)
class Failure(ResultRepr):
    """An error of a run. `step` is the field of the report that would have counted what failed."""

    step: str
    error: Exception
    session_id: str | None = None

    def __str__(self) -> str:
        where = "" if self.session_id is None else f" of session {self.session_id!r}"
        return message(f"{self.step}{where}: {self.error}")

    def to_dict(self) -> dict[str, Any]:
        return {"step": self.step, "session_id": self.session_id, "message": message(str(self.error))}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class MaintenanceReport(ResultRepr):
    """What a run did, or with `dry_run` would do. `errors` lists the failures."""

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
