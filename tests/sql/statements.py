"""Preparing, describing and explaining the statements of the query files on each database."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import psycopg
from psycopg import pq

from asm.engine.registry import Dialect, NamedQuery, QueryRegistry, Statement, sql_folder

DIALECTS: tuple[Dialect, Dialect] = ("postgres", "sqlite")

# A text that every column accepts: STRICT tables convert it to a number where they need one, and it is JSON.
ANY_VALUE = "1"
SPECIAL_VALUES: dict[str, Any] = {
    "counters": '{"1": 1}',
    "offsets_from_last": "0",
    "value": b"1",
    "values": b"1",
}
"""Parameters that must be an object, must number the event of a new session from 1, or must be bytes."""


class Refused(Exception):
    """PostgreSQL refuses a statement, with its own message."""


@cache
def queries(dialect: Dialect, schema: str | None = None) -> QueryRegistry:
    return QueryRegistry(dialect, schema)


def names(dialect: Dialect) -> list[str]:
    return list(queries(dialect))


def names_by_file(dialect: Dialect) -> dict[str, list[str]]:
    """The names of the blocks of each file, in their order."""
    return {
        file.name: re.findall(r"^-- ([a-z][a-z0-9_]*)$", file.read_text("utf-8"), re.MULTILINE)
        for file in sorted(sql_folder(dialect).joinpath("queries").glob("*.sql"))
    }


# At most one name of each set has a value.
ALTERNATIVES = [
    {"created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"},
    {"started_at_asc", "started_at_desc", "token_usage_desc"},
    {"sequence_asc", "sequence_desc", "timestamp_asc", "timestamp_desc"},
    {"agent_id", "agent_ids"},
    {"correlation_id", "correlation_ids"},
    {"limit", "last"},
    {"parent_session_id", "parent_session_ids"},
    {"provider", "providers"},
    {"run_id", "run_ids"},
    {"session_id", "session_ids"},
    {"status", "statuses"},
    {"type", "types"},
]


def every_rendering(query: NamedQuery) -> Iterator[dict[str, str]]:
    """Values for every combination of optional names that the store sends."""
    for given in product(*_choices(query)):
        yield dict.fromkeys((name for name in given if name), ANY_VALUE)


def fullest_rendering(query: NamedQuery) -> dict[str, str]:
    """Values for as many optional names as can have one at the same time."""
    return dict.fromkeys((names[-1] for names in _choices(query) if names[-1]), ANY_VALUE)


def covering_renderings(query: NamedQuery) -> Iterator[dict[str, str]]:
    """Values for a few combinations of optional names, which together send every line."""
    choices = [names[1:] for names in _choices(query)]
    for number in range(max(map(len, choices), default=1)):
        yield dict.fromkeys((str(names[number % len(names)]) for names in choices), ANY_VALUE)


def _choices(query: NamedQuery) -> list[list[str | None]]:
    """For each optional name, or set of alternatives: the one that has a value, or None."""
    choices: dict[frozenset[str], list[str | None]] = {}
    for name in query.options:
        group = next((group for group in ALTERNATIVES if name in group), {name})
        choices.setdefault(frozenset(group), [None]).append(name)
    return list(choices.values())


def numbered(sql: str) -> str:
    """A PostgreSQL statement with its parameters as $1, $2, …"""
    order = parameters_in_order(sql)
    return _PLACEHOLDER.sub(lambda found: f"${order.index(found[1]) + 1}" if found[1] else "%", sql)


def parameters_in_order(sql: str) -> list[str]:
    """The names of $1, $2, …"""
    return list(dict.fromkeys(name for name in _PLACEHOLDER.findall(sql) if name))


_PLACEHOLDER = re.compile(r"%%|%\((\w+)\)s")


def prepared(connection: psycopg.Connection[Any], statement: Statement) -> list[str]:
    """The columns of a statement, as PostgreSQL describes them after preparing it."""
    server = connection.pgconn
    _checked(server.prepare(b"", numbered(statement.sql).encode()))
    described = _checked(server.describe_prepared(b""))
    return [(described.fname(index) or b"").decode() for index in range(described.nfields)]


def _checked(result: Any, expected: pq.ExecStatus = pq.ExecStatus.COMMAND_OK) -> Any:
    if result.status != expected:
        raise Refused(result.get_error_message())
    return result


def explained_on_postgres(connection: psycopg.Connection[Any], statement: Statement) -> None:
    """Let PostgreSQL plan a statement, with a value for each parameter."""
    server, sql = connection.pgconn, numbered(statement.sql).encode()
    _checked(server.prepare(b"", sql))
    described = _checked(server.describe_prepared(b""))
    values = [_value(connection, described.param_type(number)) for number in range(described.nparams)]
    _checked(server.exec_params(b"explain " + sql, values), pq.ExecStatus.TUPLES_OK)


def _value(connection: psycopg.Connection[Any], oid: int) -> bytes:
    type = connection.adapters.types[oid]
    value = {"timestamptz": "2026-01-01", "json": '{"1": 1}'}.get(type.name, ANY_VALUE)
    return (f'{{"{value}"}}' if oid == type.array_oid else value).encode()


def explained(connection: sqlite3.Connection, statement: Statement) -> None:
    """Let SQLite compile a statement."""
    connection.execute(f"explain {statement.sql}", dict.fromkeys(statement.parameters, ANY_VALUE))


def executed(connection: sqlite3.Connection, query: NamedQuery) -> list[tuple[Statement, list[str]]]:
    """The statements of a query with their columns. SQLite describes a statement only by executing it.

    All of it is rolled back.
    """
    connection.execute("begin")
    try:
        return [
            (statement, _columns(connection, statement))
            for statement in query.render(fullest_rendering(query)).statements
        ]
    finally:
        connection.rollback()


def _columns(connection: sqlite3.Connection, statement: Statement) -> list[str]:
    values = dict.fromkeys(statement.parameters, ANY_VALUE) | {
        name: value for name, value in SPECIAL_VALUES.items() if name in statement.parameters
    }
    cursor = connection.execute(statement.sql, values)
    cursor.fetchall()
    return [name for name, *_ in cursor.description or ()]
