"""The rate of appends of one event per call, from threads, compared with pgbench with the same statement."""

from __future__ import annotations

from collections.abc import Iterator

import asm
from bench import appends, floors, targets
from bench.databases import Databases
from bench.harness import Comparison, Rounds
from bench.payload import SESSIONS

CASES = (
    # target, our threads, pgbench's clients, sessions
    (targets.ONE_THREAD, 1, 1, SESSIONS),
    (targets.EIGHT_THREADS, 8, 8, SESSIONS),
    (targets.THREADS, 64, 32, SESSIONS),
    (targets.THREADS_ON_ONE, 16, 16, 1),
)


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with databases.postgres() as database, asm.SessionStore(database.dsn, schema=database.schema) as store:
        for target, callers, clients, sessions in CASES:
            floor = floors.one_statement(database, clients, sessions=sessions)
            ours = appends.threads(store, callers, appends.numbered(sessions), database.server)
            yield rounds.compare(target, floor, ours)
