"""The fast path gives what psycopg's cursors give: values, rows, prepared statements and errors."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any

import psycopg
import pytest

import asm
from asm.postgres.adapters import PlainCursor
from asm.postgres.connections import StoreConnection
from asm.postgres.fast_path import SQL
from tests.conftest import CITUS_DSN, POSTGRES, TEST_DSN, Cluster, an_event, in_loop, numbers
from tests.contract.other_clients import SHORT_S, fetch_rows, needs_triggers, only
from tests.fault.concurrent_writers import wait_until

pytestmark = only(POSTGRES, why="SQLite has no protocol")

MOMENT = datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)


@pytest.fixture
def connection(kind: str, clusters: Callable[[str], Cluster]) -> Iterator[StoreConnection]:
    with StoreConnection.connect(clusters(kind).dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(params=[True, False], ids=["prepared", "unprepared"])
def execute(request: pytest.FixtureRequest, connection: StoreConnection) -> Callable[..., Any]:
    """Executes a statement on the fast path, prepared and not, and returns its rows."""

    def rows(statement: str, **params: Any) -> Any:
        return connection.run(connection.fast_path.execute(statement, params, request.param), None)

    return rows


class Plain(str):
    pass


class Word(str, Enum):  # noqa: UP042
    ONE = "one"


class Letter(StrEnum):
    A = "a"


class Digit(IntEnum):
    SEVEN = 7


@pytest.mark.parametrize(
    ("spelled", "value"),
    [
        ("text", "plain"),
        ("text", ""),
        ("text", "ä€😀 ' \\ %s %(x)s $1"),
        ("text", "x" * 100_000),
        ("text", Plain("plain")),
        ("text", Letter.A),
        ("bigint", 0),
        ("bigint", -(2**63)),
        ("bigint", 2**63 - 1),
        ("bigint", Digit.SEVEN),
        ("double precision", 0.1),
        ("double precision", -1e300),
        ("timestamptz", MOMENT),
        ("timestamptz", datetime(1, 1, 1, tzinfo=UTC)),
        ("timestamptz", datetime(1999, 12, 31, 23, 59, 59, 1, tzinfo=UTC)),
        ("timestamptz", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("timestamptz", datetime(2024, 1, 1, 1, 2, 3, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
        ("text[]", ["a", None, "", "ä€😀", "x" * 1_000]),
        ("text[]", []),
        ("text[]", [None, None]),
        ("text[]", [Plain("a"), Letter.A, "b"]),
        ("bigint[]", [1, -1, 2**63 - 1]),
        ("double precision[]", [0.5, None, -2.0]),
        ("timestamptz[]", [MOMENT, None]),
        ("text", None),
        ("bigint", None),
        ("json", '{"b": 1, "a": [1.50, "\\u0000"]}'),
    ],
)
def test_a_value_is_read_back_as_it_was_sent(execute: Callable[..., Any], spelled: str, value: Any) -> None:
    [(read,)] = execute(f"select %(value)s::{spelled}", value=value)
    assert (read.decode() if isinstance(read, bytes) else read) == value


def test_the_text_of_an_enum_is_its_value(execute: Callable[..., Any]) -> None:
    assert execute("select %(value)s::text", value=Word.ONE) == [("one",)]


def test_a_set_of_values_may_be_a_tuple(execute: Callable[..., Any]) -> None:
    assert execute("select 'b' = any(%(values)s::text[])", values=("a", "b")) == [(True,)]


def test_a_value_of_another_type_is_refused_by_name(execute: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="cannot send a value of type object to PostgreSQL"):
        execute("select %(value)s::text", value=object())


def test_a_statement_without_rows_gives_none(execute: Callable[..., Any]) -> None:
    assert execute("discard temp") == []


def test_many_rows_come_back(execute: Callable[..., Any]) -> None:
    rows = execute("select n, repeat('x', 100) from generate_series(1, %(last)s::bigint) as n", last=20_000)
    assert [number for number, _ in rows] == list(range(1, 20_001))


def test_an_error_of_the_server_leaves_the_connection_usable(execute: Callable[..., Any]) -> None:
    statement = "select 1 / %(by)s::bigint"
    with pytest.raises(psycopg.errors.DivisionByZero):
        execute(statement, by=0)
    assert execute(statement, by=1) == [(1,)]


def test_a_statement_the_server_cannot_prepare_says_why(execute: Callable[..., Any]) -> None:
    execute("create temp table ruled (a text)")
    execute("create rule none as on insert to ruled do instead nothing")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        execute("insert into ruled values (%(value)s) returning a", value="x")


def test_a_pipeline_that_fails_prepares_nothing_twice(connection: StoreConnection) -> None:
    def execute(by: int) -> Any:
        statements: list[SQL] = [
            ("select 1 / %(by)s::bigint", {"by": by}),
            ("select %(by)s::text", {"by": "x"}),
        ]
        return connection.run(connection.fast_path.execute_pipeline(statements, True), None)

    def prepared() -> int:
        (number,) = connection.execute("select count(*) from pg_prepared_statements").fetchone() or (0,)
        return int(number)

    with pytest.raises(psycopg.errors.DivisionByZero):
        execute(0)
    before = prepared()
    for _ in range(3):
        with pytest.raises(psycopg.errors.DivisionByZero):
            execute(0)
    assert prepared() == before
    assert execute(1) == [[(1,)], [("x",)]]


@pytest.mark.parametrize("command", ["deallocate all", "discard all"])
def test_a_statement_that_was_deallocated_is_prepared_again(
    connection: StoreConnection, command: str
) -> None:
    def execute(statement: str, **params: Any) -> Any:
        return connection.run(connection.fast_path.execute(statement, params, True), None)

    execute("select %(value)s::text", value="a")
    connection.execute(command)
    assert execute("select %(other)s::bigint", other=1) == [(1,)]
    assert execute("select %(value)s::text", value="b") == [("b",)]


def test_a_table_may_change_between_two_statements(
    connection: StoreConnection, execute: Callable[..., Any]
) -> None:
    connection.execute("create temp table grows (a) as values ('x')")
    execute("select * from grows")
    connection.execute("alter table grows add b bigint default 1")
    assert execute("select * from grows") == [("x", 1)]


REFUSED_AT_THE_COMMIT = """
create function refuse() returns trigger language plpgsql as $$
begin
    raise exception 'refused at the commit';
