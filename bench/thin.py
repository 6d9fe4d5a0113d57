"""The cost of the store's own Python code, compared with the same statements executed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import orjson

import asm
from bench import appends, by_hand, payload, reads
from bench.databases import Databases, PostgresSchema
from bench.floors import RawSQLite
from bench.harness import Comparison, Rounds, Sample, Server, Side, in_turn
from bench.targets import Target

SHARE = 0.4

APPEND = Target("PostgreSQL: append_event", "the same statement through psycopg's cursor, by hand")
GET_SESSION = Target("PostgreSQL: get_session", "by hand")
LATEST = Target("PostgreSQL: get_latest_sequence", "by hand")
SQLITE_APPEND = Target("SQLite in memory: append_event", "the same statements through sqlite3, by hand")
SQLITE_LATEST = Target("SQLite in memory: get_latest_sequence", "by hand")
EVENT = Target("making an Event, with its checks", "a plain slotted object with the same fields")


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    yield rounds.compare(
        EVENT, Side("plain", _repeating(_plain_event)), Side("Event", _repeating(_event)), share=SHARE
    )
    yield from of_sqlite(rounds)
    with databases.postgres() as database:
        yield from of_postgres(rounds, database)


def of_postgres(rounds: Rounds, database: PostgresSchema) -> Iterator[Comparison]:
    with asm.SessionStore(database.dsn, schema=database.schema) as store, database.connect() as connection:
        session = reads.stored(store, 10)
        fetch = by_hand.postgres(database, connection)

        def append(event: asm.Event) -> object:
            return _numbered(event, fetch("append_event", _values(event))[0][0])

        def side(name: str, call: Callable[[], object]) -> Side:
            return Side(name, lambda seconds: in_turn(reads.counted(call, 1), seconds, database.server))

        yield rounds.compare(
            APPEND,
            Side("by hand", _appending(append, database.server)),
            appends.threads(store, 1, appends.own(), database.server),
            share=SHARE,
        )
        one = {"session_id": session.id}
        yield rounds.compare(
            GET_SESSION,
            side("by hand", lambda: by_hand.session(fetch("get_session", {"id": session.id}))),
            side("get_session", lambda: store.get_session(session.id)),
            unit="call",
            share=SHARE,
        )
        yield rounds.compare(
            LATEST,
            side("by hand", lambda: fetch("get_latest_sequence", one)[0][0]),
            side("get_latest_sequence", lambda: store.get_latest_sequence(session.id)),
            unit="call",
            share=SHARE,
        )


def of_sqlite(rounds: Rounds) -> Iterator[Comparison]:
    # In memory, so that the disk does not hide the cost of Python.
    with asm.SessionStore("sqlite://", migrate=True) as store, closing(RawSQLite()) as raw:
        fetch = by_hand.sqlite(raw.connection)

        def append(event: asm.Event) -> object:
            return _numbered(event, raw.append(payload.row(event, 0)))

        yield rounds.compare(
            SQLITE_APPEND,
            Side("by hand", _appending(append)),
            appends.threads(store, 1, appends.own()),
            share=SHARE,
        )
        one = {"session_id": reads.stored(store, 10).id}
        raw.connection.execute("insert into asm_session_sequences values (:session_id, 10, 0, '')", one)
        yield rounds.compare(
            SQLITE_LATEST,
            Side("by hand", _repeating(lambda: fetch("get_latest_sequence", one)[0][0])),
            Side("get_latest_sequence", _repeating(lambda: store.get_latest_sequence(one["session_id"]))),
            unit="call",
            share=SHARE,
        )


def _appending(append: Callable[[asm.Event], object], server: Server = None) -> Callable[[float], Sample]:
    supply = appends.own()

    def step() -> int:
        append(supply.take())
        return 1

    return appends.supplied(supply, lambda seconds: in_turn(step, seconds, server))


def _values(event: asm.Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": str(event.type),
        "timestamp": event.timestamp,
        "session_id": event.session_id,
        "run_id": event.run_id,
        "data": orjson.dumps(event.data).decode(),
        "metadata": orjson.dumps(event.metadata).decode(),
        "schema_version": event.schema_version,
        "provider": event.provider,
        "correlation_id": event.correlation_id,
    }


def _numbered(event: asm.Event, number: int) -> by_hand.Event:
    return by_hand.Event(
        event.id,
        event.type,
        event.timestamp,
        event.session_id,
        event.run_id,
        number,
        event.data,
        event.metadata,
        event.schema_version,
        event.provider,
        event.correlation_id,
    )


def _repeating(call: Callable[[], object]) -> Callable[[float], Sample]:
    def run(seconds: float) -> Sample:
        return in_turn(reads.counted(call, 1), seconds)

    return run


def _event() -> asm.Event:
    return payload.event("ses_1", 1)


def _plain_event() -> by_hand.Event:
    return by_hand.Event(
        "evt_1", "message_sent", _NOW, "ses_1", "run_1", 0, payload.DOCUMENTS[1], {}, 1, "claude", None
    )


_NOW = asm.Event(type="message_sent", session_id="ses_1").timestamp
