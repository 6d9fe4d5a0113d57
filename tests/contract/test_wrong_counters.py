"""A counter may say anything: retention counts the rows, and nothing loops over a number or overflows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

import asm
from asm.cli import copying
from asm.maintenance import run
from asm.migrations.runner import status
from tests.conftest import POSTGRES, Where, an_artifact, an_event, events_of, numbers
from tests.contract.other_clients import fetch_rows, only
from tests.contract.retention_data import (
    a_policy,
    a_session,
    append_types,
    only_pruning,
    session_ids,
    stored_numbers,
)

HUGE = 2**62
LAST = 2**63 - 1


def set_counter(dsn: str, session_id: str, last: int, pruned: int = 0) -> None:
    fetch_rows(dsn, f"delete from asm_session_sequences where session_id = '{session_id}'")
    fetch_rows(
        dsn,
        "insert into asm_session_sequences (session_id, last_sequence, pruned_events, updated_at) "
        f"values ('{session_id}', {last}, {pruned}, '2026-01-01T00:00:00.000000Z')",
    )


def fill(store: Any) -> None:
    for name in ("a", "b", "c"):
        store.save_session(a_session(name))
        store.append_events(events_of(name, 10))


# Retention.


@pytest.mark.parametrize("forged", [1, 3])
@pytest.mark.parametrize(("keep", "pruned"), [(30, 0), (25, 5)])
def test_a_counter_that_says_too_much_makes_no_other_session_lose_an_event(
    store: Any, migrated: str, forged: int, keep: int, pruned: int
) -> None:
    fill(store)
    for number in range(forged):
        set_counter(migrated, f"forged_{number}", HUGE)
    policy = only_pruning(max_total_events=keep)

    dry = store.maintenance.execute(policy, dry_run=True)
    done = store.maintenance.execute(policy)

    assert (dry.errors, dry.events_pruned) == (done.errors, done.events_pruned) == ([], pruned)
    assert sum(len(store.get_events(name)) for name in ("a", "b", "c")) == 30 - pruned


def test_a_counter_that_grows_during_a_run_makes_no_other_session_lose_an_event(
    store: Any, migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 2)
    fill(store)

    def forge(step: str, _: int) -> None:
        if step == "events_pruned":
            set_counter(migrated, "forged", HUGE)

    policy = only_pruning(max_total_events=25)
    report = store.maintenance.execute(policy, progress=forge)

    assert (report.errors, report.events_pruned) == ([], 5)


@pytest.mark.parametrize(("last", "pruned"), [(HUGE, 0), (LAST, 0), (LAST, LAST - 3), (LAST, LAST), (3, 0)])
def test_of_a_session_with_a_wrong_counter_no_more_events_are_pruned_than_it_has_too_many(
    store: Any, migrated: str, last: int, pruned: int
) -> None:
    fill(store)
    set_counter(migrated, "a", last, pruned)

    for keep in (10, 4, 2**63 - 2):
        report = store.maintenance.execute(only_pruning(max_events_per_session=keep))
        assert report.errors == []

    assert len(store.get_events("a")) >= 4
    assert [len(store.get_events(name)) for name in ("b", "c")] == [4, 4]


@pytest.mark.parametrize("counted", [0, HUGE, LAST])
def test_a_session_is_hard_deleted_whatever_its_counter_says(
    store: Any, where: Where, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 4)
    fill(store)
    store.save_session(a_session("a", deleted_days_ago=31))
    set_counter(where.dsn, "a", counted)

    assert store.maintenance.hard_delete_expired_sessions(a_policy()) == 1
    assert session_ids(store) == ["b", "c"]
    assert fetch_rows(where.dsn, "select session_id from asm_events where session_id = 'a'") == []


REMOVALS: dict[str, Callable[[Any], Any]] = {
    "pop_event": lambda store: store.pop_event("a").sequence_number == 10,
    "delete_events": lambda store: store.delete_events("a", after=9) == 1,
    "prune_session_events": lambda store: (
        store.maintenance.prune_session_events("a", a_policy(max_events_per_session=9)) == 1
    ),
}


@pytest.mark.parametrize("removed_by", REMOVALS)
def test_an_event_is_removed_although_the_counter_says_that_fewer_are_stored(
    store: Any, migrated: str, removed_by: str
) -> None:
    fill(store)
    counter = (100, 90) if removed_by == "prune_session_events" else (10, 10)
    set_counter(migrated, "a", *counter)

    assert REMOVALS[removed_by](store)
    assert len(stored_numbers(store, "a")) == 9


# Everything else ends, and raises no error of a driver.


COUNTERS = [(HUGE, 0), (LAST, 0), (LAST, LAST), (LAST, HUGE)]


@contextmanager
def raising_errors_of_ours() -> Iterator[None]:
    with suppress(asm.AsmError):
        yield


@pytest.mark.parametrize("counter", COUNTERS, ids=str)
def test_everything_that_reads_ends_whatever_a_counter_says(
    store: Any, migrated: str, counter: tuple[int, int]
) -> None:
    fill(store)
    set_counter(migrated, "a", *counter)
    set_counter(migrated, "b", *counter)
    calls: list[Callable[[], Any]] = [
        lambda: store.maintenance.health_check(),
        lambda: store.maintenance.execute(a_policy(max_events_per_session=20, max_total_events=40)),
        lambda: store.maintenance.soft_delete_expired_sessions(a_policy()),
        lambda: store.maintenance.hard_delete_expired_sessions(a_policy()),
        lambda: store.maintenance.prune_session_events("a", a_policy(max_events_per_session=20)),
        lambda: store.maintenance.clean_orphaned_artifacts(),
        lambda: store.maintenance.clean_orphaned_sequences(),
        lambda: store.query.search_sessions(count_total=True),
        lambda: store.query.search_events(session_ids="a"),
        lambda: store.query.count_events(session_ids="a"),
        lambda: store.query.get_session_stats("a"),
        lambda: store.query.search_runs(session_id="a"),
        lambda: store.query.get_usage_summary(session_id="a"),
        lambda: store.query.get_cost_summary(session_id="a"),
        lambda: store.get_events("a", last=3),
        lambda: store.get_events("a", after=10, wait_timeout=0.01),
        lambda: list(store.iter_events("a", page_size=3)),
        lambda: list(store.follow_events("a", page_size=3, idle_timeout=0.01)),
        lambda: store.get_latest_sequence("a"),
        lambda: status(migrated).rows,
    ]

    for call in calls:
        assert not getattr(call(), "errors", None)
    with raising_errors_of_ours():
        store.query.export_session("a")
    with raising_errors_of_ours():
        store.fork_session("a", id="child")

    assert len(store.get_events("b")) == 10


def test_the_health_check_reports_a_counter_that_says_too_much(store: Any, migrated: str) -> None:
    fill(store)
    set_counter(migrated, "a", LAST)
    set_counter(migrated, "b", LAST, LAST)

    codes = {(issue.session_id, issue.code) for issue in store.maintenance.health_check()}

    assert codes == {("a", "counter_ahead"), ("b", "pruned_miscounted")}


def test_the_status_adds_up_counters_beyond_64_bits(store: Any, migrated: str) -> None:
    store.append_events(events_of("a", 10))
    set_counter(migrated, "b", LAST)
    set_counter(migrated, "c", LAST, 1)

    assert status(migrated).rows["events"] == 10 + LAST + LAST - 1


def test_the_sizes_of_artifacts_add_up_beyond_64_bits(store: Any, migrated: str) -> None:
    for key in ("a", "b", "c"):
        store.artifacts.register(an_artifact(key, session_id="ses_1"))
    fetch_rows(migrated, f"update asm_artifacts set byte_size = {LAST}")

    assert store.artifacts.session_stats("ses_1").total_bytes == 3 * LAST


@only(POSTGRES, why="SQLite adds up 64 bits, which nine million runs with the largest counts do not exceed")
def test_token_counts_add_up_beyond_64_bits(store: Any, migrated: str) -> None:
    store.save_session(a_session("a"))
    for number in range(6):
        status = "running" if number % 2 else "completed"
        store.save_run(asm.Run(session_id="a", id=f"run_{number}", status=status, provider="claude"))
    fetch_rows(migrated, "alter table asm_runs drop constraint asm_runs_token_counts_within_bounds")
    fetch_rows(migrated, f"update asm_runs set input_tokens = {LAST}, total_tokens = {LAST}")
    final = f"final_input_tokens = {LAST}, final_total_tokens = {LAST}"
    fetch_rows(migrated, f"update asm_runs set {final} where final_total_tokens is not null")

    assert store.query.get_usage_summary().input_tokens == 6 * LAST
    assert store.query.get_session_stats("a").token_totals["total_tokens"] == 6 * LAST
    assert store.query.get_cost_summary().run_count == 6


@pytest.mark.parametrize("number", [1_000, HUGE])
def test_a_copy_reads_the_events_and_not_the_numbers_between_them(
    store: Any, migrated: str, other: str, number: int
) -> None:
    append_types(store, "a", *["message_sent"] * 120)
    append_types(store, "b", *["message_sent"] * 3)
    fetch_rows(migrated, f"update asm_events set sequence_number = {number} where sequence_number = 120")
    set_counter(migrated, "a", number, number - 120)

    with asm.SessionStore(migrated) as source, asm.SessionStore(other) as target:
        for _ in range(2):
            list(copying.copy(source, target))
            assert target.get_events("a") == source.get_events("a")
            assert target.get_events("b") == source.get_events("b")
        assert numbers(target.get_events("a"))[-1] == number
        assert target.append_event(an_event("a")).sequence_number == number + 1
