"""Opening a store, sharing it, its timeouts, and transactions."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import asm
from asm import dsn as dsns
from tests.conftest import (
    INSTALLATIONS,
    POSTGRES,
    UNSYNCED,
    Blocking,
    Colour,
    an_artifact,
    an_event,
    events_of,
    in_loop,
    in_memory,
    numbers,
)
from tests.contract.other_clients import (
    ROOT,
    SHORT_S,
    STEP,
    STEPS,
    driver_connection,
    fetch_rows,
    only,
    open_files,
    run_in_fork,
    tables,
    url_part,
)
from tests.fault.concurrent_writers import wait_until
from tests.servers import Server

Opener = Callable[..., Any]

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"

postgres_only = only(POSTGRES, why="SQLite has no server, no pool and no prepared statements")
sqlite_only = only(["sqlite"], why="PostgreSQL has no files to lock")
own_servers_only = only(list(INSTALLATIONS), why="a server can be stopped only where it is ours")
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

LOCK_EVERYTHING = {
    "sqlite": "begin immediate",
    "postgres": "begin; lock table asm_sessions, asm_runs, asm_events, asm_session_sequences, asm_artifacts"
    " in exclusive mode",
}

SESSION_ALONE = asm.SessionExport(session=asm.Session(agent_id="a", id="ses_1"))
POLICY = asm.RetentionPolicy(max_events_per_session=1)


def unchanged(model: Any) -> Any:
    return model


CALLS: dict[str, Callable[[Any], Any]] = {
    "save_session": lambda store: store.save_session(asm.Session(agent_id="a")),
    "get_session": lambda store: store.get_session("ses_1"),
    "get_sessions": lambda store: store.get_sessions(["ses_1"]),
    "update_session": lambda store: store.update_session("ses_1", unchanged),
    "fork_session": lambda store: store.fork_session("ses_1"),
    "list_sessions": lambda store: store.list_sessions(),
    "delete_session": lambda store: store.delete_session("ses_1"),
    "save_run": lambda store: store.save_run(asm.Run(session_id="ses_1")),
    "update_run": lambda store: store.update_run("run_1", unchanged),
    "get_run": lambda store: store.get_run("run_1"),
    "list_runs": lambda store: store.list_runs("ses_1"),
    "get_active_run": lambda store: store.get_active_run("ses_1"),
    "append_event": lambda store: store.append_event(an_event()),
    "append_events": lambda store: store.append_events([an_event()]),
    "get_event": lambda store: store.get_event("ses_1", "evt_1"),
    "pop_event": lambda store: store.pop_event("ses_1"),
    "delete_events": lambda store: store.delete_events("ses_1", ids=["evt_1"]),
    "get_events": lambda store: store.get_events("ses_1"),
    "iter_events": lambda store: list(store.iter_events("ses_1")),
    "follow_events": lambda store: list(store.follow_events("ses_1", idle_timeout=0)),
    "get_latest_sequence": lambda store: store.get_latest_sequence("ses_1"),
    "flush": lambda store: store.flush(asm.Session(agent_id="a", id="ses_1"), asm.Run(session_id="ses_1")),
    "import_session": lambda store: store.import_session(SESSION_ALONE),
    "artifacts.register": lambda store: store.artifacts.register(an_artifact()),
    "artifacts.get_by_key": lambda store: store.artifacts.get_by_key("k"),
    "artifacts.list_by_session": lambda store: store.artifacts.list_by_session("ses_1"),
    "artifacts.session_stats": lambda store: store.artifacts.session_stats("ses_1"),
    "artifacts.delete": lambda store: store.artifacts.delete("k"),
    "query.search_sessions": lambda store: store.query.search_sessions(),
    "query.search_runs": lambda store: store.query.search_runs(),
    "query.search_events": lambda store: store.query.search_events(),
    "query.count_events": lambda store: store.query.count_events(),
    "query.iter_sessions": lambda store: list(store.query.iter_sessions()),
    "query.iter_runs": lambda store: list(store.query.iter_runs()),
    "query.iter_events": lambda store: list(store.query.iter_events()),
    "query.get_session_stats": lambda store: store.query.get_session_stats("ses_1"),
    "query.get_usage_summary": lambda store: store.query.get_usage_summary(),
    "query.get_cost_summary": lambda store: store.query.get_cost_summary(),
    "query.export_session": lambda store: store.query.export_session("ses_1"),
}

# Of a store only: a transaction has none of these.
MAINTENANCE_CALLS: dict[str, Callable[[Any], Any]] = {
    "execute": lambda store: store.maintenance.execute(POLICY),
    "soft_delete_expired_sessions": lambda store: store.maintenance.soft_delete_expired_sessions(POLICY),
    "hard_delete_expired_sessions": lambda store: store.maintenance.hard_delete_expired_sessions(POLICY),
    "prune_session_events": lambda store: store.maintenance.prune_session_events("ses_1", POLICY),
    "clean_orphaned_artifacts": lambda store: store.maintenance.clean_orphaned_artifacts(),
    "clean_orphaned_sequences": lambda store: store.maintenance.clean_orphaned_sequences(),
    "health_check": lambda store: store.maintenance.health_check(),
    "list_stale_runs": lambda store: store.maintenance.list_stale_runs(),
}


NO_DSNS: list[Any] = [
    *(
        "",
        " ",
        "asm.db",
        "mysql://localhost/asm",
        "sqlite:asm.db",
        "sqlite://asm.db",
        "sqlite:///a.db?mode=ro",
    ),
    *("postgresql://h/d?nonsense=1", "postgresql://h:port/d", "host=h nonsense=1", "host=h\0", "host=\ud800"),
    *(7, b"sqlite://", Path("asm.db")),
]


class Interruption(Exception):
    pass


def answered(target: Any) -> list[str]:
    """The operations that do anything but raise StoreClosed."""
    operations = CALLS | MAINTENANCE_CALLS if hasattr(target, "maintenance") else CALLS
    return [name for name, call in operations.items() if not _is_closed(call, target)]


def _is_closed(call: Callable[[Any], Any], target: Any) -> bool:
    try:
        call(target)
    except asm.StoreClosed:
        return True
    return False


def own(tx: Any, statement: str) -> list[Any]:
    """The rows of an application's own statement on `tx.connection`."""
    connection = getattr(tx, "_target", tx).connection
    cursor = _awaited(connection.execute(statement))
    return list(_awaited(cursor.fetchall())) if cursor.description else []


def _awaited(result: Any) -> Any:
    return in_loop(result) if inspect.isawaitable(result) else result


# DSNs


