"""The rate of SQLite with synchronous=FULL: one caller, threads, processes, batches, a task."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count, cycle
from multiprocessing.connection import Connection

import asm
from bench import appends, batches, payload, targets
from bench.databases import Databases, SQLiteFile
from bench.floors import RawSQLite
from bench.harness import Comparison, Rounds, Sample, Side, Step, by_threads, in_turn
from bench.payload import SESSIONS

THREADS = 64
MIXED_THREADS = 8
PROCESSES = 4
BATCH = 1_000
SHARE = 0.5


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with (
        databases.file() as file,
        asm.SessionStore(file.dsn) as store,
        # In a second file, because a checkpoint of one side would move the other side's log.
        databases.file() as second,
        closing(RawSQLite(second)) as raw,
    ):
        one = appends.threads(store, 1, appends.own())
        yield rounds.compare(targets.SQLITE_APPEND, looping(raw), one)
        many = appends.threads(store, THREADS, appends.own())
        yield rounds.compare(targets.SQLITE_THREADS, looping(raw), many)
        yield rounds.compare(targets.SQLITE_MIXED, mixed(store, 1), mixed(store, MIXED_THREADS))
        yield rounds.compare(targets.SQLITE_BATCHES, inserting(raw), batching(store), share=SHARE)
        with asyncio.Runner() as runner, appends.opened(runner, file.dsn) as awaited:
            task = appends.tasks(runner, awaited, 1, appends.own())
            yield rounds.compare(targets.SQLITE_ASYNC, one, task)
    with databases.file() as file:
        yield rounds.compare(targets.SQLITE_PROCESSES, processes(file, 1), processes(file, PROCESSES))


def looping(raw: RawSQLite) -> Side:
    supply = appends.own()

    def run(seconds: float) -> Sample:
        # Rows are made before the clock starts, like events.
        supply.fill(seconds)
        rows = deque(payload.row(supply.take(), 0) for _ in range(len(supply)))
        sample = in_turn(lambda: raw.append(rows.popleft()), seconds)
        supply.learn(sample.rate)
        return sample

    return Side("raw sqlite3, one thread", run)


def mixed(store: asm.SessionStore, callers: int) -> Side:
    """Threads that each append to, save and read a session of their own; each of these is one call."""

    def run(seconds: float) -> Sample:
        steps = [_different(store, session_id) for session_id in payload.session_ids(callers)]
        return by_threads(steps, seconds)

    return Side(f"asm, {appends.counted(callers, 'thread')}", run)


def _different(store: asm.SessionStore, session_id: str) -> Step:
    numbers = count()
    session = asm.Session(agent_id="a", id=session_id)
    calls: Iterator[Callable[[], object]] = cycle(
        [
            lambda: store.append_event(payload.event(session_id, next(numbers))),
            lambda: store.save_session(session),
            lambda: store.get_events(session_id, limit=10),
        ]
    )

    def step() -> int:
        next(calls)()
        return 1

    return step


def inserting(raw: RawSQLite) -> Side:
    def batch() -> tuple[str, list[payload.Row]]:
        (session_id,) = payload.session_ids(1)
        return session_id, payload.rows(session_id, BATCH)

    return Side(
        f"raw executemany of {BATCH:,}",
        batches.supplied(batch, lambda batch: raw.append_many(*batch), BATCH),
    )


def batching(store: asm.SessionStore) -> Side:
    def batch() -> list[asm.Event]:
        (session_id,) = payload.session_ids(1)
        return [payload.event(session_id, number) for number in range(BATCH)]

    return Side(
        f"append_events of {BATCH:,}",
        batches.supplied(batch, lambda events: len(store.append_events(events)), BATCH),
    )


def processes(file: SQLiteFile, number: int) -> Side:
    """Processes that append, each with its own store on the same file."""

    def run(seconds: float) -> Sample:
        # Spawned, because a fork would share open connections.
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(number)]
        workers = [
            context.Process(target=_worker, args=(file.dsn, seconds, theirs), daemon=True)
            for _, theirs in pipes
        ]
        for worker in workers:
            worker.start()
        for ours, _ in pipes:
            ours.recv()
        start = time.time() + 0.1
        for ours, _ in pipes:
            ours.send(start)
        samples: list[Sample] = [ours.recv() for ours, _ in pipes]
        for worker in workers:
            worker.join()
        return together(samples)

    return Side(f"{number} process{'es' if number > 1 else ''}", run)


def _worker(dsn: str, seconds: float, pipe: Connection) -> None:
    supply = payload.Supply(payload.session_ids(SESSIONS // PROCESSES), per_second=8_000)
    supply.fill(seconds)
    with asm.SessionStore(dsn) as store:

        def step() -> int:
            store.append_event(supply.take())
            return 1

        step()
        pipe.send("ready")
        time.sleep(max(0.0, pipe.recv() - time.time()))
        pipe.send(in_turn(step, seconds))


def together(samples: list[Sample]) -> Sample:
    """The sum of samples of several processes that ran at the same time."""
    return Sample(
        units=sum(sample.units for sample in samples),
        elapsed_s=max(sample.elapsed_s for sample in samples),
        latencies_s=[latency for sample in samples for latency in sample.latencies_s],
        client_s=sum(sample.client_s for sample in samples),
        shares=[sample.units for sample in samples],
    )
