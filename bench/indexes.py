"""What do the indexes of searches cost a writer, compared with the same tables without them?"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

from psycopg import sql

import asm
from asm.engine.registry import Dialect, sql_folder
from bench import appends, batches, flush
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Server, Side
from bench.targets import Target

SEARCH_INDEXES = (
    "asm_sessions_by_update",
    "asm_sessions_by_agent_update",
    "asm_sessions_by_status_update",
    "asm_sessions_by_tag",
    "asm_sessions_by_parent",
    "asm_sessions_deleted",
    "asm_runs_by_time",
    "asm_runs_by_provider",
    "asm_runs_by_status",
    "asm_runs_by_model",
    "asm_runs_by_tokens",
    "asm_runs_open",
    "asm_events_by_correlation",
    "asm_events_by_time",
)
KEPT = 0.9
"""The share of the rate that must remain."""
SHARE = 0.5

Opened = Callable[[Databases, bool], AbstractContextManager[tuple[asm.SessionStore, Server]]]


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    kinds: tuple[tuple[str, Opened], ...] = (("SQLite", _file), ("PostgreSQL", _schema))
    for database, opened in kinds:
        with opened(databases, False) as bare, opened(databases, True) as whole:
            for name, side in SIDES.items():
                target = Target(f"{database}: {name}", "without the indexes of searches", KEPT)
                yield rounds.compare(target, side(*bare), side(*whole), share=SHARE)


def appending(store: asm.SessionStore, server: Server) -> Side:
    return appends.threads(store, 1, appends.own(), server)


def in_batches(store: asm.SessionStore, server: Server) -> Side:
    return batches.ours(store, server, 1_000)


SIDES = {"one append": appending, "append_events of 1,000": in_batches, "flush": flush.ours}


@contextmanager
def _schema(databases: Databases, is_whole: bool) -> Iterator[tuple[asm.SessionStore, Server]]:
    with databases.postgres() as place:
        if not is_whole:
            with place.connect() as connection:
                for name in _indexes("postgres"):
                    connection.execute(sql.SQL("drop index {}").format(sql.Identifier(place.schema, name)))
        with asm.SessionStore(place.dsn, schema=place.schema) as store:
            yield store, place.server


@contextmanager
def _file(databases: Databases, is_whole: bool) -> Iterator[tuple[asm.SessionStore, Server]]:
    with databases.file() as file:
        if not is_whole:
            with closing(sqlite3.connect(file.path)) as connection:
                for name in _indexes("sqlite"):
                    connection.execute(f"drop index {name}")
        with asm.SessionStore(file.dsn) as store:
            yield store, None


def _indexes(dialect: Dialect) -> list[str]:
    """The indexes of a dialect that only searches, summaries and retention need."""
    schema = (sql_folder(dialect) / "schema.sql").read_text()
    created = re.findall(r"^create index(?: if not exists)? (\w+)", schema, re.MULTILINE)
    return [index for index in created if index in SEARCH_INDEXES]
