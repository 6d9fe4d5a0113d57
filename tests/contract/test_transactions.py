"""Operations that are committed together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import asm
from tests.conftest import an_artifact, an_event, events_of, numbers


class Interruption(Exception):
    pass


def test_operations_of_a_transaction_are_committed_together(store: Any) -> None:
    session = asm.Session(agent_id="a")
    with store.transaction() as tx:
        tx.save_session(session)
        tx.save_run(asm.Run(session_id=session.id))
        tx.append_event(an_event(session.id))
        tx.append_events(events_of(session.id, 2))
        tx.artifacts.register(an_artifact(session_id=session.id))
    assert (len(store.list_runs(session.id)), numbers(store.get_events(session.id))) == (1, [1, 2, 3])
    assert len(store.artifacts.list_by_session(session.id)) == 1


def test_an_exception_rolls_everything_back(store: Any) -> None:
    store.append_event(an_event("ses_1"))
    with pytest.raises(Interruption), store.transaction() as tx:
        tx.save_session(asm.Session(agent_id="a", id="ses_1"))
        tx.append_events(events_of("ses_1", 5))
        tx.delete_session("ses_1")
        raise Interruption
    assert (store.list_sessions(), store.get_latest_sequence("ses_1")) == ([], 1)


def test_a_rolled_back_append_leaves_no_gap(store: Any) -> None:
    with pytest.raises(Interruption), store.transaction() as tx:
        tx.append_event(an_event())
        raise Interruption
    assert store.append_event(an_event()).sequence_number == 1


def test_a_transaction_sees_its_own_writes(store: Any) -> None:
    with store.transaction() as tx:
        tx.append_events(events_of("ses_1", 3))
        assert (tx.get_latest_sequence("ses_1"), numbers(tx.get_events("ses_1", after=1))) == (3, [2, 3])
        assert numbers(list(tx.iter_events("ses_1", page_size=2))) == [1, 2, 3]


def test_other_callers_see_nothing_before_the_commit(store: Any) -> None:
    with store.transaction() as tx:
        tx.append_event(an_event())
        assert store.get_events("ses_1") == []


def test_threads_and_tasks_may_share_a_transaction(store: Any) -> None:
    with store.transaction() as tx, ThreadPoolExecutor(8) as threads:
        appending = [threads.submit(tx.append_events, events_of(f"ses_{n % 4}", 20)) for n in range(80)]
        for each in appending:
            each.result()
    for n in range(4):
        assert numbers(store.get_events(f"ses_{n}")) == list(range(1, 401))


def test_a_duplicate_event_does_not_abort_a_transaction(store: Any) -> None:
    first = store.append_event(an_event(id="evt_1"))
    with store.transaction() as tx:
        assert tx.append_event(an_event(id="evt_1")) == first
        assert tx.append_events([an_event(id="evt_1"), an_event()])[0] == first
    assert store.get_latest_sequence("ses_1") == 2


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (asm.SequenceConflict, lambda tx: tx.append_event(an_event(), expected_sequence=9)),
        (asm.AlreadyExists, lambda tx: tx.artifacts.register(an_artifact("k"))),
        (asm.SessionNotFound, lambda tx: tx.get_session("missing")),
        (asm.ValidationError, lambda tx: tx.get_events("ses_1", limit=-1)),
    ],
)
def test_an_error_of_the_store_does_not_abort_a_transaction(
    store: Any, error: type[asm.AsmError], call: Callable[[Any], Any]
) -> None:
    store.artifacts.register(an_artifact("k"))
    with store.transaction() as tx:
        with pytest.raises(error):
            call(tx)
        tx.append_event(an_event())
    assert store.get_latest_sequence("ses_1") == 1


def test_a_flush_within_a_transaction_is_part_of_it(store: Any) -> None:
    session = asm.Session(agent_id="a")
    with pytest.raises(Interruption), store.transaction() as tx:
        assert numbers(tx.flush(session, asm.Run(session_id=session.id), events_of(session.id, 2))) == [1, 2]
        raise Interruption
    assert (store.list_sessions(), store.get_latest_sequence(session.id)) == ([], 0)
