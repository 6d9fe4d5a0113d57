"""The state of the store: migrations, rows, and the health check, which runs on request."""

from __future__ import annotations

import asyncio
from collections import Counter
from importlib.metadata import version
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asm import AsyncSessionStore, HealthIssue
from asm.web.pages import Pages

_ISSUES_MAX = 200
"""Issues of which a page lists each. `asm health` lists all."""


async def health(request: Request) -> Response:
    """What is known without a question to the database; with `check`, also what is long to find out."""
    state = request.app.state
    pages: Pages = state.pages
    is_asked = request.query_params.get("check") == "1"
    issues: list[HealthIssue] = []
    status = None
    if is_asked:
        # Two readers who ask at once would make the database do the same work twice.
        async with state.health_lock:
            issues = await _issues(state.store)
            if state.status is not None:
                status = await asyncio.to_thread(state.status)
    codes = Counter(issue.code for issue in issues)
    return await pages.render(
        request,
        "health.html",
        is_asked=is_asked,
        found=status,
        codes=codes.most_common(),
        issues=list(islice(issues, _ISSUES_MAX)),
        issue_count=len(issues),
        asm_version=version("asm-store"),
    )


async def _issues(store: AsyncSessionStore) -> list[HealthIssue]:
    return await store.maintenance.health_check()


routes = [Route("/health", health, name="health")]
