"""mini-swe-agent's trajectories as sessions, runs and events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import ValidationError
from asm.formats import import_files, registry
from asm.formats.base import Transcript
from asm.formats.mini_swe_agent import read
from asm.formats.secret_fields import without_secrets

DATA = Path(__file__).parents[1] / "data"
SAMPLE = DATA / "mini-swe-agent" / "ada__sums-1.traj.json"

Record = dict[str, Any]
Told = Callable[..., Transcript]

ASKED: Record = {"role": "user", "content": "Count the files."}
SUBMISSION = {"role": "exit", "content": "42\n", "extra": {"exit_status": "Submitted", "submission": "42\n"}}
BASH = "I look.\n\n```bash\nls | wc -l\n```"


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """What a trajectory of these messages says."""

    def of(*messages: Record, version: str = "1.1", **info: Any) -> Transcript:
        path = tmp_path / "a.traj.json"
        document = {"info": info, "messages": messages, "trajectory_format": f"mini-swe-agent-{version}"}
        path.write_text(json.dumps(document))
        return read(path)

    return of


def data(transcript: Transcript, *types: str) -> list[Record]:
    return [event.data for event in transcript.events if event.type in types]


def types(transcript: Transcript) -> list[str]:
    return [str(event.type) for event in transcript.events if event.type != "session_created"]


def called(*commands: str, content: str | None = None, **extra: Any) -> Record:
    calls = [
        {"id": command, "type": "function", "function": {"name": "bash", "arguments": json.dumps(input)}}
        for command in commands
        for input in [{"command": command}]
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls, "extra": extra}


def observed(output: str, code: int = 0, **fields: Any) -> Record:
    content = f"<returncode>{code}</returncode>\n<output>\n{output}</output>"
    extra = {"raw_output": output, "returncode": code, "timestamp": 1_770_109_201.0, "exception_info": ""}
    return {"role": "user", "content": content, "extra": extra, **fields}


# The sample.


def test_a_trajectory_is_a_run_with_its_submission_tokens_and_cost() -> None:
    found = read(SAMPLE)
    (run,) = found.runs
    assert (run.input, run.output) == (
        "Please solve this issue: sum.py adds wrongly",
        "diff --git a/sum.py b/sum.py\n",
    )
    assert (str(run.status), run.cost_usd, run.turn_count, run.provider) == (
        "completed",
        0.0425,
        4,
        "anthropic",
    )
    assert run.token_usage == {
        "input_tokens": 800,
        "output_tokens": 200,
        "total_tokens": 5_900,
        "cache_read_tokens": 4_900,
    }
    assert found.session.metadata["title"] == "ada__sums-1"


def test_each_call_and_each_result_of_the_sample_is_one_event() -> None:
    found = read(SAMPLE)
    ids = [f"toolu_{number}" for number in range(1, 5)]
    calls = [event.correlation_id for event in found.events if event.type == "tool_call_started"]
    assert calls == ids
    ended = ("tool_call_completed", "tool_call_failed")
    assert [event.correlation_id for event in found.events if event.type in ended] == ids[:3]
    assert data(found, "tool_call_failed") == [
        {"error": "", "exit_code": 1},
        {
            "error": "An error occurred while executing the command: timed out",
            "exit_code": -1,
            "output": "",
        },
    ]


def test_an_answer_that_only_a_complaint_contains_is_a_message_and_counts() -> None:
    found = read(SAMPLE)
    assert {"role": "assistant", "content": "I repair it"} in data(found, "message_received")
    assert len(data(found, "token_usage_updated")) == 4


def test_everything_that_a_trajectory_says_is_in_the_session() -> None:
    found = read(SAMPLE)
    kept: set[Any] = set()
    for row in (found.session, *found.runs, *found.events):
        kept |= set(values_of(row.to_dict()))
    document = json.loads(SAMPLE.read_text())
    times = {message.get("extra", {}).get("timestamp") for message in document["messages"]}
    ours = {"exit", "tool", "function", document["trajectory_format"]}
    lost = set(values_of(document)) - kept - times - ours
    assert len(lost) == 4
    assert all("do-not-keep" in value for value in lost)


def values_of(value: Any) -> Iterator[Any]:
    """The texts and numbers in a value, also in JSON texts."""
    if isinstance(value, str) and value.startswith('{"'):
        value = json.loads(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from values_of(each)
    else:
        yield value


def test_no_secret_of_the_configuration_is_stored(tmp_path: Path) -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        import_files(store, [SAMPLE])
        (session,) = store.list_sessions()
        stored = json.dumps(store.query.export_session(session.id).to_dict())
    assert "do-not-keep" in SAMPLE.read_text()
    assert "do-not-keep" not in stored
    (run,) = read(SAMPLE).runs
    config = run.metadata["info"]["config"]
    assert config["model"]["model_kwargs"] == {
        "api_key": "[removed]",
        "max_tokens": 4_096,
        "api_base": "https://ada:[removed]@llm.example/v1",
    }
    assert config["environment"]["env"] == {"PAGER": "cat", "HF_TOKEN": "[removed]"}
    assert config["environment"]["run_args"] == ["--rm", "-e OPENAI_API_KEY=[removed]"]


@pytest.mark.parametrize(
    "value",
    [
        *({"accessToken": "hidden"}, {"privateKey": "hidden"}, {"OPENAI_KEY_2": ["hidden"]}),
        *(["--api-key", "hidden"], ["--api-key=hidden"], {"name": "API_KEY", "value": "hidden"}),
        *("docker run -e OPENAI_API_KEY=hidden image", "export API_KEY='hidden and more'; ls"),
        *("https://hidden@example.com/a", "https://example.com/?api_key=hidden&page=2"),
        *("curl -H 'Authorization: Bearer hidden' x", "Authorization: hidden"),
    ],
    ids=str,
)
def test_a_secret_is_removed_wherever_a_setting_may_have_it(value: Any) -> None:
    assert "hidden" not in str(without_secrets([value]))


@pytest.mark.parametrize(
    "kept",
    [
        {"max_tokens": 5, "token_limit": 3, "api_key": None, "tokenizer": "gpt2"},
        {"keyword": "a", "cwd": "/home/key", "author": "ada", "path": "x=y", "password": ""},
        ["KEYS=1", "https://example.com/a@b", "-e PAGER=cat", "sorted(words, key=len)", "?page=2&x=y"],
        ["--keep", "this", {"name": "PAGER", "value": "cat"}, "the authorization of a user"],
    ],
)
def test_what_is_no_secret_is_kept(kept: Any) -> None:
    assert without_secrets(kept) == kept


# Messages.


def test_a_command_in_a_block_of_version_1_is_a_call_and_the_next_message_its_result(told: Told) -> None:
    found = told(
        ASKED,
        {"role": "assistant", "content": BASH, "timestamp": 1_760_000_000.5},
        {"role": "user", "content": "<returncode>2</returncode>\n<output>\nno</output>"},
        {"role": "assistant", "content": f"{BASH}\n{BASH}"},
        {"role": "user", "content": "Write one block."},
        {"role": "assistant", "content": BASH},
        {"role": "user", "content": "42\n"},
        version="1",
        exit_status="Submitted",
        submission="42\n",
    )
    assert data(found, "tool_call_started") == [{"name": "bash", "input": {"command": "ls | wc -l"}}] * 2
    assert types(found)[1:7] == [
        "message_received",
        "tool_call_started",
        "tool_call_failed",
        "message_received",
        "message_sent",
        "message_received",
    ]
    call, result = found.events[3:5]
    assert call.correlation_id == result.correlation_id
    assert found.events[-1].data == {"output": "42\n"}
    assert found.runs[0].output == "42\n"
    assert found.session.created_at.year == 2025


def test_a_command_in_a_block_of_version_2_is_that_of_its_actions(told: Told) -> None:
    answer = {"role": "assistant", "content": BASH, "extra": {"actions": [{"command": "ls"}]}}
    found = told(ASKED, answer, observed("a\n"), SUBMISSION)
    assert data(found, "tool_call_started") == [{"name": "bash", "input": {"command": "ls"}}]
    assert data(found, "tool_call_completed") == [{"output": "a\n", "exit_code": 0}]


def test_items_of_responses_are_events(told: Told) -> None:
    answer = {
        "object": "response",
        "id": "resp_1",
        "model": "gpt-5",
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {"type": "function_call", "call_id": "c1", "name": "bash", "arguments": '{"command": "ls"}'},
        ],
        "usage": {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}},
        "extra": {"actions": [{"command": "ls", "tool_call_id": "c1"}], "cost": 0.5},
    }
    result = {"type": "function_call_output", "call_id": "c1", "output": "<returncode>0</returncode>\na"}
    found = told(ASKED, answer, result, SUBMISSION)
    assert types(found) == [
        "message_sent",
        "message_received",
        "tool_call_started",
        "token_usage_updated",
        "tool_call_completed",
        "run_completed",
    ]
    (run,) = found.runs
    assert run.token_usage == {"input_tokens": 5, "output_tokens": 2, "cache_read_tokens": 4}
    assert (run.cost_usd, run.provider_metadata["model"]) == (0.5, "gpt-5")


def test_a_command_that_a_person_types_is_a_call(told: Told) -> None:
    typed = {"role": "user", "content": "User command:", "extra": {"actions": [{"command": "pwd"}]}}
    found = told(ASKED, typed, observed("/src\n"), SUBMISSION)
    assert types(found) == [
        "message_sent",
        "message_sent",
        "tool_call_started",
        "tool_call_completed",
        "run_completed",
    ]


def test_what_a_person_says_meanwhile_is_no_result(told: Told) -> None:
    said = {"role": "user", "content": "Stop that.", "extra": {"interrupt_type": "UserRejection"}}
    refused = observed("", -1, role="tool", tool_call_id="rm")
    found = told(ASKED, called("rm"), said, refused, SUBMISSION)
    assert types(found)[1:4] == ["tool_call_started", "message_sent", "tool_call_failed"]
    assert found.events[2].correlation_id == found.events[4].correlation_id == "rm"


def test_a_block_that_does_not_end_is_no_command(told: Told) -> None:
    answer = {"role": "assistant", "content": "```bash\n" * 50_000}
    assert data(told(ASKED, answer, version="1"), "tool_call_started") == []


# Outcomes.


@pytest.mark.parametrize(
    ("last", "status", "error"),
    [
        (SUBMISSION, "completed", None),
        (
            {"role": "exit", "content": "LimitsExceeded", "extra": {"exit_status": "LimitsExceeded"}},
            "failed",
            {"code": "LimitsExceeded"},
        ),
        (
            {
                "role": "exit",
                "content": "no key",
                "extra": {"exit_status": "AuthenticationError", "submission": "", "traceback": "…"},
            },
            "failed",
            {"code": "AuthenticationError", "message": "no key"},
        ),
    ],
)
def test_the_exit_status_is_that_of_the_run(
    told: Told, last: Record, status: str, error: Record | None
) -> None:
    found = told(ASKED, called("ls"), last, exit_status=last["extra"]["exit_status"])
    (run,) = found.runs
    assert (str(run.status), run.error, str(found.session.status)) == (status, error, status)
    assert types(found)[-1] == f"run_{status}"


def test_an_exit_status_without_a_message_ends_the_run(told: Told) -> None:
    found = told(ASKED, version="1", exit_status="AuthenticationError", submission="no key")
    assert data(found, "run_failed") == [{"code": "AuthenticationError", "message": "no key"}]


def test_a_run_that_goes_on_grows_with_its_file(tmp_path: Path) -> None:
    document = json.loads(SAMPLE.read_text())
    path = tmp_path / "last_mini_run.traj.json"
    with asm.SessionStore("sqlite://", migrate=True) as store:
        for length in range(3, len(document["messages"]) + 1):
            is_over = length == len(document["messages"])
            info = {**document["info"], "exit_status": "Submitted" if is_over else ""}
            path.write_text(json.dumps({**document, "info": info, "messages": document["messages"][:length]}))
            report = import_files(store, [path])
            assert (report.sessions, report.failures) == (1, [])
        (session,) = store.list_sessions()
        whole = read(SAMPLE)
        assert [event.id for event in store.get_events(session.id)] == [event.id for event in whole.events]
        (run,) = store.list_runs(session.id)
        assert (str(run.status), run.cost_usd) == ("completed", 0.0425)


def test_two_runs_of_one_task_are_two_sessions(told: Told) -> None:
    first, second = (
        told(ASKED, called("ls", response={"id": number}), SUBMISSION, exit_status="Submitted")
        for number in (1, 2)
    )
    assert first.session.id != second.session.id


# Other documents.


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"messages": [], "info": {}}, "`trajectory_format` begins with mini-swe-agent"),
        ({"trajectory_format": "mini-swe-agent-1", "info": {}}, "messages must be a list, not NoneType"),
        (
            {"trajectory_format": "mini-swe-agent-1", "messages": [], "info": []},
            "info must be an object, not list",
        ),
        (
            {"trajectory_format": "mini-swe-agent-1", "messages": [{}, 7], "info": {}},
            r"messages\[1\] must be an object, not int",
        ),
    ],
)
def test_a_document_of_another_shape_is_refused_with_the_place(
    tmp_path: Path, document: Record, fault: str
) -> None:
    path = tmp_path / "a.traj.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValidationError, match=fault):
        list(registry.read(path))


ODD: list[Record] = [
    {},
    {"role": 7, "content": {"a": 1}},
    {"role": "assistant", "content": None},
    {"role": "assistant", "tool_calls": [7, {}, {"function": {"name": 1, "arguments": "{"}}]},
    {"role": "assistant", "content": "a", "extra": {"actions": ["ls", {"command": None}, 3]}},
    {
        "role": "assistant",
        "content": "a",
        "extra": {"cost": True, "response": {"usage": {"prompt_tokens": -1}}},
    },
    {"role": "user", "content": "a", "extra": {"response": "ModelResponse(…)", "timestamp": 1e300}},
    {"role": "tool", "content": [1], "extra": {"returncode": "0", "raw_output": 3}},
    {"object": "response", "output": [7, {"type": "function_call"}], "extra": []},
    {"role": "user", "extra": {"exit_status": None}},
]


@pytest.mark.parametrize("message", ODD, ids=range(len(ODD)))
def test_a_message_of_another_shape_is_kept(told: Told, message: Record) -> None:
    found = told(ASKED, message, called("ls"))
    assert len(types(found)) >= 3


@pytest.mark.parametrize(
    "start",
    ['{"info": {"model_stats": {}, "x": "', '{\n  "info": {\n    "exit_status": "Submitted", "x": "'],
)
def test_a_trajectory_is_recognised_by_its_start(tmp_path: Path, start: str) -> None:
    path = tmp_path / "trajectory.json"
    path.write_text(start + "x" * 5_000)
    reader = registry.find_reader(path)
    assert reader is not None
    assert reader.name == "mini-swe-agent trajectory"
