"""What `asm copy` promises about a whole store that moves into another."""

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
from asm.cli.main import cli
from tests.conftest import POSTGRES, an_artifact, an_event, events_of, numbers
from tests.contract.other_clients import fetch_rows, only, running
from tests.contract.test_cli import on_a_terminal

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def source_dsn(tmp_path: Path) -> str:
    """A SQLite file with tables: what most copies are made of."""
    dsn = f"sqlite:///{tmp_path / 'source.db'}"
    asm.migrate(dsn)
    return dsn


@pytest.fixture
def source(source_dsn: str) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(source_dsn) as store:
        yield store


@pytest.fixture
def target(migrated: str) -> Iterator[asm.SessionStore]:
    """The store that is copied to, on every kind of database."""
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


def all_of(store: asm.SessionStore) -> list[asm.SessionExport]:
    return [
        store.query.export_session(session.id, include_artifacts=True)
        for session in sorted(store.list_sessions(include_deleted=True), key=lambda each: each.id)
    ]


def copied(source: asm.SessionStore, target: asm.SessionStore) -> int:
    """Copy all of it, and say how many rows were dealt with."""
    return sum(copying.copy(source, target))


def test_a_copy_exports_what_its_source_does(source: asm.SessionStore, target: asm.SessionStore) -> None:
    fill(source)
    copied(source, target)
    assert all_of(target) == all_of(source)


def test_a_copy_goes_on_where_its_source_stood(source: asm.SessionStore, target: asm.SessionStore) -> None:
    fill(source, events=4)
    copied(source, target)
    assert target.append_event(an_event("ses_000001")).sequence_number == 5


def test_soft_deleted_sessions_are_copied(source: asm.SessionStore, target: asm.SessionStore) -> None:
    session = asm.Session(agent_id="a", deleted_at=NOON)
    source.save_session(session)
    copied(source, target)
    assert target.get_session(session.id) == session


def test_rows_without_a_session_are_copied(source: asm.SessionStore, target: asm.SessionStore) -> None:
    run = asm.Run(session_id="nobody's")
    source.save_run(run)
    source.append_events(events_of("nobody's", 3))
    copied(source, target)
    assert target.get_run(run.id) == run
    assert target.get_events("nobody's") == source.get_events("nobody's")


def test_artifacts_are_copied_whosever_they_are(source: asm.SessionStore, target: asm.SessionStore) -> None:
    for key, session_id in (("a", "ses_1"), ("b", None), ("gone", None)):
        source.artifacts.register(an_artifact(key, session_id=session_id, created_at=NOON))
    source.artifacts.delete("gone")
    copied(source, target)
    assert [target.artifacts.get_by_key(key) for key in ("a", "b", "gone")] == [
        source.artifacts.get_by_key(key) for key in ("a", "b", "gone")
    ]
    assert copying.count_rows(target)["artifacts"] == 3


def test_pruned_sessions_are_copied_with_their_holes(
    source: asm.SessionStore, target: asm.SessionStore, source_dsn: str
) -> None:
    fill(source, sessions=1, events=1_700)
    fetch_rows(source_dsn, "delete from asm_events where sequence_number in (1, 500, 501, 1300, 1700)")
    fetch_rows(source_dsn, "update asm_session_sequences set pruned_events = 5")
    copied(source, target)
    (export,) = all_of(target)
    assert [export] == all_of(source)
    assert (export.last_sequence, export.pruned_events) == (1_700, 5)


def test_a_session_that_lost_all_events_is_copied(
    source: asm.SessionStore, target: asm.SessionStore, source_dsn: str
) -> None:
    fill(source, sessions=1, events=3)
    fetch_rows(source_dsn, "delete from asm_events")
    fetch_rows(source_dsn, "update asm_session_sequences set pruned_events = 3")
    rows = sum(copying.count_rows(source).values())
    assert [copied(source, target) for _ in range(2)] == [rows, rows]
    assert all_of(target) == all_of(source)


