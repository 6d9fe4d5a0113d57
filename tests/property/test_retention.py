"""Maintenance agrees with a model of a few lines of Python, and a dry run predicts it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import asm
from asm.maintenance.policy import PROTECTED_TYPES
from tests.conftest import Where, an_artifact, an_event
from tests.contract.other_clients import fetch_rows
from tests.contract.retention_data import a_session, all_rows, counts, days_ago

SAVED, UNSAVED = ["ses_1", "ses_2", "ses_3"], ["alone_1", "alone_2"]
TYPES = ["message_streamed", "message_sent", "token_usage_updated", "session_created", "acme.plan"]
DAYS = st.integers(0, 5)
BOUND = st.one_of(st.none(), st.integers(1, 6))


@dataclass
class ModelSession:
    """A session in the model. Without a status it has no row."""

    id: str
    status: str | None
    tags: tuple[str, ...]
    updated_days_ago: int
    deleted_days_ago: int | None
    has_run: bool
    artifact_hours: float | None
    """The age of its artifact, None if it has none."""
    events: list[tuple[int, int, str]]
    """Age in days, sequence number and type of each; the oldest first."""
    has_counter: bool = field(init=False)
    pruned: int = 0

    def __post_init__(self) -> None:
        self.has_counter = bool(self.events)

    def is_exempt(self, policy: asm.RetentionPolicy) -> bool:
        return self.status in policy.exempt_statuses or self.is_tagged(policy)

    def is_tagged(self, policy: asm.RetentionPolicy) -> bool:
        return bool({*self.tags} & {*policy.exempt_tags})

    def has_orphaned_artifact(self) -> bool:
        is_missing = self.status is None and not self.events and not self.pruned and not self.has_run
        return is_missing and self.artifact_hours is not None and self.artifact_hours > 1


# Strategies.


@st.composite
def sessions(draw: st.DrawFn) -> list[ModelSession]:
    def a_model_session(id: str) -> ModelSession:
        is_saved = id in SAVED
        ages = sorted(draw(st.lists(st.integers(0, 30), max_size=7)), reverse=True)
        return ModelSession(
            id=id,
            status=draw(st.sampled_from(["completed", "failed", "active", "pending"])) if is_saved else None,
            tags=draw(st.sampled_from([(), ("pinned",), ("x", "y")])) if is_saved else (),
            updated_days_ago=draw(DAYS),
            deleted_days_ago=draw(st.one_of(st.none(), DAYS)) if is_saved else None,
            has_run=draw(st.booleans()),
            artifact_hours=draw(st.sampled_from([None, 0.9, 1.1])),
            events=[(age, number, draw(st.sampled_from(TYPES))) for number, age in enumerate(ages, 1)],
        )

    return [a_model_session(id) for id in draw(st.sets(st.sampled_from(SAVED + UNSAVED), min_size=1))]


def policies() -> st.SearchStrategy[asm.RetentionPolicy]:
    return st.builds(
        asm.RetentionPolicy,
        max_session_age_days=BOUND,
        max_completed_session_age_days=BOUND,
        hard_delete_after_days=BOUND,
        max_events_per_session=BOUND,
        max_total_events=st.one_of(st.none(), st.integers(1, 25)),
        exempt_statuses=st.sampled_from([(), ("active", "paused"), ("completed",)]),
        exempt_tags=st.sampled_from([(), ("pinned",), ("pinned", "y")]),
        prune_event_types_first=st.sampled_from([(), ("token_usage_updated", "session_created")]),
        archive=st.sampled_from([None, lambda export: None]),
        batch_size=st.integers(1, 3),
    )


# The model.


def maintain(model: list[ModelSession], policy: asm.RetentionPolicy) -> dict[str, int]:
    """Run a policy on the model. Returns the numbers of the report."""
    numbers = {"sessions_soft_deleted": sum(soft_delete(session, policy) for session in model)}
    numbers["sessions_hard_deleted"] = hard_delete(model, policy)
    numbers["events_pruned"] = sum(prune(session, policy) for session in model) + prune_total(model, policy)
    orphaned = [session for session in model if session.has_orphaned_artifact()]
    numbers["artifacts_cleaned"] = len(orphaned)
    for session in orphaned:
        session.artifact_hours = None
    numbers["orphaned_sequences_cleaned"] = 0
    return numbers


def soft_delete(session: ModelSession, policy: asm.RetentionPolicy) -> bool:
    ended = policy.max_completed_session_age_days if session.status in ("completed", "failed") else None
    ages = [days for days in (policy.max_session_age_days, ended) if days is not None]
    if (
        session.status is None
        or session.deleted_days_ago is not None
        or session.is_exempt(policy)
        or not ages
    ):
        return False
    if session.updated_days_ago >= min(ages):
        session.deleted_days_ago = -1
    return session.deleted_days_ago is not None


def hard_delete(model: list[ModelSession], policy: asm.RetentionPolicy) -> int:
    due = [session for session in model if is_due(session, policy)]
    for session in due:
        model.remove(session)
    return len(due)


def is_due(session: ModelSession, policy: asm.RetentionPolicy) -> bool:
    days = policy.hard_delete_after_days
    return (
        days is not None
        and session.deleted_days_ago is not None
        and session.deleted_days_ago >= days
        and not session.is_exempt(policy)
    )


def prune(session: ModelSession, policy: asm.RetentionPolicy) -> int:
    keep = policy.max_events_per_session
    if keep is None:
        return 0
    return prune_oldest([session], policy, len(session.events) - keep)


def prune_total(model: list[ModelSession], policy: asm.RetentionPolicy) -> int:
    keep = policy.max_total_events
    if keep is None:
        return 0
    return prune_oldest(model, policy, sum(len(session.events) for session in model) - keep)


def prune_oldest(model: Iterable[ModelSession], policy: asm.RetentionPolicy, limit: int) -> int:
    """Remove at most this many events: the types to prune first, then the rest, the oldest first."""
    prunable = [
        (event[2] not in policy.prune_event_types_first, -event[0], session.id, event[1], session, event)
        for session in model
        if not session.is_tagged(policy) and (session.status is not None or policy.archive is None)
        for event in session.events
        if event[2] not in PROTECTED_TYPES
    ]
    pruned = sorted(prunable, key=lambda each: each[:4])[: max(0, limit)]
    for *_, session, event in pruned:
        session.events.remove(event)
        session.pruned += 1
    return len(pruned)


# The store.


def test_maintenance_agrees_with_a_model_and_a_dry_run_predicts_it(store: Any, where: Where) -> None:
    @settings(max_examples=25)
    @given(sessions(), policies())
    def check(model: list[ModelSession], policy: asm.RetentionPolicy) -> None:
        save(store, model)
        before = all_rows(where)

        dry = store.maintenance.execute(policy, dry_run=True)
        assert (dry.errors, all_rows(where)) == ([], before)
        done = store.maintenance.execute(policy)

        assert (done.errors, counts(done)) == ([], maintain(model, policy))
        assert counts(dry) == counts(done)
        assert stored_rows(where) == model_rows(model)
        assert not any(counts(store.maintenance.execute(policy)).values())

    check()


def save(store: Any, model: list[ModelSession]) -> None:
    for id in SAVED + UNSAVED:
        store.delete_session(id)
    with store.transaction() as tx:
        for each in model:
            if each.status is not None:
                deleted = None if each.deleted_days_ago is None else each.deleted_days_ago + 0.5
                tx.save_session(
                    a_session(
                        each.id,
                        updated_days_ago=each.updated_days_ago + 0.5,
                        deleted_days_ago=deleted,
                        status=each.status,
                        tags=each.tags,
                    )
                )
            if each.has_run:
                tx.save_run(asm.Run(session_id=each.id, status="completed"))
            if each.artifact_hours is not None:
                created_at = datetime.now(UTC) - timedelta(hours=each.artifact_hours)
                tx.artifacts.register(an_artifact(each.id, session_id=each.id, created_at=created_at))
            tx.append_events(an_event(each.id, type, timestamp=days_ago(age)) for age, _, type in each.events)


def stored_rows(where: Where) -> list[Any]:
    """The rows of a store, as `model_rows` has those of the model."""
    return [
        fetch_rows(where.dsn, "select id, deleted_at is not null from asm_sessions order by id"),
        fetch_rows(where.dsn, "select session_id, sequence_number from asm_events order by 1, 2"),
        fetch_rows(where.dsn, "select session_id, pruned_events from asm_session_sequences order by 1"),
        fetch_rows(where.dsn, "select session_id from asm_runs order by 1"),
        fetch_rows(where.dsn, "select session_id from asm_artifacts order by 1"),
    ]


def model_rows(model: list[ModelSession]) -> list[Any]:
    model = sorted(model, key=lambda each: each.id)
    return [
        [(each.id, each.deleted_days_ago is not None) for each in model if each.status is not None],
        [(each.id, number) for each in model for _, number, _ in each.events],
        [(each.id, each.pruned) for each in model if each.has_counter],
        [(each.id,) for each in model if each.has_run],
        [(each.id,) for each in model if each.artifact_hours is not None],
    ]
