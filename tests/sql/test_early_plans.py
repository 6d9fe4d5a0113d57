"""A plan that PostgreSQL made while the tables were empty, and keeps, does not read them as a whole later.

PostgreSQL plans a prepared statement again only when the tables are analyzed, which takes autovacuum a minute
or longer, and a program may have stored a hundred thousand events by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.sql.statements import covering_renderings, names_by_file, numbered, parameters_in_order, queries

FILES = names_by_file("postgres")
NAMES = [name for file in ("events.sql", "runs.sql", "sessions.sql") for name in FILES[file]]

# They look for sessions with a run of some provider, in an order, and read all until they have a page.
SEARCHES = {"search_sessions", "search_sessions_by_tag", "count_sessions", "count_sessions_by_tag"}


@pytest.fixture(scope="module")
def generic_plans(on_postgres: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    on_postgres.execute("set plan_cache_mode = force_generic_plan")
    yield on_postgres
    on_postgres.execute("reset plan_cache_mode")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SEARCHES])
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
