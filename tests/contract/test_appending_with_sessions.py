"""What a store promises about appends that are given the session of their events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg
import pytest

import asm
from tests.conftest import POSTGRES, Where, an_event, events_of, numbers
from tests.contract.other_clients import LOCK_WAITS, fetch_rows, only, run_in_fork
from tests.fault.concurrent_writers import wait_until

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SESSION = asm.Session(
    id="ses_1",
    agent_id="agent",
    status="active",
    parent_session_id="ses_0",
    metadata={"text": "\0 \ud83d", "n": 2**99, "quote": '"\\'},
    context={"list": [1.5, None, {}]},
    tags=("eu", '"{,}', "é🎉"),
    created_at=NOON,
    updated_at=NOON + timedelta(microseconds=1),
)
LATER = replace(SESSION, status="failed", tags=(), context={}, updated_at=NOON + timedelta(seconds=1))
MOVED = replace(SESSION, updated_at=LATER.updated_at)
DELETED = replace(SESSION, deleted_at=NOON + timedelta(hours=1))


@pytest.fixture(params=["one", "one expected", "some", "some expected", "some again", "many", "none"])
def append(request: pytest.FixtureRequest) -> Callable[[Any, asm.Session], Any]:
    """Appends events with a session, in each way there is."""
    name = request.param
    again = events_of("ses_1", 3)

    def append(store: Any, session: asm.Session) -> Any:
        expected = store.get_latest_sequence("ses_1") if name.endswith("expected") else None
        if name.startswith("one"):
            return store.append_event(an_event(), expected_sequence=expected, session=session)
        events = {"some again": again, "many": events_of("ses_1", 501), "none": []}
        batch = events.get(name, events_of("ses_1", 3))
        return store.append_events(batch, expected_sequence=expected, session=session)

    return append


def test_the_row_of_an_absent_session_is_inserted(store: Any, append: Callable[..., Any]) -> None:
    append(store, SESSION)
    assert store.get_session("ses_1") == SESSION
    assert store.query.search_sessions(tags=["é🎉"]).items == [SESSION]
    assert store.maintenance.health_check() == []


def test_of_a_stored_session_only_updated_at_moves(store: Any, append: Callable[..., Any]) -> None:
    append(store, SESSION)
    append(store, LATER)
    assert store.get_session("ses_1") == MOVED
    assert store.query.search_sessions(tags=["eu"], order_by="updated_at_desc").items == [MOVED]


def test_updated_at_never_moves_back(store: Any, append: Callable[..., Any]) -> None:
    append(store, LATER)
    append(store, SESSION)
    assert store.get_session("ses_1") == LATER


def test_a_soft_deleted_session_stays_deleted(store: Any, append: Callable[..., Any]) -> None:
    append(store, DELETED)
    append(store, LATER)
    assert store.get_session("ses_1") == replace(DELETED, updated_at=LATER.updated_at)


def test_in_a_transaction_the_session_is_rolled_back_with_the_events(
    store: Any, append: Callable[..., Any]
) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        append(tx, SESSION)
        assert tx.get_session("ses_1") == SESSION
        raise ZeroDivisionError
    with pytest.raises(asm.SessionNotFound):
        store.get_session("ses_1")


def test_events_of_another_session_are_refused(store: Any) -> None:
    with pytest.raises(asm.ValidationError, match="event 'evt_1' belongs to session 'other', not to 'ses_1'"):
        store.append_event(an_event("other", id="evt_1"), session=SESSION)
    with pytest.raises(asm.ValidationError, match="belongs to session 'other', not to 'ses_1'"):
        store.append_events([an_event(), an_event("other")], session=SESSION)
    with pytest.raises(asm.ValidationError, match="append_event takes a Session as session, not str"):
        store.append_event(an_event(), session="ses_1")
    with pytest.raises(asm.ValidationError, match="expected_sequence must be a whole number, not str"):
        store.append_events([], expected_sequence="1", session=SESSION)
    assert store.list_sessions() == []


def test_an_append_that_conflicts_leaves_the_session_as_it_was(store: Any) -> None:
    store.save_session(SESSION)
    with pytest.raises(asm.SequenceConflict):
        store.append_event(an_event(), expected_sequence=7, session=LATER)
    assert store.get_session("ses_1") == SESSION


def test_an_event_that_is_appended_again_is_returned_and_its_session_ensured(store: Any) -> None:
    stored = store.append_event(an_event())
    assert store.append_event(stored, session=SESSION) == stored
    assert store.append_event(stored, expected_sequence=0, session=LATER) == stored
    assert store.get_session("ses_1") == MOVED


def test_of_many_appends_at_the_same_moment_the_newest_session_wins(store: Any) -> None:
    """They share a statement: some with a session, some without, one with an event that is stored."""
    first = store.append_event(an_event("ses_0"))
    times = [NOON + timedelta(seconds=n * 7 % 12) for n in range(12)]
    sessions = [replace(SESSION, id=f"ses_{n % 3}", updated_at=at) for n, at in enumerate(times)]
    ready = threading.Barrier(25)

    def append(n: int) -> asm.Event:
        session = sessions[n] if n < 12 else None
        event = first if n == 0 else an_event(f"ses_{n % 3}")
        ready.wait()
        stored: asm.Event = store.append_event(event, session=session)
        return stored

    with ThreadPoolExecutor(24) as threads:
        with store.transaction() as tx:
            tx.append_event(an_event("ses_2"))
            waiting = [threads.submit(append, n) for n in range(24)]
            ready.wait()
        stored = [each.result() for each in waiting]

    assert stored[0] == first
    assert [store.get_latest_sequence(f"ses_{n}") for n in range(3)] == [8, 8, 9]
    for n in range(3):
        newest = max(session.updated_at for session in sessions if session.id == f"ses_{n}")
        assert store.get_session(f"ses_{n}") == replace(SESSION, id=f"ses_{n}", updated_at=newest)


def test_processes_that_append_with_one_session_insert_it_once(
    migrated: str, opened: Callable[..., Any]
) -> None:
    def append() -> None:
        with asm.SessionStore(migrated) as store:
            for n in range(20):
                session = replace(SESSION, updated_at=NOON + timedelta(seconds=n))
                store.append_event(an_event(), session=session)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: run_in_fork(append), range(3)))
    store = opened(migrated)
    assert numbers(store.get_events("ses_1")) == list(range(1, 61))
    assert store.get_session("ses_1").updated_at == NOON + timedelta(seconds=19)


RACES = 40


def test_appends_with_sessions_never_deadlock_with_other_writes(
    where: Where, opened: Callable[..., Any]
) -> None:
    """A deadlock fails one of two transactions, which is not retried here."""
    options = {"retry_for": 0} if where.dialect == "postgres" else {}
    stores = [opened(where.dsn, **options) for _ in range(2)]
    names = ["ses_a", "ses_b", "ses_c"]
    updated_at = (NOON + timedelta(seconds=n) for n in count())

    def session(name: str) -> asm.Session:
        return asm.Session(id=name, agent_id="agent", updated_at=next(updated_at))

    writes: list[Callable[[Any, str], object]] = [
        lambda store, name: store.append_event(an_event(name), session=session(name)),
        lambda store, name: store.append_events(events_of(name, 3), session=session(name)),
        lambda store, name: store.append_events(events_of(name, 501), session=session(name)),
        lambda store, _: store.append_events([an_event(each) for each in reversed(names)]),
        lambda store, name: store.flush(session(name), asm.Run(session_id=name), events_of(name, 2)),
        lambda store, name: store.save_session(session(name)),
        lambda store, name: store.delete_session(name),
        lambda store, name: store.delete_events(name, type="message_sent"),
        lambda store, name: store.pop_event(name),
        lambda store, _: store.maintenance.execute(EXPIRE_AT_ONCE),
    ]
    locks = threading.Lock()

    def work(n: int) -> None:
        for round in range(RACES):
            with locks:
                name, write = names[(n + round) % 3], writes[(n * 3 + round * 7) % len(writes)]
            write(stores[n % 2], name)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    issues = stores[0].maintenance.health_check()
    assert {issue.code for issue in issues} <= {"events_without_session", "several_running_runs"}


EXPIRE_AT_ONCE = asm.RetentionPolicy(max_session_age_days=1, hard_delete_after_days=1, exempt_statuses=())


@only(POSTGRES, why="a SQLite file has one lock")
def test_the_counter_is_locked_before_the_row_of_the_session(store: Any, migrated: str) -> None:
    store.append_event(an_event(), session=SESSION)
    with ThreadPoolExecutor(1) as thread, psycopg.connect(migrated) as other:
        other.execute("select from asm_session_sequences where session_id = 'ses_1' for update")
        appending = thread.submit(store.append_events, events_of("ses_1", 2), session=LATER)
        wait_until(lambda: fetch_rows(migrated, LOCK_WAITS))
        row_of_session = "select id from asm_sessions where id = 'ses_1' for update nowait"
        assert fetch_rows(migrated, row_of_session) == [("ses_1",)]
        other.rollback()
        assert numbers(appending.result()) == [2, 3]


@only(POSTGRES, why="SQLite has no versions of rows")
def test_a_session_that_does_not_move_is_not_written(store: Any, migrated: str) -> None:
    version = "select ctid::text from asm_sessions"
    store.append_event(an_event(), session=LATER)
    before = fetch_rows(migrated, version)
    store.append_event(an_event(), session=SESSION)
    store.append_events(events_of("ses_1", 3), session=LATER)
    assert fetch_rows(migrated, version) == before
