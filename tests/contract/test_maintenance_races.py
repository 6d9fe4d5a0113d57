"""Maintenance and other clients: what they write between two of its queries."""

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
from tests.contract.other_clients import LOCK_WAITS, fetch_rows, only, with_interference
from tests.contract.retention_data import (
    PRUNED_FIRST,
    a_policy,
    a_session,
    age_counters,
    append_types,
    days_ago,
    only_pruning,
    pruned_count,
    session_ids,
    soft_deleted_ids,
    stored_numbers,
)
from tests.fault.concurrent_writers import wait_until


class WithInterference:
    """A store's database that calls a function once, before it first runs an operation of that name."""

    def __init__(self, store: asm.SessionStore, interfere: Callable[[], Any], *, before: str) -> None:
        self._database = store._database
        self._interfere: Callable[[], Any] | None = interfere
        self._before = before

    def run(self, operation: Operation[Any]) -> Any:
        name = operation.query if isinstance(operation, Query) else "a transaction"
        is_snapshot = isinstance(operation, UnitOfWork) and operation.snapshot
        if name == self._before and not is_snapshot and self._interfere:
            interfere, self._interfere = self._interfere, None
            interfere()
        return self._database.run(operation)


class WithInterferenceInTransactions:
    """A store's database that calls a function within a transaction, after a query of that name."""

    def __init__(self, store: asm.SessionStore, interfere: Callable[[], Any], *, after: str) -> None:
        self._database = store._database
        self._interfere = interfere
        self._after = after

    def run(self, operation: Operation[Any]) -> Any:
        if isinstance(operation, UnitOfWork):
            operation = with_interference(operation, self._interfere, after=self._after)
        return self._database.run(operation)


@pytest.fixture
def plain(migrated: str) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(migrated) as store:
        yield store


UPDATED: dict[str, dict[str, Any]] = {
    "updated": {"updated_days_ago": 0, "status": "completed"},
    "tagged": {"updated_days_ago": 91, "tags": ("pinned",)},
    "active again": {"updated_days_ago": 91, "status": "active"},
}


@pytest.mark.parametrize("fields", UPDATED.values(), ids=UPDATED)
def test_a_session_that_is_updated_concurrently_is_not_soft_deleted(
    plain: asm.SessionStore, fields: dict[str, Any]
) -> None:
    for name in ("a", "b"):
        plain.save_session(a_session(name, updated_days_ago=91))
    database = WithInterference(
        plain, lambda: plain.save_session(a_session("a", **fields)), before="soft_delete_sessions"
    )

    number = run_job(retention.soft_delete_expired_sessions(a_policy()), database)

    assert (number, soft_deleted_ids(plain)) == (1, ["b"])


def test_a_session_that_is_soft_deleted_concurrently_keeps_its_deletion_time(plain: asm.SessionStore) -> None:
    for name in ("a", "b"):
        plain.save_session(a_session(name, updated_days_ago=91))
    soft_deleted = a_session("a", updated_days_ago=91, deleted_days_ago=1)
    database = WithInterference(
        plain, lambda: plain.save_session(soft_deleted), before="soft_delete_sessions"
    )

    number = run_job(retention.soft_delete_expired_sessions(a_policy()), database)

    assert (number, plain.get_session("a").deleted_at) == (1, soft_deleted.deleted_at)


RESTORED: dict[str, dict[str, Any]] = {
    "restored": {"deleted_days_ago": None},
    "deleted again": {"deleted_days_ago": 1},
    "tagged": {"deleted_days_ago": 31, "tags": ("pinned",)},
    "active again": {"deleted_days_ago": 31, "status": "active"},
}


@pytest.mark.parametrize("archive", [None, lambda export: None])
@pytest.mark.parametrize("fields", RESTORED.values(), ids=RESTORED)
def test_a_session_that_is_restored_concurrently_is_not_hard_deleted(
    plain: asm.SessionStore, fields: dict[str, Any], archive: Any
) -> None:
    for name in ("a", "b"):
        plain.save_session(a_session(name, deleted_days_ago=31))
        plain.append_event(an_event(name))
    database = WithInterference(
        plain, lambda: plain.save_session(a_session("a", **fields)), before="a transaction"
    )

    number = run_job(retention.hard_delete_expired_sessions(a_policy(archive=archive)), database)

    assert (number, session_ids(plain), stored_numbers(plain, "a")) == (1, ["a"], [1])


def store_again(store: asm.SessionStore) -> None:
    store.delete_session("a")
    store.save_session(a_session("a", deleted_days_ago=31))
    store.append_events(events_of("a", 5))


LONG: dict[str, tuple[Any, Callable[[asm.SessionStore], Any]]] = {
    "restored": (None, lambda store: store.save_session(a_session("a"))),
    "restored when it was archived": (lambda _: None, lambda store: store.save_session(a_session("a"))),
    "stored again when it was archived": (lambda _: None, store_again),
}


