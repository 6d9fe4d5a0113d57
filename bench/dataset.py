"""A store with a month of a team's sessions, inserted directly into its tables.

A session has three runs and thirty events on average: one session in ten is long, with 120 events, and
the others have 20. Each event and run carries 300 bytes of JSON. One session in twenty has the tag that
is searched for, one run in a hundred used many tokens, one event type is rare, and the first runs of two
neighbouring sessions share a correlation id.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

import orjson
import psycopg
from psycopg import sql

import asm
from bench import payload
from bench.databases import Databases
from bench.harness import Rounds, Server

EVENTS, RUNS = 30, 3
"""Per session, on average."""
LONG, SHORT, LONG_ONE_IN = 120, 20, 10
AT_ONCE = 20
"""This many sessions run concurrently, so their events are interleaved."""
EVENT_S = 4

AGENTS = 50
AGENT = f"agent_{AGENTS // 2}"
TAG, TAGGED_ONE_IN = "release", 20
MANY_TOKENS, MANY_ONE_IN = 200_000, 100
MOST_TOKENS, MOST_ONE_IN = 1_000_000, 6_000
TYPE = "tool_call_started"
RARE_TYPE, RARE_ONE_IN = "acme.plan_updated", 200
CORRELATION_ID, CORRELATED = "req_00000000", 14
"""A correlation id, and the number of its events: the first runs of two short sessions have it."""

_MODELS = (
    ("claude", "claude-sonnet-4-5"),
    ("claude", "claude-opus-4-5"),
    ("codex", "gpt-5"),
    ("codex", "gpt-5-mini"),
    ("gemini", "gemini-2.5-pro"),
)
_FIRST_TYPES = ("session_created", "run_started")
_TYPES = (
    *("message_sent", TYPE, "tool_call_completed", TYPE, "tool_call_completed"),
    *("message_streamed", "message_received", TYPE, "tool_call_completed", "turn_completed"),
)
_START = datetime(2026, 1, 1)

_SESSIONS = "id, agent_id, status, metadata, context, tags, created_at, updated_at"
_COUNTS = "input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens"
_RUNS = (
    "id, session_id, status, input, output, metadata, turn_count, token_usage, started_at, ended_at, "
    f"provider, provider_metadata, cost_usd, {_COUNTS}, model"
)
_FINAL = ", ".join(f"final_{name}" for name in ("cost_usd", *_COUNTS.split(", ")))
_COUNTERS = "session_id, last_sequence, updated_at"

Values = Sequence[object]
Insert = Callable[[str, str, Iterable[Values]], None]
"""Inserts rows into a table, given its name and its columns."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A filled store, and a function that restores the events pruned from its long sessions."""

    database: str
    sessions: int
    store: asm.SessionStore
    restore: Callable[[], None]
    server: Server

    @property
    def runs(self) -> int:
        return self.sessions * RUNS

    @property
    def long_session(self) -> str:
        """The id of a long session in the middle."""
        middle = self.sessions // 2
        return next(session_id(number) for number in range(middle, self.sessions) if _is_long(number))


def session_id(number: int) -> str:
    return f"ses_{number:032x}"


def how_many(of: int, one_in: int) -> int:
    """How many of the numbers below `of` are selected."""
    return sum(_is_one(number, one_in) for number in range(of))


@contextmanager
def of_postgres(rounds: Rounds, databases: Databases, sessions: int) -> Iterator[Dataset]:
    with databases.postgres() as database, database.connect() as connection:
        connection.execute("select set_config('search_path', %s, false)", [database.schema])

        def insert(table: str, columns: str, rows: Iterable[Values]) -> None:
            names = sql.SQL(", ").join(map(sql.Identifier, columns.split(", ")))
            statement = sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(table), names)
            with connection.cursor() as cursor, cursor.copy(statement) as writer:
                for row in rows:
                    writer.write_row(row)

        def restore() -> None:
            _execute(connection, (*_RESTORED, *_VACUUMED))

        _fill(rounds, "PostgreSQL", sessions, insert, list, has_final=True)
        # As autovacuum would leave the tables.
        _execute(connection, (*_VACUUMED, _COPIED))
        with asm.SessionStore(database.dsn, schema=database.schema) as store:
            yield Dataset("PostgreSQL", sessions, store, restore, database.server)


