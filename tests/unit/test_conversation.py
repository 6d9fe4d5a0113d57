"""Events as entries of a conversation: deltas are joined, and nothing is shown twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.content import Part, Text, Thinking, ToolCall, ToolResult
from asm.conversation import Entry, command_text, entries_of
from asm.models import Event, EventType
from tests.unit.test_content import HOSTILE_DATA


def entries(*events: tuple[str, dict[str, Any]], run_id: str = "run_1") -> list[Entry]:
    """The entries of events of one run. A `correlation_id` in the data is that of the event."""
    return list(entries_of(numbered(*events, run_id=run_id)))


def numbered(*events: tuple[str, dict[str, Any]], run_id: str = "run_1") -> Iterator[Event]:
    for number, (type, data) in enumerate(events, 1):
        yield Event(
            type=type,
            session_id="ses_1",
            run_id=data.get("run_id", run_id),
            data={key: value for key, value in data.items() if key not in ("run_id", "correlation_id")},
            correlation_id=data.get("correlation_id"),
            sequence_number=number,
        )


def parts(found: list[Entry]) -> list[tuple[int | None, list[Part]]]:
    return [(entry.event.sequence_number, list(entry.content.parts)) for entry in found]


def delta(text: str, **data: Any) -> tuple[str, dict[str, Any]]:
    return "message_streamed", {"delta": text, **data}


DONE = ("message_received", {"role": "assistant", "content": "Hello"})


def test_deltas_are_joined_to_one_message() -> None:
    [entry] = entries(delta("Hel"), delta("lo"), delta("\nyou"))
    assert (entry.event.sequence_number, entry.last) == (1, 3)
    assert (entry.role, entry.content.text) == ("assistant", "Hello\nyou")


def test_deltas_are_left_out_where_the_finished_message_follows() -> None:
    assert parts(entries(delta("Hel"), delta("lo"), DONE)) == [(3, [Text("Hello")])]


def test_usage_in_the_middle_of_a_message_does_not_end_it() -> None:
    usage = "token_usage_updated", {"input_tokens": 3}
    assert parts(entries(delta("Hel"), usage, delta("lo"), usage, DONE))[2:] == [(5, [Text("Hello")])]


@pytest.mark.parametrize("end", ["run_failed", "tool_call_started"])
def test_the_deltas_of_a_message_that_was_not_finished_are_shown(end: str) -> None:
    assert parts(entries(delta("Hel"), delta("lo"), (end, {})))[0] == (1, [Text("Hello")])


def test_the_message_of_a_user_does_not_finish_deltas() -> None:
    found = entries(delta("Hel"), ("message_sent", {"content": "stop"}), DONE)
    assert parts(found) == [(1, [Text("Hel")]), (2, [Text("stop")]), (3, [Text("Hello")])]


def test_thinking_that_the_finished_message_does_not_have_is_kept() -> None:
    thought = "message_streamed", {"delta": {"type": "thinking_delta", "thinking": "hm"}}
    assert parts(entries(thought, delta("Hello"), DONE)) == [(1, [Thinking("hm")]), (3, [Text("Hello")])]


def test_deltas_of_two_runs_are_joined_each_by_itself() -> None:
    found = entries(delta("a"), delta("x", run_id="run_2"), delta("b"), delta("y", run_id="run_2"))
    assert parts(found) == [(1, [Text("ab")]), (2, [Text("xy")])]


def test_the_json_of_a_call_is_left_out_where_the_call_follows() -> None:
    json = "message_streamed", {"delta": {"type": "input_json_delta", "partial_json": '{"a"'}}
    call = "tool_call_started", {"name": "f", "input": {"a": 1}}
    assert parts(entries(json, call)) == [(2, [ToolCall("f", {"a": 1})])]
    assert parts(entries(json)) == [(1, [ToolCall(None, '{"a"')])]


def test_no_more_than_a_few_unfinished_messages_are_kept() -> None:
    found = entries_of(numbered(*[delta("x", run_id=f"run_{n}") for n in range(1_000)]))
    assert next(found).content.text == "x"
    assert len(list(found)) == 999


CALL = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "c", "content": "x"}


def test_a_call_and_its_result_are_shown_by_their_own_events() -> None:
    found = entries(
        ("message_received", {"role": "assistant", "content": [{"type": "text", "text": "t"}, CALL]}),
        ("tool_call_started", {"name": "f", "input": {"a": 1}, "correlation_id": "c"}),
        ("tool_call_completed", {"output": "x", "correlation_id": "c"}),
        ("message_sent", {"role": "user", "content": [RESULT]}),
    )
    assert parts(found) == [(1, [Text("t")]), (2, [ToolCall("f", {"a": 1})]), (3, [ToolResult("x")])]


def test_a_call_and_its_result_without_events_of_their_own_are_shown_by_the_messages() -> None:
    found = entries(
        ("message_received", {"role": "assistant", "content": [CALL]}),
        ("message_sent", {"role": "user", "content": [RESULT]}),
    )
    assert parts(found) == [(1, [ToolCall("f", {"a": 1}, "c")]), (2, [ToolResult("x", id="c")])]


def test_calls_of_the_same_id_in_different_turns_are_all_shown() -> None:
    turn: list[tuple[str, dict[str, Any]]] = [
        ("message_received", {"role": "assistant", "content": "t"}),
        ("tool_call_started", {"name": "f", "input": {}, "correlation_id": "call_0"}),
        ("tool_call_completed", {"output": "x", "correlation_id": "call_0"}),
    ]
    assert len(entries(*turn, *turn)) == 6
    messages: list[tuple[str, dict[str, Any]]] = [
        ("message_received", {"role": "assistant", "content": [CALL]}),
        ("message_sent", {"role": "user", "content": [RESULT]}),
    ]
    assert len(entries(*messages, *messages)) == 4


def test_a_command_that_a_message_repeats_at_its_end_is_left_out_of_it() -> None:
    call = "tool_call_started", {"name": "bash", "input": "ls -F\n"}
    for text in ("Look.\n```\nls -F\n```", "Look.\n```bash\nls -F```", "Look.\n<run>ls -F</run>"):
        assert parts(entries(("message_received", {"content": text}), call))[0] == (1, [Text("Look.")])
    for text in ("Maybe ls -F will tell.", "```\nls -F\n```\nsays more"):
        assert parts(entries(("message_received", {"content": text}), call))[0] == (1, [Text(text)])


_TOLD = st.sampled_from([EventType.MESSAGE_RECEIVED, EventType.MESSAGE_STREAMED, EventType.TOOL_CALL_STARTED])


@given(st.lists(st.tuples(_TOLD, HOSTILE_DATA), max_size=6))
def test_no_events_raise(events: list[tuple[str, dict[str, Any]]]) -> None:
    for entry in entries_of(numbered(*[(type, {**data, "run_id": "run_1"}) for type, data in events])):
        assert all(isinstance(command_text(call), str) for call in entry.content.calls)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (ToolCall("Bash", {"command": "ls -la"}), "ls -la"),
        (ToolCall("bash", {"command": ["ls", "-la"]}), "ls -la"),
        (ToolCall("bash", {"command": "ls", "timeout": 3}), "ls\ntimeout: 3"),
        (ToolCall("search", {"command": "ls", "n": 3}), "command: ls\nn: 3"),
        (ToolCall("edit", {"old": "a\nb"}), "old: a\n  b"),
        (ToolCall("f", None), ""),
    ],
)
def test_a_call_is_written_as_its_command_or_its_input(call: ToolCall, text: str) -> None:
    assert command_text(call) == text
