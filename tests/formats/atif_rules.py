"""What Harbor's models check of a trajectory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

Document = dict[str, Any]

_OF_AGENTS = {"model_name", "reasoning_content", "reasoning_effort", "tool_calls", "metrics"}
_STEP = _OF_AGENTS | {
    "step_id",
    "timestamp",
    "source",
    "message",
    "observation",
    "is_copied_context",
    "llm_call_count",
    "extra",
}
_ROOT = {
    *("schema_version", "session_id", "trajectory_id", "agent", "steps", "notes", "final_metrics", "extra"),
    *("continued_trajectory_ref", "subagent_trajectories"),
}
_METRICS = {"prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd", "extra"}
_SOURCES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def check_trajectory(document: Document) -> None:
    assert document.keys() <= _ROOT
    assert document["schema_version"] == "ATIF-v1.7"
    assert all(isinstance(document["agent"][name], str) for name in ("name", "version"))
    assert document["steps"]
    inside = document.get("subagent_trajectories", [])
    ids = [each["trajectory_id"] for each in inside]
    assert len(ids) == len(set(ids))
    for number, step in enumerate(document["steps"], 1):
        assert step["step_id"] == number
        _check_step(step, set(ids))
    assert document["final_metrics"]["total_steps"] == len(document["steps"])
    for each in inside:
        check_trajectory(each)


def _check_step(step: Document, subagents: set[str]) -> None:
    assert step.keys() <= _STEP
    assert step["source"] in ("system", "user", "agent")
    assert step["source"] == "agent" or not step.keys() & _OF_AGENTS
    assert step.get("llm_call_count") != 0 or not step.keys() & {"metrics", "reasoning_content"}
    if "timestamp" in step:
        datetime.fromisoformat(step["timestamp"])
    if isinstance(step["message"], list):
        for part in step["message"]:
            assert part["type"] in ("text", "image")
            assert part["type"] == "text" or part["source"]["media_type"] in _SOURCES
    else:
        assert isinstance(step["message"], str)
    calls = {call["tool_call_id"] for call in step.get("tool_calls", [])}
    for call in step.get("tool_calls", []):
        assert isinstance(call["function_name"], str)
        assert isinstance(call["arguments"], dict)
    for result in results_of(step):
        assert result.get("source_call_id") in {None, *calls}
        assert all(each["trajectory_id"] in subagents for each in result.get("subagent_trajectory_ref", []))
    metrics = step.get("metrics", {})
    assert metrics.keys() <= _METRICS
    assert metrics.get("cached_tokens", 0) <= metrics.get("prompt_tokens", 0)


def results_of(step: Document) -> Iterator[Document]:
    yield from step.get("observation", {}).get("results", [])
