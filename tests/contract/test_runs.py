"""What a store promises about runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import asm

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def started_at(minute: int, session_id: str = "ses_1", **fields: Any) -> asm.Run:
    return asm.Run(session_id=session_id, started_at=NOON + timedelta(minutes=minute), **fields)


def test_a_saved_run_is_read_back_equal(store: Any) -> None:
    run = asm.Run(
        session_id="ses_1",
        status="completed",
        input={"prompt": "go"},
        output=["a", 1],
        error="none \u0000",
        metadata={"n": 2**70},
        turn_count=2**40,
        token_usage={"input_tokens": 2**39, "output_tokens": 7, "reasoning": "x"},
        started_at=NOON,
        ended_at=NOON + timedelta(seconds=1),
        provider="claude",
        provider_metadata={"model": "claude-x", "region": "eu"},
        cost_usd=0.123456789,
    )
    store.save_run(run)
    assert store.get_run(run.id) == run


def test_a_run_without_documents_is_read_back_equal(store: Any) -> None:
    run = asm.Run(session_id="ses_1")
    store.save_run(run)
    assert store.get_run(run.id) == run


@pytest.mark.parametrize("value", [0, "", [], {}, False, "text", [None]])
def test_input_output_and_error_may_be_any_json_value(store: Any, value: Any) -> None:
    run = asm.Run(session_id="ses_1", input=value).set_output(value).set_error(value)
    store.save_run(run)
    kept = store.get_run(run.id)
    assert (kept.input, kept.output, kept.error) == (value, value, value)


def test_saving_again_replaces_everything_but_the_ids(store: Any) -> None:
    run = asm.Run(
        session_id="ses_1",
        input="a",
        output="a",
        metadata={"a": 1},
        token_usage={"input_tokens": 1},
        ended_at=NOON,
        provider="x",
        provider_metadata={"model": "a"},
        cost_usd=1.0,
    )
    store.save_run(run)
    changed = asm.Run(
        id=run.id, session_id="ses_1", status="failed", error="b", turn_count=3, started_at=NOON
    )
    store.save_run(changed)
    assert (store.get_run(run.id), len(store.list_runs("ses_1"))) == (changed, 1)


def test_an_unknown_run_raises_run_not_found(store: Any) -> None:
    store.save_run(asm.Run(session_id="ses_1"))
    with pytest.raises(asm.RunNotFound, match="run_missing"):
        store.get_run("run_missing")


def test_a_run_of_another_session_raises_run_not_found(store: Any) -> None:
    run = asm.Run(session_id="ses_1")
    store.save_run(run)
    with pytest.raises(asm.RunNotFound, match="in session 'ses_2'"):
        store.get_run(run.id, session_id="ses_2")


def test_the_same_run_id_in_two_sessions_is_two_runs(store: Any) -> None:
    for session_id in ("a", "b"):
        store.save_run(asm.Run(id="run_1", session_id=session_id, input=session_id))
    assert [store.get_run("run_1", session_id=each).input for each in ("a", "b")] == ["a", "b"]


def test_get_run_returns_the_run_of_an_id_that_started_last(store: Any) -> None:
    for minute, session_id in ((0, "a"), (2, "b"), (1, "c")):
        store.save_run(started_at(minute, session_id, id="run_1"))
    assert store.get_run("run_1").session_id == "b"


def test_runs_started_at_the_same_time_are_ordered_by_id(store: Any) -> None:
    for name in ("b", "c", "a"):
        store.save_run(started_at(0, id=name, status="running"))
        store.save_run(started_at(0, name, id="run_1"))

    assert [run.id for run in store.list_runs("ses_1")] == ["a", "b", "c"]
    assert (store.get_active_run("ses_1").id, store.get_run("run_1").session_id) == ("c", "a")


def test_runs_are_listed_oldest_first(store: Any) -> None:
    runs = [started_at(minute) for minute in (2, 0, 1)]
    for run in [*runs, started_at(0, "another")]:
        store.save_run(run)
    assert store.list_runs("ses_1") == [runs[1], runs[2], runs[0]]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"status": "running"}, ["a", "c"]),
        ({"status": [asm.RunStatus.RUNNING, "timeout"]}, ["a", "b", "c"]),
        ({"status": ()}, []),
        ({"limit": 2}, ["a", "b"]),
        ({"limit": 0}, []),
        ({"status": "running", "limit": 1}, ["a"]),
    ],
)
def test_listing_filters(store: Any, filters: dict[str, Any], expected: list[str]) -> None:
    for minute, (name, status) in enumerate([("a", "running"), ("b", "timeout"), ("c", "running")]):
        store.save_run(started_at(minute, id=name, status=status))
    assert [run.id for run in store.list_runs("ses_1", **filters)] == expected


def test_the_active_run_is_the_newest_that_is_running(store: Any) -> None:
    for minute, status in ((0, "running"), (2, "running"), (3, "completed"), (1, "running")):
        store.save_run(started_at(minute, id=f"{minute}", status=status))
    assert store.get_active_run("ses_1").id == "2"


def test_without_a_running_run_none_is_active(store: Any) -> None:
    store.save_run(started_at(0, status="completed"))
    assert store.get_active_run("ses_1") is None


def test_token_counts_beyond_32_bits_are_summed_and_kept(store: Any) -> None:
    run = (
        asm.Run(session_id="ses_1")
        .update_token_usage({"input_tokens": 2**39})
        .update_token_usage({"input_tokens": 2})
    )
    store.save_run(run)
    assert store.get_run(run.id).token_usage == {"input_tokens": 2**39 + 2}


@pytest.mark.parametrize("model", ["a\0b", "\ud800", 7, None, "x" * 300])
def test_a_run_whose_model_name_is_invalid_as_a_column_is_saved(store: Any, model: Any) -> None:
    run = asm.Run(session_id="ses_1", provider_metadata={"model": model})
    store.save_run(run)
    assert store.get_run(run.id) == run


def test_only_runs_can_be_saved_as_runs(store: Any) -> None:
    with pytest.raises(asm.ValidationError, match="takes a Run, not Session"):
        store.save_run(asm.Session(agent_id="a"))