@contextmanager
def of_sqlite(rounds: Rounds, databases: Databases, sessions: int) -> Iterator[Dataset]:
    with (
        databases.file() as file,
        closing(sqlite3.connect(file.path, timeout=30, isolation_level=None)) as connection,
    ):

        def insert(table: str, columns: str, rows: Iterable[Values]) -> None:
            marks = ", ".join("?" * len(columns.split(", ")))
            connection.execute("begin immediate")
            connection.executemany(f"insert into {table} ({columns}) values ({marks})", rows)
            connection.execute("commit")

        def restore() -> None:
            _execute(connection, (*_RESTORED, _CHECKPOINTED))

        _fill(rounds, "SQLite", sessions, insert, lambda tags: orjson.dumps(tags).decode())
        _execute(connection, (_TAGGED, _CHECKPOINTED, _COPIED))
        with asm.SessionStore(file.dsn) as store:
            yield Dataset("SQLite", sessions, store, restore, None)


def _execute(
    connection: psycopg.Connection[tuple[object, ...]] | sqlite3.Connection,
    statements: Iterable[LiteralString],
) -> None:
    for statement in statements:
        connection.execute(statement)


_COPIED: LiteralString = """create temp table copied_events as
select *
  from asm_events
 where session_id in (
       select session_id
         from asm_session_sequences
        where last_sequence = (select max(last_sequence) from asm_session_sequences))"""
"""A copy of the long sessions' events, so that each round of pruning finds the same ones."""
_RESTORED: tuple[LiteralString, ...] = (
    """insert into asm_events
       select *
         from copied_events
        where not exists (
              select 1
                from asm_events
               where session_id = copied_events.session_id
                 and sequence_number = copied_events.sequence_number)""",
    "update asm_session_sequences set pruned_events = 0 where pruned_events > 0",
)
_VACUUMED: tuple[LiteralString, ...] = (
    "vacuum (analyze) asm_sessions",
    "vacuum (analyze) asm_runs",
    "vacuum (analyze) asm_events",
    "vacuum (analyze) asm_session_sequences",
)
_TAGGED: LiteralString = """insert into asm_session_tags (tag, id, created_at, updated_at)
select value, asm_sessions.id, created_at, updated_at
  from asm_sessions, json_each(tags)"""
"""SQLite has no index on a list of tags, so the tags are in a table of their own, too."""
_CHECKPOINTED: LiteralString = "pragma wal_checkpoint(truncate)"


def _fill(
    rounds: Rounds,
    database: str,
    sessions: int,
    insert: Insert,
    encode: Callable[[list[str]], object],
    *,
    has_final: bool = False,
) -> None:
    """Insert everything; `encode` makes a column's value of a list of tags.

    `has_final` says that runs have the counts at their end in columns of their own.
    """
    rounds.say(f"{database}: storing {sessions:,} sessions")
    insert("asm_sessions", _SESSIONS, (_session(number, encode) for number in range(sessions)))
    runs = (_run_of(number, sessions) for number in range(sessions * RUNS))
    if has_final:
        insert("asm_runs", f"{_RUNS}, {_FINAL}", map(_with_final, runs))
    else:
        insert("asm_runs", _RUNS, runs)
    insert("asm_session_sequences", _COUNTERS, map(_counter, range(sessions)))
    insert("asm_events", payload.COLUMNS, _events(rounds, database, sessions))


def _session(number: int, encode: Callable[[list[str]], object]) -> Values:
    return (
        session_id(number),
        f"agent_{number % AGENTS}",
        "failed" if number % 10 == 9 else "completed",
        '{"repository": "asm", "branch": "main"}',
        '{"turns": [1, 2, 3]}',
        encode(_tags(number)),
        _at(_first_event(number)),
        _at(_last_event(number)),
    )


def _tags(number: int) -> list[str]:
    return [f"team_{number % 7}", *([TAG] if _is_one(number, TAGGED_ONE_IN) else [])]


