"""Sub-agents in Claude Code's logs as child sessions, in the three layouts that they have had."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest

from asm.formats import import_files
from asm.formats.claude_code.agents import CALLS_MAX
from tests.formats.claude_logs import SAMPLE, SESSION, Record, Told, Writer, read, write
from tests.formats.samples import SAMPLES
from tests.formats.test_properties import a_store

AGENT = "a7c41e9"
CHILD = f"{SESSION}/agent-{AGENT}"


def agent_records(**common: str) -> list[Record]:
    writer = Writer(isSidechain=True, **common)
    return [
        writer.user("Find the callers."),
        writer.calls("toolu_11", "msg_11", name="Grep"),
        writer.result("toolu_11"),
        writer.says("Nobody calls it.", "msg_12", 7),
    ]


def assert_is_the_agent(told: Told, id: str) -> None:
    session, run = told.session, told.run
    assert (session.id, session.parent_session_id, session.tags) == (id, SESSION, ("subagent",))
    assert (run.input, run.output, run.status) == ("Find the callers.", "Nobody calls it.", "completed")
    assert (run.turn_count, run.token_usage["output_tokens"]) == (2, 8)
    assert {event.session_id for event in told.events} == {id}


@pytest.mark.parametrize(
    "path",
    [
        f"agent-{AGENT}.jsonl",
        f"{SESSION}/subagents/agent-{AGENT}.jsonl",
        f"{SESSION}/subagents/workflows/wf_1/agent-{AGENT}.jsonl",
    ],
)
@pytest.mark.parametrize("has_ids", [True, False])
def test_a_sub_agent_with_a_log_of_its_own_is_a_child_session(
    tmp_path: Path, path: str, has_ids: bool
) -> None:
    common = {"agentId": AGENT} if has_ids else {}
    (told,) = read(write(tmp_path / path, agent_records(**common))).values()
    assert_is_the_agent(told, CHILD)
    assert told.session.metadata.get("workflow") == ("wf_1" if "workflows" in path else None)


def test_a_sub_agent_has_the_title_and_the_kind_of_the_file_beside_its_log(tmp_path: Path) -> None:
    file = write(tmp_path / SESSION / "subagents" / f"agent-{AGENT}.jsonl", agent_records())
    meta = {"agentType": "Explore", "description": "Look for callers", "toolUseId": "toolu_1"}
    file.with_suffix(".meta.json").write_text(json.dumps(meta))
    metadata = read(file)[CHILD].session.metadata
    assert (metadata["title"], metadata["agent_type"]) == ("Look for callers", "Explore")
    assert metadata["agent"] == meta


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"description": 5}', b"\xff" * 100_000])
def test_a_file_beside_the_log_that_cannot_be_read_does_no_harm(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path / SESSION / "subagents" / f"agent-{AGENT}.jsonl", agent_records())
    file.with_suffix(".meta.json").write_bytes(content)
    assert_is_the_agent(read(file)[CHILD], CHILD)


def test_the_result_of_the_call_names_the_session_of_the_sub_agent() -> None:
    told = read(SAMPLE)[SESSION]
    call = next(event for event in told.of("tool_call_started") if event.data["name"] == "Task")
    results = {event.correlation_id: event.data for event in told.of("tool_call_completed")}
    assert results[call.correlation_id]["session_id"] == CHILD
    assert [data for data in results.values() if "session_id" in data] == [results[call.correlation_id]]
    (child,) = read(SAMPLE.parent / SESSION / "subagents" / f"agent-{AGENT}.jsonl").values()
    assert (child.session.id, child.session.parent_session_id) == (CHILD, SESSION)


def test_a_sub_agent_of_a_sub_agent_is_named_by_the_same_session(tmp_path: Path) -> None:
    writer = Writer(isSidechain=True, agentId=AGENT)
    records = [
        writer.user("Find the callers."),
        writer.calls("toolu_1", name="Agent", prompt="Look in src."),
        writer.result("toolu_1", toolUseResult={"agentId": "b2"}),
    ]
    told = read(write(tmp_path / SESSION / "subagents" / f"agent-{AGENT}.jsonl", records))[CHILD]
    assert told.data("tool_call_completed")[0]["session_id"] == f"{SESSION}/agent-b2"


def test_a_warm_up_is_a_child_session_like_others(tmp_path: Path) -> None:
    records = [Writer(isSidechain=True, agentId=AGENT).user("Warmup")]
    (told,) = read(write(tmp_path / f"agent-{AGENT}.jsonl", records)).values()
    assert (told.session.id, told.run.status) == (CHILD, "cancelled")


# Up to 1.0 sub-agents are in the log of the session that begins them.


@pytest.mark.parametrize("is_parallel", [False, True])
def test_sub_agents_inside_a_log_are_child_sessions_that_their_calls_name(
    tmp_path: Path, is_parallel: bool
) -> None:
    main = Writer()
    prompt = main.user("Ask two agents")
    calls = [
        main.calls(f"toolu_{name}", name="Task", prompt=f"Find {name}.", description=f"Look for {name}")
        for name in "ab"
    ]
    sides = [side_records(name) for name in "ab"]
    # Both work at the same time, or one after the other.
    pairs = [record for pair in zip(*sides, strict=True) for record in pair]
    results = [main.result(f"toolu_{name}", f"{name} is found.") for name in "ba"]
    records = [prompt, *calls, *(pairs if is_parallel else sides[0] + sides[1]), *results]
    told = read(write(tmp_path / f"{SESSION}.jsonl", records))

    children = {
        name: told[f"{SESSION}/agent-{side[0]['uuid']}"] for name, side in zip("ab", sides, strict=True)
    }
    for name, child in children.items():
        assert (child.run.input, child.run.output) == (f"Find {name}.", f"{name} is here.")
        assert child.session.parent_session_id == SESSION
        assert child.session.tags == ("subagent",)
        assert child.session.metadata["title"] == f"Look for {name}"
        assert child.session.metadata["tool_use_id"] == f"toolu_{name}"
        assert child.run.turn_count == 2
    links = {
        event.correlation_id: event.data["session_id"] for event in told[SESSION].of("tool_call_completed")
    }
    assert links == {f"toolu_{name}": child.session.id for name, child in children.items()}
    # The sub-agents' tokens are their own.
    assert (told[SESSION].run.input, told[SESSION].run.turn_count) == ("Ask two agents", 1)


def side_records(name: str) -> list[Record]:
    writer = Writer(isSidechain=True)
    return [
        writer.user(f"Find {name}."),
        writer.calls(f"toolu_in_{name}", f"msg_{name}_1", name="Grep"),
        writer.result(f"toolu_in_{name}"),
        writer.says(f"{name} is here.", f"msg_{name}_2"),
    ]


@pytest.mark.parametrize("is_parallel", [False, True])
def test_two_sub_agents_with_the_same_prompt_belong_to_two_calls(tmp_path: Path, is_parallel: bool) -> None:
    main = Writer()
    prompt = main.user("Ask")
    calls = [[main.calls(f"toolu_{number}", name="Task", prompt="Find a.")] for number in (1, 2)]
    results = [[main.result(f"toolu_{number}")] for number in (1, 2)]
    sides = [side_records("a"), side_records("a")]
    parts = (
        [*calls, *sides, *results]
        if is_parallel
        else [calls[0], sides[0], results[0], calls[1], sides[1], results[1]]
    )
    told = read(write(tmp_path / f"{SESSION}.jsonl", [prompt, *chain.from_iterable(parts)]))
    links = [event.data["session_id"] for event in told[SESSION].of("tool_call_completed")]
    assert sorted(links) == sorted(id for id in told if id != SESSION)


@pytest.mark.parametrize("name", ["Task", "WebFetch"])
def test_a_sub_agent_is_not_that_of_a_call_that_has_ended_or_of_another_tool(
    tmp_path: Path, name: str
) -> None:
    main = Writer()
    other = [main.calls("toolu_1", name=name, prompt="Find a."), main.result("toolu_1")]
    if name == "WebFetch":
        other = other[:1]
    call = main.calls("toolu_2", name="Task", prompt="Find a.")
    records = [main.user("Ask"), *other, call, *side_records("a"), main.result("toolu_2")]
    told = read(write(tmp_path / f"{SESSION}.jsonl", records))
    (child,) = (one for id, one in told.items() if id != SESSION)
    assert child.session.metadata["tool_use_id"] == "toolu_2"


def test_calls_without_a_result_do_not_fill_the_memory(tmp_path: Path) -> None:
    main = Writer()
    calls = [main.calls(f"toolu_{number}", name="Task", prompt="Find a.") for number in range(CALLS_MAX + 1)]
    told = read(write(tmp_path / f"{SESSION}.jsonl", [*calls, *side_records("a")]))
    (child,) = (one for id, one in told.items() if id != SESSION)
    assert child.session.metadata["tool_use_id"] == "toolu_1"


def test_two_calls_with_the_same_id_do_no_harm(tmp_path: Path) -> None:
    main = Writer()
    calls = [main.calls("toolu_1", name="Task", prompt=f"Find {name}.") for name in "ab"]
    records = [main.user("Ask"), *calls, *side_records("b"), *side_records("a"), main.result("toolu_1")]
    told = read(write(tmp_path / f"{SESSION}.jsonl", records))
    (result,) = told[SESSION].of("tool_call_completed")
    assert told[result.data["session_id"]].run.input == "Find a."


def test_a_record_whose_parent_was_not_written_belongs_to_the_sub_agent_before_it(tmp_path: Path) -> None:
    records = agent_records()
    records[2]["parentUuid"] = "of a progress record that was not written"
    (told,) = read(write(tmp_path / f"{SESSION}.jsonl", records)).values()
    assert_is_the_agent(told, f"{SESSION}/agent-{records[0]['uuid']}")


def test_a_sub_agent_whose_id_is_too_long_for_a_session_has_one_that_is_derived_from_it(
    tmp_path: Path,
) -> None:
    id = "x" * 250
    writer = Writer()
    call, result = (
        writer.calls("toolu_1", name="Task"),
        writer.result("toolu_1", toolUseResult={"agentId": id}),
    )
    records = [writer.user("Ask"), call, *agent_records(agentId=id), result]
    told = read(write(tmp_path / f"{SESSION}.jsonl", records))
    (own_id,) = told.keys() - {SESSION}
    assert_is_the_agent(told[own_id], own_id)
    assert told[SESSION].data("tool_call_completed")[0]["session_id"] == own_id


def test_the_file_that_describes_a_sub_agent_is_read_with_its_log(tmp_path: Path) -> None:
    copy = SAMPLES[0].copied(tmp_path)
    with a_store(tmp_path / "store.db") as store:
        report = import_files(store, [copy.with_suffix("")])

        assert (report.sessions, report.failures, report.skipped) == (1, [], [])
        assert store.get_session(CHILD).metadata["title"] == "Look for callers"
