"""`asm maintain` and `asm health`: their options, output and exit statuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import asm
from tests.conftest import events_of, numbers
from tests.contract.retention_data import a_session, append_types, session_ids
from tests.contract.test_cli import invoke, output_of


@pytest.fixture
def store(migrated: str) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(migrated) as store:
        yield store


def test_maintain_prints_what_it_has_done(migrated: str, store: asm.SessionStore) -> None:
    store.save_session(a_session("old", updated_days_ago=91))
    store.save_session(a_session("older", deleted_days_ago=31))

    lines = output_of("maintain", "--dsn", migrated).splitlines()

    assert [line.split() for line in lines] == [
        ["sessions", "soft", "deleted", "1"],
        ["sessions", "hard", "deleted", "1"],
        ["events", "pruned", "0"],
        ["artifacts", "cleaned", "0"],
        ["orphaned", "sequences", "cleaned", "0"],
    ]
    assert session_ids(store) == ["old"]


def test_a_dry_run_says_that_nothing_was_changed(migrated: str, store: asm.SessionStore) -> None:
    store.save_session(a_session(deleted_days_ago=31))

    printed = output_of("maintain", "--dry-run", "--dsn", migrated)

    assert printed.startswith("dry run: nothing was changed")
    assert session_ids(store) == ["ses_1"]


def test_maintain_prints_json(migrated: str, store: asm.SessionStore) -> None:
    append_types(store, "ses_1", *["message_sent"] * 5)

    report = json.loads(output_of("maintain", "--json", "--max-events-per-session", "2", "--dsn", migrated))

    assert report.pop("duration_ms") >= 0
    assert report == {
        "sessions_soft_deleted": 0,
        "sessions_hard_deleted": 0,
        "events_pruned": 3,
        "artifacts_cleaned": 0,
        "orphaned_sequences_cleaned": 0,
        "errors": [],
    }


def test_every_field_of_a_policy_is_an_option(migrated: str, store: asm.SessionStore, tmp_path: Path) -> None:
    store.save_session(a_session("pending", status="pending", updated_days_ago=6))
    store.save_session(a_session("completed", updated_days_ago=4))
    store.save_session(a_session("active", status="active", updated_days_ago=20))
    store.save_session(a_session("failed", status="failed", updated_days_ago=20))
    store.save_session(a_session("tagged", updated_days_ago=20, tags=("keep",)))
    store.save_session(a_session("due", deleted_days_ago=3))
    append_types(store, "active", "acme.noise", *["message_sent"] * 4)
    append_types(store, "pending", *["message_sent"] * 4)
    options = {
        "--max-session-age-days": 5,
        "--max-completed-session-age-days": 3,
        "--hard-delete-after-days": 2,
        "--max-events-per-session": 4,
        "--max-total-events": 7,
        "--exempt-tag": "keep",
        "--exempt-status": "failed",
        "--prune-first": "acme.noise",
        "--archive": tmp_path / "archive",
        "--batch-size": 1,
    }

    output_of("maintain", "--dsn", migrated, *(str(word) for option in options.items() for word in option))

    sessions = store.list_sessions(include_deleted=True)
    assert {session.id for session in sessions if session.deleted_at} == {"pending", "completed", "active"}
    assert session_ids(store) == ["active", "completed", "failed", "pending", "tagged"]
    left = numbers(store.get_events("active")), numbers(store.get_events("pending"))
    assert left == ([3, 4, 5], [1, 2, 3, 4])
    assert {file.name for file in (tmp_path / "archive").iterdir()} == {"active.jsonl.gz", "due.jsonl.gz"}


def test_a_limit_may_be_never(migrated: str, store: asm.SessionStore) -> None:
    store.save_session(a_session("old", updated_days_ago=1_000))
    store.save_session(a_session("older", deleted_days_ago=1_000))
    never = ["--max-completed-session-age-days", "never", "--hard-delete-after-days", "never"]

    output_of("maintain", "--dsn", migrated, *never)

    assert [session.id for session in store.list_sessions()] == ["old"]
    assert session_ids(store) == ["old", "older"]


def test_an_archived_session_can_be_imported(migrated: str, store: asm.SessionStore, tmp_path: Path) -> None:
    store.flush(a_session(deleted_days_ago=31), asm.Run(session_id="ses_1"), events_of("ses_1", 3))
    export = store.query.export_session("ses_1")
    output_of("maintain", "--dsn", migrated, "--archive", tmp_path / "archive")
    assert session_ids(store) == []

    output_of("import", tmp_path / "archive", "--dsn", migrated)

    assert store.query.export_session("ses_1") == export


def test_a_failed_step_is_reported_with_exit_status_1(
    migrated: str, store: asm.SessionStore, tmp_path: Path
) -> None:
    store.save_session(a_session(deleted_days_ago=31))
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "ses_1.jsonl.gz").write_text("something else")

    result = invoke("maintain", "--dsn", migrated, "--archive", tmp_path / "archive")

    assert (result.exit_code, session_ids(store)) == (1, ["ses_1"])
    assert result.stderr.startswith("asm: sessions_hard_deleted of session 'ses_1': ")


@pytest.mark.parametrize("bound", ["0", "-1", "1.5", "many"])
def test_a_limit_that_is_not_a_positive_number_is_refused(bound: str) -> None:
    result = invoke("maintain", "--max-total-events", bound)

    assert result.exit_code == 2
    assert "of at least 1" in result.stderr


def test_health_of_a_consistent_store_finds_nothing(migrated: str, store: asm.SessionStore) -> None:
    store.flush(a_session(), asm.Run(session_id="ses_1"), events_of("ses_1", 3))

    assert output_of("health", "--dsn", migrated) == "healthy\n"
    assert json.loads(output_of("health", "--json", "--dsn", migrated)) == []


def test_health_prints_issues_with_exit_status_1(migrated: str, store: asm.SessionStore) -> None:
    store.append_events(events_of("alone", 3))

    result = invoke("health", "--dsn", migrated)

    assert result.exit_code == 1
    assert result.stdout == "alone  events_without_session  3 events of a session that does not exist\n"


def test_health_prints_issues_as_json(migrated: str, store: asm.SessionStore) -> None:
    store.append_events(events_of("alone", 3))

    result = invoke("health", "--json", "--dsn", migrated)

    assert result.exit_code == 1
    assert json.loads(result.stdout) == [
        {
            "code": "events_without_session",
            "message": "3 events of a session that does not exist",
            "session_id": "alone",
        }
    ]