def _run_of(number: int, sessions: int) -> Values:
    of = number // RUNS
    provider, model = _MODELS[number % len(_MODELS)]
    input_tokens, output_tokens = _tokens(number)
    cache_read, cache_creation = input_tokens // 2, input_tokens // 10
    counts = (input_tokens, output_tokens, input_tokens + output_tokens, cache_read, cache_creation)
    usage = dict(zip(_COUNTS.split(", "), counts, strict=True))
    first = _first_event(of) + number % RUNS
    return (
        _run_id(number),
        session_id(of),
        # The last sessions are still running.
        "running" if number % RUNS == RUNS - 1 and of >= sessions - AT_ONCE else "completed",
        payload.TEXTS[number % len(payload.TEXTS)],
        payload.TEXTS[(number + 1) % len(payload.TEXTS)],
        "{}",
        5 + number % 20,
        orjson.dumps(usage).decode(),
        _at(first),
        _at(first + AT_ONCE * SHORT),
        provider,
        orjson.dumps({"model": model}).decode(),
        0.25 if number % 10 == 0 else None,
        *counts,
        model,
    )


def _with_final(run: Values) -> Values:
    _, _, status, *_, cost_usd, input_tokens, output_tokens, total, cache_read, cache_creation, _ = run
    counts = (cost_usd, input_tokens, output_tokens, total, cache_read, cache_creation)
    return (*run, *(counts if status == "completed" else [None] * len(counts)))


def _tokens(number: int) -> tuple[int, int]:
    if _is_one(number, MOST_ONE_IN):
        return MOST_TOKENS, 2_000
    many = MANY_TOKENS if _is_one(number, MANY_ONE_IN) else 0
    return many + 1_000 + number * 7_919 % 30_011, 100 + number * 104_729 % 3_001


def _counter(number: int) -> Values:
    return session_id(number), _length(number), _at(_last_event(number))


def _events(rounds: Rounds, database: str, sessions: int) -> Iterator[payload.Row]:
    """All events in the order of their timestamps."""
    numbers = itertools.count()
    for first in range(0, sessions, AT_ONCE):
        if first % 1_000 == 0:
            rounds.say(f"{database}: storing the events of {sessions:,} sessions, {first:,} done")
        for sequence in range(1, LONG + 1):
            for of in range(first, min(first + AT_ONCE, sessions)):
                if sequence <= _length(of):
                    yield _event(next(numbers), of, sequence)


def _event(number: int, of: int, sequence: int) -> payload.Row:
    run = (sequence - 1) * RUNS // _length(of)
    return payload.Row(
        f"evt_{number:032x}",
        _type(of, sequence),
        _at(number),
        session_id(of),
        _run_id(of * RUNS + run),
        sequence,
        payload.TEXTS[number % len(payload.TEXTS)],
        "{}",
        1,
        "claude",
        f"req_{of // 2:08x}" if run == 0 else None,
    )


def _type(of: int, sequence: int) -> str:
    if sequence <= len(_FIRST_TYPES):
        return _FIRST_TYPES[sequence - 1]
    if _is_one(of, RARE_ONE_IN) and sequence == SHORT // 2:
        return RARE_TYPE
    return _TYPES[sequence % len(_TYPES)]


def _length(number: int) -> int:
    return LONG if _is_long(number) else SHORT


def _is_long(number: int) -> bool:
    return _is_one(number, LONG_ONE_IN)


def _is_one(number: int, one_in: int) -> bool:
    """Whether a number is selected: one in `one_in`, the middle one, so that the first is not rare."""
    return number % one_in == one_in // 2


def _run_id(number: int) -> str:
    return f"run_{number:032x}"


def _first_event(of: int) -> int:
    """The number of a session's first event among all events."""
    offset = of % AT_ONCE
    return (of - offset) * EVENTS + offset


def _last_event(of: int) -> int:
    """About the number of a session's last event among all events."""
    return _first_event(of) + AT_ONCE * min(_length(of), EVENTS)


def _at(number: int) -> str:
    """The timestamp of an event as SQLite stores it; PostgreSQL parses it, too."""
    return f"{(_START + timedelta(seconds=EVENT_S * number)).isoformat(timespec='microseconds')}Z"
