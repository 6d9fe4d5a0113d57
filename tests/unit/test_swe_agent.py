"""SWE-agent trajectories as transcripts."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from asm import EventType, ValidationError
from asm.formats import registry
from asm.formats.base import Transcript
from tests.conftest import in_memory

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests" / "data" / "small.traj"
REAL: list[Any] = sorted((ROOT.parent / "shared" / "data" / "trajectories").glob("*.traj")) or [
    pytest.param(None, marks=pytest.mark.skip(reason="no ../shared/data/trajectories next to the repository"))
]

MESSAGES = (EventType.MESSAGE_SENT, EventType.MESSAGE_RECEIVED)


@pytest.fixture
def new_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file: bytes unchanged, any other value as JSON."""

    def write(content: Any, name: str = "run.traj") -> Path:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return file

    return write


def read(file: Path) -> Transcript:
    """The one transcript in a file."""
    (transcript,) = registry.read(file)
    assert isinstance(transcript, Transcript)
    return transcript


def small(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(SMALL.read_bytes())
    return document | changes


def restored(transcript: Transcript) -> dict[str, Any]:
    """The document from which a transcript was made."""
    steps: dict[int, dict[str, Any]] = {}
    history = []
    for event in transcript.events:
        number = event.metadata.get("step")
        if number is not None:
            steps.setdefault(number, {}).update(
                step_fields(event.type, event.data) | event.metadata.get("rest", {})
            )
            history += [event.metadata["history"]] if "history" in event.metadata else []
        elif event.type in MESSAGES:
            history.append(event.data)
    parts = {
        "trajectory": list(steps.values()),
        "history": history,
        "info": transcript.runs[0].metadata.get("info"),
    }
    return transcript.session.context | {name: part for name, part in parts.items() if part}


def step_fields(type: str, data: dict[str, Any]) -> dict[str, Any]:
    names = {
        "content": "response" if type == EventType.MESSAGE_RECEIVED else "observation",
        "input": "action",
        "output": "observation",
        "duration_s": "execution_time",
    }
    return {names.get(name, name): value for name, value in data.items() if name not in ("role", "name")}


@pytest.mark.parametrize("file", [SMALL, *REAL])
def test_nothing_in_a_file_is_lost(file: Path) -> None:
    assert restored(read(file)) == json.loads(file.read_bytes())


def test_empty_parts_of_a_file_are_kept(new_file: Callable[..., Path]) -> None:
    document: dict[str, Any] = {"trajectory": [], "history": None, "info": {}}
    assert restored(read(new_file(document))) == document


def test_the_events_follow_the_order_of_the_conversation() -> None:
    events = [(str(event.type), event.data.get("role")) for event in read(SMALL).events]
    assert events == [
        ("session_created", None),
        ("run_started", None),
        ("message_sent", "system"),
        ("message_sent", "user"),
        ("message_sent", "assistant"),
        ("message_sent", "user"),
        ("message_received", "assistant"),
        ("tool_call_started", None),
        ("tool_call_completed", None),
        ("message_received", "assistant"),
        ("message_received", "assistant"),
        ("message_sent", "user"),
        ("message_received", "assistant"),
        ("tool_call_started", None),
        ("tool_call_completed", None),
        ("message_received", "assistant"),
        ("tool_call_started", None),
        ("tool_call_completed", None),
        ("message_sent", None),
        ("message_received", "assistant"),
        ("token_usage_updated", None),
        ("run_completed", None),
        ("session_completed", None),
    ]


def test_a_demonstration_is_a_sent_message() -> None:
    demonstration = [event for event in read(SMALL).events if event.data.get("is_demo")]
    assert [event.type for event in demonstration] == ["message_sent", "message_sent"]


def test_a_step_without_an_action_is_not_a_tool_call(new_file: Callable[..., Path]) -> None:
    step = {"response": "Hm.", "action": "", "observation": "Say a command."}
    events = read(new_file({"trajectory": [step]})).events[2:4]
    assert [event.type for event in events] == ["message_received", "message_sent"]


def test_a_call_and_its_output_share_the_id_of_the_call() -> None:
    calls = [event for event in read(SMALL).events if event.correlation_id == "call_1"]
    assert [event.type for event in calls] == ["tool_call_started", "tool_call_completed"]


def test_the_run_has_the_tokens_the_cost_and_the_model() -> None:
    run = read(SMALL).runs[0]
    assert run.token_usage == {"input_tokens": 1200, "output_tokens": 34}
    assert run.cost_usd == 0.0625
    assert run.turn_count == 5
    assert (run.provider, run.provider_metadata) == ("anthropic", {"model": "claude-sonnet-4"})


@pytest.mark.parametrize(
    ("name", "provider"),
    [("gpt-4o", "openai"), ("azure/gpt-4o", "azure"), ("replay", None), ("/x", None)],
)
def test_the_provider_is_derived_from_the_name_of_the_model(
    name: str, provider: str, new_file: Callable[..., Path]
) -> None:
    config = {"agent": {"model": {"name": name}}}
    assert read(new_file(small(replay_config=config))).runs[0].provider == provider


@pytest.mark.parametrize("status", ["submitted", "submitted (exit_cost)"])
def test_a_run_that_was_submitted_is_completed(status: str, new_file: Callable[..., Path]) -> None:
    transcript = read(new_file(small(info={"exit_status": status})))
    assert (transcript.runs[0].status, transcript.session.status) == ("completed", "completed")


@pytest.mark.parametrize("status", ["exit_cost", "", None])
def test_a_run_that_was_not_submitted_has_failed(status: str | None, new_file: Callable[..., Path]) -> None:
    transcript = read(new_file(small(info={"exit_status": status})))
    assert (transcript.runs[0].status, transcript.session.status) == ("failed", "failed")
    assert [event.type for event in transcript.events[-2:]] == ["run_failed", "session_failed"]
    assert transcript.runs[0].error == {"exit_status": status}


def test_a_copy_with_another_name_and_layout_has_the_same_ids(tmp_path: Path) -> None:
    copy = tmp_path / "other.traj"
    copy.write_text(json.dumps(json.loads(SMALL.read_bytes())))
    ours, theirs = read(SMALL), read(copy)
    assert ids(ours) == ids(theirs)


def ids(transcript: Transcript) -> list[str]:
    return [transcript.session.id, transcript.runs[0].id, *(event.id for event in transcript.events)]


def test_other_content_has_other_ids(new_file: Callable[..., Path]) -> None:
    ours, theirs = read(SMALL), read(new_file(small(environment="other")))
    assert not set(ids(ours)) & set(ids(theirs))


def test_ids_within_a_file_are_unique() -> None:
    all_ids = ids(read(SMALL))
    assert len(set(all_ids)) == len(all_ids)


def test_all_times_are_the_last_modification_of_the_file(tmp_path: Path) -> None:
    copy = Path(shutil.copy(SMALL, tmp_path / "copy.traj"))
    os.utime(copy, (0, 1_700_000_000))
    transcript = read(copy)
    times = {
        transcript.session.created_at,
        transcript.runs[0].ended_at,
        *(event.timestamp for event in transcript.events),
    }
    assert times == {datetime.fromtimestamp(1_700_000_000, UTC)}


def test_a_trajectory_with_another_name_is_recognised_by_its_start(tmp_path: Path) -> None:
    assert read(Path(shutil.copy(SMALL, tmp_path / "run.json"))).events


def test_a_folder_is_searched_for_files_of_known_formats(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "LICENSE").write_text("MIT")
    first = shutil.copy(SMALL, tmp_path / "deep" / "a.traj")
    second = shutil.copy(SMALL, tmp_path / "deep" / "er" / "b.traj")
    found = registry.read_folder(tmp_path)
    assert list(found.files) == [first, second]
    assert found.skipped == [(tmp_path / "LICENSE", "unknown file format")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON at column 1"),
        (b'{"trajectory": [],\n "info": }', "not JSON at line 2, column 10"),
        (b'{"trajectory": ["\xff"]}', "not UTF-8 at byte 18"),
        (b'{"trajectory": [], "x": NaN}', "NaN"),
        (b'{"trajectory": [{"x": 1e999}]}', "inf"),
        (b'{"trajectory": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"trajectory": [], "x": ' + b"1" * 5_000 + b"}", "5,000 digits"),
        (b'{"trajectory": [], "x": ' + b"1" * 1_000_000 + b"}", "1,000,000 digits"),
        (b'{"trajectory": [' + b"{}," * 100_000 + b"{}]}", "100,001 steps and history entries"),
        ([], "not a trajectory"),
        ({"steps": []}, "not a trajectory"),
        ({"trajectory": {}}, "not a trajectory"),
        ({"trajectory": [{}, 3]}, r"trajectory\[1\] must be an object, not a whole number"),
        (
            {"trajectory": [{}, {"action": 3}]},
            r"trajectory\[1\]\.action must be a string, not a whole number",
        ),
        (
            {"trajectory": [{"execution_time": True}]},
            r"trajectory\[0\]\.execution_time must be a number, not true",
        ),
        ({"trajectory": [], "history": {}}, "history must be a list, not an object"),
        ({"trajectory": [], "history": [None]}, r"history\[0\] must be an object, not null"),
        ({"trajectory": [], "history": [{"role": []}]}, r"history\[0\]\.role must be a string, not a list"),
        ({"trajectory": [], "info": "x"}, "info must be an object, not a string"),
        ({"trajectory": [], "info": {"exit_status": 1}}, "info.exit_status must be a string"),
        (
            {"trajectory": [], "info": {"model_stats": {"tokens_sent": 1.5}}},
            "info.model_stats.tokens_sent must be",
        ),
        ({"trajectory": [], "info": {"model_stats": {"tokens_sent": -1}}}, "input_tokens must be from 0"),
        ({"trajectory": [], "info": {"model_stats": {"instance_cost": -1}}}, "cost_usd must be"),
    ],
)
def test_an_invalid_file_is_reported_with_its_path(
    content: Any, message: str, new_file: Callable[..., Path]
) -> None:
    file = new_file(content)
    with pytest.raises(ValidationError, match=message) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_a_step_is_found_by_what_it_says_however_many_there_are(new_file: Callable[..., Path]) -> None:
    def calls(number: int) -> int:
        steps = [{"response": f"said {n}", "action": "same"} for n in range(number)]
        history = [{"role": "assistant", "content": f"said {n}?", "action": "other"} for n in range(number)]
        file = new_file({"trajectory": steps, "history": history})
        count = Counter[str]()
        sys.setprofile(lambda _frame, event, _arg: count.update([event]))
        try:
            read(file)
        finally:
            sys.setprofile(None)
        return count.total()

    assert calls(400) < 2.5 * calls(200)


