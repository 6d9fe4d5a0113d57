"""One database of each kind for all tests of the SQL, with enough rows for the planner to prefer an index."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

import asm
from asm import dsn as dsns
from asm.engine.schema_version import OPTIONAL
from asm.migrations.runner import migrate_with
from tests.conftest import DATABASES, POSTGRES, Cluster, Where, an_artifact, an_event

START = datetime(2025, 1, 1, tzinfo=UTC)
SESSIONS = 1_200
BUSY_SESSIONS = 60
TAGS = {"prod": 1, "nightly": 20, "incident": 200}
"""One session in this many has the tag."""


@pytest.fixture(scope="session", params=DATABASES)
def filled(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    clusters: Callable[[str], Cluster],
) -> Iterator[Where]:
    """A database with a few thousand rows in each table, and statistics on them."""
    if request.param == "sqlite":
        dsn = f"sqlite:///{tmp_path_factory.mktemp('filled') / 'store.db'}"
        _fill(dsn)
        yield Where("sqlite", dsn)
    else:
        with clusters(request.param).database(migrated=True) as dsn:
            _fill(dsn)
            # An index-only scan needs a current visibility map.
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("vacuum asm_runs")
            yield Where(request.param, dsn)


@pytest.fixture(scope="session", params=DATABASES)
def with_tables(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    clusters: Callable[[str], Cluster],
) -> Iterator[Where]:
    """A database with tables and no rows."""
    if request.param == "sqlite":
        dsn = f"sqlite:///{tmp_path_factory.mktemp('tables') / 'store.db'}"
        migrate_with(OPTIONAL, dsn)
        yield Where("sqlite", dsn)
    else:
        with clusters(request.param).database(migrated=True) as dsn:
            migrate_with(OPTIONAL, dsn)
            yield Where(request.param, dsn)


@pytest.fixture(scope="session", params=POSTGRES)
def empty_postgres(request: pytest.FixtureRequest, clusters: Callable[[str], Cluster]) -> Iterator[str]:
    """The DSN of a PostgreSQL database without tables."""
    with clusters(request.param).database(migrated=False) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A connection to a SQLite database with tables and no rows."""
    dsn = f"sqlite:///{tmp_path_factory.mktemp('columns') / 'store.db'}"
    migrate_with(OPTIONAL, dsn)
    with closing(sqlite3.connect(dsns.parse_dsn(dsn).address, isolation_level=None)) as connection:
        yield connection


@pytest.fixture(scope="session")
def on_postgres(clusters: Callable[[str], Cluster]) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a PostgreSQL database with tables and no rows."""
    with (
        clusters(POSTGRES[0]).database(migrated=True) as dsn,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        migrate_with(OPTIONAL, dsn)
        yield connection


def _fill(dsn: str) -> None:
    migrate_with(OPTIONAL, dsn)
    with asm.SessionStore(dsn) as store:
        with store.transaction() as tx:
            for number in range(SESSIONS):
                tx.save_session(a_session(number))
                tx.save_run(a_run(number))
                tx.artifacts.register(_artifact(number))
            tx.append_events(
                an_event_of(number, n)
                for number in range(SESSIONS)
                for n in range(200 if number < BUSY_SESSIONS else 2)
            )
        with store.transaction() as tx:
            tx.connection.execute("analyze")


def session_id(number: int) -> str:
    """Ids grow with time, like generated ones."""
    return f"ses_{number:06}"


def an_event_of(number: int, n: int) -> asm.Event:
    """Event n of a session: one in a hundred is an error, a run has fifty."""
    return an_event(
        session_id(number),
        "error_occurred" if n % 100 == 7 else "message_sent",
        id=f"evt_{n:06}",
        run_id=f"run_{number:06}_{n // 50}",
        timestamp=START + timedelta(seconds=n),
        data={"n": n, "text": "as long as a short message"},
        correlation_id=f"cor_{number:06}_{n // 5}" if n % 10 == 3 else None,
    )


def a_session(number: int) -> asm.Session:
    at = START + timedelta(minutes=number)
    return asm.Session(
        id=session_id(number),
        agent_id=f"agent_{number % 6}",
        status="paused" if number % 20 == 7 else "completed",
        parent_session_id=session_id(number // 20) if number % 4 == 1 else None,
        tags=tuple(tag for tag, each in TAGS.items() if number % each == 0),
        created_at=at,
        updated_at=at + timedelta(minutes=number * 7 % 60),
    )


def a_run(number: int) -> asm.Run:
    return asm.Run(
        id=f"run_{number:06}",
        session_id=session_id(number // 20),
        status="running" if number % 20 == 19 else "completed",
        started_at=START + timedelta(minutes=number),
        output={"text": "as long as a short answer " * 20},
        provider="openai" if number % 20 == 3 else "claude",
        token_usage={"total_tokens": number * 7919 % 100_000},
    )


def _artifact(number: int) -> asm.Artifact:
    return an_artifact(f"key_{number:06}", session_id=session_id(number // 20))
