"""Pages that are kept up to date."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from starlette.testclient import TestClient

import asm
from asm.web import app, live
from tests.conftest import an_event


async def read(
    viewer: Any, path: str, *, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> AsyncGenerator[str, None]:
    """The messages of a stream, from the application itself. The reader leaves when this is closed."""
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    left = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "scheme": "http",
        "http_version": "1.1",
        "server": ("localhost", 80),
        "headers": [(b"host", b"localhost"), *headers],
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    task = asyncio.create_task(viewer(scope, receive, sent.put))
    try:
        assert (await sent.get())["status"] == 200
        buffer = ""
        while True:
            buffer += (await sent.get())["body"].decode()
            *messages, buffer = buffer.split("\n\n")
            for message in messages:
                yield message
    finally:
        left.set()
        await asyncio.wait_for(task, 20)


def fields(message: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in message.split("\n"))


def test_new_events_arrive_and_a_closed_page_ends_its_follower(migrated: str) -> None:
    async def follow() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            viewer = app(store)
            await store.save_session(asm.Session(agent_id="a", id="ses_1"))
            await store.append_event(an_event(data={"content": "old"}))
            async with aclosing(read(viewer, "/sessions/ses_1/live?after=1")) as messages:
                assert fields(await anext(messages)) == {"retry": "2000"}
                await store.append_event(an_event(data={"content": "<b>new</b>\n\nlines"}))
                message = fields(await anext(messages))
                assert (message["id"], message["event"]) == ("2", "items")
                assert "&lt;b&gt;new" in json.loads(message["data"])["html"]
                await store.append_event(an_event(type="message_streamed", data={"delta": "wo"}))
                message = fields(await anext(messages))
                assert (message["event"], json.loads(message["data"])) == ("delta", {"text": "wo"})
                result = an_event(type="tool_call_completed", correlation_id="c", data={"output": "x"})
                await store.append_event(result)
                assert json.loads(fields(await anext(messages))["data"])["result_of"] == "c"
                assert viewer.state.followers == 1
            assert viewer.state.followers == 0
            # A browser that connects again goes on where it was.
            again = read(viewer, "/sessions/ses_1/live?after=0", headers=((b"last-event-id", b"3"),))
            async with aclosing(again) as messages:
                await anext(messages)
                assert fields(await anext(messages))["id"] == "4"

    asyncio.run(follow())


def test_a_page_without_news_gets_heartbeats(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.05)

    async def follow() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            await store.save_session(asm.Session(agent_id="a", id="ses_1"))
            async with aclosing(read(app(store), "/sessions/ses_1/live")) as messages:
                await anext(messages)
                assert [await anext(messages) for _ in range(2)] == [": no event"] * 2

    asyncio.run(follow())


def test_no_more_pages_are_followed_than_the_server_can_bear(
    viewer: tuple[TestClient, asm.SessionStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, store = viewer
    store.save_session(asm.Session(agent_id="a", id="ses_1"))
    monkeypatch.setattr(live, "FOLLOWERS_MAX", 0)
    assert client.get("/sessions/ses_1/live").status_code == 503
    assert client.head("/sessions/ses_1/live").status_code == 200


def test_the_newest_page_is_live_and_earlier_ones_are_not(
    viewer: tuple[TestClient, asm.SessionStore],
) -> None:
    client, store = viewer
    store.save_session(asm.Session(agent_id="a", id="ses_1"))
    store.append_events([an_event(data={"content": str(n)}) for n in range(150)])
    assert "data-live" not in client.get("/sessions/ses_1").text
    assert 'data-live="/sessions/ses_1/live?after=150"' in client.get("/sessions/ses_1?after=100").text
