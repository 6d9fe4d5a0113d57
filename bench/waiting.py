"""How soon an append of another process reaches its follower, and what followers cost.

A wake-up lasts from the call of the append until the follower has the event; its floor is the append alone.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asm
from bench import appends, targets
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Sample, Side, Stopwatch, comparison, settle

WRITERS = 64
ROOT = Path(__file__).parents[1]


def comparisons(
    rounds: Rounds, databases: Databases, sessions: tuple[int, ...] = targets.FOLLOWERS
) -> Iterator[Comparison]:
    with databases.file() as file:
        yield from wake_ups(rounds, "SQLite", file.dsn, "", sessions)
    with databases.postgres() as database:
        yield from wake_ups(rounds, "PostgreSQL", database.dsn, database.schema, sessions)
        with asyncio.Runner() as runner, appends.opened(runner, database.dsn, database.schema) as store:
            side = appends.tasks(runner, store, WRITERS, appends.own(), database.server)
            followed = Side(side.name, _beside_followers(runner, store, side, sessions[-1]))
            yield rounds.compare(targets.BESIDE_FOLLOWERS, side, followed)


def wake_ups(
    rounds: Rounds, database: str, dsn: str, schema: str, sessions: tuple[int, ...]
) -> Iterator[Comparison]:
    for number in sessions:
        with ExitStack() as stack:
            runner = stack.enter_context(asyncio.Runner())
            store = stack.enter_context(appends.opened(runner, dsn, schema or None))
            prefix = f"ses_{number}_"
            followers = stack.enter_context(following(runner, store, prefix, number))
            writer = stack.enter_context(writing(dsn, schema, prefix))
            runs = Runs(runner, followers, writer)
            target = targets.woken(database, number)
            (woken,) = rounds.alternate(target.what, [Side("wake-ups", runs.run)])
            yield comparison(target, "wake-up", "the append itself", runs.calls[-len(woken) :], woken)


class Followers:
    """Tasks that each follow one session, and how long each event took to reach them."""

    def __init__(self, store: asm.AsyncSessionStore, prefix: str, number: int) -> None:
        self.latencies_s: list[float] = []
        self.number = number
        self._tasks = [asyncio.create_task(self._follow(store, f"{prefix}{n}")) for n in range(number)]

    async def _follow(self, store: asm.AsyncSessionStore, session_id: str) -> None:
        async for event in store.follow_events(session_id):
            self.latencies_s.append(time.monotonic() - event.data["at"])

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


@contextmanager
def following(
    runner: asyncio.Runner, store: asm.AsyncSessionStore, prefix: str, number: int
) -> Iterator[Followers]:
    """Followers that run whenever the runner does. Each has time to run its first query before the block."""

    async def begun() -> Followers:
        followers = Followers(store, prefix, number)
        await asyncio.sleep(0.1 + number / 500)
        return followers

    followers = runner.run(begun())
    try:
        yield followers
    finally:
        runner.run(followers.end())


@contextmanager
def writing(dsn: str, schema: str, prefix: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.pacing", dsn, schema, prefix]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        yield writer
        writer.communicate()


class Runs:
    """Runs of a writer and its followers. Each gives a sample of wake-ups and one of append calls."""

    def __init__(self, runner: asyncio.Runner, followers: Followers, writer: subprocess.Popen[str]) -> None:
        self.calls: list[Sample] = []
        self._runner = runner
        self._followers = followers
        self._writer = writer

    def run(self, seconds: float) -> Sample:
        self._followers.latencies_s.clear()
        settle()
        with Stopwatch(None) as watch:
            took_s = self._runner.run(self._measured(seconds))
        self.calls.append(Sample(len(took_s), watch.elapsed_s, took_s, 0.0))
        woken = list(self._followers.latencies_s)
        return watch.sample(len(woken), woken)

    async def _measured(self, seconds: float) -> list[float]:
        took_s: list[float] = await asyncio.to_thread(self._append_for, seconds)
        deadline = time.monotonic() + 60
        while len(self._followers.latencies_s) < len(took_s):
            if time.monotonic() > deadline:
                raise RuntimeError("an event did not reach its follower within 60 s")
            await asyncio.sleep(0.001)
        return took_s

    def _append_for(self, seconds: float) -> Any:
        assert self._writer.stdin
        assert self._writer.stdout
        print(seconds, self._followers.number, file=self._writer.stdin, flush=True)
        return json.loads(self._writer.stdout.readline())


def _beside_followers(runner: asyncio.Runner, store: asm.AsyncSessionStore, side: Side, sessions: int) -> Any:
    """The same side while tasks of the same process follow other sessions."""

    def run(seconds: float) -> Sample:
        with following(runner, store, "ses_other_", sessions):
            return side.run(seconds)

    return run
