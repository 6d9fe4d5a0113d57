"""Trajectories of ATIF as sessions, with their continuations and sub-agents."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import asm
from asm.formats import ImportReport, import_files
from asm.formats.atif import reading
from asm.formats.base import Transcript
from tests.conftest import Where
from tests.contract.other_clients import ROOT
from tests.formats.atif_rules import results_of
from tests.formats.samples import MODIFIED_AT, SAMPLES
from tests.formats.test_atif_export import exported

REAL = ROOT.parent / "shared" / "data" / "atif"
real = pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/atif next to the repository")

(SAMPLE,) = [sample for sample in SAMPLES if sample.name == "ATIF"]
SESSION = "6f0c7d52-3a18-4f6e-9b27-41d5e0a9c7b3"
SUMMARY = f"{SESSION}-summarization-1-summary"
BIRDS = f"{SESSION}/birds"

Document = dict[str, Any]


def imported(where: Where, *paths: Path) -> ImportReport:
    with asm.SessionStore(where.dsn) as store:
        report = import_files(store, paths)
    assert report.failures == []
    return report


def events_of(where: Where, session_id: str) -> list[asm.Event]:
    with asm.SessionStore(where.dsn) as store:
        return store.get_events(session_id)


def sessions_of(where: Where) -> dict[str, asm.Session]:
    with asm.SessionStore(where.dsn) as store:
        return {session.id: session for session in store.list_sessions()}


def runs_of(where: Where, session_id: str) -> list[asm.Run]:
    with asm.SessionStore(where.dsn) as store:
        return sorted(store.list_runs(session_id), key=lambda run: run.started_at)


def read(path: Path) -> dict[str, Transcript]:
    """The sessions in a file by their ids, without a store."""
    return {each.session.id: each for each in reading.read(path)}


def read_one(folder: Path, document: Document) -> Transcript:
    (found,) = read(write(folder / "trajectory.json", document)).values()
    return found


def trajectory(*steps: Document, **fields: Any) -> Document:
    document = {
        "schema_version": "ATIF-v1.7",
        "session_id": "s",
        "agent": {"name": "tester", "version": "1", "model_name": "openai/gpt-5"},
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps, 1)],
    }
    return document | fields


def asked(text: Any = "Look.", **fields: Any) -> Document:
    return {"source": "user", "message": text, **fields}


def answered(text: Any = "Done.", **fields: Any) -> Document:
    return {"source": "agent", "message": text, **fields}


def refers_to(**ref: Any) -> Document:
    return {
        "source": "system",
        "message": "",
        "observation": {"results": [{"subagent_trajectory_ref": [ref]}]},
    }


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2))
    os.utime(path, (MODIFIED_AT, MODIFIED_AT))
    return path


# What is in the store.


def test_a_continuation_is_another_run_and_sub_agents_are_sessions_of_their_own(
    where: Where, tmp_path: Path
) -> None:
    SAMPLE.copied(tmp_path)
    assert imported(where, tmp_path).sessions == 3
    sessions = sessions_of(where)
    assert {id: (each.parent_session_id, each.agent_id) for id, each in sessions.items()} == {
        SESSION: (None, "harbor-cli"),
        BIRDS: (SESSION, "looker"),
        SUMMARY: (SESSION, "harbor-cli-summary"),
    }
    assert sessions[SUMMARY].metadata["title"] == "Summary of the first part"
    assert sessions[BIRDS].metadata["source_call_id"] == "call_2"
    first, second = runs_of(where, SESSION)
    # 1,000 prompt tokens, of which 600 were read from the cache and 300 written into it.
    assert first.token_usage == {
        "input_tokens": 100,
        "output_tokens": 80,
        "cache_read_tokens": 600,
        "cache_creation_tokens": 300,
    }
    assert second.token_usage == {"input_tokens": 850, "output_tokens": 30}
    assert (first.cost_usd, second.cost_usd) == (0.004, 0.003)
    assert (first.turn_count, second.turn_count) == (1, 2)
    assert (second.input, second.output) == (
        "Go on from the summary: a heron, 12 times.",
        "A heron; the list has 12.",
    )


def test_a_step_is_a_message_its_calls_their_results_and_its_tokens(tmp_path: Path) -> None:
    found = read(SAMPLE.copied(tmp_path))[SESSION].events
    events = [event for event in found if event.metadata.get("step") == 3][:6]
    assert [(event.type, event.correlation_id, event.data) for event in events] == [
        (
            "message_received",
            None,
            {
                "role": "assistant",
                "content": "I look at the list, and let another agent look at the picture.",
                "thinking": "Two things to do.",
            },
        ),
        ("tool_call_started", "call_1", {"name": "bash", "input": {"command": "grep -c heron birds.csv"}}),
        ("tool_call_started", "call_2", {"name": "task", "input": {"prompt": "Name the bird."}}),
        ("tool_call_completed", "call_2", {"output": "A heron.", "session_id": BIRDS}),
        ("tool_call_completed", "call_1", {"output": "12\n"}),
        (
            "token_usage_updated",
            None,
            {
                "input_tokens": 100,
                "output_tokens": 80,
                "cache_read_tokens": 600,
                "cache_creation_tokens": 300,
                "model": "anthropic/claude-opus-4-5",
                "cost_usd": 0.004,
            },
        ),
    ]
    assert events[0].metadata["rest"] == {
        "model_name": "anthropic/claude-opus-4-5",
        "reasoning_effort": "high",
        "llm_call_count": 1,
    }
    assert events[4].metadata["rest"] == {"extra": {"exit_code": 0}}


def test_copied_steps_are_marked_and_have_no_usage(tmp_path: Path) -> None:
    found = read(SAMPLE.copied(tmp_path))[SESSION].events
    copied = [event.type for event in found if event.metadata.get("copied")]
    assert copied == ["message_sent", "message_received", "tool_call_started", "tool_call_completed"]


def test_a_result_of_no_call_is_a_message_of_a_tool(tmp_path: Path) -> None:
    found = read(SAMPLE.copied(tmp_path))[SESSION].events
    said = [event.data["content"] for event in found if event.data.get("role") == "tool"]
    assert said == ["root@container:/# echo 12 > answer.txt\n"]


def test_what_has_no_place_is_kept(tmp_path: Path) -> None:
    found = read(SAMPLE.copied(tmp_path))[SESSION]
    first, _ = found.runs
    assert first.metadata["future_field"] == {"kept": True}
    assert first.metadata["agent"]["extra"] == {"temperature": 0.2}
    assert first.metadata["final_metrics"]["total_prompt_tokens"] == 1000
    kept = [event.metadata.get("rest", {}) for event in found.events]
    assert any(rest.get("prompt_token_ids") == [1, 2, 3] for rest in kept)


@pytest.mark.parametrize("minor", range(9))
def test_every_minor_version_is_read(minor: int, tmp_path: Path) -> None:
    found = read_one(tmp_path, trajectory(asked(), answered(), schema_version=f"ATIF-v1.{minor}"))
    assert len(found.events) == 3


def test_an_image_in_its_address_is_a_block_with_its_bytes(tmp_path: Path) -> None:
    images = ["data:image/png;base64,iVBORw0KGgo=", "images/bird.png"]
    parts = [{"type": "image", "source": {"media_type": "image/png", "path": path}} for path in images]
    _, event = read_one(tmp_path, trajectory(asked(parts))).events
    assert event.data["content"] == [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
        },
        {**parts[1], "filename": "images/bird.png"},
    ]


def test_without_times_the_file_has_the_time(tmp_path: Path) -> None:
    found = read_one(tmp_path, trajectory(asked(), answered())).events
    assert {event.timestamp.timestamp() for event in found} == {MODIFIED_AT}


def test_the_parts_of_a_session_without_times_are_listed_in_their_order(where: Where, tmp_path: Path) -> None:
    names = [f"trajectory.cont-{number}.json" for number in range(1, 9)]
    for number, (name, following) in enumerate(pairwise(["trajectory.json", *names, None])):
        ref = {} if following is None else {"continued_trajectory_ref": following}
        write(tmp_path / str(name), trajectory(asked(f"part {number}"), answered(), **ref))
    imported(where, tmp_path)
    with asm.SessionStore(where.dsn) as store:
        assert [run.input for run in store.list_runs("s")] == [f"part {number}" for number in range(9)]


def test_a_trajectory_that_names_itself_as_its_parent_has_none(tmp_path: Path) -> None:
    agent = {"name": "a", "version": "1", "extra": {"parent_session_id": "s"}}
    session = read_one(tmp_path, trajectory(answered(), agent=agent)).session
    assert (session.parent_session_id, session.tags) == (None, ())


@pytest.mark.parametrize(
    ("metrics", "expected", "cost_usd"),
    [
        ({}, {"input_tokens": 70, "output_tokens": 7, "cache_read_tokens": 30}, 0.5),
        ({"prompt_tokens": 10, "completion_tokens": 1}, {"input_tokens": 10, "output_tokens": 1}, 0.5),
        ({"prompt_tokens": 10, "cost_usd": 0.1}, {"input_tokens": 10}, 0.1),
        ({"prompt_tokens": 10, "cached_tokens": 20}, {"cache_read_tokens": 20}, 0.5),
    ],
)
def test_the_numbers_of_the_whole_count_where_its_steps_have_none(
    metrics: Document, expected: Document, cost_usd: float, tmp_path: Path
) -> None:
    total = {
        "total_prompt_tokens": 100,
        "total_completion_tokens": 7,
        "total_cached_tokens": 30,
        "total_cost_usd": 0.5,
    }
    document = trajectory(asked(), answered(metrics=metrics), final_metrics=total)
    (run,) = read_one(tmp_path, document).runs
    assert (run.token_usage, run.cost_usd) == (expected, cost_usd)


def test_the_whole_of_a_continuation_includes_what_it_continues(tmp_path: Path) -> None:
    totals = [{"total_prompt_tokens": number, "total_cost_usd": number / 100} for number in (100, 150)]
    first = trajectory(answered("1"), final_metrics=totals[0], continued_trajectory_ref="next.json")
    write(tmp_path / "next.json", trajectory(answered("2"), final_metrics=totals[1], session_id="s-cont-1"))
    runs = read_one(tmp_path, first).runs
    assert [run.token_usage for run in runs] == [{"input_tokens": 100}, {"input_tokens": 50}]
    assert [run.cost_usd for run in runs] == [1.0, 0.5]


def test_the_rewards_and_the_exception_of_the_trial_come_with_the_trajectory(
    where: Where, tmp_path: Path
) -> None:
    path = write(tmp_path / "trial" / "agent" / "trajectory.json", trajectory(asked(), answered()))
    imported(where, path)
    exception = {"exception_type": "AgentTimeoutError", "exception_message": "after 900 s"}
    result = {"verifier_result": {"rewards": {"reward": 1.0}}, "exception_info": exception}
    write(tmp_path / "trial" / "result.json", result)

    assert imported(where, path).events == 2
    (run,) = runs_of(where, "s")
    assert run.metadata["rewards"] == {"reward": 1.0}
    assert (run.status, run.error) == ("failed", {"code": "AgentTimeoutError", "message": "after 900 s"})
    assert events_of(where, "s")[-2].data == {"rewards": {"reward": 1.0}}


def test_a_trajectory_that_has_grown_adds_its_new_steps(where: Where, tmp_path: Path) -> None:
    path = tmp_path / "trajectory.json"
    every = [
        asked(),
        answered("1", metrics={"prompt_tokens": 1}),
        answered("2", metrics={"prompt_tokens": 2}),
    ]
    for count in (2, 3):
        imported(where, write(path, trajectory(*every[:count])))
    (run,) = runs_of(where, "s")
    assert run.token_usage == {"input_tokens": 3}
    assert [event.data.get("content") for event in events_of(where, "s") if "content" in event.data] == [
        "Look.",
        "1",
        "2",
    ]


# Files that belong together.


def test_a_file_that_is_referred_to_is_read_with_its_referrer_and_alone_if_it_is_named(
    where: Where, tmp_path: Path
) -> None:
    path = SAMPLE.copied(tmp_path)
    beside = path.with_suffix("")
    assert imported(where, *sorted(beside.iterdir())).sessions == 2
    alone = sessions_of(where)
    assert alone.keys() == {SESSION, SUMMARY}
    assert (alone[SUMMARY].parent_session_id, alone[SUMMARY].tags) == (SESSION, ("subagent",))

    imported(where, tmp_path)
    assert sessions_of(where).keys() == {SESSION, SUMMARY, BIRDS}
    steps = Counter(event.type for event in events_of(where, SESSION))
    assert steps["tool_call_started"] == 4
    assert imported(where, tmp_path).sessions == 0


def test_a_changed_part_is_read_again_with_the_first_file(where: Where, tmp_path: Path) -> None:
    path = SAMPLE.copied(tmp_path)
    imported(where, path)
    following = path.with_suffix("") / "trajectory.cont-1.json"
    document = json.loads(following.read_bytes())
    document["steps"].append(asked("And now?"))
    write(following, document)
    assert imported(where, tmp_path).events == 1


def test_files_that_refer_to_one_another_are_read_once(where: Where, tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        document = trajectory(answered(name), continued_trajectory_ref=f"{other}.json", session_id=name)
        write(tmp_path / f"{name}.json", document)
    assert imported(where, tmp_path).sessions == 1
    assert {run.output for run in runs_of(where, "a")} == {"a", "b"}


@pytest.mark.parametrize("name", ["../secret.json", "{0}/secret.json", "link.json", "a/b/secret.json", "\0"])
def test_a_reference_does_not_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.json", trajectory(asked("secret"), session_id="secret"))
    folder = tmp_path / "files"
    write(folder / "a" / "b" / "secret.json", trajectory(asked("secret"), session_id="secret"))
    (folder / "link.json").symlink_to(secret)
    ref = refers_to(trajectory_path=name.format(tmp_path))
    assert read_one(folder, trajectory(ref)).session.id == "s"


def test_sub_agents_with_the_session_of_the_first_agent_are_sessions_of_their_own(
    tmp_path: Path,
) -> None:
    inner = trajectory(answered(), trajectory_id="x")
    inside = [trajectory(answered(), trajectory_id=name, subagent_trajectories=[inner]) for name in "ab"]
    path = write(tmp_path / "trajectory.json", trajectory(subagent_trajectories=inside))
    assert read(path).keys() == {"s", "s/a", "s/b", "s/a/x", "s/b/x"}


def test_a_part_that_cannot_be_read_is_named_and_the_others_are_stored(where: Where, tmp_path: Path) -> None:
    path = SAMPLE.copied(tmp_path)
    following = path.with_suffix("") / "trajectory.cont-1.json"
    following.write_text(following.read_text()[:-9])
    with asm.SessionStore(where.dsn) as store:
        (failure,) = import_files(store, [tmp_path]).failures
    assert str(failure).startswith(f"{path}: trajectory.cont-1.json: not JSON")
    assert sessions_of(where).keys() == {SESSION, SUMMARY, BIRDS}


def test_more_levels_of_sub_agents_than_the_maximum_are_refused_by_name(tmp_path: Path) -> None:
    document = trajectory(answered())
    for _ in range(reading.DEPTH_MAX + 1):
        document = trajectory(answered(), subagent_trajectories=[document])
    path = write(tmp_path / "trajectory.json", document)
    with pytest.raises(asm.ValidationError, match="it has more than 8 levels of sub-agents"):
        read(path)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (trajectory(schema_version="ATIF-v2.0"), "`schema_version` begins with ATIF-v1"),
        (trajectory(steps={}), "steps must be a list, not dict"),
        (trajectory(steps=[None]), r"steps\[0\] must be an object, not NoneType"),
    ],
)
def test_what_is_no_trajectory_is_refused(document: Document, message: str, tmp_path: Path) -> None:
    with pytest.raises(asm.ValidationError, match=message):
        read(write(tmp_path / "trajectory.json", document))


# Real files.


@real
def test_real_files_come_in_with_their_figures(where: Where, tmp_path: Path) -> None:
    folder = tmp_path / "atif"
    shutil.copytree(REAL, folder)
    # Harbor's tests gave both the same session.
    other = folder / "invalid-json.json"
    other.write_text(other.read_text().replace("NORMALIZED_SESSION_ID", "invalid-json"))
    report = imported(where, folder)
    assert report.sessions == 6
    sums = {
        id: [sum(run.token_usage.get(f"{name}_tokens", 0) for run in runs_of(where, id)) for name in names]
        for id in sessions_of(where)
        for names in [("input", "output")]
    }
    start = "test-session-context-summarization-summarization-1"
    assert sums == {
        # 7,802 in the file's sum, which includes the three summaries.
        "NORMALIZED_SESSION_ID": [6_502, 690],
        f"{start}-summary": [500, 200],
        f"{start}-questions": [100, 20],
        f"{start}-answers": [700, 120],
        "invalid-json": [2_417, 200],
        "login-trace": [0, 0],
    }
    assert report.events == sum(len(events_of(where, id)) for id in sums) == 104
    assert imported(where, folder).events == 0


# Out again.


def _comparable(document: Document) -> list[Any]:
    """The steps of a trajectory, without what an export does not keep: docs/formats/atif.md lists it."""
    found = []
    for step in document["steps"]:
        results = [
            {name: each[name] for name in ("source_call_id", "content") if name in each}
            for each in results_of(step)
        ]
        metrics = {
            name: value
            for name, value in step.get("metrics", {}).items()
            if name in ("prompt_tokens", "completion_tokens", "cost_usd")
        }
        calls = step.get("tool_calls", [])
        names = ("step_id", "source", "message", "reasoning_content", "model_name", "is_copied_context")
        found.append([*(step.get(name) for name in names), step.get("extra"), calls, results, metrics])
    return found


@pytest.mark.parametrize("name", ["login-trace.json", "summarization/trajectory.json"])
@real
def test_a_real_trajectory_that_was_imported_is_exported_as_it_was(
    name: str, where: Where, tmp_path: Path
) -> None:
    shutil.copytree(REAL, tmp_path / "atif")
    path = tmp_path / "atif" / name
    imported(where, path)
    before = json.loads(path.read_bytes())
    assert _comparable(exported(where.dsn, before["session_id"])) == _comparable(before)


def test_what_was_exported_is_imported_with_the_same_messages_calls_and_tokens(
    where: Where, tmp_path: Path
) -> None:
    imported(where, SAMPLE.copied(tmp_path))
    document = exported(where.dsn, SESSION)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    with asm.SessionStore(other, migrate=True) as store:
        assert import_files(store, [write(tmp_path / "exported.json", document)]).failures == []
    again = exported(other, SESSION)
    assert again == document
