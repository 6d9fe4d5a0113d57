"""Maintenance can be stopped at any point and run again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asm
from asm.engine.jobs import run_job
from asm.engine.script import Operation
from asm.export_files import archives
from asm.maintenance import retention, run
from tests.conftest import Where, an_event
from tests.contract.other_clients import read_line, running
from tests.contract.retention_data import a_session, all_rows, append_types, fill, session_ids, stored_numbers


class Stopped(BaseException):
    """Ends a job like a killed process: no code of the job handles it."""


class Stopping:
    """A store's database that runs a number of operations, and stops its caller at the next."""

    def __init__(self, store: asm.SessionStore, operations: int) -> None:
        self._database = store._database
        self._remaining = operations

    def run(self, operation: Operation[Any]) -> Any:
        if self._remaining == 0:
            raise Stopped
        self._remaining -= 1
        return self._database.run(operation)


@pytest.fixture
def store(where: Where) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(where.dsn) as store:
        yield store


def a_policy(**fields: Any) -> asm.RetentionPolicy:
    return asm.RetentionPolicy(
        max_session_age_days=95, max_events_per_session=5, max_total_events=60, batch_size=2, **fields
    )


def without_times(rows: list[Any]) -> list[Any]:
    """All rows, with whether a session is soft-deleted in place of the time."""
    sessions, *others = rows
    return [[(*rest, deleted_at is None) for *rest, deleted_at in sessions], *others]


def issues(store: asm.SessionStore) -> set[tuple[str, str]]:
    return {(issue.code, issue.session_id) for issue in store.maintenance.health_check()}


def empty(store: asm.SessionStore) -> None:
    for session_id in [*session_ids(store), "alone", "orphan"]:
        store.delete_session(session_id)
    with store.transaction() as tx:
        tx.connection.execute("delete from asm_artifacts")


@pytest.fixture(params=[run.EVENTS_PER_TRANSACTION, 3])
def transaction_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one transaction delete more events than any session has, or fewer."""
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", request.param)


@pytest.mark.usefixtures("transaction_size")
def test_a_run_that_is_stopped_at_any_operation_and_repeated_has_the_same_result(
    where: Where, store: asm.SessionStore
) -> None:
    fill(store, where)
    healthy = issues(store)
    store.maintenance.execute(a_policy())
    end = without_times(all_rows(where))
    # The first operation is a random one, so that many runs of the test stop at each.
    step = 2 if where.kind == "sqlite" else 5
    for operations in range(random.randrange(step), 200, step):
        empty(store)
        fill(store, where)
        database = Stopping(store, operations)
        try:
            run_job(retention.execute(a_policy()), database)
            break
        except Stopped:
            pass
        assert issues(store) <= healthy
        store.maintenance.execute(a_policy())
        assert without_times(all_rows(where)) == end
    assert operations > 20


def events_by_session(store: asm.SessionStore) -> dict[str, set[str]]:
    return {name: {event.id for event in store.get_events(name)} for name in session_ids(store)}


def archived_events(folder: Path) -> dict[str, set[str]]:
    exports = [archives.read(file) for file in folder.glob("*.jsonl.gz")]
    return {export.session.id: {event.id for event in export.events} for export in exports}


def missing(before: dict[str, set[str]], *places: dict[str, set[str]]) -> set[str]:
    """The ids of events that existed before and are in none of these places."""
    return {
        event_id
        for name, event_ids in before.items()
        for event_id in event_ids.difference(*(place.get(name, set()) for place in places))
    }


@pytest.mark.usefixtures("transaction_size")
@pytest.mark.parametrize("at", range(4, 53, 7))
def test_a_run_that_is_stopped_anywhere_loses_no_event_that_is_not_archived(
    where: Where, store: asm.SessionStore, tmp_path: Path, at: int
) -> None:
    fill(store, where)
    before = events_by_session(store)

    with pytest.raises(Stopped):
        database = Stopping(store, at)
        run_job(retention.execute(a_policy(archive=tmp_path)), database)

    assert missing(before, events_by_session(store), archived_events(tmp_path)) == set()


@pytest.mark.parametrize("archive", [None, lambda _: None])
def test_a_long_session_that_is_restored_during_its_deletion_keeps_the_remaining_events(
    store: asm.SessionStore, archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", 7)
    store.save_session(a_session(deleted_days_ago=31))
    append_types(store, "ses_1", *["session_created"] * 36)
    policy = asm.RetentionPolicy(archive=archive)

    with pytest.raises(Stopped):
        database = Stopping(store, 4)
        run_job(retention.hard_delete_expired_sessions(policy), database)
    remaining = stored_numbers(store)
    store.save_session(a_session())

    assert 7 < len(remaining) < 36
    assert store.maintenance.hard_delete_expired_sessions(policy) == 0
    assert (stored_numbers(store), issues(store)) == (remaining, set())
    assert store.append_event(an_event()).sequence_number == 37


@pytest.mark.parametrize("batches", [1, 6, 12])
def test_a_killed_run_loses_nothing_and_the_next_run_continues(
    where: Where, store: asm.SessionStore, tmp_path: Path, batches: int
) -> None:
    fill(store, where)
    before = events_by_session(store)
    healthy = issues(store)

    with running("tests.contract.maintenance_process", where.dsn, str(tmp_path)) as process:
        lines = [read_line(process) for _ in range(batches)]
        # The process goes on while its output is read, so the signal arrives at any point.
        process.kill()
        process.wait()

    assert all(lines)
    assert missing(before, events_by_session(store), archived_events(tmp_path)) == set()
    assert issues(store) <= healthy
    policy = asm.RetentionPolicy(max_events_per_session=5, max_total_events=60, archive=tmp_path)
    assert store.maintenance.execute(policy).errors == []
    assert missing(before, events_by_session(store), archived_events(tmp_path)) == set()
