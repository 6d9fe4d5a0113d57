"""The cost of reads, and of the small calls of every turn, compared with the same work by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import asm
from bench import by_hand, payload, targets
from bench.databases import Databases, PostgresSchema, SQLiteFile
from bench.harness import Comparison, Rounds, Server, Side, Step, in_turn

Filters: TypeAlias = dict[str, Any]

EVENTS = 1_000
PAGE = 100
SHARE = 0.4

SQLITE_GET_EVENTS = targets.Target("SQLite: get_events, 1,000 of 300 bytes", targets.BY_HAND)
SQLITE_PAGE = targets.Target("SQLite: a page of 100", targets.BY_HAND)
SQLITE_GET_SESSION = targets.Target("SQLite: get_session", "the bare driver")


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with databases.file() as file:
        yield from of_sqlite(rounds, file)
    with databases.postgres() as database:
        yield from of_postgres(rounds, database)


def of_postgres(rounds: Rounds, database: PostgresSchema) -> Iterator[Comparison]:
    with asm.SessionStore(database.dsn, schema=database.schema) as store, database.connect() as connection:
        session = stored(store)
        one = {"session_id": session.id}
        fetch = by_hand.postgres(database, connection)

        def events(filters: Filters) -> object:
            return by_hand.events(fetch("get_events", filters))

        def get_session() -> object:
            return by_hand.session(fetch("get_session", {"id": session.id}))

        def get_active_run() -> object:
            return by_hand.run(fetch("find_active_run", one))

        def save_session() -> object:
            return fetch("save_session", by_hand.values_of(session))

        cases = (
            *pages(targets.GET_EVENTS, targets.PAGE, store, session, events),
            Case(targets.GET_SESSION, get_session, partial(store.get_session, session.id)),
            Case(targets.GET_ACTIVE_RUN, get_active_run, partial(store.get_active_run, session.id)),
            Case(targets.SAVE_SESSION, save_session, partial(store.save_session, session)),
        )
        yield from compared(rounds, cases, database.server)


def of_sqlite(rounds: Rounds, file: SQLiteFile) -> Iterator[Comparison]:
    with asm.SessionStore(file.dsn) as store, closing(sqlite3.connect(file.path)) as connection:
        session = stored(store)
        fetch = by_hand.sqlite(connection)

        def events(filters: Filters) -> object:
            return by_hand.sqlite_events(fetch("get_events", filters))

        def get_session() -> object:
            return by_hand.sqlite_session(fetch("get_session", {"id": session.id}))

        cases = (
            *pages(SQLITE_GET_EVENTS, SQLITE_PAGE, store, session, events),
            Case(SQLITE_GET_SESSION, get_session, partial(store.get_session, session.id)),
        )
        yield from compared(rounds, cases, None)


@dataclass(frozen=True, slots=True)
class Case:
    """The same call by hand and through the store, and its number of rows; 0 to count calls."""

    target: targets.Target
    by_hand: Callable[[], object]
    ours: Callable[[], object]
    rows: int = 0


def pages(
    whole_session: targets.Target,
    page: targets.Target,
    store: asm.SessionStore,
    session: asm.Session,
    by_hand: Callable[[Filters], object],
) -> Iterator[Case]:
    """A whole session, and a page from its middle."""
    whole: Filters = {"session_id": session.id}
    middle: Filters = whole | {"after": EVENTS // 2, "limit": PAGE}
    for target, filters, rows in ((whole_session, whole, EVENTS), (page, middle, PAGE)):
        yield Case(target, partial(by_hand, filters), partial(store.get_events, **filters), rows)


def compared(rounds: Rounds, cases: Iterable[Case], server: Server) -> Iterator[Comparison]:
    for case in cases:
        floor = Side("by hand", partial(in_turn, counted(case.by_hand, case.rows or 1), server=server))
        ours = Side("asm", partial(in_turn, counted(case.ours, case.rows or 1), server=server))
        unit = "event" if case.rows else "call"
        yield rounds.compare(case.target, floor, ours, unit=unit, share=SHARE)


def stored(store: asm.SessionStore, number: int = EVENTS) -> asm.Session:
    """Store a session with a running run and its events."""
    session = asm.Session(
        agent_id="bench",
        status="active",
        metadata={"repository": "asm"},
        context={"turns": [1, 2, 3]},
        tags=("bench",),
    )
    run = asm.Run(
        id=payload.run_of(session.id),
        session_id=session.id,
        status="running",
        input="Why does the timeout test fail?",
        token_usage={"input_tokens": 1_200, "output_tokens": 300},
        provider="claude",
        provider_metadata={"model": "claude-sonnet-4"},
    )
    store.flush(session, run, [payload.event(session.id, each) for each in range(number)])
    return session


def counted(call: Callable[[], Any], units: int) -> Step:
    """A call as a step that counts as this many units."""

    def step() -> int:
        call()
        return units

    return step
