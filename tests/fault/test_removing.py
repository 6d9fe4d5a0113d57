"""Removing events is applied once or not at all, wherever the connection is cut or the process is killed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest

import asm
from tests.conftest import POSTGRES, Where, events_of, numbers
from tests.contract.other_clients import fetch_rows, only
from tests.fault.concurrent_writers import wait_until
from tests.fault.cuts import before_a_statement, killed, while_the_server_answers
from tests.fault.proxy import Moment, Proxy

newest_only = only(POSTGRES[:1], why="SQLite has no connection that could be lost")

REMOVALS: dict[str, Callable[[Any], Any]] = {
    "pop_event": lambda store: numbers([store.pop_event("ses_1")]),
    "delete_events": lambda store: store.delete_events("ses_1", after=4),
}
RESULTS = {"pop_event": [5], "delete_events": 1}
SESSION = asm.Session(id="ses_1", agent_id="agent")


@pytest.fixture
def proxy(migrated: str) -> Iterator[Proxy]:
    with Proxy(migrated) as proxy:
        yield proxy


@newest_only
@pytest.mark.parametrize("moment", ["before", "in", "after"])
@pytest.mark.parametrize("message", [b"pg_current_xact_id", b"delete from asm_events", b"commit\0"])
@pytest.mark.parametrize("removal", REMOVALS)
def test_a_removal_whose_connection_is_cut_is_applied_once(
    proxy: Proxy, opened: Callable[..., Any], removal: str, message: bytes, moment: Moment
) -> None:
    store = opened(proxy.dsn)
    store.append_events(events_of("ses_1", 5), session=SESSION)
    proxy.cut_when(message, moment)
    assert REMOVALS[removal](store) == RESULTS[removal]
    assert proxy.faults == {f"cut {moment}": 1}
    assert numbers(store.get_events("ses_1")) == [1, 2, 3, 4]
    assert store.maintenance.health_check() == []


@newest_only
@pytest.mark.parametrize("removal", REMOVALS)
def test_a_removal_whose_outcome_cannot_be_determined_is_an_error_that_says_so(
    proxy: Proxy, opened: Callable[..., Any], removal: str
) -> None:
    store = opened(proxy.dsn, max_size=1, retry_for=0.2)
    store.append_events(events_of("ses_1", 5), session=SESSION)
    proxy.cut_when(b"commit\0", "after")
    proxy.refuse()
    with pytest.raises(asm.ConnectionFailed) as failed:
        REMOVALS[removal](store)
    assert failed.value.details["outcome"] == "unknown"


MOVED = replace(SESSION, updated_at=SESSION.updated_at + timedelta(seconds=1))
WRITES: dict[str, Callable[[Any], object]] = {
    **REMOVALS,
    "append with a session": lambda store: store.append_events(events_of("ses_1", 3), session=MOVED),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_process_that_is_killed_at_any_statement_has_written_all_or_nothing(
    where: Where, write: str
) -> None:
    cut = before_a_statement if where.dialect == "sqlite" else while_the_server_answers

    def work() -> None:
        with asm.SessionStore(where.dsn, max_size=1) as store:
            WRITES[write](store)

    before = prepared(where)
    work()
    after = contents(where)
    assert before != after
    # The first is a random one, so that many runs of the test cut at every statement.
    step = 2 if where.dialect == "sqlite" else 3
    for number in count(random.randint(1, step), step):
        prepared(where)
        if not killed(work, partial(cut, number)):
            break
        assert contents(where) in (before, after)
    assert number > 3


def prepared(where: Where) -> Any:
    with asm.SessionStore(where.dsn) as store:
        store.delete_session("ses_1")
        store.append_events(events_of("ses_1", 5), session=SESSION)
    return contents(where)


def contents(where: Where) -> Any:
    """The number of events, when the session was updated, and its counter, when no client is left."""
    if where.dialect == "postgres":
        wait_until(lambda: not fetch_rows(where.dsn, OTHER_CLIENTS))
    return fetch_rows(where.dsn, STATE)


STATE = (
    "select (select count(*) from asm_events), (select updated_at from asm_sessions),"
    "       last_sequence, pruned_events"
    "  from asm_session_sequences"
)
OTHER_CLIENTS = (
    "select 1 from pg_stat_activity where datname = current_database()"
    "   and backend_type = 'client backend' and pid <> pg_backend_pid()"
)
