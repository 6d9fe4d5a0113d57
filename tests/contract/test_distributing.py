"""`asm migrate --distributed`: tables that Citus distributes by session, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

import asm
from asm.cli.command import cli
from asm.engine.registry import TABLES
from asm.engine.schema_version import OPTIONAL
from asm.migrations.runner import migrate_with
from tests.conftest import CITUS_DSN, POSTGRES, an_event
from tests.contract.other_clients import STEPS, fetch_rows, only, tables

on_citus = pytest.mark.skipif(CITUS_DSN is None, reason="ASM_TEST_CITUS_DSN names no cluster")
without_citus = pytest.mark.skipif(CITUS_DSN is not None, reason="this server has the extension")

DISTRIBUTED = "select logicalrelid::text, partmethod::text from pg_dist_partition where {} order by 1"


def distributed_tables(dsn: str) -> list[Any]:
    of_schema = (
        "logicalrelid::oid in (select oid from pg_class where relnamespace = current_schema()::regnamespace)"
    )
    return fetch_rows(dsn, DISTRIBUTED.format(of_schema))


@only(["sqlite"], why="the message is about SQLite")
def test_sqlite_distributes_nothing(dsn: str) -> None:
    with pytest.raises(asm.ValidationError, match="only PostgreSQL with the extension citus"):
        asm.migrate(dsn, distributed=True)


@without_citus
@only(POSTGRES, why="SQLite has no extensions")
def test_a_server_without_the_extension_is_named_and_nothing_is_migrated(dsn: str) -> None:
    with pytest.raises(asm.StorageError, match="no extension citus"):
        asm.migrate(dsn, distributed=True)
    assert tables(dsn) == set()


@pytest.mark.parametrize("shards", [0, -1, 64_001, "8", True])
@only(POSTGRES, why="SQLite distributes nothing")
def test_the_number_of_shards_is_checked(shards: Any, dsn: str) -> None:
    with pytest.raises(asm.ValidationError, match="shards"):
        asm.migrate(dsn, distributed=True, shards=shards)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shards", "8"], "--shards and --with-rows are about --distributed"),
        (["--with-rows"], "--shards and --with-rows are about --distributed"),
        (["--distributed", "--sql"], "leave one of them out"),
    ],
)
@only(["sqlite"], why="the command does not get as far as the database")
def test_options_that_contradict_each_other_are_refused(options: list[str], message: str, dsn: str) -> None:
    result = CliRunner().invoke(cli, ["migrate", *options, dsn], prog_name="asm")
    assert (result.exit_code, message in result.stderr) == (2, True)


@on_citus
@only(POSTGRES, why="SQLite distributes nothing")
def test_the_tables_are_distributed_by_session_once(dsn: str, opened: Callable[..., Any]) -> None:
    assert asm.migrate(dsn, distributed=True, shards=2) == STEPS
    expected = [(table, "n" if table == "asm_artifacts" else "h") for table in sorted(TABLES)]
    assert distributed_tables(dsn) == expected
    opened(dsn).append_event(an_event())

    assert asm.migrate(dsn, distributed=True, shards=4) == asm.migrate(dsn) == []
    assert distributed_tables(dsn) == expected


@on_citus
@only(POSTGRES, why="SQLite distributes nothing")
def test_tables_with_rows_are_distributed_only_where_that_is_asked_for(
    dsn: str, opened: Callable[..., Any]
) -> None:
    asm.migrate(dsn)
    with asm.SessionStore(dsn) as store:
        store.flush(asm.Session(id="ses_1", agent_id="a"), asm.Run(session_id="ses_1"), [an_event("ses_1")])
        export = store.query.export_session("ses_1")

    with pytest.raises(asm.StorageError, match=r"has rows.*--with-rows.*asm copy") as refused:
        asm.migrate(dsn, distributed=True)
    assert refused.value.details["tables"] == [
        "asm_sessions",
        "asm_runs",
        "asm_events",
        "asm_session_sequences",
    ]
    assert distributed_tables(dsn) == []

    result = CliRunner().invoke(cli, ["migrate", "--distributed", "--with-rows", "--shards", "2", dsn])
    assert (result.exit_code, result.output) == (0, "up to date\n")
    store = opened(dsn)
    assert store.query.export_session("ses_1") == export
    assert store.append_event(an_event("ses_1")).sequence_number == 2
    assert store.maintenance.health_check() == []


@pytest.mark.parametrize("option", list(OPTIONAL))
@only(POSTGRES, why="SQLite distributes nothing")
def test_tables_with_triggers_are_not_asked_for_together_with_distributed_ones(option: str, dsn: str) -> None:
    result = CliRunner().invoke(cli, ["migrate", "--distributed", f"--{option}", dsn])
    assert (result.exit_code != 0, "exclude each other" in result.stderr, tables(dsn)) == (True, True, set())


@on_citus
@pytest.mark.parametrize("option", list(OPTIONAL))
@only(POSTGRES, why="SQLite distributes nothing")
def test_distributed_tables_get_no_tables_that_need_triggers(option: str, dsn: str) -> None:
    asm.migrate(dsn, distributed=True, shards=2)
    before = tables(dsn)

    for arguments in ([], ["--sql"]):
        result = CliRunner().invoke(cli, ["migrate", f"--{option}", *arguments, dsn])
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"`asm migrate --{option}` needs triggers" in result.stderr
    assert (tables(dsn), asm.pending_migrations(dsn)) == (before, [])


@on_citus
@pytest.mark.parametrize("option", list(OPTIONAL))
@only(POSTGRES, why="SQLite distributes nothing")
def test_tables_with_triggers_are_not_distributed(option: str, dsn: str, opened: Callable[..., Any]) -> None:
    migrate_with([option], dsn)

    with pytest.raises(asm.StorageError, match=rf"--{option}` has created triggers.*asm copy"):
        asm.migrate(dsn, distributed=True)
    assert distributed_tables(dsn) == []
    assert opened(dsn).append_event(an_event()).sequence_number == 1


@on_citus
@only(POSTGRES, why="SQLite distributes nothing")
def test_a_rollback_leaves_nothing(dsn: str) -> None:
    asm.migrate(dsn, distributed=True, shards=2)

    assert asm.rollback(dsn, steps=None) == STEPS[::-1]
    assert distributed_tables(dsn) == []
    assert fetch_rows(dsn, "select 1 from pg_proc where pronamespace = current_schema()::regnamespace") == []


@on_citus
@only(POSTGRES, why="SQLite distributes nothing")
def test_tables_that_somebody_distributed_otherwise_are_refused(dsn: str, opened: Callable[..., Any]) -> None:
    asm.migrate(dsn)
    fetch_rows(dsn, "select create_distributed_table('asm_events', 'session_id', shard_count := 2)")
    with pytest.raises(asm.StorageError, match=r"not distributed as `asm migrate --distributed`.*asm_events"):
        opened(dsn)


@on_citus
@only(POSTGRES, why="SQLite distributes nothing")
def test_a_lock_of_another_client_is_waited_for_no_longer_than_the_timeout(
    migrated: str, opened: Callable[..., Any]
) -> None:
    """The limit is the coordinator's setting, and the wait is on the worker."""
    store = opened(migrated, timeout=0.3, retry_for=0)
    store.save_session(asm.Session(id="ses_1", agent_id="a"))
    with psycopg.connect(migrated) as other:
        other.execute("select from asm_sessions where id = 'ses_1' for update")
        with pytest.raises(asm.StorageTimeout):
            store.update_session("ses_1", lambda session: session.update_status("active"))
