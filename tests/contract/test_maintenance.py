"""What a store promises about keeping only what should be kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import asm
from asm.formats import archives
from asm.maintenance import run
from tests.conftest import Where, an_artifact, an_event, events_of
from tests.contract.keeping import (
    FIRST,
    POLICIES,
    STEPS,
    a_full_store,
    a_policy,
    a_session,
    appended,
    counted,
    days_ago,
    deleted,
    everything,
    kept,
    only_pruning,
    pruned_of,
    there,
)
from tests.contract.other_clients import fetch_rows

# Soft-deleting.


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_session_that_has_ended_is_soft_deleted_when_it_was_untouched_long_enough(
    store: Any, status: str
) -> None:
    store.save_session(a_session("old", status=status, untouched=91))
    store.save_session(a_session("young", status=status, untouched=89))

    number = store.maintenance.soft_delete_expired_sessions(a_policy())

    assert (number, deleted(store)) == (1, ["old"])


@pytest.mark.parametrize("status", ["pending", "active", "paused"])
def test_a_session_that_has_not_ended_does_not_expire_with_those_that_have(store: Any, status: str) -> None:
    store.save_session(a_session(status=status, untouched=1_000))

    assert store.maintenance.soft_delete_expired_sessions(a_policy(exempt_statuses=())) == 0


def test_any_session_that_is_not_exempt_expires_by_the_age_for_all(store: Any) -> None:
    for status in asm.SessionStatus:
        store.save_session(a_session(str(status), status=status, untouched=11))
    policy = a_policy(max_session_age_days=10, max_completed_session_age_days=None)

    number = store.maintenance.soft_delete_expired_sessions(policy)

    assert (number, deleted(store)) == (4, ["cancelled", "completed", "failed", "pending"])


@pytest.mark.parametrize("ages", [(10, 20), (20, 10), (None, 10), (10, None)])
def test_of_two_ages_the_shorter_one_counts(store: Any, ages: tuple[int | None, int | None]) -> None:
    store.save_session(a_session(untouched=11))
    policy = a_policy(max_session_age_days=ages[0], max_completed_session_age_days=ages[1])

    assert store.maintenance.soft_delete_expired_sessions(policy) == 1


def test_without_an_age_nothing_expires(store: Any) -> None:
    store.save_session(a_session(untouched=10_000))

    assert store.maintenance.soft_delete_expired_sessions(only_pruning()) == 0


def test_an_age_beyond_the_calendar_is_no_error(store: Any) -> None:
    store.save_session(a_session(untouched=10_000))

    policy = a_policy(max_completed_session_age_days=10**12)

    assert store.maintenance.soft_delete_expired_sessions(policy) == 0


def test_an_exempt_tag_protects_from_soft_deleting(store: Any) -> None:
    store.save_session(a_session("kept", untouched=91, tags=("x", "keep")))
    store.save_session(a_session("gone", untouched=91, tags=("x", "pinned")))

    store.maintenance.soft_delete_expired_sessions(a_policy(exempt_tags=("keep", "keep too")))

    assert deleted(store) == ["gone"]


def test_soft_deleting_changes_nothing_of_a_session_but_when_it_was_deleted(store: Any) -> None:
    before = a_session(untouched=91, metadata={"a": 1}, tags=("x",))
    store.save_session(before)
    begun = datetime.now(UTC)

    store.maintenance.soft_delete_expired_sessions(a_policy())

    after = store.get_session(before.id)
    assert after.deleted_at is not None
    assert begun <= after.deleted_at <= datetime.now(UTC)
    assert asm.Session.from_dict({**after.to_dict(), "deleted_at": None}) == before


def test_more_sessions_than_a_batch_holds_all_expire(store: Any) -> None:
    with store.transaction() as tx:
        for number in range(25):
            tx.save_session(a_session(f"ses_{number}", untouched=100 + number % 3))

    assert store.maintenance.soft_delete_expired_sessions(a_policy(batch_size=4)) == 25


# Hard-deleting.


def test_what_was_soft_deleted_long_enough_ago_is_deleted(store: Any) -> None:
    store.save_session(a_session("old", deleted=31))
    store.save_session(a_session("young", deleted=29))
    store.save_session(a_session("live", untouched=1_000))

    number = store.maintenance.hard_delete_expired_sessions(a_policy())

    assert (number, there(store)) == (1, ["live", "young"])


def test_without_a_time_to_wait_nothing_is_deleted(store: Any) -> None:
    store.save_session(a_session(deleted=10_000))

    assert store.maintenance.hard_delete_expired_sessions(a_policy(hard_delete_after_days=None)) == 0


@pytest.mark.parametrize("exempt", [{"status": "active"}, {"tags": ("pinned", "x")}])
def test_what_is_exempt_is_not_deleted(store: Any, exempt: dict[str, Any]) -> None:
    store.save_session(a_session(deleted=31, **exempt))

    assert store.maintenance.hard_delete_expired_sessions(a_policy()) == 0


def test_deleting_takes_all_that_belongs_to_a_session_and_nothing_else(where: Where, store: Any) -> None:
    for name in ("gone", "kept"):
        session = a_session(name, deleted=31 if name == "gone" else None, tags=("x",))
        store.flush(session, asm.Run(session_id=name), events_of(name, 3))
        store.artifacts.register(an_artifact(name, session_id=name))

    store.maintenance.hard_delete_expired_sessions(a_policy())

    tables = ["asm_runs", "asm_events", "asm_session_sequences", "asm_artifacts"]
    left = {table: fetch_rows(where.dsn, f"select distinct session_id from {table}") for table in tables}
    assert left == {table: [("kept",)] for table in tables}
    if where.dialect == "sqlite":
        assert fetch_rows(where.dsn, "select id from asm_session_tags") == [("kept",)]
    assert there(store) == ["kept"]


def test_a_session_that_was_deleted_begins_again_at_1(store: Any) -> None:
    store.save_session(a_session(deleted=31))
    store.append_events(events_of("ses_1", 3))

    store.maintenance.hard_delete_expired_sessions(a_policy())

    assert store.append_event(an_event("ses_1")).sequence_number == 1


@pytest.mark.parametrize("is_archived", [False, True])
def test_a_session_of_any_length_is_deleted(
    store: Any, where: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_archived: bool
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 7)
    for name, length in {"long": 36, "short": 7, "shorter": 2}.items():
        store.save_session(a_session(name, deleted=31))
        appended(store, name, *["session_created", "message_sent"] * length)
    everything_of_it = store.get_events("long")

    policy = a_policy(archive=tmp_path if is_archived else None)
    assert store.maintenance.hard_delete_expired_sessions(policy) == 3

    assert all(rows == [] for rows in everything(where))
    if is_archived:
        assert archives.read(tmp_path / "long.jsonl.gz").events == everything_of_it


def test_more_sessions_than_a_batch_holds_are_all_deleted(store: Any) -> None:
    with store.transaction() as tx:
        for number in range(25):
            tx.save_session(a_session(f"ses_{number}", deleted=100 + number % 3))

    assert store.maintenance.hard_delete_expired_sessions(a_policy(batch_size=4)) == 25


# Pruning.


def test_the_oldest_go_first(store: Any) -> None:
    appended(store, "ses_1", *["message_sent"] * 10)

    number = store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=4))

    assert (number, kept(store)) == (6, [7, 8, 9, 10])


def test_types_that_go_first_go_before_all_others_the_oldest_first(store: Any) -> None:
    one, two = FIRST
    appended(store, "ses_1", "message_sent", two, one, "message_sent", one, two, "message_sent")

    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=4))

    assert kept(store) == [1, 4, 6, 7]


def test_then_go_the_oldest_of_the_rest(store: Any) -> None:
    appended(store, "ses_1", "message_sent", "message_sent", FIRST[0], "message_sent", FIRST[1])

    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=2))

    assert kept(store) == [2, 4]


def test_the_types_that_go_first_are_the_policys(store: Any) -> None:
    appended(store, "ses_1", FIRST[0], "acme.noise", "message_sent", "acme.noise")
    policy = a_policy(max_events_per_session=2, prune_event_types_first=["acme.noise"])

    store.maintenance.prune_session_events("ses_1", policy)

    assert kept(store) == [1, 3]


@pytest.mark.parametrize("first", [FIRST, ("run_started", "message_sent"), ()])
def test_some_types_are_never_pruned(store: Any, first: tuple[str, ...]) -> None:
    types = ["session_created", "run_started", "run_completed", "run_failed", "error_occurred"]
    appended(store, "ses_1", *types, "message_sent", FIRST[0], "session_started")
    policy = a_policy(max_events_per_session=1, prune_event_types_first=first)

    number = store.maintenance.prune_session_events("ses_1", policy)

    assert (number, [event.type for event in store.get_events("ses_1")]) == (3, types)


def test_types_that_are_never_pruned_stay_beside_sessions_that_have_others(store: Any) -> None:
    for name, type in (("a", "run_started"), ("b", "message_sent")):
        store.save_session(a_session(name))
        appended(store, name, *[type] * 4, "message_sent")

    number = store.maintenance.execute(only_pruning(max_events_per_session=2)).events_pruned

    assert (number, kept(store, "a"), kept(store, "b")) == (4, [1, 2, 3, 4], [4, 5])
    assert store.maintenance.health_check() == []


def test_how_many_were_pruned_is_kept(where: Where, store: Any) -> None:
    appended(store, "ses_1", *["message_sent"] * 10)
    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=7))
    appended(store, "ses_1", *["message_sent"] * 5)

    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=6))

    assert (len(kept(store)), pruned_of(where), store.get_latest_sequence("ses_1")) == (6, 9, 15)


def test_a_session_that_was_pruned_goes_on_counting(store: Any) -> None:
    appended(store, "ses_1", *[FIRST[0]] * 5)
    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=1))

    assert store.append_event(an_event("ses_1")).sequence_number == 6


def test_pruning_again_prunes_nothing(store: Any) -> None:
    appended(store, "ses_1", *["message_sent"] * 10)
    policy = a_policy(max_events_per_session=4)
    store.maintenance.prune_session_events("ses_1", policy)

    assert store.maintenance.prune_session_events("ses_1", policy) == 0


def test_pruning_one_session_leaves_the_others(store: Any) -> None:
    for name in ("ses_1", "ses_2"):
        appended(store, name, *["message_sent"] * 5)

    store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=2))

    assert (kept(store, "ses_1"), kept(store, "ses_2")) == ([4, 5], [1, 2, 3, 4, 5])


def test_without_a_bound_nothing_is_pruned(store: Any) -> None:
    appended(store, "ses_1", *["message_sent"] * 5)

    assert store.maintenance.prune_session_events("ses_1", a_policy()) == 0


def test_pruning_a_session_that_is_not_there_prunes_nothing(store: Any) -> None:
    assert store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=1)) == 0


def test_every_session_is_pruned_also_one_in_an_exempt_status_or_without_a_row(store: Any) -> None:
    for name in ("active", "completed"):
        store.save_session(a_session(name, status=name))
    for name in ("active", "completed", "alone"):
        appended(store, name, *["message_sent"] * 5)

    report = store.maintenance.execute(only_pruning(max_events_per_session=3, batch_size=2))

    assert (report.events_pruned, [len(kept(store, name)) for name in ("active", "completed", "alone")]) == (
        6,
        [3, 3, 3],
    )


@pytest.mark.parametrize("bound", ["max_events_per_session", "max_total_events"])
def test_a_session_with_an_exempt_tag_keeps_its_events(store: Any, bound: str) -> None:
    store.save_session(a_session("pinned", tags=("pinned",)))
    for name in ("pinned", "other"):
        appended(store, name, *["message_sent"] * 5)

    report = store.maintenance.execute(only_pruning(**{bound: 2}))

    assert (len(kept(store, "pinned")), report.errors) == (5, [])


def test_an_exempt_session_is_not_pruned_by_name_either(store: Any) -> None:
    store.save_session(a_session(tags=("pinned",)))
    appended(store, "ses_1", *["message_sent"] * 5)

    assert store.maintenance.prune_session_events("ses_1", a_policy(max_events_per_session=2)) == 0


def test_a_session_of_any_length_is_pruned_in_short_transactions(
    store: Any, where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 7)
    for name in ("long", "longer"):
        appended(store, name, *[FIRST[0], "message_sent"] * (20 if name == "long" else 40))

    report = store.maintenance.execute(only_pruning(max_events_per_session=11))

    assert (report.events_pruned, report.errors) == (29 + 69, [])
    assert kept(store, "longer") == list(range(60, 81, 2))
    assert (pruned_of(where, "long"), pruned_of(where, "longer")) == (29, 69)


def test_of_all_events_the_oldest_go_those_of_some_types_first(store: Any) -> None:
    one, two = FIRST
    types = ["message_sent", one, "session_created", "message_sent", two, "message_sent", "message_sent", one]
    for day, (name, type) in enumerate(zip("ababacbc", types, strict=True)):
        appended(store, name, type, timestamp=days_ago(50 - day))

    report = store.maintenance.execute(only_pruning(max_total_events=3))

    assert report.events_pruned == 5
    left = [(name, kept(store, name)) for name in ("a", "b", "c")]
    assert left == [("a", [2]), ("b", [3]), ("c", [1])]


def test_a_bound_for_all_takes_no_protected_events(store: Any) -> None:
    for name in ("a", "b"):
        appended(store, name, "session_created", "error_occurred", "message_sent")

    report = store.maintenance.execute(only_pruning(max_total_events=1))

    assert (report.events_pruned, kept(store, "a"), kept(store, "b")) == (2, [1, 2], [1, 2])


def test_a_bound_for_all_holds_for_more_events_than_a_transaction_takes(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 7)
    for number in range(12):
        appended(store, f"ses_{number}", *["message_sent", FIRST[0]] * 5, timestamp=days_ago(1))

    report = store.maintenance.execute(only_pruning(max_total_events=31, batch_size=3))

    assert (report.events_pruned, report.errors, store.maintenance.execute(a_policy()).events_pruned) == (
        89,
        [],
        0,
    )
    assert sum(len(kept(store, f"ses_{number}")) for number in range(12)) == 31


def test_what_is_about_to_be_deleted_is_neither_pruned_nor_counted(store: Any) -> None:
    store.save_session(a_session("due", deleted=31))
    appended(store, "due", *["message_sent"] * 50)
    appended(store, "live", *["message_sent"] * 10)

    report = store.maintenance.execute(a_policy(max_total_events=8, max_events_per_session=9))

    assert (report.sessions_hard_deleted, report.events_pruned) == (1, 2)


# Cleaning up.


def test_artifacts_of_sessions_that_are_gone_are_cleaned(store: Any) -> None:
    store.save_session(a_session("ses_1"))
    for key, session_id in {"kept": "ses_1", "gone": "ses_0", "free": None, "deleted": "ses_0"}.items():
        store.artifacts.register(an_artifact(key, session_id=session_id))
    store.artifacts.delete("deleted")

    assert store.maintenance.clean_orphaned_artifacts() == 2
    assert [bool(store.artifacts.get_by_key(key)) for key in ("kept", "gone", "free")] == [True, False, True]


def test_artifacts_of_a_session_that_is_yet_to_be_saved_are_kept(store: Any) -> None:
    store.append_event(an_event("with events"))
    store.save_run(asm.Run(session_id="with a run"))
    for name in ("with events", "with a run"):
        store.artifacts.register(an_artifact(name, session_id=name))

    assert store.maintenance.clean_orphaned_artifacts() == 0


def test_artifacts_of_a_session_without_a_row_whose_events_were_all_pruned_are_kept(store: Any) -> None:
    appended(store, "alone", "message_sent", timestamp=days_ago(1))
    appended(store, "later", "message_sent")
    store.artifacts.register(an_artifact(session_id="alone"))
    policy = only_pruning(max_total_events=1)

    dry = store.maintenance.execute(policy, dry_run=True)

    assert (counted(dry), dry.events_pruned) == (counted(store.maintenance.execute(policy)), 1)
    assert store.artifacts.get_by_key("report.pdf") is not None


def test_counters_of_sessions_that_are_gone_are_cleaned(where: Where, store: Any) -> None:
    store.save_session(a_session("saved"))
    for name in ("saved", "with events", "gone"):
        store.append_event(an_event(name, "message_streamed"))
    fetch_rows(where.dsn, "delete from asm_events where session_id in ('saved', 'gone')")

    assert store.maintenance.clean_orphaned_sequences() == 1
    left = fetch_rows(where.dsn, "select session_id from asm_session_sequences order by session_id")
    assert left == [("saved",), ("with events",)]


def test_a_session_without_a_row_whose_events_were_all_pruned_goes_on_counting(store: Any) -> None:
    appended(store, "ses_1", "message_sent", "message_sent")
    appended(store, "ses_2", "session_created")

    report = store.maintenance.execute(only_pruning(max_total_events=1))

    assert (report.events_pruned, report.orphaned_sequences_cleaned) == (2, 0)
    assert store.append_event(an_event("ses_1")).sequence_number == 3


def test_more_orphans_than_a_batch_holds_are_all_cleaned(where: Where, store: Any) -> None:
    with store.transaction() as tx:
        for number in range(230):
            tx.artifacts.register(an_artifact(f"key_{number}", session_id=f"ses_{number // 2:03}"))
            tx.append_event(an_event(f"other_{number:03}"))
    fetch_rows(where.dsn, "delete from asm_events")

    report = store.maintenance.execute(a_policy(batch_size=7))

    assert (report.artifacts_cleaned, report.orphaned_sequences_cleaned) == (230, 230)


# Doing it all.


@pytest.mark.parametrize("fields", POLICIES.values(), ids=POLICIES)
def test_a_dry_run_says_the_numbers_of_a_real_one(where: Where, store: Any, fields: dict[str, Any]) -> None:
    a_full_store(store, where)
    policy = a_policy(batch_size=3, **fields)

    dry = store.maintenance.execute(policy, dry_run=True)

    assert counted(dry) == counted(store.maintenance.execute(policy))
    assert any(counted(dry).values())


def test_a_dry_run_counts_nothing_that_a_real_one_would_leave(store: Any) -> None:
    store.save_session(a_session("pinned", deleted=31, tags=("pinned",)))
    store.save_session(a_session("bare"))
    store.artifacts.register(an_artifact("bare", session_id="bare"))
    store.append_events(events_of("pinned", 3))
    store.artifacts.register(an_artifact("pinned", session_id="pinned"))
    store.save_run(asm.Run(session_id="alone"))
    store.artifacts.register(an_artifact("alone", session_id="alone"))
    store.append_events(events_of("pruned", 3))
    store.maintenance.prune_session_events("pruned", a_policy(max_events_per_session=1))
    store.artifacts.register(an_artifact("pruned", session_id="pruned"))
    policy = a_policy(max_events_per_session=1, archive=lambda _: None)

    dry = store.maintenance.execute(policy, dry_run=True)

    assert (counted(dry), dry.errors) == (dict.fromkeys(STEPS, 0), [])


def test_a_dry_run_that_archives_leaves_out_what_has_no_row(store: Any) -> None:
    store.append_events(events_of("alone", 3))
    policy = a_policy(max_events_per_session=1, archive=lambda _: None)

    assert store.maintenance.execute(policy, dry_run=True).events_pruned == 0


def test_a_dry_run_changes_nothing(where: Where, store: Any) -> None:
    a_full_store(store, where)
    archived: list[asm.SessionExport] = []
    before = everything(where)

    policy = a_policy(max_events_per_session=5, max_total_events=40, archive=archived.append)
    store.maintenance.execute(policy, dry_run=True)

    assert (everything(where), archived) == (before, [])


@pytest.mark.parametrize("fields", POLICIES.values(), ids=POLICIES)
def test_a_second_run_finds_nothing_to_do(where: Where, store: Any, fields: dict[str, Any]) -> None:
    a_full_store(store, where)
    policy = a_policy(batch_size=3, **fields)
    store.maintenance.execute(policy)

    assert counted(store.maintenance.execute(policy)) == dict.fromkeys(STEPS, 0)


def test_after_maintenance_a_store_is_as_healthy_as_before(where: Where, store: Any) -> None:
    a_full_store(store, where)

    store.maintenance.execute(a_policy(max_events_per_session=5, max_total_events=60))

    found = [(issue.code, issue.session_id) for issue in store.maintenance.health_check()]
    assert found == [("events_without_session", "alone")]


def test_a_report_tells_how_long_it_took(store: Any) -> None:
    report = store.maintenance.execute(a_policy())

    assert (report.duration_ms >= 0, report.errors) == (True, [])


def test_progress_is_told_after_each_batch(store: Any) -> None:
    for number in range(5):
        store.save_session(a_session(f"ses_{number}", untouched=91))
    heard: list[tuple[str, int]] = []

    store.maintenance.execute(a_policy(batch_size=2), progress=lambda *told: heard.append(told))

    assert heard == [("sessions_soft_deleted", number) for number in (2, 4, 5)]


REFUSE_DELETING = {
    "postgres": [
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$",
        "create trigger refuse before delete on asm_events for each row execute function refuse()",
    ],
    "sqlite": ["create trigger refuse before delete on asm_events begin select raise(abort, 'no'); end"],
}


def test_a_step_that_fails_is_reported_and_the_others_run(where: Where, store: Any) -> None:
    a_full_store(store, where)
    for statement in REFUSE_DELETING[where.dialect]:
        fetch_rows(where.dsn, statement)

    report = store.maintenance.execute(a_policy(max_events_per_session=5))

    assert [failure.step for failure in report.errors] == ["sessions_hard_deleted", "events_pruned"]
    assert all("no" in str(failure.error) for failure in report.errors)
    assert (report.sessions_soft_deleted > 0, report.artifacts_cleaned) == (True, 1)


def test_an_operation_alone_raises_what_went_wrong(where: Where, store: Any) -> None:
    a_full_store(store, where)
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
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(asm.ValidationError):
        a_policy(**fields)


@pytest.mark.parametrize("policy", [None, {}, "policy"])
def test_what_is_no_policy_is_refused_before_anything_is_touched(store: Any, policy: Any) -> None:
    maintenance = store.maintenance
    for operation in (
        maintenance.execute,
        maintenance.soft_delete_expired_sessions,
        maintenance.hard_delete_expired_sessions,
        lambda policy: maintenance.prune_session_events("ses_1", policy),
    ):
        with pytest.raises(asm.ValidationError, match="RetentionPolicy"):
            operation(policy)


def test_a_session_id_that_makes_no_sense_is_refused(store: Any) -> None:
    with pytest.raises(asm.ValidationError, match="session_id"):
        store.maintenance.prune_session_events("", a_policy())


def test_progress_must_be_a_function(store: Any) -> None:
    with pytest.raises(asm.ValidationError, match="progress"):
        store.maintenance.execute(a_policy(), progress="loud")


def test_maintenance_is_not_part_of_a_transaction(store: Any) -> None:
    with store.transaction() as tx, pytest.raises(AttributeError):
        _ = tx.maintenance
