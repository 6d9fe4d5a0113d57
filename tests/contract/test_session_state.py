"""What an application leaves on the connection of its transaction does not reach later callers."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import psycopg_pool
import pytest
from psycopg.rows import dict_row
from psycopg.types.numeric import IntLoader

import asm
from asm.dsn import parse_dsn
from tests.conftest import POSTGRES, Colour, an_event, in_loop
from tests.contract.other_clients import fetch_rows, only
from tests.poolers import PGBOUNCER, Pooler

postgres_only = only(POSTGRES, why="SQLite has no roles, no settings of a session and no pool")
sqlite_only = only(["sqlite"], why="PostgreSQL's driver has other attributes, and its server no pragmas")

LEFT_BEHIND = [
    "set role {role}",
    "set session authorization {role}",
    "set app.tenant = 'other'",
    "set search_path = pg_catalog",
    "set lock_timeout = '1ms'; set statement_timeout = '1h'; set array_nulls = off",
    "set client_encoding = latin1",
    "set session characteristics as transaction isolation level serializable read only",
    "set gin_fuzzy_search_limit = 1",
    "create temporary table asm_events (id text)",
    "create temporary view asm_sessions as select 1",
    "select pg_advisory_lock(7), pg_advisory_lock_shared(8)",
    "listen news",
    "declare remaining cursor with hold for select generate_series(1, 10)",
    "prepare remaining as select 1",
    "select nextval('numbers')",
    # Not undone by a rollback.
    "commit; set role {role}",
    "rollback; set app.tenant = 'other'; begin",
]
FINGERPRINT = """
select current_user, session_user, current_setting('role'),
       coalesce(current_setting('app.tenant', true), ''),
       (select string_agg(name || '=' || setting, ',' order by name) from pg_settings
         where source = 'session' and name not in ('lock_timeout', 'statement_timeout')
            or name = 'search_path'),
       (select count(*) from pg_class where relpersistence = 't'),
       (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
       (select count(*) from pg_listening_channels()),
       (select count(*) from pg_cursors where is_holdable),
       (select count(*) from pg_prepared_statements where from_sql)
"""


@pytest.fixture
def role(migrated: str) -> Iterator[str]:
    role = f"role_{uuid4().hex}"
    fetch_rows(migrated, f"create role {role}")
    fetch_rows(migrated, "create sequence numbers")
    fetch_rows(migrated, f"grant usage on sequence numbers to {role}")
    yield role
    fetch_rows(migrated, f"drop owned by {role}")
    fetch_rows(migrated, f"drop role {role}")


Opener = Callable[..., Any]


@pytest.fixture
def borrowing(colour: Colour, opened: Opener) -> Iterator[Opener]:
    """Opens stores on borrowed pools of one connection."""
    pools: list[Any] = []

    def open_store(dsn: str, **options: Any) -> Any:
        pool = (
            psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=1, open=True, **options)
            if colour == "sync"
            else in_loop(opened_async_pool(dsn, options))
        )
        pools.append(pool)
        return opened(pool=pool)

    yield open_store
    for pool in pools:
        awaited(pool.close())


async def opened_async_pool(dsn: str, options: dict[str, Any]) -> Any:
    pool = psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False, **options)
    await pool.open()
    return pool


def awaited(result: Any) -> Any:
    return in_loop(result) if inspect.isawaitable(result) else result


def connection_of(tx: Any) -> Any:
    return getattr(tx, "_target", tx).connection


def own(tx: Any, statement: str) -> list[Any]:
    """The rows of an application's own statement on `tx.connection`."""
    cursor = awaited(connection_of(tx).execute(statement))
    return list(awaited(cursor.fetchall())) if cursor.description else []


@contextmanager
def ending(store: Any, how: str) -> Iterator[Any]:
    """A transaction that is committed, or rolled back by an exception of the application's."""
    with suppress(ZeroDivisionError, asm.StorageError), store.transaction() as tx:
        yield tx
        if how == "rolled back":
            raise ZeroDivisionError


def fingerprint(store: Any) -> list[Any]:
    with store.transaction() as tx:
        found = own(tx, FINGERPRINT)
        own(tx, "savepoint here")
        with suppress(psycopg.errors.ObjectNotInPrerequisiteState):
            found += own(tx, "select lastval()")
        own(tx, "rollback to here")
        return found


def check_nothing_is_left(store: Any, role: str, how: str) -> None:
    before = fingerprint(store)
    for number, statement in enumerate(LEFT_BEHIND):
        with ending(store, how) as tx:
            own(tx, statement.format(role=role))
        # By an operation first: the check itself has its session reset.
        store.save_session(asm.Session(agent_id="a", tags=("x",)))
        assert store.append_event(an_event()).sequence_number == number + 1, statement
        assert fingerprint(store) == before, statement


@postgres_only
@pytest.mark.parametrize("how", ["committed", "rolled back"])
def test_nothing_is_left_on_a_connection_of_the_store(
    migrated: str, opened: Opener, role: str, how: str
) -> None:
    check_nothing_is_left(opened(migrated, max_size=1), role, how)


@postgres_only
@pytest.mark.parametrize("autocommit", [False, True])
def test_nothing_is_left_on_a_connection_of_a_borrowed_pool(
    migrated: str, borrowing: Opener, role: str, autocommit: bool
) -> None:
    store = borrowing(migrated, kwargs={"autocommit": autocommit})
    check_nothing_is_left(store, role, "committed" if autocommit else "rolled back")


@postgres_only
def test_what_the_owner_of_a_pool_configures_stays(migrated: str, borrowing: Opener, colour: Colour) -> None:
    def configure(connection: Any) -> None:
        connection.execute("set app.tenant = 'owner'")
        connection.commit()

    async def configure_async(connection: Any) -> None:
        await connection.execute("set app.tenant = 'owner'")
        await connection.commit()

    store = borrowing(migrated, configure=configure if colour == "sync" else configure_async)
    tenants = []
    for _ in range(2):
        with store.transaction() as tx:
            tenants += own(tx, "select current_setting('app.tenant')")
            own(tx, "set app.tenant = 'other'")
    assert tenants == [("owner",)] * 2


class Configured(psycopg.Connection[Any]):
    """A connection that sets something when it is made."""

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Any:
        connection = super().connect(*args, **kwargs)
        connection.execute("set app.tenant = 'owner'")
        connection.commit()
        return connection


@postgres_only
def test_a_connection_of_an_owners_class_is_replaced(migrated: str) -> None:
    pool = psycopg_pool.ConnectionPool(
        migrated, min_size=1, max_size=1, open=True, connection_class=Configured
    )
    with pool, asm.SessionStore(pool=pool) as store:
        tenants = []
        for _ in range(2):
            with store.transaction() as tx:
                tenants += own(tx, "select current_setting('app.tenant')")
                own(tx, "set app.tenant = 'other'")
    assert tenants == [("owner",)] * 2


def changed_by_prepare_threshold(connection: Any) -> None:
    connection.prepare_threshold = 0


def changed_by_row_factory(connection: Any) -> None:
    connection.row_factory = dict_row


def changed_by_adapters(connection: Any) -> None:
    connection.adapters.register_loader("int8", IntAsText)


def changed_by_a_handler(connection: Any) -> None:
    connection.add_notice_handler(print)


class IntAsText(IntLoader):
    def load(self, data: Any) -> Any:
        return str(super().load(data))


@postgres_only
@pytest.mark.parametrize(
    "change",
    [changed_by_prepare_threshold, changed_by_row_factory, changed_by_adapters, changed_by_a_handler],
)
def test_what_an_application_sets_on_the_drivers_object_ends_with_its_transaction(
    migrated: str, opened: Opener, change: Callable[[Any], None]
) -> None:
    store = opened(migrated, max_size=1)
    with store.transaction() as tx:
        change(connection_of(tx))
    with store.transaction() as tx:
        connection = connection_of(tx)
        assert own(tx, "select 1::bigint") == [(1,)]
        assert (connection.prepare_threshold, connection._notice_handlers) == (5, [])


@postgres_only
def test_a_transaction_of_the_store_alone_resets_nothing(migrated: str, opened: Opener) -> None:
    store = opened(migrated, max_size=1)
    with store.transaction() as tx:
        tx.append_event(an_event())
        process = getattr(tx, "_target", tx)._database._connection.info.backend_pid
    [(statement,)] = fetch_rows(migrated, f"select query from pg_stat_activity where pid = {process}")
    assert statement == "commit"


@postgres_only
def test_a_reset_keeps_the_connection_and_its_prepared_statements(migrated: str, opened: Opener) -> None:
    store = opened(migrated, max_size=1)
    store.append_event(an_event())
    seen = []
    for _ in range(2):
        with store.transaction() as tx:
            seen += own(tx, "select pg_backend_pid(), array_agg(name) from pg_prepared_statements")
            own(tx, "set app.tenant = 'other'")
    assert seen[0] == seen[1]
    assert seen[0][1]


def test_the_connection_of_a_transaction_that_has_ended_is_refused(store: Any) -> None:
    with store.transaction() as tx:
        pass
    with pytest.raises(asm.StoreClosed, match="has ended"):
        connection_of(tx)


@postgres_only
@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (Debian's package pgbouncer)")
@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
def test_other_clients_of_a_pooler_keep_their_session(
    migrated: str, opened: Opener, pool_mode: str, role: str
) -> None:
    with Pooler(migrated, pool_mode=pool_mode, default_pool_size=1) as pooler:
        dsn = pooler.dsn(migrated)
        if pool_mode == "transaction":
            # Stands for what PgBouncer's connect_query sets for all clients.
            with psycopg.connect(dsn, autocommit=True) as other:
                other.execute("set app.tenant = 'everyone'")
        store = opened(dsn, max_size=1)
        with store.transaction() as tx:
            if pool_mode == "session":
                own(tx, "set app.tenant = 'other'; set role " + role)
            own(tx, "select 1")
        with store.transaction() as tx:
            [(is_own, tenant)] = own(
                tx, "select current_user = session_user, coalesce(current_setting('app.tenant', true), '')"
            )
        store.close()
    assert (is_own, tenant) == (True, "" if pool_mode == "session" else "everyone")


# SQLite

LEFT_ON_SQLITE = [
    "pragma query_only = on",
    "pragma case_sensitive_like = on",
    "pragma reverse_unordered_selects = on",
    "pragma recursive_triggers = on",
    "pragma ignore_check_constraints = on",
    "pragma writable_schema = on",
    "pragma cache_size = 1",
    "pragma busy_timeout = 1",
    "pragma wal_autocheckpoint = 1",
    "pragma locking_mode = exclusive",
    "create temp table asm_events (id text)",
    "create temporary view asm_sessions as select 1",
    "/* ours */ create temp table asm_runs (id text)",
    "create table temp.asm_session_sequences (session_id text)",
    "create temp trigger t after insert on asm_events begin delete from asm_events; end",
    # Not undone by a rollback, or refused in a transaction.
    "commit ;; pragma foreign_keys = off ;; pragma synchronous = off",
    "commit ;; attach ':memory:' as other ;; begin",
    "rollback ;; create temp table asm_sessions (id text) ;; begin",
]
PRAGMAS = [
    *("query_only", "reverse_unordered_selects", "recursive_triggers", "ignore_check_constraints"),
    *("writable_schema", "cache_size", "busy_timeout", "wal_autocheckpoint", "locking_mode", "foreign_keys"),
    *("synchronous", "journal_mode", "collation_list"),
]


class Zero:
    """An aggregate that is always 0."""

    def step(self, value: object, /) -> None:
        pass

    def finalize(self) -> int:
        return 0


def denied(*_: object) -> int:
    return sqlite3.SQLITE_DENY


def half_read(connection: sqlite3.Connection) -> list[Any]:
    """Cursors of which each has rows left, one of a statement that writes outside of the transaction."""
    connection.execute("commit")
    connection.execute("create table if not exists notes (n integer)")
    read = connection.execute("select 1 from sqlite_schema")
    read.fetchone()
    return [read, connection.execute("insert into notes values (1), (2), (3) returning n")]


CHANGES_ON_SQLITE: dict[str, Callable[[sqlite3.Connection], Any]] = {
    "row_factory": lambda connection: setattr(connection, "row_factory", sqlite3.Row),
    "text_factory": lambda connection: setattr(connection, "text_factory", bytes),
    "isolation_level": lambda connection: setattr(connection, "isolation_level", "EXCLUSIVE"),
    "a function": lambda connection: connection.create_function("coalesce", -1, lambda *_: None),
    "an aggregate": lambda connection: connection.create_aggregate("max", 1, Zero),
    "a collation": lambda connection: connection.create_collation("BINARY", lambda *_: 0),
    "an authorizer": lambda connection: connection.set_authorizer(denied),
    "a progress handler": lambda connection: connection.set_progress_handler(lambda: 1, 1),
    "a limit": lambda connection: connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 20),
    "half-read cursors": half_read,
}


@pytest.fixture
def memory(kind: str, opened: Opener) -> Any:
    store = opened(f"{kind}://", migrate=True)
    # Migrating leaves its busy timeout, which nothing in memory uses.
    driver(store).execute("pragma busy_timeout = 0")
    return store


@pytest.fixture(params=["file", "memory"])
def lite(request: pytest.FixtureRequest, migrated: str, opened: Opener, memory: Any) -> Any:
    return opened(migrated) if request.param == "file" else memory


def driver(store: Any) -> sqlite3.Connection:
    """The connection that a store on SQLite writes with."""
    database = getattr(store, "_target", store)._database
    found: sqlite3.Connection = getattr(database, "_database", database).connection
    return found


def state(connection: sqlite3.Connection) -> list[Any]:
    found: list[Any] = [connection.row_factory, connection.text_factory, connection.isolation_level]
    found += [connection.execute(f"pragma {name}").fetchall() for name in PRAGMAS]
    for question in (
        "select * from sqlite_temp_schema",
        "select name from pragma_database_list where name <> 'temp'",
        "select name from pragma_function_list where not builtin",
        "select 'a' like 'A', coalesce(null, 1), max(n), 'a' = 'b' from (select 1 n union select 2)",
    ):
        found.append(connection.execute(question).fetchall())
    return [*found, connection.getlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH)]


