"""The page of one session: its conversation, a page of events at a time, and what is known of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from asm import (
    AsyncSessionStore,
    Event,
    EventNotFound,
    EventType,
    Run,
    Session,
    ValidationError,
)
from asm.content import read_content, session_title
from asm.web.blocks import Child, items_of
from asm.web.budget import Budget, of_event, size_of
from asm.web.errors import Errors, find_errors, next_error
from asm.web.pages import Pages, session_url
from asm.web.queries import Checkpoints, Listed, checkpoints_of, list_session, titles_of
from asm.web.timeline import Timeline, timeline_of

PAGE_EVENTS = 100
"""The events on a page. Fewer are shown of a session whose events are large."""

_BATCH = 25
_PAGE_CHARACTERS = 3_000_000
"""Characters of JSON after which a page reads no further events, so that no page takes all memory."""

_RUNS_MAX = 200
_CHILDREN_MAX = 100


@dataclass(frozen=True, slots=True)
class About:
    """What the rail of a session shows."""

    listed: Listed
    runs: list[Run]
    children: list[Child]
    errors: Errors
    timeline: Timeline | None
    checkpoints: Checkpoints | None

    @property
    def session(self) -> Session:
        return self.listed.session

    def title_of(self, run: Run) -> str:
        """What a run was asked to do, or else its number."""
        return _title_of(run.input) or f"Run {self.runs.index(run) + 1}"

    @property
    def models(self) -> list[str]:
        return sorted({str(m)[:80] for run in self.runs if (m := run.provider_metadata.get("model"))})[:6]


def _title_of(input: Any) -> str:
    if isinstance(input, list):
        input = input[-1] if input else None
    message = input if isinstance(input, dict) else {"content": input}
    return session_title({}, [replace(read_content(EventType.MESSAGE_SENT, message), role=None)]) or ""


def id_of(request: Request) -> str:
    """The id in the address of a page."""
    return unquote(request.path_params["session_id"])


async def about(store: AsyncSessionStore, session_id: str) -> About:
    session = await store.get_session(session_id)
    listed, runs, children, errors, checkpoints = await asyncio.gather(
        list_session(store, session),
        store.list_runs(session_id, limit=_RUNS_MAX),
        store.query.search_sessions(
            parent_session_id=session_id, order_by="created_at_asc", limit=_CHILDREN_MAX
        ),
        find_errors(store, session_id),
        checkpoints_of(store, session),
    )
    timeline = timeline_of(runs)
    titles = await titles_of(store, children.items)
    known = [Child(each, titles[each.id]) for each in children.items]
    return About(listed, runs, known, errors, timeline, checkpoints)


async def session(request: Request) -> Response:
    """A page of the conversation. It begins at the first event, after `after`, or ends before `before`."""
    store: AsyncSessionStore = request.app.state.store
    pages: Pages = request.app.state.pages
    session_id = id_of(request)
    after, before = _number(request, "after"), _number(request, "before")
    known, (start, events) = await asyncio.gather(
        about(store, session_id), _read_page(store, session_id, after, before)
    )
    first = events[0].sequence_number or 0 if events else 0
    last = events[-1].sequence_number or 0 if events else after or 0
    earlier, later = await asyncio.gather(
        _is_any(store, session_id, before=first), _is_any(store, session_id, after=last)
    )
    items = await asyncio.to_thread(items_of, events, Budget(), known.children)
    return await pages.render(
        request,
        "session.html",
        about=known,
        session=known.session,
        items=items,
        runs={run.id: (number, run) for number, run in enumerate(known.runs, 1)},
        page_start=start + 1,
        page_end=last if later else None,
        first_url=session_url(session_id) if earlier else None,
        previous_url=session_url(session_id, before=first) if earlier else None,
        next_url=session_url(session_id, after=last) if later else None,
        last_url=session_url(session_id, "last") if later else None,
        live_url=None if later else session_url(session_id, "live", after=last),
    )


async def event(request: Request) -> Response:
    """One event with all of its text, and its JSON."""
    store: AsyncSessionStore = request.app.state.store
    pages: Pages = request.app.state.pages
    found = await _event(store, id_of(request), request.path_params["number"])
    session = await store.get_session(found.session_id)
    items = await asyncio.to_thread(items_of, [found], of_event())
    data = await asyncio.to_thread(_json, found)
    shown, left_out = of_event().take(data)
    return await pages.render(
        request,
        "event.html",
        session=session,
        event=found,
        items=items,
        json=shown,
        left_out=left_out,
        runs={},
    )


async def event_json(request: Request) -> Response:
    """One event as the store has it."""
    store: AsyncSessionStore = request.app.state.store
    found = await _event(store, id_of(request), request.path_params["number"])
    return Response(await asyncio.to_thread(_json, found), media_type="application/json")


async def jump(request: Request) -> Response:
    """To the page of an event: that of the number in `to`, or the nearest one before it."""
    store: AsyncSessionStore = request.app.state.store
    session_id, number = id_of(request), _number(request, "to") or 1
    number = min(number, max(1, await store.get_latest_sequence(session_id)))
    return await _to_event(store, session_id, number)


async def last(request: Request) -> Response:
    """To the page of the newest events."""
    store: AsyncSessionStore = request.app.state.store
    session_id = id_of(request)
    return await _to_event(store, session_id, max(1, await store.get_latest_sequence(session_id)))


async def run(request: Request) -> Response:
    """To the page where a run begins."""
    store: AsyncSessionStore = request.app.state.store
    session_id, run_id = id_of(request), unquote(request.path_params["run_id"])
    await store.get_run(run_id, session_id=session_id)
    events = await store.get_events(session_id, run_id=run_id, limit=1)
    return await _to_event(store, session_id, events[0].sequence_number or 1 if events else 1)


async def error(request: Request) -> Response:
    """To the page of the next error after an event, or of the first one."""
    store: AsyncSessionStore = request.app.state.store
    session_id, after = id_of(request), _number(request, "after") or 0
    found = await next_error(store, session_id, after) or await next_error(store, session_id, 0)
    return await _to_event(store, session_id, found or max(after, 1))


async def _to_event(store: AsyncSessionStore, session_id: str, number: int) -> Response:
    start, _ = await _page_with(store, session_id, number)
    return RedirectResponse(f"{session_url(session_id, after=start or None)}#event-{number}", 303)


async def _read_page(
    store: AsyncSessionStore, session_id: str, after: int | None, before: int | None
) -> tuple[int, list[Event]]:
    """The number after which the page begins, and its events."""
    if before is None or after is not None:
        return after or 0, await _page(store, session_id, after, before)
    # The number before it may have been pruned.
    newest = await store.get_events(session_id, before=before, last=1)
    if not newest:
        return 0, []
    return await _page_with(store, session_id, newest[0].sequence_number or 1, before)


async def _page_with(
    store: AsyncSessionStore, session_id: str, number: int, before: int | None = None
) -> tuple[int, list[Event]]:
    """The page that an event is on: the number after which it begins, and its events.

    Pages are cut at the same places, however a reader comes to them. Those of large events are shorter.
    """
    start = (number - 1) // PAGE_EVENTS * PAGE_EVENTS
    while (events := await _page(store, session_id, start, before)) and (_number_of(events[-1]) < number):
        start = _number_of(events[-1])
    return start, events


def _number_of(event: Event) -> int:
    return event.sequence_number or 0


async def _page(
    store: AsyncSessionStore, session_id: str, after: int | None, before: int | None
) -> list[Event]:
    events: list[Event] = []
    size = 0
    while len(events) < PAGE_EVENTS and size < _PAGE_CHARACTERS:
        found = await store.get_events(session_id, after=after, before=before, limit=_BATCH)
        events += found
        size += sum(size_of(each.data) for each in found)
        if len(found) < _BATCH:
            break
        after = found[-1].sequence_number
    return events


async def _is_any(
    store: AsyncSessionStore, session_id: str, *, after: int | None = None, before: int | None = None
) -> bool:
    if before is not None and before <= 1:
        return False
    return bool(await store.get_events(session_id, after=after, before=before, limit=1))


async def _event(store: AsyncSessionStore, session_id: str, number: int) -> Event:
    found = await store.get_events(session_id, after=number - 1, limit=1) if 0 < number < 2**53 else []
    if not found or found[0].sequence_number != number:
        raise EventNotFound(f"session {session_id!r} has no event {number}", session_id=session_id)
    return found[0]


def _json(event: Event) -> str:
    try:
        return orjson.dumps(event.to_dict(), option=orjson.OPT_INDENT_2).decode()
    except TypeError:
        # Integers of more than 64 bits, and lone surrogates.
        import json

        return json.dumps(event.to_dict(), indent=2)


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ValidationError(f"{name} must be the number of an event, not {text[:40]!r}")
    return int(text)


_SESSION = "/sessions/{session_id}"
routes = [
    Route(_SESSION, session, name="session"),
    Route(f"{_SESSION}/jump", jump),
    Route(f"{_SESSION}/last", last),
    Route(f"{_SESSION}/error", error),
    Route(f"{_SESSION}/runs/{{run_id}}", run),
    Route(f"{_SESSION}/events/{{number:int}}", event),
    Route(f"{_SESSION}/events/{{number:int}}.json", event_json),
]
