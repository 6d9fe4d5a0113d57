"""eventsourcing's event store, over each of its recorders.

An application counts the versions of an aggregate. Here they are counted in memory, so callers that share
a session never collide, which favours the library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from uuid import uuid4

from eventsourcing.domain import DomainEvent
from eventsourcing.persistence import DatetimeAsISO, EventStore, JSONTranscoder, Mapper, UUIDAsHex
from eventsourcing.postgres import (
    PostgresAggregateRecorder,
    PostgresApplicationRecorder,
    PostgresDatastore,
)
from eventsourcing.sqlite import SQLiteAggregateRecorder, SQLiteApplicationRecorder, SQLiteDatastore

from bench import payload
from bench.peer import CONNECTIONS, Address, Peer


class MessageSent(DomainEvent):
    data: dict[str, Any]
    provider: str


@contextmanager
def application(_: asyncio.Runner, address: Address, sessions: Sequence[str]) -> Iterator[Peer]:
    yield from _opened(address, sessions, PostgresApplicationRecorder, SQLiteApplicationRecorder)


@contextmanager
def aggregate(_: asyncio.Runner, address: Address, sessions: Sequence[str]) -> Iterator[Peer]:
    yield from _opened(address, sessions, PostgresAggregateRecorder, SQLiteAggregateRecorder)


def _opened(
    address: Address, sessions: Sequence[str], on_postgres: Callable[..., Any], on_sqlite: Callable[..., Any]
) -> Iterator[Peer]:
    datastore = _datastore(address)
    recorder = (on_sqlite if address.is_sqlite else on_postgres)(datastore, events_table_name="stored_events")
    recorder.create_table()
    transcoder = JSONTranscoder()
    transcoder.register(UUIDAsHex())
    transcoder.register(DatetimeAsISO())
    store: Any = EventStore(Mapper(transcoder), recorder)
    originators = {session_id: uuid4() for session_id in sessions}
    versions = {session_id: count(1) for session_id in sessions}

    def append(session_id: str, number: int) -> int:
        event = MessageSent(
            originators[session_id],
            next(versions[session_id]),
            MessageSent.create_timestamp(),
            payload.DOCUMENTS[number % len(payload.DOCUMENTS)],
            "claude",
        )
        store.put([event])
        return 1

    def read(session_id: str, limit: int) -> int:
        return len(list(store.get(originators[session_id], limit=limit)))

    try:
        yield Peer("eventsourcing", "threads", append, read)
    finally:
        datastore.close()


def _datastore(address: Address) -> Any:
    if address.is_sqlite:
        return SQLiteDatastore(str(address.file))
    parts = address.parts
    return PostgresDatastore(
        parts.get("dbname", ""),
        parts.get("host", ""),
        parts.get("port", "5432"),
        parts.get("user", ""),
        parts.get("password", ""),
        pool_size=CONNECTIONS,
        max_waiting=1_000,
        schema=address.schema,
    )
