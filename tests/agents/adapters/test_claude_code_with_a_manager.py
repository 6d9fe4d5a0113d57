"""Managers that run ClaudeCode, with the real SDK and a program that speaks to it as Claude Code does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import asm
from tests.agents.conftest import types
from tests.fault.concurrent_writers import wait_until

pytest.importorskip(
    "claude_agent_sdk",
    reason="claude-agent-sdk is not installed here: `make test-frameworks` runs these tests",
)

from tests.agents.adapters.test_claude_code import (
    CALLS,
    INIT,
    MODEL,
    WORK,
    Program,
    ended,
    message,
    program,
    said,
    spent,
)

__all__ = ["program"]

CALLED = WORK[: [line["type"] for line in WORK].index("user")]
"""What Claude Code says until it runs the tools that it has called."""


def test_a_run_stores_the_calls_of_claude_codes_own_tools_their_results_and_what_it_cost(
    store: Any, session_id: str, manager: Any, program: Program
) -> None:
    program.says(*WORK)

    result = manager.run(session_id, program.adapter(), "How many files?")

    run = store.get_run(result.run.id)
    assert (run.status, run.provider, run.turn_count) == ("completed", "claude-code", 1)
    assert (result.text, result.stop_reason) == ("Let me look.\n\n42 files.", "end_turn")
    assert run.token_usage == {
        "input_tokens": 12,
        "output_tokens": 25,
        "cache_read_tokens": 4_000,
        "cache_creation_tokens": 300,
    }
    assert (run.cost_usd, run.provider_metadata["model"]) == (0.25, MODEL)
    events = store.get_events(session_id, run_id=run.id)
    assert events == list(result.events)
    assert types(events) == [
        *("run_started", "message_sent", "message_received"),
        *("tool_call_started", "tool_call_started", "tool_call_completed", "tool_call_failed"),
        *("message_received", "token_usage_updated", "turn_completed", "run_completed"),
    ]
    calls = {
        (event.type, event.correlation_id): event.data for event in events if event.type.startswith("tool_")
    }
    assert calls == {
        ("tool_call_started", "toolu_1"): {"name": "Bash", "input": {"command": "ls | wc -l"}},
        ("tool_call_started", "toolu_2"): {"name": "Read", "input": {"file_path": "/none"}},
        ("tool_call_completed", "toolu_1"): {"output": "42"},
        ("tool_call_failed", "toolu_2"): {"error": "no such file"},
    }
    assert not program.is_running
    assert store.maintenance.health_check() == []


def test_the_second_run_of_a_session_resumes_that_of_claude_code(
    store: Any, session_id: str, manager: Any, program: Program
) -> None:
    program.says(*WORK)
    first = manager.run(session_id, program.adapter(), "How many files?")
    own = {"session_id": "5f0c", "run_id": first.run.id}
    assert store.get_session(session_id).metadata["providers"] == {"claude-code": own}
    # Claude Code counts the tokens of the whole session, also of earlier queries.
    whole = ended(modelUsage={MODEL: spent(0.75, inputTokens=36)}, total_cost_usd=0.75)
    program.says(INIT, *message("msg_3", said("Two."), stop_reason="end_turn"), whole)

    second = manager.run(session_id, program.adapter(), "How many folders?")

    assert program.argument("--resume") == "5f0c"
    assert program.prompt == [said("How many folders?")]
    assert second.text == "Two."
    assert (second.run.token_usage["input_tokens"], second.run.cost_usd) == (12, None)
    own = {"session_id": "5f0c", "run_id": second.run.id}
    assert store.get_session(session_id).metadata["providers"] == {"claude-code": own}


def test_a_run_that_is_cancelled_while_claude_code_works_ends_the_program_and_keeps_its_calls(
    store: Any,
    session_id: str,
    manager: Any,
    program: Program,
    opened: Callable[..., Any],
    migrated: str,
    in_background: Callable[..., Future[Any]],
) -> None:
    program.says(*CALLED)
    running = in_background(manager.run, session_id, program.adapter(), "How many files?", run_id="run_1")
    # Another program sees the calls while Claude Code goes on.
    other = opened(migrated)
    wait_until(lambda: len(other.get_events(session_id, type="tool_call_started")) == len(CALLS))

    manager.cancel("run_1")

    assert isinstance(running.exception(60), asm.RunCancelled)
    assert program.requests == ["initialize", "interrupt"]
    assert not program.is_running
    assert store.get_run("run_1").status == "cancelled"
    assert types(store.get_events(session_id))[-1] == "run_cancelled"
    assert store.maintenance.health_check() == []


def test_a_program_that_is_killed_fails_the_run_and_keeps_its_calls(
    store: Any, session_id: str, manager: Any, program: Program
) -> None:
    program.says(*CALLED, exit_code=-9)

    with pytest.raises(asm.ProviderError, match="exit code -9"):
        manager.run(session_id, program.adapter(), "How many files?", run_id="run_1")

    assert store.get_run("run_1").status == "failed"
    ended = types(store.get_events(session_id))
    assert (ended.count("tool_call_started"), ended[-2:]) == (2, ["error_occurred", "run_failed"])
    assert manager.transcript(session_id).messages[-1]["content"] == "interrupted"
