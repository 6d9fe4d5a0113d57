"""A plan that PostgreSQL made while the tables were empty, and keeps, does not read them as a whole later.

PostgreSQL plans a prepared statement again only when the tables are analyzed, which takes autovacuum a minute
or longer, and a program may have stored a hundred thousand events by then.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import asm
from tests.sql.statements import covering_renderings, names_by_file, numbered, parameters_in_order, queries

ALL_ROWS = {"count_rows", "count_rows_by_counters", "count_stored", "count_stored_by_counters"}
"""They read whole tables by their meaning."""

FILES = names_by_file("postgres")
PLANNED_EACH_TIME = {
    # Their names are no literals where they are queried.
    *("search_sessions", "search_sessions_by_tag", "count_sessions", "count_sessions_by_tag"),
    *("find_matching_events", "find_runs", "delete_sessions", "find_orphaned_artifacts"),
    # Once a command.
    *("count_checkpoint_rows", "count_text_rows", "identify_store"),
}


def planned_each_time() -> set[str]:
    """The queries that the code names and does not prepare."""
    found = set()
    for file in Path(asm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            match node:
                case ast.Call(
                    func=ast.Name("Query"),
                    args=[ast.Constant(str(name)), *_],
                    keywords=[*_, ast.keyword("prepare", ast.Constant(False))],
                ):
                    found.add(name)
    return found


OTHERS = PLANNED_EACH_TIME | planned_each_time() | ALL_ROWS
PREPARED = [
    name
    for file in FILES
    for name in FILES[file]
    if file not in ("health.sql", "migrations.sql") and name not in OTHERS
]


@pytest.fixture(scope="module")
def generic_plans(on_postgres: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    on_postgres.execute("set plan_cache_mode = force_generic_plan")
    yield on_postgres
    on_postgres.execute("reset plan_cache_mode")


@pytest.mark.parametrize("name", PREPARED)
def test_rows_are_found_by_an_index(name: str, generic_plans: psycopg.Connection[Any]) -> None:
    query = queries("postgres")[name]
    for values in covering_renderings(query):
        (statement,) = query.render(values).statements
        plan = _generic_plan(generic_plans, statement.sql)
        assert "Seq Scan on asm_" not in plan, plan


def test_a_run_that_ends_is_found_by_its_key(generic_plans: psycopg.Connection[Any]) -> None:
    """And not among all that are running."""
    (statement,) = queries("postgres")["end_run"].render({}).statements

    assert "asm_runs_by_status" not in _generic_plan(generic_plans, statement.sql)


def _generic_plan(connection: psycopg.Connection[Any], sql: str) -> str:
    connection.execute(f"prepare early as {numbered(sql)}".encode())
    try:
        arguments = ", ".join(["null"] * len(parameters_in_order(sql)))
        execute = f"explain execute early ({arguments})" if arguments else "explain execute early"
        return "\n".join(line for (line,) in connection.execute(execute.encode()))
    finally:
        connection.execute("deallocate early")
