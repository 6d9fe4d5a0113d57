"""What a store promises about removing events: deleting those that match, and popping the newest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

import asm
from tests.conftest import POSTGRES, an_event, events_of, numbers
from tests.contract.other_clients import LOCK_WAITS, driver_connection, fetch_rows, only, run_in_fork
from tests.fault.concurrent_writers import wait_until


@pytest.fixture
def store(store: Any) -> Any:
    """A store with six events of two types and three runs, and one of another session."""
    store.save_session(asm.Session(id="ses_1", agent_id="agent"))
    store.save_session(asm.Session(id="other", agent_id="agent"))
    for n in range(1, 7):
        type = "error_occurred" if n % 3 == 0 else "message_sent"
        store.append_event(an_event(type=type, id=f"evt_{n}", run_id=f"run_{n // 3}"))
    store.append_event(an_event("other", id="evt_1"))
    return store


class TestDeleting:
    @pytest.mark.parametrize(
        ("filters", "left"),
        [
            ({"ids": ["evt_2", "evt_6", "absent"]}, [1, 3, 4, 5]),
            ({"ids": "evt_2"}, [1, 3, 4, 5, 6]),
            ({"ids": []}, [1, 2, 3, 4, 5, 6]),
            ({"run_id": "run_1"}, [1, 2, 6]),
            ({"type": "error_occurred"}, [1, 2, 4, 5]),
            ({"type": ["error_occurred", "message_sent"]}, []),
            ({"type": []}, [1, 2, 3, 4, 5, 6]),
            ({"after": 4}, [1, 2, 3, 4]),
            ({"before": 3}, [3, 4, 5, 6]),
            ({"after": 1, "before": 6, "type": asm.EventType.MESSAGE_SENT}, [1, 3, 6]),
            ({"ids": ["evt_1", "evt_2"], "run_id": "run_1"}, [1, 2, 3, 4, 5, 6]),
        ],
    )
    def test_the_events_that_match_every_filter_are_deleted(
        self, store: Any, filters: dict[str, Any], left: list[int]
    ) -> None:
        assert store.delete_events("ses_1", **filters) == 6 - len(left)
        assert numbers(store.get_events("ses_1")) == left
        assert numbers(store.get_events("other")) == [1]
        assert store.maintenance.health_check() == []

    def test_numbers_are_never_used_again(self, store: Any) -> None:
        store.delete_events("ses_1", after=0)
        assert store.get_latest_sequence("ses_1") == 6
        assert numbers(store.append_events([an_event(), an_event(id="evt_3")])) == [7, 8]
        assert store.delete_events("ses_1", ids=["evt_3"]) == 1
        assert store.append_event(an_event(id="evt_3")).sequence_number == 9
        assert store.maintenance.health_check() == []

    def test_a_filter_is_required(self, store: Any) -> None:
        with pytest.raises(asm.ValidationError, match="'ses_1' has no filter: give ids, run_id, type, after"):
            store.delete_events("ses_1")
        with pytest.raises(asm.ValidationError, match=r"ids\[1\] must be a string, not int"):
            store.delete_events("ses_1", ids=["evt_1", 2])
        assert len(store.get_events("ses_1")) == 6

    def test_of_an_unknown_session_nothing_is_deleted_or_written(self, store: Any, migrated: str) -> None:
        assert store.delete_events("unknown", after=0) == 0
        assert store.pop_event("unknown") is None
        written = "select * from asm_session_sequences where session_id = 'unknown'"
        assert fetch_rows(migrated, written) == []

    def test_any_number_of_events_can_be_deleted(self, store: Any) -> None:
        many = store.append_events(events_of("ses_1", 5_000))
        assert store.delete_events("ses_1", ids=[event.id for event in many[::2]]) == 2_500
        assert store.delete_events("ses_1", after=6) == 2_500
        assert numbers(store.get_events("ses_1")) == [1, 2, 3, 4, 5, 6]
        assert store.maintenance.health_check() == []

    def test_in_a_transaction_a_deletion_is_rolled_back(self, store: Any) -> None:
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            assert tx.delete_events("ses_1", after=2) == 4
            assert tx.pop_event("ses_1").sequence_number == 2
            assert tx.append_event(an_event()).sequence_number == 7
            raise ZeroDivisionError
        assert numbers(store.get_events("ses_1")) == [1, 2, 3, 4, 5, 6]
        assert store.maintenance.health_check() == []

    def test_concurrent_deletions_count_each_event_once(self, store: Any) -> None:
        store.append_events(events_of("ses_1", 200))
        with ThreadPoolExecutor(8) as threads:
            deleting = [threads.submit(store.delete_events, "ses_1", after=n * 10) for n in range(16)]
            appending = [threads.submit(store.append_event, an_event()) for _ in range(16)]
            deleted = sum(each.result() for each in deleting)
            appended = [each.result() for each in appending]
        left = store.get_events("ses_1")
        assert deleted + len(left) == 206 + len(appended)
        assert sorted(numbers(appended)) == list(range(207, 223))
        assert store.maintenance.health_check() == []


class TestPopping:
    def test_the_newest_event_is_removed_and_returned(self, store: Any) -> None:
        newest = store.get_events("ses_1")[-1]
        assert store.pop_event("ses_1") == newest
        assert numbers(store.get_events("ses_1")) == [1, 2, 3, 4, 5]
        assert store.maintenance.health_check() == []

    def test_with_a_type_it_is_the_newest_of_that_type(self, store: Any) -> None:
        assert store.pop_event("ses_1", type="message_sent").sequence_number == 5
        assert store.pop_event("ses_1", type=["message_sent", "message_received"]).sequence_number == 4
        assert store.pop_event("ses_1", type="tool_call_started") is None
        assert store.pop_event("ses_1", type=[]) is None
        assert numbers(store.get_events("ses_1")) == [1, 2, 3, 6]
        assert store.maintenance.health_check() == []

    def test_a_session_without_events_gives_none(self, store: Any) -> None:
        assert [store.pop_event("other").id, store.pop_event("other")] == ["evt_1", None]
        assert store.maintenance.health_check() == []

    def test_the_id_may_be_appended_again_under_a_new_number(self, store: Any) -> None:
        popped = store.pop_event("ses_1")
        assert store.append_event(popped).sequence_number == 7
        assert store.maintenance.health_check() == []

    def test_concurrent_threads_each_get_another_event(self, store: Any) -> None:
        store.append_events(events_of("ses_1", 50))
        with ThreadPoolExecutor(50) as threads:
            popped = list(threads.map(lambda _: store.pop_event("ses_1"), range(50)))
        assert sorted(numbers(popped)) == list(range(7, 57))
        assert store.maintenance.health_check() == []

    def test_concurrent_tasks_each_get_another_event(self, store: Any, migrated: str) -> None:
        async def main() -> list[Any]:
            async with asm.AsyncSessionStore(migrated) as other:
                return list(await asyncio.gather(*(other.pop_event("ses_1") for _ in range(8))))

        popped = [event for event in asyncio.run(main()) if event is not None]
        assert sorted(numbers(popped)) == [1, 2, 3, 4, 5, 6]

    def test_concurrent_processes_each_get_another_event(self, store: Any, migrated: str) -> None:
        store.append_events(events_of("ses_1", 60))
        # A forked process cannot use a SQLite file that was open when it was forked.
        store.close()

        def pop() -> None:
            with asm.SessionStore(migrated) as other:
                for _ in range(20):
                    event: Any = other.pop_event("ses_1")
                    other.append_event(an_event("popped", data={"number": event.sequence_number}))

        with ThreadPoolExecutor(3) as threads:
            assert list(threads.map(lambda _: run_in_fork(pop), range(3))) == [None] * 3
        with asm.SessionStore(migrated) as other:
            popped = [event.data["number"] for event in other.get_events("popped")]
        assert sorted(popped) == list(range(7, 67))

    def test_pops_and_appends_at_the_same_time_lose_nothing(self, store: Any) -> None:
        with ThreadPoolExecutor(16) as threads:
            popping = [threads.submit(store.pop_event, "ses_1") for _ in range(40)]
            appending = [threads.submit(store.append_event, an_event()) for _ in range(40)]
            popped = [each.result() for each in popping]
            appended = numbers([each.result() for each in appending])
        gone = numbers([event for event in popped if event is not None])
        assert sorted(appended) == list(range(7, 47))
        assert sorted(gone + numbers(store.get_events("ses_1"))) == list(range(1, 47))
        assert store.maintenance.health_check() == []


@only(POSTGRES, why="SQLite's readers and writers see the last commit")
@pytest.mark.parametrize("change", ["append", "pop", "delete the session and begin it again"])
def test_a_pop_that_waits_removes_what_is_the_newest_when_it_stops_waiting(
    store: Any, migrated: str, change: str
) -> None:
    """Its first statement sees the rows as they were before it waited."""
    with ThreadPoolExecutor(1) as thread, store.transaction() as tx:
        tx.append_event(an_event())
        popping = thread.submit(store.pop_event, "ses_1")
        wait_until(lambda: fetch_rows(migrated, LOCK_WAITS))
        if change == "pop":
            tx.pop_event("ses_1")
            tx.pop_event("ses_1")
        elif change != "append":
            tx.delete_session("ses_1")
            tx.append_events(events_of("ses_1", 2))
    expected = {"append": 7, "pop": 5}.get(change, 2)
    assert popping.result().sequence_number == expected


@only(POSTGRES, why="a SQLite file has one lock")
@pytest.mark.parametrize("remove", ["pop_event", "delete_events"])
def test_the_counter_is_locked_before_the_events(store: Any, migrated: str, remove: str) -> None:
    filters = {"after": 0} if remove == "delete_events" else {}
    with ThreadPoolExecutor(1) as thread, psycopg.connect(migrated) as other:
        other.execute("select from asm_session_sequences where session_id = 'ses_1' for update")
        removing = thread.submit(getattr(store, remove), "ses_1", **filters)
        wait_until(lambda: fetch_rows(migrated, LOCK_WAITS))
        with driver_connection(migrated) as third:
            events = "select id from asm_events where session_id = 'ses_1' for update nowait"
            assert len(third.execute(events).fetchall()) == 6
        other.rollback()
        assert removing.result()


def test_waiting_readers_are_not_disturbed_by_a_removal(store: Any, opened: Callable[..., Any]) -> None:
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(store.get_events, "ses_1", after=6, wait_timeout=30)
        store.pop_event("ses_1")
        stored = store.append_event(an_event())
        assert waiting.result() == [stored]
