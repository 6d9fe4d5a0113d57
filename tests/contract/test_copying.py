"""`asm copy`: a whole store is copied into another."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from click.testing import CliRunner, Result

import asm
from asm.cli import copying
from asm.cli.command import cli
from tests.conftest import POSTGRES, an_artifact, an_event, events_of, numbers
from tests.contract.other_clients import fetch_rows, only, running
from tests.contract.test_cli import terminal_output

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def source_dsn(tmp_path: Path) -> str:
    """A SQLite file with tables, the usual source of a copy."""
    dsn = f"sqlite:///{tmp_path / 'source.db'}"
    asm.migrate(dsn)
    return dsn


@pytest.fixture
def source(source_dsn: str) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(source_dsn) as store:
        yield store


@pytest.fixture
def target(migrated: str) -> Iterator[asm.SessionStore]:
    """The target of a copy, on every database."""
    with asm.SessionStore(migrated) as store:
        yield store


def fill(store: asm.SessionStore, sessions: int = 3, events: int = 4) -> None:
    with store.transaction() as tx:
        for number in range(sessions):
            session_id = f"ses_{number:06}"
            tx.save_session(asm.Session(agent_id="a", id=session_id, tags=("t",), metadata={"n": number}))
            tx.save_run(asm.Run(session_id=session_id, token_usage={"input_tokens": number}))
            tx.append_events(events_of(session_id, events))
            tx.artifacts.register(an_artifact(f"key {number}", session_id=session_id))


def exports_of(store: asm.SessionStore) -> list[asm.SessionExport]:
    return [
        store.query.export_session(session.id, include_artifacts=True)
        for session in sorted(store.list_sessions(include_deleted=True), key=lambda each: each.id)
    ]


def copy_all(source: asm.SessionStore, target: asm.SessionStore) -> int:
    """Copy everything, and return the number of rows."""
    return sum(copying.copy(source, target))


def test_a_copy_has_the_same_exports_as_its_source(
    source: asm.SessionStore, target: asm.SessionStore
) -> None:
    fill(source)
    copy_all(source, target)
    assert exports_of(target) == exports_of(source)


def test_appends_to_a_copy_continue_the_sequence(source: asm.SessionStore, target: asm.SessionStore) -> None:
    fill(source, events=4)
    copy_all(source, target)
    assert target.append_event(an_event("ses_000001")).sequence_number == 5


def test_soft_deleted_sessions_are_copied(source: asm.SessionStore, target: asm.SessionStore) -> None:
    session = asm.Session(agent_id="a", deleted_at=NOON)
    source.save_session(session)
    copy_all(source, target)
    assert target.get_session(session.id) == session


def test_rows_without_a_session_are_copied(source: asm.SessionStore, target: asm.SessionStore) -> None:
    run = asm.Run(session_id="nobody's")
    source.save_run(run)
    source.append_events(events_of("nobody's", 3))
    copy_all(source, target)
    assert target.get_run(run.id) == run
    assert target.get_events("nobody's") == source.get_events("nobody's")


def test_artifacts_are_copied_with_and_without_a_session(
    source: asm.SessionStore, target: asm.SessionStore
) -> None:
    for key, session_id in (("a", "ses_1"), ("b", None), ("gone", None)):
        source.artifacts.register(an_artifact(key, session_id=session_id, created_at=NOON))
    source.artifacts.delete("gone")
    copy_all(source, target)
    assert [target.artifacts.get_by_key(key) for key in ("a", "b", "gone")] == [
        source.artifacts.get_by_key(key) for key in ("a", "b", "gone")
    ]
    assert copying.count_rows(target)["artifacts"] == 3


def test_pruned_sessions_are_copied_with_their_gaps(
    source: asm.SessionStore, target: asm.SessionStore, source_dsn: str
) -> None:
    fill(source, sessions=1, events=1_700)
    fetch_rows(source_dsn, "delete from asm_events where sequence_number in (1, 500, 501, 1300, 1700)")
    fetch_rows(source_dsn, "update asm_session_sequences set pruned_events = 5")
    copy_all(source, target)
    (export,) = exports_of(target)
    assert [export] == exports_of(source)
    assert (export.last_sequence, export.pruned_events) == (1_700, 5)


def test_a_session_whose_events_are_all_pruned_is_copied(
    source: asm.SessionStore, target: asm.SessionStore, source_dsn: str
) -> None:
    fill(source, sessions=1, events=3)
    fetch_rows(source_dsn, "delete from asm_events")
    fetch_rows(source_dsn, "update asm_session_sequences set pruned_events = 3")
    rows = sum(copying.count_rows(source).values())
    assert [copy_all(source, target) for _ in range(2)] == [rows, rows]
    assert exports_of(target) == exports_of(source)


def test_copying_again_changes_nothing(source: asm.SessionStore, target: asm.SessionStore) -> None:
    fill(source)
    first = copy_all(source, target)
    before = exports_of(target)
    assert copy_all(source, target) == first
    assert exports_of(target) == before


def test_copying_again_adds_new_rows(source: asm.SessionStore, target: asm.SessionStore) -> None:
    fill(source, events=4)
    copy_all(source, target)
    source.append_events(events_of("ses_000001", 3))
    source.save_session(asm.Session(agent_id="late"))
    copy_all(source, target)
    assert exports_of(target) == exports_of(source)


def test_a_copy_interrupted_after_any_batch_is_completed_by_another(
    source: asm.SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "ROWS_PER_READ", 2)
    monkeypatch.setattr(copying, "ROWS_PER_BATCH", 3)
    fill(source, sessions=4, events=5)
    source.append_events(events_of("alone", 4))
    whole = exports_of(source)
    for stopped_after in count(1):
        dsn = f"sqlite:///{tmp_path / f'{stopped_after}.db'}"
        with asm.SessionStore(dsn, migrate=True) as target:
            batches = len(list(islice(copying.copy(source, target), stopped_after)))
            copy_all(source, target)
            assert (exports_of(target), target.get_events("alone")) == (whole, source.get_events("alone"))
        if batches < stopped_after:
            break
    assert stopped_after > 10


def test_events_that_the_target_has_are_not_read_again(
    source: asm.SessionStore, target: asm.SessionStore
) -> None:
    fill(source, sessions=1, events=1_200)
    target.append_events(source.get_events("ses_000000", limit=1_100))
    *_, there, rest = copying.copy(source, target)
    assert (there, rest) == (1_100, 101)


def test_a_batch_of_large_events_has_fewer_of_them(
    source: asm.SessionStore, target: asm.SessionStore
) -> None:
    source.append_events(events_of("ses_1", 150, metadata={"picture": "x" * 100_000}))
    _, *batches = copying.copy(source, target)
    assert batches == [100, 50]
    assert target.get_events("ses_1") == source.get_events("ses_1")


def test_other_sessions_of_the_target_are_kept(source: asm.SessionStore, target: asm.SessionStore) -> None:
    fill(source)
    fill(target, sessions=1)
    own = asm.Session(agent_id="own")
    with pytest.raises(asm.Conflict):
        copy_all(source, target)
    target.delete_session("ses_000000")
    target.save_session(own)
    copy_all(source, target)
    assert target.get_session(own.id) == own
    assert len(exports_of(target)) == 4


def test_a_session_that_was_continued_in_the_target_is_a_conflict(
    source: asm.SessionStore, target: asm.SessionStore
) -> None:
    fill(source, sessions=1, events=4)
    copy_all(source, target)
    target.append_event(an_event("ses_000000"))
    source.append_events(events_of("ses_000000", 3))
    with pytest.raises(asm.Conflict, match="another event 5"):
        copy_all(source, target)
    assert numbers(target.get_events("ses_000000")) == [1, 2, 3, 4, 5]


def test_memory_holds_no_more_than_a_batch(source: asm.SessionStore, target: asm.SessionStore) -> None:
    for number in range(3):
        batch = events_of(f"ses_{number}", 2_000, metadata={"text": "x" * 2_000})
        source.append_events(batch)
    del batch
    tracemalloc.start()
    copy_all(source, target)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert copying.count_rows(target)["events"] == 6_000
    assert most_bytes < 9_000_000


# The command.


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["copy", *arguments], catch_exceptions=False)


def test_the_command_prints_the_rows_of_both_stores(
    source: asm.SessionStore, source_dsn: str, migrated: str
) -> None:
    fill(source)
    result = invoke(source_dsn, migrated)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["SRC", "DST"],
        ["sessions", "3", "3"],
        ["runs", "3", "3"],
        ["events", "12", "12"],
        ["artifacts", "3", "3"],
    ]


def test_the_command_creates_the_tables_of_an_empty_database(
    source: asm.SessionStore, source_dsn: str, dsn: str
) -> None:
    fill(source)
    assert invoke(source_dsn, dsn).exit_code == 0
    with asm.SessionStore(dsn) as target:
        assert exports_of(target) == exports_of(source)


def test_the_command_says_when_rows_are_missing(
    source: asm.SessionStore, source_dsn: str, migrated: str
) -> None:
    fill(source, sessions=1, events=4)
    fetch_rows(source_dsn, "update asm_session_sequences set last_sequence = 2")
    result = invoke(source_dsn, migrated)
    assert result.exit_code == 1
    assert result.stderr.startswith("asm: DST has fewer rows than SRC")


def test_the_command_reports_a_conflicting_session(
    source: asm.SessionStore, source_dsn: str, target: asm.SessionStore, migrated: str
) -> None:
    fill(source)
    target.save_session(replace(source.get_session("ses_000001"), agent_id="other"))
    result = invoke(source_dsn, migrated)
    assert result.exit_code == 1
    assert result.stderr.startswith("asm: session 'ses_000001' already exists with different contents")


def test_a_store_is_not_copied_into_itself(
    source_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(source_dsn, "sqlite:///source.db")
    assert (result.exit_code, "the same store" in result.stderr) == (2, True)


def test_a_missing_source_creates_no_target(tmp_path: Path) -> None:
    result = invoke(f"sqlite:///{tmp_path / 'absent.db'}", f"sqlite:///{tmp_path / 'new.db'}")
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])


def test_a_terminal_shows_the_progress_of_a_copy(
    source: asm.SessionStore, source_dsn: str, migrated: str
) -> None:
    fill(source)
    assert "Copying" in terminal_output("copy", source_dsn, migrated)


@only(POSTGRES, why="SQLite has no schemas")
def test_source_and_target_may_be_schemas(source_dsn: str, source: asm.SessionStore, dsn: str) -> None:
    fill(source)
    assert invoke(source_dsn, dsn, "--to-schema", "first").exit_code == 0
    assert invoke(dsn, dsn, "--from-schema", "first", "--to-schema", "second").exit_code == 0
    with asm.SessionStore(dsn, schema="second") as target:
        assert exports_of(target) == exports_of(source)


def test_a_killed_copy_is_completed_by_another(
    source: asm.SessionStore, source_dsn: str, target: asm.SessionStore, migrated: str
) -> None:
    fill(source, sessions=40, events=500)
    with running("asm", "copy", source_dsn, migrated) as process:
        wait_for_events(target, process)
        process.kill()
        process.wait()
    assert 0 < copying.count_rows(target)["events"] < 20_000
    assert all(len(events) == last for events, last in events_and_counters(target))

    assert invoke(source_dsn, migrated).exit_code == 0
    assert exports_of(target) == exports_of(source)


def test_events_pruned_during_a_copy_count_as_pruned_in_the_target(
    source: asm.SessionStore, target: asm.SessionStore
) -> None:
    fill(source, sessions=1, events=30)
    batches = copying.copy(source, target)
    # The batch of sessions and runs, then the number of events that the target has.
    next(batches), next(batches)
    for session in source.list_sessions():
        source.maintenance.prune_session_events(session.id, asm.RetentionPolicy(max_events_per_session=10))
    assert list(batches)
    assert target.maintenance.health_check() == source.maintenance.health_check() == []


def wait_for_events(target: asm.SessionStore, process: Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while copying.count_rows(target)["events"] == 0:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def events_and_counters(store: asm.SessionStore) -> Iterator[tuple[list[Any], int]]:
    for session in store.list_sessions():
        yield store.get_events(session.id), store.get_latest_sequence(session.id)


@only(POSTGRES[:1], why="one server is enough for thousands of events")
def test_eight_thousand_events_are_copied_to_postgres_and_back(
    source: asm.SessionStore, source_dsn: str, migrated: str, tmp_path: Path
) -> None:
    fill(source, sessions=100, events=30)
    source.append_events(events_of("ses_000007", 5_000))
    back = f"sqlite:///{tmp_path / 'back.db'}"

    assert invoke(source_dsn, migrated).exit_code == 0
    assert invoke(migrated, back).exit_code == 0

    with asm.SessionStore(back) as returned:
        assert copying.count_rows(returned)["events"] == 8_000
        for session in copying.all_sessions(source):
            exported = source.query.export_session(session.id, include_artifacts=True)
            assert returned.query.export_session(session.id, include_artifacts=True) == exported
