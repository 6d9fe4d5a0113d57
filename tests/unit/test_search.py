"""What a search refuses before it sends a query."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

import asm
from asm.operations import search

SEARCHES = ["search_sessions", "search_runs", "search_events"]


@pytest.mark.parametrize("operation", SEARCHES)
@pytest.mark.parametrize("limit", [0, -1, 1_001, 2**64, 1.0, "5", None, True])
def test_a_limit_is_from_1_to_1000(operation: str, limit: Any) -> None:
    with pytest.raises(asm.ValidationError, match=r"limit must be (from 1 to 1,000|a whole number), not .+"):
        getattr(search, operation)(limit=limit)


@pytest.mark.parametrize("operation", SEARCHES)
def test_a_page_of_1000_items_reads_one_row_more(operation: str) -> None:
    assert getattr(search, operation)(limit=1_000).params["limit"] == 1_001


@pytest.mark.parametrize(
    ("operation", "known"),
    [
        ("search_sessions", "created_at_asc, created_at_desc, updated_at_asc, updated_at_desc"),
        ("search_runs", "started_at_asc, started_at_desc, token_usage_desc"),
        ("search_events", "sequence_asc, timestamp_asc, timestamp_desc"),
    ],
)
@pytest.mark.parametrize("order_by", ["newest", "", None, ["created_at_asc"], "id; drop table asm_runs"])
def test_an_unknown_order_is_refused(operation: str, known: str, order_by: Any) -> None:
    with pytest.raises(asm.ValidationError, match=f"give one of {known}$"):
        getattr(search, operation)(order_by=order_by)


@pytest.mark.parametrize(
    ("operation", "filters"),
    [
        ("search_sessions", {"agent_id": [], "count_total": True}),
        ("search_sessions", {"tags": []}),
        ("search_runs", {"session_id": ["ses_1"], "status": []}),
        ("search_events", {"types": []}),
        ("count_events", {"types": []}),
    ],
)
def test_a_filter_without_values_sends_no_query(operation: str, filters: dict[str, Any]) -> None:
    with pytest.raises(StopIteration) as end:
        next(iter(getattr(search, operation)(**filters)))

    result = end.value.value
    assert result == 0 if operation == "count_events" else result.items == []


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(asm.InvalidStatus, match="use one of pending, active"):
        search.search_sessions(status=["active", "actve"])
    with pytest.raises(asm.InvalidStatus, match="use one of pending, running"):
        search.search_runs(status="active")


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(asm.InvalidEventType, match=r"message_snet.*one of session_created"):
        search.search_events(types="message_snet")


@pytest.mark.parametrize(
    ("operation", "filters"),
    [
        ("search_sessions", {"agent_id": ""}),
        ("search_sessions", {"agent_id": ["x", 7]}),
        ("search_sessions", {"provider": b"claude"}),
        ("search_sessions", {"tags": ["a\0b"]}),
        ("search_sessions", {"tags": [["prod"]]}),
        ("search_sessions", {"include_deleted": "no"}),
        ("search_sessions", {"count_total": 1}),
        ("search_sessions", {"created_after": datetime(2026, 1, 1)}),
        ("search_sessions", {"created_before": "2026-01-01"}),
        ("search_runs", {"session_id": "\ud800"}),
        ("search_runs", {"min_tokens": -1}),
        ("search_runs", {"min_tokens": 2**63}),
        ("search_runs", {"min_tokens": "5"}),
        ("search_runs", {"started_after": 5}),
        ("search_events", {"session_ids": [None]}),
        ("search_events", {"run_ids": "x" * 256}),
        ("search_events", {"since": datetime(2026, 1, 1)}),
        ("count_events", {"until": datetime(2026, 1, 1)}),
        ("count_events", {"correlation_id": 3}),
    ],
)
def test_an_invalid_filter_is_refused(operation: str, filters: dict[str, Any]) -> None:
    with pytest.raises(asm.ValidationError):
        getattr(search, operation)(**filters)


@pytest.mark.parametrize("operation", SEARCHES)
@pytest.mark.parametrize("cursor", ["", "x", "not a cursor", "AAAA", "=" * 8, "é", "x" * 10_000, 7, b"AAAA"])
def test_an_invalid_cursor_is_refused(operation: str, cursor: Any) -> None:
    with pytest.raises(asm.InvalidCursor, match="not a cursor of"):
        getattr(search, operation)(cursor=cursor)