def check_sqlite_is_as_before(store: Any, before: list[Any], name: str) -> None:
    session = asm.Session(agent_id="a", tags=("x",))
    latest = store.get_latest_sequence("ses_1")
    store.save_session(session)
    assert store.append_event(an_event()).sequence_number == latest + 1, name
    assert store.get_session(session.id) == session, name
    assert state(driver(store)) == before, name


@sqlite_only
@pytest.mark.parametrize("by", ["tx.connection", "tx.execute"])
@pytest.mark.parametrize("how", ["committed", "rolled back"])
def test_no_statement_of_an_application_leaves_anything_on_sqlites_connection(
    lite: Any, how: str, by: str
) -> None:
    before = state(driver(lite))
    for statements in LEFT_ON_SQLITE:
        with ending(lite, how) as tx:
            for statement in statements.split(" ;; "):
                own(tx, statement) if by == "tx.connection" else tx.execute(statement)
        check_sqlite_is_as_before(lite, before, statements)


@sqlite_only
@pytest.mark.parametrize("how", ["committed", "rolled back"])
def test_what_an_application_sets_on_sqlites_connection_ends_with_its_transaction(
    lite: Any, how: str
) -> None:
    before, kept = state(driver(lite)), []
    for name, change in CHANGES_ON_SQLITE.items():
        with ending(lite, how) as tx:
            kept.append(change(connection_of(tx)))
        check_sqlite_is_as_before(lite, before, name)