def test_copying_again_changes_nothing(source: asm.SessionStore, target: asm.SessionStore) -> None:
    fill(source)
    first = copied(source, target)
    before = all_of(target)
    assert copied(source, target) == first
    assert all_of(target) == before


def test_a_copy_takes_up_what_came_since(source: asm.SessionStore, target: asm.SessionStore) -> None:
    fill(source, events=4)
    copied(source, target)
    source.append_events(events_of("ses_000001", 3))
    source.save_session(asm.Session(agent_id="late"))
    copied(source, target)
    assert all_of(target) == all_of(source)


def test_a_copy_that_was_stopped_after_any_batch_is_finished_by_another(
    source: asm.SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "ROWS_PER_READ", 2)
    monkeypatch.setattr(copying, "ROWS_PER_BATCH", 3)
    fill(source, sessions=4, events=5)
    source.append_events(events_of("alone", 4))
    whole = all_of(source)
    for stopped_after in count(1):
        dsn = f"sqlite:///{tmp_path / f'{stopped_after}.db'}"
        with asm.SessionStore(dsn, migrate=True) as target:
            batches = len(list(islice(copying.copy(source, target), stopped_after)))
            copied(source, target)
            assert (all_of(target), target.get_events("alone")) == (whole, source.get_events("alone"))
        if batches < stopped_after:
            break
    assert stopped_after > 10


def test_events_that_are_there_are_not_read_again(source: asm.SessionStore, target: asm.SessionStore) -> None:
    fill(source, sessions=1, events=1_200)
    target.append_events(source.get_events("ses_000000", limit=1_100))
    *_, there, rest = copying.copy(source, target)
    assert (there, rest) == (1_100, 101)


def test_a_batch_has_fewer_events_where_they_are_large(
    source: asm.SessionStore, target: asm.SessionStore
) -> None:
    source.append_events(events_of("ses_1", 150, metadata={"picture": "x" * 100_000}))
    _, *batches = copying.copy(source, target)
    assert batches == [100, 50]
    assert target.get_events("ses_1") == source.get_events("ses_1")


def test_what_the_target_has_besides_stays(source: asm.SessionStore, target: asm.SessionStore) -> None:
    fill(source)
    fill(target, sessions=1)
    own = asm.Session(agent_id="own")
    with pytest.raises(asm.Conflict):
        copied(source, target)
    target.delete_session("ses_000000")
    target.save_session(own)
    copied(source, target)
    assert target.get_session(own.id) == own
    assert len(all_of(target)) == 4


def test_a_session_that_has_gone_on_by_itself_is_a_conflict(
    source: asm.SessionStore, target: asm.SessionStore
) -> None:
    fill(source, sessions=1, events=4)
    copied(source, target)
    target.append_event(an_event("ses_000000"))
    source.append_events(events_of("ses_000000", 3))
    with pytest.raises(asm.Conflict, match="another event 5"):
        copied(source, target)
    assert numbers(target.get_events("ses_000000")) == [1, 2, 3, 4, 5]


def test_memory_holds_a_batch_and_not_the_store(source: asm.SessionStore, target: asm.SessionStore) -> None:
    for number in range(3):
        batch = events_of(f"ses_{number}", 2_000, metadata={"text": "x" * 2_000})
        source.append_events(batch)
    del batch
    tracemalloc.start()
    copied(source, target)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert copying.count_rows(target)["events"] == 6_000
    assert most_bytes < 9_000_000


# The command.


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["copy", *arguments], catch_exceptions=False)


def test_the_command_counts_both_sides(source: asm.SessionStore, source_dsn: str, migrated: str) -> None:
    fill(source)
    result = ran(source_dsn, migrated)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["SRC", "DST"],
        ["sessions", "3", "3"],
        ["runs", "3", "3"],
        ["events", "12", "12"],
        ["artifacts", "3", "3"],
    ]


