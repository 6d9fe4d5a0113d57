"""`asm migrate --sql`, the exit status of `asm status`, and what `asm rollback` asks for."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import asm
from asm import dsn as dsns
from asm.cli.command import cli
from tests.conftest import CITUS_DSN, INSTALLATIONS, POSTGRES, an_event
from tests.contract.other_clients import (
    LAST_STEP,
    STEPS,
    TABLES,
    add_migration,
    copied_folder,
    fetch_rows,
    only,
    tables,
    use_folder,
    yoyo,
)

LATER = "9999-notes"
AWKWARD = "we\"ird o'brien %s :x"


def invoke(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), input=answer)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the `sql` folder that asm takes its migrations from."""
    copy = copied_folder(tmp_path / "sql")
    use_folder(monkeypatch, copy)
    return copy


def add_step(folder: Path, dsn: str, statements: str, undo: str) -> None:
    add_migration(folder, dsn, LATER, statements, undo)


# asm status


def test_the_exit_status_says_whether_a_migration_is_pending(dsn: str) -> None:
    before = invoke("status", dsn).exit_code
    asm.migrate(dsn)
    assert (before, invoke("status", dsn).exit_code, invoke("status", dsn, "--json").exit_code) == (1, 0, 0)


# asm rollback


@pytest.mark.parametrize(
    ("options", "undone"),
    [
        ([], [LATER]),
        (["--steps", "1"], [LATER]),
        (["--steps", "2"], [LATER, *STEPS[::-1]][:2]),
        (["--all"], [LATER, *STEPS[::-1]]),
    ],
)
def test_rollback_undoes_the_newest_migration_unless_told_otherwise(
    dsn: str, folder: Path, options: list[str], undone: list[str]
) -> None:
    add_step(folder, dsn, "create table notes (id integer);", "drop table notes;")
    asm.migrate(dsn)
    result = invoke("rollback", dsn, "--yes", *options)
    assert result.stdout == "".join(f"rolled back {step}\n" for step in undone)
    assert asm.pending_migrations(dsn) == sorted(undone)


def test_rollback_says_first_what_it_drops_and_how_many_rows_that_has(dsn: str, folder: Path) -> None:
    add_step(folder, dsn, "create table notes (id integer);", "drop table if exists notes;")
    asm.migrate(dsn)
    with asm.SessionStore(dsn) as store:
        store.append_events([an_event(), an_event()])
    newest, everything = invoke("rollback", dsn, answer="n\n"), invoke("rollback", dsn, "--all", answer="n\n")
    assert (newest.exit_code, everything.exit_code, asm.pending_migrations(dsn)) == (1, 1, [])
    assert f"Rolling back {LATER} in " in newest.stderr
    assert "drops notes.\nContinue? [y/N]" in newest.stderr
    assert f"Rolling back {LATER}, {LAST_STEP}" in everything.stderr
    assert "asm_events (2 rows)" in everything.stderr
    assert "asm_events (2 rows)" in invoke("rollback", dsn, "--all", "--yes").stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(["--steps", "0"], "0 is not in the range"), (["--steps", "1", "--all"], "contradict each other")],
)
def test_a_wrong_number_of_steps_is_a_usage_error(migrated: str, options: list[str], complaint: str) -> None:
    result = invoke("rollback", migrated, "--yes", *options)
    assert (result.exit_code, complaint in result.stderr, asm.pending_migrations(migrated)) == (2, True, [])


# asm migrate --sql


