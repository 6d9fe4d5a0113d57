"""An application's own statements, which are committed with the store's operations."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.rows import dict_row

import asm
from tests.conftest import POSTGRES, Where, an_event
from tests.contract.other_clients import fetch_rows, only

CREATE = "create table notes (id text primary key, size integer check (size > 0))"


@pytest.fixture(autouse=True)
def notes(where: Where) -> str:
    """A table of the application."""
    fetch_rows(where.dsn, CREATE)
    return where.dsn


def sql(where: Where, statement: str) -> str:
    """The statement with the driver's placeholders for `$`."""
    return statement.replace("$", "?" if where.dialect == "sqlite" else "%s")


def test_statements_of_the_application_are_committed_with_those_of_the_store(
    where: Where, store: Any
) -> None:
    with store.transaction() as tx:
        assert tx.execute(sql(where, "insert into notes values ($, $)"), ("a", 1)) == []
        tx.append_event(an_event())
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        tx.execute(sql(where, "insert into notes values ($, $)"), ["b", 2])
        raise ZeroDivisionError
    assert fetch_rows(where.dsn, "select * from notes") == [("a", 1)]


def test_rows_are_tuples_and_a_statement_without_rows_returns_none(where: Where, store: Any) -> None:
    with store.transaction() as tx:
        returned = tx.execute(sql(where, "insert into notes values ('a', $), ('b', $) returning id"), (1, 2))
        assert returned == [("a",), ("b",)]
        assert tx.execute("select id, size from notes order by id") == [("a", 1), ("b", 2)]
        assert tx.execute("delete from notes") == []
        assert tx.execute("select id from notes") == []


def test_values_may_have_names(where: Where, store: Any) -> None:
    value = ":id" if where.dialect == "sqlite" else "%(id)s"
    with store.transaction() as tx:
        assert tx.execute(f"select {value}, {value}", {"id": "a"}) == [("a", "a")]


def test_without_values_a_percent_sign_is_a_percent_sign(store: Any) -> None:
    with store.transaction() as tx:
        assert tx.execute("select '100%s ?'") == [("100%s ?",)]


FAILING = {
    "unique": ("insert into notes values ('a', 1), ('a', 2)", (), asm.Conflict),
    "check": ("insert into notes values ('a', 0)", (), asm.StorageError),
    "no table": ("select * from nowhere", (), asm.StorageError),
    "syntax": ("selekt", (), asm.StorageError),
}


@pytest.mark.parametrize("name", FAILING)
def test_an_error_of_the_driver_is_the_cause_of_ours_and_nothing_is_committed(
    where: Where, store: Any, name: str
) -> None:
    statement, params, kind = FAILING[name]
    driver = sqlite3.Error if where.dialect == "sqlite" else psycopg.Error
    with pytest.raises(asm.StorageError, match="an earlier statement"), store.transaction() as tx:
        tx.append_event(an_event())
        with pytest.raises(kind) as failed:
            tx.execute(statement, params)
        assert type(failed.value) is kind
        assert isinstance(failed.value.__cause__, driver)
        with pytest.raises(asm.StorageError):
            tx.execute("select 1")
        with pytest.raises(asm.StorageError):
            tx.get_latest_sequence("ses_1")
    assert store.get_latest_sequence("ses_1") == 0


@pytest.mark.parametrize(
    "params",
    [(), (1,), (1, 2, 3), (1, object()), (1, "\ud800"), 5, iter([1, 2])],
    ids=["none", "one", "three", "an object", "a surrogate", "no sequence", "an iterator"],
)
def test_values_that_the_driver_does_not_send_leave_the_transaction_as_it_was(
    where: Where, store: Any, params: Any
) -> None:
    with store.transaction() as tx:
        tx.append_event(an_event())
        if params or where.dialect == "sqlite":
            with pytest.raises(asm.ValidationError):
                tx.execute(sql(where, "select $, $"), params)
        tx.append_event(an_event())
    assert store.get_latest_sequence("ses_1") == 2


@pytest.mark.parametrize(
    ("statement", "params"),
    [
        *((statement, ()) for statement in (None, 5, b"select 1", "select 1\0 where false")),
        *(("select $", params) for params in (None, 5, "a", b"a", {1}, iter([1]))),
    ],
    ids=lambda value: "iterator" if isinstance(value, Iterator) else repr(value),
)
def test_a_statement_that_is_no_text_and_values_that_are_no_list_or_dict_are_refused(
    where: Where, store: Any, statement: Any, params: Any
) -> None:
    own = sql(where, statement) if isinstance(statement, str) else statement
    with store.transaction() as tx:
        tx.append_event(an_event())
        with pytest.raises(asm.ValidationError, match=r"^(sql|params) "):
            tx.execute(own, params)
        tx.append_event(an_event())
    assert store.get_latest_sequence("ses_1") == 2


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_that_the_application_ends_is_an_error(store: Any, end: str) -> None:
    with pytest.raises(asm.StorageError, match=r"tx\.execute"), store.transaction() as tx:
        tx.execute(end)
        with pytest.raises(asm.StorageError, match=r"tx\.execute"):
            tx.execute("select 1")


def test_nothing_is_executed_after_the_end_of_the_transaction(store: Any) -> None:
    with store.transaction() as tx:
        tx.execute("select 1")
    with pytest.raises(asm.StoreClosed):
        tx.execute("select 1")


def test_statement_timeout_bounds_a_statement_of_the_application(where: Where, opened: Any) -> None:
    endless = {
        "sqlite": "with recursive n (i) as (select 1 union all select i + 1 from n) select max(i) from n",
        "postgres": "select pg_sleep(600)",
    }
    store = opened(where.dsn, statement_timeout=0.1)
    with pytest.raises(asm.StorageTimeout), store.transaction() as tx:
        tx.execute(endless[where.dialect])


@only(POSTGRES[:1], why="a pool is PostgreSQL's")
def test_rows_are_tuples_on_a_connection_that_makes_dicts(migrated: str) -> None:
    with (
        psycopg_pool.ConnectionPool(migrated, kwargs={"row_factory": dict_row}, open=True) as pool,
        asm.SessionStore(pool=pool) as store,
        store.transaction() as tx,
    ):
        assert tx.execute("select 1, %s", ("a",)) == [(1, "a")]


@only(["sqlite"], why="the row factory of sqlite3 belongs to the connection")
def test_rows_are_tuples_beside_a_row_factory_of_the_application(migrated: str) -> None:
    with asm.SessionStore(migrated) as store, store.transaction() as tx:
        assert isinstance(tx.connection, sqlite3.Connection)
        tx.connection.row_factory = sqlite3.Row
        [row] = tx.execute("select 1")
        assert type(row) is tuple


def test_an_async_statement_blocks_no_other_task(where: Where) -> None:
    numbers = "with recursive n (i) as (select 1 union all select i + 1 from n limit 500000)"
    slow = {"sqlite": f"{numbers} select max(i) from n", "postgres": "select pg_sleep(0.5)"}

    async def main() -> int:
        ticks = 0
        async with asm.AsyncSessionStore(where.dsn) as store, store.transaction() as tx:
            executing = asyncio.ensure_future(tx.execute(slow[where.dialect]))
            while not executing.done():
                ticks += 1
                await asyncio.sleep(0)
            await executing
        return ticks

    assert asyncio.run(main()) > 10
