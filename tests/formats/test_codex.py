"""Codex's rollouts of all eras as sessions, runs and events."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import Event, EventType, Run, RunStatus, Session
from asm.formats import import_files, registry
from asm.formats.base import Transcript
from asm.formats.codex import CodexLog
from asm.formats.openai_items import read_output

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "codex"
ID = "019c2300-0000-7000-8000-000000000001"
SAMPLE = ROOT / "tests" / "data" / "codex" / f"rollout-2026-02-03T09-00-00-{ID}.jsonl"
PARENT = "019c2200-0000-7000-8000-000000000001"

Record = dict[str, Any]


class Told:
    """What a log says of its session."""

    def __init__(self, transcripts: Iterable[Transcript]) -> None:
        self.by_id: dict[str, Run] = {}
        self.events: list[Event] = []
        for each in transcripts:
            self.session: Session = each.session
            self.by_id |= {run.id: run for run in each.runs}
            self.events += each.events
        assert len({event.id for event in self.events}) == len(self.events)

    @property
    def runs(self) -> list[Run]:
        return list(self.by_id.values())

    def of(self, *types: str) -> list[Event]:
        return [event for event in self.events if event.type in types]

    def data(self, *types: str) -> list[Record]:
        return [event.data for event in self.of(*types)]

    def tokens(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for run in self.runs:
            total.update(run.token_usage)
        return total


def read(path: Path) -> Told:
    return Told(each for each in registry.read(path) if isinstance(each, Transcript))


def logged(tmp_path: Path, records: Iterable[Record]) -> Told:
    path = tmp_path / f"rollout-2026-02-03T09-00-00-{ID}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read(path)


def line(type: str, seconds: int = 1, /, **payload: Any) -> Record:
    return {"timestamp": f"2026-02-03T09:00:{seconds:02}.000Z", "type": type, "payload": payload}


def meta(id: str = ID, **fields: Any) -> Record:
    return line("session_meta", 0, id=id, timestamp="2026-02-03T09:00:00.000Z", cwd="/home/ada", **fields)


def item(type: str, seconds: int = 1, **fields: Any) -> Record:
    return line("response_item", seconds, **{**fields, "type": type})


def message(role: str, *texts: str, seconds: int = 1) -> Record:
    kind = "output_text" if role == "assistant" else "input_text"
    return item("message", seconds, role=role, content=[{"type": kind, "text": each} for each in texts])


def screen(type: str, seconds: int = 1, **fields: Any) -> Record:
    return line("event_msg", seconds, **{**fields, "type": type})


def tokens(input: int, cached: int = 0, output: int = 0, seconds: int = 1) -> Record:
    usage = {"input_tokens": input, "cached_input_tokens": cached, "output_tokens": output}
    total = {**usage, "total_tokens": input + output}
    info = {"total_token_usage": total, "last_token_usage": total}
    return screen("token_count", seconds, info=info, rate_limits={"used": seconds})


# Real files.


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not in the repository")
@pytest.mark.parametrize(
    ("name", "expected", "calls", "prompts", "aborted"),
    [
        ("rollout-2025-09-25T15-12-14-*", (536_834, 472_320, 6_654, 543_488), 34, 1, 0),
        ("rollout-2025-09-24T19-22-20-*", (566_844, 520_064, 24_996, 591_840), 29, 4, 1),
    ],
)
def test_a_real_log_has_the_figures_that_codex_logged(
    name: str, expected: tuple[int, ...], calls: int, prompts: int, aborted: int
) -> None:
    (path,) = REAL.glob(name)
    told = read(path)

    total = told.tokens()
    cached = total["cache_read_tokens"]
    found = (total["input_tokens"] + cached, cached, total["output_tokens"], total["total_tokens"])
    assert found == expected
    started = told.of(EventType.TOOL_CALL_STARTED)
    ended = told.of(EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED)
    assert len(started) == len(ended) == calls
    assert {event.correlation_id for event in started} == {event.correlation_id for event in ended}
    assert len(told.runs) == prompts
    assert [run.status for run in told.runs].count(RunStatus.CANCELLED) == aborted


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not in the repository")
def test_every_record_of_a_real_log_is_an_event_or_told_twice() -> None:
    path = REAL / "record-types-0.146.jsonl"
    lines = [json.loads(each) for each in path.read_text().splitlines()]
    told = read(path)

    hosted = ("web_search_call", "image_generation_call")
    results = sum(each["payload"].get("type") in hosted for each in lines)
    # The session has an event of its own, a hosted call also one for its result, and so has the image of a
    # prompt whose text was told before.
    assert len(told.events) == 1 + len(lines) + results + 1 - told.session.metadata["told_twice"]


# The sample.


def test_the_turns_of_a_log_are_runs() -> None:
    told = read(SAMPLE)

    assert [(run.status, run.input, run.output) for run in told.runs] == [
        (RunStatus.COMPLETED, "How many herons are listed?", "42 herons."),
        (RunStatus.CANCELLED, "Delete the second line.", None),
    ]
    assert [run.provider_metadata for run in told.runs] == [{"model": "gpt-5-codex"}] * 2
    assert told.session.metadata["title"] == "Counting herons"
    assert told.session.metadata["git_branch"] == "main"


def test_what_the_screen_repeats_is_left_out() -> None:
    told = read(SAMPLE)

    received = told.data(EventType.MESSAGE_RECEIVED)
    assert [each.get("thinking") or each["content"] for each in received] == [
        "**Counting lines**",
        "42 herons.",
    ]
    said = [each["content"] for each in told.data(EventType.MESSAGE_SENT) if each["role"] == "user"]
    assert said == ["How many herons are listed?", "Delete the second line."]
    # Both prompts, the reasoning, the answer, and the tokens that had not changed.
    assert told.session.metadata["told_twice"] == 5


def test_calls_have_their_results_with_how_the_command_ended() -> None:
    told = read(SAMPLE)

    assert told.data(EventType.TOOL_CALL_STARTED) == [
        {"name": "shell", "input": {"command": ["wc", "-l", "herons.txt"]}},
        {"name": "apply_patch", "input": "*** Begin Patch\n*** End Patch"},
        {"name": "web_search", "input": {"type": "search", "query": "heron"}},
        {"name": "shell", "input": "not json"},
    ]
    assert told.data(EventType.TOOL_CALL_COMPLETED) == [
        {"output": "42 herons.txt\n", "exit_code": 0, "duration_s": 0.1},
        {"output": {"status": "completed"}},
    ]
    (failed,) = told.data(EventType.TOOL_CALL_FAILED)
    assert (failed["exit_code"], failed["duration_s"]) == (1, 0.2)


def test_only_the_increase_of_the_total_counts_and_all_of_one_that_fell() -> None:
    used = read(SAMPLE).data(EventType.TOKEN_USAGE_UPDATED)

    assert [
        (each["input_tokens"], each["cache_read_tokens"], each["output_tokens"], each["total_tokens"])
        for each in used
    ] == [(600, 400, 50, 1050), (200, 1000, 20, 1220), (200, 100, 10, 310)]


def test_a_compaction_is_an_event_and_no_prompt() -> None:
    (compacted,) = read(SAMPLE).of("codex.compacted")

    assert compacted.data == {"message": "The user counts herons."}
    assert len(compacted.metadata["replacement_history"]) == 1


# Oddities.


def test_what_codex_adds_as_the_user_is_no_prompt(tmp_path: Path) -> None:
    told = logged(
        tmp_path,
        [
            meta(),
            message(
                "user", "# AGENTS.md instructions for /home/ada\n\n<INSTRUCTIONS>…", "<environment_context>…"
            ),
            message("user", "<div> is not closed, why?"),
            screen("user_message", message="<div> is not closed, why?"),
            message("assistant", "Because."),
        ],
    )

    assert [run.input for run in told.runs] == ["<div> is not closed, why?"]
    assert [each["role"] for each in told.data(EventType.MESSAGE_SENT)] == ["system", "user"]
    assert told.session.metadata["title"] == "<div> is not closed, why?"


def test_what_only_the_screen_tells_is_kept(tmp_path: Path) -> None:
    told = logged(
        tmp_path,
        [
            meta(),
            screen("user_message", message="Go", images=["data:image/png;base64,AAAA"]),
            screen("agent_reasoning", text="Thinking"),
            screen("agent_message", message="Gone"),
            screen("task_complete", last_agent_message="Gone"),
        ],
    )

    assert told.data(EventType.MESSAGE_RECEIVED) == [
        {"role": "assistant", "thinking": "Thinking"},
        {"role": "assistant", "content": "Gone"},
    ]
    (sent,) = told.of(EventType.MESSAGE_SENT)
    assert sent.metadata["rest"] == {"images": ["data:image/png;base64,AAAA"]}


def test_a_fork_keeps_what_it_repeats_without_its_usage(tmp_path: Path) -> None:
    own = "019c2300-0001-7000-8000-000000000001"
    old = "019c2200-0001-7000-8000-000000000001"
    told = logged(
        tmp_path,
        [
            meta(forked_from_id=PARENT),
            meta(PARENT),
            screen("task_started", turn_id=old),
            message("user", "Old"),
            item("function_call", name="shell", arguments="{}", call_id="call_old"),
            tokens(1000),
            screen("task_complete", turn_id=old),
            screen("task_started", turn_id=own),
            message("user", "New"),
            message("assistant", "Done"),
            tokens(1300),
        ],
    )

    assert told.session.parent_session_id == PARENT
    assert len(told.of("codex.replayed")) == 6
    assert [run.input for run in told.runs] == ["New"]
    assert told.tokens() == {"input_tokens": 300, "total_tokens": 300}
    assert told.of(EventType.TOOL_CALL_STARTED) == []


def test_a_fork_without_turn_ids_repeats_what_is_as_old_as_itself(tmp_path: Path) -> None:
    told = logged(
        tmp_path,
        [
            meta(forked_from_id=PARENT),
            meta(PARENT),
            message("user", "Old"),
            tokens(1000),
            message("user", "New", seconds=20),
            tokens(200, seconds=21),
        ],
    )

    assert [run.input for run in told.runs] == ["New"]
    assert told.tokens()["input_tokens"] == 200


def test_a_session_of_a_subagent_is_a_child(tmp_path: Path) -> None:
    spawn = {"subagent": {"thread_spawn": {"parent_thread_id": PARENT, "depth": 1}}}
    told = logged(tmp_path, [meta(source=spawn), screen("user_message", message="Look")])

    assert told.session.parent_session_id == PARENT
    assert told.session.tags == ("subagent",)


def test_a_log_of_before_september_2025_has_bare_items(tmp_path: Path) -> None:
    told = logged(
        tmp_path,
        [
            {"id": ID, "timestamp": "2025-08-03T09:00:00.000Z", "instructions": None, "git": {"branch": "x"}},
            {"record_type": "state"},
            message("user", "<environment_context>…")["payload"],
            message("user", "Go")["payload"],
            item("local_shell_call", call_id="c", action={"command": ["ls"]}, status="completed")["payload"],
            item("function_call_output", call_id="c", output={"content": "no", "success": False})["payload"],
            message("assistant", "Gone")["payload"],
        ],
    )

    (run,) = told.runs
    assert (run.input, run.output, run.turn_count, run.status) == ("Go", "Gone", 2, RunStatus.COMPLETED)
    assert told.session.id == ID
    assert told.session.metadata["git_branch"] == "x"
    (failed,) = told.of(EventType.TOOL_CALL_FAILED)
    assert (failed.correlation_id, failed.data) == ("c", {"error": "no"})
    assert len(told.of("codex.state")) == 1


def test_an_error_fails_the_run_unless_the_model_answers_after_it(tmp_path: Path) -> None:
    told = logged(
        tmp_path,
        [
            meta(),
            screen("user_message", message="One"),
            screen("error", message="overloaded", codex_error_info="server_overloaded"),
            message("assistant", "Yes"),
            screen("user_message", message="Two"),
            screen("error", message="usage limit"),
        ],
    )

    assert [run.status for run in told.runs] == [RunStatus.COMPLETED, RunStatus.FAILED]
    assert told.data(EventType.ERROR_OCCURRED)[0] == {"code": "server_overloaded", "message": "overloaded"}


def test_equal_records_are_different_events(tmp_path: Path) -> None:
    again = [screen("undo_completed", success=True), screen("undo_completed", success=True)]
    assert len(logged(tmp_path, [meta(), *again]).of("codex.undo_completed")) == 2


@pytest.mark.parametrize(
    "payload",
    [None, [], {}, {"type": None}, {"type": ["x"]}, {"type": "message", "role": "user", "content": 1}],
)
@pytest.mark.parametrize("type", ["session_meta", "response_item", "event_msg", "turn_context", "other"])
def test_a_record_of_any_shape_is_kept(type: str, payload: Any, tmp_path: Path) -> None:
    records = [meta(), {"timestamp": "x", "type": type, "payload": payload}, meta("other")]
    assert len(logged(tmp_path, records).events) == 4


def test_what_is_taken_does_not_depend_on_where_it_is_cut() -> None:
    lines = [each for each in SAMPLE.read_bytes().splitlines() if each]
    whole, cut = CodexLog(SAMPLE), CodexLog(SAMPLE)
    events: list[Event] = []
    for each in lines:
        whole.add(each)
        cut.add(each)
        events += [event for taken in cut.take() for event in taken.events]

    assert events == whole.take()[0].events


def test_the_output_of_a_command_has_its_exit_code_in_three_shapes() -> None:
    text = "Chunk ID: 1\nWall time: 0.5 seconds\nProcess exited with code 2\nOutput:\nExit code: 7"
    later = read_output(text)
    assert (later.output, later.exit_code, later.duration_s, later.has_failed) == (text, 2, 0.5, True)
    assert read_output("Exit code: 0\nWall time: 1 seconds\nOutput:\n").exit_code == 0
    assert read_output('{"output": "x", "metadata": {"exit_code": 3}}').data() == {
        "error": "x",
        "exit_code": 3,
    }
    assert read_output("The text says: Exit code: 1").exit_code is None


def test_a_log_is_imported_under_the_id_by_which_codex_resumes_it(tmp_path: Path) -> None:
    with asm.SessionStore(f"sqlite:///{tmp_path / 'store.db'}", migrate=True) as store:
        assert import_files(store, [SAMPLE]).failures == []
        assert import_files(store, [SAMPLE]).unchanged == 1
        assert store.get_session(ID).agent_id == "codex"
