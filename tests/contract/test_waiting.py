"""What a store promises to those who wait for events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import asm
from tests.conftest import an_event, events_of, numbers


@pytest.fixture
def other(opened: Callable[..., Any], migrated: str) -> Any:
    """Another store on the same database, as another process would have."""
    return opened(migrated)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_waiting_ends_when_an_event_is_appended_by_another(store: Any, other: Any) -> None:
    thread, results = in_thread(lambda: store.get_events("ses_1", wait_timeout=30))
    stored = other.append_event(an_event())
    thread.join()
    assert results == [[stored]]


def test_waiting_is_for_what_the_filters_let_through(store: Any, other: Any) -> None:
    thread, results = in_thread(lambda: store.get_events("ses_1", type="error_occurred", wait_timeout=30))
    other.append_events(events_of("ses_1", 3))
    stored = other.append_event(an_event(type="error_occurred"))
    thread.join()
    assert results == [[stored]]


def test_waiting_in_vain_gives_nothing(store: Any) -> None:
    assert store.get_events("ses_1", wait_timeout=0.05) == []


def test_what_is_there_is_not_waited_for(store: Any) -> None:
    stored = store.append_event(an_event())
    assert store.get_events("ses_1", wait_timeout=float("inf")) == [stored]


def test_nothing_is_not_waited_for_where_nothing_is_asked_for(store: Any) -> None:
    assert store.get_events("ses_1", limit=0, wait_timeout=float("inf")) == []


def test_following_gives_what_is_there_and_what_comes(store: Any, other: Any) -> None:
    store.append_events(events_of("ses_1", 3))
    thread, results = in_thread(lambda: list(store.follow_events("ses_1", limit=6, page_size=2)))
    other.append_events(events_of("ses_1", 3))
    thread.join()
    assert numbers(results[0]) == [1, 2, 3, 4, 5, 6]


def test_following_starts_behind_a_number(store: Any) -> None:
    store.append_events(events_of("ses_1", 3))
    assert numbers(list(store.follow_events("ses_1", after=2, idle_timeout=0))) == [3]


def test_following_ends_when_nothing_came_for_so_long(store: Any) -> None:
    store.append_event(an_event())
    assert numbers(list(store.follow_events("ses_1", idle_timeout=0.05))) == [1]


def test_following_ends_where_nothing_more_can_come(store: Any) -> None:
    store.append_events(events_of("ses_1", 3))
    assert numbers(list(store.follow_events("ses_1", before=3))) == [1, 2]


def test_following_misses_nothing_and_repeats_nothing_while_many_append(store: Any, other: Any) -> None:
    thread, results = in_thread(lambda: numbers(list(store.follow_events("ses_1", limit=120, page_size=7))))
    writers = [in_thread(lambda: [other.append_event(an_event()) for _ in range(30)])[0] for _ in range(4)]
    for each in [*writers, thread]:
        each.join()
    assert results[0] == list(range(1, 121))


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", True])
def test_a_time_to_wait_is_a_number_of_seconds(store: Any, seconds: Any) -> None:
    with pytest.raises(asm.ValidationError, match="wait_timeout"):
        store.get_events("ses_1", wait_timeout=seconds)
    with pytest.raises(asm.ValidationError, match="idle_timeout"):
        store.follow_events("ses_1", idle_timeout=seconds)
