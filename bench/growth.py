"""The rate of an append and two reads on a large store, compared with the same calls on a small one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

import asm
from bench import appends, floors, payload, reads
from bench.databases import Databases, PostgresSchema, SQLiteFile
from bench.harness import Comparison, Rounds, Sample, Server, Side, in_turn
from bench.targets import Target

SIZES = (10_000, 1_000_000)
PER_SESSION = 1_000
SHARE = 0.4
FLAT = 0.8
"""The ratio that counts as flat: an index that is one level deeper costs a little."""


@dataclass(frozen=True, slots=True)
class Grown:
    """A store with this many events in it, and a session to read from."""

    size: int
    store: asm.SessionStore
    session_id: str
    server: Server


def comparisons(rounds: Rounds, databases: Databases, sizes: Sequence[int] = SIZES) -> Iterator[Comparison]:
    with ExitStack() as stack:
        files = [_grown_file(rounds, stack, databases, size) for size in sizes]
        yield from compared(rounds, "SQLite", files)
    with ExitStack() as stack:
        schemas = [_grown_schema(rounds, stack, databases, size) for size in sizes]
        yield from compared(rounds, "PostgreSQL", schemas)


def compared(rounds: Rounds, database: str, stores: Sequence[Grown]) -> Iterator[Comparison]:
    smallest, *larger = stores
    for one in larger:
        for name, side in (
            ("one append", appending),
            (f"get_events of {PER_SESSION:,}", reading),
            ("a page of 100", paging),
        ):
            target = Target(
                f"{database}: {name} at {one.size:,} stored events", f"the same at {smallest.size:,}", FLAT
            )
            yield rounds.compare(target, side(smallest), side(one), share=SHARE)


def appending(grown: Grown) -> Side:
    return Side(f"at {grown.size:,}", appends.threads(grown.store, 1, appends.own(), grown.server).run)


def reading(grown: Grown) -> Side:
    return _calling(grown, lambda: len(grown.store.get_events(grown.session_id, limit=PER_SESSION)))


def paging(grown: Grown) -> Side:
    middle = PER_SESSION // 2
    return _calling(
        grown, lambda: len(grown.store.get_events(grown.session_id, after=middle, limit=reads.PAGE))
    )


def _calling(grown: Grown, call: Callable[[], int]) -> Side:
    def run(seconds: float) -> Sample:
        return in_turn(call, seconds, grown.server)

    return Side(f"at {grown.size:,}", run)


def _grown_schema(rounds: Rounds, stack: ExitStack, databases: Databases, size: int) -> Grown:
    database: PostgresSchema = stack.enter_context(databases.postgres())
    sessions = payload.session_ids(max(1, size // PER_SESSION))
    with database.connect() as connection:
        for done, session_id in enumerate(sessions):
            rounds.say(f"PostgreSQL: storing {size:,} events, {done * PER_SESSION:,} done")
            floors.copy(connection, database.schema, payload.rows(session_id, PER_SESSION))
        for statement in _SETTLED:
            connection.execute(sql.SQL(statement).format(schema=sql.Identifier(database.schema)))
    store = stack.enter_context(asm.SessionStore(database.dsn, schema=database.schema))
    return Grown(size, store, sessions[len(sessions) // 2], database.server)


_SETTLED: tuple[LiteralString, ...] = (
    """insert into {schema}.asm_session_sequences (session_id, last_sequence, updated_at)
       select session_id, max(sequence_number), now()
         from {schema}.asm_events
        group by session_id""",
    "vacuum (analyze) {schema}.asm_events",
    "vacuum (analyze) {schema}.asm_session_sequences",
)


def _grown_file(rounds: Rounds, stack: ExitStack, databases: Databases, size: int) -> Grown:
    file: SQLiteFile = stack.enter_context(databases.file())
    sessions = payload.session_ids(max(1, size // PER_SESSION))
    with closing(floors.RawSQLite(file)) as raw:
        for done, session_id in enumerate(sessions):
            rounds.say(f"SQLite: storing {size:,} events, {done * PER_SESSION:,} done")
            raw.append_many(session_id, payload.rows(session_id, PER_SESSION))
    with closing(sqlite3.connect(file.path)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    store = stack.enter_context(asm.SessionStore(file.dsn))
    return Grown(size, store, sessions[len(sessions) // 2], None)
