"""Optional migrations: applied only where they are asked for, and from then on like the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

import asm
from asm.cli.command import cli
from asm.migrations.runner import migrate_with, status
from asm.operations import checkpoints
from tests.conftest import POSTGRES
from tests.contract.other_clients import STEPS, fetch_rows, only, tables
from tests.contract.retention_data import a_session

OPTIONAL = ["langgraph-0001-checkpoints"]
CHECKPOINTS = {"asm_checkpoints", "asm_checkpoint_blobs", "asm_checkpoint_writes"}


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


def test_an_optional_migration_is_not_pending_until_it_is_asked_for(dsn: str) -> None:
    assert (asm.migrate(dsn), asm.pending_migrations(dsn), tables(dsn) & CHECKPOINTS) == (STEPS, [], set())
    assert invoke("status", dsn).exit_code == 0

    assert invoke("migrate", "--langgraph", dsn).output == f"applied {OPTIONAL[0]}\n"
    assert invoke("migrate", "--langgraph", dsn).output == "up to date\n"
    assert (asm.migrate(dsn), asm.pending_migrations(dsn), tables(dsn) >= CHECKPOINTS) == ([], [], True)


def test_all_that_is_asked_for_is_applied_at_once(dsn: str, opened: Callable[..., Any]) -> None:
    assert migrate_with(["langgraph"], dsn) == STEPS + OPTIONAL
    opened(dsn)


def test_a_rollback_undoes_the_optional_migration_first(dsn: str) -> None:
    migrate_with(["langgraph"], dsn)

    assert (asm.rollback(dsn), tables(dsn) & CHECKPOINTS) == (OPTIONAL, set())
    assert (asm.pending_migrations(dsn), asm.migrate(dsn)) == ([], [])
    migrate_with(["langgraph"], dsn)
    assert asm.rollback(dsn, steps=None) == OPTIONAL + STEPS[::-1]


def test_status_and_rollback_show_the_rows_of_optional_tables(dsn: str, opened: Callable[..., Any]) -> None:
    migrate_with(["langgraph"], dsn)
    put(opened(dsn), "ses_1")

    found = status(dsn)
    assert (found.applied, found.pending) == (STEPS + OPTIONAL, [])
    assert {name: number for name, number in found.rows.items() if name.startswith("checkpoint")} == {
        "checkpoints": 1,
        "checkpoint_blobs": 1,
        "checkpoint_writes": 0,
    }
    assert "asm_checkpoints (1 row)" in invoke("rollback", "--yes", dsn).stderr


def test_optional_tables_that_were_dropped_by_hand_are_pending_and_created_again(dsn: str) -> None:
    migrate_with(["langgraph"], dsn)
    fetch_rows(dsn, "drop table asm_checkpoint_blobs")

    assert asm.pending_migrations(dsn) == OPTIONAL
    assert (asm.migrate(dsn), tables(dsn) >= CHECKPOINTS) == (OPTIONAL, True)


def test_the_sql_holds_the_optional_migration_if_it_is_asked_for(dsn: str) -> None:
    asm.migrate(dsn)

    assert invoke("migrate", "--sql", dsn).output == "-- Nothing is pending.\n"
    assert f"\n-- {OPTIONAL[0]}\n" in invoke("migrate", "--sql", "--langgraph", dsn).output
    assert tables(dsn) & CHECKPOINTS == set()


@pytest.mark.parametrize("delete", ["delete_session", "by hand"])
def test_a_session_that_is_deleted_takes_its_checkpoints_along(
    delete: str, dsn: str, opened: Callable[..., Any]
) -> None:
    migrate_with(["langgraph"], dsn)
    store = opened(dsn)
    put(store, "ses_1")
    put(store, "ses_2")
    if delete == "by hand":
        fetch_rows(dsn, "delete from asm_sessions where id = 'ses_1'")
    else:
        store.delete_session("ses_1")

    counts = [fetch_rows(dsn, f"select session_id from {table}") for table in sorted(CHECKPOINTS)]
    assert counts == [[("ses_2",)], [], [("ses_2",)]]


def test_a_session_with_checkpoints_is_not_deleted_where_the_policy_has_an_archive(
    dsn: str, opened: Callable[..., Any]
) -> None:
    migrate_with(["langgraph"], dsn)
    store = opened(dsn)
    put(store, "ses_1")
    for name in ("ses_1", "ses_2"):
        store.save_session(a_session(name, updated_days_ago=60, deleted_days_ago=31))
    archived: list[asm.SessionExport] = []
    policy = asm.RetentionPolicy(archive=archived.append)
    foreseen = store.maintenance.execute(policy, dry_run=True)
    report = store.maintenance.execute(policy)

    assert (foreseen.sessions_hard_deleted, len(foreseen.errors)) == (1, 1)
    assert (report.sessions_hard_deleted, [export.session.id for export in archived]) == (1, ["ses_2"])
    (failure,) = report.errors
    assert (failure.session_id, failure.error.details) == ("ses_1", {"session_id": "ses_1"})
    assert "checkpoints of LangGraph, which an archive would not contain" in str(failure)
    assert fetch_rows(dsn, "select session_id from asm_checkpoints") == [("ses_1",)]
    assert store.maintenance.execute(asm.RetentionPolicy()).sessions_hard_deleted == 1
    assert fetch_rows(dsn, "select session_id from asm_checkpoints") == []


@only(POSTGRES, why="a schema is PostgreSQL's")
def test_checkpoints_are_deleted_in_the_schema_of_their_session(dsn: str, opened: Callable[..., Any]) -> None:
    for schema in ("one", "other"):
        migrate_with(["langgraph"], dsn, schema=schema)
        put(opened(dsn, schema=schema), "ses_1")
    opened(dsn, schema="one").delete_session("ses_1")

    assert fetch_rows(dsn, "select count(*) from one.asm_checkpoints") == [(0,)]
    assert fetch_rows(dsn, "select count(*) from other.asm_checkpoints") == [(1,)]


def test_a_database_with_an_optional_migration_is_not_newer_than_the_program(
    dsn: str, opened: Callable[..., Any]
) -> None:
    migrate_with(["langgraph"], dsn)
    store = opened(dsn)
    fetch_rows(dsn, "drop table asm_artifacts")
    with pytest.raises(asm.MigrationRequired, match=f"of the database is {STEPS[-1]}; run `asm migrate`"):
        store.artifacts.get_by_key("report.pdf")


def put(store: Any, session_id: str) -> None:
    """Store a checkpoint with one value in a row of its own."""
    config = {"configurable": {"thread_id": session_id}}
    checkpoint = {"id": "checkpoint_1", "channel_values": {"a": [1]}, "channel_versions": {"a": "1"}}
    run_on(
        store,
        checkpoints.put_checkpoint(config, checkpoint, {"step": 1}, {"a": "1"}, lambda _: ("json", b"[]")),
    )


def run_on(store: Any, operation: Any) -> Any:
    return getattr(store, "_called", lambda method: method)(store._database.run)(operation)