def run_client(dsn: str, script: str) -> None:
    """Run a script with the client that comes with the database."""
    target = dsns.parse_dsn(dsn)
    if target.dialect == "sqlite":
        client = shutil.which("sqlite3")
        command = [str(client), target.address]
    else:
        folders = [str(each.bin) for each in INSTALLATIONS.values()]
        client = shutil.which("psql") or shutil.which("psql", path=":".join(folders))
        command = [str(client), "--no-psqlrc", "--quiet", target.address]
    if client is None:
        pytest.skip("the machine has no client of this database")
    result = subprocess.run(command, input=script, encoding="utf-8", capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def script_for(dsn: str, *options: str) -> str:
    result = invoke("migrate", "--sql", dsn, *options)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_sql_of_what_is_pending_changes_nothing_by_itself(dsn: str) -> None:
    script = script_for(dsn)
    assert (all(f"-- {step}\n" in script for step in STEPS), tables(dsn)) == (True, set())


def test_what_a_client_applied_by_the_sql_is_applied(dsn: str, opened: Callable[..., object]) -> None:
    run_client(dsn, script_for(dsn))
    assert (asm.pending_migrations(dsn), asm.migrate(dsn), script_for(dsn)) == (
        [],
        [],
        "-- Nothing is pending.\n",
    )
    opened(dsn)
    if not CITUS_DSN:
        # yoyo's command takes no search_path, so it does not find the schema of a test on a cluster.
        assert all(f"A         {step}" in yoyo("list", dsn) for step in STEPS)
    assert fetch_rows(dsn, "select * from yoyo_lock") == []
    assert asm.rollback(dsn, steps=None) == STEPS[::-1]


def test_what_a_client_applied_of_an_optional_migration_is_applied(dsn: str) -> None:
    run_client(dsn, script_for(dsn, "--langgraph"))
    assert (asm.pending_migrations(dsn), script_for(dsn, "--langgraph")) == ([], "-- Nothing is pending.\n")
    assert asm.rollback(dsn, steps=None) == ["langgraph-0001-checkpoints", *STEPS[::-1]]


def test_the_sql_makes_the_same_tables_of_yoyos_as_yoyo(dsn: str, migrated: str) -> None:
    run_client(dsn, script_for(dsn))
    query = {
        "sqlite": "select m.name, c.name, upper(c.type), c.pk from sqlite_master as m,"
        " pragma_table_info(m.name) as c where m.name like '%yoyo%' order by 1, 2",
        "postgres": "select table_name, column_name, data_type, character_maximum_length, is_nullable"
        " from information_schema.columns where table_name like '%yoyo%' order by 1, 2",
    }[dsns.parse_dsn(dsn).dialect]
    assert fetch_rows(dsn, query) == fetch_rows(migrated, query)
    versions = "select version from _yoyo_version"
    assert fetch_rows(dsn, versions) == fetch_rows(migrated, versions)


def test_the_sql_holds_only_what_is_pending(dsn: str, folder: Path) -> None:
    asm.migrate(dsn)
    add_step(folder, dsn, "create table notes (id integer);", "drop table notes;")
    run_client(dsn, script_for(dsn))
    assert (asm.pending_migrations(dsn), "notes" in tables(dsn)) == ([], True)
    assert asm.rollback(dsn) == [LATER]


def test_the_sql_mends_what_was_dropped_by_hand(migrated: str) -> None:
    fetch_rows(migrated, "drop table asm_artifacts")
    run_client(migrated, script_for(migrated))
    assert (asm.pending_migrations(migrated), tables(migrated) >= TABLES) == ([], True)


def test_a_file_that_changed_after_the_sql_was_applied_is_a_conflict(dsn: str, folder: Path) -> None:
    run_client(dsn, script_for(dsn))
    file = folder / dsns.parse_dsn(dsn).dialect / "migrations" / f"{STEPS[0]}.sql"
    file.write_text(file.read_text() + "-- A comment.\n")
    with pytest.raises(asm.Conflict, match=STEPS[0]):
        asm.migrate(dsn)


@only(POSTGRES, why="SQLite has no schemas")
def test_the_sql_of_a_schema_creates_it(dsn: str) -> None:
    run_client(dsn, script_for(dsn, "--schema", AWKWARD))
    assert (asm.pending_migrations(dsn, schema=AWKWARD), tables(dsn)) == ([], set())


@only(POSTGRES, why="SQLite has no schemas")
def test_the_sql_goes_where_the_tables_are(dsn: str, folder: Path) -> None:
    asm.migrate(dsn)
    fetch_rows(dsn, "create schema authorization current_user")
    add_step(folder, dsn, "create table notes (id integer);", "drop table notes;")
    run_client(dsn, script_for(dsn))
    assert ("notes" in tables(dsn), asm.pending_migrations(dsn)) == (True, [])