@sqlite_only
def test_sqlites_connection_is_closed_when_its_transaction_has_ended(lite: Any) -> None:
    with lite.transaction() as tx:
        tx.append_event(an_event())
        kept = connection_of(tx)
        kept.execute("create table notes (n integer)")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        kept.execute("select 1")
    with pytest.raises(ZeroDivisionError), lite.transaction() as tx:
        connection_of(tx).execute("insert into notes values (1)")
        raise ZeroDivisionError
    with lite.transaction() as tx:
        assert tx.execute("select count(*), (select count(*) from asm_events) from notes") == [(0, 1)]


@sqlite_only
def test_a_transaction_that_leaves_nothing_keeps_sqlites_connection(lite: Any) -> None:
    before = driver(lite)
    with lite.transaction() as tx:
        tx.append_event(an_event())
        tx.execute("savepoint here")
        tx.execute(" WITH new (n) as (select 1)\n select n from new")
        tx.execute("update asm_events set data = data where id = ?", ("evt_1",))
        tx.execute("release here")
    assert driver(lite) is before


@sqlite_only
def test_statement_timeout_holds_after_an_application_had_a_progress_handler(
    migrated: str, opened: Opener
) -> None:
    store = opened(migrated, statement_timeout=0.1)
    with store.transaction() as tx:
        connection_of(tx).set_progress_handler(None, 0)
    endless = "with recursive n (i) as (select 1 union all select i + 1 from n) select max(i) from n"
    with pytest.raises(asm.StorageTimeout), store.transaction() as tx:
        tx.execute(endless)


