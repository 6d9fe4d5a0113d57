"""No setting of a role, a database or a DSN changes what a store does on PostgreSQL."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import asm
from tests.conftest import POSTGRES, Colour, an_artifact, an_event, in_loop
from tests.contract.other_clients import only

pytestmark = only(POSTGRES, why="SQLite has no settings of a role")

Opener = Callable[..., Any]

TEXT = {
    "array_nulls": "off",
    "backslash_quote": "on",
    "bytea_output": "escape",
    "check_function_bodies": "off",
    "client_encoding": "LATIN1",
    "client_min_messages": "debug1",
    "DateStyle": "SQL, DMY",
    "default_text_search_config": "pg_catalog.german",
    "escape_string_warning": "off",
    "extra_float_digits": "-15",
    "IntervalStyle": "sql_standard",
    "lc_messages": "C",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "TimeZone": "Pacific/Chatham",
    "transform_null_equals": "on",
    "xmlbinary": "hex",
    "xmloption": "document",
}
SESSION = {
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "idle_in_transaction_session_timeout": "1h",
    "lock_timeout": "1h",
    "row_security": "off",
    "search_path": "missing, pg_catalog, public",
    "statement_timeout": "1h",
    "synchronous_commit": "off",
}
PLANS = {
    "constraint_exclusion": "on",
    "cursor_tuple_fraction": "0",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_indexonlyscan": "off",
    "enable_indexscan": "off",
    "enable_material": "off",
    "enable_nestloop": "off",
    "enable_sort": "off",
    "from_collapse_limit": "1",
    "jit": "off",
    "join_collapse_limit": "1",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_generic_plan",
    "work_mem": "64kB",
}
# A GIN index may otherwise leave out rows: only it finds a tag when the other scans are off.
TAGS = {"gin_fuzzy_search_limit": "1", "enable_seqscan": "off", "enable_indexscan": "off"}
GROUPS = {"text": TEXT, "session": SESSION, "plans": PLANS, "tags": TAGS}

EARLY = datetime(1, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
LATE = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
TAGGED = 300
AWKWARD = "NULL, {null} \\ ' \" \\' % é 語"


def set_for_database(dsn: str, settings: Mapping[str, str]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        database = sql.Identifier(connection.info.dbname)
        for name, value in settings.items():
            values = sql.SQL(", ").join(map(sql.Literal, value.split(", ")))
            connection.execute(
                sql.SQL("alter database {} set {} = {}").format(database, sql.Identifier(name), values)
            )


def sessions() -> list[asm.Session]:
    return [
        asm.Session(
            agent_id=f"agent_{n % 2}",
            id=f"ses_{n}",
            status=("completed", "active")[n % 2],
            parent_session_id=[None, "NULL", "ses_0"][n % 3],
            tags=("NULL", AWKWARD, str(n)) if n % 2 else (),
            metadata={"text": AWKWARD, "n": n / 3, "none": None},
            created_at=EARLY + timedelta(days=n),
            updated_at=LATE - timedelta(days=n),
            deleted_at=LATE if n == 3 else None,
        )
        for n in range(4)
    ]


def runs() -> list[asm.Run]:
    return [
        asm.Run(
            session_id="ses_1",
            id=f"run_{n}",
            status="completed",
            output={"text": AWKWARD},
            token_usage={"input_tokens": n, "output_tokens": 10**11} if n else {},
            provider=[None, "NULL", "claude"][n],
            provider_metadata={"model": "claude-sonnet"} if n else {},
            cost_usd=[None, 0.1, 1 / 3][n],
            started_at=EARLY,
            ended_at=LATE,
        )
        for n in range(3)
    ]


def events() -> list[asm.Event]:
    return [
        an_event(
            "ses_1",
            ["message_sent", "acme.NULL"][n % 2],
            id=f"evt_{n}",
            run_id=[None, "NULL", "run_1"][n % 3],
            timestamp=[EARLY, LATE][n % 2],
            provider=[None, "NULL"][n % 2],
            correlation_id=[None, "NULL", AWKWARD][n % 3],
            data={"text": AWKWARD, "n": n, "third": 1 / 3},
        )
        for n in range(7)
    ]


def results(store: Any, exported: asm.SessionExport | None) -> list[Any]:
    """What a store says after writing, reading, searching, adding up, importing and deleting."""
    found: list[Any] = []
    for session in sessions():
        store.save_session(session)
    for run in runs():
        store.save_run(run)
    store.append_events(events()[:4])
    found.append([store.append_event(event) for event in events()[3:6]])
    with store.transaction() as tx:
        tx.append_events(events()[5:])
        tx.artifacts.register(an_artifact(id="art_1", session_id="ses_1", created_at=EARLY))
        found += [tx.get_events("ses_1"), tx.query.search_events(run_ids="NULL").items]
    if exported is None:
        exported = store.query.export_session("ses_1")
    store.import_session(exported)
    for session_id in ("ses_1", "ses_2"):
        found += [store.get_session(session_id), store.list_runs(session_id), store.get_events(session_id)]
    found += [store.query.export_session("ses_1"), store.artifacts.list_by_session("ses_1")]
    query = store.query
    for filters in ({"tags": "NULL"}, {"tags": [AWKWARD]}, {"agent_id": ["agent_0", "agent_1"]}):
        found.append(query.search_sessions(order_by="created_at_asc", count_total=True, **filters).items)
    page = query.search_events(limit=3, order_by="timestamp_desc")
    found += [page.items, query.search_events(limit=3, order_by="timestamp_desc", cursor=page.cursor).items]
    found += [query.search_runs(order_by="token_usage_desc").items, query.count_events(types="acme.NULL")]
    found += [query.get_usage_summary(), query.get_cost_summary(), query.get_session_stats("ses_1")]
    found.append(
        store.maintenance.prune_session_events("ses_1", asm.RetentionPolicy(max_events_per_session=2))
    )
    found += [store.get_events("ses_1"), store.maintenance.health_check()]
    store.delete_session("ses_0")
    found.append([each.id for each in query.search_sessions(order_by="created_at_asc").items])
    return found


@pytest.fixture
def expected(other: str) -> tuple[list[Any], asm.SessionExport]:
    """The results under the defaults, and an export for the other stores to import."""
    with asm.SessionStore(other) as store:
        found = results(store, None)
        export = asm.SessionExport(
            session=asm.Session(agent_id="a", id="ses_7", created_at=EARLY, updated_at=LATE),
            runs=[asm.Run.from_dict({**run.to_dict(), "session_id": "ses_7"}) for run in runs()],
            events=[],
            artifacts=[
                an_artifact(key, id=key, session_id="ses_7", created_at=EARLY) for key in ("x", "NULL")
            ],
        )
        store.import_session(export)
        return found, export


def check_same(store: Any, expected: tuple[list[Any], asm.SessionExport]) -> None:
    found, export = expected
    assert results(store, None) == found
    store.import_session(export)
    assert store.list_runs("ses_7") == [*store.query.export_session("ses_7").runs] != []


@pytest.mark.parametrize("group", GROUPS)
def test_results_are_the_same_under_every_setting_of_a_database(
    migrated: str, opened: Opener, expected: tuple[list[Any], asm.SessionExport], group: str
) -> None:
    set_for_database(migrated, GROUPS[group])
    check_same(opened(migrated), expected)


def test_results_are_the_same_under_every_setting_of_a_dsn(
    migrated: str, opened: Opener, expected: tuple[list[Any], asm.SessionExport]
) -> None:
    escaped = {name: value.replace(" ", "\\ ") for name, value in (TEXT | SESSION).items()}
    options = " ".join(f"-c {name}={value}" for name, value in escaped.items())
    check_same(opened(make_conninfo(migrated, options=options)), expected)


@pytest.mark.parametrize("autocommit", [False, True])
def test_results_are_the_same_with_a_borrowed_pool_under_every_setting(
    migrated: str,
    opened: Opener,
    colour: Colour,
    expected: tuple[list[Any], asm.SessionExport],
    autocommit: bool,
) -> None:
    set_for_database(migrated, TEXT | SESSION)
    dsn, kwargs = make_conninfo(migrated, client_encoding="UTF8"), {"autocommit": autocommit}
    if colour == "sync":
        pool: Any = psycopg_pool.ConnectionPool(dsn, min_size=1, open=True, kwargs=kwargs)
    else:
        pool = in_loop(opened_async_pool(dsn, kwargs))
    check_same(opened(pool=pool), expected)
    closed = pool.close()
    if inspect.isawaitable(closed):
        in_loop(closed)


async def opened_async_pool(dsn: str, kwargs: dict[str, Any]) -> Any:
    pool = psycopg_pool.AsyncConnectionPool(dsn, min_size=1, open=False, kwargs=kwargs)
    await pool.open()
    return pool


def test_a_store_finds_every_session_with_a_tag_whatever_limit_a_gin_index_has(
    migrated: str, opened: Opener
) -> None:
    set_for_database(migrated, TAGS)
    store = opened(migrated)
    with store.transaction() as tx:
        for n in range(TAGGED):
            tx.save_session(asm.Session(agent_id="a", id=f"ses_{n}", tags=("x",)))
    assert len(store.query.search_sessions(tags="x", limit=1_000).items) == TAGGED


def test_a_borrowed_pool_with_a_limit_of_gin_indexes_is_refused(migrated: str) -> None:
    set_for_database(migrated, TAGS)
    with (
        psycopg_pool.ConnectionPool(migrated, min_size=1, open=True) as pool,
        pytest.raises(asm.StorageError, match=r"gin_fuzzy_search_limit is 1 .*: set it to 0"),
    ):
        asm.SessionStore(pool=pool)


@pytest.mark.parametrize("level", ["database", "dsn"])
def test_a_write_under_default_transaction_read_only_names_the_setting(
    migrated: str, opened: Opener, level: str
) -> None:
    with asm.SessionStore(migrated) as store:
        stored = store.append_event(an_event())
    dsn = migrated
    if level == "database":
        set_for_database(migrated, {"default_transaction_read_only": "on"})
    else:
        dsn = make_conninfo(migrated, options="-c default_transaction_read_only=on")
    store = opened(dsn, retry_for=60)
    for write in (
        lambda: store.append_event(an_event()),
        lambda: store.append_events([an_event(), an_event()]),
        lambda: in_transaction(store),
    ):
        with pytest.raises(asm.StorageError, match="default_transaction_read_only is on for this") as raised:
            write()
        assert (type(raised.value), raised.value.retryable) == (asm.StorageError, False)
    with pytest.raises(asm.StorageError, match="default_transaction_read_only is on"):
        asm.rollback(dsn)
    assert (store.get_events("ses_1"), asm.migrate(dsn)) == ([stored], [])


def in_transaction(store: Any) -> None:
    with store.transaction() as tx:
        tx.append_event(an_event())
