"""Both dialects have the same queries, and both databases can prepare them."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import psycopg
import pytest

import asm
from asm import dsn as dsns
from asm.engine.registry import Dialect, NamedQuery, TemplateLine, sql_folder
from asm.engine.schema_version import OPTIONAL
from asm.migrations.runner import migrate_with
from tests.conftest import POSTGRES, Where
from tests.sql.statements import (
    DIALECTS,
    Refused,
    covering_renderings,
    every_rendering,
    executed,
    explained,
    names,
    names_by_file,
    prepared,
    queries,
)

SQL = sql_folder("postgres").parent
SQL_FILES = sorted(SQL.rglob("*.sql"))

# An operand that PostgreSQL takes as an array, and a parameter in it that has no type.
ARRAYS = re.compile(r"\b(?:any|all|unnest)\((?:[^()]|\(\w+\))*\)|(?:@>|&&)\)? *%\(\w+\)s\S*")
WITHOUT_CAST = re.compile(r"%\(\w+\)s(?!::[\w ]+\[\])")

HOSTILE_SCHEMA = "Ün\"qüöted; -- %s %(id)s :id ' asm_events"

# The differences and their reasons. A difference that no longer exists fails its test.
OPTIONAL_ON_ONE_SIDE = {
    "list_sessions": "SQLite reads an offset only after a limit, so there the limit is always sent",
}
COLUMNS_WITHOUT_NAMES = {
    "check_tables": "returns no row",
    "check_checkpoint_tables": "returns no row",
    "count_checkpoint_rows": "pairs of a table's name and its number of rows, read by position",
    "count_rows": "pairs of a table's name and its number of rows, read by position",
    "count_rows_by_counters": "a table's name and its number of rows in two halves, read by position",
    "get_version": "one value",
    "count_sessions": "one value",
    "count_sessions_by_tag": "one value",
    "count_events": "one value",
    "check_text_tables": "returns no row",
    "count_text_rows": "pairs of a table's name and its number of rows, read by position",
    "count_events_by_text": "one value",
    "count_sessions_by_text": "one value",
}

MODELS = {
    "get_session": asm.Session,
    "list_sessions": asm.Session,
    "search_sessions": asm.Session,
    "search_sessions_by_tag": asm.Session,
    "find_sessions": asm.Session,
    "get_run": asm.Run,
    "list_runs": asm.Run,
    "search_runs": asm.Run,
    "search_runs_by_tokens": asm.Run,
    "find_runs": asm.Run,
    "find_active_run": asm.Run,
    "find_stale_runs": asm.Run,
    "find_events": asm.Event,
    "get_event": asm.Event,
    "get_events": asm.Event,
    "pop_event": asm.Event,
    "search_events": asm.Event,
    "search_events_by_text": asm.Event,
    "search_sessions_by_text": asm.Session,
    "find_artifact": asm.Artifact,
    "find_artifacts": asm.Artifact,
    "list_artifacts": asm.Artifact,
    "page_sessions": asm.Session,
    "page_runs": asm.Run,
    "page_artifacts": asm.Artifact,
    "find_events_between": asm.Event,
}


# Queries that find the same rows, in an order or counted or summed.
SAME_FILTERS = [
    ["search_sessions", "search_sessions_by_tag", "count_sessions", "count_sessions_by_tag"],
    ["search_runs", "search_runs_by_tokens"],
    ["search_events", "count_events", *("search_events_by_text", "search_events_by_relevance")],
    ["search_events", "count_events_by_text"],
    ["search_sessions_by_text", "search_sessions_by_relevance", "count_sessions_by_text"],
    ["get_usage_summary", "get_cost_summary"],
]
UNIONS = ["search_runs_by_tokens", "get_usage_summary", "get_cost_summary"]
"""These read the runs that have ended and the others from two indexes."""
WRITTEN_FOR_AN_INDEX = {"min_tokens": "each query names the column of the index that it reads"}
ALIAS = re.compile(r"\b(?:asm_sessions|session|tagged)\.")


def test_both_dialects_have_the_same_query_files() -> None:
    assert list(names_by_file("postgres")) == list(names_by_file("sqlite"))


@pytest.mark.parametrize("file", names_by_file("postgres"))
def test_both_dialects_have_the_same_queries_in_the_same_order(file: str) -> None:
    assert names_by_file("postgres")[file] == names_by_file("sqlite").get(file)


@pytest.mark.parametrize("file", SQL_FILES, ids=lambda file: str(file.relative_to(SQL)))
def test_the_lines_of_a_file_are_shorter_than_100_characters(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()

    assert [(number, line) for number, line in enumerate(lines, 1) if len(line) >= 100] == []


@pytest.mark.parametrize("name", names("postgres"))
def test_an_array_has_a_cast_on_postgres(name: str) -> None:
    sql = "\n".join(line.sql for line in queries("postgres")[name].lines)

    assert [array for array in ARRAYS.findall(sql) if WITHOUT_CAST.search(array)] == []


@pytest.mark.parametrize("name", names("postgres"))
def test_a_query_takes_the_same_parameters_in_both_dialects(name: str) -> None:
    assert queries("postgres")[name].parameters == queries("sqlite")[name].parameters


def test_a_query_has_the_same_optional_names_in_both_dialects() -> None:
    assert _differing(lambda query: query.options) == set(OPTIONAL_ON_ONE_SIDE)


@pytest.mark.parametrize("same", SAME_FILTERS, ids=lambda same: same[0])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_queries_that_find_the_same_rows_have_the_same_filters(dialect: Dialect, same: list[str]) -> None:
    first, *others = (_filters(queries(dialect)[name].lines) for name in same)

    assert first
    assert others == [first] * len(others)


@pytest.mark.parametrize(
    ("bare", "with_session"),
    [("append_event", "append_event_with_session"), ("append_events", "append_events_with_sessions")],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_append_with_a_session_has_every_line_of_the_bare_append(
    dialect: Dialect, bare: str, with_session: str
) -> None:
    lines = iter([line.sql.rstrip() for line in queries(dialect)[with_session].lines])

    assert [line.sql for line in queries(dialect)[bare].lines if line.sql.rstrip() not in lines] == []


@pytest.mark.parametrize("name", UNIONS)
def test_both_halves_of_a_union_have_the_same_filters(name: str) -> None:
    lines = queries("postgres")[name].lines
    (middle,) = (number for number, line in enumerate(lines) if line.sql.strip() == "union all")
    first, second = _filters(lines[:middle]), _filters(lines[middle:])

    assert first
    assert second == first


def test_a_query_writes_in_both_dialects_or_in_neither() -> None:
    # `for update` locks a row in PostgreSQL; in SQLite the transaction has the file's lock already.
    assert _differing(lambda query: query.writes) == {"lock_session", "lock_run", "lock_unindexed_events"}


@pytest.mark.parametrize("name", names("postgres"))
def test_a_query_returns_as_many_columns_in_both_dialects(
    name: str, on_postgres: psycopg.Connection[Any], on_sqlite: sqlite3.Connection
) -> None:
    assert len(_on_postgres(on_postgres, name)) == len(_on_sqlite(on_sqlite, name))


def test_a_query_returns_the_same_columns_in_both_dialects(
    on_postgres: psycopg.Connection[Any], on_sqlite: sqlite3.Connection
) -> None:
    differing = {
        name for name in names("sqlite") if _on_postgres(on_postgres, name) != _on_sqlite(on_sqlite, name)
    }

    assert differing == set(COLUMNS_WITHOUT_NAMES)


@pytest.mark.parametrize("name", names("postgres"))
def test_the_registry_knows_which_statements_return_rows_on_postgres(
    name: str, on_postgres: psycopg.Connection[Any]
) -> None:
    (statement,) = queries("postgres")[name].render({}).statements

    assert statement.returns == bool(prepared(on_postgres, statement))


@pytest.mark.parametrize("name", names("sqlite"))
def test_the_registry_knows_which_statements_return_rows_on_sqlite(
    name: str, on_sqlite: sqlite3.Connection
) -> None:
    results = executed(on_sqlite, queries("sqlite")[name])

    assert [statement.returns for statement, _ in results] == [bool(columns) for _, columns in results]


@pytest.mark.parametrize("name", MODELS)
def test_a_query_that_reads_a_model_lists_its_fields_in_their_order(
    name: str, on_postgres: psycopg.Connection[Any]
) -> None:
    assert _on_postgres(on_postgres, name) == [field.name for field in fields(MODELS[name])]


@pytest.mark.parametrize("name", names("postgres"))
def test_every_rendering_of_a_query_prepares(name: str, with_tables: Where) -> None:
    # How lines follow each other is the same for all versions, so an older server gets each line once.
    # The lines of a search by text follow each other as in the search without it.
    is_covered = with_tables.kind in POSTGRES[1:] or name.endswith(("_by_text", "_by_relevance"))
    renderings = covering_renderings if is_covered else every_rendering

    broken = dict(
        _broken_on[with_tables.dialect](with_tables.dsn, queries(with_tables.dialect)[name], renderings)
    )

    assert broken == {}


def test_every_line_of_every_query_prepares_in_a_schema_of_any_name(empty_postgres: str) -> None:
    migrate_with(OPTIONAL, empty_postgres, schema=HOSTILE_SCHEMA)

    broken = [
        each
        for name in names("postgres")
        for each in _broken_on_postgres(
            empty_postgres, queries("postgres", HOSTILE_SCHEMA)[name], covering_renderings
        )
    ]

    assert broken == []


def test_every_query_is_used() -> None:
    strings = {
        node.value for node in _nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert set(names("postgres")) - strings == set()


def test_every_query_that_is_used_exists() -> None:
    assert set(_used()) - set(names("postgres")) == set()


def _filters(lines: Iterable[TemplateLine]) -> set[tuple[str, str]]:
    """The names and the SQL of the optional filters, without those of pages and the aliases of tables."""
    return {
        (name, "" if name in WRITTEN_FOR_AN_INDEX else ALIAS.sub("", line.sql).strip())
        for line in lines
        for name in line.requires
        if not any(required.endswith(("_asc", "_desc", "relevance")) for required in line.requires)
    }


def _differing(what: Callable[[NamedQuery], object]) -> set[str]:
    return {
        name for name in names("sqlite") if what(queries("postgres")[name]) != what(queries("sqlite")[name])
    }


def _on_postgres(connection: psycopg.Connection[Any], name: str) -> list[str]:
    return prepared(connection, queries("postgres")[name].render({}).statements[0])


def _on_sqlite(connection: sqlite3.Connection, name: str) -> list[str]:
    *_, (_, columns) = executed(connection, queries("sqlite")[name])
    return columns


Renderings = Callable[[NamedQuery], Iterator[dict[str, str]]]


def _broken_on_postgres(dsn: str, query: NamedQuery, renderings: Renderings) -> Iterator[tuple[str, str]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for given in renderings(query):
            (statement,) = query.render(given).statements
            try:
                prepared(connection, statement)
            except Refused as error:
                yield f"{query.name} with {', '.join(given) or 'nothing'}", str(error)


def _broken_on_sqlite(dsn: str, query: NamedQuery, renderings: Renderings) -> Iterator[tuple[str, str]]:
    with closing(sqlite3.connect(dsns.parse_dsn(dsn).address)) as connection:
        for given in renderings(query):
            for statement in query.render(given).statements:
                try:
                    explained(connection, statement)
                except sqlite3.Error as error:
                    yield f"{query.name} with {', '.join(given) or 'nothing'}", str(error)


_broken_on: Mapping[str, Callable[[str, NamedQuery, Renderings], Iterator[tuple[str, str]]]] = {
    "postgres": _broken_on_postgres,
    "sqlite": _broken_on_sqlite,
}


def _nodes() -> Iterator[ast.AST]:
    for file in Path(asm.__file__).parent.rglob("*.py"):
        yield from ast.walk(ast.parse(file.read_text("utf-8")))


def _used() -> Iterator[str]:
    """The query names in `Query("…")`, `rows("…")` and `queries["…"]`."""
    for node in _nodes():
        if isinstance(node, ast.Call) and node.args and _last_name(node.func) in ("Query", "rows"):
            yield from _constant(node.args[0])
        elif isinstance(node, ast.Subscript) and _last_name(node.value) == "queries":
            yield from _constant(node.slice)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _constant(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
