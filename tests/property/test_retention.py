"""Maintenance does to any store what a few lines of Python say, and a dry run foretells it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
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
class Kept:
    """What is kept of a session. Without a status it has no row."""

    id: str
    status: str | None
    tags: tuple[str, ...]
    untouched: int
    deleted: int | None
    has_run: bool
    has_artifact: bool
    events: list[tuple[int, int, str]]
    """Days since, sequence number, type; the oldest first."""
    has_counter: bool = field(init=False)
    pruned: int = 0

    def __post_init__(self) -> None:
        self.has_counter = bool(self.events)

    def is_exempt(self, policy: asm.RetentionPolicy) -> bool:
        return self.status in policy.exempt_statuses or self.is_tagged(policy)

    def is_tagged(self, policy: asm.RetentionPolicy) -> bool:
        return bool({*self.tags} & {*policy.exempt_tags})

    def is_orphaned(self) -> bool:
        return self.status is None and not self.events and not self.pruned


# What a store may hold, and what a policy may want.


@st.composite
def sessions(draw: st.DrawFn) -> list[Kept]:
    def a_kept(id: str) -> Kept:
        is_saved = id in SAVED
        ages = sorted(draw(st.lists(st.integers(0, 30), max_size=7)), reverse=True)
        return Kept(
            id=id,
            status=draw(st.sampled_from(["completed", "failed", "active", "pending"])) if is_saved else None,
            tags=draw(st.sampled_from([(), ("pinned",), ("x", "y")])) if is_saved else (),
            updated_days_ago=draw(DAYS),
            deleted=draw(st.one_of(st.none(), DAYS)) if is_saved else None,
            has_run=draw(st.booleans()),
            has_artifact=draw(st.booleans()),
            events=[(age, number, draw(st.sampled_from(TYPES))) for number, age in enumerate(ages, 1)],
        )

    return [a_kept(id) for id in draw(st.sets(st.sampled_from(SAVED + UNSAVED), min_size=1))]


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


# The few lines.


def maintained(kept: list[Kept], policy: asm.RetentionPolicy) -> dict[str, int]:
    """Maintain what is kept, and say the numbers."""
    numbers = {"sessions_soft_deleted": sum(soft_deleted(session, policy) for session in kept)}
    numbers["sessions_hard_deleted"] = hard_deleted(kept, policy)
    numbers["events_pruned"] = sum(pruned(session, policy) for session in kept) + pruned_total(kept, policy)
    cleaned = [each for each in kept if each.has_artifact and each.is_orphaned() and not each.has_run]
    numbers["artifacts_cleaned"] = len(cleaned)
    for session in cleaned:
        session.has_artifact = False
    numbers["orphaned_sequences_cleaned"] = 0
    return numbers


def soft_deleted(session: Kept, policy: asm.RetentionPolicy) -> bool:
    ended = policy.max_completed_session_age_days if session.status in ("completed", "failed") else None
    ages = [days for days in (policy.max_session_age_days, ended) if days is not None]
    if session.status is None or session.deleted is not None or session.is_exempt(policy) or not ages:
        return False
    if session.untouched >= min(ages):
        session.deleted = -1
    return session.deleted is not None


def hard_deleted(kept: list[Kept], policy: asm.RetentionPolicy) -> int:
    due = [session for session in kept if is_due(session, policy)]
    for session in due:
        kept.remove(session)
    return len(due)


def is_due(session: Kept, policy: asm.RetentionPolicy) -> bool:
    days = policy.hard_delete_after_days
    return (
        days is not None
        and session.deleted is not None
        and session.deleted >= days
        and not session.is_exempt(policy)
    )


def pruned(session: Kept, policy: asm.RetentionPolicy) -> int:
    most = policy.max_events_per_session
    if most is None:
        return 0
    return taken([session], policy, len(session.events) - most)


def pruned_total(kept: list[Kept], policy: asm.RetentionPolicy) -> int:
    most = policy.max_total_events
    if most is None:
        return 0
    return taken(kept, policy, sum(len(session.events) for session in kept) - most)


def taken(kept: Iterable[Kept], policy: asm.RetentionPolicy, most: int) -> int:
    """Take so many events at most: the types that go first, then the rest, the oldest first."""
    loose = [
        (event[2] not in policy.prune_event_types_first, -event[0], session.id, event[1], session, event)
        for session in kept
        if not session.is_tagged(policy) and (session.status is not None or policy.archive is None)
        for event in session.events
        if event[2] not in PROTECTED_TYPES
    ]
    going = sorted(loose, key=lambda each: each[:4])[: max(0, most)]
    for *_, session, event in going:
        session.events.remove(event)
        session.pruned += 1
    return len(going)


# The store.


def test_maintenance_agrees_with_a_model_and_a_dry_run_predicts_it(store: Any, where: Where) -> None:
    @settings(max_examples=25)
    @given(sessions(), policies())
    def check(kept: list[Kept], policy: asm.RetentionPolicy) -> None:
        save(store, kept)
        before = all_rows(where)

        dry = store.maintenance.execute(policy, dry_run=True)
        assert (dry.errors, all_rows(where)) == ([], before)
        done = store.maintenance.execute(policy)

        assert (done.errors, counts(done)) == ([], maintained(kept, policy))
        assert counts(dry) == counts(done)
        assert stands(where) == as_told(kept)
        assert not any(counts(store.maintenance.execute(policy)).values())

    check()


def save(store: Any, kept: list[Kept]) -> None:
    for id in SAVED + UNSAVED:
        store.delete_session(id)
    with store.transaction() as tx:
        for each in kept:
            if each.status is not None:
                deleted = None if each.deleted is None else each.deleted + 0.5
                fields: dict[str, Any] = {"status": each.status, "tags": each.tags, "deleted": deleted}
                tx.save_session(a_session(each.id, updated_days_ago=each.untouched + 0.5, **fields))
            if each.has_run:
                tx.save_run(asm.Run(session_id=each.id, status="completed"))
            if each.has_artifact:
                tx.artifacts.register(an_artifact(each.id, session_id=each.id))
            tx.append_events(an_event(each.id, type, timestamp=days_ago(age)) for age, _, type in each.events)


def stands(where: Where) -> list[Any]:
    """What a store holds after it was maintained."""
    return [
        fetch_rows(where.dsn, "select id, deleted_at is not null from asm_sessions order by id"),
        fetch_rows(where.dsn, "select session_id, sequence_number from asm_events order by 1, 2"),
        fetch_rows(where.dsn, "select session_id, pruned_events from asm_session_sequences order by 1"),
        fetch_rows(where.dsn, "select session_id from asm_runs order by 1"),
        fetch_rows(where.dsn, "select session_id from asm_artifacts order by 1"),
    ]


def as_told(kept: list[Kept]) -> list[Any]:
    kept = sorted(kept, key=lambda each: each.id)
    return [
        [(each.id, each.deleted is not None) for each in kept if each.status is not None],
        [(each.id, number) for each in kept for _, number, _ in each.events],
        [(each.id, each.pruned) for each in kept if each.has_counter],
        [(each.id,) for each in kept if each.has_run],
        [(each.id,) for each in kept if each.has_artifact],
    ]
