"""A write that is not idempotent is applied once when its connection is cut, or its outcome is unknown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg_pool
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

import asm
from asm.postgres import async_at_most_once, at_most_once
from tests.conftest import INSTALLATIONS, POSTGRES, UNSYNCED, Cluster, an_event, in_memory
from tests.contract.other_clients import fetch_rows, only, opened_pool
from tests.fault.concurrent_writers import wait_until
from tests.fault.proxy import HOST, Moment, Proxy
from tests.poolers import PGBOUNCER, Pooler
from tests.servers import Server

Opener = Callable[..., Any]

newest_only = only(POSTGRES[:1], why="SQLite has no connection that could be lost")
own_servers_only = pytest.mark.skipif(
    not INSTALLATIONS, reason="a server can be stopped only where it is ours"
)

COUNTED = asm.Session(agent_id="a", id="ses_counted", context={"n": 0})
EVENT = an_event("ses_counted")
RUN = asm.Run(session_id="ses_counted", id="run_counted", metadata={"n": 0})


@pytest.fixture
def proxy(migrated: str) -> Iterator[Proxy]:
    with Proxy(migrated) as proxy:
        yield proxy


def add_one(session: asm.Session) -> asm.Session:
    return replace(session, context={"n": session.context["n"] + 1})


def add_one_to_the_run(run: asm.Run) -> asm.Run:
    return replace(run, metadata={"n": run.metadata["n"] + 1})


def count(store: Any) -> None:
    """Add one to the counter."""
    assert store.update_session(COUNTED.id, add_one).context["n"] == 1


def count_run(store: Any) -> None:
    assert store.update_run(RUN.id, add_one_to_the_run).metadata["n"] == 1


def count_in_transaction(store: Any, **options: Any) -> None:
    def work(tx: Any) -> int:
        session = add_one(tx.get_session(COUNTED.id))
        tx.save_session(session)
        return int(session.context["n"])

    assert store.run_transaction(work, **options) == 1


def save(store: Any) -> None:
    store.save_session(COUNTED)
    store.save_run(RUN)


def counted(dsn: str) -> Any:
    with asm.SessionStore(dsn) as store:
        return store.get_session(COUNTED.id).context["n"] + store.get_run(RUN.id).metadata["n"]


WRITES = {
    "update_session": (count, [b"pg_current_xact_id", b"insert into asm_sessions", b"commit\0"]),
    "update_run": (count_run, [b"pg_current_xact_id", b"insert into asm_runs", b"commit\0"]),
    "run_transaction": (
        count_in_transaction,
        [b"begin", b"from asm_sessions", b"insert into asm_sessions", b"pg_current_xact_id", b"commit\0"],
    ),
}
MESSAGES = [(name, message) for name, (_, messages) in WRITES.items() for message in messages]


@newest_only
@pytest.mark.parametrize("moment", ["before", "in", "after"])
@pytest.mark.parametrize(("name", "message"), MESSAGES)
def test_a_write_whose_connection_is_cut_is_applied_once(
    proxy: Proxy, opened: Opener, migrated: str, name: str, message: bytes, moment: Moment
) -> None:
    store = opened(proxy.dsn)
    save(store)
    proxy.cut_when(message, moment)
    WRITES[name][0](store)
    assert proxy.faults == {f"cut {moment}": 1}
    assert counted(migrated) == 1


@newest_only
def test_without_retry_for_the_outcome_of_a_lost_commit_is_still_determined(
    proxy: Proxy, opened: Opener, migrated: str
) -> None:
    store = opened(proxy.dsn, max_size=1, retry_for=0)
    save(store)
    proxy.cut_when(b"commit\0", "after")
    count(store)
    assert counted(migrated) == 1


@newest_only
def test_a_commit_whose_outcome_cannot_be_determined_is_an_error_that_says_so(
    proxy: Proxy, opened: Opener, migrated: str
) -> None:
    store = opened(proxy.dsn, max_size=1, retry_for=0.2)
    save(store)
    proxy.cut_when(b"commit\0", "after")
    proxy.refuse()
    with pytest.raises(asm.ConnectionFailed, match="repeat the call only if") as failed:
        count(store)
    assert (failed.value.details["outcome"], failed.value.retryable) == ("unknown", False)
    assert counted(migrated) == 1


@newest_only
def test_idempotent_work_is_run_again_when_its_outcome_cannot_be_determined(
    proxy: Proxy, opened: Opener, migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = opened(proxy.dsn, max_size=1), []
    save(store)
    # The server does not know the transaction id any more, as it forgets those that were frozen long ago.
    for module in (at_most_once, async_at_most_once):
        monkeypatch.setattr(module, "GET_STATUS", "select null where %(xid)s::text is not null")
    proxy.cut_when(b"commit\0", "after")

    def work(tx: Any) -> None:
        calls.append(1)
        tx.append_event(EVENT)

    store.run_transaction(work, idempotent=True)
    assert (len(calls), store.get_latest_sequence(EVENT.session_id)) == (2, 1)
    proxy.cut_when(b"commit\0", "after")
    with pytest.raises(asm.ConnectionFailed, match="repeat the call only if"):
        store.run_transaction(work)
    assert len(calls) == 3


@newest_only
@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (Debian's package pgbouncer)")
@pytest.mark.parametrize("moment", ["before", "in", "after"])
def test_behind_a_transaction_pooler_a_lost_commit_is_applied_once(
    migrated: str, kind: str, clusters: Callable[[str], Cluster], opened: Opener, moment: Moment
) -> None:
    with Pooler(clusters(kind).dsn) as pooler, Proxy(pooler.dsn(migrated)) as proxy:
        store = opened(proxy.dsn)
        save(store)
        proxy.cut_when(b"commit\0", moment)
        count(store)
        assert counted(migrated) == 1


@newest_only
@pytest.mark.parametrize("autocommit", [True, False])
def test_a_borrowed_pool_loses_no_outcome(proxy: Proxy, migrated: str, autocommit: bool) -> None:
    options = {"autocommit": autocommit, "row_factory": dict_row}
    with psycopg_pool.ConnectionPool(proxy.dsn, kwargs=options, open=True) as pool:
        store = asm.SessionStore(pool=pool)
        save(store)
        proxy.cut_when(b"commit\0", "after")
        count(store)
    assert counted(migrated) == 1


REFUSED = {
    "the server's identity": ["pg_control_system()", "pg_last_wal_replay_lsn()"],
    "transaction ids": ["pg_current_xact_id()", "pg_xact_status(xid8)"],
}


@pytest.fixture(params=list(REFUSED.values()), ids=list(REFUSED))
def refusing(request: pytest.FixtureRequest, migrated: str) -> Iterator[str]:
    """A database whose role may use the tables, and not all functions that determine an outcome."""
    name, user = conninfo_to_dict(migrated)["dbname"], f"writer_{time.time_ns()}"
    fetch_rows(migrated, f"create role {user}; grant pg_read_all_data, pg_write_all_data to {user}")
    fetch_rows(migrated, f"revoke execute on function {', '.join(request.param)} from public")
    fetch_rows(migrated, f"alter database {name} set role = {user}")
    yield migrated
    fetch_rows(make_conninfo(migrated, options="-c role=none"), f"drop role {user}")


def use_what_is_not_idempotent(store: Any) -> None:
    save(store)
    store.append_events([replace(EVENT, id=f"evt_{n}") for n in range(1, 4)])
    count(store)
    count_run(store)
    assert store.pop_event(COUNTED.id).id == "evt_3"
    assert store.delete_events(COUNTED.id, after=1) == 1
    assert store.run_transaction(lambda tx: tx.get_latest_sequence(COUNTED.id)) == 3


@newest_only
def test_writes_that_are_not_idempotent_work_where_their_outcome_could_not_be_determined(
    refusing: str, opened: Opener
) -> None:
    use_what_is_not_idempotent(opened(refusing))


@newest_only
@pytest.mark.parametrize("autocommit", [True, False])
def test_they_work_so_on_a_borrowed_pool(
    refusing: str, opened: Opener, colour: str, autocommit: bool
) -> None:
    with opened_pool(refusing, colour, autocommit=autocommit) as pool:
        use_what_is_not_idempotent(opened(pool=pool))


@newest_only
@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (Debian's package pgbouncer)")
def test_they_work_so_behind_a_transaction_pooler(
    refusing: str, kind: str, clusters: Callable[[str], Cluster], opened: Opener
) -> None:
    with Pooler(clusters(kind).dsn) as pooler:
        use_what_is_not_idempotent(opened(pooler.dsn(refusing)))


@newest_only
def test_only_a_lost_commit_has_an_unknown_outcome_there(refusing: str, proxy: Proxy, opened: Opener) -> None:
    store = opened(proxy.dsn)
    save(store)
    proxy.cut_when(b"insert into asm_sessions", "after")
    count(store)
    assert counted(refusing) == 1
    save(store)
    proxy.cut_when(b"commit\0", "after")
    with pytest.raises(asm.ConnectionFailed, match="repeat the call only if") as failed:
        count(store)
    assert failed.value.details["outcome"] == "unknown"
    assert counted(refusing) == 1


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that writes its log only at a commit, so that a crash loses what was not committed."""
    settings = {"wal_writer_delay": "10s", "autovacuum": "off", "fsync": "off"}
    with Server(INSTALLATIONS[POSTGRES[0]], in_memory(), settings=settings) as server:
        asm.migrate(server.dsn())
        yield server


