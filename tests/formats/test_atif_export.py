"""A session as a trajectory of ATIF, valid by Harbor's rules, with all that ATIF has a place for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import asm
from asm.formats import atif_export, import_files, session_trees
from tests.conftest import Where, an_event
from tests.contract.other_clients import ROOT
from tests.formats.atif_rules import check_trajectory, results_of
from tests.formats.samples import SAMPLES, Sample

Document = dict[str, Any]


def exported(dsn: str, session_id: str) -> Document:
    async def read() -> bytes:
        async with asm.AsyncSessionStore(dsn) as store:
            return atif_export.dump(await session_trees.read_tree(store, session_id))

    document: Document = json.loads(asyncio.run(read()))
    check_trajectory(document)
    return document


def of_events(where: Where, events: Iterable[asm.Event], **session: Any) -> Document:
    with asm.SessionStore(where.dsn) as store:
        store.save_session(asm.Session(id="ses_1", agent_id="assistant", **session))
        store.append_events(list(events))
    return exported(where.dsn, "ses_1")


def event(type: str, data: Document, **fields: Any) -> asm.Event:
    return asm.Event(type=type, session_id="ses_1", data=data, **fields)


def said(text: Any) -> asm.Event:
    return event("message_received", {"role": "assistant", "content": text})


def called(id: str, input: Any = None) -> asm.Event:
    return event("tool_call_started", {"name": "look", "input": input}, correlation_id=id)


def returned(id: str, output: Any) -> asm.Event:
    return event("tool_call_completed", {"output": output}, correlation_id=id)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_what_was_imported_is_exported_with_all_calls_results_and_tokens(
    sample: Sample, tmp_path: Path, where: Where
) -> None:
    with asm.SessionStore(where.dsn) as store:
        import_files(store, [sample.copied(tmp_path / "files")])
        sessions = store.query.search_sessions(limit=100).items
        for session in sessions:
            events = store.get_events(session.id)
            document = exported(where.dsn, session.id)
            types = Counter(each.type for each in events)
            steps = document["steps"]
            results = types["tool_call_completed"] + types["tool_call_failed"]
            assert sum(len(step.get("tool_calls", [])) for step in steps) >= types["tool_call_started"]
            assert sum(len(list(results_of(step))) for step in steps) >= results
            usages = [run.token_usage for run in store.list_runs(session.id)]
            cached = sum(each.get("cache_read_tokens", 0) for each in usages)
            prompt = sum(
                each.get("input_tokens", 0) + each.get("cache_creation_tokens", 0) for each in usages
            )
            assert document["final_metrics"].get("total_prompt_tokens", 0) == prompt + cached
            assert document["final_metrics"].get("total_cached_tokens", 0) == cached
            # A reader sums the steps.
            of_steps = [step.get("metrics", {}) for step in steps]
            assert sum(each.get("prompt_tokens", 0) for each in of_steps) == prompt + cached
            assert sum(each.get("cached_tokens", 0) for each in of_steps) == cached


def test_a_turn_is_one_step_with_its_calls_their_results_and_its_tokens(where: Where) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 90, "model": "m", "cost_usd": 0.5}
    document = of_events(
        where,
        [
            event("message_sent", {"role": "user", "content": "Look."}),
            said([{"type": "thinking", "thinking": "Where?"}, {"type": "text", "text": "I look."}]),
            called("a", {"at": 1}),
            called("b", "text"),
            event("token_usage_updated", usage),
            returned("b", "second"),
            event("tool_call_failed", {"error": "not there"}, correlation_id="a"),
            said("Done."),
        ],
        metadata={"version": "1.2"},
    )
    first, turn, last = document["steps"]
    assert (first["source"], first["message"]) == ("user", "Look.")
    assert (turn["message"], turn["reasoning_content"], turn["model_name"]) == ("I look.", "Where?", "m")
    assert turn["tool_calls"] == [
        {"tool_call_id": "a", "function_name": "look", "arguments": {"at": 1}},
        {"tool_call_id": "b", "function_name": "look", "arguments": {"input": "text"}},
    ]
    assert list(results_of(turn)) == [
        {"source_call_id": "b", "content": "second"},
        {"source_call_id": "a", "content": "not there"},
    ]
    expected = {"prompt_tokens": 100, "completion_tokens": 5, "cached_tokens": 90, "cost_usd": 0.5}
    assert turn["metrics"] == expected
    assert last["message"] == "Done."
    assert document["agent"] == {"name": "assistant", "version": "1.2"}
    assert document["final_metrics"]["total_cost_usd"] == 0.5


def test_a_call_id_that_is_used_again_is_another_call(where: Where) -> None:
    document = of_events(where, [called("a"), returned("a", "1"), called("a"), returned("a", "2")])
    assert [[each["content"] for each in results_of(step)] for step in document["steps"]] == [["1"], ["2"]]


def test_a_result_without_its_call_stays(where: Where) -> None:
    document = of_events(where, [returned("lost", "found")])
    assert [list(results_of(step)) for step in document["steps"]] == [[{"content": "found"}]]


def test_errors_are_steps_of_the_system_and_what_has_no_place_is_counted(where: Where) -> None:
    failed = event("error_occurred", {"message": "overloaded"})
    document = of_events(where, [failed, event("acme.plan_updated", {"plan": []})])
    assert [(step["source"], step["message"]) for step in document["steps"]] == [("system", "overloaded")]
    assert document["notes"] == "Events that have no place in ATIF and are left out: 1"


def test_a_session_without_messages_is_a_valid_trajectory(where: Where) -> None:
    assert len(of_events(where, [])["steps"]) == 1


def test_values_that_only_python_can_encode_are_exported(where: Where) -> None:
    document = of_events(where, [said("half \ud83d"), called("a", {"number": 10**30, "\ud83d": "\ud83d"})])
    (step,) = document["steps"]
    assert step["message"] == "half \ud83d"
    assert step["tool_calls"][0]["arguments"] == {"number": 10**30, "\ud83d": "\ud83d"}


def test_a_cost_that_has_no_sum_is_left_out(where: Where) -> None:
    costs = [1e308, 1e308, 10**400, -1, True, "1", 0.25]
    usages = (event("token_usage_updated", {"cost_usd": cost}) for cost in costs)
    document = of_events(where, [each for usage in usages for each in (said("Hi"), usage)])
    assert document["final_metrics"]["total_cost_usd"] == 0.25


def test_a_sub_agent_is_referred_to_once_by_calls_of_one_id(where: Where) -> None:
    with asm.SessionStore(where.dsn) as store:
        sub = asm.Session(
            id="ses_2", agent_id="sub", parent_session_id="ses_1", metadata={"tool_use_id": "a"}
        )
        store.save_session(sub)
    document = of_events(where, [called("a"), returned("a", "1"), called("a"), returned("a", "2")])
    references = [
        "subagent_trajectory_ref" in each for step in document["steps"] for each in results_of(step)
    ]
    assert references == [True, False]


def test_an_image_is_a_part_of_its_message(where: Where) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content = [{"type": "text", "text": "See."}, {"type": "image", "source": source}]
    document = of_events(where, [event("message_sent", {"role": "user", "content": content})])
    assert document["steps"][0]["message"] == [
        {"type": "text", "text": "See."},
        {
            "type": "image",
            "source": {"media_type": "image/png", "path": "data:image/png;base64,iVBORw0KGgo="},
        },
    ]


def test_sub_agents_are_inside_and_referred_to_by_the_calls_that_began_them(where: Where) -> None:
    with asm.SessionStore(where.dsn) as store:
        for id, parent in (("ses_2", "ses_1"), ("ses_3", "ses_2"), ("ses_4", "ses_1")):
            metadata = {"tool_use_id": "a"} if id == "ses_2" else {}
            store.save_session(
                asm.Session(id=id, agent_id="sub", parent_session_id=parent, metadata=metadata)
            )
            store.append_event(an_event(id))
    document = of_events(where, [called("a"), returned("a", "done")])
    inside = {each["trajectory_id"]: each for each in document["subagent_trajectories"]}
    assert set(inside) == {"ses_2", "ses_4"}
    assert [each["trajectory_id"] for each in inside["ses_2"]["subagent_trajectories"]] == ["ses_3"]
    (result,) = results_of(document["steps"][0])
    assert result["subagent_trajectory_ref"] == [{"trajectory_id": "ses_2", "session_id": "ses_2"}]


def test_sessions_that_began_each_other_are_exported_once(where: Where) -> None:
    with asm.SessionStore(where.dsn) as store:
        store.save_session(asm.Session(id="ses_2", agent_id="sub", parent_session_id="ses_1"))
    document = of_events(where, [said("Hi")], parent_session_id="ses_2")
    (inside,) = document["subagent_trajectories"]
    assert inside["trajectory_id"] == "ses_2"
    assert "subagent_trajectories" not in inside


def test_too_many_levels_of_sub_agents_are_refused(where: Where) -> None:
    with asm.SessionStore(where.dsn) as store:
        for number in range(1, session_trees.DEPTH_MAX + 3):
            parent = f"ses_{number - 1}" if number > 1 else None
            store.save_session(asm.Session(id=f"ses_{number}", agent_id="sub", parent_session_id=parent))
    with pytest.raises(asm.ValidationError, match="export it as JSON Lines"):
        exported(where.dsn, "ses_1")


def test_the_command_writes_a_trajectory_and_replaces_an_earlier_one(where: Where, tmp_path: Path) -> None:
    of_events(where, [said("Hi")])
    file = tmp_path / "trajectory.json"
    for _ in range(2):
        arguments = ["export", "ses_1", "--format", "atif", "--output", str(file), "--dsn", where.dsn]
        subprocess.run([sys.executable, "-m", "asm", *arguments], cwd=ROOT, check=True)
    check_trajectory(json.loads(file.read_bytes()))