@pytest.mark.parametrize(("archive", "interfere"), LONG.values(), ids=LONG)
def test_a_long_session_that_is_restored_or_stored_again_concurrently_keeps_its_events(
    plain: asm.SessionStore, archive: Any, interfere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 2)
    plain.save_session(a_session("a", deleted_days_ago=31))
    plain.append_events(events_of("a", 5))
    database = WithInterference(plain, lambda: interfere(plain), before="a transaction")

    number = run_job(retention.hard_delete_expired_sessions(a_policy(archive=archive)), database)

    assert (number, stored_numbers(plain, "a")) == (0, [1, 2, 3, 4, 5])


WRITES: dict[str, Callable[[asm.SessionStore], Any]] = {
    "an event": lambda store: store.append_event(an_event("a")),
    "a run": lambda store: store.save_run(asm.Run(session_id="a")),
    "an artifact": lambda store: store.artifacts.register(an_artifact(session_id="a")),
    "a change": lambda store: store.save_session(a_session("a", deleted_days_ago=31, metadata={"new": True})),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_rows_that_are_written_after_archiving_are_not_deleted(
    plain: asm.SessionStore, write: Callable[[asm.SessionStore], Any]
) -> None:
    plain.save_session(a_session("a", deleted_days_ago=31))
    plain.append_event(an_event("a"))
    archived: list[asm.SessionExport] = []
    policy = a_policy(archive=archived.append)
    database = WithInterference(plain, lambda: write(plain), before="a transaction")
    assert run_job(retention.hard_delete_expired_sessions(policy), database) == 0
    current = plain.query.export_session("a", include_artifacts=True)

    number = plain.maintenance.hard_delete_expired_sessions(policy)

    assert (number, archived[-1]) == (1, current)


def test_events_that_are_appended_after_archiving_are_not_pruned(plain: asm.SessionStore) -> None:
    plain.save_session(a_session())
    append_types(plain, "ses_1", *["message_sent"] * 5)
    archived: list[asm.SessionExport] = []
    policy = a_policy(max_events_per_session=3, archive=archived.append)
    database = WithInterference(
        plain, lambda: append_types(plain, "ses_1", *[PRUNED_FIRST[0]] * 4), before="a transaction"
    )

    number = run_job(retention.prune_session_events("ses_1", policy), database)

    assert (number, stored_numbers(plain)) == (2, [3, 4, 5, 6, 7, 8, 9])


@pytest.mark.parametrize("maximum", ["max_events_per_session", "max_total_events"])
def test_a_session_that_another_run_prunes_concurrently_is_not_pruned_again(
    plain: asm.SessionStore, maximum: str
) -> None:
    append_types(plain, "ses_1", *["message_sent"] * 9)
    policy = only_pruning(**{maximum: 4})
    database = WithInterference(plain, lambda: plain.maintenance.execute(policy), before="a transaction")

    report = run_job(retention.execute(policy), database)

    assert (report.events_pruned, stored_numbers(plain)) == (0, [6, 7, 8, 9])


def test_a_session_that_is_stored_again_concurrently_is_not_pruned(plain: asm.SessionStore) -> None:
    append_types(plain, "ses_1", *["message_sent"] * 9)

    def store_again() -> None:
        plain.delete_session("ses_1")
        append_types(plain, "ses_1", *["message_sent"] * 3)

    database = WithInterference(plain, store_again, before="a transaction")

    number = run_job(retention.prune_session_events("ses_1", a_policy(max_events_per_session=1)), database)

    assert (number, stored_numbers(plain)) == (0, [1, 2, 3])


@pytest.mark.parametrize("maximum", ["max_events_per_session", "max_total_events"])
def test_a_session_that_is_tagged_concurrently_is_not_pruned(plain: asm.SessionStore, maximum: str) -> None:
    append_types(plain, "ses_1", *["message_sent"] * 9)
    database = WithInterference(
        plain, lambda: plain.save_session(a_session(tags=("pinned",))), before="a transaction"
    )

    report = run_job(retention.execute(only_pruning(**{maximum: 1})), database)

    assert (report.events_pruned, len(stored_numbers(plain))) == (0, 9)


def test_the_counter_of_a_session_that_is_saved_or_pruned_concurrently_is_kept(
    plain: asm.SessionStore, where: Where
) -> None:
    for name in ("a", "b", "c"):
        plain.append_event(an_event(name))
    fetch_rows(where.dsn, "delete from asm_events")
    age_counters(where.dsn)

    def save_and_prune() -> None:
        plain.save_session(a_session("a"))
        fetch_rows(where.dsn, "update asm_session_sequences set pruned_events = 1 where session_id = 'b'")

    number = run_job(
        retention.clean_orphaned_sequences(), WithInterference(plain, save_and_prune, before="a transaction")
    )

    assert (number, [plain.get_latest_sequence(name) for name in ("a", "b", "c")]) == (1, [1, 1, 0])


def test_the_counter_of_a_session_that_receives_an_event_concurrently_is_kept(
    plain: asm.SessionStore, where: Where
) -> None:
    for name in ("a", "b"):
        plain.append_event(an_event(name))
    fetch_rows(where.dsn, "delete from asm_events")
    age_counters(where.dsn)
    database = WithInterference(plain, lambda: plain.append_event(an_event("a")), before="a transaction")

    number = run_job(retention.clean_orphaned_sequences(), database)

    assert (number, plain.get_latest_sequence("a"), plain.get_latest_sequence("b")) == (1, 2, 0)


def is_lock_awaited(dsn: str) -> bool:
    """Whether a session of the database waits for a lock."""
    return bool(fetch_rows(dsn, LOCK_WAITS))


@only(POSTGRES, why="SQLite does not show who waits for its lock")
def test_a_counter_that_an_uncommitted_append_has_locked_is_kept(
    plain: asm.SessionStore, migrated: str
) -> None:
    plain.append_event(an_event("a"))
    fetch_rows(migrated, "delete from asm_events")
    age_counters(migrated)
    with asm.SessionStore(migrated) as another, ThreadPoolExecutor(1) as pool:
        with another.transaction() as tx:
            tx.append_event(an_event("a"))
            cleaning = pool.submit(plain.maintenance.clean_orphaned_sequences)
            wait_until(lambda: is_lock_awaited(migrated))

        assert cleaning.result() == 0
    assert plain.get_latest_sequence("a") == 2


@only(POSTGRES, why="SQLite does not show who waits for its lock")
def test_a_session_that_is_saved_while_it_is_deleted_exists_afterwards(
    plain: asm.SessionStore, migrated: str
) -> None:
    plain.save_session(a_session("a", deleted_days_ago=31))
    with asm.SessionStore(migrated) as another, ThreadPoolExecutor(1) as pool:

        def restore() -> None:
            saving = pool.submit(another.save_session, a_session("a"))
            wait_until(lambda: saving.done() or is_lock_awaited(migrated))

        number = run_job(
            retention.hard_delete_expired_sessions(a_policy()),
            WithInterferenceInTransactions(plain, restore, after="lock_due_sessions"),
        )

    assert (number, soft_deleted_ids(plain), session_ids(plain)) == (1, [], ["a"])


SAVES: dict[str, Callable[[asm.SessionStore], Any]] = {
    "a session": lambda store: store.save_session(a_session("a")),
    "a run": lambda store: store.save_run(asm.Run(session_id="a")),
    "an event": lambda store: store.append_event(an_event("a")),
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_artifacts_of_a_session_that_is_saved_concurrently_are_kept(
    plain: asm.SessionStore, save: Callable[[asm.SessionStore], Any]
) -> None:
    for name in ("a", "b"):
        plain.artifacts.register(an_artifact(name, session_id=name, created_at=days_ago(1)))
    database = WithInterference(plain, lambda: save(plain), before="delete_orphaned_artifacts")

    number = run_job(retention.clean_orphaned_artifacts(), database)

    assert (number, plain.artifacts.get_by_key("a") is not None) == (1, True)


def test_sessions_can_be_appended_to_while_they_are_pruned(where: Where, opened: Callable[..., Any]) -> None:
    store = opened(where.dsn)
    names = [f"ses_{number}" for number in range(4)]
    started, finished = threading.Barrier(3), threading.Event()

    def append(offset: int) -> None:
        started.wait()
        for number in range(150):
            type = PRUNED_FIRST[0] if number % 3 else "message_sent"
            store.append_events([an_event(name, type) for name in names[offset : offset + 3]])

    def maintain() -> list[str]:
        started.wait()
        errors: list[str] = []
        policy = only_pruning(max_events_per_session=10, max_total_events=30, batch_size=2)
        while not finished.is_set():
            errors += map(str, store.maintenance.execute(policy).errors)
        return errors

    with ThreadPoolExecutor(3) as threads:
        maintained = threads.submit(maintain)
        appended = [threads.submit(append, offset) for offset in (0, 1)]
        for each in appended:
            each.result()
        finished.set()
        assert maintained.result() == []
    for name, latest in zip(names, (150, 300, 300, 150), strict=True):
        assert store.get_latest_sequence(name) == latest
        assert len(stored_numbers(store, name)) + pruned_count(where, name) == latest


def test_two_concurrent_runs_prune_no_more_than_one_would(where: Where, opened: Callable[..., Any]) -> None:
    store = opened(where.dsn)
    for number in range(8):
        append_types(store, f"ses_{number}", *["message_sent"] * 20)
    started = threading.Barrier(2)

    def maintain() -> int:
        started.wait()
        policy = only_pruning(max_events_per_session=12, max_total_events=50, batch_size=2)
        report = store.maintenance.execute(policy)
        assert report.errors == []
        return int(report.events_pruned)

    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(maintain) for _ in range(2)]
        number = sum(each.result() for each in both)

    left = sum(len(stored_numbers(store, f"ses_{number}")) for number in range(8))
    assert (number, left >= 50) == (160 - left, True)
