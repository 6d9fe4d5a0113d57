"""What summaries refuse before they send a query, and how they order their groups."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from asm import ValidationError
from asm.operations.summaries import get_cost_summary, get_session_stats, get_usage_summary


@pytest.mark.parametrize("session_id", ["", "a\0", "x" * 256, 3, None])
def test_session_stats_refuse_an_invalid_id(session_id: Any) -> None:
    with pytest.raises(ValidationError, match="session_id"):
        get_session_stats(session_id)


@pytest.mark.parametrize("summary", [get_usage_summary, get_cost_summary])
@pytest.mark.parametrize(
    ("filters", "complaint"),
    [
        ({"session_id": ""}, "session_id must have 1 to 255 characters"),
        ({"session_id": ["ses_1", 3]}, r"session_id\[1\] must be a string"),
        ({"agent_id": 3}, "agent_id must be a string"),
        ({"provider": "a\0"}, "provider contains a NUL"),
        ({"since": datetime(2026, 1, 1)}, "since is naive"),
        ({"until": "2026-01-01"}, "until must be a datetime"),
    ],
)
def test_an_invalid_filter_is_refused(
    summary: Callable[..., Any], filters: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        summary(**filters)


def test_groups_of_the_same_size_are_ordered_by_name() -> None:
    no_tokens = [0] * 5
    rows = [(name, None, 1, *no_tokens) for name in ("c", None, "a", "b")]

    usage = get_usage_summary().read(rows)

    assert list(usage.by_provider) == [None, "a", "b", "c"]