@sqlite_only
def test_a_connection_that_an_application_closed_is_opened_again_where_there_is_a_file(
    migrated: str, opened: Opener, memory: Any
) -> None:
    file = opened(migrated)
    for store in (file, memory):
        with ending(store, "committed") as tx:
            connection_of(tx).close()
    assert file.append_event(an_event()).sequence_number == 1
    with pytest.raises(asm.StoreClosed):
        memory.append_event(an_event())


@sqlite_only
def test_a_file_that_was_deleted_meanwhile_is_not_created_again(migrated: str, opened: Opener) -> None:
    store, file = opened(migrated), Path(parse_dsn(migrated).address)
    with ending(store, "rolled back") as tx:
        connection_of(tx)
        file.unlink()
    for _ in range(2):
        with pytest.raises(asm.StorageError, match="was deleted, moved or replaced"):
            store.append_event(an_event())
    assert not file.exists()


@sqlite_only
def test_a_poll_in_memory_notices_every_commit_after_the_connection_was_replaced(memory: Any) -> None:
    database = getattr(memory, "_target", memory)._database
    database = getattr(database, "_database", database)
    versions = []
    for _ in range(4):
        with memory.transaction() as tx:
            connection_of(tx)
        for _ in range(3):
            memory.append_event(an_event())
            versions.append(database._reader.version())
    assert len(set(versions)) == len(versions)
