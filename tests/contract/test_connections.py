"""How many connections a store has, and when they are closed."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from psycopg.conninfo import make_conninfo

from tests.conftest import POSTGRES, an_event
from tests.contract.other_clients import fetch_rows, only

pytestmark = only(POSTGRES, why="SQLite has one connection to write and one to read")

SOON_S = 30.0


def connections(dsn: str) -> int:
    counted = "application_name = 'counted' and datname = current_database()"
    return len(fetch_rows(dsn, f"select pid from pg_stat_activity where {counted}"))


def until_there_are(number: int, dsn: str) -> None:
    deadline = time.monotonic() + SOON_S
    while connections(dsn) != number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_connection_serves_many_callers(migrated: str, opened: Callable[..., Any]) -> None:
    store = opened(make_conninfo(migrated, application_name="counted"), max_size=1)

    def work(caller: int) -> None:
        for n in range(6):
            if n % 3 == caller % 3:
                with store.transaction() as tx:
                    tx.append_event(an_event())
            else:
                store.append_event(an_event(f"ses_{n}"))
                store.get_latest_sequence("ses_1")

    with ThreadPoolExecutor(16) as threads:
        for each in [threads.submit(work, caller) for caller in range(16)]:
            each.result(SOON_S)
    until_there_are(1, migrated)


def test_a_store_that_is_closed_has_no_connection_left(migrated: str, opened: Callable[..., Any]) -> None:
    store = opened(make_conninfo(migrated, application_name="counted"))
    store.append_event(an_event())
    store.close()
    until_there_are(0, migrated)


def test_a_connection_in_a_transaction_is_used_by_no_other_call(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(make_conninfo(migrated, application_name="counted"))
    store.append_event(an_event())
    with store.transaction() as tx:
        tx.append_event(an_event())
        store.append_event(an_event("ses_2"))
        until_there_are(2, migrated)
        assert store.get_latest_sequence("ses_1") == 1
    assert store.get_latest_sequence("ses_1") == 2
