"""Transcripts of events as a manager, an importer or agent_session_manager stores them."""

from __future__ import annotations

from typing import Any

import pytest

import asm
from asm.agents import Transcript
from tests.agents.conftest import manager_of


def event(type: str, data: dict[str, Any], id: str | None = None, run_id: str | None = None) -> asm.Event:
    return asm.Event(type=type, session_id="ses_1", data=data, correlation_id=id, run_id=run_id)


def asked(text: str) -> asm.Event:
    return event("message_sent", {"role": "user", "content": text})


def answered(text: str) -> asm.Event:
    return event("message_received", {"role": "assistant", "content": text})


CALLED = {
    "role": "assistant",
    "content": "Let me see.",
    "tool_calls": [{"id": "c1", "name": "ls", "input": {"p": 1}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "42", "is_error": False}

SHAPES: dict[str, list[asm.Event]] = {
    "ours": [
        answered("Let me see."),
        event("tool_call_started", {"name": "ls", "input": {"p": 1}}, "c1"),
        event("tool_call_completed", {"output": "42"}, "c1"),
    ],
    "agent_session_manager": [
        answered("Let me see."),
        event("tool_call_started", {"tool_call_id": "c1", "tool_name": "ls", "tool_input": {"p": 1}}),
        event("tool_call_completed", {"tool_call_id": "c1", "tool_name": "ls", "tool_output": "42"}),
    ],
    "openai chat": [
        event(
            "message_received",
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": '{"p": 1}'}}
                ],
            },
        ),
        event("message_sent", {"role": "tool", "tool_call_id": "c1", "content": "42"}),
    ],
    "a call told twice": [
        event(
            "message_received",
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [{"id": "c1", "name": "ls", "input": {"p": 1}}],
            },
        ),
        event("tool_call_started", {"name": "ls", "input": {"p": 1}}, "c1"),
        event("tool_call_completed", {"output": "42"}, "c1"),
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_calls_and_results_are_read_in_every_shape(shape: str) -> None:
    transcript = Transcript.from_events([asked("Hi"), *SHAPES[shape]])

    assert list(transcript.messages) == [{"role": "user", "content": "Hi"}, CALLED, RESULT]


def test_blocks_of_anthropic_stay_as_they_are_without_calls_and_results() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    text = {"type": "text", "text": "Let me see."}
    use = {"type": "tool_use", "id": "c1", "name": "ls", "input": {"p": 1}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "42"}]}

    transcript = Transcript.from_events(
        [
            asked("Hi"),
            event("message_received", {"role": "assistant", "content": [thinking, text, use]}),
            event("tool_call_started", {"name": "ls", "input": {"p": 1}}, "c1"),
            event("message_sent", {"role": "user", "content": [result]}),
        ]
    )

    assert list(transcript.messages) == [
        {"role": "user", "content": "Hi"},
        {**CALLED, "content": [thinking, text]},
        RESULT,
    ]


def test_calls_of_tools_that_the_provider_runs_itself_are_content() -> None:
    blocks = [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "text", "text": "Found."},
    ]
    message = event("message_received", {"role": "assistant", "content": blocks})

    assert list(Transcript.from_events([message]).messages) == [{"role": "assistant", "content": blocks}]


def test_a_call_without_a_result_is_answered_interrupted() -> None:
    events = [
        asked("Hi"),
        event("tool_call_started", {"name": "a"}, "c1"),
        event("tool_call_started", {"name": "b"}, "c2"),
        event("tool_call_completed", {"output": {"rows": 2}}, "c2"),
        asked("Go on."),
    ]

    results = [each for each in Transcript.from_events(events).messages if each["role"] == "tool"]

    assert results == [
        {"role": "tool", "tool_call_id": "c1", "content": "interrupted", "is_error": True},
        {"role": "tool", "tool_call_id": "c2", "content": '{"rows": 2}', "is_error": False},
    ]


def test_a_result_whose_call_was_pruned_is_left_out() -> None:
    events = [event("tool_call_completed", {"output": "42"}, "c1"), asked("Hi")]

    assert list(Transcript.from_events(events).messages) == [{"role": "user", "content": "Hi"}]


def test_a_failed_call_has_its_error_as_content() -> None:
    failed = event(
        "tool_call_failed", {"error": {"code": "KeyError", "message": "no x"}, "output": "half"}, "c1"
    )
    events = [asked("Hi"), event("tool_call_started", {"name": "a"}, "c1"), failed]

    (result,) = Transcript.from_events(events).messages[-1:]

    assert result == {
        "role": "tool",
        "tool_call_id": "c1",
        "content": "no x (KeyError)\nhalf",
        "is_error": True,
    }


def test_calls_without_ids_are_answered_in_their_order() -> None:
    events = [
        asked("Hi"),
        event("tool_call_started", {"name": "a"}),
        event("tool_call_completed", {"output": "1"}),
        event("tool_call_started", {"name": "b"}),
        event("tool_call_completed", {"output": "2"}),
    ]

    results = [each for each in Transcript.from_events(events).messages if each["role"] == "tool"]

    assert [(each["tool_call_id"], each["content"]) for each in results] == [("call_1", "1"), ("call_2", "2")]


def test_an_id_may_be_used_again_in_a_later_call() -> None:
    pair = [
        event("tool_call_started", {"name": "a"}, "call_0"),
        event("tool_call_completed", {"output": "1"}, "call_0"),
    ]

    messages = Transcript.from_events([asked("Hi"), *pair, asked("Again"), *pair]).messages

    assert [each["role"] for each in messages] == ["user", "assistant", "tool"] * 2


def test_an_empty_message_is_left_out() -> None:
    assert Transcript.from_events([answered(""), answered("  x")]).messages == [
        {"role": "assistant", "content": "  x"}
    ]


def test_limits_keep_whole_turns_from_the_end() -> None:
    events = [each for n in range(4) for each in (asked(f"question {n}"), answered(f"answer {n}"))]

    transcript = Transcript.from_events(events, max_messages=5)

    assert [each["content"] for each in transcript.messages] == [
        *("question 2", "answer 2", "question 3", "answer 3")
    ]
    assert transcript.left_out == 2
    assert Transcript.from_events(events, max_chars=18).left_out == 3
    words = Transcript.from_events(events, max_tokens=8, count=lambda text: len(text.split()))
    assert words.left_out == 2
    assert list(Transcript.from_events(events, max_messages=0).messages) == []


@pytest.mark.parametrize("limits", [{"max_tokens": 5}, {"count": len}, {"max_messages": -1}])
def test_limits_are_checked(limits: dict[str, Any]) -> None:
    with pytest.raises(asm.ValidationError):
        Transcript.from_events([], **limits)


def test_a_transcript_of_a_long_session_has_all_of_it(store: Any) -> None:
    store.save_session(asm.Session(id="ses_1", agent_id="a"))
    store.append_events([asked(f"{number}") for number in range(2_001)])

    messages = manager_of(store).transcript("ses_1").messages

    assert [each["content"] for each in messages] == [f"{number}" for number in range(2_001)]


def test_a_transcript_of_a_session_begins_after_an_event(store: Any) -> None:

    store.save_session(asm.Session(id="ses_1", agent_id="a"))
    store.append_events([asked("Hi"), answered("Hello.")])
    manager = manager_of(store)

    assert [each["content"] for each in manager.transcript("ses_1", after=1).messages] == ["Hello."]
    assert manager.transcript("ses_1").last_sequence == 2
    with pytest.raises(asm.SessionNotFound):
        manager.transcript("ses_typo")
