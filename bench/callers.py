"""Throughput and p99 over the number of callers, as threads and as tasks, compared with pgbench."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asm
from bench import appends, floors
from bench.databases import Databases
from bench.harness import Comparison, Rounds, comparison
from bench.targets import Target

CALLERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CLIENTS_MAX = 64
"""A server accepts 100 connections by default, so more callers are compared with this many clients."""
SHARE = 0.5
ROUNDS_MAX = 3


def comparisons(
    rounds: Rounds, databases: Databases, callers: tuple[int, ...] = CALLERS
) -> Iterator[Comparison]:
    fewer = Rounds(min(rounds.rounds, ROUNDS_MAX), rounds.seconds, rounds.say)
    with (
        databases.postgres() as database,
        asm.SessionStore(database.dsn, schema=database.schema) as store,
        asyncio.Runner() as runner,
        appends.opened(runner, database.dsn, database.schema) as awaited,
    ):
        for number in callers:
            floor = floors.one_statement(database, min(number, CLIENTS_MAX))
            threads = appends.threads(store, number, appends.numbered(), database.server)
            tasks = appends.tasks(runner, awaited, number, appends.numbered(), database.server)
            sides = (floor, threads, tasks)
            of_floor, of_threads, of_tasks = fewer.alternate(f"{number} callers", sides, SHARE)
            yield comparison(
                Target(f"{number} threads", floor.name), "event", floor.name, of_floor, of_threads
            )
            yield comparison(Target(f"{number} tasks", floor.name), "event", floor.name, of_floor, of_tasks)
