"""Statements as each database is asked to look at them."""

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

# A text that every column takes: STRICT tables make a number of it where they want one, and it is JSON.
ANY_VALUE = "1"
DOCUMENTS = {"counters": '{"1": 1}'}
"""What is opened as an object has to be one."""


class Refused(Exception):
    """PostgreSQL does not take a statement; the text says why, in its own words."""


@cache
def queries(dialect: Dialect, schema: str | None = None) -> QueryRegistry:
    return QueryRegistry(dialect, schema)


def names(dialect: Dialect) -> list[str]:
    return [query.name for query in queries(dialect)]


def names_by_file(dialect: Dialect) -> dict[str, list[str]]:
    """The names that open the blocks of each file, in their order."""
    return {
        file.name: re.findall(r"^-- ([a-z][a-z0-9_]*)$", file.read_text("utf-8"), re.MULTILINE)
        for file in sorted(sql_folder(dialect).joinpath("queries").glob("*.sql"))
    }


# Of the names in each of these a form has one at most.
ALTERNATIVES = [
    {"created_at_asc", "created_at_desc", "updated_at_desc"},
    {"started_at_asc", "started_at_desc", "token_usage_desc"},
    {"sequence_asc", "timestamp_asc", "timestamp_desc"},
    {"agent_id", "agent_ids"},
    {"correlation_id", "correlation_ids"},
    {"provider", "providers"},
    {"run_id", "run_ids"},
    {"session_id", "session_ids"},
    {"status", "statuses"},
    {"type", "types"},
]


def every_form(query: NamedQuery) -> Iterator[dict[str, str]]:
    """Values for every combination of a query's optional names that is ever asked for."""
    for given in product(*_choices(query)):
        yield dict.fromkeys((name for name in given if name), ANY_VALUE)


def fullest_form(query: NamedQuery) -> dict[str, str]:
    """Values for as many of a query's optional names as go together."""
    return dict.fromkeys((names[-1] for names in _choices(query) if names[-1]), ANY_VALUE)


def _choices(query: NamedQuery) -> list[list[str | None]]:
    """What may be given of each optional name, or of those that are alternatives: one of them or none."""
    choices: dict[frozenset[str], list[str | None]] = {}
    for name in query.options:
        group = next((group for group in ALTERNATIVES if name in group), {name})
        choices.setdefault(frozenset(group), [None]).append(name)
    return list(choices.values())


def numbered(sql: str) -> str:
    """A PostgreSQL statement with its parameters as the server wants them: $1, $2, …"""
    order = parameters_in_order(sql)
    return _MARKED.sub(lambda mark: f"${order.index(mark[1]) + 1}" if mark[1] else "%", sql)


def parameters_in_order(sql: str) -> list[str]:
    """The names behind $1, $2, …"""
    return list(dict.fromkeys(name for name in _MARKED.findall(sql) if name))


_MARKED = re.compile(r"%%|%\((\w+)\)[sbt]")


def prepared(connection: psycopg.Connection[Any], statement: Statement) -> list[str]:
    """The columns of a statement, as PostgreSQL describes them once it has prepared it."""
    server = connection.pgconn
    _checked(server.prepare(b"", numbered(statement.sql).encode()))
    described = _checked(server.describe_prepared(b""))
    return [(described.fname(index) or b"").decode() for index in range(described.nfields)]


def _checked(result: Any) -> Any:
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise Refused(result.get_error_message())
    return result


def explained(connection: sqlite3.Connection, statement: Statement) -> None:
    """Have SQLite compile a statement."""
    connection.execute(f"explain {statement.sql}", dict.fromkeys(statement.parameters, ANY_VALUE))


def executed(connection: sqlite3.Connection, query: NamedQuery) -> list[tuple[Statement, list[str]]]:
    """The statements of a query with the columns of each, which SQLite tells only of what it runs.

    Nothing of it stays.
    """
    connection.execute("begin")
    try:
        return [
            (statement, _columns(connection, statement))
            for statement in query.render(fullest_form(query)).statements
        ]
    finally:
        connection.rollback()


def _columns(connection: sqlite3.Connection, statement: Statement) -> list[str]:
    values = dict.fromkeys(statement.parameters, ANY_VALUE) | {
        name: document for name, document in DOCUMENTS.items() if name in statement.parameters
    }
    cursor = connection.execute(statement.sql, values)
    cursor.fetchall()
    return [name for name, *_ in cursor.description or ()]
