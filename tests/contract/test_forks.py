"""What a store promises about forking a session."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

import asm
from asm.operations import forks
from tests.conftest import POSTGRES, Where, an_artifact, an_event, events_of, numbers
from tests.contract.other_clients import (
    LOCK_WAITS,
    driver_connection,
    fetch_rows,
    needs_triggers,
    only,
    run_in_fork,
    run_operation,
)
from tests.contract.test_concurrent_appends import concurrently
from tests.fault.concurrent_writers import wait_until

Opener = Callable[..., Any]

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PARENT = asm.Session(
    id="ses_parent",
    agent_id="assistant",
    status="completed",
    parent_session_id="ses_grandparent",
    metadata={"title": "Fix the build", "n": 2**70},
    context={"system": "Be brief. \0 \ud800 é 漢"},
    tags=("prod", "eu", "prod"),
    created_at=NOON,
    updated_at=NOON,
)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

postgres_only = only(POSTGRES, why="SQLite locks the whole file and does not show who waits for it")


@pytest.fixture
def forked(store: Any) -> Any:
    """A store with a session of ten events."""
    store.save_session(PARENT)
    store.append_events(
        an_event(PARENT.id, run_id="run_1", correlation_id=f"cor_{n}", data={"n": n}, metadata={"m": [n]})
        for n in range(10)
    )
    return store


def at_once(store: Any, *work: Callable[[], Any]) -> list[Any]:
    """The outcomes of calls that begin together, beside a transaction that appends to `ses_1`."""
    store.save_session(asm.Session(id="ses_1", agent_id="other"))
    return concurrently(store, *work)


def without_session(events: list[asm.Event]) -> list[asm.Event]:
    """Events for comparison with those of another session."""
    return [replace(event, session_id="any") for event in events]


def assert_is_fork_of(store: Any, child: asm.Session, parent_id: str = PARENT.id) -> None:
    """Assert that a child has its parent's events up to the fork point, and all rows agree."""
    upto = child.metadata["forked_at"]
    expected = store.get_events(parent_id, before=upto + 1)
    assert without_session(store.get_events(child.id)) == without_session(expected)
    assert store.get_latest_sequence(child.id) == upto
    assert store.maintenance.health_check() == []


@pytest.mark.parametrize(("upto", "copied"), [(None, 10), (10, 10), (4, 4), (1, 1), (0, 0)])
def test_a_fork_has_the_events_up_to_a_number(forked: Any, upto: int | None, copied: int) -> None:
    child = forked.fork_session(PARENT.id, upto=upto)

    assert numbers(forked.get_events(child.id)) == list(range(1, copied + 1))
    assert child.metadata["forked_at"] == copied
    assert_is_fork_of(forked, child)


def test_a_fork_is_a_pending_session_like_its_parent(forked: Any) -> None:
    before = datetime.now(UTC)

    child = forked.fork_session(PARENT.id, upto=4, id="ses_child")

    assert child == replace(
        PARENT,
        id="ses_child",
        status="pending",
        parent_session_id=PARENT.id,
        metadata={**PARENT.metadata, "forked_at": 4},
        created_at=child.created_at,
        updated_at=child.created_at,
    )
    assert before <= child.created_at <= datetime.now(UTC)
    assert forked.get_session("ses_child") == child


def test_a_fork_is_found_by_its_parent_and_by_its_tags(forked: Any) -> None:
    child = forked.fork_session(PARENT.id)

    assert forked.query.search_sessions(parent_session_id=PARENT.id).items == [child]
    assert forked.query.search_sessions(tags=["eu", "prod"]).items == [child, PARENT]


def test_a_fork_and_its_parent_go_on_separately(forked: Any) -> None:
    child = forked.fork_session(PARENT.id, upto=4)

    assert forked.append_event(an_event(child.id, data={"of": "child"})).sequence_number == 5
    assert forked.append_event(an_event(PARENT.id)).sequence_number == 11
    assert forked.get_session(PARENT.id) == PARENT
    assert forked.maintenance.health_check() == []
    forked.delete_session(PARENT.id)
    assert numbers(forked.get_events(child.id)) == [1, 2, 3, 4, 5]


