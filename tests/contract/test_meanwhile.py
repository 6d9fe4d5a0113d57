"""What happens to sessions while they are looked after."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import asm
from asm.engine.jobs import run_job
from asm.engine.script import Operation, Query, UnitOfWork
from asm.maintenance import retention, run
from tests.conftest import POSTGRES, Where, an_artifact, an_event, events_of
from tests.contract.keeping import (
    FIRST,
    a_policy,
    a_session,
    appended,
    deleted,
    kept,
    only_pruning,
    pruned_of,
    there,
)
from tests.contract.other_clients import fetch_rows, only, with_interference
from tests.fault.concurrent_writers import wait_until


class Meanwhile:
    """A database beside which something happens before a question is put to it for the first time."""

    def __init__(self, store: asm.SessionStore, happens: Callable[[], Any], *, before: str) -> None:
        self._database = store._database
        self._happens: Callable[[], Any] | None = happens
        self._before = before

    def run(self, question: Operation[Any]) -> Any:
        name = question.query if isinstance(question, Query) else "a transaction"
        is_snapshot = isinstance(question, UnitOfWork) and question.snapshot
        if name == self._before and not is_snapshot and self._happens:
            happens, self._happens = self._happens, None
            happens()
        return self._database.run(question)


class Disturbed:
    """A database beside which something happens within its transactions, after a question of that name."""

    def __init__(self, store: asm.SessionStore, disturb: Callable[[], Any], *, after: str) -> None:
        self._database = store._database
        self._disturb = disturb
        self._after = after

    def run(self, question: Operation[Any]) -> Any:
        if isinstance(question, UnitOfWork):
            question = with_interference(question, self._disturb, after=self._after)
        return self._database.run(question)


@pytest.fixture
def plain(migrated: str) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(migrated) as store:
        yield store


TOUCHED: dict[str, dict[str, Any]] = {
    "touched": {"untouched": 0, "status": "completed"},
    "tagged": {"untouched": 91, "tags": ("pinned",)},
    "active again": {"untouched": 91, "status": "active"},
}


@pytest.mark.parametrize("fields", TOUCHED.values(), ids=TOUCHED)
def test_a_session_that_was_touched_meanwhile_is_not_soft_deleted(
    plain: asm.SessionStore, fields: dict[str, Any]
) -> None:
    for name in ("a", "b"):
        plain.save_session(a_session(name, untouched=91))
    database = Meanwhile(
        plain, lambda: plain.save_session(a_session("a", **fields)), before="soft_delete_sessions"
    )

    number = run_job(retention.soft_delete_expired_sessions(a_policy()), database)

    assert (number, deleted(plain)) == (1, ["b"])


def test_a_session_that_was_soft_deleted_meanwhile_keeps_its_time(plain: asm.SessionStore) -> None:
    for name in ("a", "b"):
        plain.save_session(a_session(name, untouched=91))
    gone = a_session("a", untouched=91, deleted=1)
    database = Meanwhile(plain, lambda: plain.save_session(gone), before="soft_delete_sessions")

    number = run_job(retention.soft_delete_expired_sessions(a_policy()), database)

    assert (number, plain.get_session("a").deleted_at) == (1, gone.deleted_at)


RESTORED: dict[str, dict[str, Any]] = {
    "restored": {"deleted": None},
    "deleted again": {"deleted": 1},
    "tagged": {"deleted": 31, "tags": ("pinned",)},
    "active again": {"deleted": 31, "status": "active"},
}


@pytest.mark.parametrize("archive", [None, lambda export: None])
@pytest.mark.parametrize("fields", RESTORED.values(), ids=RESTORED)
def test_a_session_that_was_restored_meanwhile_is_not_deleted(
    plain: asm.SessionStore, fields: dict[str, Any], archive: Any
) -> None:
    for name in ("a", "b"):
        plain.save_session(a_session(name, deleted=31))
        plain.append_event(an_event(name))
    database = Meanwhile(plain, lambda: plain.save_session(a_session("a", **fields)), before="a transaction")

    number = run_job(retention.hard_delete_expired_sessions(a_policy(archive=archive)), database)

    assert (number, there(plain), kept(plain, "a")) == (1, ["a"], [1])


def begun_anew(store: asm.SessionStore) -> None:
    store.delete_session("a")
    store.save_session(a_session("a", deleted=31))
    store.append_events(events_of("a", 5))


LONG: dict[str, tuple[Any, Callable[[asm.SessionStore], Any]]] = {
    "restored": (None, lambda store: store.save_session(a_session("a"))),
    "restored when it was archived": (lambda _: None, lambda store: store.save_session(a_session("a"))),
    "begun anew when it was archived": (lambda _: None, begun_anew),
}


@pytest.mark.parametrize(("archive", "happens"), LONG.values(), ids=LONG)
def test_a_long_session_that_became_another_meanwhile_keeps_its_events(
    plain: asm.SessionStore, archive: Any, happens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 2)
    plain.save_session(a_session("a", deleted=31))
    plain.append_events(events_of("a", 5))
    database = Meanwhile(plain, lambda: happens(plain), before="a transaction")

    number = run_job(retention.hard_delete_expired_sessions(a_policy(archive=archive)), database)

    assert (number, kept(plain, "a")) == (0, [1, 2, 3, 4, 5])


MEANWHILE: dict[str, Callable[[asm.SessionStore], Any]] = {
    "an event": lambda store: store.append_event(an_event("a")),
    "a run": lambda store: store.save_run(asm.Run(session_id="a")),
    "an artifact": lambda store: store.artifacts.register(an_artifact(session_id="a")),
    "a change": lambda store: store.save_session(a_session("a", deleted=31, metadata={"new": True})),
}


@pytest.mark.parametrize("arrives", MEANWHILE.values(), ids=MEANWHILE)
def test_what_arrives_after_archiving_is_not_deleted(
    plain: asm.SessionStore, arrives: Callable[[asm.SessionStore], Any]
) -> None:
    plain.save_session(a_session("a", deleted=31))
    plain.append_event(an_event("a"))
    archived: list[asm.SessionExport] = []
    policy = a_policy(archive=archived.append)
    database = Meanwhile(plain, lambda: arrives(plain), before="a transaction")
    assert run_job(retention.hard_delete_expired_sessions(policy), database) == 0
    stands = plain.query.export_session("a", include_artifacts=True)

    number = plain.maintenance.hard_delete_expired_sessions(policy)

    assert (number, archived[-1]) == (1, stands)


def test_events_that_arrive_after_archiving_are_not_pruned(plain: asm.SessionStore) -> None:
    plain.save_session(a_session())
    appended(plain, "ses_1", *["message_sent"] * 5)
    archived: list[asm.SessionExport] = []
    policy = a_policy(max_events_per_session=3, archive=archived.append)
    database = Meanwhile(plain, lambda: appended(plain, "ses_1", *[FIRST[0]] * 4), before="a transaction")

    number = run_job(retention.prune_session_events("ses_1", policy), database)

    assert (number, kept(plain)) == (2, [3, 4, 5, 6, 7, 8, 9])


@pytest.mark.parametrize("bound", ["max_events_per_session", "max_total_events"])
def test_a_session_that_another_run_has_pruned_meanwhile_is_left_alone(
    plain: asm.SessionStore, bound: str
) -> None:
    appended(plain, "ses_1", *["message_sent"] * 9)
    policy = only_pruning(**{bound: 4})
    database = Meanwhile(plain, lambda: plain.maintenance.execute(policy), before="a transaction")

    report = run_job(retention.execute(policy), database)

    assert (report.events_pruned, kept(plain)) == (0, [6, 7, 8, 9])


def test_a_session_that_began_anew_meanwhile_is_left_alone(plain: asm.SessionStore) -> None:
    appended(plain, "ses_1", *["message_sent"] * 9)

    def begin_anew() -> None:
        plain.delete_session("ses_1")
        appended(plain, "ses_1", *["message_sent"] * 3)

    database = Meanwhile(plain, begin_anew, before="a transaction")

    number = run_job(retention.prune_session_events("ses_1", a_policy(max_events_per_session=1)), database)

    assert (number, kept(plain)) == (0, [1, 2, 3])


@pytest.mark.parametrize("bound", ["max_events_per_session", "max_total_events"])
def test_a_session_that_is_tagged_meanwhile_is_not_pruned(plain: asm.SessionStore, bound: str) -> None:
    appended(plain, "ses_1", *["message_sent"] * 9)
    database = Meanwhile(
        plain, lambda: plain.save_session(a_session(tags=("pinned",))), before="a transaction"
    )

    report = run_job(retention.execute(only_pruning(**{bound: 1})), database)

    assert (report.events_pruned, len(kept(plain))) == (0, 9)


def test_a_counter_of_a_session_that_is_saved_or_pruned_meanwhile_is_kept(
    plain: asm.SessionStore, where: Where
) -> None:
    for name in ("a", "b", "c"):
        plain.append_event(an_event(name))
    fetch_rows(where.dsn, "delete from asm_events")

    def meanwhile() -> None:
        plain.save_session(a_session("a"))
        fetch_rows(where.dsn, "update asm_session_sequences set pruned_events = 1 where session_id = 'b'")

    number = run_job(
        retention.clean_orphaned_sequences(), Meanwhile(plain, meanwhile, before="a transaction")
    )

    assert (number, [plain.get_latest_sequence(name) for name in ("a", "b", "c")]) == (1, [1, 1, 0])


def test_a_counter_that_gets_an_event_meanwhile_is_kept(plain: asm.SessionStore, where: Where) -> None:
    for name in ("a", "b"):
        plain.append_event(an_event(name))
    fetch_rows(where.dsn, "delete from asm_events")
    database = Meanwhile(plain, lambda: plain.append_event(an_event("a")), before="a transaction")

    number = run_job(retention.clean_orphaned_sequences(), database)

    assert (number, plain.get_latest_sequence("a"), plain.get_latest_sequence("b")) == (1, 2, 0)


def waiting(dsn: str) -> bool:
    """Whether somebody waits for a lock."""
    waiters = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return bool(fetch_rows(dsn, waiters))


@only(POSTGRES, why="nobody is seen to wait for a file")
def test_a_counter_whose_event_is_on_its_way_is_kept(plain: asm.SessionStore, migrated: str) -> None:
    plain.append_event(an_event("a"))
    fetch_rows(migrated, "delete from asm_events")
    with asm.SessionStore(migrated) as another, ThreadPoolExecutor(1) as pool:
        with another.transaction() as tx:
            tx.append_event(an_event("a"))
            cleaning = pool.submit(plain.maintenance.clean_orphaned_sequences)
            wait_until(lambda: waiting(migrated))

        assert cleaning.result() == 0
    assert plain.get_latest_sequence("a") == 2


@only(POSTGRES, why="nobody is seen to wait for a file")
def test_a_session_that_is_saved_while_it_is_deleted_is_there_again(
    plain: asm.SessionStore, migrated: str
) -> None:
    plain.save_session(a_session("a", deleted=31))
    with asm.SessionStore(migrated) as another, ThreadPoolExecutor(1) as pool:

        def restored() -> None:
            saving = pool.submit(another.save_session, a_session("a"))
            wait_until(lambda: saving.done() or waiting(migrated))

        number = run_job(
            retention.hard_delete_expired_sessions(a_policy()),
            Disturbed(plain, restored, after="hold_due_sessions"),
        )

    assert (number, deleted(plain), there(plain)) == (1, [], ["a"])


COMING: dict[str, Callable[[asm.SessionStore], Any]] = {
    "a session": lambda store: store.save_session(a_session("a")),
    "a run": lambda store: store.save_run(asm.Run(session_id="a")),
    "an event": lambda store: store.append_event(an_event("a")),
}


@pytest.mark.parametrize("comes", COMING.values(), ids=COMING)
def test_artifacts_of_a_session_that_comes_meanwhile_are_kept(
    plain: asm.SessionStore, comes: Callable[[asm.SessionStore], Any]
) -> None:
    for name in ("a", "b"):
        plain.artifacts.register(an_artifact(name, session_id=name))
    database = Meanwhile(plain, lambda: comes(plain), before="delete_orphaned_artifacts")

    number = run_job(retention.clean_orphaned_artifacts(), database)

    assert (number, plain.artifacts.get_by_key("a") is not None) == (1, True)


def test_sessions_go_on_while_they_are_pruned(where: Where, opened: Callable[..., Any]) -> None:
    store = opened(where.dsn)
    names = [f"ses_{number}" for number in range(4)]
    begun, over = threading.Barrier(3), threading.Event()

    def append(offset: int) -> None:
        begun.wait()
        for number in range(150):
            type = FIRST[0] if number % 3 else "message_sent"
            store.append_events([an_event(name, type) for name in names[offset : offset + 3]])

    def maintain() -> list[str]:
        begun.wait()
        errors: list[str] = []
        policy = only_pruning(max_events_per_session=10, max_total_events=30, batch_size=2)
        while not over.is_set():
            errors += map(str, store.maintenance.execute(policy).errors)
        return errors

    with ThreadPoolExecutor(3) as threads:
        maintained = threads.submit(maintain)
        appended = [threads.submit(append, offset) for offset in (0, 1)]
        for each in appended:
            each.result()
        over.set()
        assert maintained.result() == []
    for name, latest in zip(names, (150, 300, 300, 150), strict=True):
        assert store.get_latest_sequence(name) == latest
        assert len(kept(store, name)) + pruned_of(where, name) == latest


def test_two_that_maintain_at_once_prune_no_more_than_one_would(
    where: Where, opened: Callable[..., Any]
) -> None:
    store = opened(where.dsn)
    for number in range(8):
        appended(store, f"ses_{number}", *["message_sent"] * 20)
    begun = threading.Barrier(2)

    def maintain() -> int:
        begun.wait()
        policy = only_pruning(max_events_per_session=12, max_total_events=50, batch_size=2)
        report = store.maintenance.execute(policy)
        assert report.errors == []
        return int(report.events_pruned)

    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(maintain) for _ in range(2)]
        number = sum(each.result() for each in both)

    left = sum(len(kept(store, f"ses_{number}")) for number in range(8))
    assert (number, left >= 50) == (160 - left, True)
