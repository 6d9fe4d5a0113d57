"""The health check: every inconsistency is an issue, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import asm
from asm.maintenance import health
from tests.conftest import Where, an_artifact, an_event, events_of
from tests.contract.other_clients import fetch_rows
from tests.contract.retention_data import a_session, only_pruning


def fill_healthy_store(store: Any) -> None:
    for name in ("a", "b", "c"):
        run = asm.Run(session_id=name, status="running" if name == "a" else "completed")
        store.flush(a_session(name), run, events_of(name, 4, type="message_streamed"))
        store.save_run(asm.Run(session_id=name, status="completed"))
        store.artifacts.register(an_artifact(name, session_id=name))
    store.artifacts.register(an_artifact("free"))
    store.save_session(a_session("empty"))
    store.maintenance.execute(only_pruning(max_events_per_session=3))
    store.append_events(events_of("c", 2))
    pruned_events = [
        an_event("d", type) for type in ("session_created", "message_streamed", "message_streamed")
    ]
    store.flush(a_session("d"), asm.Run(session_id="d"), pruned_events)
    # Prunes the latest event of the session.
    store.maintenance.prune_session_events("d", only_pruning(max_events_per_session=1))


INCONSISTENCIES: dict[str, tuple[str, set[str]]] = {
    "events without a session": ("delete from asm_sessions where id = 'b'", {"events_without_session"}),
    "runs without a session": (
        "update asm_runs set session_id = 'missing' where session_id = 'b'",
        {"runs_without_session"},
    ),
    "artifacts without a session": (
        "update asm_artifacts set session_id = 'missing' where key = 'b'",
        {"artifacts_without_session"},
    ),
    "a counter behind its events": (
        "update asm_session_sequences set last_sequence = 2 where session_id = 'b'",
        {"counter_behind"},
    ),
    "a counter that is missing": (
        "delete from asm_session_sequences where session_id = 'c'",
        {"counter_behind", "sequence_holes"},
    ),
    "a counter ahead of its events": (
        "update asm_session_sequences set last_sequence = 9 where session_id = 'b'",
        {"counter_ahead"},
    ),
    "a latest event that is missing": (
        "delete from asm_events where session_id = 'c' and sequence_number = 6",
        {"counter_ahead"},
    ),
    "a hole": ("delete from asm_events where session_id = 'c' and sequence_number = 3", {"sequence_holes"}),
    "pruned events that are there": (
        "update asm_session_sequences set pruned_events = 2 where session_id = 'b'",
        {"pruned_miscounted"},
    ),
    "pruned events that were not counted": (
        "update asm_session_sequences set pruned_events = 0 where session_id = 'b'",
        {"sequence_holes"},
    ),
    "several running runs": (
        "update asm_runs set status = 'running' where session_id = 'a'",
        {"several_running_runs"},
    ),
}


def test_an_empty_store_is_healthy(store: Any) -> None:
    assert store.maintenance.health_check() == []


def test_a_store_with_pruned_and_empty_sessions_is_healthy(store: Any) -> None:
    fill_healthy_store(store)

    assert store.maintenance.health_check() == []


@pytest.mark.parametrize(("statement", "codes"), INCONSISTENCIES.values(), ids=INCONSISTENCIES)
def test_each_inconsistency_is_found(where: Where, store: Any, statement: str, codes: set[str]) -> None:
    fill_healthy_store(store)
    fetch_rows(where.dsn, statement)

    issues = store.maintenance.health_check()

    assert {issue.code for issue in issues} >= codes
    assert all(issue.session_id in ("a", "b", "c", "missing") and issue.message for issue in issues)


@pytest.mark.parametrize(
    "inconsistency", [name for name in INCONSISTENCIES if name != "events without a session"]
)
def test_one_inconsistency_is_one_issue(where: Where, store: Any, inconsistency: str) -> None:
    fill_healthy_store(store)
    statement, codes = INCONSISTENCIES[inconsistency]
    fetch_rows(where.dsn, statement)

    assert sorted(issue.code for issue in store.maintenance.health_check()) == sorted(codes)


def test_a_counter_behind_its_events_is_found_even_if_the_counts_agree(where: Where, store: Any) -> None:
    fill_healthy_store(store)
    fetch_rows(where.dsn, "delete from asm_events where session_id = 'c' and sequence_number < 6")
    fetch_rows(
        where.dsn,
        "update asm_session_sequences set last_sequence = 1, pruned_events = 0 where session_id = 'c'",
    )

    codes = {issue.code for issue in store.maintenance.health_check()}

    assert codes == {"counter_behind", "sequence_holes"}


def test_a_missing_session_is_reported_for_each_kind_of_row(where: Where, store: Any) -> None:
    fill_healthy_store(store)
    fetch_rows(where.dsn, "delete from asm_sessions where id = 'b'")

    issues = store.maintenance.health_check()

    assert [(issue.code, issue.session_id) for issue in issues] == [
        ("events_without_session", "b"),
        ("runs_without_session", "b"),
        ("artifacts_without_session", "b"),
    ]


def test_an_issue_says_how_many_rows_it_concerns(store: Any) -> None:
    store.append_events(events_of("alone", 3))

    (issue,) = store.maintenance.health_check()

    assert issue.message == "3 events of a session that does not exist"


def test_issues_between_the_ends_of_two_ranges_are_found(
    where: Where, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "SESSIONS_PER_STATEMENT", 2)
    for number in range(9):
        store.append_event(an_event(f"ses_{number}"))
    fetch_rows(where.dsn, "delete from asm_session_sequences where session_id in ('ses_0', 'ses_4', 'ses_8')")
    store.save_run(asm.Run(session_id="a"))
    store.save_run(asm.Run(session_id="z"))

    issues = store.maintenance.health_check()

    assert sorted(issue.session_id for issue in issues if issue.code == "events_without_session") == [
        f"ses_{number}" for number in range(9)
    ]
    assert sorted(issue.session_id for issue in issues if issue.code == "counter_behind") == [
        "ses_0",
        "ses_4",
        "ses_8",
    ]
    assert [issue.session_id for issue in issues if issue.code == "runs_without_session"] == ["a", "z"]


@pytest.mark.parametrize("sessions", [1, 2, 3])
def test_a_healthy_store_is_healthy_for_every_size_of_range(
    store: Any, monkeypatch: pytest.MonkeyPatch, sessions: int
) -> None:
    monkeypatch.setattr(health, "SESSIONS_PER_STATEMENT", sessions)
    fill_healthy_store(store)

    assert store.maintenance.health_check() == []


def test_an_issue_at_the_end_of_a_range_is_reported_once(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SESSIONS_PER_STATEMENT", 2)
    names = [f"ses_{number}" for number in range(5)]
    for name in names:
        store.append_event(an_event(name))
        store.artifacts.register(an_artifact(name, session_id=name))
        for _ in range(2):
            store.save_run(asm.Run(session_id=name, status="running"))

    issues = [(issue.session_id, issue.code) for issue in store.maintenance.health_check()]

    codes = "artifacts_without_session events_without_session runs_without_session several_running_runs"
    assert sorted(issues) == [(name, code) for name in names for code in codes.split()]


def test_the_number_of_issues_is_limited(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ISSUES_MAX", 3)
    for number in range(5):
        store.append_event(an_event(f"ses_{number}"))
        store.save_run(asm.Run(session_id=f"ses_{number}"))

    assert len(store.maintenance.health_check()) == 3


def test_concurrent_writes_are_not_reported_as_issues(where: Where, opened: Callable[..., Any]) -> None:
    store = opened(where.dsn)
    finished = threading.Event()

    def write(name: str) -> int:
        number = 0
        while not finished.is_set():
            session = a_session(f"{name}_{number % 5}")
            store.flush(session, asm.Run(session_id=session.id), events_of(session.id, 3))
            store.maintenance.prune_session_events(session.id, only_pruning(max_events_per_session=5))
            if number % 3 == 0:
                store.delete_session(session.id)
            number += 1
        return number

    with ThreadPoolExecutor(2) as threads:
        writers = [threads.submit(write, name) for name in ("a", "b")]
        try:
            found = [issue for _ in range(25) for issue in store.maintenance.health_check()]
        finally:
            finished.set()
        assert all(each.result() for each in writers)
    assert found == []
