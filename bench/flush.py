"""The rate of flush of a session, a run and 50 events, compared with one COPY of 50 rows."""

from __future__ import annotations

from collections.abc import Iterator

import asm
from bench import batches, payload, targets
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Server, Side

EVENTS = 50
SHARE = 0.5


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with (
        databases.postgres() as database,
        asm.SessionStore(database.dsn, schema=database.schema) as store,
        database.connect() as connection,
    ):
        floor = batches.copying(connection, database.schema, EVENTS, database.server)
        yield rounds.compare(targets.FLUSH, floor, ours(store, database.server), share=SHARE)


def ours(store: asm.SessionStore, server: Server) -> Side:
    def turn() -> tuple[asm.Session, asm.Run, list[asm.Event]]:
        session = asm.Session(agent_id="bench", status="active", metadata={"repository": "asm"})
        run = asm.Run(
            id=payload.run_of(session.id), session_id=session.id, status="running", provider="claude"
        )
        return session, run, [payload.event(session.id, number) for number in range(EVENTS)]

    def step(turn: tuple[asm.Session, asm.Run, list[asm.Event]]) -> int:
        return len(store.flush(*turn))

    return Side("flush", batches.supplied(turn, step, EVENTS, server))
