"""The viewer understands what the integration of every framework stores."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import NamedTuple
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

import asm
from tests.integrations import plays
from tests.web.conftest import opened_viewer, viewer

__all__ = ["opened_viewer", "viewer"]

Viewer = tuple[TestClient, asm.SessionStore]


class Expected(NamedTuple):
    """What the page of a play shows beside the conversation."""

    play: Callable[[asm.SessionStore], str]
    model: str
    tokens: tuple[int, int, int]
    """Input, output, and read from a cache."""

    error: str = plays.ERROR
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


def articles_of(page: str) -> list[str]:
    return re.findall(r'<article class="item (.*?)</article>', page, re.DOTALL)


def checked(conversation: str, expected: Expected) -> None:
    """A conversation reads as it was: who said what, what was thought, called and returned."""
    asked, *_, answered = articles_of(conversation.partition("session created</p>")[2] or conversation)
    assert asked.startswith("message person")
    assert "<p>When does the <strong>museum</strong> open?</p>" in asked
    assert f'<img src="{plays.IMAGE}"' in asked
    assert answered.startswith("message agent")
    assert "<p>At <code>ten</code>, and <em>not</em> on Mondays.</p>" in answered
    (thought,) = re.findall(r'<details class="fold thinking">(.*?)</details>', conversation, re.DOTALL)
    assert plays.THOUGHT in thought
    failed, found = re.findall(r'<details class="fold call(.*?)</details>', conversation, re.DOTALL)
    for call, city, output in ((failed, plays.FAILED, expected.error), (found, plays.FOUND, plays.HOURS)):
        about, _, result = call.partition('<div class="result')
        assert re.search(rf'<span class="name">hours</span><span class="about">city: {city}<', about)
        assert re.search(rf'<pre class="code" tabindex="0">(\w+: )?{output}', result)
    assert [each.startswith(" failed") for each in (failed, found)] == [expected.is_told, False]
    # Nothing is a result without its call, or JSON of a kind that is not known.
    assert "Other" not in conversation
    assert "fold note" not in conversation


@pytest.mark.parametrize("framework", PLAYS)
def test_the_pages_of_a_session_show_what_was_said_thought_called_and_used(
    viewer: Viewer, framework: str
) -> None:
    client, store = viewer
    expected = PLAYS[framework]
    session_id = expected.play(store)
    url = f"/sessions/{quote(session_id, safe='')}"
    page = client.get(url).text

    checked(page, expected)
    checked(client.get(f"{url}/export.html").text, expected)
    assert f"<h1>{plays.QUESTION}</h1>" in page
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
    assert re.search(rf'href="{re.escape(url)}">{re.escape(plays.QUESTION)}</a>', listed)


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