def test_an_event_of_the_parent_counts_as_appended_to_the_fork(forked: Any) -> None:
    child = forked.fork_session(PARENT.id)
    third = forked.get_events(PARENT.id)[2]

    again = forked.append_event(replace(third, session_id=child.id))

    assert again == replace(third, session_id=child.id)
    assert forked.get_latest_sequence(child.id) == 10


def test_a_fork_of_a_fork_says_where_it_was_forked(forked: Any) -> None:
    child = forked.fork_session(PARENT.id, upto=7)
    forked.append_event(an_event(child.id))

    grandchild = forked.fork_session(child.id)

    assert (grandchild.parent_session_id, grandchild.metadata["forked_at"]) == (child.id, 8)
    assert_is_fork_of(forked, grandchild, child.id)


def test_a_session_without_events_is_forked_without_events(store: Any) -> None:
    store.save_session(PARENT)

    child = store.fork_session(PARENT.id)

    assert (child.metadata["forked_at"], store.get_events(child.id)) == (0, [])
    assert store.append_event(an_event(child.id)).sequence_number == 1
    assert store.maintenance.health_check() == []


@pytest.mark.parametrize("upto", [None, 10, 5, 3, 1])
def test_events_that_were_pruned_count_as_pruned_in_the_fork(forked: Any, upto: int | None) -> None:
    policy = asm.RetentionPolicy(max_events_per_session=6, prune_event_types_first=())
    assert forked.maintenance.prune_session_events(PARENT.id, policy) == 4

    child = forked.fork_session(PARENT.id, upto=upto)

    assert numbers(forked.get_events(child.id)) == list(range(5, (upto or 10) + 1))
    assert_is_fork_of(forked, child)
    assert forked.append_event(an_event(child.id)).sequence_number == (upto or 10) + 1
    assert forked.query.export_session(child.id).pruned_events == min(4, upto or 10)


def test_events_that_were_removed_count_as_pruned_in_the_fork(forked: Any) -> None:
    assert forked.delete_events(PARENT.id, before=3) == 2
    assert forked.pop_event(PARENT.id).sequence_number == 10

    child = forked.fork_session(PARENT.id)

    assert numbers(forked.get_events(child.id)) == list(range(3, 10))
    assert_is_fork_of(forked, child)
    assert forked.append_event(an_event(child.id)).sequence_number == 11


def test_a_fork_of_a_soft_deleted_session_is_not_deleted(forked: Any) -> None:
    forked.save_session(replace(PARENT, deleted_at=NOON))

    child = forked.fork_session(PARENT.id)

    assert forked.get_session(child.id).deleted_at is None
    assert_is_fork_of(forked, child)


def test_runs_and_artifacts_stay_with_the_parent(forked: Any) -> None:
    run = asm.Run(id="run_1", session_id=PARENT.id, status="running", token_usage={"input_tokens": 7})
    forked.save_run(run)
    forked.artifacts.register(an_artifact(session_id=PARENT.id))

    child = forked.fork_session(PARENT.id)

    assert (forked.list_runs(child.id), forked.artifacts.list_by_session(child.id)) == ([], [])
    assert {event.run_id for event in forked.get_events(child.id)} == {"run_1"}
    assert forked.get_run("run_1") == run
    assert forked.query.get_usage_summary().input_tokens == 7


def test_a_session_is_not_forked_at_a_number_that_it_has_not_reached(forked: Any) -> None:
    with pytest.raises(asm.ValidationError, match=r"upto is 11, but session 'ses_parent' is at .* 10"):
        forked.fork_session(PARENT.id, upto=11, id="ses_child")
    with pytest.raises(asm.SessionNotFound):
        forked.get_session("ses_child")


