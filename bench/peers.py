"""How fast are libraries of a like kind? Each appends and reads as its documentation says, beside us.

They promise less than we do: none but the ORM's port of the reference numbers the events of a session without
a hole and keeps an id once. We are measured from where they are: from threads beside those that block, from
tasks beside those that are awaited.
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
from bench.harness import Line, Rounds, Sample, Server, Side, by_tasks, by_threads, in_turn
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


def lines(rounds: Rounds, databases: Databases) -> Iterator[Line]:
    fewer = Rounds(min(rounds.rounds, ROUNDS_MAX), rounds.seconds, rounds.say)
    for kind in KINDS:
        if why(kind):
            continue
        with databases.postgres() as place:
            yield from measured_beside(fewer, kind, place, CALLERS, place.server)
        if "sqlite" in kind.dialects:
            with databases.file() as file:
                yield from measured_beside(fewer, kind, file, CALLERS[:1], None)


def absent() -> list[str]:
    """The peers that cannot be measured here, and why."""
    return [f"{kind.name}: {reason}" for kind in KINDS if (reason := why(kind))]


def why(kind: Kind) -> str:
    """Why a peer cannot be measured; nothing where it can."""
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
    place: PostgresSchema | SQLiteFile,
    callers: tuple[tuple[str, int, int], ...],
    server: Server,
) -> Iterator[Line]:
    where = "SQLite: " if isinstance(place, SQLiteFile) else ""
    module = import_module(f"bench.peer.{kind.module}")
    many, hot, full = payload.session_ids(), payload.session_ids(1), payload.session_ids(1)
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        peer: Peer = stack.enter_context(
            getattr(module, kind.opened)(runner, Address(place), many + hot + full)
        )
        ours = stack.enter_context(us(runner, place, peer.called_from))
        beside = f"{kind.package} {version(kind.package)}"
        for name, number, sessions in callers:
            target = Target(f"{where}{name}, beside {kind.name}", beside, 1.0)
            theirs = appending(runner, peer, number, hot if sessions == 1 else many, server)
            yield rounds.compare(target, theirs, ours.appending(number, sessions, server), share=SHARE)
        fill(runner, peer, full[0])
        ours.fill(full[0])
        for name, limit in READS:
            target = Target(f"{where}{name}, beside {kind.name}", beside, 1.0)
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
        # As it is with us: one caller needs no thread.
        if callers == 1:
            return in_turn(step, seconds, server)
        return by_threads([step] * callers, seconds, server)

    return Side(f"{peer.name}, {appends.counted(callers, peer.called_from[:-1])}", run)


def calling(
    runner: asyncio.Runner, peer: Peer, name: str, call: Callable[[], Any | Awaitable[Any]], server: Server
) -> Side:
    """One caller in the peer's colour."""

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


class us:  # noqa: N801  # a context manager, read as a word
    """Our store in the peer's colour."""

    def __init__(self, runner: asyncio.Runner, place: PostgresSchema | SQLiteFile, called_from: str) -> None:
        schema = place.schema if isinstance(place, PostgresSchema) else None
        self._runner = runner
        self._is_async = called_from == "tasks"
        self._stack = ExitStack()
        self._blocking = self._stack.enter_context(asm.SessionStore(place.dsn, schema=schema))
        if self._is_async:
            self._awaited = self._stack.enter_context(appends.opened(runner, place.dsn, schema))

    def __enter__(self) -> us:
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
