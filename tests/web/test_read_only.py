"""The viewer writes nothing."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager
from functools import partial
from html import unescape
from urllib.parse import parse_qsl

import pytest
from psycopg.conninfo import make_conninfo
from starlette.routing import Match, Route
from starlette.testclient import TestClient

import asm
from asm.migrations import runner
from asm.web import app
from asm.web.app import ROUTES
from tests.conftest import an_event
from tests.web.conftest import opening
from tests.web.test_live import read

STARTS = ("/", "/usage", "/health", "/sessions/ses_1?after=100", "/sessions/ses_1?before=101", "/?cursor=x")
VALUES = ("1", "a", "active", "week", "2026-01-01")
PATTERNS = [each for each in ROUTES if isinstance(each, Route)]
LIVE = "/sessions/{session_id}/live"


def test_every_route_with_every_parameter_only_reads(migrated: str) -> None:
    asm.migrate(migrated, text_search=True)
    with asm.SessionStore(migrated) as store:
        save(store)
    with unwritable(migrated) as dsn:
        viewer = opening(asm.AsyncSessionStore(dsn), status=partial(runner.status, dsn))
        with TestClient(viewer, base_url="http://localhost") as client:
            visited = visit(client)
        asyncio.run(follow(dsn))
    # A form or a link leads to each of them.
    assert {route for route, _ in visited} == {each.path for each in PATTERNS} - {LIVE}
    given = {name for _, names in visited for name in names}
    assert given == {
        *("agent", "status", "tag", "since", "text", "cursor", "after", "before", "to"),
        *("from", "provider", "check"),
    }


def save(store: asm.SessionStore) -> None:
    session = asm.Session(agent_id="a", id="ses_1", tags=("t",), status="active", parent_session_id="ses_0")
    store.save_session(session)
    for n in range(60):
        store.save_session(asm.Session(agent_id=f"a{n}", parent_session_id="ses_1"))
    for id in ("run_1", "run_2"):
        store.save_run(asm.Run(session_id="ses_1", id=id, provider="p", token_usage={"input_tokens": 1}))
    store.append_events([an_event(run_id="run_1", data={"content": f"word {n}"}) for n in range(150)])
    store.append_events([an_event(type="error_occurred", data={"message": "x"}) for _ in range(20)])


@contextmanager
def unwritable(dsn: str) -> Iterator[str]:
    """The DSN of a database that refuses writes; on SQLite, of one that must not have been written."""
    if dsn.startswith("sqlite"):
        with closing(sqlite3.connect(dsn.removeprefix("sqlite:///"))) as watching:
            version = watching.execute("pragma data_version").fetchone()
            yield dsn
            assert watching.execute("pragma data_version").fetchone() == version
        return
    refusing = make_conninfo(dsn, options="-c default_transaction_read_only=on")
    yield refusing
    with asm.SessionStore(refusing) as store, pytest.raises(asm.StorageError):
        store.save_session(asm.Session(agent_id="a"))


def visit(client: TestClient) -> set[tuple[str, frozenset[str]]]:
    """Send all forms, and follow all links, but no two with the same route and the same parameters."""
    visited: set[tuple[str, frozenset[str]]] = set()
    sent: set[str] = set()
    urls = list(STARTS)
    while urls:
        url = urls.pop()
        path, _, query = url.partition("?")
        route = route_of(path), frozenset(name for name, _ in parse_qsl(query))
        if route[0] in ("", LIVE) or (url in sent if is_sent(url) else route in visited):
            continue
        visited.add(route)
        sent.add(url)
        page = client.get(url)
        assert page.status_code in (200, 400, 404), (url, page.text)
        if "html" in page.headers["Content-Type"]:
            urls += links(page.text)
    return visited


def route_of(path: str) -> str:
    """The pattern of the route that a path has; "" of a file, and of another site."""
    scope = {"type": "http", "method": "GET", "path": path}
    return next((each.path for each in PATTERNS if each.matches(scope)[0] is Match.FULL), "")


def is_sent(url: str) -> bool:
    """Whether a form may have made an address."""
    return url.count("=") == 1 and url.endswith(tuple(f"={value}" for value in VALUES))


def links(page: str) -> list[str]:
    found = [unescape(url).partition("#")[0] for url in re.findall(r'(?:href|data-jump)="(/[^"]*)', page)]
    for action, fields in re.findall(r'<form[^>]* action="([^"]*)"(.*?)</form>', page, re.DOTALL):
        for name in re.findall(r' name="([^"]*)"', fields):
            found += [f"{unescape(action)}?{name}={value}" for value in VALUES]
    return found


async def follow(dsn: str) -> None:
    url = "/sessions/ses_1/live?after=169"
    async with asm.AsyncSessionStore(dsn) as store, aclosing(read(app(store), url)) as messages:
        assert "retry" in await anext(messages)
        assert "items" in await anext(messages)
