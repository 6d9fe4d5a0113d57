"""Standbys: acknowledged writes survive a promotion, and no write waits for ever for a lost standby."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

import asm
from tests.conftest import INSTALLATIONS, POSTGRES, UNSYNCED, Blocking, an_event, in_memory
from tests.contract.other_clients import fetch_rows
from tests.fault.concurrent_writers import ConcurrentWriters, assert_stored_exactly_once, wait_until
from tests.fault.operations import CASES, store_what_is_used
from tests.servers import Server, Standby

Opener = Callable[..., Any]

REPLICATED = {**UNSYNCED, "wal_level": "replica", "max_wal_senders": "4"}
AT_MOST_ONCE = ["pop_event", "delete_events"]
WRITES = [name for name in CASES if not name.startswith("get_") and name not in AT_MOST_ONCE]

pytestmark = pytest.mark.skipif(not INSTALLATIONS, reason="needs PostgreSQL servers of its own")


@pytest.fixture(params=POSTGRES)
def primary(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(INSTALLATIONS[request.param], in_memory(), settings=REPLICATED) as server:
        asm.migrate(server.dsn())
        yield server


@pytest.fixture
def standby(primary: Server) -> Iterator[Server]:
    with Standby(primary, in_memory()) as standby:
        fetch_rows(primary.dsn(), "alter system set synchronous_standby_names = '*'")
        fetch_rows(primary.dsn(), "select pg_reload_conf()")
        wait_until(
            lambda: fetch_rows(primary.dsn(), "select sync_state from pg_stat_replication") == [("sync",)]
        )
        yield standby


def test_acknowledged_events_are_stored_once_when_the_standby_is_promoted(
    primary: Server, standby: Standby
) -> None:
    hosts = make_conninfo(
        primary.dsn(),
        host=f"{primary.host},{standby.host}",
        port=f"{primary.port},{standby.port}",
        target_session_attrs="read-write",
    )
    writers = ConcurrentWriters()
    with (
        asm.SessionStore(hosts, retry_for=30) as store,
        Blocking.opened(hosts, retry_for=30) as async_store,
        writers.running([store, async_store], callers=32),
    ):
        primary.kill()
        standby.promote()
    assert_stored_exactly_once(standby.dsn(), writers.acknowledged)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_updates_are_applied_once_or_of_unknown_outcome_when_the_standby_is_promoted(
    primary: Server, standby: Standby, opened: Opener
) -> None:
    hosts = make_conninfo(
        primary.dsn(),
        host=f"{primary.host},{standby.host}",
        port=f"{primary.port},{standby.port}",
        target_session_attrs="read-write",
    )
    store, outcomes = opened(hosts, retry_for=30), Counter[str]()
    over = threading.Event()

    def update(caller: int) -> None:
        store.save_session(asm.Session(agent_id="a", id=f"ses_{caller}", context={"n": 0}))
        while not over.is_set():
            try:
                store.update_session(f"ses_{caller}", add_one)
                outcomes[f"applied {caller}"] += 1
            except asm.ConnectionFailed as error:
                outcomes[f"{error.details['outcome']} {caller}"] += 1

    with ThreadPoolExecutor(4) as threads:
        updating = [threads.submit(update, caller) for caller in range(4)]
        try:
            wait_until(lambda: all(outcomes[f"applied {caller}"] > 5 for caller in range(4)))
            primary.kill()
            standby.promote()
            before = Counter(outcomes)
            wait_until(
                lambda: all(
                    outcomes[f"applied {caller}"] > before[f"applied {caller}"] + 5 for caller in range(4)
                )
            )
        finally:
            over.set()
        for each in updating:
            each.result()
    with asm.SessionStore(standby.dsn()) as promoted:
        for caller in range(4):
            n = promoted.get_session(f"ses_{caller}").context["n"]
            applied, unknown = outcomes[f"applied {caller}"], outcomes[f"unknown {caller}"]
            assert applied <= n <= applied + unknown


def add_one(session: asm.Session) -> asm.Session:
    return replace(session, context={"n": session.context["n"] + 1})


@pytest.fixture(scope="module")
def without_standby() -> Iterator[Server]:
    """A server that is configured for a synchronous standby, and has none."""
    settings = {**REPLICATED, "synchronous_standby_names": "nobody"}
    with Server(INSTALLATIONS[POSTGRES[0]], in_memory(), settings=settings) as server:
        asm.migrate(local_commits(server))
        yield server


def local_commits(server: Server) -> str:
    """A DSN whose commits wait for no standby."""
    return make_conninfo(server.dsn(), options="-c synchronous_commit=local")


@pytest.fixture
def waiting(without_standby: Server, opened: Opener) -> Any:
    """A store whose commits wait for the standby."""
    fetch_rows(
        local_commits(without_standby),
        "truncate asm_sessions, asm_runs, asm_events, asm_session_sequences, asm_artifacts",
    )
    with asm.SessionStore(local_commits(without_standby)) as store:
        store_what_is_used(store)
    return opened(without_standby.dsn(), timeout=2, retry_for=60)


@pytest.mark.parametrize("name", WRITES)
def test_a_write_that_no_standby_confirms_is_not_acknowledged_and_ends_in_a_timeout(
    waiting: Any, name: str
) -> None:
    case = CASES[name]
    with pytest.raises(asm.StorageTimeout):
        case.run(waiting)
    wait_until(lambda: case.read(waiting) == case.expected)


def test_an_update_that_no_standby_confirms_has_an_unknown_outcome(
    without_standby: Server, waiting: Any
) -> None:
    with asm.SessionStore(local_commits(without_standby)) as store:
        store.save_session(asm.Session(agent_id="a", id="ses_1", context={"n": 0}))
    with pytest.raises(asm.ConnectionFailed) as failed:
        waiting.update_session("ses_1", add_one)
    assert failed.value.details["outcome"] == "unknown"
    assert waiting.get_session("ses_1").context["n"] == 1


@pytest.mark.parametrize("name", AT_MOST_ONCE)
def test_a_removal_that_no_standby_confirms_has_an_unknown_outcome(waiting: Any, name: str) -> None:
    case = CASES[name]
    with pytest.raises(asm.ConnectionFailed) as failed:
        case.run(waiting)
    assert failed.value.details["outcome"] == "unknown"
    wait_until(lambda: case.read(waiting) == case.expected)


def test_a_transaction_that_no_standby_confirms_ends_in_a_timeout(waiting: Any) -> None:
    with pytest.raises(asm.StorageTimeout), waiting.transaction() as tx:
        tx.append_event(an_event())
    assert waiting.get_latest_sequence("ses_1") == 1
