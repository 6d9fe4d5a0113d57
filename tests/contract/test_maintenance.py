"""Retention: soft and hard deletion, pruning, orphans, and runs of a policy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import asm
from asm.export_files import archives
from asm.maintenance import run
from tests.conftest import Where, an_artifact, an_event, events_of
from tests.contract.other_clients import fetch_rows, needs_triggers
from tests.contract.retention_data import (
    POLICIES,
    PRUNED_FIRST,
    STEPS,
    a_policy,
    a_session,
    age_counters,
    all_rows,
    append_types,
    counts,
    days_ago,
    fill,
    only_pruning,
    pruned_count,
    session_ids,
    soft_deleted_ids,
    stored_numbers,
)

# Soft deletion.


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_an_ended_session_is_soft_deleted_when_it_was_not_updated_for_long_enough(
    store: Any, status: str
) -> None:
    store.save_session(a_session("old", status=status, updated_days_ago=91))
    store.save_session(a_session("young", status=status, updated_days_ago=89))

    number = store.maintenance.soft_delete_expired_sessions(a_policy())

    assert (number, soft_deleted_ids(store)) == (1, ["old"])


@pytest.mark.parametrize("status", ["pending", "active", "paused"])
def test_the_age_for_ended_sessions_does_not_apply_to_others(store: Any, status: str) -> None:
    store.save_session(a_session(status=status, updated_days_ago=1_000))

    assert store.maintenance.soft_delete_expired_sessions(a_policy(exempt_statuses=())) == 0


def test_the_age_for_all_sessions_applies_to_every_status_that_is_not_exempt(store: Any) -> None:
    for status in asm.SessionStatus:
        store.save_session(a_session(str(status), status=status, updated_days_ago=11))
    policy = a_policy(max_session_age_days=10, max_completed_session_age_days=None)

    number = store.maintenance.soft_delete_expired_sessions(policy)

    assert (number, soft_deleted_ids(store)) == (4, ["cancelled", "completed", "failed", "pending"])


@pytest.mark.parametrize("ages", [(10, 20), (20, 10), (None, 10), (10, None)])
def test_the_shorter_of_two_ages_applies(store: Any, ages: tuple[int | None, int | None]) -> None:
    store.save_session(a_session(updated_days_ago=11))
    policy = a_policy(max_session_age_days=ages[0], max_completed_session_age_days=ages[1])

    assert store.maintenance.soft_delete_expired_sessions(policy) == 1


def test_no_session_expires_without_a_maximum_age(store: Any) -> None:
    store.save_session(a_session(updated_days_ago=10_000))

    assert store.maintenance.soft_delete_expired_sessions(only_pruning()) == 0


def test_an_age_longer_than_the_calendar_is_accepted(store: Any) -> None:
    store.save_session(a_session(updated_days_ago=10_000))

    policy = a_policy(max_completed_session_age_days=10**12)

    assert store.maintenance.soft_delete_expired_sessions(policy) == 0


def test_an_exempt_tag_protects_from_soft_deletion(store: Any) -> None:
    store.save_session(a_session("kept", updated_days_ago=91, tags=("x", "keep")))
    store.save_session(a_session("expired", updated_days_ago=91, tags=("x", "pinned")))

    store.maintenance.soft_delete_expired_sessions(a_policy(exempt_tags=("keep", "keep too")))

    assert soft_deleted_ids(store) == ["expired"]


def test_soft_deletion_changes_only_the_deletion_time_of_a_session(store: Any) -> None:
    before = a_session(updated_days_ago=91, metadata={"a": 1}, tags=("x",))
    store.save_session(before)
    started = datetime.now(UTC)

    store.maintenance.soft_delete_expired_sessions(a_policy())

    after = store.get_session(before.id)
    assert after.deleted_at is not None
    assert started <= after.deleted_at <= datetime.now(UTC)
    assert asm.Session.from_dict({**after.to_dict(), "deleted_at": None}) == before


def test_all_sessions_expire_when_there_are_more_than_a_batch_holds(store: Any) -> None:
    with store.transaction() as tx:
        for number in range(25):
            tx.save_session(a_session(f"ses_{number}", updated_days_ago=100 + number % 3))

    assert store.maintenance.soft_delete_expired_sessions(a_policy(batch_size=4)) == 25


# Hard deletion.


def test_a_session_that_was_soft_deleted_long_enough_ago_is_hard_deleted(store: Any) -> None:
    store.save_session(a_session("old", deleted_days_ago=31))
    store.save_session(a_session("young", deleted_days_ago=29))
    store.save_session(a_session("live", updated_days_ago=1_000))

    number = store.maintenance.hard_delete_expired_sessions(a_policy())

    assert (number, session_ids(store)) == (1, ["live", "young"])


def test_no_session_is_hard_deleted_without_a_waiting_time(store: Any) -> None:
    store.save_session(a_session(deleted_days_ago=10_000))

    assert store.maintenance.hard_delete_expired_sessions(a_policy(hard_delete_after_days=None)) == 0


@pytest.mark.parametrize("exempt", [{"status": "active"}, {"tags": ("pinned", "x")}])
def test_an_exempt_session_is_not_hard_deleted(store: Any, exempt: dict[str, Any]) -> None:
    store.save_session(a_session(deleted_days_ago=31, **exempt))

    assert store.maintenance.hard_delete_expired_sessions(a_policy()) == 0


def test_hard_deletion_deletes_all_rows_of_a_session_and_no_others(where: Where, store: Any) -> None:
    for name in ("due", "kept"):
        session = a_session(name, deleted_days_ago=31 if name == "due" else None, tags=("x",))
        store.flush(session, asm.Run(session_id=name), events_of(name, 3))
        store.artifacts.register(an_artifact(name, session_id=name))

    store.maintenance.hard_delete_expired_sessions(a_policy())

    tables = ["asm_runs", "asm_events", "asm_session_sequences", "asm_artifacts"]
    left = {table: fetch_rows(where.dsn, f"select distinct session_id from {table}") for table in tables}
    assert left == {table: [("kept",)] for table in tables}
    if where.dialect == "sqlite":
        assert fetch_rows(where.dsn, "select id from asm_session_tags") == [("kept",)]
    assert session_ids(store) == ["kept"]


def test_a_hard_deleted_session_starts_again_at_sequence_number_1(store: Any) -> None:
    store.save_session(a_session(deleted_days_ago=31))
    store.append_events(events_of("ses_1", 3))

    store.maintenance.hard_delete_expired_sessions(a_policy())

    assert store.append_event(an_event("ses_1")).sequence_number == 1


@pytest.mark.parametrize("is_archived", [False, True])
def test_a_session_with_more_events_than_a_transaction_deletes_is_hard_deleted(
    store: Any, where: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_archived: bool
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 7)
    for name, length in {"long": 36, "short": 7, "shorter": 2}.items():
        store.save_session(a_session(name, deleted_days_ago=31))
        append_types(store, name, *["session_created", "message_sent"] * length)
    events = store.get_events("long")

    policy = a_policy(archive=tmp_path if is_archived else None)
    assert store.maintenance.hard_delete_expired_sessions(policy) == 3

    assert all(rows == [] for rows in all_rows(where))
    if is_archived:
        assert archives.read(tmp_path / "long.jsonl.gz").events == events


def test_all_due_sessions_are_deleted_when_there_are_more_than_a_batch_holds(store: Any) -> None:
    with store.transaction() as tx:
        for number in range(25):
            tx.save_session(a_session(f"ses_{number}", deleted_days_ago=100 + number % 3))

    assert store.maintenance.hard_delete_expired_sessions(a_policy(batch_size=4)) == 25


# Pruning.


def test_the_oldest_events_are_pruned_first(store: Any) -> None:
    append_types(store, "ses_1", *["message_sent"] * 10)

    number = store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=4))

    assert (number, stored_numbers(store)) == (6, [7, 8, 9, 10])


def test_types_to_prune_first_are_pruned_before_others_oldest_first(store: Any) -> None:
    one, two = PRUNED_FIRST
    append_types(store, "ses_1", "message_sent", two, one, "message_sent", one, two, "message_sent")

    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=4))

    assert stored_numbers(store) == [1, 4, 6, 7]


def test_after_the_types_to_prune_first_the_oldest_events_are_pruned(store: Any) -> None:
    append_types(
        store, "ses_1", "message_sent", "message_sent", PRUNED_FIRST[0], "message_sent", PRUNED_FIRST[1]
    )

    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=2))

    assert stored_numbers(store) == [2, 4]


def test_the_policy_chooses_the_types_to_prune_first(store: Any) -> None:
    append_types(store, "ses_1", PRUNED_FIRST[0], "acme.noise", "message_sent", "acme.noise")
    policy = a_policy(max_events_per_session=2, prune_event_types_first=["acme.noise"])

    store.maintenance.prune_session_events("ses_1", policy)

    assert stored_numbers(store) == [1, 3]


@pytest.mark.parametrize("first", [PRUNED_FIRST, ("run_started", "message_sent"), ()])
def test_some_types_are_never_pruned(store: Any, first: tuple[str, ...]) -> None:
    types = ["session_created", "run_started", "run_completed", "run_failed", "error_occurred"]
    append_types(store, "ses_1", *types, "message_sent", PRUNED_FIRST[0], "session_started")
    policy = a_policy(max_events_per_session=1, prune_event_types_first=first)

    number = store.maintenance.prune_session_events("ses_1", policy)

    assert (number, [event.type for event in store.get_events("ses_1")]) == (3, types)


def test_protected_types_stay_while_another_session_of_the_batch_is_pruned(store: Any) -> None:
    for name, type in (("a", "run_started"), ("b", "message_sent")):
        store.save_session(a_session(name))
        append_types(store, name, *[type] * 4, "message_sent")

    number = store.maintenance.execute(only_pruning(max_events_per_session=2)).events_pruned

    assert (number, stored_numbers(store, "a"), stored_numbers(store, "b")) == (4, [1, 2, 3, 4], [4, 5])
    assert store.maintenance.health_check() == []


def test_the_number_of_pruned_events_is_stored(where: Where, store: Any) -> None:
    append_types(store, "ses_1", *["message_sent"] * 10)
    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=7))
    append_types(store, "ses_1", *["message_sent"] * 5)

    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=6))

    assert (len(stored_numbers(store)), pruned_count(where), store.get_latest_sequence("ses_1")) == (6, 9, 15)


def test_a_pruned_session_continues_its_sequence(store: Any) -> None:
    append_types(store, "ses_1", *[PRUNED_FIRST[0]] * 5)
    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=1))

    assert store.append_event(an_event("ses_1")).sequence_number == 6


def test_pruning_again_prunes_nothing(store: Any) -> None:
    append_types(store, "ses_1", *["message_sent"] * 10)
    policy = a_policy(max_events_per_session=4)
    store.maintenance.prune_session_events("ses_1", policy)

    assert store.maintenance.prune_session_events("ses_1", policy) == 0


def test_pruning_one_session_leaves_other_sessions_unchanged(store: Any) -> None:
    for name in ("ses_1", "ses_2"):
        append_types(store, name, *["message_sent"] * 5)

    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=2))

    assert (stored_numbers(store, "ses_1"), stored_numbers(store, "ses_2")) == ([4, 5], [1, 2, 3, 4, 5])


def test_nothing_is_pruned_without_a_maximum(store: Any) -> None:
    append_types(store, "ses_1", *["message_sent"] * 5)

    assert store.maintenance.prune_session_events("ses_1", a_policy()) == 0


def test_pruning_an_unknown_session_prunes_nothing(store: Any) -> None:
    assert store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=1)) == 0


def test_sessions_in_an_exempt_status_and_without_a_row_are_pruned_too(store: Any) -> None:
    for name in ("active", "completed"):
        store.save_session(a_session(name, status=name))
    for name in ("active", "completed", "alone"):
        append_types(store, name, *["message_sent"] * 5)

    report = store.maintenance.execute(only_pruning(max_events_per_session=3, batch_size=2))

    assert (
        report.events_pruned,
        [len(stored_numbers(store, name)) for name in ("active", "completed", "alone")],
    ) == (
        6,
        [3, 3, 3],
    )


@pytest.mark.parametrize("maximum", ["max_events_per_session", "max_total_events"])
def test_a_session_with_an_exempt_tag_keeps_its_events(store: Any, maximum: str) -> None:
    store.save_session(a_session("pinned", tags=("pinned",)))
    for name in ("pinned", "other"):
        append_types(store, name, *["message_sent"] * 5)

    report = store.maintenance.execute(only_pruning(**{maximum: 2}))

    assert (len(stored_numbers(store, "pinned")), report.errors) == (5, [])


def test_a_session_with_an_exempt_tag_is_not_pruned_by_its_id_either(store: Any) -> None:
    store.save_session(a_session(tags=("pinned",)))
    append_types(store, "ses_1", *["message_sent"] * 5)

    assert store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=2)) == 0


def test_a_session_of_any_length_is_pruned_in_short_transactions(
    store: Any, where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 7)
    for name in ("long", "longer"):
        append_types(store, name, *[PRUNED_FIRST[0], "message_sent"] * (20 if name == "long" else 40))

    report = store.maintenance.execute(only_pruning(max_events_per_session=11))

    assert (report.events_pruned, report.errors) == (29 + 69, [])
    assert stored_numbers(store, "longer") == list(range(60, 81, 2))
    assert (pruned_count(where, "long"), pruned_count(where, "longer")) == (29, 69)


def test_the_total_maximum_prunes_types_to_prune_first_then_the_oldest_events(
    store: Any,
) -> None:
    one, two = PRUNED_FIRST
    types = ["message_sent", one, "session_created", "message_sent", two, "message_sent", "message_sent", one]
    for day, (name, type) in enumerate(zip("ababacbc", types, strict=True)):
        append_types(store, name, type, timestamp=days_ago(50 - day))

    report = store.maintenance.execute(only_pruning(max_total_events=3))

    assert report.events_pruned == 5
    left = [(name, stored_numbers(store, name)) for name in ("a", "b", "c")]
    assert left == [("a", [2]), ("b", [3]), ("c", [1])]


def test_the_total_maximum_prunes_no_protected_types(store: Any) -> None:
    for name in ("a", "b"):
        append_types(store, name, "session_created", "error_occurred", "message_sent")

    report = store.maintenance.execute(only_pruning(max_total_events=1))

    assert (report.events_pruned, stored_numbers(store, "a"), stored_numbers(store, "b")) == (
        2,
        [1, 2],
        [1, 2],
    )


def test_the_total_maximum_is_reached_in_several_transactions(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 7)
    for number in range(12):
        append_types(store, f"ses_{number}", *["message_sent", PRUNED_FIRST[0]] * 5, timestamp=days_ago(1))

    report = store.maintenance.execute(only_pruning(max_total_events=31, batch_size=3))

    assert (report.events_pruned, report.errors, store.maintenance.execute(a_policy()).events_pruned) == (
        89,
        [],
        0,
    )
    assert sum(len(stored_numbers(store, f"ses_{number}")) for number in range(12)) == 31


def test_sessions_that_are_due_for_deletion_are_neither_pruned_nor_counted(store: Any) -> None:
    store.save_session(a_session("due", deleted_days_ago=31))
    append_types(store, "due", *["message_sent"] * 50)
    append_types(store, "live", *["message_sent"] * 10)

    report = store.maintenance.execute(a_policy(max_total_events=8, max_events_per_session=9))

    assert (report.sessions_hard_deleted, report.events_pruned) == (1, 2)


# Orphans.


def test_artifacts_of_sessions_that_do_not_exist_are_deleted(store: Any) -> None:
    store.save_session(a_session("ses_1"))
    session_of = {"saved": "ses_1", "orphaned": "ses_0", "without session": None, "deleted": "ses_0"}
    for key, session_id in session_of.items():
        store.artifacts.register(an_artifact(key, session_id=session_id, created_at=days_ago(1)))
    store.artifacts.delete("deleted")

    assert store.maintenance.clean_orphaned_artifacts() == 2
    assert [key for key in session_of if store.artifacts.get_by_key(key)] == ["saved", "without session"]


def test_an_artifact_younger_than_one_hour_is_not_an_orphan(store: Any) -> None:
    now = datetime.now(UTC)
    for key, minutes in {"young": 50, "old": 62}.items():
        created_at = now - timedelta(minutes=minutes)
        store.artifacts.register(an_artifact(key, session_id="ses_0", created_at=created_at))
    policy = a_policy()

    assert store.maintenance.execute(policy, dry_run=True).artifacts_cleaned == 1
    assert store.maintenance.clean_orphaned_artifacts() == 1
    assert store.artifacts.get_by_key("young") is not None


def test_an_artifact_that_is_registered_just_before_its_session_is_saved_is_kept(store: Any) -> None:
    store.artifacts.register(an_artifact("report.pdf", session_id="ses_1"))

    store.maintenance.execute(a_policy())
    store.save_session(a_session("ses_1"))

    assert [artifact.key for artifact in store.artifacts.list_by_session("ses_1")] == ["report.pdf"]


def test_artifacts_of_a_session_with_events_or_runs_are_kept(store: Any) -> None:
    store.append_event(an_event("with events"))
    store.save_run(asm.Run(session_id="with a run"))
    for name in ("with events", "with a run"):
        store.artifacts.register(an_artifact(name, session_id=name, created_at=days_ago(1)))

    assert store.maintenance.clean_orphaned_artifacts() == 0


def test_artifacts_of_a_session_whose_events_were_all_pruned_are_kept(store: Any) -> None:
    append_types(store, "alone", "message_sent", timestamp=days_ago(1))
    append_types(store, "later", "message_sent")
    store.artifacts.register(an_artifact(session_id="alone", created_at=days_ago(1)))
    policy = only_pruning(max_total_events=1)

    dry = store.maintenance.execute(policy, dry_run=True)

    assert (counts(dry), dry.events_pruned) == (counts(store.maintenance.execute(policy)), 1)
    assert store.artifacts.get_by_key("report.pdf") is not None


def test_counters_of_sessions_without_a_row_and_events_are_deleted(where: Where, store: Any) -> None:
    store.save_session(a_session("saved"))
    for name in ("saved", "with events", "orphaned"):
        store.append_event(an_event(name, "message_streamed"))
    fetch_rows(where.dsn, "delete from asm_events where session_id in ('saved', 'orphaned')")
    age_counters(where.dsn)

    assert store.maintenance.clean_orphaned_sequences() == 1
    left = fetch_rows(where.dsn, "select session_id from asm_session_sequences order by session_id")
    assert left == [("saved",), ("with events",)]


def test_a_counter_that_changed_within_the_last_hour_is_not_an_orphan(where: Where, store: Any) -> None:
    for name in ("old", "young"):
        store.append_event(an_event(name))
    fetch_rows(where.dsn, "delete from asm_events")
    age_counters(where.dsn, "old")

    assert store.maintenance.execute(a_policy(), dry_run=True).orphaned_sequences_cleaned == 1
    assert store.maintenance.clean_orphaned_sequences() == 1
    assert [store.get_latest_sequence(name) for name in ("old", "young")] == [0, 1]


def test_a_session_whose_events_were_all_pruned_continues_its_sequence(where: Where, store: Any) -> None:
    append_types(store, "ses_1", "message_sent", "message_sent")
    append_types(store, "ses_2", "session_created")
    age_counters(where.dsn)

    report = store.maintenance.execute(only_pruning(max_total_events=1))

    assert (report.events_pruned, report.orphaned_sequences_cleaned) == (2, 0)
    assert store.append_event(an_event("ses_1")).sequence_number == 3


def test_all_orphans_are_deleted_when_there_are_more_than_a_batch_holds(where: Where, store: Any) -> None:
    with store.transaction() as tx:
        for number in range(230):
            session_id = f"ses_{number // 2:03}"
            artifact = an_artifact(f"key_{number}", session_id=session_id, created_at=days_ago(1))
            tx.artifacts.register(artifact)
            tx.append_event(an_event(f"other_{number:03}"))
    fetch_rows(where.dsn, "delete from asm_events")
    age_counters(where.dsn)

    report = store.maintenance.execute(a_policy(batch_size=7))

    assert (report.artifacts_cleaned, report.orphaned_sequences_cleaned) == (230, 230)


# Runs of a policy.


@pytest.mark.parametrize("fields", POLICIES.values(), ids=POLICIES)
def test_a_dry_run_reports_what_a_real_run_does(where: Where, store: Any, fields: dict[str, Any]) -> None:
    fill(store, where)
    policy = a_policy(batch_size=3, **fields)

    dry = store.maintenance.execute(policy, dry_run=True)

    assert counts(dry) == counts(store.maintenance.execute(policy))
    assert any(counts(dry).values())


def test_a_dry_run_does_not_count_rows_that_a_real_run_keeps(where: Where, store: Any) -> None:
    store.save_session(a_session("pinned", deleted_days_ago=31, tags=("pinned",)))
    store.save_session(a_session("bare"))
    store.append_events(events_of("pinned", 3))
    store.save_run(asm.Run(session_id="alone"))
    store.append_events(events_of("pruned", 3))
    store.maintenance.prune_session_events("pruned", a_policy(max_events_per_session=1))
    for name in ("bare", "pinned", "alone", "pruned"):
        store.artifacts.register(an_artifact(name, session_id=name, created_at=days_ago(1)))
    age_counters(where.dsn)
    policy = a_policy(max_events_per_session=1, archive=lambda _: None)

    dry = store.maintenance.execute(policy, dry_run=True)

    assert (counts(dry), dry.errors) == (dict.fromkeys(STEPS, 0), [])


def test_a_dry_run_with_an_archive_does_not_count_sessions_without_a_row(store: Any) -> None:
    store.append_events(events_of("alone", 3))
    policy = a_policy(max_events_per_session=1, archive=lambda _: None)

    assert store.maintenance.execute(policy, dry_run=True).events_pruned == 0


def test_a_dry_run_changes_nothing(where: Where, store: Any) -> None:
    fill(store, where)
    archived: list[asm.SessionExport] = []
    before = all_rows(where)

    policy = a_policy(max_events_per_session=5, max_total_events=40, archive=archived.append)
    store.maintenance.execute(policy, dry_run=True)

    assert (all_rows(where), archived) == (before, [])


@pytest.mark.parametrize("fields", POLICIES.values(), ids=POLICIES)
def test_a_second_run_finds_nothing_to_do(where: Where, store: Any, fields: dict[str, Any]) -> None:
    fill(store, where)
    policy = a_policy(batch_size=3, **fields)
    store.maintenance.execute(policy)

    assert counts(store.maintenance.execute(policy)) == dict.fromkeys(STEPS, 0)


def test_maintenance_adds_no_health_issues(where: Where, store: Any) -> None:
    fill(store, where)

    store.maintenance.execute(a_policy(max_events_per_session=5, max_total_events=60))

    found = [(issue.code, issue.session_id) for issue in store.maintenance.health_check()]
    assert found == [("events_without_session", "alone")]


def test_a_report_has_the_duration_of_the_run(store: Any) -> None:
    report = store.maintenance.execute(a_policy())

    assert (report.duration_ms >= 0, report.errors) == (True, [])


def test_progress_is_called_after_each_batch(store: Any) -> None:
    for number in range(5):
        store.save_session(a_session(f"ses_{number}", updated_days_ago=91))
    calls: list[tuple[str, int]] = []

    store.maintenance.execute(a_policy(batch_size=2), progress=lambda *call: calls.append(call))

    assert calls == [("sessions_soft_deleted", number) for number in (2, 4, 5)]


REFUSE_DELETING = {
    "postgres": [
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$",
        "create trigger refuse before delete on asm_events for each row execute function refuse()",
    ],
    "sqlite": ["create trigger refuse before delete on asm_events begin select raise(abort, 'no'); end"],
}


@needs_triggers
def test_a_step_that_fails_is_reported_and_the_others_run(where: Where, store: Any) -> None:
    fill(store, where)
    for statement in REFUSE_DELETING[where.dialect]:
        fetch_rows(where.dsn, statement)

    report = store.maintenance.execute(a_policy(max_events_per_session=5))

    assert [failure.step for failure in report.errors] == ["sessions_hard_deleted", "events_pruned"]
    assert all("no" in str(failure.error) for failure in report.errors)
    assert (report.sessions_soft_deleted > 0, report.artifacts_cleaned) == (True, 1)


@needs_triggers
def test_a_single_operation_raises_its_error(where: Where, store: Any) -> None:
    fill(store, where)
    for statement in REFUSE_DELETING[where.dialect]:
        fetch_rows(where.dsn, statement)

    with pytest.raises(Exception, match="no"):
        store.maintenance.hard_delete_expired_sessions(a_policy())


@pytest.mark.parametrize(
    "fields",
    [
        {"max_session_age_days": 0},
        {"max_completed_session_age_days": -1},
        {"hard_delete_after_days": 1.5},
        {"max_events_per_session": True},
        {"max_total_events": "many"},
        {"batch_size": 0},
        {"batch_size": None},
        {"exempt_statuses": ["actve"]},
        {"exempt_statuses": "active"},
        {"exempt_tags": "pinned"},
        {"exempt_tags": [""]},
        {"prune_event_types_first": ["mesage_sent"]},
        {"archive": 3},
    ],
)
def test_an_invalid_policy_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(asm.ValidationError):
        a_policy(**fields)


@pytest.mark.parametrize("policy", [None, {}, "policy"])
def test_every_operation_refuses_a_value_that_is_not_a_policy(store: Any, policy: Any) -> None:
    maintenance = store.maintenance
    for operation in (
        maintenance.execute,
        maintenance.soft_delete_expired_sessions,
        maintenance.hard_delete_expired_sessions,
        lambda policy: maintenance.prune_session_events("ses_1", policy),
    ):
        with pytest.raises(asm.ValidationError, match="RetentionPolicy"):
            operation(policy)


def test_an_invalid_session_id_is_refused(store: Any) -> None:
    with pytest.raises(asm.ValidationError, match="session_id"):
        store.maintenance.prune_session_events("", a_policy())


def test_progress_must_be_a_function(store: Any) -> None:
    with pytest.raises(asm.ValidationError, match="progress"):
        store.maintenance.execute(a_policy(), progress="loud")


def test_maintenance_is_not_part_of_a_transaction(store: Any) -> None:
    with store.transaction() as tx, pytest.raises(AttributeError):
        _ = tx.maintenance
