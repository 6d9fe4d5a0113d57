"""What is refused before a store is asked for stats, usage or cost, and what is made of its answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from asm import ValidationError
from asm.operations.summaries import get_cost_summary, get_session_stats, get_usage_summary


@pytest.mark.parametrize("session_id", ["", "a\0", "x" * 256, 3, None])
def test_stats_of_an_id_that_cannot_be_are_refused(session_id: Any) -> None:
    with pytest.raises(ValidationError, match="session_id"):
        get_session_stats(session_id)


@pytest.mark.parametrize("summary", [get_usage_summary, get_cost_summary])
@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"session_id": ""}, "session_id must have 1 to 255 characters"),
        ({"session_id": ["ses_1", 3]}, r"session_id\[1\] must be a string"),
        ({"agent_id": 3}, "agent_id must be a string"),
        ({"provider": "a\0"}, "provider contains a NUL"),
        ({"since": datetime(2026, 1, 1)}, "since is naive"),
        ({"until": "2026-01-01"}, "until must be a datetime"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(
    summary: Callable[..., Any], asked: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        summary(**asked)


def test_parts_of_one_size_stand_by_name() -> None:
    no_tokens = [0] * 10
    rows = [(name, None, 1, *no_tokens) for name in ("c", None, "a", "b")]

    usage = get_usage_summary().read(rows)

    assert list(usage.by_provider) == [None, "a", "b", "c"]
