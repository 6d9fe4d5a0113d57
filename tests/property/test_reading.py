"""Filters return what filtering in Python returns, and pages add up to all events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asm
from tests.conftest import an_event

START = datetime(2025, 1, 1, tzinfo=UTC)
TYPES = ["message_sent", "tool_call_started", "acme.plan_updated"]
RUNS = ["run_1", "run_2"]
NUMBER = 60
LARGEST = 2**63 - 1


@pytest.fixture
def stored(store: Any) -> list[asm.Event]:
    """The events of session `ses_1`. Session `ses_2` has the same events."""
    for session_id in ("ses_1", "ses_2"):
        store.append_events(_event(session_id, n) for n in range(NUMBER))
    events: list[asm.Event] = store.get_events("ses_1")
    return events


def _event(session_id: str, n: int) -> asm.Event:
    # Times repeat and do not follow the sequence numbers, and some events have no run.
    return an_event(
        session_id,
        TYPES[n * n % 3],
        id=f"evt_{n}",
        run_id=[*RUNS, None][n * 7 % 5 % 3],
        timestamp=START + timedelta(microseconds=n * 37 % 20),
    )


def filters() -> st.SearchStrategy[dict[str, Any]]:
    numbers = st.one_of(st.integers(0, NUMBER + 2), st.just(LARGEST))
    given = {
        "run_id": st.sampled_from([*RUNS, "run_3"]),
        "type": st.one_of(st.sampled_from(TYPES), st.lists(st.sampled_from([*TYPES, "run_started"]))),
        "since": st.integers(-1, 21).map(lambda later: START + timedelta(microseconds=later)),
        "after": numbers,
        "before": numbers,
        "limit": numbers,
    }
    return st.fixed_dictionaries({}, optional=given)


def _filtered(events: list[asm.Event], given_filters: dict[str, Any]) -> list[asm.Event]:
    found = [event for event in events if _matches(event, **given_filters)]
    return found[: given_filters.get("limit")]


def _matches(
    event: asm.Event,
    *,
    run_id: str | None = None,
    type: str | list[str] | None = None,
    since: datetime | None = None,
    after: int = 0,
    before: int = LARGEST,
    limit: int | None = None,
) -> bool:
    types = [type] if isinstance(type, str) else type
    return (
        (run_id is None or event.run_id == run_id)
        and (types is None or event.type in types)
        and (since is None or event.timestamp >= since)
        and after < (event.sequence_number or 0) < before
    )


def test_filters_return_the_same_events_as_filtering_in_python(store: Any, stored: list[asm.Event]) -> None:
    @settings(max_examples=60)
    @given(filters())
    def check(given_filters: dict[str, Any]) -> None:
        assert store.get_events("ses_1", **given_filters) == _filtered(stored, given_filters)

    check()


def test_pages_of_any_size_add_up_to_the_whole(store: Any, stored: list[asm.Event]) -> None:
    @settings(max_examples=60)
    @given(filters(), st.integers(1, NUMBER + 5))
    def check(given_filters: dict[str, Any], page_size: int) -> None:
        pages = store.iter_events("ses_1", page_size=page_size, **given_filters)

        assert list(pages) == _filtered(stored, given_filters)

    check()