def test_an_entry_belongs_to_the_first_remaining_step_that_says_the_same(
    new_file: Callable[..., Path],
) -> None:
    steps = [
        {"response": "a", "action": "x"},
        {"response": "b", "action": "x"},
        {"response": "a", "action": "y"},
    ]
    history = [{"role": "assistant", "content": said} for said in ("a", "a", "b")]
    events = read(new_file({"trajectory": steps, "history": history})).events
    found = [
        (event.metadata.get("step"), "history" in event.metadata)
        for event in events
        if event.type == EventType.MESSAGE_RECEIVED
    ]
    assert found == [(1, True), (2, False), (3, True), (None, False)]


def test_a_configuration_that_cannot_be_read_is_kept_as_it_is(new_file: Callable[..., Path]) -> None:
    for config in ("[" * 100_000, "1" * 5_000, "\ud800", "{"):
        transcript = read(new_file(small(replay_config=config)))
        assert transcript.session.context["replay_config"] == config
        assert transcript.runs[0].provider is None


@pytest.mark.skipif(in_memory() is None, reason="no file system here has such times")
@pytest.mark.parametrize("modified_at", [2**40, -(2**40)])
def test_a_file_from_outside_the_years_1_to_9999_is_refused(modified_at: int) -> None:
    with tempfile.NamedTemporaryFile(dir=in_memory(), suffix=".traj") as file:
        file.write(SMALL.read_bytes())
        file.flush()
        os.utime(file.name, (0, modified_at))
        with pytest.raises(ValidationError, match=rf"^{file.name}: .* outside the years 1 to 9999"):
            read(Path(file.name))


def test_a_file_of_an_unknown_format_is_refused(new_file: Callable[..., Path]) -> None:
    with pytest.raises(ValidationError, match=r"notes\.txt: unknown file format"):
        read(new_file(b"remember the milk", "notes.txt"))


def test_a_missing_file_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"gone\.traj: No such file"):
        read(tmp_path / "gone.traj")
