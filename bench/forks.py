"""A fork of a long session, compared with appending its events, and the memory it takes in the client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import asm
from bench import batches, payload, targets
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Sample, Server, Side, in_turn
from bench.targets import Target

EVENTS = 100_000

MEMORY_OF_A_FORK = """
import sys
import asm

def peak_kb():
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0])

dsn, schema, short, long = sys.argv[1:]
with asm.SessionStore(dsn, schema=schema or None) as store:
    store.fork_session(short)
    before = peak_kb()
    store.fork_session(long)
    print(peak_kb() - before)
"""
"""Run by a process of its own, because this one has memory left from what it appended."""


def comparisons(rounds: Rounds, databases: Databases, events: int = EVENTS) -> Iterator[Comparison]:
    with databases.file() as file, asm.SessionStore(file.dsn) as store:
        forking = Forking(store, (file.dsn, ""), None, events)
        yield _compared(rounds, targets.SQLITE_FORK, forking)
    with (
        databases.postgres() as database,
        asm.SessionStore(database.dsn, schema=database.schema) as store,
    ):
        forking = Forking(store, (database.dsn, database.schema), database.server, events)
        yield _compared(rounds, targets.FORK, forking)


class Forking:
    """A store with a short session and a long one to fork."""

    def __init__(
        self, store: asm.SessionStore, address: tuple[str, str], server: Server, events: int
    ) -> None:
        self._store = store
        self._address = address
        self._server = server
        self.events = events
        self._short, self._long = (self._stored(number) for number in (1, events))

    def fork(self) -> int:
        child = self._store.fork_session(self._long)
        return int(child.metadata["forked_at"])

    def run(self, seconds: float) -> Sample:
        sample = in_turn(self.fork, seconds, self._server)
        return replace(sample, peak_mb=self._memory_mb())

    def appending(self) -> Side:
        return batches.ours(self._store, self._server, self.events)

    def _stored(self, number: int) -> str:
        session = asm.Session(agent_id="bench")
        self._store.save_session(session)
        self._store.append_events(payload.event(session.id, each) for each in range(number))
        return session.id

    def _memory_mb(self) -> float:
        command = [sys.executable, "-c", MEMORY_OF_A_FORK, *self._address, self._short, self._long]
        return int(subprocess.run(command, capture_output=True, check=True).stdout) / 1e3


def _compared(rounds: Rounds, target: Target, forking: Forking) -> Comparison:
    return rounds.compare(target, forking.appending(), Side("fork_session", forking.run))