@own_servers_only
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("stop", ["immediate", "fast"])
def test_a_server_that_restarts_during_a_commit_never_makes_it_count_as_applied_when_it_was_not(
    server: Server, opened: Opener, stop: Any, moment: Moment
) -> None:
    with Proxy(server.dsn()) as proxy, ThreadPoolExecutor(1) as thread:
        store = opened(proxy.dsn, max_size=1, retry_for=20)
        save(store)
        proxy.cut_when(b"commit\0", moment)
        proxy.refuse()
        counting = thread.submit(count, store)
        wait_until(lambda: proxy.faults[f"cut {moment}"])
        try:
            server.stop(stop)
            server.start()
            take_the_next_transaction_ids(server.dsn())
        finally:
            proxy.accept()
        error = counting.exception()
    if error is None:
        assert counted(server.dsn()) == 1
    else:
        assert isinstance(error, asm.ConnectionFailed)
        assert error.details["outcome"] == "unknown"


def take_the_next_transaction_ids(dsn: str) -> None:
    for _ in range(5):
        fetch_rows(dsn, "create table if not exists taken (); insert into taken default values")


@own_servers_only
def test_another_server_is_not_asked_what_became_of_a_commit(server: Server, opened: Opener) -> None:
    stranger = Server(INSTALLATIONS[POSTGRES[0]], settings=UNSYNCED)
    stranger.password = server.password
    with stranger, Proxy(server.dsn()) as proxy:
        asm.migrate(stranger.dsn())
        hosts = make_conninfo(proxy.dsn, host=f"{HOST},{HOST}", port=f"{proxy.port},{stranger.port}")
        store = opened(hosts, max_size=1)
        save(store)
        proxy.cut_when(b"commit\0", "before")
        proxy.refuse()
        with pytest.raises(asm.ConnectionFailed) as failed:
            count(store)
    assert failed.value.details["outcome"] == "unknown"
