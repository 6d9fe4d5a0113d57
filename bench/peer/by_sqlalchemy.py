"""The reference library's algorithm in SQLAlchemy's ORM: begin, look the id up, count, insert, commit.

The tables are the reference's, too: jsonb documents, and seven indexes on the events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, DateTime, Index, Integer, String, Table, create_engine, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session, registry

from asm import models
from bench import payload
from bench.peer import CONNECTIONS, Address, Peer

DOCUMENT = JSON().with_variant(JSONB(), "postgresql")

tables = registry()

EVENTS = Table(
    "orm_events",
    tables.metadata,
    Column("id", String(255), primary_key=True),
    Column("type", String(255), nullable=False),
    Column("timestamp", DateTime(timezone=True), nullable=False),
    Column("session_id", String(255), nullable=False),
    Column("run_id", String(255)),
    Column("sequence_number", Integer, nullable=False),
    Column("data", DOCUMENT),
    Column("metadata", DOCUMENT, key="more"),
    Column("schema_version", Integer, nullable=False),
    Column("provider", String(255)),
    Column("correlation_id", String(255)),
    Index("orm_events_sequence", "session_id", "sequence_number", unique=True),
    Index("orm_events_type", "session_id", "type"),
    Index("orm_events_run", "session_id", "run_id"),
    Index("orm_events_correlation", "correlation_id"),
    Index("orm_events_provider", "provider"),
    Index("orm_events_timestamp", "timestamp"),
)
COUNTERS = Table(
    "orm_session_sequences",
    tables.metadata,
    Column("session_id", String(255), primary_key=True),
    Column("last_sequence", Integer, nullable=False),
    Column("updated_at", DateTime(timezone=True)),
)


class OrmEvent:
    """A row of orm_events."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


tables.map_imperatively(OrmEvent, EVENTS)


@contextmanager
def opened(_: asyncio.Runner, address: Address, __: Sequence[str]) -> Iterator[Peer]:
    arguments = {} if address.is_sqlite else {"options": f"-c search_path={address.schema}"}
    engine = create_engine(
        address.url("" if address.is_sqlite else "psycopg"), pool_size=CONNECTIONS, connect_args=arguments
    )
    tables.metadata.create_all(engine)
    insert = sqlite_insert if address.is_sqlite else postgres_insert

    def append(session_id: str, number: int) -> int:
        event_id, now = models.new_id("evt_"), datetime.now(UTC)
        with Session(engine) as orm, orm.begin():
            known = orm.scalar(select(OrmEvent).where(EVENTS.c.id == event_id))
            assert known is None
            upsert = (
                insert(COUNTERS)
                .values(session_id=session_id, last_sequence=1, updated_at=now)
                .on_conflict_do_update(
                    index_elements=["session_id"],
                    set_={"last_sequence": COUNTERS.c.last_sequence + 1, "updated_at": now},
                )
                .returning(COUNTERS.c.last_sequence)
            )
            last = orm.scalars(upsert).one()
            orm.add(
                OrmEvent(
                    id=event_id,
                    type="message_sent",
                    timestamp=now,
                    session_id=session_id,
                    run_id=payload.run_of(session_id),
                    sequence_number=last,
                    data=payload.DOCUMENTS[number % len(payload.DOCUMENTS)],
                    more={},
                    schema_version=1,
                    provider="claude",
                )
            )
        return 1

    def read(session_id: str, limit: int) -> int:
        wanted = select(OrmEvent).where(EVENTS.c.session_id == session_id).order_by(EVENTS.c.sequence_number)
        with Session(engine) as orm:
            return len(orm.scalars(wanted.limit(limit)).all())

    try:
        yield Peer("SQLAlchemy's ORM", "threads", append, read)
    finally:
        engine.dispose()
