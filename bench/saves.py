"""What do save_run and save_session cost compared with the bare statement, and how much WAL do they write?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from typing import Any, TypeVar

import psycopg

import asm
from asm.engine.script import Query
from asm.operations import runs, sessions
from bench import by_hand, payload
from bench.databases import Databases, PostgresSchema
from bench.harness import Comparison, Rounds, Side, in_turn
from bench.targets import Target

T = TypeVar("T", asm.Run, asm.Session)

ROWS = 1_000
SHARE = 0.5
SAVE_RUN = Target("save_run after a turn", "the bare statement", 0.75)
SAVE_SESSION = Target("save_session of a stored session", "the bare statement", 0.75)


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    with databases.postgres() as place, asm.SessionStore(place.dsn, schema=place.schema) as store:
        yield _compared(rounds, place, store, SAVE_RUN, runs.save_run, _runs(), _next_turn)
        yield _compared(rounds, place, store, SAVE_SESSION, sessions.save_session, _sessions(), _touched)


def _compared(
    rounds: Rounds,
    place: PostgresSchema,
    store: asm.SessionStore,
    target: Target,
    operation: Callable[[T], Query[None]],
    rows: Sequence[T],
    change: Callable[[T], T],
) -> Comparison:
    """Both sides replace stored rows by changed ones, which are made beforehand."""
    save = getattr(store, operation.__name__)
    for row in rows:
        save(row)
    changed = [change(row) for row in rows]
    with place.connect() as connection:
        execute = by_hand.postgres(place, connection)
        bare = [partial(execute, operation.__name__, _listed(operation(row).params)) for row in changed]
        floor = Side("the bare statement", _steps(bare, place))
        ours = Side("asm", _steps([partial(save, row) for row in changed], place))
        comparison = rounds.compare(target, floor, ours, unit="call", share=SHARE)
    wal_bytes, hot_share = _written(place, operation.__name__, [change(row) for row in changed])
    baseline = f"{target.baseline}; {wal_bytes:,.0f} bytes of WAL and {hot_share:.0%} HOT updates a save"
    return replace(comparison, target=replace(target, baseline=baseline))


def _listed(params: Mapping[str, Any]) -> dict[str, Any]:
    """The values with lists for tuples, which psycopg would send as rows."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}


def _steps(calls: Sequence[Callable[[], object]], place: PostgresSchema) -> Callable[[float], Any]:
    endless = cycle(calls)

    def step() -> int:
        next(endless)()
        return 1

    return partial(in_turn, step, server=place.server)


def _written(place: PostgresSchema, operation: str, rows: Sequence[Any]) -> tuple[float, float]:
    """The bytes of WAL of one save, and the share of updates that are HOT."""
    with place.connect() as connection:
        wal, updates, hot_updates = _statistics(connection, place)
        with asm.SessionStore(place.dsn, schema=place.schema, max_size=1) as store:
            for row in rows:
                getattr(store, operation)(row)
        after = _statistics(connection, place)
        # A server process reports what it did when its connection ends.
        while after[1] - updates < len(rows):
            time.sleep(0.01)
            after = _statistics(connection, place)
    return (after[0] - wal) / len(rows), (after[2] - hot_updates) / (after[1] - updates)


def _statistics(connection: psycopg.Connection[Any], place: PostgresSchema) -> tuple[float, float, float]:
    """The position in the WAL, and the updates and HOT updates of the schema's tables."""
    query = """select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8,
                      sum(n_tup_upd)::float8,
                      sum(n_tup_hot_upd)::float8
                 from pg_stat_user_tables
                where schemaname = %s"""
    ((wal, updates, hot_updates),) = connection.execute(query, [place.schema]).fetchall()
    return wal, updates, hot_updates


def _runs() -> list[asm.Run]:
    return [
        asm.Run(
            session_id=f"ses_{number:032x}",
            status="running",
            input={"text": payload.TEXTS[number % len(payload.TEXTS)]},
            provider="claude",
            provider_metadata={"model": "claude-sonnet-4-5"},
        )
        for number in range(ROWS)
    ]


def _next_turn(run: asm.Run) -> asm.Run:
    return run.increment_turn().update_token_usage({"input_tokens": 1_200, "output_tokens": 300})


def _sessions() -> list[asm.Session]:
    return [
        asm.Session(agent_id=f"agent_{number % 50}", status="active", tags=("release",))
        for number in range(ROWS)
    ]


def _touched(session: asm.Session) -> asm.Session:
    return replace(session, context={"turns": [1, 2, 3]}, updated_at=datetime.now(UTC))
