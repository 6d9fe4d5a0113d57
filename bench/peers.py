"""The store compared with similar libraries, each used as its documentation says.

The libraries promise less: only the ORM's port of the reference numbers the events of a session without gaps
and stores an id once. Compared with a blocking library the store runs in threads, with an async one in tasks.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import asm
from bench import appends, payload
from bench.databases import Databases, PostgresSchema, SQLiteFile
from bench.harness import Comparison, Rounds, Sample, Server, Side, by_tasks, by_threads, in_turn
from bench.peer import KINDS, Address, Kind, Peer
from bench.targets import Target

CALLERS = (
    # name, callers, sessions
    ("1 caller", 1, payload.SESSIONS),
    ("8 callers", 8, payload.SESSIONS),
    ("32 callers", 32, payload.SESSIONS),
    ("16 callers on one session", 16, 1),
)
READS = (("1,000 events read", 1_000), ("a page of 100", 100))
ROUNDS_MAX = 3
SHARE = 0.5


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    fewer = Rounds(min(rounds.rounds, ROUNDS_MAX), rounds.seconds, rounds.say)
    for kind in KINDS:
        if missing(kind):
            continue
        with databases.postgres() as database:
            yield from measured_beside(fewer, kind, database, CALLERS, database.server)
        if "sqlite" in kind.dialects:
            with databases.file() as file:
                yield from measured_beside(fewer, kind, file, CALLERS[:1], None)


def absent() -> list[str]:
    """The peers that cannot be measured, and why."""
    return [f"{kind.name}: {reason}" for kind in KINDS if (reason := missing(kind))]


def missing(kind: Kind) -> str:
    """Why a peer cannot be measured; empty if it can."""
    try:
        version(kind.package)
        import_module(f"bench.peer.{kind.module}")
    except PackageNotFoundError:
        return f"{kind.package} is not installed"
    except Exception as error:
        return f"{kind.package} does not import: {type(error).__name__}: {error}"
    return ""


def measured_beside(
    rounds: Rounds,
    kind: Kind,
    database: PostgresSchema | SQLiteFile,
    callers: tuple[tuple[str, int, int], ...],
    server: Server,
) -> Iterator[Comparison]:
    where = "SQLite: " if isinstance(database, SQLiteFile) else ""
    module = import_module(f"bench.peer.{kind.module}")
    many, hot, full = payload.session_ids(), payload.session_ids(1), payload.session_ids(1)
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        peer: Peer = stack.enter_context(
            getattr(module, kind.opened)(runner, Address(database), many + hot + full)
        )
        ours = stack.enter_context(Ours(runner, database, peer.called_from))
        baseline = f"{kind.package} {version(kind.package)}"
        for name, number, sessions in callers:
            target = Target(f"{where}{name}, beside {kind.name}", baseline, 1.0)
            theirs = appending(runner, peer, number, hot if sessions == 1 else many, server)
            yield rounds.compare(target, theirs, ours.appending(number, sessions, server), share=SHARE)
        fill(runner, peer, full[0])
        ours.fill(full[0])
        for name, limit in READS:
            target = Target(f"{where}{name}, beside {kind.name}", baseline, 1.0)
            theirs = calling(runner, peer, peer.name, partial(peer.read, full[0], limit), server)
            own = calling(runner, peer, "asm", partial(ours.read, full[0], limit), server)
            yield rounds.compare(target, theirs, own, unit="call", share=SHARE / 2)


def appending(runner: asyncio.Runner, peer: Peer, callers: int, sessions: list[str], server: Server) -> Side:
    numbers = itertools.count()

    def step() -> Any:
        number = next(numbers)
        return peer.append(sessions[number * 7919 % len(sessions)], number)

    def run(seconds: float) -> Sample:
        if peer.called_from == "tasks":
            return by_tasks(runner, [step] * callers, seconds, server)
        # One caller needs no thread, as for the store.
        if callers == 1:
            return in_turn(step, seconds, server)
        return by_threads([step] * callers, seconds, server)

    return Side(f"{peer.name}, {appends.counted(callers, peer.called_from[:-1])}", run)


def calling(
    runner: asyncio.Runner, peer: Peer, name: str, call: Callable[[], Any | Awaitable[Any]], server: Server
) -> Side:
    """One caller, blocking or awaited as the peer is."""

    def run(seconds: float) -> Sample:
        if peer.called_from == "tasks":
            return by_tasks(runner, [call], seconds, server)
        return in_turn(lambda: 1 if call() else 0, seconds, server)

    return Side(name, run)


def fill(runner: asyncio.Runner, peer: Peer, session_id: str) -> None:
    async def awaited() -> None:
        for number in range(1_000):
            await peer.append(session_id, number)

    if peer.called_from == "tasks":
        runner.run(awaited())
    else:
        for number in range(1_000):
            peer.append(session_id, number)


class Ours:
    """The store, blocking or async as the peer is."""

    def __init__(
        self, runner: asyncio.Runner, database: PostgresSchema | SQLiteFile, called_from: str
    ) -> None:
        schema = database.schema if isinstance(database, PostgresSchema) else None
        self._runner = runner
        self._is_async = called_from == "tasks"
        self._stack = ExitStack()
        self._blocking = self._stack.enter_context(asm.SessionStore(database.dsn, schema=schema))
        if self._is_async:
            self._awaited = self._stack.enter_context(appends.opened(runner, database.dsn, schema))

    def __enter__(self) -> Ours:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def appending(self, callers: int, sessions: int, server: Server) -> Side:
        if self._is_async:
            return appends.tasks(self._runner, self._awaited, callers, appends.own(sessions), server)
        return appends.threads(self._blocking, callers, appends.own(sessions), server)

    def fill(self, session_id: str) -> None:
        self._blocking.append_events([payload.event(session_id, number) for number in range(1_000)])

    def read(self, session_id: str, limit: int) -> Any:
        return (self._awaited if self._is_async else self._blocking).get_events(session_id, limit=limit)
