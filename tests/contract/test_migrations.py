"""What `migrate`, `rollback`, `pending_migrations` and the status promise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import asm
from asm import dsn as dsns
from asm.engine.registry import Dialect
from asm.migrations import files, migrations_folder, yoyo_backends
from asm.migrations.migrator import Migrator
from asm.migrations.runner import status
from tests.conftest import INSTALLATIONS, POSTGRES, Cluster, an_event, numbers
from tests.contract.migrating import STOP
from tests.contract.other_clients import (
    LAST_STEP,
    STEP,
    STEPS,
    TABLES,
    add_migration,
    copied_folder,
    driver_connection,
    fetch_rows,
    folder_that_stops,
    migrations_of,
    obey_file_permissions,
    only,
    read_line,
    run_in_fork,
    running,
    send_line,
    tables,
    url_part,
    use_folder,
    yoyo,
    yoyo_running,
)
from tests.fault.concurrent_writers import wait_until

PROCESSES = 8
LATER = "9999-notes"
AWKWARD_NAMES = ["we\"ird o'brien", "100% %(name)s %s", "Capital grüße"]

sqlite_only = only(["sqlite"], why="a file can be read-only, missing or something else; a server cannot")
schemas_only = only(POSTGRES, why="SQLite has no schemas")
servers_only = only(POSTGRES, why="SQLite has no hosts, roles or passwords")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the `sql` folder that asm takes its migrations from."""
    copy = copied_folder(tmp_path / "sql")
    use_folder(monkeypatch, copy)
    return copy


def step_file(folder: Path, dsn: str, id: str = STEP) -> Path:
    return folder / dsns.parse_dsn(dsn).dialect / "migrations" / f"{id}.sql"


def add_step(folder: Path, dsn: str, statements: str, undo: str = "") -> None:
    add_migration(folder, dsn, LATER, statements, undo)


def test_migrating_returns_the_migrations_applied(dsn: str) -> None:
    assert asm.migrate(dsn) == STEPS


def test_migrating_creates_the_tables(dsn: str) -> None:
    asm.migrate(dsn)
    assert tables(dsn) >= TABLES


def test_migrating_again_does_nothing(dsn: str) -> None:
    asm.migrate(dsn)
    assert asm.migrate(dsn) == []


def test_several_migrations_are_applied_in_order(dsn: str, folder: Path) -> None:
    add_step(folder, dsn, "create table notes (id integer);")
    assert asm.migrate(dsn) == [*STEPS, LATER]


def test_all_migrations_are_pending_in_an_empty_database(dsn: str) -> None:
    assert asm.pending_migrations(dsn) == STEPS


def test_nothing_is_pending_after_migrating(migrated: str) -> None:
    assert asm.pending_migrations(migrated) == []


def test_rolling_back_returns_the_migrations_newest_first(dsn: str, folder: Path) -> None:
    add_step(folder, dsn, "create table notes (id integer);", "drop table notes;")
    asm.migrate(dsn)
    assert asm.rollback(dsn, steps=None) == [LATER, *STEPS[::-1]]


def test_rolling_back_undoes_the_newest_migration(dsn: str, folder: Path) -> None:
    add_step(folder, dsn, "create table notes (id integer);", "drop table notes;")
    asm.migrate(dsn)
    assert (asm.rollback(dsn), "notes" in tables(dsn)) == ([LATER], False)
    assert asm.pending_migrations(dsn) == [LATER]


def test_rolling_back_a_number_of_steps_undoes_the_newest_ones(dsn: str, folder: Path) -> None:
    add_step(folder, dsn, "create table notes (id integer);", "drop table notes;")
    asm.migrate(dsn)
    assert asm.rollback(dsn, steps=2) == [LATER, *STEPS[::-1]][:2]


@pytest.mark.parametrize("steps", [0, -1, 1.0, True, "1"])
def test_the_number_of_steps_must_be_positive(migrated: str, steps: Any) -> None:
    with pytest.raises(asm.ValidationError, match="steps must be"):
        asm.rollback(migrated, steps=steps)
    assert asm.pending_migrations(migrated) == []


