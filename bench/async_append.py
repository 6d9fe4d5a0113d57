"""The rate of appends of one event per call, from tasks of one event loop, compared with pgbench."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from bench import appends, floors, targets
from bench.databases import Databases
from bench.harness import Comparison, Rounds
from bench.payload import SESSIONS

ONE_TASK = targets.Target("one task", "pgbench, 1 client")

CASES = (
    # target, our tasks, pgbench's clients, sessions
    (ONE_TASK, 1, 1, SESSIONS),
    (targets.TASKS, 64, 32, SESSIONS),
    (targets.MANY_TASKS, 512, 32, SESSIONS),
    (targets.TASKS_ON_ONE, 16, 16, 1),
)


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with (
        databases.postgres() as database,
        asyncio.Runner() as runner,
        appends.opened(runner, database.dsn, database.schema) as store,
    ):
        for target, callers, clients, sessions in CASES:
            floor = floors.one_statement(database, clients, sessions=sessions)
            ours = appends.tasks(runner, store, callers, appends.numbered(sessions), database.server)
            yield rounds.compare(target, floor, ours)
