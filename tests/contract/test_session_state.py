"""What an application leaves on the connection of its transaction does not reach later callers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import psycopg
import psycopg_pool
import pytest
from psycopg.rows import dict_row
from psycopg.types.numeric import IntLoader

import asm
from tests.conftest import POSTGRES, Colour, an_event, in_loop
from tests.contract.other_clients import fetch_rows, only
from tests.poolers import PGBOUNCER, Pooler

pytestmark = only(POSTGRES, why="SQLite has no roles, no settings of a session and no pool")

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


@pytest.mark.parametrize("how", ["committed", "rolled back"])
def test_nothing_is_left_on_a_connection_of_the_store(
    migrated: str, opened: Opener, role: str, how: str
) -> None:
    check_nothing_is_left(opened(migrated, max_size=1), role, how)


@pytest.mark.parametrize("autocommit", [False, True])
def test_nothing_is_left_on_a_connection_of_a_borrowed_pool(
    migrated: str, borrowing: Opener, role: str, autocommit: bool
) -> None:
    store = borrowing(migrated, kwargs={"autocommit": autocommit})
    check_nothing_is_left(store, role, "committed" if autocommit else "rolled back")


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


def test_a_transaction_of_the_store_alone_resets_nothing(migrated: str, opened: Opener) -> None:
    store = opened(migrated, max_size=1)
    with store.transaction() as tx:
        tx.append_event(an_event())
        process = getattr(tx, "_target", tx)._database._connection.info.backend_pid
    [(statement,)] = fetch_rows(migrated, f"select query from pg_stat_activity where pid = {process}")
    assert statement == "commit"


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