def test_what_a_newer_asm_added_is_not_rolled_back(
    dsn: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_step(folder, dsn, "create table notes (id integer);")
    asm.migrate(dsn)
    monkeypatch.undo()
    with pytest.raises(asm.Conflict, match=f"newer version of asm has applied {LATER}"):
        asm.rollback(dsn, steps=None)
    assert asm.pending_migrations(dsn) == []


@pytest.mark.parametrize("call", [asm.rollback, asm.pending_migrations])
def test_an_empty_database_stays_empty(dsn: str, call: Callable[[str], list[str]]) -> None:
    call(dsn)
    assert tables(dsn) == set()


def test_rolling_back_drops_every_table(migrated: str) -> None:
    asm.rollback(migrated)
    assert not any(name.startswith("asm_") for name in tables(migrated))


def test_a_migration_that_was_rolled_back_is_pending(migrated: str) -> None:
    asm.rollback(migrated)
    assert asm.pending_migrations(migrated) == STEPS


def test_rolling_back_an_empty_database_returns_nothing(dsn: str) -> None:
    assert asm.rollback(dsn) == []


def test_a_database_can_be_migrated_again_after_a_rollback(dsn: str) -> None:
    asm.migrate(dsn)
    asm.rollback(dsn)
    asm.migrate(dsn)
    with asm.SessionStore(dsn) as store:
        assert store.append_event(an_event()).sequence_number == 1


def test_the_dsn_comes_from_the_environment(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASM_DSN", dsn)
    assert (asm.pending_migrations(), asm.migrate(), asm.rollback()) == (STEPS, STEPS, STEPS[::-1])


def test_the_status_of_an_empty_database(dsn: str) -> None:
    found = status(dsn)
    assert (found.dialect, found.applied, found.pending) == (dsns.parse_dsn(dsn).dialect, [], STEPS)
    assert (found.rows, found.version != "") == ({}, True)


def test_the_status_counts_the_rows_of_each_table(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        store.append_events([an_event("ses_1"), an_event("ses_1"), an_event("ses_2")])
    found = status(migrated)
    assert (found.applied, found.pending) == (STEPS, [])
    assert found.rows == {"sessions": 0, "runs": 0, "events": 3, "session_sequences": 2, "artifacts": 0}


def test_the_status_does_not_count_pruned_events(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        store.save_session(asm.Session(agent_id="a", id="ses_1"))
        store.append_events([an_event("ses_1"), an_event("ses_1"), an_event("ses_1")])
        store.maintenance.prune_session_events("ses_1", asm.RetentionPolicy(max_events_per_session=1))
    assert status(migrated).rows["events"] == 1


# yoyo's own command


def test_a_migration_that_yoyos_command_applied_is_not_pending(dsn: str) -> None:
    yoyo("apply", dsn)
    assert (asm.pending_migrations(dsn), asm.migrate(dsn)) == ([], [])


def test_a_store_opens_on_a_database_that_yoyos_command_migrated(dsn: str) -> None:
    yoyo("apply", dsn)
    with asm.SessionStore(dsn) as store:
        assert store.append_event(an_event()).sequence_number == 1


def test_yoyos_command_finds_nothing_to_apply_after_asm(migrated: str) -> None:
    yoyo("apply", migrated)
    assert fetch_rows(migrated, "select count(*) from _yoyo_log") == [(len(STEPS),)]


def test_yoyos_command_lists_the_migrations_that_asm_applied(migrated: str) -> None:
    assert all(f"A         {step}" in yoyo("list", migrated) for step in STEPS)


def test_yoyos_command_rolls_back_the_migrations_that_asm_applied(migrated: str) -> None:
    yoyo("rollback --all", migrated)
    assert not any(name.startswith("asm_") for name in tables(migrated))


def test_asm_rolls_back_the_migrations_that_yoyos_command_applied(dsn: str) -> None:
    yoyo("apply", dsn)
    assert asm.rollback(dsn) == STEPS[::-1]


def test_asm_applies_the_migrations_that_yoyos_command_rolled_back(migrated: str) -> None:
    yoyo("rollback --all", migrated)
    assert asm.migrate(migrated) == STEPS


def test_migrating_restores_lost_rows_of_yoyos_table(migrated: str) -> None:
    fetch_rows(migrated, "delete from _yoyo_migration")
    assert (asm.migrate(migrated), asm.migrate(migrated)) == (STEPS, [])


def test_migrating_without_yoyos_rows_keeps_the_data(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        store.append_event(an_event())
        fetch_rows(migrated, "delete from _yoyo_migration")
        asm.migrate(migrated)
        assert store.get_latest_sequence("ses_1") == 1


def test_all_migrations_are_pending_when_a_table_was_dropped(migrated: str) -> None:
    fetch_rows(migrated, "drop table asm_runs")
    assert asm.pending_migrations(migrated) == STEPS


def test_migrating_creates_a_dropped_table_again(migrated: str) -> None:
    fetch_rows(migrated, "drop table asm_runs")
    assert (asm.migrate(migrated), tables(migrated) >= TABLES) == (STEPS, True)


# An application's own migrations


@pytest.fixture
def applications(tmp_path: Path) -> Path:
    """An application's own migrations."""
    folder = tmp_path / "application"
    folder.mkdir()
    (folder / "0001-orders.sql").write_text("create table orders (id integer);\n")
    (folder / "0001-orders.rollback.sql").write_text("drop table orders;\n")
    return folder


def test_an_applications_own_migrations_are_left_alone(dsn: str, applications: Path) -> None:
    yoyo("apply", dsn, applications)
    assert (asm.migrate(dsn), asm.rollback(dsn)) == (STEPS, STEPS[::-1])
    assert ("orders" in tables(dsn), "A " in yoyo("list", dsn, applications)) == (True, True)


def test_an_application_that_rolls_back_its_own_migrations_leaves_asms(
    migrated: str, applications: Path
) -> None:
    yoyo("apply", migrated, applications)
    yoyo("rollback --all", migrated, applications)
    assert (asm.pending_migrations(migrated), "orders" in tables(migrated)) == ([], False)


def test_the_status_of_a_database_with_an_applications_migrations_only(dsn: str, applications: Path) -> None:
    yoyo("apply", dsn, applications)
    found = status(dsn)
    assert (found.pending, found.rows) == (STEPS, {})


def test_the_status_lists_no_migrations_of_an_application(migrated: str, applications: Path) -> None:
    yoyo("apply", migrated, applications)
    assert (status(migrated).applied, asm.pending_migrations(migrated)) == (STEPS, [])


def test_an_applications_migrations_do_not_pass_for_those_of_a_newer_asm(
    migrated: str, applications: Path, opened: Callable[..., Any]
) -> None:
    yoyo("apply", migrated, applications)
    store = opened(migrated)
    fetch_rows(migrated, "drop table asm_artifacts")
    with pytest.raises(
        asm.MigrationRequired, match=rf"that of the database is {LAST_STEP}; run `asm migrate`"
    ):
        store.artifacts.get_by_key("report.pdf")


def test_rolling_back_all_leaves_an_applications_migrations(migrated: str, applications: Path) -> None:
    yoyo("apply", migrated, applications)
    assert asm.rollback(migrated, steps=None) == STEPS[::-1]
    assert "A " in yoyo("list", migrated, applications)


# Several processes, and killed ones


def test_one_of_many_processes_migrates_and_all_can_write(dsn: str) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(running("tests.contract.migrating", dsn)) for _ in range(PROCESSES)]
        assert [read_line(process) for process in processes] == ["ready"] * PROCESSES
        for process in processes:
            send_line(process)
        ends = [process.communicate() for process in processes]
    assert sorted(json.loads(output or errors) for output, errors in ends) == [[]] * (PROCESSES - 1) + [STEPS]
    with asm.SessionStore(dsn) as store:
        assert numbers(store.get_events("ses_1")) == list(range(1, PROCESSES + 1))


def test_many_threads_can_migrate_at_the_same_time(dsn: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: asm.migrate(dsn), range(8)))
    assert sorted(results) == [[]] * 7 + [STEPS]


@pytest.fixture
def killed_while_migrating(dsn: str) -> str:
    """A database on which a process was killed after the statements of the migrations."""
    with running("tests.contract.migrating", dsn, STOP) as process:
        send_line(process)
        assert [read_line(process), read_line(process)] == ["ready", "stopped"]
        process.kill()
    return dsn


def test_a_process_that_is_killed_while_migrating_leaves_nothing(killed_while_migrating: str) -> None:
    assert tables(killed_while_migrating) == set()


def test_migrating_succeeds_after_a_process_was_killed_while_migrating(killed_while_migrating: str) -> None:
    assert asm.migrate(killed_while_migrating) == STEPS


def test_the_lock_that_a_killed_yoyo_left_is_cleared(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations = folder_that_stops(tmp_path / "stopping", dsn, at="0000-stops")
    with yoyo_running("apply", dsn, migrations) as process:
        assert read_line(process) == "stopped"
        process.kill()
    monkeypatch.setattr(Migrator, "stale_after_s", 0.0)
    assert (asm.migrate(dsn), fetch_rows(dsn, "select * from yoyo_lock")) == (STEPS, [])


def test_the_lock_of_a_running_yoyo_is_left_alone(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Migrator, "lock_timeout_s", 0.1)
    migrations = folder_that_stops(tmp_path / "stopping", dsn, at="0000-stops")
    with yoyo_running("apply", dsn, migrations) as process:
        assert read_line(process) == "stopped"
        with pytest.raises(asm.StorageTimeout, match=f"process {process.pid}.*`yoyo break-lock`"):
            asm.migrate(dsn)
        _, errors = process.communicate()
    assert (process.returncode, errors, asm.migrate(dsn)) == (0, "", [])


def test_migrating_waits_for_yoyos_own_command(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserted = results_of_insert_lock_row(monkeypatch)
    migrations = folder_that_stops(tmp_path / "stopping", dsn, at="0000-stops")
    with yoyo_running("apply", dsn, migrations) as process, ThreadPoolExecutor() as threads:
        assert read_line(process) == "stopped"
        migrating = threads.submit(asm.migrate, dsn)
        wait_until(lambda: inserted.count(False) > 1)
        assert not migrating.done()
        _, errors = process.communicate()
        assert (process.returncode, errors, migrating.result()) == (0, "", [])


def results_of_insert_lock_row(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record whether each attempt of asm to insert yoyo's lock row succeeded."""
    results: list[bool] = []
    insert_lock_row = yoyo_backends._ExistingConnection.insert_lock_row

    def recorded(backend: yoyo_backends._ExistingConnection) -> bool:
        results.append(insert_lock_row(backend))
        return results[-1]

    monkeypatch.setattr(yoyo_backends._ExistingConnection, "insert_lock_row", recorded)
    return results


def test_yoyos_own_command_may_come_first_while_asm_migrates(dsn: str) -> None:
    with yoyo_running("apply", dsn, migrations_of(dsn)) as process:
        applied = asm.migrate(dsn)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert fetch_rows(dsn, "select migration_id from _yoyo_migration") == [(step,) for step in STEPS], applied


# Files that change


@pytest.mark.parametrize("call", [asm.migrate, asm.pending_migrations])
def test_a_file_that_was_changed_after_it_was_applied_is_a_conflict(
    dsn: str, folder: Path, call: Callable[[str], list[str]]
) -> None:
    asm.migrate(dsn)
    with step_file(folder, dsn).open("a") as file:
        file.write("create table additions (id integer);\n")
    with pytest.raises(asm.Conflict, match=STEP):
        call(dsn)


def test_line_ends_do_not_count_as_a_change(dsn: str, folder: Path) -> None:
    asm.migrate(dsn)
    file = step_file(folder, dsn)
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert (asm.pending_migrations(dsn), asm.migrate(dsn)) == ([], [])


def test_a_file_with_other_line_ends_can_be_applied(dsn: str, folder: Path) -> None:
    for file in step_file(folder, dsn).parent.iterdir():
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    asm.migrate(dsn)
    assert asm.rollback(dsn) == STEPS[::-1]


def test_a_file_may_be_changed_while_it_is_not_applied(dsn: str, folder: Path) -> None:
    asm.migrate(dsn)
    asm.rollback(dsn)
    with step_file(folder, dsn).open("a") as file:
        file.write("create table if not exists asm_additions (id integer);\n")
    assert (asm.pending_migrations(dsn), asm.migrate(dsn)) == (STEPS, STEPS)


def test_a_file_that_yoyo_applied_by_hand_is_not_compared(dsn: str, folder: Path) -> None:
    yoyo("apply", dsn)
    with step_file(folder, dsn).open("a") as file:
        file.write("-- A comment.\n")
    assert asm.pending_migrations(dsn) == []


# What else lies beside the files

ODD_FOLDERS = ["l[ab]x", "*", "{a,b} wh?t", "100%d %(id)s", "package:yoyo:a'b\"c; -- grüße ☃"]


def plant_other_files(folder: Path, ran: Path) -> None:
    """Put files beside asm's own. One that is executed creates the file `ran` or the table `foreign_rows`."""
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
    statement = "create table foreign_rows (id integer);\n"
    for migrations in folder.glob("*/migrations"):
        for name in ("0000-other", STEP, "9999-other", "post-apply", "__pycache__/other"):
            (migrations / name).parent.mkdir(exist_ok=True)
            (migrations / f"{name}.py").write_text(code)
        for name in ("0000-other", f"{STEP}-other", "9999-other", "post-apply-other"):
            (migrations / f"{name}.sql").write_text(statement)
            (migrations / f"{name}.rollback.sql").write_text(statement)
        (migrations / "0002-link.sql").symlink_to("9999-other.sql")
        (migrations / "0003-dangling.sql").symlink_to("nowhere.sql")
        (migrations / "0004-folder.sql").mkdir()
        os.mkfifo(migrations / "0005-pipe.sql")
        (migrations.parent / "queries" / "other.py").write_text(code)


def test_other_files_in_the_folders_are_ignored_however_the_folder_is_named(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    # The first is one that some of the others match as glob patterns.
    for name in ("lax", *ODD_FOLDERS):
        folder = copied_folder(tmp_path / name / "sql")
        plant_other_files(folder, ran)
        monkeypatch.setattr(files, "sql_folder", folder.joinpath)
        assert (asm.pending_migrations(dsn), asm.migrate(dsn)) == (STEPS, STEPS)
        assert (status(dsn).applied, asm.migrate(dsn)) == (STEPS, [])
        assert asm.rollback(dsn, steps=None) == STEPS[::-1]
        assert (ran.exists(), "foreign_rows" in tables(dsn)) == (False, False)


RECORD = """
import asm
print(asm.__file__, asm.migrate("sqlite:///store.db"), asm.migrate("sqlite:///store.db"))
with asm.SessionStore("sqlite:///store.db") as store:
    store.append_event(asm.Event(type="message_sent", session_id="ses_1"))
"""


def test_an_installation_in_an_oddly_named_folder_executes_its_own_files_only(tmp_path: Path) -> None:
    for name in ("l[ab]x", "lax"):
        installed = tmp_path / name / "asm"
        shutil.copytree(Path(asm.__file__).parent, installed, ignore=shutil.ignore_patterns("__pycache__"))
        plant_other_files(copied_folder(installed / "sql"), tmp_path / "ran")
    path = {"PYTHONPATH": str(tmp_path / "l[ab]x"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RECORD], cwd=tmp_path, env=os.environ | path, capture_output=True, text=True
    )
    assert (done.stderr, done.stdout) == ("", f"{tmp_path / 'l[ab]x' / 'asm' / '__init__.py'} {STEPS} []\n")
    assert ((tmp_path / "ran").exists(), "foreign_rows" in tables(f"sqlite:///{tmp_path / 'store.db'}")) == (
        False,
        False,
    )


@pytest.mark.parametrize("dialect", ["postgres", "sqlite"])
def test_the_files_of_every_migration_are_there_and_no_others(dialect: Dialect) -> None:
    there = {file.name for file in migrations_folder(dialect).iterdir()}
    assert there == {f"{id}{end}" for id in STEPS for end in (".sql", ".rollback.sql")}


# Later migrations


def test_a_later_migration_is_pending(dsn: str, folder: Path) -> None:
    asm.migrate(dsn)
    add_step(folder, dsn, "create table notes (id integer);")
    assert asm.pending_migrations(dsn) == [LATER]


def test_a_later_migration_is_applied_alone(dsn: str, folder: Path) -> None:
    asm.migrate(dsn)
    add_step(folder, dsn, "create table notes (id integer);")
    assert (asm.migrate(dsn), "notes" in tables(dsn)) == ([LATER], True)


def test_a_store_does_not_open_while_a_later_migration_is_pending(
    dsn: str, folder: Path, opened: Callable[..., Any]
) -> None:
    asm.migrate(dsn)
    add_step(folder, dsn, "create table notes (id integer);")
    with pytest.raises(asm.MigrationRequired, match=rf"{LATER}.*`asm migrate`") as raised:
        opened(dsn)
    assert raised.value.details["pending"] == [LATER]


def test_opening_with_migrate_applies_a_later_migration(
    dsn: str, folder: Path, opened: Callable[..., Any]
) -> None:
    asm.migrate(dsn)
    add_step(folder, dsn, "create table notes (id integer);")
    opened(dsn, migrate=True)
    assert asm.pending_migrations(dsn) == []


def test_a_database_that_a_newer_asm_migrated_opens(
    dsn: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_step(folder, dsn, "create table notes (id integer);")
    asm.migrate(dsn)
    monkeypatch.undo()
    with asm.SessionStore(dsn, migrate=True) as store:
        assert store.append_event(an_event()).sequence_number == 1


def test_a_migration_that_fails_changes_nothing(dsn: str, folder: Path) -> None:
    asm.migrate(dsn)
    before = tables(dsn)
    add_step(folder, dsn, "create table notes (id integer);\n\noops;")
    with pytest.raises(Exception, match="oops"):
        asm.migrate(dsn)
    assert (tables(dsn), asm.pending_migrations(dsn)) == (before, [LATER])


def test_a_failed_migration_is_applied_after_its_file_was_corrected(dsn: str, folder: Path) -> None:
    add_step(folder, dsn, "create table notes (id integer);\n\noops;")
    with pytest.raises(Exception, match="oops"):
        asm.migrate(dsn)
    add_step(folder, dsn, "create table notes (id integer);")
    assert asm.migrate(dsn) == [*STEPS, LATER]


def test_a_rollback_that_fails_changes_nothing(dsn: str, folder: Path) -> None:
    add_step(folder, dsn, "create table notes (id integer);", "drop table notes;\n\noops;")
    asm.migrate(dsn)
    before = tables(dsn)
    with pytest.raises(Exception, match="oops"):
        asm.rollback(dsn)
    assert (tables(dsn), asm.pending_migrations(dsn)) == (before, [])


# Schemas


@schemas_only
@pytest.mark.parametrize("schema", AWKWARD_NAMES)
def test_a_schema_of_any_name_is_migrated(dsn: str, schema: str) -> None:
    assert (asm.migrate(dsn, schema=schema), asm.pending_migrations(dsn, schema=schema)) == (STEPS, [])


@schemas_only
@pytest.mark.parametrize("schema", AWKWARD_NAMES)
def test_a_store_works_in_a_schema_of_any_name(dsn: str, schema: str, opened: Callable[..., Any]) -> None:
    with opened(dsn, schema=schema, migrate=True) as store:
        store.save_session(asm.Session(agent_id="a", id="ses_1", tags=("pinned",)))
        store.append_events([an_event(), an_event()])
        assert (store.get_session("ses_1").tags, numbers(store.get_events("ses_1"))) == (("pinned",), [1, 2])


@schemas_only
@pytest.mark.parametrize("schema", AWKWARD_NAMES)
def test_migrating_a_schema_creates_nothing_in_public(dsn: str, schema: str) -> None:
    asm.migrate(dsn, schema=schema)
    assert (tables(dsn, schema) >= TABLES, tables(dsn)) == (True, set())


@schemas_only
@pytest.mark.parametrize("schema", AWKWARD_NAMES)
def test_rolling_back_empties_a_schema_of_any_name(dsn: str, schema: str) -> None:
    asm.migrate(dsn, schema=schema)
    assert (asm.rollback(dsn, schema=schema), tables(dsn, schema) & TABLES) == (STEPS[::-1], set())


@schemas_only
def test_schemas_of_one_database_are_independent(dsn: str) -> None:
    asm.migrate(dsn, schema="one")
    asm.migrate(dsn, schema="other")
    asm.rollback(dsn, schema="one")
    with asm.SessionStore(dsn, schema="other") as store:
        assert store.append_event(an_event()).sequence_number == 1


@schemas_only
def test_stores_in_two_schemas_see_their_own_rows(dsn: str) -> None:
    with (
        asm.SessionStore(dsn, schema="one", migrate=True) as one,
        asm.SessionStore(dsn, schema="other", migrate=True) as other,
    ):
        one.append_event(an_event())
        assert (one.get_latest_sequence("ses_1"), other.get_latest_sequence("ses_1")) == (1, 0)


@schemas_only
def test_a_schema_is_pending_next_to_a_public_schema_that_is_migrated(migrated: str) -> None:
    assert asm.pending_migrations(migrated, schema="one") == STEPS


@schemas_only
def test_the_status_of_a_schema_counts_its_own_rows(migrated: str) -> None:
    with asm.SessionStore(migrated, schema="one", migrate=True) as store:
        store.append_event(an_event())
    assert status(migrated, schema="one").rows["events"] == 1


@schemas_only
def test_a_file_changed_after_a_schema_was_migrated_is_a_conflict(dsn: str, folder: Path) -> None:
    asm.migrate(dsn, schema="one")
    with step_file(folder, dsn).open("a") as file:
        file.write("-- A comment.\n")
    with pytest.raises(asm.Conflict, match=STEP):
        asm.migrate(dsn, schema="one")


@schemas_only
def test_a_search_path_without_a_schema_is_a_storage_error(dsn: str) -> None:
    with pytest.raises(asm.StorageError, match="search_path"):
        asm.migrate(make_conninfo(dsn, options="-c search_path=nowhere"))


def in_path(dsn: str, *schemas: str) -> str:
    return make_conninfo(dsn, options=f"-c search_path={','.join(schemas)}")


@schemas_only
@pytest.mark.parametrize("shadowed_by", ["nothing", "yoyo's tables"])
def test_tables_are_found_where_their_names_lead_to(
    migrated: str, opened: Callable[..., Any], shadowed_by: str
) -> None:
    with asm.SessionStore(migrated) as store:
        store.save_session(asm.Session(agent_id="a", id="ses_1"))
        stored = store.append_event(an_event())
    fetch_rows(migrated, "create schema tenant")
    dsn = in_path(migrated, "tenant", "public")
    if shadowed_by != "nothing":
        fetch_rows(
            migrated, "create table tenant._yoyo_migration (like public._yoyo_migration including all)"
        )
        fetch_rows(migrated, "create table tenant._yoyo_log (like public._yoyo_log including all)")
    before = tables(migrated, "tenant")
    assert (asm.pending_migrations(dsn), asm.migrate(dsn), status(dsn).applied) == ([], [], STEPS)
    store = opened(dsn, migrate=True)
    assert (store.get_events("ses_1"), store.maintenance.health_check()) == ([stored], [])
    assert tables(migrated, "tenant") == before
    assert asm.rollback(dsn) == STEPS[::-1]
    assert tables(migrated) & TABLES == set()


@schemas_only
def test_tables_are_found_after_their_user_got_a_schema_of_its_own(
    migrated: str, opened: Callable[..., Any]
) -> None:
    with asm.SessionStore(migrated) as store:
        stored = store.append_event(an_event())
    fetch_rows(migrated, "create schema authorization current_user")
    assert (asm.pending_migrations(migrated), asm.migrate(migrated)) == ([], [])
    assert opened(migrated, migrate=True).get_events("ses_1") == [stored]


@schemas_only
def test_a_later_migration_goes_where_the_tables_are(dsn: str, folder: Path) -> None:
    asm.migrate(dsn)
    fetch_rows(dsn, "create schema tenant")
    add_step(folder, dsn, "create table notes (id integer);")
    assert asm.migrate(in_path(dsn, "tenant", "public")) == [LATER]
    assert ("notes" in tables(dsn), tables(dsn, "tenant")) == (True, set())


@schemas_only
def test_new_tables_go_into_the_first_schema_of_the_search_path(dsn: str) -> None:
    fetch_rows(dsn, "create schema tenant")
    assert asm.migrate(in_path(dsn, "missing", "tenant", "public")) == STEPS
    assert (tables(dsn, "tenant") >= TABLES, tables(dsn)) == (True, set())


@schemas_only
def test_a_named_schema_is_not_looked_for_on_the_search_path(migrated: str) -> None:
    fetch_rows(migrated, "create schema tenant")
    assert asm.pending_migrations(in_path(migrated, "public"), schema="tenant") == STEPS


@schemas_only
def test_listing_pending_migrations_creates_no_schema(dsn: str) -> None:
    asm.pending_migrations(dsn, schema="one")
    assert fetch_rows(dsn, "select to_regnamespace('one') is null") == [(True,)]


@pytest.mark.parametrize("call", [asm.migrate, asm.rollback, asm.pending_migrations])
def test_sqlite_has_no_schemas(tmp_path: Path, call: Callable[..., list[str]]) -> None:
    with pytest.raises(asm.ValidationError, match="schema"):
        call(f"sqlite:///{tmp_path / 'store.db'}", schema="one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("schema", ["", "a\0b", "x" * 64, "ü" * 32, "\ud800", 7])
def test_an_invalid_schema_name_is_refused(schema: Any) -> None:
    with pytest.raises(asm.ValidationError, match="schema"):
        asm.migrate("postgresql://nobody@127.0.0.1:1/nowhere", schema=schema)


# Servers and their roles


class Role:
    """A role with a password of its own that owns a database."""

    def __init__(self, dsn: str, password: str) -> None:
        self.name = f"role_{uuid4().hex}"
        self.password = password
        self._dsn = dsn
        self._do("create role {role} login password {password}")
        self._do("alter database {database} owner to {role}")

    def forget(self) -> None:
        # Citus 13.2 crashes at `reassign owned … to current_user`.
        self._do("reassign owned by {role} to {owner}")
        self._do("drop owned by {role}")
        self._do("drop role {role}")

    def _do(self, statement: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL(statement).format(
                    role=sql.Identifier(self.name),
                    password=sql.Literal(self.password),
                    database=sql.Identifier(connection.info.dbname),
                    owner=sql.Identifier(connection.info.user),
                )
            )


@pytest.fixture
def role(dsn: str) -> Iterator[Role]:
    role = Role(dsn, "p@ss:w/o%rd 'x' \\ é?#&=")
    yield role
    role.forget()


def host_of(dsn: str) -> dict[str, str]:
    part = conninfo_to_dict(dsn)
    return {name: str(part[name]) for name in ("host", "port", "dbname") if part.get(name)}


@servers_only
def test_a_url_may_carry_any_password(dsn: str, role: Role) -> None:
    url = f"postgresql://{url_part(dsn, user=role.name, password=role.password)}"
    assert (asm.migrate(url), asm.rollback(url)) == (STEPS, STEPS[::-1])


@servers_only
def test_a_key_value_dsn_may_carry_any_password(dsn: str, role: Role) -> None:
    conninfo = make_conninfo(user=role.name, password=role.password, **host_of(dsn))
    assert (asm.migrate(conninfo), asm.rollback(conninfo)) == (STEPS, STEPS[::-1])


@servers_only
def test_opening_with_migrate_may_carry_any_password(
    dsn: str, role: Role, opened: Callable[..., Any]
) -> None:
    with opened(make_conninfo(user=role.name, password=role.password, **host_of(dsn)), migrate=True) as store:
        assert store.append_event(an_event()).sequence_number == 1


@servers_only
def test_a_role_without_the_right_to_create_schemas_migrates_an_existing_one(dsn: str, role: Role) -> None:
    fetch_rows(dsn, "alter database {} owner to current_user".format(host_of(dsn)["dbname"]))
    fetch_rows(dsn, f"create schema one authorization {role.name}")
    conninfo = make_conninfo(user=role.name, password=role.password, **host_of(dsn))
    assert (asm.migrate(conninfo, schema="one"), asm.rollback(conninfo, schema="one")) == (STEPS, STEPS[::-1])


@servers_only
def test_the_error_for_a_wrong_password_does_not_contain_it(dsn: str) -> None:
    with pytest.raises(asm.ConnectionFailed) as raised:
        asm.migrate(make_conninfo(dsn, user="postgres", password="open sesame"))
    assert "open sesame" not in str(raised.value)


@pytest.mark.parametrize("password", ["hun@ter2", "hun/ter2", "hun%ter2", "hun%ffter2", "hun\0ter2"])
def test_the_error_for_an_unencoded_password_does_not_contain_it(password: str) -> None:
    with pytest.raises(asm.ValidationError) as raised:
        asm.migrate(f"postgresql://user:{password}@127.0.0.1:1/nowhere")
    assert "ter2" not in str(raised.value)


@servers_only
def test_a_host_that_is_down_is_skipped(dsn: str) -> None:
    part = conninfo_to_dict(dsn)
    several = make_conninfo(dsn, host=f"127.0.0.1,{part['host']}", port=f"1,{part['port']}")
    assert asm.migrate(several) == STEPS


@only(list(INSTALLATIONS), why="only where we started the server do we know its socket")
def test_a_socket_folder_is_a_host(
    dsn: str, kind: str, clusters: Callable[[str], Cluster], opened: Callable[..., Any]
) -> None:
    server = clusters(kind).server
    assert server
    socket = server.socket_dsn(host_of(dsn)["dbname"])
    asm.migrate(socket)
    with opened(socket) as store:
        assert store.append_event(an_event()).sequence_number == 1


def test_an_unreachable_server_is_a_connection_failed() -> None:
    with pytest.raises(asm.ConnectionFailed):
        asm.migrate("postgresql://nobody@127.0.0.1:1/nowhere")


@servers_only
def test_the_error_for_a_missing_database_names_it(dsn: str) -> None:
    with pytest.raises(asm.StorageError, match="nowhere"):
        asm.migrate(make_conninfo(dsn, dbname="nowhere"))


# SQLite files


def test_a_database_in_memory_is_migrated_by_its_store(opened: Callable[..., Any]) -> None:
    with opened("sqlite://", migrate=True) as store:
        assert store.append_event(an_event()).sequence_number == 1


@pytest.mark.parametrize("call", [asm.migrate, asm.rollback, asm.pending_migrations])
def test_a_database_in_memory_cannot_be_migrated_by_dsn(call: Callable[[str], list[str]]) -> None:
    with pytest.raises(asm.ValidationError, match="migrate=True"):
        call("sqlite://")


@pytest.mark.parametrize("call", [asm.migrate, asm.rollback, asm.pending_migrations])
def test_a_missing_folder_is_a_connection_failed(tmp_path: Path, call: Callable[[str], list[str]]) -> None:
    with pytest.raises(asm.ConnectionFailed, match="missing"):
        call(f"sqlite:///{tmp_path / 'missing' / 'store.db'}")


@pytest.mark.parametrize("call", [asm.migrate, asm.rollback, asm.pending_migrations])
def test_a_file_that_is_not_a_database_is_a_storage_error(
    tmp_path: Path, call: Callable[[str], list[str]]
) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(asm.StorageError, match="not a SQLite database"):
        call(f"sqlite:///{file}")


# The tests' own threads do nothing that the child waits for.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_file_that_can_only_be_read_is_a_storage_error(tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    file = folder / "store.db"
    file.touch(mode=0o444)
    folder.chmod(0o555)

    def migrate() -> list[str]:
        obey_file_permissions()
        return asm.migrate(f"sqlite:///{file}")

    assert run_in_fork(migrate) is asm.StorageError
    folder.chmod(0o755)


def test_a_file_that_other_connections_have_open_is_migrated(dsn: str) -> None:
    with driver_connection(dsn) as connection:
        connection.execute("select 1")
        assert asm.migrate(dsn) == STEPS


@pytest.mark.parametrize("name", ["two words.db", "100%.db", "a#b.db", "%41.db", "ü.db", "it's.db"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    asm.migrate(f"sqlite:///{tmp_path / name}")
    assert (tmp_path / name).exists()