def test_the_command_makes_the_tables_of_an_empty_database(
    source: asm.SessionStore, source_dsn: str, dsn: str
) -> None:
    fill(source)
    assert ran(source_dsn, dsn).exit_code == 0
    with asm.SessionStore(dsn) as target:
        assert all_of(target) == all_of(source)


def test_the_command_says_when_rows_are_missing(
    source: asm.SessionStore, source_dsn: str, migrated: str
) -> None:
    fill(source, sessions=1, events=4)
    fetch_rows(source_dsn, "update asm_session_sequences set last_sequence = 2")
    result = ran(source_dsn, migrated)
    assert result.exit_code == 1
    assert result.stderr.startswith("asm: DST has fewer rows than SRC")


def test_the_command_names_what_is_there_under_other_contents(
    source: asm.SessionStore, source_dsn: str, target: asm.SessionStore, migrated: str
) -> None:
    fill(source)
    target.save_session(replace(source.get_session("ses_000001"), agent_id="other"))
    result = ran(source_dsn, migrated)
    assert result.exit_code == 1
    assert result.stderr.startswith("asm: session 'ses_000001' already exists with different contents")


def test_a_store_is_not_copied_into_itself(
    source_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = ran(source_dsn, "sqlite:///source.db")
    assert (result.exit_code, "the same store" in result.stderr) == (2, True)


def test_a_source_that_is_not_there_leaves_no_target_behind(tmp_path: Path) -> None:
    result = ran(f"sqlite:///{tmp_path / 'absent.db'}", f"sqlite:///{tmp_path / 'new.db'}")
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])


def test_a_person_at_a_terminal_sees_how_far_it_is(
    source: asm.SessionStore, source_dsn: str, migrated: str
) -> None:
    fill(source)
    assert "Copying" in on_a_terminal("copy", source_dsn, migrated)


@only(POSTGRES, why="SQLite has no schemas")
def test_the_tables_of_both_may_be_in_schemas(source_dsn: str, source: asm.SessionStore, dsn: str) -> None:
    fill(source)
    assert ran(source_dsn, dsn, "--to-schema", "first").exit_code == 0
    assert ran(dsn, dsn, "--from-schema", "first", "--to-schema", "second").exit_code == 0
    with asm.SessionStore(dsn, schema="second") as target:
        assert all_of(target) == all_of(source)


def test_a_copy_that_was_killed_is_finished_by_another(
    source: asm.SessionStore, source_dsn: str, target: asm.SessionStore, migrated: str
) -> None:
    fill(source, sessions=40, events=500)
    with running("asm", "copy", source_dsn, migrated) as process:
        wait_for_events(target, process)
        process.kill()
        process.wait()
    assert 0 < copying.count_rows(target)["events"] < 20_000
    assert all(len(events) == last for events, last in events_and_counters(target))

    assert ran(source_dsn, migrated).exit_code == 0
    assert all_of(target) == all_of(source)


def test_what_is_pruned_while_it_is_copied_is_known_as_pruned(
    source: asm.SessionStore, target: asm.SessionStore
) -> None:
    fill(source, sessions=1, events=30)
    batches = copying.copy(source, target)
    # The sessions and runs, and then how many events there are to copy.
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


@only(POSTGRES[:1], why="one server is enough for a hundred thousand events")
def test_a_hundred_thousand_events_go_to_postgres_and_back(
    source: asm.SessionStore, source_dsn: str, migrated: str, tmp_path: Path
) -> None:
    fill(source, sessions=200, events=200)
    source.append_events(events_of("ses_000007", 60_000))
    back = f"sqlite:///{tmp_path / 'back.db'}"

    assert ran(source_dsn, migrated).exit_code == 0
    assert ran(migrated, back).exit_code == 0

    with asm.SessionStore(back) as returned:
        assert copying.count_rows(returned)["events"] == 100_000
        for session in copying.all_sessions(source):
            exported = source.query.export_session(session.id, include_artifacts=True)
            assert returned.query.export_session(session.id, include_artifacts=True) == exported
