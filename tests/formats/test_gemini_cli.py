"""Gemini CLI's logs, documents and saved conversations as sessions, runs and events."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import Event, Run, Session, ValidationError
from asm.formats import gemini_cli, import_files, registry
from asm.formats.base import Transcript
from asm.formats.gemini_cli.files import EARLY_MAX, GeminiLog

DATA = Path(__file__).parents[1] / "data" / "gemini-cli"
LOG = DATA / "session-2026-02-03T09-00-6d1f0c2a.jsonl"
DOCUMENT = DATA / "session-2025-10-18T14-57-91ff4a35.json"
CHECKPOINT = DATA / "checkpoint-before.json"
SESSION = "6d1f0c2a-3b7e-4d55-9c10-8a4e2f6b7d31"
AGENT = "c0a7e1d2-58f3-4b6a-a1e4-93d27f0b5c68"
MODIFIED_AT = 1_770_200_000

Record = dict[str, Any]
HEAD: Record = {"sessionId": SESSION, "projectHash": "3f5a", "startTime": "2026-02-03T09:00:00.000Z"}


class Told:
    """What a file says of its one session."""

    def __init__(self, transcripts: Iterable[Transcript]) -> None:
        self.session: Session | None = None
        self.by_id: dict[str, Run] = {}
        self.events: list[Event] = []
        for each in transcripts:
            assert self.session is None or self.session.id == each.session.id
            self.session = each.session
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


def read(path: Path) -> Told:
    return Told(each for each in registry.read(path) if isinstance(each, Transcript))


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., Told]:
    """What a log of these records says, after a head."""

    def of(*records: Record, head: Record = HEAD) -> Told:
        path = tmp_path / "session-2026-02-03T09-00-6d1f0c2a.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in (head, *records)))
        return read(path)

    return of


def message(id: str, type: str, content: Any = "", **fields: Any) -> Record:
    return {"id": id, "timestamp": "2026-02-03T09:00:01.000Z", "type": type, "content": content, **fields}


def response(id: str | None, output: Any, name: str = "glob", key: str = "output") -> Record:
    own = {} if id is None else {"id": id}
    return {"functionResponse": {**own, "name": name, "response": {key: output}}}


def call(id: str, status: str = "success", output: Any = "a.py", **fields: Any) -> Record:
    result = [response(id, output)] if status in ("success", "error", "cancelled") else None
    return {"id": id, "name": "glob", "args": {"pattern": "*"}, "status": status, "result": result, **fields}


TOKENS = {"input": 100, "output": 5, "cached": 60, "thoughts": 7, "tool": 3, "total": 115}

# The samples.


def test_a_prompt_is_a_run_with_the_tokens_of_its_messages() -> None:
    found = read(LOG)
    assert [(str(run.status), run.output, run.turn_count) for run in found.runs] == [
        ("completed", "The test expects 4, but 1 + 2 is 3.", 3),
        ("failed", None, 0),
        ("cancelled", None, 0),
        ("cancelled", None, 1),
        ("completed", "You are welcome.", 1),
    ]
    first, failed = found.runs[:2]
    assert first.token_usage == {"input_tokens": 900, "output_tokens": 71, "cache_read_tokens": 3_500}
    assert first.provider_metadata == {
        "model": "gemini-2.5-flash",
        "models": ["gemini-2.5-pro", "gemini-2.5-flash"],
    }
    assert failed.error == {"message": "[API Error: You have exhausted your capacity on this model.]"}


def test_the_session_of_a_log_has_its_id_its_title_and_its_time() -> None:
    session = read(LOG).session
    assert session is not None
    assert (session.id, session.agent_id, session.metadata["title"]) == (
        SESSION,
        "gemini-cli",
        "A wrong expectation in test_sum.py",
    )
    assert session.created_at.isoformat() == "2026-02-03T09:00:00+00:00"
    assert session.metadata["project_hash"] == "3f5a9b7c"
    assert "rest" not in session.metadata


def test_what_a_log_repeats_is_one_event() -> None:
    found = read(LOG)
    calls = [event.correlation_id for event in found.of("tool_call_started")]
    results = [event.correlation_id for event in found.of("tool_call_completed", "tool_call_failed")]
    assert calls == results
    assert len(set(calls)) == len(calls) == 4
    assert len(found.of("token_usage_updated")) == 4


def test_the_call_of_a_sub_agent_names_its_session() -> None:
    (result,) = [data for data in read(LOG).data("tool_call_completed") if "session_id" in data]
    agent = read(DATA / "chats" / SESSION / f"{AGENT}.jsonl").session
    assert agent is not None
    assert (agent.id, agent.parent_session_id, agent.tags) == (result["session_id"], SESSION, ("subagent",))


def test_a_document_of_2025_reads_like_a_log() -> None:
    found = read(DOCUMENT)
    (run,) = found.runs
    assert run.token_usage == {"input_tokens": 1_200, "output_tokens": 54, "cache_read_tokens": 9_000}
    assert found.data("tool_call_completed", "tool_call_failed") == [
        {"output": "a.py\nb.py"},
        {
            "error": {
                "code": "cancelled",
                "message": "[Operation Cancelled] Reason: User cancelled the operation.",
            }
        },
    ]
    assert found.data("message_received")[0]["thinking"] == "**Listing**\nOne call is enough."


def test_a_document_and_the_log_that_continues_it_have_the_same_events(tmp_path: Path) -> None:
    document = json.loads(DOCUMENT.read_text())
    log = tmp_path / "session.jsonl"
    head = {name: value for name, value in document.items() if name != "messages"}
    log.write_text("".join(json.dumps(record) + "\n" for record in (head, *document["messages"])))
    assert read(log).events == read(DOCUMENT).events


def test_a_document_is_read_with_the_log_that_continues_it(tmp_path: Path) -> None:
    document = tmp_path / DOCUMENT.name
    document.write_bytes(DOCUMENT.read_bytes())
    reader = registry.find_reader(document)
    assert reader is not None
    assert reader.main_file(document) is None
    (tmp_path / f"{DOCUMENT.stem}.jsonl").write_bytes(LOG.read_bytes())
    assert reader.main_file(document) == tmp_path / f"{DOCUMENT.stem}.jsonl"


def test_the_calls_of_a_saved_conversation_have_their_results_without_ids() -> None:
    found = read(CHECKPOINT)
    (run,) = found.runs
    assert (run.input, run.output, run.token_usage) == ("How many files?", "Two.", {})
    assert [event.correlation_id for event in found.of("tool_call_started")] == ["3/glob-0", "3/glob-1"]
    ended = found.of("tool_call_completed", "tool_call_failed")
    assert [(event.correlation_id, event.data) for event in ended] == [
        ("3/glob-0", {"output": "a.py\nb.py"}),
        ("3/glob-1", {"error": "no match"}),
    ]


def test_an_exported_conversation_is_a_list_of_messages(tmp_path: Path) -> None:
    history = json.loads(CHECKPOINT.read_text())["history"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(history))
    assert [event.data for event in read(path).events] == [event.data for event in read(CHECKPOINT).events]


def test_the_list_of_prompts_is_passed_over_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "logs.json").write_bytes((DATA / "logs.json").read_bytes())
    (tmp_path / LOG.name).write_bytes(LOG.read_bytes())
    with asm.SessionStore("sqlite://", migrate=True) as store:
        report = import_files(store, [tmp_path])
    assert [reason for _, reason in report.skipped] == [
        "Gemini CLI's list of prompts, which are in the sessions, too"
    ]
    assert report.sessions == 1


@pytest.mark.parametrize(
    "path", [LOG, DOCUMENT, CHECKPOINT], ids=lambda path: path.suffixes[-1] + path.stem[:7]
)
def test_everything_that_a_file_says_is_in_the_session(path: Path) -> None:
    found = read(path)
    rows = [found.session, *found.runs, *found.events]
    kept = {value for row in rows if row is not None for value in values_of(row.to_dict())}
    texts = " ".join(each for each in kept if isinstance(each, str))
    lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
    ours = {"id", "type", "timestamp", "lastUpdated", "startTime", "status", "role"}
    for line in lines:
        said = values_of(json.loads(line), ours)
        lost = {value for value in said if value not in kept and str(value) not in texts}
        assert not lost


def values_of(value: Any, without: Iterable[str] = ()) -> list[Any]:
    if isinstance(value, dict):
        value = [each for name, each in value.items() if name not in without]
    if isinstance(value, list):
        return [inner for each in value for inner in values_of(each, without)]
    return [value]


# Single records.


def test_the_events_are_the_same_wherever_the_log_is_taken() -> None:
    lines = LOG.read_bytes().splitlines()
    whole = read(LOG)
    for cut in range(1, len(lines)):
        log = GeminiLog(LOG)
        taken: list[Transcript] = []
        for number, line in enumerate(lines, 1):
            log.add(line)
            taken += log.take() if number == cut else []
        found = Told([*taken, *log.take()])
        assert (found.events, found.by_id) == (whole.events, whole.by_id)


def test_cached_tokens_are_beside_the_input_and_thoughts_among_the_output(told: Callable[..., Told]) -> None:
    (run,) = told(message("1", "user", "Hi"), message("2", "gemini", "Hello", tokens=TOKENS)).runs
    assert run.token_usage == {"input_tokens": 43, "output_tokens": 12, "cache_read_tokens": 60}


@pytest.mark.parametrize(
    ("tokens", "counted"),
    [
        ({"input": 10, "cached": 30}, {"cache_read_tokens": 10}),
        ({"input": -1, "output": 2**70, "thoughts": True, "cached": "3"}, {}),
        ([1, 2], {}),
    ],
)
def test_impossible_tokens_do_not_stop_an_import(
    told: Callable[..., Told], tokens: Any, counted: Record
) -> None:
    (run,) = told(message("1", "user", "Hi"), message("2", "gemini", "Hello", tokens=tokens)).runs
    assert run.token_usage == counted


def test_tokens_that_come_later_count_once(told: Callable[..., Told]) -> None:
    first = message("2", "gemini", "Hello", tokens=None)
    second = message("2", "gemini", "Hello", tokens=TOKENS)
    found = told(message("1", "user", "Hi"), first, second, {**second, "toolCalls": [call("c")]})
    assert found.runs[0].token_usage["output_tokens"] == 12
    assert found.runs[0].turn_count == 1
    assert len(found.of("token_usage_updated", "message_received")) == 2


def test_a_call_has_a_result_when_it_has_ended(told: Callable[..., Told]) -> None:
    running = message("2", "gemini", toolCalls=[call("c", "executing")])
    assert not told(running).of("tool_call_completed", "tool_call_failed")
    ended = message("2", "gemini", toolCalls=[call("c", "error", "no such folder")])
    found = told(running, ended)
    assert found.data("tool_call_started") == [{"name": "glob", "input": {"pattern": "*"}}]
    assert found.data("tool_call_completed", "tool_call_failed") == [{"error": "no such folder"}]


def test_a_result_with_an_image_keeps_all_its_parts(told: Callable[..., Told]) -> None:
    parts = [response("c", "seen"), {"inlineData": {"mimeType": "image/png", "data": "aWc="}}]
    found = told(
        message("2", "gemini", toolCalls=[{**call("c"), "result": parts}]), message("3", "user", parts)
    )
    assert found.data("tool_call_completed") == [{"output": parts}]
    assert found.data("message_sent") == [{"role": "user", "content": parts[1:]}]


def test_a_call_in_the_content_and_in_the_list_of_calls_is_one(told: Callable[..., Told]) -> None:
    content = [{"functionCall": {"id": "c", "name": "glob", "args": {"pattern": "*"}}}]
    found = told(message("2", "gemini", content), message("2", "gemini", content, toolCalls=[call("c")]))
    assert len(found.of("tool_call_started")) == len(found.of("tool_call_completed")) == 1


def test_a_response_to_no_known_call_is_an_event(told: Callable[..., Told]) -> None:
    found = told(message("1", "user", [response("lost", "x")]), message("2", "user", [response(None, "y")]))
    assert found.data("tool_call_completed") == [{"output": "x"}, {"output": "y"}]
    assert found.runs == []


def test_a_response_without_an_id_belongs_to_a_call_that_has_no_result(told: Callable[..., Told]) -> None:
    calls = [call("c"), call("d", "executing")]
    found = told(message("1", "gemini", toolCalls=calls), message("2", "user", [response(None, "b.py")]))
    ended = found.of("tool_call_completed")
    assert [(event.correlation_id, event.data["output"]) for event in ended] == [("c", "a.py"), ("d", "b.py")]


@pytest.mark.parametrize("path", [LOG, DOCUMENT, CHECKPOINT], ids=["log", "document", "saved"])
def test_a_session_begins_with_its_creation(path: Path) -> None:
    assert [event.type for event in read(path).events][:2] == ["session_created", "message_sent"]


def test_a_message_without_content_is_no_message(told: Callable[..., Told]) -> None:
    found = told(message("1", "user", "Hi"), message("2", "gemini", ""), message("3", "gemini", None))
    assert found.of("message_received") == []
    assert found.runs[0].turn_count == 2


def test_a_response_of_another_shape_is_the_output(told: Callable[..., Told]) -> None:
    part = {"functionResponse": {"id": "c", "name": "glob", "response": "a.py"}}
    assert told(message("1", "user", [part])).data("tool_call_completed") == [{"output": [part]}]


def test_a_field_without_a_value_is_no_field(told: Callable[..., Told]) -> None:
    found = told(message("1", "gemini", "Hello", toolCalls=None, thoughts=None, tokens=None, model=None))
    assert [event.metadata for event in found.of("message_received")] == [{}]


def test_the_time_of_the_last_change_is_no_event(told: Callable[..., Told]) -> None:
    found = told({"$set": {"lastUpdated": "2026-02-04T09:00:00.000Z", "sessionId": SESSION}})
    assert [event.type for event in found.events] == ["session_created"]
    assert found.session is not None
    assert found.session.updated_at.isoformat() == "2026-02-04T09:00:00+00:00"


def test_a_part_that_is_replaced_stays_and_its_change_is_an_event(told: Callable[..., Told]) -> None:
    found = told(
        message("1", "user", "Hi"),
        message("2", "gemini", "Hello"),
        message("2", "gemini", "Good day"),
        message("2", "gemini", "Hello"),
    )
    assert found.data("message_received") == [{"role": "assistant", "content": "Hello"}]
    changes = found.data("gemini_cli.message_changed")
    assert [change["data"]["content"] for change in changes] == ["Good day", "Hello"]


def test_a_rewind_is_an_event_and_what_it_drops_stays(told: Callable[..., Told]) -> None:
    messages = [message(f"{number}", "user", f"Prompt {number}") for number in range(4)]
    found = told(*messages, {"$rewindTo": "2"}, {"$rewindTo": "gone"}, {"$rewindTo": "gone"})
    assert found.data("gemini_cli.rewound") == [
        {"to": "2", "dropped": ["2", "3"]},
        {"to": "gone", "dropped": ["0", "1"]},
        {"to": "gone", "dropped": []},
    ]
    assert len(found.of("message_sent")) == 4


def test_a_summary_that_replaces_the_history_is_no_prompt(told: Callable[..., Told]) -> None:
    history = [
        message("s", "user", "<state_snapshot/>"),
        message("t", "gemini", "Got it."),
        message("1", "user", "Hi"),
    ]
    found = told(message("1", "user", "Hi"), message("2", "gemini", "Hello"), {"$set": {"messages": history}})
    (run,) = found.runs
    assert (run.output, run.turn_count) == ("Hello", 1)
    assert found.data("gemini_cli.history_replaced") == [{"dropped": ["2"]}]


def test_a_head_in_one_line_with_its_messages_is_a_log(told: Callable[..., Told]) -> None:
    found = told(message("2", "gemini", "Hello"), head={**HEAD, "messages": [message("1", "user", "Hi")]})
    assert [run.output for run in found.runs] == ["Hello"]


def test_an_error_after_which_the_model_goes_on_does_not_fail_the_run(told: Callable[..., Told]) -> None:
    failed, answered = message("2", "error", "Timeout"), message("3", "gemini", "Hello")
    assert [str(run.status) for run in told(message("1", "user", "Hi"), failed, answered).runs] == [
        "completed"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<session_context>x",
        "<hook_context>x",
        "This is the Gemini CLI. We are setting up the context for our chat.",
    ],
)
def test_what_the_tool_writes_for_the_model_is_no_prompt(told: Callable[..., Told], text: str) -> None:
    found = told(message("1", "user", [{"text": text}]))
    assert found.runs == []
    assert found.data("message_sent") == [{"role": "user", "content": text}]


def test_a_record_of_a_new_kind_is_an_event(told: Callable[..., Told]) -> None:
    found = told(
        {"future": 1}, {"future": 1}, message("1", "plan-mode!", steps=[1]), {"$set": {"pinned": True}}
    )
    assert [event.type for event in found.events[1:]] == [
        "gemini_cli.record",
        "gemini_cli.record",
        "gemini_cli.plan_mode",
        "gemini_cli.session_changed",
    ]


def test_fields_of_other_types_are_kept_as_they_are(told: Callable[..., Told]) -> None:
    strange = {"toolCalls": "none", "thoughts": {"a": 1}, "timestamp": "yesterday", "extra": [None]}
    found = told({**message("1", "gemini", 5), **strange})
    (event,) = found.of("message_received")
    assert event.data["content"] == [5]
    assert event.metadata["rest"] == strange


def test_an_old_sub_agent_beside_its_session_has_a_session_of_its_own(told: Callable[..., Told]) -> None:
    session = told(message("1", "user", "Look"), head={**HEAD, "kind": "subagent"}).session
    assert session is not None
    assert session.id == f"{SESSION}/session-2026-02-03T09-00-6d1f0c2a"
    assert session.parent_session_id == SESSION


@pytest.mark.parametrize("path", [LOG, DOCUMENT, DATA / "chats" / SESSION / f"{AGENT}.jsonl"])
def test_the_head_of_a_file_tells_its_session(path: Path) -> None:
    reader = registry.find_reader(path)
    session = read(path).session
    assert reader is not None
    assert session is not None
    assert reader.session_id(path, path.read_bytes()[:300]) == session.id


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[1]", "line 2: expected an object, not list"),
        ('{"id": NaN}', "line 2: NaN is not a JSON number"),
        ('{"id": "1", "type": "user", "content": ' + "[" * 1_200 + "]" * 1_200 + "}", "deep"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "session.jsonl"
    path.write_text(f"{json.dumps(HEAD)}\n{line}\n{json.dumps(message('1', 'user', 'Hi'))}\n")
    with pytest.raises(ValidationError, match=fault):
        read(path)


def test_a_log_without_a_head_is_refused_after_some_lines() -> None:
    log = GeminiLog(LOG)
    with pytest.raises(ValidationError, match="none of the first"):
        for number in range(EARLY_MAX + 1):
            log.add(json.dumps(message(f"{number}", "user", "Hi")).encode())
    assert log.take() == []


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({**HEAD, "messages": 1}, "a list named `messages`"),
        ({**HEAD, "messages": [1]}, r"messages\[0\] must be an object, not int"),
        ({**HEAD, "sessionId": None, "messages": []}, "sessionId must be a text"),
        ([{"role": "user", "parts": []}, 1], "message 1 must be an object with a role"),
        ([{"role": "user", "parts": []}, {"role": 1}], "message 1 must be an object with a role"),
    ],
)
def test_a_document_of_another_shape_is_refused_with_the_place(
    tmp_path: Path, document: Any, fault: str
) -> None:
    path = tmp_path / "session.json"
    path.write_text(json.dumps(document, indent=2))
    with pytest.raises(ValidationError, match=fault):
        read(path)


def test_calls_with_one_id_are_one_call_and_its_changes(told: Callable[..., Told]) -> None:
    calls = [call("c"), {**call("c"), "name": "grep"}]
    content = [{"functionCall": {"id": "d", "name": name}} for name in ("glob", "grep")]
    found = told(message("1", "gemini", content, toolCalls=calls))
    assert [data["name"] for data in found.data("tool_call_started")] == ["glob", "glob"]
    assert [data["part"] for data in found.data("gemini_cli.message_changed")] == ["call d", "call c"]


def test_a_resumed_log_goes_on_in_the_same_session(tmp_path: Path) -> None:
    path = tmp_path / LOG.name
    lines = LOG.read_bytes().splitlines(keepends=True)
    with asm.SessionStore("sqlite://", migrate=True) as store:
        for number in (len(lines) // 2, len(lines)):
            path.write_bytes(b"".join(lines[:number]))
            os.utime(path, (MODIFIED_AT, MODIFIED_AT + number))
            assert import_files(store, [path]).failures == []
        stored = store.get_events(SESSION)
        assert [event.id for event in stored] == [event.id for event in read(path).events]
        assert store.maintenance.health_check() == []


def test_its_readers_are_registered() -> None:
    assert set(gemini_cli.READERS) <= set(registry.READERS)