def test_a_dsn_opens(migrated: str, opened: Opener) -> None:
    assert opened(migrated).append_event(an_event()).sequence_number == 1


@postgres_only
@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_url_opens(migrated: str, opened: Opener, scheme: str) -> None:
    assert opened(f"{scheme}://{url_part(migrated)}").list_sessions() == []


@postgres_only
def test_a_url_may_carry_options_of_libpq(migrated: str, opened: Opener) -> None:
    store = opened(f"postgresql://{url_part(migrated)}?application_name=ours&connect_timeout=5")
    with store.transaction() as tx:
        assert own(tx, "show application_name") == [("ours",)]


@postgres_only
def test_a_store_sets_its_application_name(migrated: str, opened: Opener) -> None:
    with opened(migrated).transaction() as tx:
        assert own(tx, "show application_name") == [("asm",)]


@postgres_only
def test_hosts_that_are_down_are_skipped(migrated: str, opened: Opener) -> None:
    part = conninfo_to_dict(migrated)
    several = make_conninfo(migrated, host=f"127.0.0.1,{part['host']}", port=f"1,{part['port']}")
    assert opened(several).list_sessions() == []


def test_a_relative_sqlite_file_lies_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Opener
) -> None:
    monkeypatch.chdir(tmp_path)
    opened("sqlite:///store.db", migrate=True)
    assert (tmp_path / "store.db").exists()


def test_an_absolute_sqlite_file_lies_where_it_says(tmp_path: Path, opened: Opener) -> None:
    opened(f"sqlite:///{tmp_path}/store.db", migrate=True)
    assert (tmp_path / "store.db").exists()


def test_stores_in_memory_are_separate(opened: Opener) -> None:
    opened("sqlite://", migrate=True).append_event(an_event())
    assert opened("sqlite://", migrate=True).get_latest_sequence("ses_1") == 0


def test_a_dsn_is_taken_from_the_environment(
    migrated: str, monkeypatch: pytest.MonkeyPatch, opened: Opener
) -> None:
    monkeypatch.setenv("ASM_DSN", migrated)
    opened().append_event(an_event())
    assert opened(migrated).get_latest_sequence("ses_1") == 1


def test_an_explicit_dsn_takes_precedence_over_the_environment(
    migrated: str, monkeypatch: pytest.MonkeyPatch, opened: Opener
) -> None:
    monkeypatch.setenv("ASM_DSN", NOWHERE)
    assert opened(migrated).list_sessions() == []


def test_without_a_dsn_the_store_is_asm_db(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Opener
) -> None:
    monkeypatch.delenv("ASM_DSN", raising=False)
    monkeypatch.chdir(tmp_path)
    opened(migrate=True)
    assert (tmp_path / "asm.db").exists()


@pytest.mark.parametrize("dsn", NO_DSNS, ids=repr)
def test_an_invalid_dsn_is_refused(dsn: Any, opened: Opener) -> None:
    with pytest.raises(asm.ValidationError):
        opened(dsn)


# Tables and migrations


def test_opening_names_the_missing_migrations_and_the_command_that_applies_them(
    dsn: str, opened: Opener
) -> None:
    with pytest.raises(asm.MigrationRequired, match=rf"{STEP}.*`asm migrate`") as raised:
        opened(dsn)
    assert raised.value.details["pending"] == STEPS


def test_an_async_store_that_failed_to_open_can_be_opened_again(dsn: str) -> None:
    with driver_connection(dsn) as other:
        other.execute("create table other (id int)")

    async def main() -> None:
        store = asm.AsyncSessionStore(dsn)
        with pytest.raises(asm.MigrationRequired):
            await store.open()
        with pytest.raises(asm.StoreClosed, match="not open yet"):
            await store.get_events("ses_1")
        await asyncio.to_thread(asm.migrate, dsn)
        async with store:
            assert await store.get_events("ses_1") == []
        with pytest.raises(asm.StoreClosed, match="this store is closed"):
            await store.open()

    asyncio.run(main())


@only(POSTGRES, why="opening a SQLite file waits for no lock of a table")
def test_an_async_store_whose_opening_was_cancelled_can_be_opened_again(migrated: str) -> None:
    async def main() -> None:
        store = asm.AsyncSessionStore(migrated)
        with driver_connection(migrated) as other:
            other.execute("begin; lock table asm_events in access exclusive mode")
            opening = asyncio.create_task(store.open())
            while not await asyncio.to_thread(fetch_rows, migrated, WAITS_FOR_A_LOCK):
                pass
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        async with store:
            assert await store.get_events("ses_1") == []

    asyncio.run(main())


WAITS_FOR_A_LOCK = (
    "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
)


def test_opening_names_the_file_that_is_missing(tmp_path: Path, opened: Opener) -> None:
    file = tmp_path / "misspelt.db"
    with pytest.raises(asm.MigrationRequired, match=rf"there is no file {file} .*`asm migrate`"):
        opened(f"sqlite:///{file}")


def test_opening_names_a_table_that_was_dropped(migrated: str, opened: Opener) -> None:
    fetch_rows(migrated, "drop table asm_runs")
    with pytest.raises(asm.MigrationRequired, match="asm_runs") as raised:
        opened(migrated)
    assert "`asm migrate`" in str(raised.value)


def test_opening_with_migrate_makes_the_tables(dsn: str, opened: Opener) -> None:
    assert opened(dsn, migrate=True).append_event(an_event()).sequence_number == 1


def test_opening_with_migrate_again_keeps_what_is_there(dsn: str, opened: Opener) -> None:
    opened(dsn, migrate=True).append_event(an_event())
    assert opened(dsn, migrate=True).get_latest_sequence("ses_1") == 1


def test_opening_with_migrate_recreates_a_table_that_was_dropped(migrated: str, opened: Opener) -> None:
    fetch_rows(migrated, "drop table asm_runs")
    assert opened(migrated, migrate=True).list_runs("ses_1") == []


def test_many_stores_may_open_with_migrate_at_the_same_time(dsn: str, opened: Opener) -> None:
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda _: opened(dsn, migrate=True), range(8)))
    assert [store.get_latest_sequence("ses_1") for store in stores] == [0] * 8


@postgres_only
def test_a_schema_is_where_the_tables_are(dsn: str, opened: Opener) -> None:
    opened(dsn, schema='Say "asm"', migrate=True).append_event(an_event())
    assert (tables(dsn), fetch_rows(dsn, 'select count(*) from "Say ""asm""".asm_events')) == (set(), [(1,)])


