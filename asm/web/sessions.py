"""The list of sessions. Its filters are the address of the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asm import AsyncSessionStore, SessionStatus, ValidationError
from asm.shown import prose
from asm.web.pages import Pages, page_url
from asm.web.queries import has_text_search, list_sessions

PAGE_SIZE = 50

_DAY = timedelta(days=1)
_WINDOWS: Mapping[str, timedelta] = {"day": _DAY, "week": 7 * _DAY, "month": 30 * _DAY, "year": 365 * _DAY}


async def sessions(request: Request) -> Response:
    """The sessions that were updated last, or those that the filters find."""
    store: AsyncSessionStore = request.app.state.store
    pages: Pages = request.app.state.pages
    query = [(name, value) for name, value in request.query_params.multi_items() if value.strip()]
    is_searchable = await _is_searchable(request)
    page = await store.query.search_sessions(**_filters(query), limit=PAGE_SIZE)
    ids = [session.id for session in page.items]
    return await pages.render(
        request,
        "sessions.html",
        listed=await list_sessions(store, page.items),
        next_url=page.cursor and page_url("/", query, cursor=page.cursor),
        given=dict(query),
        is_searchable=is_searchable,
        snippets={id: _marked(text) for id, text in zip(ids, page.snippets or (), strict=False)},
        is_filtered=any(name != "cursor" for name, _ in query),
        tags=[value for name, value in query if name == "tag"],
        statuses=[status.value for status in SessionStatus],
        windows=list(_WINDOWS),
        url=lambda **changes: page_url("/", query, cursor=None, **changes),
    )


async def _is_searchable(request: Request) -> bool:
    """Whether the store has the index of words, which may be created while pages are open."""
    state = request.app.state
    if not getattr(state, "is_searchable", False):
        state.is_searchable = await has_text_search(state.store)
    return bool(state.is_searchable)


def _marked(snippet: str) -> Markup:
    """A line of what was found, with the words that were sought marked."""
    return Markup(_FOUND.sub(r"<mark>\1</mark>", escape(prose(snippet))))


_FOUND = re.compile("⟦([^⟦⟧]*)⟧")


def _filters(query: list[tuple[str, str]]) -> dict[str, Any]:
    given = {name: [value.strip() for key, value in query if key == name] for name, _ in query}
    found: dict[str, Any] = {}
    if "agent" in given:
        found["agent_id"] = given["agent"]
    if "status" in given:
        found["status"] = given["status"]
    if "tag" in given:
        found["tags"] = given["tag"]
    if "parent" in given:
        found["parent_session_id"] = given["parent"]
    if "since" in given:
        found["created_after"] = _since(given["since"][-1])
    if "text" in given:
        # In the order of every list: ranking all events that have a common word takes seconds.
        found["text"] = given["text"][-1]
    if "cursor" in given:
        found["cursor"] = given["cursor"][-1]
    return found


def _since(text: str) -> datetime:
    """The beginning of a window that ends now, or a day."""
    if (window := _WINDOWS.get(text)) is not None:
        return datetime.now(UTC) - window
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError as error:
        known = ", ".join(_WINDOWS)
        raise ValidationError(
            f"since must be one of {known} or a day such as 2026-01-31, not {text[:40]!r}"
        ) from error


routes = [Route("/", sessions, name="sessions")]
