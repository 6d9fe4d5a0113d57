"""Maintenance may be stopped anywhere, and run again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asm
from asm.engine.jobs import run_job
from asm.engine.script import Operation
from asm.formats import archives
from asm.maintenance import retention, run
from tests.conftest import Where, an_event
from tests.contract.other_clients import read_line, running
from tests.contract.retention_data import a_session, all_rows, append_types, fill, session_ids, stored_numbers


class Stopped(BaseException):
    """As when a process is killed: nothing in the procedure can answer it."""


class Stopping:
    """A database that is gone after so many questions, the last of which has or has not been answered."""

    def __init__(self, store: asm.SessionStore, questions: int, *, answers_the_last: bool) -> None:
        self._database = store._database
        self._left = questions
        self._answers_the_last = answers_the_last

    def run(self, question: Operation[Any]) -> Any:
        self._left -= 1
        if self._left > 0:
            return self._database.run(question)
        if self._answers_the_last:
            self._database.run(question)
        raise Stopped


@pytest.fixture
def store(where: Where) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(where.dsn) as store:
        yield store


def a_policy(**fields: Any) -> asm.RetentionPolicy:
    return asm.RetentionPolicy(
        max_session_age_days=95, max_events_per_session=5, max_total_events=60, batch_size=2, **fields
    )


def without_times(rows: list[Any]) -> list[Any]:
    """Everything in a store, but when a session was soft-deleted only whether."""
    sessions, *others = rows
    return [[(*rest, deleted_at is None) for *rest, deleted_at in sessions], *others]


def issues(store: asm.SessionStore) -> set[tuple[str, str]]:
    return {(issue.code, issue.session_id) for issue in store.maintenance.health_check()}


def emptied(store: asm.SessionStore) -> None:
    for session_id in [*session_ids(store), "alone", "orphan"]:
        store.delete_session(session_id)
    with store.transaction() as tx:
        tx.connection.execute("delete from asm_artifacts")


@pytest.fixture(params=[run.EVENTS_PER_TRANSACTION, 3])
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many events in one transaction: more than any session has, or less."""
    monkeypatch.setattr(run, "EVENTS_PER_TRANSACTION", request.param)


@pytest.mark.usefixtures("most")
@pytest.mark.parametrize("answers_the_last", [False, True], ids=["before", "after"])
def test_a_run_that_is_stopped_at_any_query_and_repeated_has_the_same_result(
    where: Where, store: asm.SessionStore, answers_the_last: bool
) -> None:
    fill(store, where)
    healthy = issues(store)
    store.maintenance.execute(a_policy())
    end = without_times(all_rows(where))
    for questions in range(1, 200):
        emptied(store)
        fill(store, where)
        database = Stopping(store, questions, answers_the_last=answers_the_last)
        try:
            run_job(retention.execute(a_policy()), database)
            break
        except Stopped:
            pass
        assert issues(store) <= healthy
        store.maintenance.execute(a_policy())
        assert without_times(all_rows(where)) == end
    assert questions > 20


def events_by_session(store: asm.SessionStore) -> dict[str, set[str]]:
    return {name: {event.id for event in store.get_events(name)} for name in session_ids(store)}


def archived_events(folder: Path) -> dict[str, set[str]]:
    exports = [archives.read(file) for file in folder.glob("*.jsonl.gz")]
    return {export.session.id: {event.id for event in export.events} for export in exports}


def missing(before: dict[str, set[str]], *places: dict[str, set[str]]) -> set[str]:
    """The events that were there before and now are nowhere."""
    return {
        event_id
        for name, event_ids in before.items()
        for event_id in event_ids.difference(*(place.get(name, set()) for place in places))
    }


@pytest.mark.usefixtures("most")
@pytest.mark.parametrize("questions", range(4, 54, 7))
def test_a_run_that_is_stopped_anywhere_loses_no_event_that_is_not_archived(
    where: Where, store: asm.SessionStore, tmp_path: Path, questions: int
) -> None:
    fill(store, where)
    before = events_by_session(store)

    with pytest.raises(Stopped):
        database = Stopping(store, questions, answers_the_last=True)
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
        database = Stopping(store, 4, answers_the_last=True)
        run_job(retention.hard_delete_expired_sessions(policy), database)
    rest = stored_numbers(store)
    store.save_session(a_session())

    assert 7 < len(rest) < 36
    assert store.maintenance.hard_delete_expired_sessions(policy) == 0
    assert (stored_numbers(store), issues(store)) == (rest, set())
    assert store.append_event(an_event()).sequence_number == 37


@pytest.mark.parametrize("batches", [1, 6, 12])
def test_a_killed_run_loses_nothing_and_the_next_run_continues(
    where: Where, store: asm.SessionStore, tmp_path: Path, batches: int
) -> None:
    fill(store, where)
    before = events_by_session(store)
    healthy = issues(store)

    with running("tests.contract.maintenance_process", where.dsn, str(tmp_path)) as process:
        heard = [read_line(process) for _ in range(batches)]
        # It has gone on by now: the kill meets it wherever it is.
        process.kill()
        process.wait()

    assert all(heard)
    assert missing(before, events_by_session(store), archived_events(tmp_path)) == set()
    assert issues(store) <= healthy
    policy = asm.RetentionPolicy(max_events_per_session=5, max_total_events=60, archive=tmp_path)
    assert store.maintenance.execute(policy).errors == []
    assert missing(before, events_by_session(store), archived_events(tmp_path)) == set()
