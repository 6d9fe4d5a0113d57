"""What do an append with a session, a pop, a read of the last events and an update cost?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import psycopg
from psycopg import sql

import asm
from bench import appends, by_hand, payload, targets
from bench.databases import Databases, PostgresSchema
from bench.harness import Comparison, Rounds, Sample, Server, Side, by_threads, in_turn
from bench.targets import Target

THREADS = 64
RACERS = 50
LAST = 50
LENGTHS = (1_000, 100_000)
SHARE = 0.5
BLOCK = 5_000
"""Events that a side appends at once, before the clock starts."""

Turn = tuple[asm.Event, asm.Session | None]


def comparisons(
    rounds: Rounds, databases: Databases, lengths: tuple[int, int] = LENGTHS
) -> Iterator[Comparison]:
    with databases.file() as file, asm.SessionStore(file.dsn) as store:
        yield from _compared(rounds, "SQLite", store, None, lengths)
    with databases.postgres() as place, asm.SessionStore(place.dsn, schema=place.schema) as store:
        wal = _wal_of_appends(place, store)
        for comparison in _compared(rounds, "PostgreSQL", store, place.server, lengths):
            if "append with its session" in comparison.target.what:
                comparison = replace(comparison, floor_name=f"{comparison.floor_name}; {wal}")
            yield comparison
        yield from _updates(rounds, place, store)


def _compared(
    rounds: Rounds, database: str, store: asm.SessionStore, server: Server, lengths: tuple[int, int]
) -> Iterator[Comparison]:
    def target(target: Target) -> Target:
        return targets.of_operation(database, target)

    one = _appending(store, 1, server, _without)
    for callers, wanted in ((1, targets.WITH_SESSION), (THREADS, targets.WITH_SESSION_THREADS)):
        bare = _appending(store, callers, server, _without)
        yield rounds.compare(target(wanted), bare, _appending(store, callers, server, _moved), share=SHARE)
    yield rounds.compare(target(targets.POP), one, _popping(store, server), unit="call", share=SHARE)
    with ThreadPoolExecutor(RACERS) as threads:
        racing = _popping(store, server, threads)
        floor = _popping(store, server)
        yield rounds.compare(target(targets.RACING_POPS), floor, racing, unit="call", share=SHARE)
    short, long = (_reading_last(store, length, server) for length in lengths)
    yield rounds.compare(target(targets.LAST_EVENTS), short, long, share=SHARE)


def _without(event: asm.Event) -> Turn:
    return event, None


def _moved(event: asm.Event) -> Turn:
    """The session of the event as an adapter has it, updated at the time of the event."""
    return event, replace(_SESSION, id=event.session_id, updated_at=event.timestamp)


_SESSION = asm.Session(agent_id="bench", status="active", metadata={"repository": "asm"}, tags=("release",))


def _appending(
    store: asm.SessionStore, callers: int, server: Server, turn: Callable[[asm.Event], Turn]
) -> Side:
    supply = appends.own()

    def run(seconds: float) -> Sample:
        turns = deque(turn(supply.take()) for _ in range(len(supply)))

        def step() -> int:
            event, session = turns.popleft()
            if session is None:
                store.append_event(event)
            else:
                store.append_event(event, session=session)
            return 1

        return (
            in_turn(step, seconds, server) if callers == 1 else by_threads([step] * callers, seconds, server)
        )

    name = (
        f"append_event{'' if turn is _without else ' with a session'}, {appends.counted(callers, 'thread')}"
    )
    return Side(name, appends.supplied(supply, run))


def _popping(store: asm.SessionStore, server: Server, threads: ThreadPoolExecutor | None = None) -> Side:
    """Pops of one session, one after another, or as many at the same time as there are threads."""
    session_id, stored = payload.session_ids(1)[0], 0

    def pop() -> int:
        nonlocal stored
        if store.pop_event(session_id) is None:
            raise IndexError
        stored -= 1
        return 1

    def race() -> int:
        assert threads is not None
        return sum(threads.map(lambda _: pop(), range(RACERS)))

    def run(seconds: float) -> Sample:
        nonlocal stored
        while stored < max(BLOCK * seconds, 2 * RACERS):
            stored += len(store.append_events([payload.event(session_id, n) for n in range(BLOCK)]))
        return in_turn(pop if threads is None else race, seconds, server)

    return Side("pop_event, 1 thread" if threads is None else f"pop_event, {RACERS} threads", run)


def _reading_last(store: asm.SessionStore, length: int, server: Server) -> Side:
    (session_id,) = payload.session_ids(1)
    store.append_events([payload.event(session_id, n) for n in range(length)])

    def run(seconds: float) -> Sample:
        return in_turn(lambda: len(store.get_events(session_id, last=LAST)), seconds, server)

    return Side(f"of {length:,}", run)


def _updates(rounds: Rounds, place: PostgresSchema, store: asm.SessionStore) -> Iterator[Comparison]:
    """Updates of one row, which read and lock it before they write it."""
    session = asm.Session(agent_id="bench", status="active", context={"n": 0})
    run = asm.Run(session_id=session.id, status="running", provider="claude")
    store.flush(session, run)
    with place.connect() as connection:
        floor = _UpdatesByHand(place, connection)
        cases: tuple[tuple[Target, Callable[[], object], Callable[[], object]], ...] = (
            (
                targets.UPDATE_SESSION,
                lambda: floor.update_session(session.id),
                lambda: store.update_session(session.id, _counted),
            ),
            (
                targets.UPDATE_RUN,
                lambda: floor.update_run(run.id),
                lambda: store.update_run(run.id, asm.Run.increment_turn),
            ),
        )
        for target, theirs, ours in cases:
            sides = [_repeated("by hand", theirs, place.server), _repeated("asm", ours, place.server)]
            yield rounds.compare(target, *sides, unit="call", share=SHARE)


def _counted(session: asm.Session) -> asm.Session:
    return replace(session, context={"n": session.context["n"] + 1})


def _repeated(name: str, call: Callable[[], object], server: Server) -> Side:
    def step() -> int:
        call()
        return 1

    return Side(name, lambda seconds: in_turn(step, seconds, server))


class _UpdatesByHand:
    def __init__(self, place: PostgresSchema, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._fetch = by_hand.postgres(place, connection)
        sessions, runs = (sql.Identifier(place.schema, table) for table in ("asm_sessions", "asm_runs"))
        self._save_context = sql.SQL("update {} set context = %s::json where id = %s").format(sessions)
        self._save_turns = sql.SQL("update {} set turn_count = %s where id = %s").format(runs)

    def update_session(self, session_id: str) -> None:
        self._connection.execute("begin")
        session = by_hand.session(self._fetch("lock_session", {"id": session_id}))
        context = orjson.dumps({"n": session.context["n"] + 1}).decode()
        self._connection.execute(self._save_context, [context, session_id], prepare=True)
        self._connection.execute("commit")

    def update_run(self, run_id: str) -> None:
        self._connection.execute("begin")
        run = by_hand.run(self._fetch("lock_run", {"id": run_id}))
        self._connection.execute(self._save_turns, [run.turn_count + 1, run_id], prepare=True)
        self._connection.execute("commit")


def _wal_of_appends(place: PostgresSchema, store: asm.SessionStore) -> str:
    """The bytes of WAL of one append: bare, with a session that moves, and with one that does not."""
    session = replace(_SESSION, id=payload.session_ids(1)[0])
    with place.connect() as connection:

        def position() -> float:
            ((lsn,),) = connection.execute(
                "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8"
            ).fetchall()
            return float(str(lsn))

        def of(sessions: list[asm.Session | None]) -> float:
            before = position()
            for n, each in enumerate(sessions):
                store.append_event(payload.event(session.id, n), session=each)
            return (position() - before) / len(sessions)

        later = [replace(session, updated_at=session.updated_at + timedelta(hours=n)) for n in range(1_000)]
        # A first round, because the first write to a page after a checkpoint logs the whole page.
        for half in (later[:500], later[500:]):
            bare, moved, unmoved = of([None] * 500), of([*half]), of([session] * 500)
    return (
        f"bytes of WAL: {bare:,.0f} bare, {moved:,.0f} with a session that moves, {unmoved:,.0f} with another"
    )