end $$;
create constraint trigger refused after insert on asm_events
    deferrable initially deferred for each row execute function refuse()
"""


@needs_triggers
@pytest.mark.parametrize("prepare", [True, False])
def test_a_failure_at_the_commit_is_an_error(
    migrated: str, opened: Callable[..., Any], prepare: bool
) -> None:
    fetch_rows(migrated, REFUSED_AT_THE_COMMIT)
    store = opened(migrated, prepare=prepare)
    with pytest.raises(asm.StorageError, match="refused at the commit"):
        store.append_event(an_event())
    assert store.get_events("ses_1") == []


def test_fields_may_be_of_subclasses(store: Any) -> None:
    event = an_event(Plain("ses_1"), provider=Letter.A)
    stored = [store.append_event(event), *store.append_events([event, an_event(Plain("ses_1"))])]
    assert numbers(stored) == [1, 1, 2]
    assert store.get_events(Plain("ses_1"))[0] == stored[0]


def test_an_application_may_set_another_encoding(store: Any) -> None:
    with store.transaction() as tx:
        own(tx, "set client_encoding to latin1")
    stored = store.append_event(an_event(data={"word": "größer"}))
    assert store.get_events("ses_1") == [stored]


def test_an_application_may_set_another_encoding_in_a_transaction_that_fails(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(migrated, max_size=1)
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        own(tx, "set client_encoding to latin1")
        own(tx, "commit")
        raise ZeroDivisionError
    stored = store.append_event(an_event(data={"word": "größer"}))
    assert store.get_events("ses_1") == [stored]
    assert opened(migrated).get_events("ses_1") == [stored]


def own(tx: Any, statement: str) -> None:
    """Execute an application's own statement in a transaction."""
    done = tx.connection.execute(statement)
    if asyncio.iscoroutine(done):
        in_loop(done)


@pytest.mark.skipif(
    TEST_DSN is not None or sys.platform != "linux", reason="only a server process of our own can be stopped"
)
def test_a_large_document_that_is_still_being_sent_can_be_cancelled(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(migrated, statement_timeout=SHORT_S, max_size=1, retry_for=0)
    store.append_event(an_event())
    with store.transaction() as tx:
        server = tx.connection.info.backend_pid
    os.kill(server, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        try:
            appending = thread.submit(store.append_event, an_event(data={"text": "x" * 16_000_000}))
            wait_until(lambda: has_pending_sigint(server))
        finally:
            os.kill(server, signal.SIGCONT)
        with pytest.raises(asm.StorageTimeout):
            appending.result()
    assert numbers([store.append_event(an_event("ses_2"))]) == [1]


def has_pending_sigint(process: int) -> bool:
    """Whether a cancel request has reached a server process that is stopped."""
    status = Path(f"/proc/{process}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending.split()[1], 16) & 1 << (signal.SIGINT - 1))


def test_two_lists_of_integers_of_different_widths_are_sent_in_one_statement(
    connection: StoreConnection,
) -> None:
    lists = {"small": [1, 2], "large": [40_000, 2**40]}
    cursor = PlainCursor(connection).execute(
        "select * from unnest(%(small)s::bigint[], %(large)s::bigint[])", lists, binary=True
    )
    assert cursor.fetchall() == [(1, 40_000), (2, 2**40)]


@pytest.mark.parametrize(
    ("call", "round_trips"),
    [
        (lambda store: store.append_event(an_event()), 1),
        (lambda store: store.append_event(an_event(), session=asm.Session(id="ses_1", agent_id="a")), 1),
        (lambda store: store.append_events([], session=asm.Session(id="ses_1", agent_id="a")), 1),
        # Citus takes the timeouts of a transaction from statements of their own.
        (lambda store: store.pop_event("ses_1"), 3 if CITUS_DSN else 2),
    ],
    ids=["append", "append with a session", "a session alone", "pop"],
)
def test_a_frequent_write_takes_few_round_trips(
    migrated: str, monkeypatch: pytest.MonkeyPatch, call: Callable[[Any], Any], round_trips: int
) -> None:
    """Each wait of the driver is for the response to what was sent at once."""
    waits = 0
    wait = psycopg.Connection.wait

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal waits
        waits += 1
        return wait(*args, **kwargs)

    with asm.SessionStore(migrated, max_size=1) as store:
        store.append_events([an_event() for _ in range(5)])
        call(store)
        monkeypatch.setattr(psycopg.Connection, "wait", counted)
        call(store)
        monkeypatch.undo()
    assert waits == round_trips


def test_a_transaction_that_the_fast_path_began_is_rolled_back_when_its_first_statement_fails(
    migrated: str,
) -> None:
    with asm.SessionStore(migrated, max_size=1) as store:
        store.append_event(an_event())
        fetch_rows(migrated, "alter table asm_events rename to renamed")
        with pytest.raises(asm.MigrationRequired):
            store.pop_event("ses_1")
        fetch_rows(migrated, "alter table renamed rename to asm_events")
        popped: Any = store.pop_event("ses_1")
        assert popped.sequence_number == 1
