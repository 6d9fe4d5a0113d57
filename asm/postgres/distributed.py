"""Statements of one query on distributed tables, where one statement can only be about one shard.

The blocks of `sql/citus` say how a query is divided; `asm.engine.registry` describes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from asm.engine.registry import TABLES, Division, NamedQuery
from asm.engine.script import Pipeline, Query, Row, Rows
from asm.errors import StorageError

T = TypeVar("T")

REFERENCE_TABLES = ("asm_artifacts",)
"""Copied to every node, because the key of a live artifact is unique across sessions."""


class Probed(NamedTuple):
    """What a store knows of its server when it opens."""

    can_identify: bool
    """Whether the outcome of a commit can be determined whose response was lost."""
    is_distributed: bool


class Part(NamedTuple):
    """One statement, its values, and whether its rows are rows of the query."""

    sql: str
    params: Mapping[str, Any]
    is_result: bool


def parts(query: NamedQuery, params: Mapping[str, Any]) -> Iterator[Part]:
    """The statements of a query in their order."""
    if not query.is_divided:
        (statement,) = query.render(params).statements
        yield Part(statement.sql, params, is_result=True)
        return
    statements = query.render(params).statements
    last = max((n for n, statement in enumerate(statements) if statement.returns), default=None)
    for values in _divided(query.division, params):
        for number, statement in enumerate(statements):
            yield Part(statement.sql, values, is_result=number == last)


def _divided(division: Division | None, params: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The values for each session, in the order of the sessions, in which all clients lock them."""
    if division is None:
        yield params
        return
    of_columns = [(key, _columns_of(key, division, params)) for key in division.columns if key in params]
    for each in sorted({value for key, _ in of_columns for value in params[key]}):
        values = {**params, division.name: each}
        for key, columns in of_columns:
            selected = [n for n, value in enumerate(params[key]) if value == each]
            for column in columns:
                values[column] = [params[column][n] for n in selected]
        yield values


def _columns_of(key: str, division: Division, params: Mapping[str, Any]) -> Sequence[str]:
    """The names of the columns that belong to one: those of its prefix, if it is not the first."""
    if isinstance(params[key], tuple):
        return [key]
    columns = [name for name, value in params.items() if isinstance(value, list)]
    others = [_prefix(other) for other in division.columns[1:]]
    if key != division.columns[0]:
        return [name for name in columns if name.startswith(_prefix(key))]
    return [name for name in columns if not any(name.startswith(other) for other in others)]


def _prefix(key: str) -> str:
    return key.partition("_")[0] + "_"


def merged(found: Sequence[tuple[Part, Rows]]) -> Rows:
    """The rows of the query."""
    return [row for part, rows in found if part.is_result for row in rows]


def as_pipeline(query: Query[T]) -> Pipeline[T]:
    """A query whose statements are one transaction."""
    pipeline: Pipeline[T] = Pipeline(lambda: [query], itemgetter(0), query.on_conflict, size=1, sessions=())
    pipeline.name = query.name
    return pipeline


def check_distribution(tables: Sequence[Row]) -> bool:
    """Whether the tables of a store are distributed; StorageError if not as `migrate` distributes them.

    Of each table that Citus knows: its name with a schema, without one, the method and the colocation.
    """
    if not tables:
        return False
    found = [name for name, *_ in tables]
    expected = {name: "n" if name in REFERENCE_TABLES else "h" for name in TABLES}
    of_sessions = {colocation for *_, method, colocation in tables if method == "h"}
    if {name: method for _, name, method, _ in tables} != expected or len(of_sessions) != 1:
        raise StorageError(
            f"the tables are not distributed as `asm migrate --distributed` distributes them, and "
            f"{', '.join(found)} is distributed: have it do that, or use tables that are local to the "
            "coordinator",
            tables=found,
        )
    return True