@postgres_only
def test_a_schema_leaves_nothing_set_on_a_connection(dsn: str, opened: Opener) -> None:
    store = opened(dsn, schema="one", migrate=True, max_size=1)
    store.append_events([an_event(), an_event()])
    with store.transaction() as tx:
        assert own(tx, "show search_path") == fetch_rows(dsn, "show search_path")


# As the extension of Citus makes its list of distributed tables.
DISTRIBUTED = """
set allow_system_table_mods = on;
create table pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod "char", colocationid integer);
insert into pg_catalog.pg_dist_partition
values ('{}asm_events', 'h', 1), ('{}asm_runs', 'h', 1), ('pg_class', 'h', 1)
"""


@postgres_only
def test_distributed_tables_are_refused(migrated: str, opened: Opener) -> None:
    fetch_rows(migrated, DISTRIBUTED.format("", ""))
    with pytest.raises(asm.StorageError, match=r"distributed.*asm_events, asm_runs") as refused:
        opened(migrated, retry_for=60)
    assert refused.value.details["tables"] == ["asm_events", "asm_runs"]


@postgres_only
def test_distributed_tables_of_a_schema_are_refused(dsn: str, opened: Opener) -> None:
    asm.migrate(dsn, schema="Its own")
    opened(dsn, schema="Its own").close()
    fetch_rows(dsn, DISTRIBUTED.format('"Its own".', '"Its own".'))
    with pytest.raises(asm.StorageError, match="distributed"):
        opened(dsn, schema="Its own")


@postgres_only
def test_distributed_tables_of_others_are_no_reason_to_refuse_a_store(migrated: str, opened: Opener) -> None:
    fetch_rows(migrated, DISTRIBUTED.format("", ""))
    fetch_rows(
        migrated, "delete from pg_catalog.pg_dist_partition where logicalrelid <> 'pg_class'::regclass"
    )
    assert opened(migrated).append_event(an_event()).sequence_number == 1


def test_sqlite_has_no_schemas(tmp_path: Path, opened: Opener) -> None:
    with pytest.raises(asm.ValidationError, match="schema"):
        opened(f"sqlite:///{tmp_path}/store.db", schema="one", migrate=True)


@pytest.mark.parametrize("call", [asm.pending_migrations, asm.rollback, asm.SessionStore])
def test_reading_from_a_missing_file_does_not_create_it(tmp_path: Path, call: Callable[[str], Any]) -> None:
    with suppress(asm.MigrationRequired):
        call(f"sqlite:///{tmp_path}/misspelt.db")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path, opened: Opener) -> None:
    with pytest.raises(asm.ConnectionFailed, match="missing"):
        opened(f"sqlite:///{tmp_path}/missing/store.db", migrate=True)


def test_a_file_that_is_no_database_is_named(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "letter").write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(asm.StorageError, match="letter"):
        opened(f"sqlite:///{tmp_path}/letter", migrate=True)


@sqlite_only
def test_opening_a_file_that_another_has_locked_ends_in_a_timeout(migrated: str) -> None:
    with driver_connection(migrated) as other:
        other.execute("pragma journal_mode = delete")
        other.execute("begin exclusive")
        with pytest.raises(asm.StorageTimeout):
            asm.SessionStore(migrated, timeout=0.5)


def test_a_missing_column_is_a_migration_required(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    fetch_rows(migrated, "alter table asm_events rename column correlation_id to renamed")
    with pytest.raises(asm.MigrationRequired, match="correlation_id"):
        store.append_event(an_event())
    with pytest.raises(asm.MigrationRequired, match="correlation_id"):
        store.get_events("ses_1")


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"min_size": 3, "max_size": 2},
        {"max_size": 0, "min_size": 0},
        *({"min_size": value} for value in (-1, 1.5, "1", True, None)),
        *({"max_size": value} for value in (-1, 0, 1.5, "1", True, None)),
        *({"timeout": value} for value in (0, -1, float("nan"), float("inf"), 1e12, True, "1", None)),
        *({"statement_timeout": value} for value in (0, -1, float("nan"), float("inf"), True, "1")),
        *({"retry_for": value} for value in (-1, float("nan"), True, "1", None)),
        *({"slow_statement": value} for value in (-1, float("nan"), True, "1")),
    ],
    ids=str,
)
def test_bad_options_are_refused_before_anything_is_opened(
    tmp_path: Path, options: dict[str, Any], opened: Opener
) -> None:
    with pytest.raises(asm.ValidationError):
        opened(f"sqlite:///{tmp_path}/store.db", migrate=True, **options)
    assert list(tmp_path.iterdir()) == []


def test_retrying_for_ever_is_an_option(migrated: str, opened: Opener) -> None:
    assert opened(migrated, retry_for=float("inf")).list_sessions() == []


@postgres_only
def test_a_store_may_keep_no_connection_when_idle(migrated: str, opened: Opener) -> None:
    assert opened(migrated, min_size=0).append_event(an_event()).sequence_number == 1


@postgres_only
def test_statements_are_prepared(migrated: str, opened: Opener) -> None:
    store = opened(migrated, max_size=1)
    store.append_event(an_event())
    with store.transaction() as tx:
        assert own(tx, "select 1 from pg_prepared_statements where statement ~ 'insert into asm_events'") == [
            (1,)
        ]


@postgres_only
def test_nothing_is_prepared_without_prepare(migrated: str, opened: Opener) -> None:
    store = opened(migrated, max_size=1, prepare=False)
    # The driver prepares what it has seen five times.
    for _ in range(7):
        store.append_event(an_event())
        store.append_events([an_event(), an_event()], expected_sequence=store.get_latest_sequence("ses_1"))
    with store.transaction() as tx:
        assert own(tx, "select name from pg_prepared_statements") == []


# Drivers

