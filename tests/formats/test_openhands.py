"""OpenHands' conversations, trajectories, logs and evaluations as sessions, runs and events."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import ValidationError
from asm.formats import import_files, registry
from asm.formats.base import Transcript
from asm.formats.importing import Importer
from tests.formats.samples import OPENHANDS_EVENT
from tests.formats.test_properties import contents

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "openhands"
TRAJECTORY, OUTPUT, LOG = DATA / "trajectory.json", DATA / "output.jsonl", DATA / "events.jsonl"
CONVERSATION = OPENHANDS_EVENT.parent.parent
SESSION = "0c9e5a41-2f7b-4d18-b3a6-5e8d7c1f9a20"

REAL = ROOT.parent / "shared" / "data" / "openhands"
real = pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/openhands next to the repository")

ENDED = ("tool_call_completed", "tool_call_failed")
Record = dict[str, Any]
Reading = Callable[..., Transcript]


def read(path: Path) -> list[Transcript]:
    return [each for each in registry.read(path) if isinstance(each, Transcript)]


def data(transcript: Transcript, *types: str) -> list[Record]:
    return [event.data for event in transcript.events if event.type in types]


def calls(transcript: Transcript, *types: str) -> list[str | None]:
    return [event.correlation_id for event in transcript.events if event.type in types]


@pytest.fixture
def told(tmp_path: Path) -> Reading:
    """What a trajectory with these events says."""

    def of(*events: Record) -> Transcript:
        path = tmp_path / "trajectory.json"
        path.write_text(json.dumps([{"id": number, **each} for number, each in enumerate(events)]))
        (one,) = read(path)
        return one

    return of


def at(second: int) -> str:
    return f"2026-02-03T09:00:{second:02d}"


def user(text: str, second: int = 0, **fields: Any) -> Record:
    args = {"content": text}
    return {"timestamp": at(second), "source": "user", "action": "message", "args": args, **fields}


def action(name: str, second: int = 1, **fields: Any) -> Record:
    return {"timestamp": at(second), "source": "agent", "action": name, "args": {}, **fields}


def observation(name: str, cause: int | None = None, content: str = "", **extras: Any) -> Record:
    found = {"observation": name, "content": content, "extras": extras, "cause": cause}
    return {"timestamp": at(2), "source": "environment", **found}


def state(name: str, **extras: Any) -> Record:
    return observation("agent_state_changed", agent_state=name, **extras)


def sdk(kind: str, source: str, **fields: Any) -> Record:
    return {"id": f"{kind} {fields}"[:90], "timestamp": at(3), "source": source, "kind": kind, **fields}


# The samples.


def test_actions_of_one_response_are_one_turn_with_its_tokens_once() -> None:
    (found,) = read(TRAJECTORY)
    (run,) = found.runs
    assert (run.turn_count, str(run.status), run.output) == (3, "completed", "It returns 1.")
    assert run.token_usage == {
        "input_tokens": 370,
        "output_tokens": 190,
        "cache_read_tokens": 2_200,
        "cache_creation_tokens": 1_200,
    }
    assert (run.cost_usd, run.provider, run.provider_metadata["model"]) == (
        0.013,
        "anthropic",
        "claude-sonnet-4-5",
    )
    assert len(data(found, "token_usage_updated")) == 3
    assert found.session.metadata["naive_times"] is True


def test_results_belong_to_the_calls_that_caused_them() -> None:
    (found,) = read(TRAJECTORY)
    assert calls(found, "tool_call_started") == ["toolu_1", "toolu_2", "toolu_3"]
    assert calls(found, *ENDED) == ["toolu_2", "toolu_1", "toolu_3"]
    assert data(found, "tool_call_failed") == [
        {"error": {"code": "TIMEOUT", "message": "The action timed out after 5 s."}}
    ]
    assert {"output": "test_sum.py", "exit_code": 0} in data(found, "tool_call_completed")
    assert data(found, "message_received")[0] == {
        "role": "assistant",
        "content": "I look at the tests.",
        "thinking": "Which tests are there?",
    }


def test_the_response_of_a_model_is_kept_once() -> None:
    (found,) = read(TRAJECTORY)
    about = [event.metadata.get("rest", {}).get("tool_call_metadata") for event in found.events]
    kept = [each["model_response"]["id"] for each in about if each and "model_response" in each]
    assert kept == ["chatcmpl-1", "chatcmpl-2", "chatcmpl-3"]


def test_what_is_no_call_and_no_message_is_a_dotted_event() -> None:
    (found,) = read(TRAJECTORY)
    dotted = [event.type for event in found.events if "." in event.type]
    states = ["openhands.agent_state_changed"]
    assert dotted == ["openhands.recall", *states, "openhands.null", *states]


def test_a_line_of_an_evaluation_is_a_session_with_one_run() -> None:
    flat, paired, later = read(OUTPUT)
    assert [each.session.metadata["title"] for each in (flat, paired, later)] == [
        "Add a licence",
        "ada__sums-7",
        "ada__sums-8",
    ]
    assert [len(each.runs) for each in (flat, paired, later)] == [1, 1, 1]
    (run,) = flat.runs
    assert (run.turn_count, run.cost_usd, run.output) == (3, 0.03, "The licence is there.")
    assert calls(flat, "tool_call_started") == calls(flat, *ENDED) == ["action #2", "action #4"]
    assert data(flat, "workspace_diff_computed") == [{"diff": "diff --git a/LICENSE b/LICENSE\n"}]


def test_the_error_of_an_evaluation_fails_its_run_and_session() -> None:
    _, found, _ = read(OUTPUT)
    (run,) = found.runs
    message = "AgentStuckInLoopError: Agent got stuck in a loop"
    assert (str(found.session.status), str(run.status), run.error) == (
        "failed",
        "failed",
        {"message": message},
    )
    assert data(found, "error_occurred") == [{"message": message}]


def test_the_metrics_of_an_evaluation_count_what_no_event_has() -> None:
    _, paired, later = read(OUTPUT)
    (run,) = paired.runs
    assert (run.cost_usd, run.provider_metadata) == (0.2, {"model": "gpt-4o"})
    assert run.token_usage == {"input_tokens": 500, "output_tokens": 50, "cache_read_tokens": 400}
    (run,) = later.runs
    assert (run.cost_usd, sum(run.token_usage.values())) == (0.02, 4_200)
    assert sum(each["output_tokens"] for each in data(later, "token_usage_updated")) == 200


def test_no_secret_of_the_settings_is_imported() -> None:
    for found in [*read(OUTPUT), *read(OPENHANDS_EVENT)]:
        assert "sk-not-a-key" not in json.dumps(found.session.to_dict())


def test_a_folder_of_events_is_one_session_with_a_run_for_each_prompt() -> None:
    (found,) = read(OPENHANDS_EVENT)
    assert (found.session.id, found.session.metadata["cwd"]) == (SESSION, "/w")
    first, second = found.runs
    assert (first.input, first.output, first.turn_count) == ("Why does test_sum.py fail?", "It returns 1.", 4)
    assert (second.output, str(second.status)) == ("You are welcome.", "completed")
    assert calls(found, "tool_call_started") == calls(found, *ENDED) == [f"toolu_{n}" for n in (1, 2, 3, 4)]
    assert data(found, "tool_call_failed") == [
        {"error": "no such file"},
        {"error": "Tool 'nope' not found"},
        {"error": {"code": "rejected", "message": "Not that."}},
    ]


def test_a_conversation_counts_each_response_in_its_run_and_the_rest_in_the_last() -> None:
    (found,) = read(OPENHANDS_EVENT)
    first, second = found.runs
    assert first.token_usage == {
        "input_tokens": 860,
        "output_tokens": 250,
        "cache_read_tokens": 3_300,
        "cache_creation_tokens": 1_250,
    }
    assert second.token_usage == {"input_tokens": 200, "output_tokens": 15, "cache_read_tokens": 1_400}
    assert (first.cost_usd, second.cost_usd) == (0.042, 0.011)
    models = [each["model"] for each in data(found, "token_usage_updated")]
    assert models.count("claude-haiku-4-5") == 1


def test_a_log_has_the_tokens_of_its_statistics_and_the_error_that_ended_it() -> None:
    (found,) = read(LOG)
    _, last = found.runs
    assert (str(last.status), last.error) == ("failed", {"code": "LLMRateLimitError", "message": "429"})
    assert sum(sum(run.token_usage.values()) for run in found.runs) == 7_275


# Runs and calls.


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["running", "finished", "stopped"], "completed"),
        (["running", "awaiting_user_input"], "completed"),
        (["running", "error", "stopped"], "failed"),
        (["stuck"], "failed"),
        (["rejected"], "failed"),
        (["running", "stopped"], "cancelled"),
        (["paused", "running"], "completed"),
    ],
)
def test_the_last_state_of_the_agent_is_the_status_of_the_run(
    told: Reading, states: list[str], status: str
) -> None:
    (run,) = told(user("Hi"), action("run"), *map(state, states)).runs
    assert str(run.status) == status


def test_a_failed_run_has_the_reason_of_its_state(told: Reading) -> None:
    (run,) = told(user("Hi"), action("run"), state("error", reason="STATUS$ERROR_LLM")).runs
    assert run.error == {"code": "error", "message": "STATUS$ERROR_LLM"}


def test_a_response_behind_an_error_makes_it_a_failed_run_no_more(told: Reading) -> None:
    (run,) = told(user("Hi"), action("run"), state("error"), action("run")).runs
    assert str(run.status) == "completed"


def test_a_prompt_begins_a_run_and_a_delegated_task_does_not(told: Reading) -> None:
    found = told(
        user("One"),
        action("delegate", args={"agent": "BrowsingAgent", "inputs": {"task": "Look"}}),
        user("TASK: Look"),
        action("browse", args={"url": "http://localhost"}),
        observation("browse", cause=3, content="a page"),
        observation("delegate", cause=1, outputs={"content": "seen"}),
        user("Two"),
    )
    assert [run.input for run in found.runs] == ["One", "Two"]
    assert calls(found, "tool_call_started") == ["action 1", "action 3"]
    assert data(found, *ENDED)[1] == {"output": {"content": "seen"}}


def test_an_error_without_a_call_is_an_error_of_its_own(told: Reading) -> None:
    found = told(user("Hi"), observation("error", content="No quota", error_id="QUOTA"))
    assert data(found, "error_occurred") == [{"code": "QUOTA", "message": "No quota"}]
    assert data(found, *ENDED) == []


def test_a_call_of_the_user_is_no_turn_of_the_model(told: Reading) -> None:
    found = told(user("Hi"), {**action("run"), "source": "user"}, observation("run", cause=1, content="x"))
    assert found.runs[0].turn_count == 0
    assert calls(found, *ENDED) == ["action 1"]


def test_events_of_the_same_id_are_told_apart(told: Reading) -> None:
    found = told(user("Hi"), {**action("run"), "id": 0}, {**action("run"), "id": 0})
    assert len({event.id for event in found.events}) == len(found.events) == 4


def test_a_sum_of_tokens_that_falls_has_begun_again(told: Reading) -> None:
    def asked(tokens: int, cost: float) -> Record:
        usage = {"prompt_tokens": tokens, "completion_tokens": 0}
        metrics = {"accumulated_cost": cost, "accumulated_token_usage": usage}
        return action("run", llm_metrics=metrics)

    (run,) = told(user("Hi"), asked(100, 1.0), asked(100, 1.0), asked(250, 2.5), asked(40, 0.5)).runs
    assert (run.token_usage, run.cost_usd) == ({"input_tokens": 290}, 3.0)


def test_a_response_without_a_sum_is_counted_once(told: Reading) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    about = {"tool_call_id": "c", "model_response": {"id": "r", "model": "m", "usage": usage}}
    one = action("run", tool_call_metadata=about)
    (run,) = told(user("Hi"), one, one, observation("run", cause=1) | {"tool_call_metadata": about}).runs
    assert (run.token_usage, run.turn_count) == ({"input_tokens": 10, "output_tokens": 5}, 1)


@pytest.mark.parametrize(
    ("read", "written", "input"), [(300, 100, 600), (800, 400, 200), (1_200, 0, 1_000), (0, 0, 1_000)]
)
def test_cached_tokens_are_beside_the_input_whether_or_not_it_includes_them(
    told: Reading, read: int, written: int, input: int
) -> None:
    usage = {"prompt_tokens": 1_000, "cache_read_tokens": read, "cache_write_tokens": written}
    (run,) = told(user("Hi"), action("run", llm_metrics={"accumulated_token_usage": usage})).runs
    assert run.token_usage["input_tokens"] == input


def test_a_call_that_another_agent_makes_is_told_once_and_then_its_result(told: Reading) -> None:
    call = {"tool_call_id": "t", "title": "Read a.py", "raw_input": {"path": "a.py"}}
    found = told(
        sdk("ACPToolCallEvent", "agent", **call, status="in_progress"),
        sdk("ACPToolCallEvent", "agent", **call, status="completed", raw_output="text"),
    )
    assert data(found, "tool_call_started") == [{"name": "Read a.py", "input": {"path": "a.py"}}]
    assert data(found, *ENDED) == [{"output": "text"}]


def test_an_event_of_a_kind_that_is_not_known_is_kept(told: Reading) -> None:
    found = told(user("Hi"), sdk("HookExecutionEvent", "hook", hook="x"), {"timestamp": at(1), "a": 1})
    assert [event.type for event in found.events[2:]] == ["openhands.hook_execution", "openhands.record"]
    assert found.events[3].data == {"a": 1}


# Files.


def _copied(folder: Path, *, events: int | None = None) -> Path:
    """A copy of the conversation, with so many of its events."""
    (folder / "events").mkdir(parents=True)
    for path in sorted((CONVERSATION / "events").iterdir())[:events]:
        shutil.copy(path, folder / "events")
    shutil.copy(CONVERSATION / "base_state.json", folder)
    return folder


@pytest.mark.parametrize("changed", ["all files", "the new event"])
def test_a_folder_that_grows_leads_to_the_same_as_all_of_it(changed: str, tmp_path: Path) -> None:
    events = sorted((CONVERSATION / "events").iterdir())
    with (
        asm.SessionStore("sqlite://", migrate=True) as whole,
        asm.SessionStore("sqlite://", migrate=True) as store,
    ):
        import_files(whole, [_copied(tmp_path / "whole" / CONVERSATION.name)])
        folder = _copied(tmp_path / CONVERSATION.name, events=0)
        importer = Importer(store, strict=True)
        for event in events:
            path = Path(shutil.copy(event, folder / "events"))
            if changed == "all files":
                import_files(store, [folder], strict=True)
            else:
                importer.import_changed([path, folder / "base_state.json"])
        assert contents(store) == contents(whole)
        assert import_files(store, [folder]).unchanged == 1


def test_each_part_of_a_conversation_leads_to_its_one_session(tmp_path: Path) -> None:
    folder = _copied(tmp_path / CONVERSATION.name)
    with asm.SessionStore("sqlite://", migrate=True) as store:
        assert import_files(store, [folder / "events"]).sessions == 1
        for path in (folder, folder / "base_state.json", *sorted((folder / "events").iterdir())[3:5]):
            report = import_files(store, [path])
            assert (report.sessions, report.failures, report.skipped) == (0, [], [])


def test_a_conversation_of_an_older_version_has_the_id_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sessions" / "fix-the-sums"
    (folder / "events").mkdir(parents=True)
    (folder / "event_cache").mkdir()
    trajectory = json.loads(TRAJECTORY.read_text())
    for event in trajectory:
        (folder / "events" / f"{event['id']}.json").write_text(json.dumps(event))
    # A page of the same events, which is not a session of its own.
    (folder / "event_cache" / "0-25.json").write_text(json.dumps(trajectory))
    with asm.SessionStore("sqlite://", migrate=True) as store:
        assert import_files(store, [tmp_path]).sessions == 1
        (session,) = store.list_sessions()
        assert session.id == "fix-the-sums"
        outputs = [event.data["output"] for event in store.get_events(session.id, type="tool_call_completed")]
        assert outputs == ["def sums():\n    return 1\n", "test_sum.py"]


def test_a_sub_agent_is_a_child_with_tokens_of_its_own(tmp_path: Path) -> None:
    folder = _copied(tmp_path / CONVERSATION.name)
    child = _copied(folder / "subagents" / ("a" * 32))
    about = json.loads((folder / "base_state.json").read_text())
    (child / "base_state.json").write_text(json.dumps({**about, "id": "b" * 32}))
    metrics = about["stats"]["usage_to_metrics"]
    metrics["task:1"] = metrics["agent"]
    (folder / "base_state.json").write_text(json.dumps(about))
    with asm.SessionStore("sqlite://", migrate=True) as store:
        assert import_files(store, [tmp_path]).sessions == 2
        session = store.get_session("b" * 32)
        assert (session.parent_session_id, list(session.tags)) == (SESSION, ["subagent"])
        of_parent, of_child = ([run.token_usage for run in store.list_runs(id)] for id in (SESSION, "b" * 32))
        assert of_parent == of_child


def test_a_conversation_that_has_only_begun_is_no_failure(tmp_path: Path) -> None:
    folder = _copied(tmp_path / CONVERSATION.name, events=0)
    with asm.SessionStore("sqlite://", migrate=True) as store:
        report = import_files(store, [folder])
        assert (report.sessions, report.failures) == (0, [])


def test_a_damaged_event_is_named_unless_it_is_the_last_which_is_being_written(tmp_path: Path) -> None:
    folder = _copied(tmp_path / CONVERSATION.name)
    *_, before, last = sorted((folder / "events").iterdir())
    last.write_text('{"kind": "Pau')
    (found,) = read(min((folder / "events").iterdir()))
    assert data(found, "openhands.pause") == []
    before.write_text('{"kind": "Mess')
    with pytest.raises(ValidationError, match=f"{before.name}: not JSON"):
        read(min((folder / "events").iterdir()))


def test_an_output_is_imported_line_by_line_and_the_lines_that_fail_are_named(tmp_path: Path) -> None:
    lines = OUTPUT.read_bytes().splitlines(keepends=True)
    path = tmp_path / "output.jsonl"
    with asm.SessionStore("sqlite://", migrate=True) as store:
        path.write_bytes(lines[0] + lines[1][:500])
        assert import_files(store, [path]).sessions == 1
        path.write_bytes(
            b"".join([lines[0], b"no record\n", lines[1], b'{"instance_id": 1, "history": 1}\n'])
        )
        (failure,) = import_files(store, [path]).failures
        assert "line 2: not JSON" in str(failure)
        assert "line 4: history must be a list, not int" in str(failure)
        path.write_bytes(b"".join(lines))
        report = import_files(store, [path])
        assert (report.sessions, report.unchanged, len(store.list_sessions())) == (1, 2, 3)


def test_attempts_that_failed_at_once_are_sessions_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "output.jsonl"
    line = {"instance_id": "ada__sums-7", "instruction": "Add a licence.", "history": []}
    path.write_text("\n".join(json.dumps({**line, "error": error}) for error in ("No image", "No space")))
    assert [each.runs[0].error for each in read(path)] == [{"message": "No image"}, {"message": "No space"}]
    assert len({each.session.id for each in read(path)}) == 2


def test_a_damaged_first_event_is_a_failure_and_not_passed_over(tmp_path: Path) -> None:
    modern = _copied(tmp_path / CONVERSATION.name)
    min((modern / "events").iterdir()).write_text("")
    older = tmp_path / "sessions" / "older" / "events"
    older.mkdir(parents=True)
    (older / "0.json").write_text("{")
    (older / "1.json").write_text(json.dumps({"id": 1, **user("Hi")}))
    with asm.SessionStore("sqlite://", migrate=True) as store:
        failures = sorted(str(failure) for failure in import_files(store, [tmp_path]).failures)
    assert len(failures) == 2
    assert "event-00000" in failures[0]
    assert "0.json: not JSON" in failures[1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("event-00000-7d1c4b01.json", json.dumps({"id": "7d1c4b01", **user("Hi")})),
        ("predictions.jsonl", '{"instance_id": "a", "model_patch": ""}'),
        ("1.json", '{"id": 1, "timestamp": "2026"}'),
        ("list.json", '[{"id": 1, "source": "agent"}]'),
    ],
)
def test_a_file_that_only_looks_alike_is_not_taken(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert registry.find_reader(path) is None


# The real files.


@real
def test_the_real_files_have_the_figures_of_their_agents() -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        assert import_files(store, [REAL]).sessions == 4
        assert import_files(store, [REAL]).sessions == 0
        assert store.maintenance.health_check() == []
        runs = {run.cost_usd: run for each in store.list_sessions() for run in store.list_runs(each.id)}
        assert {cost: (run.turn_count, str(run.status)) for cost, run in runs.items()} == {
            0.070713: (4, "completed"),
            1.152933: (22, "completed"),
            0.01934775: (2, "completed"),
            None: (2, "completed"),
        }
        assert runs[0.01934775].token_usage == {
            "input_tokens": 11_859 - 5_632,
            "output_tokens": 1_086,
            "cache_read_tokens": 5_632,
        }
        assert runs[None].token_usage == {
            "input_tokens": 10,
            "output_tokens": 1_312,
            "cache_read_tokens": 3_482,
            "cache_creation_tokens": 4_640,
        }


@real
def test_every_action_and_observation_of_the_real_files_is_an_event() -> None:
    for path in (REAL / "basic.json", REAL / "hello-world-2025-10.json"):
        (found,) = read(path)
        kept = {event.metadata.get("event_id") for event in found.events}
        assert {str(each["id"]) for each in json.loads(path.read_text())} <= kept
        assert calls(found, "tool_call_started") == calls(found, *ENDED) != []
    for found, line in zip(
        read(REAL / "resolver-output.jsonl"),
        (REAL / "resolver-output.jsonl").read_text().splitlines(),
        strict=True,
    ):
        history = json.loads(line)["history"]
        assert len({event.metadata.get("event_id") for event in found.events} - {None}) == len(history)
        assert calls(found, "tool_call_started") == calls(found, *ENDED)
