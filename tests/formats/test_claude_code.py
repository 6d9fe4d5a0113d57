"""Claude Code's logs as sessions, runs and events."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from asm import ValidationError
from asm.formats.claude_code import READER
from asm.formats.claude_code.conversation import EARLY_MAX
from asm.formats.claude_code.log import SESSIONS_MAX, ClaudeCodeLog
from asm.formats.claude_code.records import without
from tests.formats.claude_logs import REAL, SAMPLE, SESSION, Record, Told, Writer, read, total, write

OTHER = "0b7e6a52-93c4-4d1f-8e20-6c5a9f3d7b14"
A_CALL = "toolu_1"


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., Told]:
    """What a log of these records says of its one session."""

    def of(*records: Record) -> Told:
        (one,) = read(write(tmp_path / f"{SESSION}.jsonl", records)).values()
        return one

    return of


# The real files.

MAIN, AGENT = "29ccd257-68b1-427f-ae5f-6524b7cb6f20", "29ccd257-68b1-427f-ae5f-6524b7cb6f20/agent-a2271d1"
NAMES = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens")

FIGURES = {
    "b45ad5d8-81fb-4bcb-baba-19d9f503d731": (9, 8, (57, 1_931, 226_035, 34_345)),
    "198393f2-22db-477b-ac77-1825bea883ae": (12, 10, (102, 2_038, 654_807, 649_094)),
    MAIN: (2, 1, (2, 2, 36_009, 7_996)),
    AGENT: (10, 24, (4_466, 18, 236_968, 42_768)),
}
"""Messages, calls and tokens. Summed line by line, the tokens are up to three times as many."""

FILES = sorted(REAL.rglob("*.jsonl"))
real = pytest.mark.skipif(not FILES, reason="no ../shared/data/claude-code next to the repository")


@real
def test_a_message_of_several_records_counts_once_in_the_real_logs() -> None:
    sessions = {id: one for file in FILES for id, one in read(file).items()}
    found = {
        id: (
            sum(run.turn_count for run in one.runs.values()),
            len(one.of("tool_call_started")),
            tuple(one.tokens()[name] for name in NAMES),
        )
        for id, one in sessions.items()
    }
    assert found == FIGURES


@real
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem[:8])
def test_each_call_and_each_result_of_a_real_log_is_one_event(file: Path) -> None:
    assert_each_call_and_result(file)


def test_each_call_and_each_result_of_the_sample_is_one_event() -> None:
    assert_each_call_and_result(SAMPLE)


def assert_each_call_and_result(file: Path) -> None:
    blocks = [block for record in once(records_of(file)) for block in blocks_of(record)]
    events = [event for one in read(file).values() for event in one.events]
    calls = [event.correlation_id for event in events if event.type == "tool_call_started"]
    ended = ("tool_call_completed", "tool_call_failed")
    results = [event.correlation_id for event in events if event.type in ended]
    assert calls == [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert results == [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]


def records_of(file: Path) -> list[Record]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def once(records: list[Record]) -> Iterator[Record]:
    seen = set()
    for record in records:
        if (uuid := record.get("uuid")) is None or uuid not in seen:
            seen.add(uuid)
            yield record


def blocks_of(record: Record) -> list[dict[str, Any]]:
    content = record.get("message", {}).get("content")
    return content if isinstance(content, list) else []


# Nothing is lost.


@pytest.mark.parametrize("file", [SAMPLE, *FILES], ids=lambda file: file.stem[:8])
def test_everything_that_a_log_says_is_in_the_session(file: Path) -> None:
    kept: set[Any] = set()
    for one in read(file).values():
        rows = [one.session, *one.runs.values(), *one.events]
        kept |= {value for row in rows for value in values_of(row.to_dict())}
    for number, record in enumerate(records_of(file), 1):
        # The usage of a message is that of its last record, and an event has a type, a time and seconds.
        message = {name: each for name, each in record.get("message", {}).items() if name != "usage"}
        said = without(record, "timestamp", "message", "durationMs")
        types = {record["type"], record.get("subtype"), "text", "thinking", "tool_use", "tool_result"}
        lost = set(values_of([said, message])) - kept - types
        assert not lost, f"line {number}"


def values_of(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from values_of(each)
    elif value not in (None, False, "message"):
        yield value


@pytest.mark.parametrize("file", [SAMPLE, *FILES], ids=lambda file: file.stem[:8])
def test_where_a_log_is_divided_makes_no_difference(file: Path) -> None:
    whole = read(file)
    lines = range(len(records_of(file)))
    assert read(file, taken_after=lines) == whole


def test_a_record_without_a_uuid_is_an_event_as_often_as_it_is_in_the_log(told: Callable[..., Told]) -> None:
    mode = {"type": "permission-mode", "permissionMode": "plan", "sessionId": SESSION}
    writer = Writer()
    one = told(mode, writer.user("Hello"), mode, mode)
    assert len(one.of("claude_code.permission_mode")) == 3


def test_a_log_may_begin_with_any_number_of_records_without_a_time(told: Callable[..., Told]) -> None:
    mode = {"type": "permission-mode", "permissionMode": "plan", "sessionId": SESSION}
    assert len(told(*[mode] * (EARLY_MAX + 1)).events) == EARLY_MAX + 2


def test_a_log_without_a_session_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    log = ClaudeCodeLog(write(tmp_path / "any.jsonl", []))
    for _ in range(EARLY_MAX):
        log.add(b'{"type": "summary"}')
    with pytest.raises(ValidationError, match="none of the first 1,000 records has a sessionId"):
        log.add(b'{"type": "summary"}')


def test_a_log_of_too_many_sessions_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    log = ClaudeCodeLog(write(tmp_path / "any.jsonl", []))
    for number in range(SESSIONS_MAX):
        log.add(b'{"sessionId": "%d"}' % number)
    with pytest.raises(ValidationError, match="records of more than 10,000 sessions"):
        log.add(b'{"sessionId": "one more"}')


def test_an_event_has_the_fields_that_each_record_has_only_where_they_change(
    told: Callable[..., Told],
) -> None:
    writer = Writer(version="2.1", gitBranch="main")
    first, second = writer.user("Hello"), writer.says("Hi", requestId="req_1")
    writer.common["gitBranch"] = "other"
    one = told(first, second, writer.says("Ho", id="msg_2"))
    rests = [event.metadata["rest"] for event in one.of("message_sent", "message_received")]
    assert rests[0].keys() == {"uuid", "isSidechain", "cwd", "sessionId", "version", "gitBranch"}
    assert rests[1] == {"uuid": second["uuid"], "requestId": "req_1"}
    assert rests[2] == {"uuid": writer.last, "gitBranch": "other"}
    assert one.session.metadata | {"cwd": "/home/ada", "version": "2.1", "git_branch": "main"} == (
        one.session.metadata
    )


@pytest.mark.parametrize(("days", "status"), [(0, "active"), (2, "completed")])
def test_a_session_is_completed_when_its_log_has_not_grown_for_a_day(
    tmp_path: Path, days: int, status: str
) -> None:
    file = write(tmp_path / f"{SESSION}.jsonl", [Writer().user("Hello")])
    at = time.time() - days * 86_400
    os.utime(file, (at, at))
    assert read(file)[SESSION].session.status == status


def test_a_time_without_a_zone_is_utc(told: Callable[..., Told], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        one = told(Writer().user("Hello") | {"timestamp": "2026-02-03T09:00:00"})
    finally:
        monkeypatch.undo()
        time.tzset()
    assert one.events[-1].timestamp == datetime(2026, 2, 3, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "record",
    [
        {"type": "user"},
        {"type": "user", "message": "Hello"},
        {"type": "assistant", "message": {"content": 5, "usage": 7}},
        {"type": "system", "subtype": ["a"], "durationMs": "long"},
        {"type": "system", "subtype": "local_command", "content": {"a": 1}},
        {"type": "attachment", "attachment": {"type": "queued_command", "prompt": 5}},
        {"type": 17, "uuid": 5, "parentUuid": {}, "timestamp": "yesterday", "cwd": []},
        {"type": "summary", "summary": ["a"], "leafUuid": 5},
        {"type": "ai-title", "aiTitle": 5},
        {"type": "Ünknown thing/x" * 50, "value": 10**30},
        {"no": "type"},
    ],
    ids=str,
)
def test_a_record_that_is_not_known_is_an_event_of_its_own(told: Callable[..., Told], record: Record) -> None:
    writer = Writer()
    one = told(writer.user("Hello"), {"sessionId": SESSION, **record}, writer.says("Hi"))
    event = one.events[-2]
    assert event.type.startswith("claude_code.")
    assert set(values_of(record)) <= set(values_of(event.to_dict()))


def test_records_that_have_lost_the_line_break_between_them_are_read(tmp_path: Path) -> None:
    writer = Writer()
    records = [writer.user("Grüße \ud83d"), writer.says("Hi"), writer.says("Ho")]
    line = "".join(json.dumps(record, ensure_ascii=False) for record in records)
    file = tmp_path / f"{SESSION}.jsonl"
    file.write_bytes(line.encode("utf-8", "surrogatepass") + b"\n")
    contents = [data["content"] for data in read(file)[SESSION].data("message_sent", "message_received")]
    assert contents == ["Grüße \ud83d", "Hi", "Ho"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"[1]", "an object, not list"),
        (b"{}" * 17, "more than 16 records"),
        (b'{} {"a', "not JSON at column 2"),
        (b'{"a": NaN}', "not a JSON number"),
        (b'{"type": "us', "not JSON at column 10: Unterminated string"),
    ],
    ids=["a list", "too many", "cut after another", "NaN", "cut"],
)
def test_a_line_that_is_not_a_record_is_refused(line: bytes, error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        ClaudeCodeLog(SAMPLE).add(line)


# Tokens.


def test_the_last_record_of_a_message_has_its_tokens(told: Callable[..., Told]) -> None:
    writer = Writer()
    one = told(
        writer.user("List the files"),
        writer.says("I will.", output=1),
        writer.calls("toolu_1", output=7),
        # Tools run while the message is still streamed.
        writer.result("toolu_1"),
        writer.calls("toolu_2", output=30),
        writer.result("toolu_2"),
        writer.says("Two files.", id="msg_2", output=5, requestId="req_1"),
        writer.user("Thanks"),
    )
    run, _ = one.runs.values()
    tokens = {"input_tokens": 20, "output_tokens": 35, "cache_read_tokens": 200}
    assert (run.token_usage, run.turn_count) == (tokens, 2)
    assert [data["output_tokens"] for data in one.data("token_usage_updated")] == [30, 5]
    assert total(one.data("token_usage_updated")) == tokens
    usage = one.of("token_usage_updated")[0]
    assert usage.data["model"] == "claude-opus-4-5"
    assert usage.timestamp == one.of("tool_call_started")[-1].timestamp
    assert run.provider_metadata == {"model": "claude-opus-4-5"}


def test_a_message_that_may_go_on_has_no_usage_event_yet_but_its_run_has_the_tokens(
    told: Callable[..., Told],
) -> None:
    writer = Writer()
    prompt, answer = writer.user("Hello"), writer.says("Hi", output=3)
    one = told(prompt, answer)
    assert one.of("token_usage_updated") == []
    assert one.run.token_usage["output_tokens"] == 3


@pytest.mark.parametrize(
    "end", ["stop_reason", "turn_duration", "stop_hook_summary", "interruption", "compaction", "API error"]
)
def test_the_usage_of_a_message_is_an_event_when_the_message_has_ended(
    told: Callable[..., Told], end: str
) -> None:
    writer = Writer()
    stop_reason = "end_turn" if end == "stop_reason" else None
    records = [writer.user("Hello"), writer.says("Hi", output=3, stop_reason=stop_reason)]
    if end == "turn_duration":
        records.append(writer.record("system", subtype="turn_duration", durationMs=1500))
    elif end == "stop_hook_summary":
        records.append(writer.record("system", subtype="stop_hook_summary", hookCount=1))
    elif end == "interruption":
        records.append(writer.user("[Request interrupted by user]"))
    elif end == "compaction":
        records.append(writer.user("What was said.", isCompactSummary=True))
    elif end == "API error":
        records.append(an_api_error(writer))
    one = told(*records)
    assert [data["output_tokens"] for data in one.data("token_usage_updated")] == [3]
    assert one.run.token_usage["output_tokens"] == 3


def test_a_message_that_goes_on_after_another_counts_once(told: Callable[..., Told]) -> None:
    writer = Writer()
    one = told(
        writer.user("Hello"),
        writer.says("One", id="msg_1", output=3),
        writer.says("Two", id="msg_2", output=4),
        writer.says("One more", id="msg_1", output=9),
        writer.says("Three", id="msg_3", output=2),
        writer.user("Bye"),
    )
    run, _ = one.runs.values()
    assert (run.turn_count, run.token_usage["output_tokens"], run.token_usage["input_tokens"]) == (3, 15, 30)
    assert total(one.data("token_usage_updated")) == run.token_usage


@pytest.mark.parametrize(
    "usage",
    [
        *(None, {}, [5], {"input_tokens": -1}, {"input_tokens": "many"}),
        *({"input_tokens": 1, "output_tokens": each} for each in (-1, True, 10**13)),
    ],
    ids=str,
)
def test_a_usage_that_cannot_be_read_counts_nothing(told: Callable[..., Told], usage: Any) -> None:
    writer = Writer()
    one = told(writer.user("Hello"), writer.says("Hi", usage=usage), writer.user("Bye"))
    run, _ = one.runs.values()
    assert (run.token_usage, run.turn_count) == ({}, 1)


def test_a_message_without_an_id_counts_for_itself(told: Callable[..., Told]) -> None:
    writer = Writer()
    one = told(
        writer.user("Hello"), writer.says("Hi", id=None, output=3), writer.says("Ho", id=None, output=4)
    )
    assert (one.run.turn_count, one.run.token_usage["output_tokens"]) == (2, 7)


def test_a_run_with_several_models_names_them_all(told: Callable[..., Told]) -> None:
    writer = Writer()
    answers = [writer.says("Hi", id=f"msg_{number}", model=model) for number, model in enumerate("aba")]
    one = told(writer.user("Hello"), *answers)
    assert one.run.provider_metadata == {"model": "a", "models": ["b", "a"]}


# Prompts and runs.


def test_a_prompt_is_a_run_to_the_next_prompt(told: Callable[..., Told]) -> None:
    writer = Writer()
    records = [
        writer.record("progress", data={"type": "hook_progress"}),
        writer.user("List the files"),
        writer.calls("toolu_1", command="ls"),
        writer.result("toolu_1"),
        writer.says("Two files.", id="msg_2"),
        writer.user([{"type": "text", "text": "Thanks"}]),
        writer.says("(no content)", id="msg_3"),
    ]
    one = told(*records)
    first, second = one.runs.values()
    assert (first.input, first.output, first.status) == ("List the files", "Two files.", "completed")
    assert (second.input, second.output, second.status) == ("Thanks", None, "completed")
    assert (first.started_at.second, first.ended_at and first.ended_at.second) == (2, 5)
    runs = [event.run_id for event in one.events]
    # The usage of the last message of a run is its own, though it is read with the next prompt.
    assert runs == [None, None, *[first.id] * 6, second.id, second.id]


@pytest.mark.parametrize(
    ("content", "fields", "role"),
    [
        ("Caveat: these are local commands.", {"isMeta": True}, "system"),
        ("Only for the eyes of the user.", {"isVisibleInTranscriptOnly": True}, "system"),
        ("<local-command-stdout>Bye!</local-command-stdout>", {}, "tool"),
        ("<bash-stdout>a\nb</bash-stdout><bash-stderr></bash-stderr>", {}, "tool"),
    ],
)
def test_what_nobody_typed_is_no_prompt(
    told: Callable[..., Told], content: str, fields: dict[str, Any], role: str
) -> None:
    writer = Writer()
    one = told(writer.user(content, **fields))
    assert (one.runs, one.data("message_sent")[0]["role"]) == ({}, role)


@pytest.mark.parametrize(
    ("records", "status"),
    [
        (lambda _: [], "cancelled"),
        (lambda writer: [writer.says("Hi")], "completed"),
        (lambda writer: [writer.calls(A_CALL)], "completed"),
        (lambda writer: [writer.says("Hi"), writer.user("[Request interrupted by user]")], "cancelled"),
        (lambda writer: [writer.says("Hi"), an_api_error(writer)], "failed"),
        (lambda writer: [an_api_error(writer), writer.says("Hi")], "completed"),
        (lambda writer: [a_retry(writer), writer.says("Hi")], "completed"),
        (lambda writer: [writer.says("No response requested.", model="<synthetic>")], "cancelled"),
    ],
    ids=["unanswered", "answered", "called", "interrupted", "failed", "recovered", "retried", "synthetic"],
)
def test_the_last_thing_that_happened_in_a_run_is_its_status(
    told: Callable[..., Told], records: Callable[[Writer], list[Record]], status: str
) -> None:
    writer = Writer()
    prompt = writer.user("Hello")
    assert told(prompt, *records(writer)).run.status == status


def an_api_error(writer: Writer) -> Record:
    said = {"type": "text", "text": "API Error: 529 Overloaded"}
    return writer.assistant(said, "b7f0", model="<synthetic>", isApiErrorMessage=True, error="overloaded")


def a_retry(writer: Writer) -> Record:
    error = {"status": 529, "error": {"error": {"type": "overloaded_error", "message": "Overloaded"}}}
    return writer.record("system", subtype="api_error", level="error", error=error, retryAttempt=1)


def test_a_failed_request_is_an_error_and_not_a_message(told: Callable[..., Told]) -> None:
    writer = Writer()
    one = told(writer.user("Hello"), a_retry(writer), an_api_error(writer))
    assert one.data("error_occurred") == [
        {"code": "overloaded_error", "message": "Overloaded"},
        {"code": "overloaded", "message": "API Error: 529 Overloaded"},
    ]
    assert one.of("message_received") == []
    assert (one.run.error, one.run.token_usage) == (one.data("error_occurred")[1], {})


def test_a_message_of_claude_code_itself_is_no_run(told: Callable[..., Told]) -> None:
    one = told(Writer().says("No response requested.", model="<synthetic>"))
    assert (one.runs, len(one.of("message_received"))) == ({}, 1)


def test_what_a_command_prints_after_an_answer_does_not_end_the_run(told: Callable[..., Told]) -> None:
    writer = Writer()
    one = told(
        writer.user("Hello"),
        writer.says("Hi"),
        writer.user("<local-command-stdout>Compacted</local-command-stdout>"),
        writer.calls(A_CALL, id="msg_2"),
    )
    assert (one.run.output, one.run.turn_count) == ("Hi", 2)


def test_a_prompt_without_a_text_is_the_input_as_it_is(told: Callable[..., Told]) -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "iVBORw0KGgo="}}
    one = told(Writer().user([image]))
    assert (one.run.input, one.data("message_sent")[0]["content"]) == ([image], [image])


@pytest.mark.parametrize("beside_a_result", [False, True])
def test_an_interruption_cancels_a_run(told: Callable[..., Told], beside_a_result: bool) -> None:
    writer = Writer()
    block = {"type": "text", "text": "[Request interrupted by user for tool use]"}
    result = {"type": "tool_result", "tool_use_id": A_CALL, "content": "refused", "is_error": True}
    ended = writer.user([result, block] if beside_a_result else [block])
    one = told(writer.user("Hello"), writer.calls(A_CALL), ended)
    assert one.data("run_cancelled") == [{"reason": "[Request interrupted by user for tool use]"}]
    assert (one.run.status, len(one.of("message_sent"))) == ("cancelled", 1)


@pytest.mark.parametrize("is_user", [True, False], ids=["user", "system"])
@pytest.mark.parametrize(
    ("command", "output", "typed", "printed"),
    [
        (
            "<command-name>/model</command-name>\n<command-args>opus</command-args>",
            "<local-command-stdout>Set model</local-command-stdout>",
            "/model opus",
            "Set model",
        ),
        (
            "<bash-input>ls</bash-input>",
            "<bash-stdout>a</bash-stdout><bash-stderr>b</bash-stderr>",
            "!ls",
            "a\nb",
        ),
    ],
    ids=["slash", "bash"],
)
def test_a_command_is_shown_as_it_was_typed_and_costs_nothing(
    told: Callable[..., Told], is_user: bool, command: str, output: str, typed: str, printed: str
) -> None:
    writer = Writer()

    def record(text: str) -> Record:
        return (
            writer.user(text) if is_user else writer.record("system", subtype="local_command", content=text)
        )

    work = [writer.user("Now to work"), writer.says("Yes"), writer.user("More")]
    one = told(record(command), record(output), *work)
    first, second, _ = one.runs.values()
    assert (first.input, first.output, first.status, first.cost_usd) == (typed, printed, "completed", 0)
    assert (second.input, second.cost_usd) == ("Now to work", None)
    assert one.data("message_sent")[:2] == [
        {"role": "user", "content": typed},
        {"role": "tool", "content": printed},
    ]
    assert one.session.metadata["title"] == "Now to work"


def test_what_an_editor_adds_to_a_prompt_is_not_its_title(told: Callable[..., Told]) -> None:
    writer = Writer()
    context = {"type": "text", "text": "<ide_opened_file>The user opened greet.py</ide_opened_file>"}
    texts = [{"type": "text", "text": text} for text in ("Explain this", "Shorten it")]
    one = told(*[writer.user([context, text]) for text in texts])
    assert one.session.metadata["title"] == "Explain this"
    assert one.data("message_sent")[0] == {"role": "user", "content": [context, texts[0]]}


def test_a_title_is_only_made_of_a_prompt_if_the_first_message_says_something_else(
    told: Callable[..., Told],
) -> None:
    writer = Writer()
    one = told(writer.user("Hello"), writer.user("<command-name>/clear</command-name>"), writer.user("Again"))
    assert "title" not in one.session.metadata


def test_the_end_of_a_task_in_the_background_begins_a_run_but_is_not_said_by_the_user(
    told: Callable[..., Told],
) -> None:
    writer = Writer()
    one = told(
        writer.user("<task-notification><task-id>b1</task-id></task-notification>"), writer.says("Good.")
    )
    assert (one.data("message_sent")[0]["role"], one.run.output) == ("system", "Good.")


def test_a_command_that_the_model_answers_is_a_prompt(told: Callable[..., Told]) -> None:
    writer = Writer()
    one = told(
        writer.user(
            "<command-message>review is running</command-message>\n<command-name>/review</command-name>"
        ),
        writer.user("Review the pull request.", isMeta=True),
        writer.says("It is fine."),
    )
    assert (one.run.input, one.run.output, one.run.turn_count) == ("/review", "It is fine.", 1)


@pytest.mark.parametrize(
    "text",
    [
        "<command-name>",
        "<bash-input>ls",
        "<command-x></command-x>",
        "[Request interrupted by user] is what it says",
    ],
)
def test_a_prompt_that_only_looks_like_something_else_is_left_as_it_is(
    told: Callable[..., Told], text: str
) -> None:
    assert told(Writer().user(text)).run.input == text


def test_what_is_typed_while_the_agent_works_is_a_message_of_the_same_run(told: Callable[..., Told]) -> None:
    writer = Writer()

    def queued(prompt: str, mode: str, kind: str) -> Record:
        attachment = {
            "type": "queued_command",
            "prompt": prompt,
            "commandMode": mode,
            "origin": {"kind": kind},
        }
        return writer.record("attachment", attachment=attachment)

    one = told(
        writer.user("Hello"),
        queued("Be quick", "prompt", "human"),
        queued("<task-notification>", "task-notification", "human"),
        queued("<task-notification>", "prompt", "task-notification"),
        writer.says("Hi"),
    )
    assert [data["content"] for data in one.data("message_sent")] == ["Hello", "Be quick"]
    assert len(one.of("claude_code.attachment")) == 2
    assert one.run.input == "Hello"


def test_messages_without_a_prompt_have_a_run_that_counts_their_tokens(told: Callable[..., Told]) -> None:
    writer = Writer()
    summary = writer.user("What was said in another log.", isCompactSummary=True)
    one = told(summary, writer.says("I go on.", output=5))
    assert (one.run.input, one.run.output, one.run.token_usage["output_tokens"]) == (None, "I go on.", 5)


# The order and the tree.


def test_the_order_is_that_of_the_log(told: Callable[..., Told]) -> None:
    writer = Writer()
    prompt, answer = writer.user("Hello"), writer.says("Hi")
    answer["timestamp"] = "2026-02-03T08:30:00.000Z"
    late = writer.user("Bye") | {"timestamp": "2026-02-03T08:00:00.000Z", "parentUuid": "of another log"}
    one = told(prompt, answer, late)
    assert [event.data.get("content") for event in one.of("message_sent", "message_received")] == [
        "Hello",
        "Hi",
        "Bye",
    ]
    assert [run.started_at == run.ended_at for run in one.runs.values()] == [True, True]
    assert one.session.updated_at == one.of("message_sent")[0].timestamp > one.events[-1].timestamp
    assert one.events[-1].metadata["rest"]["parentUuid"] == "of another log"


@pytest.mark.parametrize("place", [0, 1], ids=["before the answer", "after the answer"])
def test_a_rewind_keeps_both_branches_and_says_where_the_second_begins(
    told: Callable[..., Told], place: int
) -> None:
    writer = Writer()
    first = [writer.user("Hello"), writer.says("Hi")]
    abandoned = [writer.user("In French"), writer.says("Bonjour", id="msg_2")]
    writer.last = first[place]["uuid"]
    one = told(*first, *abandoned, writer.user("In Dutch"), writer.says("Hoi", id="msg_3"))
    assert one.data("claude_code.rewound") == [{"to": first[place]["uuid"]}]
    contents = [event.data["content"] for event in one.of("message_sent", "message_received")]
    assert contents == ["Hello", "Hi", "In French", "Bonjour", "In Dutch", "Hoi"]
    assert len(one.runs) == 3


def test_parallel_calls_are_no_rewind(told: Callable[..., Told]) -> None:
    writer = Writer()
    prompt, first, second = writer.user("Hello"), writer.calls("toolu_1"), writer.calls("toolu_2")
    late = writer.result("toolu_2") | {"parentUuid": second["uuid"]}
    early = writer.result("toolu_1") | {"parentUuid": first["uuid"]}
    last = writer.says("Done.", id="msg_2") | {"parentUuid": early["uuid"]}
    one = told(prompt, first, second, late, early, last, writer.user("Thanks"))
    assert one.of("claude_code.rewound") == []
    assert [event.correlation_id for event in one.of("tool_call_completed")] == ["toolu_2", "toolu_1"]


# Compaction.


def test_a_compaction_is_one_event_with_its_summary_and_no_prompt(told: Callable[..., Told]) -> None:
    writer = Writer()
    metadata = {"trigger": "auto", "preTokens": 155_310, "preservedSegment": {"headUuid": "x"}}
    boundary = writer.record(
        "system", subtype="compact_boundary", compactMetadata=metadata, content="Conversation compacted"
    )
    summary = writer.user("This session is being continued.", isCompactSummary=True)
    one = told(writer.user("Hello"), writer.says("Hi"), boundary, summary, writer.says("Ho", id="msg_2"))
    data = {"trigger": "auto", "pre_tokens": 155_310, "summary": "This session is being continued."}
    assert one.data("claude_code.compacted") == [data]
    assert (one.run.input, one.run.turn_count, one.run.output) == ("Hello", 2, "Ho")
    assert [data["content"] for data in one.data("message_sent")] == ["Hello"]


def test_a_compaction_without_a_summary_is_an_event(told: Callable[..., Told]) -> None:
    writer = Writer()
    boundary = writer.record("system", subtype="compact_boundary", compactMetadata=None)
    one = told(writer.user("Hello"), boundary, writer.says("Hi"))
    assert [event.type for event in one.events][-2:] == ["claude_code.compacted", "message_received"]


def test_records_that_a_compaction_repeats_count_once(told: Callable[..., Told]) -> None:
    writer = Writer()
    records = [writer.user("Hello"), writer.calls(A_CALL), writer.result(A_CALL), writer.says("Hi", "msg_2")]
    again = [{**record, "cwd": "/elsewhere"} for record in records]
    one = told(*records, *again, writer.says("Ho", "msg_3"))
    assert len(one.of("message_sent", "message_received", "tool_call_started", "tool_call_completed")) == 5
    assert one.run.turn_count == 3
    assert one.session.metadata["cwd"] == "/home/ada"


# Logs of several sessions.


def test_a_record_belongs_to_the_session_that_it_names(tmp_path: Path) -> None:
    first, second = Writer(OTHER), Writer(SESSION)
    snapshot = {"type": "file-history-snapshot", "messageId": "m", "snapshot": {}}
    records = [snapshot, first.user("Hello"), first.says("Hi"), second.user("Again"), second.says("Yes")]
    told = read(write(tmp_path / f"{SESSION}.jsonl", records))
    assert {id: one.run.input for id, one in told.items()} == {OTHER: "Hello", SESSION: "Again"}
    assert len(told[SESSION].of("claude_code.file_history_snapshot")) == 1


def test_what_a_log_repeats_of_a_session_is_left_to_the_log_of_that_session(tmp_path: Path) -> None:
    first, second = Writer(OTHER), Writer(SESSION)
    records = [first.user("Hello"), first.says("Hi"), first.calls(A_CALL, "msg_2"), first.result(A_CALL)]
    write(tmp_path / f"{OTHER}.jsonl", records)
    told = read(write(tmp_path / f"{SESSION}.jsonl", [*records[:2], second.user("Again")]))
    assert list(told) == [SESSION]


def test_the_id_of_a_session_is_no_path(tmp_path: Path) -> None:
    write(tmp_path / "other.jsonl", [])
    file = write(tmp_path / "logs" / f"{SESSION}.jsonl", [Writer("../other").user("Hello")])
    assert list(read(file)) == ["../other"]


def test_a_log_of_any_name_has_the_session_of_its_records(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path / "full.jsonl", [{"type": "summary"}, Writer().user("Hello")])).values()
    assert (one.session.id, one.session.metadata["file"]) == (SESSION, "full.jsonl")
    assert len(one.of("claude_code.summary")) == 1


def test_a_log_that_only_has_titles_of_other_conversations_is_no_session(tmp_path: Path) -> None:
    title = {"type": "summary", "summary": "Greeting", "leafUuid": OTHER}
    assert read(write(tmp_path / f"{SESSION}.jsonl", [title, title])) == {}


def test_a_fork_does_not_count_the_tokens_of_its_original(told: Callable[..., Told]) -> None:
    writer = Writer()
    copied: Any = {"forkedFrom": {"sessionId": OTHER, "messageUuid": "m"}}
    one = told(
        writer.user("Hello", **copied),
        writer.says("Hi", **copied),
        writer.user("More"),
        writer.says("Ho", "m2"),
    )
    first, second = one.runs.values()
    assert (first.status, first.output, first.token_usage, first.cost_usd) == ("completed", "Hi", {}, 0)
    assert second.turn_count == 1
    assert (one.session.parent_session_id, one.session.metadata["forked_from"]) == (OTHER, OTHER)
    assert one.session.tags == ()


# Titles.


@pytest.mark.parametrize(
    ("titles", "title"),
    [
        (
            [
                ("ai-title", "aiTitle", "A"),
                ("custom-title", "customTitle", "C"),
                ("ai-title", "aiTitle", "B"),
            ],
            "C",
        ),
        ([("ai-title", "aiTitle", "A"), ("ai-title", "aiTitle", "B")], "B"),
        ([("custom-title", "customTitle", "A"), ("custom-title", "customTitle", " ")], "A"),
        ([], None),
    ],
)
def test_the_title_is_the_last_one_that_a_person_or_the_agent_gave(
    told: Callable[..., Told], titles: list[tuple[str, str, str]], title: str | None
) -> None:
    records = [{"type": type, name: value, "sessionId": SESSION} for type, name, value in titles]
    assert told(Writer().user("Hello"), *records).session.metadata.get("title") == title


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("is_own", [True, False])
def test_a_summary_is_the_title_of_the_conversation_that_has_its_record(
    told: Callable[..., Told], is_first: bool, is_own: bool
) -> None:
    prompt = Writer().user("Hello")
    summary = {"type": "summary", "summary": "Greeting", "leafUuid": prompt["uuid"] if is_own else OTHER}
    one = told(summary, prompt) if is_first else told(prompt, summary)
    assert one.session.metadata.get("title") == ("Greeting" if is_own else None)


# Content.


@pytest.mark.parametrize(
    ("block", "type", "data"),
    [
        ({"type": "text", "text": "Hi", "citations": [1]}, "message_received", {"content": "Hi"}),
        ({"type": "thinking", "thinking": "Hm", "signature": "s"}, "message_received", {"thinking": "Hm"}),
        (
            {"type": "thinking", "thinking": "", "signature": "s"},
            "message_received",
            {"content": [{"type": "thinking", "thinking": "", "signature": "s"}]},
        ),
        (
            {"type": "redacted_thinking", "data": "x"},
            "message_received",
            {"content": [{"type": "redacted_thinking", "data": "x"}]},
        ),
        ("Hi", "message_received", {"content": ["Hi"]}),
        ({"type": "text", "text": 5}, "message_received", {"content": [{"type": "text", "text": 5}]}),
        (
            {"type": "server_tool_use", "id": A_CALL, "name": "web_search", "input": {"query": "q"}},
            "tool_call_started",
            {"name": "web_search", "input": {"query": "q"}},
        ),
        (
            {"type": "web_search_tool_result", "tool_use_id": A_CALL, "content": [{"type": "x"}]},
            "tool_call_completed",
            {"output": [{"type": "x"}]},
        ),
    ],
    ids=lambda value: value.get("type", "data") if isinstance(value, dict) else str(value),
)
def test_each_block_of_a_message_is_an_event(
    told: Callable[..., Told], block: Any, type: str, data: dict[str, Any]
) -> None:
    writer = Writer()
    event = told(writer.user("Hello"), writer.assistant(block)).events[-1]
    said = {"role": "assistant", "message_id": "msg_1"} if type == "message_received" else {}
    assert (event.type, event.data) == (type, {**said, **data})
    assert event.correlation_id == (A_CALL if type.startswith("tool") else None)


def test_a_message_with_several_blocks_in_one_record_is_several_events(told: Callable[..., Told]) -> None:
    writer = Writer()
    call = {"type": "tool_use", "id": A_CALL, "name": "Bash", "input": {}}
    one = told(writer.user("Hello"), writer.assistant([{"type": "text", "text": "Hi"}, call]))
    assert [event.type for event in one.events[-2:]] == ["message_received", "tool_call_started"]
    assert one.run.turn_count == 1


@pytest.mark.parametrize(
    ("content", "is_error", "type", "data"),
    [
        ("done", None, "tool_call_completed", {"output": "done"}),
        ("done", False, "tool_call_completed", {"output": "done"}),
        (None, None, "tool_call_completed", {"output": None}),
        (
            [{"type": "tool_reference", "tool_name": "Read"}],
            None,
            "tool_call_completed",
            {"output": [{"type": "tool_reference", "tool_name": "Read"}]},
        ),
        ("no", True, "tool_call_failed", {"error": "no"}),
        ([{"type": "text", "text": "no"}], True, "tool_call_failed", {"error": "no"}),
        (None, True, "tool_call_failed", {"error": {"message": "the tool failed"}}),
        (
            [{"type": "text", "text": "no"}, {"type": "image"}],
            True,
            "tool_call_failed",
            {"error": {"message": "no", "content": [{"type": "text", "text": "no"}, {"type": "image"}]}},
        ),
    ],
    ids=str,
)
def test_the_result_of_a_tool_is_what_it_returned_or_why_it_failed(
    told: Callable[..., Told], content: Any, is_error: bool | None, type: str, data: dict[str, Any]
) -> None:
    writer = Writer()
    result = writer.result(A_CALL, content, is_error=is_error, toolUseResult={"stdout": "done"})
    event = told(writer.user("Hello"), writer.calls(A_CALL), result).events[-1]
    assert (event.type, event.data, event.correlation_id) == (type, data, A_CALL)
    assert event.metadata["toolUseResult"] == {"stdout": "done"}


def test_a_record_with_two_results_is_two_events(told: Callable[..., Told]) -> None:
    writer = Writer()
    blocks = [{"type": "tool_result", "tool_use_id": f"toolu_{name}", "content": name} for name in "ab"]
    one = told(writer.user("Hello"), writer.user(blocks, toolUseResult="a", sourceToolAssistantUUID="u"))
    first, second = one.of("tool_call_completed")
    assert (first.correlation_id, second.correlation_id) == ("toolu_a", "toolu_b")
    assert (first.metadata["toolUseResult"], first.metadata["rest"]["sourceToolAssistantUUID"]) == ("a", "u")
    assert second.metadata == {}


def test_a_text_block_with_other_fields_stays_a_block(told: Callable[..., Told]) -> None:
    block = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    one = told(Writer().user([block]))
    assert (one.run.input, one.data("message_sent")[0]["content"]) == ("Hello", [block])


def test_what_a_message_says_of_itself_is_kept_if_it_is_not_the_usual(told: Callable[..., Told]) -> None:
    record = Writer().user("Hello")
    record["message"] |= {"role": "developer", "type": "note"}
    assert told(record).events[-1].metadata["rest"]["message"] == {"role": "developer", "type": "note"}


def test_a_lone_surrogate_and_a_long_integer_are_kept(tmp_path: Path) -> None:
    line = json.dumps(Writer().user("\ud83d", n=10**40)) + "\n"
    file = tmp_path / f"{SESSION}.jsonl"
    file.write_text(line)
    event = read(file)[SESSION].events[-1]
    assert (event.data["content"], event.metadata["rest"]["n"]) == ("\ud83d", 10**40)


@pytest.mark.parametrize("id", ["", "x" * 300, "a\0b", 5], ids=["empty", "long", "NUL", "number"])
def test_a_call_whose_id_a_store_cannot_have_keeps_it_in_its_metadata(
    told: Callable[..., Told], id: Any
) -> None:
    writer = Writer()
    call = writer.assistant({"type": "tool_use", "id": id, "name": "Bash", "input": {}})
    event = told(writer.user("Hello"), call).events[-1]
    assert (event.correlation_id, event.metadata["rest"]["id"]) == (None, id)


def test_a_turn_has_its_duration(told: Callable[..., Told]) -> None:
    writer = Writer()
    turn = writer.record("system", subtype="turn_duration", durationMs=1500)
    assert told(writer.user("Hello"), turn).data("turn_completed") == [{"duration_s": 1.5}]


@pytest.mark.parametrize("duration", [-1, 10**400, True, "long"], ids=["negative", "huge", "bool", "text"])
def test_a_duration_that_is_none_is_kept_as_it_is(told: Callable[..., Told], duration: Any) -> None:
    writer = Writer()
    turn = writer.record("system", subtype="turn_duration", durationMs=duration)
    event = told(writer.user("Hello"), turn).events[-1]
    assert (event.data, event.metadata["rest"]["durationMs"]) == ({}, duration)


# Recognition.


def test_a_log_is_recognised_by_its_first_records() -> None:
    writer = Writer()
    starts = [
        json.dumps({"parentUuid": None, "isSidechain": False, "message": {"content": "x" * 9_000}})[:4_096],
        json.dumps(writer.user("Hello")),
        '{"type":"summary","summary":"Greeting","leafUuid":"5e1f"}',
        '{"type":"file-history-snapshot","messageId":"5e1f","snapshot":{}}',
        '{"type":"queue-operation","operation":"dequeue","timestamp":"2026","sessionId":"5e1f"}',
        '{"type":"unknown-marker"}\n' + json.dumps(writer.user("Hello")),
    ]
    assert [READER.sniff(Path("any"), start.encode()) for start in starts] == [True] * len(starts)


@pytest.mark.parametrize(
    "start",
    [
        '{"timestamp":"2026","type":"session_meta","payload":{"id":"5e1f"}}',
        '{"sessionId":"5e1f","projectHash":"a","startTime":"2026","kind":"main"}',
        '{"schema_version": "ATIF-v1.4", "session_id": "5e1f"}',
        '{"id": 0, "timestamp": "2026", "source": "agent", "message": ""}',
        '{"format": "asm-export", "version": 1}',
        "",
        '["parentUuid", "isSidechain"]',
    ],
)
def test_a_file_of_another_format_is_not_recognised(start: str) -> None:
    assert not READER.sniff(Path(f"{SESSION}.jsonl"), start.encode())


@pytest.mark.parametrize(
    ("path", "id"),
    [
        (f"projects/-home-ada/{SESSION}.jsonl", SESSION),
        ("full.jsonl", OTHER),
        ("agent-a1.jsonl", f"{OTHER}/agent-a1"),
        (f"{SESSION}/subagents/agent-a1.jsonl", f"{SESSION}/agent-a1"),
        (f"{SESSION}/subagents/workflows/wf_1/agent-a1.jsonl", f"{SESSION}/agent-a1"),
    ],
)
def test_the_session_of_a_log_is_known_from_its_path_or_its_head(path: str, id: str) -> None:
    for length in (5, 9_000):
        head = '{"type":"summary"}\n' + json.dumps(Writer(OTHER).user("x" * length)) + '\n{"cut'
        assert READER.session_id(Path(path), head.encode()[:4_096]) == id
