"""The rate of batches, compared with COPY of the same rows, which has no counter and finds no duplicates."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import psycopg

import asm
from bench import floors, payload, targets
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Sample, Server, Side, in_turn

T = TypeVar("T")

CASES = ((targets.BATCH_100, 100), (targets.BATCH_1000, 1_000), (targets.BATCH_10000, 10_000))
SPANNING = targets.Target("append_events of 1,000 over 200 sessions", targets.COPY)

SHARE = 0.5
PER_SECOND = 60_000
"""More rows than either side writes."""


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with (
        databases.postgres() as database,
        asm.SessionStore(database.dsn, schema=database.schema) as store,
        database.connect() as connection,
    ):
        for target, size in CASES:
            floor = copying(connection, database.schema, size, database.server)
            yield rounds.compare(target, floor, ours(store, database.server, size), share=SHARE)
        floor = copying(connection, database.schema, 1_000, database.server)
        yield rounds.compare(
            SPANNING, floor, ours(store, database.server, 1_000, sessions=payload.SESSIONS), share=SHARE
        )
        with floors.reference_schema(database) as reference:
            floor = copying(connection, reference, 1_000, database.server)
            yield rounds.compare(
                targets.BATCH_REFERENCE, floor, ours(store, database.server, 1_000), share=SHARE
            )


def ours(store: asm.SessionStore, server: Server, size: int, *, sessions: int = 1) -> Side:
    def batch() -> list[asm.Event]:
        ids = payload.session_ids(sessions)
        return [payload.event(ids[number % sessions], number) for number in range(size)]

    def step(events: list[asm.Event]) -> int:
        return len(store.append_events(events))

    return Side(f"append_events of {size:,}", supplied(batch, step, size, server))


def copying(
    connection: psycopg.Connection[tuple[object, ...]], schema: str, size: int, server: Server
) -> Side:
    def batch() -> list[payload.Row]:
        (session_id,) = payload.session_ids(1)
        return payload.rows(session_id, size)

    def step(rows: Sequence[payload.Row]) -> int:
        floors.copy(connection, schema, rows)
        return len(rows)

    return Side(f"COPY of {size:,}", supplied(batch, step, size, server))


def supplied(
    batch: Callable[[], T], step: Callable[[T], int], size: int, server: Server = None
) -> Callable[[float], Sample]:
    """Make batches before the clock starts, then send them one after another."""

    def run(seconds: float) -> Sample:
        waiting = deque(batch() for _ in range(2 + int(PER_SECOND * seconds / size)))
        return in_turn(lambda: step(waiting.popleft()), seconds, server)

    return run
