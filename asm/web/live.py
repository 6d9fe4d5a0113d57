"""New events of a session as they are appended, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from asm import AsyncSessionStore, Event, EventType
from asm.content import read_delta
from asm.shown import prose
from asm.web.blocks import Item, items_of
from asm.web.budget import Budget
from asm.web.pages import Pages
from asm.web.session import id_of

HEARTBEAT_S = 15.0
"""A proxy ends a connection on which nothing is sent, and a server notices a closed one when it sends."""

FOLLOWERS_MAX = 100
"""The pages that are kept up to date at the same time. The others say that they are not."""


async def live(request: Request) -> Response:
    """The events after a number, and then those that are appended, until the reader leaves."""
    store: AsyncSessionStore = request.app.state.store
    state = request.app.state
    # A browser that connects again sends the number of the last event that it has.
    text = request.headers.get("last-event-id") or request.query_params.get("after", "0")
    after = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
    session = await store.get_session(id_of(request))
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    if getattr(state, "followers", 0) >= FOLLOWERS_MAX:
        return PlainTextResponse("Too many pages are open.", 503)

    async def counted() -> AsyncIterator[str]:
        state.followers = getattr(state, "followers", 0) + 1
        try:
            async with aclosing(_messages(store, state.pages, session.id, after)) as messages:
                async for message in messages:
                    yield message
        finally:
            state.followers -= 1

    return StreamingResponse(counted(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _messages(
    store: AsyncSessionStore, pages: Pages, session_id: str, after: int
) -> AsyncGenerator[str, None]:
    yield "retry: 2000\n\n"
    # The iterator ends with the connection: closing it gives up its subscription.
    events = store.follow_events(session_id, after=after, page_size=25, heartbeat=HEARTBEAT_S)
    async with aclosing(events):  # type: ignore[type-var]
        async for event in events:
            yield ": no event\n\n" if event is None else await asyncio.to_thread(_message, pages, event)


def _message(pages: Pages, event: Event) -> str:
    number = event.sequence_number
    if event.type == EventType.MESSAGE_STREAMED and (delta := read_delta(event.data)) is not None:
        text = prose(delta.text) if delta.kind == "text" else ""
        return _sent("delta", number, {"text": text[:20_000]})
    items = items_of([event], Budget())
    html = pages.text("items.html", items=items, runs={}, session_id=event.session_id)
    return _sent("items", number, {"html": html, "number": number, "result_of": _answered(items)})


def _answered(items: Sequence[Item]) -> str | None:
    """The id of the call that an event answers, if it has nothing else."""
    blocks = [block for item in items for block in item.blocks]
    return blocks[0].call_id if len(blocks) == 1 and blocks[0].kind == "result" else None


def _sent(name: str, number: int | None, data: object) -> str:
    # JSON has no line ends of its own, which would end the field.
    return f"id: {number}\nevent: {name}\ndata: {orjson.dumps(data).decode()}\n\n"


routes = [Route("/sessions/{session_id}/live", live)]
