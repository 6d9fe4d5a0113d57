"""The ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from asm import AsyncSessionStore
from asm.errors import AsmError, NotFound, StorageError, ValidationError
from asm.migrations.runner import StoreStatus
from asm.web import exports, health, live, session, sessions, usage
from asm.web.pages import Pages
from asm.web.security import Guard

_STATIC = Path(__file__).parent / "static"
_STATUSES: dict[type[AsmError], int] = {NotFound: 404, ValidationError: 400, StorageError: 503}

ROUTES: list[BaseRoute] = [
    *sessions.routes,
    *live.routes,
    *exports.routes,
    *session.routes,
    *usage.routes,
    *health.routes,
]


def app(
    store: AsyncSessionStore,
    *,
    token: str | None = None,
    name: str = "",
    status: Callable[[], StoreStatus] | None = None,
) -> Starlette:
    """The viewer of an open store, which the caller closes.

    Without a `token` it answers only requests whose `Host` is this machine. With one it answers requests for
    every host that have the token: it is taken from the query once, and kept in a cookie. `name` is how
    pages name the store. `status` finds its migrations and its numbers of rows, for the page of its health.
    """
    static = Mount("/static", StaticFiles(directory=_STATIC), name="static")
    viewer = Starlette(routes=[*ROUTES, static], exception_handlers=_handlers())
    viewer.state.store = store
    viewer.state.pages = Pages(name)
    viewer.state.status = status
    viewer.state.health_lock = asyncio.Lock()
    viewer.add_middleware(Guard, token=token)
    return viewer


def _handlers() -> dict[int | type[Exception], Callable[[Request, Exception], Awaitable[Response]]]:
    return {AsmError: _failed, HTTPException: _refused}


async def _failed(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)
    return await _error_page(request, status, str(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return await _error_page(request, error.status_code, error.detail)


async def _error_page(request: Request, status: int, message: str) -> Response:
    pages: Pages = request.app.state.pages
    return await pages.render(request, "error.html", status=status, code=status, message=message)
