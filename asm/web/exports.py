"""A session as a file: a page of its own, JSON Lines, or a trajectory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from asm import AsyncSessionStore, Event
from asm.export_files import jsonl
from asm.formats import atif_export, session_trees
from asm.web.blocks import Child, items_of
from asm.web.budget import Budget
from asm.web.pages import Pages
from asm.web.session import about, id_of

_STYLES = Path(__file__).parent / "static" / "app.css"
_BATCH = 200
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


async def html_page(
    store: AsyncSessionStore, session_id: str, pages: Pages | None = None
) -> AsyncIterator[str]:
    """A session as one HTML file that needs nothing else, in pieces.

    It has all events, with texts as long as on the pages of the viewer, and no script.
    """
    pages = pages or Pages()
    known = await about(store, session_id)
    styles = Markup(_STYLES.read_text(encoding="utf-8"))
    runs = {run.id: (number, run) for number, run in enumerate(known.runs, 1)}
    text = await asyncio.to_thread(
        pages.text, "file.html", about=known, session=known.session, styles=styles, path="", runs=runs
    )
    head, tail = text.split(_PLACE)
    yield head
    batch: list[Event] = []
    async for event in store.iter_events(session_id, page_size=_BATCH):
        batch.append(event)
        if len(batch) == _BATCH:
            yield await asyncio.to_thread(_items, pages, batch, known.children, runs)
            batch = []
    yield await asyncio.to_thread(_items, pages, batch, known.children, runs)
    yield tail


_PLACE = "<!-- the items -->"


def _items(pages: Pages, events: list[Event], children: list[Child], runs: object) -> str:
    items = items_of(events, Budget(), children)
    return pages.text("items.html", items=items, runs=runs, session_id=None)


async def export_html(request: Request) -> Response:
    store: AsyncSessionStore = request.app.state.store
    session = await store.get_session(id_of(request))
    pieces = html_page(store, session.id, request.app.state.pages)
    return StreamingResponse(pieces, media_type="text/html", headers=_as_file(session.id, "html"))


async def export_jsonl(request: Request) -> Response:
    store: AsyncSessionStore = request.app.state.store
    export = await store.query.export_session(id_of(request))
    lines: Iterator[bytes] = iter(jsonl.dump([export]))
    name = export.session.id
    return StreamingResponse(lines, media_type="application/jsonl", headers=_as_file(name, "jsonl"))


async def export_atif(request: Request) -> Response:
    store: AsyncSessionStore = request.app.state.store
    tree = await session_trees.read_tree(store, id_of(request))
    document = await asyncio.to_thread(atif_export.dump, tree)
    headers = _as_file(tree.export.session.id, "atif.json")
    return Response(document, media_type="application/json", headers=headers)


def _as_file(session_id: str, ending: str) -> dict[str, str]:
    """Have a browser save the answer, under a name that no file system reads as a path."""
    name = _UNSAFE.sub("_", session_id)[:100].lstrip(".") or "session"
    return {"Content-Disposition": f'attachment; filename="{name}.{ending}"'}


routes = [
    Route("/sessions/{session_id}/export.html", export_html),
    Route("/sessions/{session_id}/export.jsonl", export_jsonl),
    Route("/sessions/{session_id}/export.atif.json", export_atif),
]