WITHOUT_PSYCOPG = """
import sys
sys.modules["psycopg"] = None
import asm
asm.SessionStore("sqlite://", migrate=True).close()
try:
    asm.{}
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "opening",
    ["SessionStore('postgresql://h/d')", "SessionStore(pool=object())", "migrate('postgresql://h/d')"],
)
def test_without_psycopg_sqlite_works_and_postgresql_names_the_command_that_installs_it(opening: str) -> None:
    program = [sys.executable, "-c", WITHOUT_PSYCOPG.format(opening)]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "pip install 'asm-store[binary]'" in done.stdout


# Passwords


@postgres_only
def test_a_repr_does_not_show_the_password(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    assert str(conninfo_to_dict(migrated)["password"]) not in repr(store) + str(store)


@postgres_only
def test_a_repr_says_where_the_store_is(migrated: str, opened: Opener) -> None:
    assert str(conninfo_to_dict(migrated)["dbname"]) in repr(opened(migrated))


@postgres_only
def test_an_error_while_opening_does_not_show_the_password(migrated: str, opened: Opener) -> None:
    password = secrets.token_hex()
    with pytest.raises(asm.ConnectionFailed) as raised:
        opened(make_conninfo(migrated, password=password), retry_for=0.1)
    assert password not in "".join(traceback.format_exception(raised.value)) + repr(raised.value.details)


@postgres_only
def test_no_log_of_a_failed_opening_shows_the_password(
    migrated: str, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    password = secrets.token_hex()
    caplog.set_level(logging.DEBUG)
    with pytest.raises(asm.ConnectionFailed):
        opened(make_conninfo(migrated, password=password), retry_for=0.1)
    assert password not in caplog.text


@postgres_only
def test_no_log_of_an_opening_with_migrate_shows_the_password(
    dsn: str, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    opened(dsn, migrate=True).append_event(an_event())
    assert str(conninfo_to_dict(dsn)["password"]) not in caplog.text


# Borrowed pools


class Lent:
    """A pool of an application, blocking or async, called like a blocking one."""

    def __init__(self, colour: Colour, dsn: str, **options: Any) -> None:
        kind = {"sync": ConnectionPool, "async": AsyncConnectionPool}[colour]
        self.pool: Any = kind(dsn, open=False, min_size=1, **{"max_size": 1, **options})
        _awaited(self.pool.open(wait=True))

    def fetch(self, statement: str) -> list[Any]:
        with self.connection() as connection:
            rows = _awaited(_awaited(connection.execute(statement)).fetchall())
            _awaited(connection.rollback())
            return list(rows)

    def connection(self) -> Any:
        manager = self.pool.connection()
        return manager if hasattr(manager, "__enter__") else _BlockingContext(manager)

    def close(self) -> None:
        _awaited(self.pool.close())


class _BlockingContext:
    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def __enter__(self) -> Any:
        return in_loop(self._manager.__aenter__())

    def __exit__(self, *error: object) -> None:
        in_loop(self._manager.__aexit__(*error))


@pytest.fixture
def lend(colour: Colour, migrated: str) -> Iterator[Callable[..., Lent]]:
    lent: list[Lent] = []

    def lend_pool(**options: Any) -> Lent:
        lent.append(Lent(colour, migrated, **options))
        return lent[-1]

    yield lend_pool
    for each in lent:
        each.close()


EACH_WAY = pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transactions"])


def used(store: Any) -> None:
    """Queries, units of work, transactions, and errors of ours and of the database."""
    store.save_session(asm.Session(agent_id="a", id="ses_1"))
    store.append_events([an_event(id="evt_1"), an_event()])
    store.append_event(an_event(id="evt_1"))
    with store.transaction() as tx:
        tx.append_event(an_event())
    with pytest.raises(Interruption), store.transaction() as tx:
        tx.append_event(an_event())
        raise Interruption
    with pytest.raises(asm.SequenceConflict):
        store.append_event(an_event(), expected_sequence=0)
    assert numbers(store.get_events("ses_1")) == [1, 2, 3]


@postgres_only
@EACH_WAY
def test_a_borrowed_pool_serves(lend: Callable[..., Lent], opened: Opener, autocommit: bool) -> None:
    store = opened(pool=lend(kwargs={"autocommit": autocommit}).pool)
    used(store)


@postgres_only
@EACH_WAY
def test_a_write_through_a_borrowed_pool_is_committed(
    lend: Callable[..., Lent], opened: Opener, autocommit: bool, migrated: str
) -> None:
    opened(pool=lend(kwargs={"autocommit": autocommit}).pool).append_event(an_event())
    assert fetch_rows(migrated, "select sequence_number from asm_events") == [(1,)]


@postgres_only
@EACH_WAY
def test_connections_of_a_borrowed_pool_are_returned_unchanged(
    lend: Callable[..., Lent], opened: Opener, autocommit: bool
) -> None:
    lent = lend(kwargs={"autocommit": autocommit, "row_factory": dict_row, "prepare_threshold": 3})
    before = state_of(lent)
    used(opened(pool=lent.pool))
    assert state_of(lent) == before


def state_of(lent: Lent) -> dict[str, Any]:
    """Everything that an application could notice about the connections of its pool."""
    settings = lent.fetch("select name, setting from pg_settings where name !~ '^transaction_'")
    documents = lent.fetch(
        """select '{"a": [1]}'::json as document, 7 as number, current_timestamp is null as n"""
    )
    with lent.connection() as connection:
        return {
            "status": connection.info.transaction_status,
            "autocommit": connection.autocommit,
            "isolation_level": connection.isolation_level,
            "row_factory": connection.row_factory,
            "cursor_factory": connection.cursor_factory,
            "prepare_threshold": connection.prepare_threshold,
            "process": connection.info.backend_pid,
            "settings": settings,
            "documents": documents,
        }


@postgres_only
def test_a_borrowed_pool_is_not_closed(lend: Callable[..., Lent], opened: Opener) -> None:
    lent = lend()
    opened(pool=lent.pool).close()
    assert (lent.pool.closed, lent.fetch("select 1")) == (False, [(1,)])


@postgres_only
def test_a_failed_opening_leaves_a_borrowed_pool_open(
    lend: Callable[..., Lent], opened: Opener, migrated: str
) -> None:
    lent = lend()
    asm.rollback(migrated)
    with pytest.raises(asm.MigrationRequired):
        opened(pool=lent.pool)
    assert (lent.pool.closed, lent.fetch("select 1")) == (False, [(1,)])


@postgres_only
def test_a_store_on_a_borrowed_pool_is_closed_like_any_other(
    lend: Callable[..., Lent], opened: Opener
) -> None:
    store = opened(pool=lend().pool)
    store.close()
    assert answered(store) == []


@postgres_only
def test_a_borrowed_pool_keeps_its_own_timeout(lend: Callable[..., Lent], opened: Opener) -> None:
    store = opened(pool=lend(timeout=1.25).pool)
    with store.transaction(), pytest.raises(asm.StorageTimeout, match=r"1\.25"):
        store.list_sessions()


@postgres_only
def test_a_store_on_a_borrowed_pool_may_prepare_nothing(lend: Callable[..., Lent], opened: Opener) -> None:
    lent = lend()
    opened(pool=lent.pool, prepare=False).append_event(an_event())
    assert lent.fetch("select name from pg_prepared_statements") == []


@postgres_only
def test_a_store_on_a_borrowed_pool_may_have_a_schema(
    lend: Callable[..., Lent], opened: Opener, migrated: str
) -> None:
    asm.migrate(migrated, schema="one")
    opened(pool=lend().pool, schema="one").append_event(an_event())
    assert fetch_rows(migrated, "select sequence_number from one.asm_events") == [(1,)]


@postgres_only
@pytest.mark.parametrize("extra", [{"dsn": NOWHERE}, {"migrate": True}], ids=str)
def test_a_borrowed_pool_excludes_a_dsn_and_migrate(
    lend: Callable[..., Lent], opened: Opener, extra: dict[str, Any]
) -> None:
    with pytest.raises(asm.ValidationError, match="pool"):
        opened(pool=lend().pool, **extra)


@postgres_only
def test_an_async_pool_for_a_blocking_store_is_refused_and_the_reverse(
    lend: Callable[..., Lent], colour: Colour
) -> None:
    other: Any = {"sync": asm.AsyncSessionStore, "async": asm.SessionStore}[colour]
    with pytest.raises(asm.ValidationError, match="pool must be"):
        other(pool=lend().pool)


def test_a_pool_of_another_type_is_refused(opened: Opener) -> None:
    with pytest.raises(asm.ValidationError, match="pool must be"):
        opened(pool=NOWHERE)


# Closing


def test_every_operation_of_a_store_is_in_these_tests() -> None:
    of_the_store = public(asm.store.Operations) - {"artifacts", "query"}
    of_artifacts = {f"artifacts.{name}" for name in public(asm.store.ArtifactRegistry)}
    of_the_query = {f"query.{name}" for name in public(asm.store.QueryAPI)}
    assert CALLS.keys() == of_the_store | of_artifacts | of_the_query
    assert MAINTENANCE_CALLS.keys() == public(asm.store.Maintenance)


def public(part: type) -> set[str]:
    return {name for name in dir(part) if not name.startswith("_")}


def test_every_operation_of_a_closed_store_raises_store_closed(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    store.close()
    assert answered(store) == []


def test_a_closed_store_begins_no_transaction(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    store.close()
    with pytest.raises(asm.StoreClosed), store.transaction():
        pass
    with pytest.raises(asm.StoreClosed):
        store.run_transaction(unchanged)


def test_closing_again_does_nothing(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    store.close()
    store.close()


def test_the_end_of_a_with_block_closes_the_store(migrated: str, opened: Opener) -> None:
    with opened(migrated) as store:
        store.append_event(an_event())
    with pytest.raises(asm.StoreClosed):
        store.append_event(an_event())


def test_a_closed_store_in_memory_is_closed(opened: Opener) -> None:
    store = opened("sqlite://", migrate=True)
    store.close()
    assert answered(store) == []


def test_an_iterator_of_a_store_that_was_closed_while_it_was_read_ends_in_store_closed(
    migrated: str, opened: Opener
) -> None:
    store = opened(migrated)
    store.append_events(events_of("ses_1", 4))
    events = store.iter_events("ses_1", page_size=2)
    next(events)
    store.close()
    with pytest.raises(asm.StoreClosed):
        list(events)


@postgres_only
def test_a_closed_store_leaves_no_connection(migrated: str, opened: Opener) -> None:
    opened(migrated, min_size=3).close()
    while connections_to(migrated):
        pass


@only(["sqlite"], why="a server keeps its files open")
@pytest.mark.parametrize("name", CALLS | MAINTENANCE_CALLS)
def test_a_closed_store_leaves_its_file_alone(migrated: str, opened: Opener, name: str) -> None:
    file = Path(dsns.parse_dsn(migrated).address)
    store = opened(migrated)
    with suppress(asm.NotFound):
        (CALLS | MAINTENANCE_CALLS)[name](store)
    assert file in open_files()
    store.close()
    assert file not in open_files()
    assert [each.name for each in file.parent.iterdir()] == [file.name]


@postgres_only
def test_a_failed_opening_leaves_no_connection(dsn: str, opened: Opener) -> None:
    with pytest.raises(asm.MigrationRequired):
        opened(dsn, min_size=3)
    while connections_to(dsn):
        pass


def connections_to(dsn: str) -> list[tuple[Any, ...]]:
    return fetch_rows(
        dsn,
        "select pid from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'",
    )


def test_every_operation_of_an_unopened_async_store_raises_store_closed(migrated: str) -> None:
    assert answered(Blocking(asm.AsyncSessionStore(migrated))) == []


def test_an_async_store_that_is_not_open_says_how_it_is_opened(migrated: str) -> None:
    with pytest.raises(asm.StoreClosed, match="async with"):
        in_loop(asm.AsyncSessionStore(migrated).list_sessions())


def test_an_async_store_that_is_not_open_connects_to_nothing() -> None:
    asm.AsyncSessionStore(NOWHERE)


def test_an_async_store_that_was_never_opened_may_be_closed(migrated: str) -> None:
    in_loop(asm.AsyncSessionStore(migrated).close())


def test_opening_an_open_async_store_does_nothing(migrated: str) -> None:
    store = asm.AsyncSessionStore(migrated)
    assert in_loop(store.open()) is in_loop(store.open())
    in_loop(store.close())


def test_an_async_store_is_opened_and_closed_by_a_block(migrated: str) -> None:
    async def appended() -> asm.AsyncSessionStore:
        async with asm.AsyncSessionStore(migrated) as store:
            await store.append_event(an_event())
            return store

    assert answered(Blocking(in_loop(appended()))) == []


def test_a_closed_async_store_is_not_opened_again(migrated: str) -> None:
    store = asm.AsyncSessionStore(migrated)
    in_loop(store.open())
    in_loop(store.close())
    with pytest.raises(asm.StoreClosed):
        in_loop(store.open())


# Sharing


def test_threads_share_a_store(migrated: str) -> None:
    with asm.SessionStore(migrated, max_size=3) as store, ThreadPoolExecutor(16) as threads:
        appended = list(threads.map(lambda _: store.append_event(an_event()), range(64)))
    assert sorted(event.sequence_number or 0 for event in appended) == list(range(1, 65))


def test_tasks_share_a_store(migrated: str) -> None:
    async def append_many() -> list[asm.Event]:
        async with asm.AsyncSessionStore(migrated, max_size=3) as store:
            return await asyncio.gather(*(store.append_event(an_event()) for _ in range(64)))

    assert sorted(event.sequence_number or 0 for event in in_loop(append_many())) == list(range(1, 65))


@forks
def test_a_forked_child_may_not_use_its_parents_store(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        assert run_in_fork(lambda: answered(store)) == []


@forks
def test_a_forked_child_may_not_begin_a_transaction_on_its_parents_store(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        assert run_in_fork(lambda: store.transaction().__enter__()) is asm.StoreClosed


@forks
def test_a_forked_child_may_not_go_on_with_its_parents_transaction(migrated: str) -> None:
    with asm.SessionStore(migrated) as store, store.transaction() as tx:
        tx.append_event(an_event())
        assert run_in_fork(lambda: answered(tx)) == []


@forks
def test_a_store_goes_on_working_after_a_fork(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        store.append_event(an_event())
        run_in_fork(lambda: store.append_event(an_event()))
        assert store.append_event(an_event()).sequence_number == 2


@forks
def test_a_forked_child_that_closes_its_parents_store_closes_nothing(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        run_in_fork(store.close)
        assert store.append_event(an_event()).sequence_number == 1


@forks
@only(POSTGRES, why="tests/fault/test_sqlite_files.py has what holds for SQLite")
def test_a_forked_child_opens_a_store_of_its_own(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        assert run_in_fork(lambda: opened_anew(migrated)) == 1
        assert store.get_latest_sequence("ses_1") == 1


def opened_anew(dsn: str) -> int | None:
    with asm.SessionStore(dsn) as store:
        return store.append_event(an_event()).sequence_number


def test_another_event_loop_may_not_use_an_async_store(migrated: str) -> None:
    store = asm.AsyncSessionStore(migrated)
    in_loop(store.open())
    with pytest.raises(asm.StoreClosed, match="event loop"):
        asyncio.run(_first_of(store))
    in_loop(store.close())


def test_another_event_loop_may_not_begin_a_transaction(migrated: str) -> None:
    async def begin() -> None:
        async with store.transaction():
            pass

    store = asm.AsyncSessionStore(migrated)
    in_loop(store.open())
    with pytest.raises(asm.StoreClosed, match="event loop"):
        asyncio.run(begin())
    in_loop(store.close())


def test_an_async_store_goes_on_working_after_another_loop_tried(migrated: str) -> None:
    store = asm.AsyncSessionStore(migrated)
    in_loop(store.open())
    with pytest.raises(asm.StoreClosed):
        asyncio.run(_first_of(store))
    assert in_loop(_first_of(store)) == 0
    in_loop(store.close())


async def _first_of(store: asm.AsyncSessionStore) -> int:
    return await store.get_latest_sequence("ses_1")


# Timeouts

WAITS_FOR_A_LOCK = (
    "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
)


def test_waiting_for_a_connection_ends_in_a_timeout_and_the_store_goes_on(
    migrated: str, opened: Opener
) -> None:
    store = opened(migrated, max_size=1, timeout=SHORT_S)
    with store.transaction(), ThreadPoolExecutor(1) as thread:
        assert isinstance(thread.submit(store.append_event, an_event()).exception(), asm.StorageTimeout)
    assert store.append_event(an_event()).sequence_number == 1


@pytest.mark.parametrize("name", ["append_event", "flush"])
def test_waiting_for_a_lock_of_another_ends_in_a_timeout(migrated: str, opened: Opener, name: str) -> None:
    store = opened(migrated, timeout=0.5, retry_for=0)
    with driver_connection(migrated) as other, pytest.raises(asm.StorageTimeout):
        other.execute(LOCK_EVERYTHING[dsns.parse_dsn(migrated).dialect])
        CALLS[name](store)


def test_waiting_for_a_lock_within_a_transaction_ends_in_a_timeout(migrated: str, opened: Opener) -> None:
    session = asm.Session(agent_id="a")
    waiting = opened(migrated, timeout=0.5)
    with opened(migrated).transaction() as tx:
        tx.save_session(session)
        with pytest.raises(asm.StorageTimeout), waiting.transaction() as waiting_tx:
            waiting_tx.save_session(session)


def test_waiting_for_a_row_of_another_store_ends_in_a_timeout_and_the_connection_is_usable(
    migrated: str, opened: Opener
) -> None:
    session = asm.Session(agent_id="a")
    waiting = opened(migrated, timeout=SHORT_S, max_size=1)
    with opened(migrated).transaction() as tx:
        tx.save_session(session)
        with pytest.raises(asm.StorageTimeout):
            waiting.save_session(session)
    waiting.save_session(session)
    assert waiting.get_session(session.id) == session


def test_a_statement_that_timed_out_stores_nothing(migrated: str, opened: Opener) -> None:
    store, waiting = opened(migrated), opened(migrated, timeout=0.5)
    with store.transaction() as tx:
        tx.append_event(an_event())
        with pytest.raises(asm.StorageTimeout):
            waiting.append_event(an_event())
    assert numbers(store.get_events("ses_1")) == [1]


@postgres_only
def test_a_slow_statement_within_a_transaction_ends_in_a_timeout(migrated: str, opened: Opener) -> None:
    store = opened(migrated, statement_timeout=SHORT_S)
    with driver_connection(migrated) as other, pytest.raises(asm.StorageTimeout), store.transaction() as tx:
        other.execute("begin; lock table asm_events in access exclusive mode")
        tx.get_events("ses_1")


@postgres_only
def test_a_slow_statement_ends_in_a_timeout_and_is_cancelled_on_the_server(
    migrated: str, opened: Opener
) -> None:
    store = opened(migrated, statement_timeout=SHORT_S, max_size=1)
    with driver_connection(migrated) as other:
        other.execute("begin; lock table asm_events in access exclusive mode")
        with pytest.raises(asm.StorageTimeout):
            store.get_events("ses_1")
        wait_until(lambda: not fetch_rows(migrated, WAITS_FOR_A_LOCK))


@postgres_only
def test_a_statement_of_an_applications_own_is_bounded_too(migrated: str, opened: Opener) -> None:
    store = opened(migrated, statement_timeout=SHORT_S)
    with pytest.raises(psycopg.errors.QueryCanceled), store.transaction() as tx:
        own(tx, "select pg_sleep(60)")


COUNT = (
    "with recursive n as (select 1 as i union all select i + 1 from n where i < 20000) select count(i) from n"
)


def test_the_time_of_a_statement_does_not_bound_the_applications_statements_after_it(
    migrated: str, opened: Opener
) -> None:
    store = opened(migrated, statement_timeout=SHORT_S)
    with store.transaction() as tx:
        tx.append_event(an_event())
        # No single statement takes as long as the timeout, and all of them take longer.
        end = time.monotonic() + SHORT_S + 0.5
        while time.monotonic() < end:
            own(tx, COUNT)
    assert numbers(store.get_events("ses_1")) == [1]


LONG = "a single statement is slow there only where there is much to read"


@only(["sqlite"], why=LONG)
def test_a_long_reading_statement_ends_in_a_timeout(migrated: str, opened: Opener) -> None:
    opened(migrated).append_events(events_of("ses_1", 2_000))
    with pytest.raises(asm.StorageTimeout):
        opened(migrated, statement_timeout=1e-6).get_events("ses_1")


@only(["sqlite"], why=LONG)
def test_a_long_writing_statement_ends_in_a_timeout_and_leaves_nothing(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    store.append_events(events_of("ses_1", 2_000))
    with pytest.raises(asm.StorageTimeout):
        opened(migrated, statement_timeout=1e-6).delete_session("ses_1")
    assert store.get_latest_sequence("ses_1") == len(store.get_events("ses_1")) == 2_000


def test_a_statement_within_its_timeout_succeeds(migrated: str, opened: Opener) -> None:
    store = opened(migrated, statement_timeout=30)
    assert numbers(store.append_events(events_of("ses_1", 100)))[-1] == 100


# Servers that are down


ASK_FOR_PASSWORD = b"R\0\0\0\x08\0\0\0\x03"


class RefusingServer:
    """A server that closes every connection, at once or after it has got a password, and counts them."""

    def __init__(self, port: int = 0, *, asks_for_password: bool = False) -> None:
        self.connections = 0
        self._asks_for_password = asks_for_password
        self._door = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._refuse, daemon=True)
        self._thread.start()

    @property
    def dsn(self) -> str:
        port = self._door.getsockname()[1]
        return f"postgresql://nobody@127.0.0.1:{port}/nowhere?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self._thread.join()

    def _refuse(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            self.connections += 1
            with client:
                if self._asks_for_password and client.recv(1024):
                    client.sendall(ASK_FOR_PASSWORD)
                    client.recv(1024)


@contextmanager
def refusing(port: int = 0, **options: bool) -> Iterator[RefusingServer]:
    server = RefusingServer(port, **options)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def refusing_server() -> Iterator[RefusingServer]:
    with refusing() as server:
        yield server


def test_a_missing_server_is_a_connection_failed(opened: Opener) -> None:
    with pytest.raises(asm.ConnectionFailed):
        opened(NOWHERE, retry_for=0)


def test_the_error_says_for_each_of_several_servers_why_it_failed(opened: Opener) -> None:
    with pytest.raises(asm.ConnectionFailed) as raised:
        opened("postgresql://nobody@127.0.0.1:1,127.0.0.1:2/nowhere", retry_for=0)
    for port in (1, 2):
        assert str(raised.value).count(f"port {port} failed") == 1


def test_connecting_is_tried_once_without_retries(refusing_server: RefusingServer, opened: Opener) -> None:
    with pytest.raises(asm.ConnectionFailed):
        opened(refusing_server.dsn, retry_for=0)
    assert refusing_server.connections == 1


def test_connecting_is_tried_again_while_there_is_time(
    refusing_server: RefusingServer, opened: Opener
) -> None:
    with pytest.raises(asm.ConnectionFailed):
        opened(refusing_server.dsn, retry_for=0.5)
    assert refusing_server.connections > 2


def test_connecting_is_tried_again_when_the_connection_is_lost_during_the_login(opened: Opener) -> None:
    with refusing(asks_for_password=True) as server, pytest.raises(asm.ConnectionFailed) as raised:
        opened(make_conninfo(server.dsn, password="secret"), retry_for=0.5)
    assert server.connections > 2
    assert raised.value.retryable


@pytest.fixture(scope="module")
def own_servers() -> Iterator[Callable[[str], Server]]:
    """A server of each kind that tests may stop, if they start it again."""
    started: dict[str, Server] = {}

    def server(kind: str) -> Server:
        if kind not in started:
            started[kind] = Server(INSTALLATIONS[kind], in_memory(), settings=UNSYNCED)
            started[kind].start()
            asm.migrate(started[kind].dsn())
        return started[kind]

    yield server
    for each in started.values():
        each.close()


@pytest.fixture
def server(kind: str, own_servers: Callable[[str], Server]) -> Server:
    return own_servers(kind)


@contextmanager
def down(server: Server) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


@own_servers_only
def test_a_server_restarted_between_two_calls_is_no_error(server: Server, opened: Opener) -> None:
    store = opened(server.dsn(), timeout=5, min_size=3)
    before = store.get_latest_sequence("ses_1")
    server.restart()
    assert store.append_event(an_event()).sequence_number == before + 1


@own_servers_only
def test_a_server_restarted_between_two_calls_is_no_error_without_retries(
    server: Server, opened: Opener
) -> None:
    store = opened(server.dsn(), timeout=5, min_size=3, retry_for=0)
    before = store.get_latest_sequence("ses_1")
    server.restart()
    assert store.append_event(an_event()).sequence_number == before + 1


@own_servers_only
def test_a_transaction_after_a_restart_is_no_error(server: Server, opened: Opener) -> None:
    store = opened(server.dsn(), timeout=5, min_size=3)
    server.restart()
    with store.transaction() as tx:
        tx.append_event(an_event())


@own_servers_only
def test_a_server_that_went_down_is_a_connection_failed(server: Server, opened: Opener) -> None:
    store = opened(server.dsn(), timeout=SHORT_S, retry_for=0.3)
    with down(server), pytest.raises(asm.ConnectionFailed):
        store.list_sessions()


@own_servers_only
def test_a_server_that_comes_back_in_time_is_no_error(server: Server, opened: Opener) -> None:
    store = opened(server.dsn(), timeout=SHORT_S, retry_for=60)
    with ThreadPoolExecutor() as threads:
        with down(server), refusing(server.port) as in_its_place:
            listed = threads.submit(store.list_sessions)
            wait_until(lambda: in_its_place.connections > 3)
            assert not listed.done()
        assert listed.result() == []


@own_servers_only
def test_opening_waits_for_a_server_that_comes_back_in_time(server: Server, opened: Opener) -> None:
    with ThreadPoolExecutor() as threads:
        with down(server), refusing(server.port) as in_its_place:
            opening = threads.submit(opened, server.dsn(), retry_for=60)
            wait_until(lambda: in_its_place.connections > 1)
            assert not opening.done()
        assert opening.result().list_sessions() == []


@own_servers_only
def test_no_log_about_a_server_that_went_down_shows_the_password(
    server: Server, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = opened(server.dsn(), timeout=SHORT_S, retry_for=0.3)
    with down(server), pytest.raises(asm.StorageError) as raised:
        store.list_sessions()
    assert server.password not in caplog.text + "".join(traceback.format_exception(raised.value))


# Transactions


@pytest.fixture
def orders(migrated: str) -> str:
    """A table of an application's own, in the store's database."""
    fetch_rows(migrated, "create table orders (id integer)")
    return migrated


def test_an_applications_own_statements_commit_with_ours(orders: str, opened: Opener) -> None:
    store = opened(orders)
    with store.transaction() as tx:
        own(tx, "insert into orders values (1)")
        tx.append_event(an_event())
    assert (fetch_rows(orders, "select id from orders"), store.get_latest_sequence("ses_1")) == ([(1,)], 1)


def test_an_exception_rolls_back_an_applications_own_statements_with_ours(
    orders: str, opened: Opener
) -> None:
    store = opened(orders)
    with pytest.raises(Interruption), store.transaction() as tx:
        own(tx, "insert into orders values (1)")
        tx.append_event(an_event())
        raise Interruption
    assert (fetch_rows(orders, "select id from orders"), store.get_latest_sequence("ses_1")) == ([], 0)


def test_an_error_of_ours_rolls_back_an_applications_own_statements(orders: str, opened: Opener) -> None:
    store = opened(orders)
    with pytest.raises(asm.SessionNotFound), store.transaction() as tx:
        own(tx, "insert into orders values (1)")
        tx.get_session("missing")
    assert fetch_rows(orders, "select id from orders") == []


def test_an_applications_own_statement_that_fails_rolls_back_ours(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    with pytest.raises(Exception, match="nonsense"), store.transaction() as tx:
        tx.append_event(an_event())
        own(tx, "insert into nonsense values (1)")
    assert store.get_latest_sequence("ses_1") == 0


def test_every_operation_of_a_committed_transaction_raises_store_closed(
    migrated: str, opened: Opener
) -> None:
    with opened(migrated).transaction() as tx:
        tx.append_event(an_event())
    assert answered(tx) == []


def test_every_operation_of_a_rolled_back_transaction_raises_store_closed(
    migrated: str, opened: Opener
) -> None:
    with pytest.raises(Interruption), opened(migrated).transaction() as tx:
        raise Interruption
    assert answered(tx) == []


def test_no_operation_succeeds_after_a_failed_statement_in_a_transaction(
    migrated: str, opened: Opener
) -> None:
    with pytest.raises(Interruption), opened(migrated).transaction() as tx:
        fail_in(tx)
        with pytest.raises(asm.StorageError, match="earlier statement"):
            tx.append_event(an_event())
        raise Interruption


def test_leaving_a_transaction_with_a_failed_statement_is_an_error(migrated: str, opened: Opener) -> None:
    with (
        pytest.raises(asm.StorageError, match="earlier statement"),
        opened(migrated).transaction() as tx,
    ):
        fail_in(tx)


def test_nothing_of_a_transaction_with_a_failed_statement_is_committed(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    with pytest.raises(asm.StorageError), store.transaction() as tx:
        tx.append_event(an_event())
        fail_in(tx)
    assert (store.get_latest_sequence("ses_1"), store.list_runs("ses_1")) == (0, [])


def test_a_store_goes_on_working_after_a_failed_transaction(migrated: str, opened: Opener) -> None:
    store = opened(migrated, max_size=1)
    with pytest.raises(asm.StorageError), store.transaction() as tx:
        fail_in(tx)
    assert store.append_event(an_event()).sequence_number == 1


@pytest.mark.parametrize(("ending", "kept"), [("commit", 1), ("rollback", 0)])
def test_a_transaction_that_the_application_ended_by_its_connection_refuses_operations(
    migrated: str, opened: Opener, ending: str, kept: int
) -> None:
    store = opened(migrated)
    with pytest.raises(Interruption), store.transaction() as tx:
        tx.append_event(an_event())
        own(tx, ending)
        with pytest.raises(asm.StorageError, match=r"tx\.connection"):
            tx.append_event(an_event())
        raise Interruption
    assert store.append_event(an_event()).sequence_number == kept + 1


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_leaving_a_transaction_that_the_application_ended_by_its_connection_is_an_error(
    migrated: str, opened: Opener, ending: str
) -> None:
    with (
        pytest.raises(asm.StorageError, match=r"tx\.connection"),
        opened(migrated).transaction() as tx,
    ):
        own(tx, ending)


def test_a_closed_connection_in_a_transaction_blocks_no_other_call(migrated: str, opened: Opener) -> None:
    store = opened(migrated, timeout=SHORT_S)
    with pytest.raises(asm.StorageError), store.transaction() as tx:
        tx.append_event(an_event())
        _awaited(getattr(tx, "_target", tx).connection.close())
    # A PostgreSQL pool has other connections; a SQLite store has one for writes.
    with suppress(asm.StoreClosed):
        store.append_event(an_event())


def fail_in(tx: Any) -> None:
    """Make a statement of ours fail in the database."""
    own(tx, "drop table asm_runs")
    with pytest.raises(asm.MigrationRequired):
        tx.save_run(asm.Run(session_id="ses_1"))


@pytest.mark.parametrize("break_off", [lambda tx: tx.get_session("missing"), lambda tx: own(tx, "nonsense")])
def test_an_error_in_a_transaction_leaves_no_lock(
    migrated: str, opened: Opener, break_off: Callable[[Any], Any]
) -> None:
    with pytest.raises(Exception, match=r"missing|nonsense"), opened(migrated).transaction() as tx:
        tx.append_event(an_event())
        break_off(tx)
    with driver_connection(migrated) as other:
        other.execute(LOCK_EVERYTHING[dsns.parse_dsn(migrated).dialect])


@postgres_only
def test_an_error_in_a_transaction_leaves_no_connection_in_it(migrated: str, opened: Opener) -> None:
    with pytest.raises(Interruption), opened(migrated).transaction() as tx:
        tx.append_event(an_event())
        raise Interruption
    states = fetch_rows(migrated, "select state from pg_stat_activity where datname = current_database()")
    assert not any("in transaction" in str(state) for (state,) in states)


def test_nothing_is_retried_in_a_transaction(migrated: str, opened: Opener) -> None:
    tries: list[Any] = []
    with pytest.raises(asm.ConnectionFailed), opened(migrated, retry_for=60).transaction() as tx:
        tries.append(tx)
        raise asm.ConnectionFailed("the connection was lost")
    assert len(tries) == 1


# Versions


def test_a_sqlite_without_strict_tables_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(asm.StorageError, match=r"requires SQLite 3\.37\.0 or newer"):
        asm.SessionStore(f"sqlite:///{tmp_path}/store.db", migrate=True)
