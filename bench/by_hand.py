"""Rows read as objects by hand: the driver, orjson, and one constructor call per row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import psycopg
from psycopg.types.string import TextBinaryLoader

import asm
from asm.engine.registry import QueryRegistry
from bench.databases import PostgresSchema


@dataclass(slots=True)
class Event:
    id: str
    type: str
    timestamp: datetime
    session_id: str
    run_id: str | None
    sequence_number: int
    data: Any
    metadata: Any
    schema_version: int
    provider: str | None
    correlation_id: str | None


@dataclass(slots=True)
class Session:
    id: str
    agent_id: str
    status: str
    parent_session_id: str | None
    metadata: Any
    context: Any
    tags: Any
    created_at: Any
    updated_at: Any
    deleted_at: datetime | None


@dataclass(slots=True)
class Run:
    id: str
    session_id: str
    status: str
    input: Any
    output: Any
    error: Any
    metadata: Any
    turn_count: int
    token_usage: Any
    started_at: datetime
    ended_at: datetime | None
    provider: str | None
    provider_metadata: Any
    cost_usd: float | None


Rows = Sequence[Any]


def events(rows: Rows) -> list[Event]:
    loads = orjson.loads
    return [
        Event(
            id, type, at, session, run, number, loads(data), loads(metadata), version, provider, correlation
        )
        for id, type, at, session, run, number, data, metadata, version, provider, correlation in rows
    ]


def session(rows: Rows) -> Session:
    ((id, agent, status, parent, metadata, context, tags, created, updated, deleted),) = rows
    loads = orjson.loads
    return Session(
        id, agent, status, parent, loads(metadata), loads(context), tags, created, updated, deleted
    )


def run(rows: Rows) -> Run:
    ((id, session, status, input, output, error, metadata, turns, usage, start, end, who, more, cost),) = rows
    loads = orjson.loads
    return Run(
        id,
        session,
        status,
        None if input is None else loads(input),
        None if output is None else loads(output),
        None if error is None else loads(error),
        loads(metadata),
        turns,
        loads(usage),
        start,
        end,
        who,
        loads(more),
        cost,
    )


Fetch = Callable[[str, dict[str, Any]], Rows]
"""Returns the rows of a query, given its name and values."""


def postgres(database: PostgresSchema, connection: psycopg.Connection[Any]) -> Fetch:
    """Rows through psycopg in C, prepared and binary; a document is read as text."""
    # Otherwise the driver calls json.loads for every document.
    connection.adapters.register_loader("json", TextBinaryLoader)
    cursor = connection.cursor(binary=True)
    known: dict[tuple[str, ...], bytes] = {}

    def fetch(name: str, values: dict[str, Any]) -> Rows:
        key = (name, *values)
        statement = known.get(key) or known.setdefault(key, database.statement(name, **values).encode())
        cursor.execute(statement, values, prepare=True)
        return cursor.fetchall() if cursor.description else []

    return fetch


def sqlite(connection: sqlite3.Connection) -> Fetch:
    """Rows through sqlite3; times are read as text."""
    queries = QueryRegistry("sqlite")
    known: dict[tuple[str, ...], str] = {}

    def fetch(name: str, values: dict[str, Any]) -> Rows:
        key = (name, *values)
        if key not in known:
            (statement,) = queries[name].render(values).statements
            known[key] = statement.sql
        return connection.execute(known[key], values).fetchall()

    return fetch


def sqlite_events(rows: Rows) -> list[Event]:
    loads, moment = orjson.loads, datetime.fromisoformat
    return [
        Event(id, type, moment(at), session, run, number, loads(data), loads(more), version, who, correlation)
        for id, type, at, session, run, number, data, more, version, who, correlation in rows
    ]


def sqlite_session(rows: Rows) -> Session:
    one, moment = session(rows), datetime.fromisoformat
    one.tags = orjson.loads(one.tags)
    one.created_at, one.updated_at = moment(one.created_at), moment(one.updated_at)
    return one


def values_of(session: asm.Session) -> dict[str, Any]:
    """The parameters of save_session, bound by hand."""
    return {
        "id": session.id,
        "agent_id": session.agent_id,
        "status": str(session.status),
        "parent_session_id": session.parent_session_id,
        "metadata": orjson.dumps(session.metadata).decode(),
        "context": orjson.dumps(session.context).decode(),
        "tags": list(session.tags),
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "deleted_at": session.deleted_at,
    }
