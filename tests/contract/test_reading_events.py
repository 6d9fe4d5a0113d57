"""What a store promises about reading one event, the newest events, and about heartbeats."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import asm
from tests.conftest import an_event, events_of, numbers

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class TestOneEvent:
    def test_an_event_is_found_by_its_session_and_its_id(self, store: Any) -> None:
        store.append_event(an_event("other", id="evt_1"))
        stored = store.append_event(an_event(id="evt_1", data={"text": "\0"}))
        assert store.get_event("ses_1", "evt_1") == stored

    def test_an_absent_event_is_an_error_that_names_it(self, store: Any) -> None:
        store.append_event(an_event("other", id="evt_1"))
        with pytest.raises(asm.EventNotFound, match="session 'ses_1' has no event with the id 'evt_1'") as no:
            store.get_event("ses_1", "evt_1")
        assert (no.value.code, isinstance(no.value, LookupError)) == ("event_not_found", True)
        assert no.value.details == {"session_id": "ses_1", "event_id": "evt_1"}

    def test_in_a_transaction_its_own_events_are_found(self, store: Any) -> None:
        with store.transaction() as tx:
            stored = tx.append_event(an_event())
            assert tx.get_event("ses_1", stored.id) == stored


class TestTheNewestEvents:
    @pytest.fixture
    def store(self, store: Any) -> Any:
        """A store with eight events, of which every third is an error, and every second is of a run."""
        for n in range(1, 9):
            type = "error_occurred" if n % 3 == 0 else "message_sent"
            run_id = "run_1" if n % 2 == 0 else None
            store.append_event(an_event(type=type, run_id=run_id, timestamp=NOON + timedelta(hours=n)))
        return store

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({"last": 3}, [6, 7, 8]),
            ({"last": 100}, [1, 2, 3, 4, 5, 6, 7, 8]),
            ({"last": 0}, []),
            ({"last": 1, "type": "error_occurred"}, [6]),
            ({"last": 3, "type": ["error_occurred", "message_sent"]}, [6, 7, 8]),
            ({"last": 2, "run_id": "run_1"}, [6, 8]),
            ({"last": 2, "before": 5}, [3, 4]),
            ({"last": 5, "after": 6}, [7, 8]),
            ({"last": 2, "since": NOON + timedelta(hours=8)}, [8]),
        ],
    )
    def test_the_newest_that_match_are_returned_in_ascending_order(
        self, store: Any, filters: dict[str, Any], found: list[int]
    ) -> None:
        assert numbers(store.get_events("ses_1", **filters)) == found

    def test_last_and_limit_exclude_each_other(self, store: Any) -> None:
        with pytest.raises(asm.ValidationError, match="limit=2 asks for the first events and last=3 for the"):
            store.get_events("ses_1", last=3, limit=2)
        with pytest.raises(asm.ValidationError, match="last must be from 0 to"):
            store.get_events("ses_1", last=-1)

    def test_waiting_for_the_newest_ends_when_one_is_appended(self, store: Any) -> None:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(store.get_events, "ses_1", after=8, last=1, wait_timeout=30)
            stored = store.append_event(an_event())
            assert waiting.result() == [stored]

    def test_the_newest_of_a_session_without_any_are_none_after_the_wait(self, store: Any) -> None:
        assert store.get_events("empty", last=2, wait_timeout=0.02) == []
        assert store.get_events("empty", last=0, wait_timeout=float("inf")) == []


class TestHeartbeats:
    def test_while_no_event_arrives_the_iterator_yields_none(self, store: Any) -> None:
        following = store.follow_events("ses_1", heartbeat=0.01)
        assert [next(following) for _ in range(3)] == [None, None, None]
        stored = store.append_event(an_event())
        assert next(following) == stored
        assert next(following) is None

    def test_stored_events_come_before_the_first_heartbeat(self, store: Any) -> None:
        stored = store.append_events(events_of("ses_1", 5))
        following = store.follow_events("ses_1", page_size=2, heartbeat=0.01)
        assert [next(following) for _ in range(6)] == [*stored, None]

    def test_heartbeats_do_not_postpone_the_idle_timeout(self, store: Any) -> None:
        store.append_event(an_event())
        first, *rest = store.follow_events("ses_1", heartbeat=0.01, idle_timeout=0.1)
        assert (first.sequence_number, set(rest)) == (1, {None})
        assert len(rest) <= 10

    def test_an_idle_timeout_shorter_than_the_heartbeat_ends_without_one(self, store: Any) -> None:
        assert list(store.follow_events("ses_1", heartbeat=60, idle_timeout=0.02)) == []

    def test_a_limit_counts_events_and_no_heartbeats(self, store: Any) -> None:
        following = store.follow_events("ses_1", limit=2, heartbeat=0.01)
        assert next(following) is None
        stored = store.append_events(events_of("ses_1", 3))
        assert [event for event in following if event is not None] == stored[:2]

    def test_no_event_is_lost_or_repeated_between_heartbeats(
        self, store: Any, opened: Callable[..., Any], migrated: str
    ) -> None:
        other = opened(migrated)
        beats, done = threading.Semaphore(0), 40

        def append() -> None:
            for _ in range(done):
                beats.acquire(timeout=30)
                other.append_event(an_event())

        followed: list[int] = []
        with ThreadPoolExecutor(1) as thread:
            appending = thread.submit(append)
            for event in store.follow_events("ses_1", heartbeat=0.001, limit=done):
                if event is None:
                    beats.release()
                else:
                    followed += numbers([event])
            appending.result()
        assert followed == list(range(1, done + 1))

    def test_in_a_transaction_there_are_heartbeats_too(self, store: Any) -> None:
        with store.transaction() as tx:
            following = tx.follow_events("ses_1", heartbeat=0.01, idle_timeout=30)
            assert next(following) is None
            stored = tx.append_event(an_event())
            assert next(following) == stored

    def test_a_heartbeat_takes_some_time(self, store: Any) -> None:
        with pytest.raises(asm.ValidationError, match="heartbeat must be more than 0 seconds"):
            store.follow_events("ses_1", heartbeat=0)
        with pytest.raises(asm.ValidationError, match="heartbeat must be a number of seconds"):
            store.follow_events("ses_1", heartbeat=-1)
