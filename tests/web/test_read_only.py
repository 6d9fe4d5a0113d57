"""The viewer writes nothing."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo
from starlette.testclient import TestClient

import asm
from tests.conftest import an_event
from tests.web.conftest import opening

PATHS = (
    *("/", "/?agent=a&status=active&tag=t&since=week", "/sessions/ses_1", "/sessions/ses_1?after=100"),
    *(
        "/sessions/ses_1/jump?to=3",
        "/sessions/ses_1/last",
        "/sessions/ses_1/error",
        "/sessions/ses_1/runs/run_1",
    ),
    *("/sessions/ses_1/events/1", "/sessions/ses_1/events/1.json", "/sessions/ses_none", "/static/app.css"),
    *("/usage", "/usage?agent=a&from=2026-01-01", "/health", "/health?check=1"),
    *("/sessions/ses_1/export.html", "/sessions/ses_1/export.jsonl", "/sessions/ses_1?after=x"),
)


def test_every_page_is_served_from_a_database_that_cannot_be_written(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        store.save_session(asm.Session(agent_id="a", id="ses_1", tags=("t",), status="active"))
        store.save_run(asm.Run(session_id="ses_1", id="run_1"))
        store.append_events([an_event(run_id="run_1", data={"content": str(n)}) for n in range(150)])
    is_sqlite = migrated.startswith("sqlite")
    dsn = migrated if is_sqlite else make_conninfo(migrated, options="-c default_transaction_read_only=on")
    before = contents(migrated) if is_sqlite else None
    viewer = TestClient(opening(asm.AsyncSessionStore(dsn)), base_url="http://localhost")
    with viewer as client:
        for path in PATHS:
            assert client.get(path).status_code in (200, 400, 404), path
    if not is_sqlite:
        with asm.SessionStore(dsn) as store, pytest.raises(asm.StorageError):
            store.save_session(asm.Session(agent_id="a"))
    else:
        assert contents(migrated) == before


def contents(dsn: str) -> str:
    """A digest of all rows, and the number of changes that SQLite counts in the file's header."""
    file = Path(dsn.removeprefix("sqlite:///"))
    with sqlite3.connect(file) as connection:
        dump = "\n".join(connection.iterdump())
    return hashlib.sha256(file.read_bytes()[24:28] + dump.encode()).hexdigest()