def test_an_unknown_session_is_not_forked(store: Any) -> None:
    store.append_event(an_event("ses_without_row"))
    for session_id in ("ses_missing", "ses_without_row"):
        with pytest.raises(asm.SessionNotFound, match=session_id):
            store.fork_session(session_id)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"session_id": 7}, "session_id must be a string"),
        ({"session_id": ""}, "session_id must have 1 to 255 characters"),
        ({"upto": -1}, "upto must be from 0"),
        ({"upto": True}, "upto must be a whole number"),
        ({"upto": "3"}, "upto must be a whole number"),
        ({"upto": 2**63}, "upto must be from 0"),
        ({"id": ""}, "id must have 1 to 255 characters"),
        ({"id": 7}, "id must be a string"),
    ],
)
def test_invalid_arguments_are_refused(store: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(asm.ValidationError, match=message):
        store.fork_session(**{"session_id": PARENT.id, **arguments})


EXISTING: dict[str, Callable[[Any], Any]] = {
    "a session": lambda store: store.save_session(asm.Session(id="taken", agent_id="a")),
    "an event": lambda store: store.append_event(an_event("taken")),
    "a session with events": lambda store: store.flush(
        asm.Session(id="taken", agent_id="a"), asm.Run(session_id="taken"), [an_event("taken")]
    ),
    "another fork": lambda store: store.fork_session(PARENT.id, upto=3, id="taken"),
}


@pytest.mark.parametrize("store_existing", EXISTING.values(), ids=EXISTING)
def test_an_id_that_exists_is_a_conflict(forked: Any, store_existing: Callable[[Any], Any]) -> None:
    store_existing(forked)
    before = forked.get_sessions(["taken"]), forked.get_events("taken")

    with pytest.raises(asm.AlreadyExists, match="'taken'"):
        forked.fork_session(PARENT.id, id="taken")

    assert (forked.get_sessions(["taken"]), forked.get_events("taken")) == before


def test_a_session_is_not_forked_into_itself(forked: Any) -> None:
    with pytest.raises(asm.AlreadyExists):
        forked.fork_session(PARENT.id, id=PARENT.id)
    assert forked.get_session(PARENT.id) == PARENT


# In a transaction.


def test_a_transaction_forks_what_it_has_written(store: Any) -> None:
    with store.transaction() as tx:
        tx.save_session(PARENT)
        tx.append_events(events_of(PARENT.id, 3))
        child = tx.fork_session(PARENT.id)
        tx.append_event(an_event(child.id))
    assert numbers(store.get_events(child.id)) == [1, 2, 3, 4]
    assert store.maintenance.health_check() == []


def test_a_fork_that_is_rolled_back_leaves_nothing(forked: Any) -> None:
    with pytest.raises(KeyError), forked.transaction() as tx:
        tx.fork_session(PARENT.id, id="ses_child")
        raise KeyError
    assert (forked.get_sessions(["ses_child"]), forked.get_events("ses_child")) == ([], [])
    assert forked.query.search_sessions(tags="prod").items == [PARENT]


REFUSED: dict[str, dict[str, Any]] = {
    "upto": {"session_id": PARENT.id, "upto": 11, "id": "ses_child"},
    "parent": {"session_id": "ses_missing", "id": "ses_child"},
    "id": {"session_id": PARENT.id, "id": "taken"},
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_a_transaction_that_goes_on_after_a_refused_fork_has_nothing_of_it(
    forked: Any, arguments: dict[str, Any]
) -> None:
    forked.append_event(an_event("taken"))
    with forked.transaction() as tx:
        with pytest.raises(asm.AsmError):
            tx.fork_session(**arguments)
        tx.append_event(an_event(PARENT.id))

    assert forked.get_latest_sequence(PARENT.id) == 11
    assert (forked.get_sessions(["ses_child", "taken"]), forked.get_events("ses_child")) == ([], [])
    assert forked.get_latest_sequence("taken") == 1


# A second attempt, after the response to the first was lost. Cut connections are in tests/fault.


@pytest.mark.parametrize("id", [None, "ses_child"])
def test_a_second_attempt_returns_the_child_of_the_first(forked: Any, id: str | None) -> None:
    attempt = forks.fork_session(PARENT.id, id=id)
    child = run_operation(forked, attempt)
    forked.append_event(an_event(PARENT.id))
    forked.append_event(an_event(child.id))

    assert run_operation(forked, attempt) == child
    assert numbers(forked.get_events(child.id)) == list(range(1, 12))


def test_a_second_attempt_returns_the_child_even_if_the_parent_was_deleted(forked: Any) -> None:
    attempt = forks.fork_session(PARENT.id, upto=4)
    child = run_operation(forked, attempt)
    forked.delete_session(PARENT.id)

    assert run_operation(forked, attempt) == child


# Other clients.


def test_concurrent_forks_and_appends_give_each_fork_a_prefix_of_the_parent(forked: Any) -> None:
    appends = [lambda: forked.append_events(events_of(PARENT.id, 7)) for _ in range(8)]
    every_fork = [lambda: forked.fork_session(PARENT.id) for _ in range(8)]

    outcomes = at_once(forked, *appends, *every_fork)

    for child in outcomes[8:]:
        assert (child.metadata["forked_at"] - 10) % 7 == 0
        assert_is_fork_of(forked, child)
    assert forked.get_latest_sequence(PARENT.id) == 10 + 8 * 7


def test_of_concurrent_forks_into_one_id_one_succeeds(forked: Any) -> None:
    outcomes = at_once(forked, *[lambda: forked.fork_session(PARENT.id, id="ses_child")] * 6)

    children = [each for each in outcomes if isinstance(each, asm.Session)]
    assert children == [forked.get_session("ses_child")]
    assert sum(isinstance(each, asm.AlreadyExists) for each in outcomes) == 5
    assert_is_fork_of(forked, children[0])


def test_a_fork_that_races_a_deletion_is_complete_or_finds_no_session(forked: Any) -> None:
    for n in range(6):
        parent = replace(PARENT, id=f"ses_deleted_{n}")
        forked.save_session(parent)
        forked.append_events(events_of(parent.id, 50))

        child, _ = at_once(
            forked, partial(forked.fork_session, parent.id), partial(forked.delete_session, parent.id)
        )

        if isinstance(child, asm.Session):
            assert numbers(forked.get_events(child.id)) == list(range(1, 51))
        else:
            assert isinstance(child, asm.SessionNotFound)
    assert forked.maintenance.health_check() == []


def test_processes_fork_a_session_while_others_append_to_it(where: Where) -> None:
    def append() -> None:
        with asm.SessionStore(where.dsn) as store:
            for _ in range(20):
                store.append_events(events_of(PARENT.id, 5))

    def fork() -> list[str]:
        with asm.SessionStore(where.dsn) as store:
            return [store.fork_session(PARENT.id).id for _ in range(10)]

    with asm.SessionStore(where.dsn) as store:
        store.save_session(PARENT)
    # Each thread forks a process and waits for it; no store is open meanwhile.
    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(run_in_fork, [append, fork, append, fork]))

    with asm.SessionStore(where.dsn) as store:
        assert store.get_latest_sequence(PARENT.id) == 200
        children = store.get_sessions([*outcomes[1], *outcomes[3]])
        assert len(children) == 20
        for child in children:
            assert_is_fork_of(store, child)


@postgres_only
def test_other_clients_use_the_parent_during_a_fork(forked: Any, migrated: str) -> None:
    before = forked.get_events(PARENT.id)
    with asm.SessionStore(migrated) as other, forked.transaction() as tx:
        child = tx.fork_session(PARENT.id)
        assert other.append_event(an_event(PARENT.id)).sequence_number == 11
        other.save_session(replace(PARENT, status="active"))
        other.update_session(PARENT.id, lambda parent: parent.update_status("paused"))
        other.fork_session(PARENT.id)
        assert other.delete_events(PARENT.id, after=5) == 6
        other.save_session(replace(PARENT, status="completed", updated_at=LONG_AGO))
        assert other.maintenance.soft_delete_expired_sessions(asm.RetentionPolicy()) == 1

    assert without_session(forked.get_events(child.id)) == without_session(before)
    assert forked.maintenance.health_check() == []


@postgres_only
def test_a_fork_does_not_wait_for_clients_that_append_to_the_parent(forked: Any, migrated: str) -> None:
    with asm.SessionStore(migrated) as other, other.transaction() as tx:
        tx.append_event(an_event(PARENT.id))
        tx.pop_event(PARENT.id)
        tx.pop_event(PARENT.id)
        child = forked.fork_session(PARENT.id)
    assert numbers(forked.get_events(child.id)) == list(range(1, 11))
    assert forked.maintenance.health_check() == []


@postgres_only
def test_the_deletion_of_the_parent_waits_for_a_fork(forked: Any, migrated: str) -> None:
    with asm.SessionStore(migrated) as other, ThreadPoolExecutor(1) as thread:
        with forked.transaction() as tx:
            child = tx.fork_session(PARENT.id)
            deleted = thread.submit(other.delete_session, PARENT.id)
            wait_until(lambda: fetch_rows(migrated, LOCK_WAITS))
        deleted.result()

    assert numbers(forked.get_events(child.id)) == list(range(1, 11))
    assert forked.get_events(PARENT.id) == []
    assert forked.maintenance.health_check() == []


@postgres_only
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_fork_waits_for_the_deletion_of_its_parent(forked: Any, migrated: str, end: str) -> None:
    with driver_connection(migrated) as other, ThreadPoolExecutor(1) as thread:
        other.execute(f"begin; delete from asm_sessions where id = '{PARENT.id}'")
        child = thread.submit(forked.fork_session, PARENT.id, id="ses_child")
        wait_until(lambda: fetch_rows(migrated, LOCK_WAITS))
        other.execute(end)
        if end == "rollback":
            assert_is_fork_of(forked, child.result())
        else:
            with pytest.raises(asm.SessionNotFound):
                child.result()
            assert forked.get_events("ses_child") == []


@postgres_only
@pytest.mark.parametrize("id", ["ses_child", PARENT.id])
def test_a_fork_that_waits_for_the_counter_of_its_id_has_not_locked_its_parent(
    forked: Any, migrated: str, id: str
) -> None:
    forked.append_event(an_event(id))
    with driver_connection(migrated) as deleting, ThreadPoolExecutor(1) as thread:
        deleting.execute(f"begin; select from asm_session_sequences where session_id = '{id}' for update")
        child = thread.submit(forked.fork_session, PARENT.id, id=id)
        wait_until(lambda: fetch_rows(migrated, LOCK_WAITS))
        deleting.execute(f"select from asm_sessions where id = '{PARENT.id}' for update nowait; commit")
        with pytest.raises(asm.AlreadyExists):
            child.result()


@postgres_only
def test_a_fork_waits_for_a_session_that_another_client_saves_under_its_id(
    forked: Any, migrated: str
) -> None:
    theirs = asm.Session(id="ses_child", agent_id="other")
    with asm.SessionStore(migrated) as other, ThreadPoolExecutor(1) as thread:
        with other.transaction() as tx:
            tx.save_session(theirs)
            child = thread.submit(forked.fork_session, PARENT.id, id="ses_child")
            wait_until(lambda: fetch_rows(migrated, LOCK_WAITS))
        with pytest.raises(asm.AlreadyExists):
            child.result()

    assert (forked.get_session("ses_child"), forked.get_events("ses_child")) == (theirs, [])


SLOW = """
    create function slow() returns trigger language plpgsql as
        'begin perform pg_sleep(3.5); return null; end';
    create trigger slow before insert on asm_events execute function slow()
"""


@needs_triggers
@only(POSTGRES[:1], why="the client waits for every version of PostgreSQL, and for SQLite, in the same way")
def test_a_fork_may_take_longer_than_the_timeout(forked: Any, opened: Opener, migrated: str) -> None:
    fetch_rows(migrated, SLOW)

    child = opened(migrated, timeout=1.5).fork_session(PARENT.id)

    assert_is_fork_of(forked, child)
