"""The viewer understands what the integration of every framework stores."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from langgraph.graph import START, StateGraph
from starlette.testclient import TestClient

import asm
from asm.integrations import langgraph
from tests.agents.adapters.test_claude_code import (
    INIT,
    THINKING,
    Program,
    ended,
    message,
    program,
    results,
    said,
)
from tests.integrations import plays
from tests.integrations.test_langgraph_graphs import State, thread
from tests.web.conftest import opened_viewer, viewer
from tests.web.museum import ANSWER, ASKED, ERROR, FAILED, FOUND, HOURS, QUESTION, THOUGHT, check_conversation

__all__ = ["opened_viewer", "program", "viewer"]

Viewer = tuple[TestClient, asm.SessionStore]


class Expected(NamedTuple):
    """What the page of a play shows beside the conversation."""

    play: Callable[[asm.SessionStore], str]
    model: str
    tokens: tuple[int, int, int]
    """Input, output, and read from a cache."""

    error: str = ERROR
    is_told: bool = True
    """Whether the framework says that a call has failed, and not only the words of its result."""


PLAYS = {
    "Agent Framework": Expected(
        plays.agent_framework_, "gpt-5", (1_200, 300, 1_800), "FunctionInvocationError"
    ),
    "Claude Agent SDK": Expected(plays.claude_agent_sdk, "claude-opus-4-5", (1_600, 400, 2_400)),
    "Google ADK": Expected(plays.google_adk, "gemini-2.5-flash", (1_200, 300, 1_800)),
    "OpenAI Agents": Expected(
        plays.openai_agents, "gpt-5", (1_200, 300, 1_800), "An error occurred", is_told=False
    ),
    "Pydantic AI": Expected(plays.pydantic_ai, "gpt-5", (1_200, 300, 1_800)),
    "Strands": Expected(plays.strands_, "claude-opus-4-5", (3_000, 300, 1_800)),
}


@pytest.mark.parametrize("framework", PLAYS)
def test_the_pages_of_a_session_show_what_was_said_thought_called_and_used(
    viewer: Viewer, framework: str
) -> None:
    client, store = viewer
    expected = PLAYS[framework]
    session_id = expected.play(store)
    url = f"/sessions/{quote(session_id, safe='')}"
    page = client.get(url).text

    check_conversation(page, error=expected.error, is_told=expected.is_told)
    exported = client.get(f"{url}/export.html").text
    check_conversation(exported, error=expected.error, is_told=expected.is_told)
    assert f"<h1>{QUESTION}</h1>" in page
    assert f"<span>{expected.model}</span>" in page
    input, output, cached = (f"{count:,}" for count in expected.tokens)
    assert f"input {input}, output {output}, cache read {cached}," in page
    assert re.search(r"<span>(&lt;)?\$0\.\d\d</span>", page)
    assert ("<h2>1 error</h2>" in page) == expected.is_told
    if expected.is_told:
        assert_reached(client, url)
    assert_listed(client, url)
    assert_used(client, expected)


def assert_listed(client: TestClient, url: str) -> None:
    listed = client.get("/").text
    assert re.search(rf'href="{re.escape(url)}">{re.escape(QUESTION)}</a>', listed)


def assert_used(client: TestClient, expected: Expected) -> None:
    """The page of usage has the tokens of the model, and its cost."""
    page = unescape(re.sub(r"<[^>]*>", " ", client.get("/usage").text))
    input, output, cached = (
        f"{count / 1_000:.2f}k" if count >= 1_000 else str(count) for count in expected.tokens
    )
    model = re.escape(expected.model)
    assert re.search(rf"{model}\s+\d\s+{input}\s+{output}\s+{cached}\s.*?\$0\.\d\d", page, re.DOTALL)


def assert_reached(client: TestClient, url: str) -> None:
    """The link to the next error leads to the result of the call that failed."""
    answer = client.get(f"{url}/error", follow_redirects=False)
    path, _, anchor = answer.headers["Location"].partition("#")
    assert f'<div class="result failed" id="{anchor}">' in client.get(path).text


def test_a_run_of_the_adapter_of_claude_code_is_shown_with_its_calls_and_its_cost(
    viewer: Viewer, program: Program
) -> None:
    client, store = viewer
    calls = [
        {"type": "tool_use", "id": f"toolu_{city}", "name": "hours", "input": {"city": city}}
        for city in (FAILED, FOUND)
    ]
    program.says(
        INIT,
        *message("msg_1", {**THINKING, "thinking": THOUGHT}, calls[0], stop_reason="tool_use"),
        results({"tool_use_id": calls[0]["id"], "content": ERROR, "is_error": True}),
        *message("msg_2", calls[1], stop_reason="tool_use"),
        results({"tool_use_id": calls[1]["id"], "content": HOURS}),
        *message("msg_3", said(ANSWER), stop_reason="end_turn"),
        ended(),
    )
    manager = asm.SessionManager(store)
    session = manager.start_session("guide")
    manager.run(session.id, program.adapter(), [{"role": "user", "content": ASKED}])

    page = client.get(f"/sessions/{session.id}").text
    check_conversation(page)
    assert "<h2>1 error</h2>" in page
    assert "<span>$0.25</span>" in page


def test_the_checkpoints_of_a_thread_of_langgraph_are_listed_and_folded(
    viewer: Viewer, migrated: str
) -> None:
    client, store = viewer
    langgraph.migrate(migrated)
    graph: Any = StateGraph(State)
    graph.add_node("greet", lambda _: {"messages": ["Hello."]})
    graph.add_edge(START, "greet")
    graph.compile(checkpointer=langgraph.AsmSaver(store)).invoke({"messages": ["Hi."]}, thread())

    page = client.get("/sessions/thread_1").text
    assert "<h1>thread_1</h1>" in page
    assert ">thread_1</a>" in client.get("/").text
    for shown in (page, client.get("/sessions/thread_1/export.html").text):
        (folded,) = re.findall(r'<details class="fold note">(.*?)</details>', shown, re.DOTALL)
        assert "3 checkpoints of LangGraph" in folded
        steps = re.findall(r'<td class="n">(-?\d+)</td><td>(\w+)</td>', folded)
        assert steps == [("1", "loop"), ("0", "loop"), ("-1", "input")]
