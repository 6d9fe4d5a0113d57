"""All names in our statements lead to PostgreSQL's own functions and operators, whatever others created."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from asm.engine.schema_version import OPTIONAL
from asm.migrations.runner import migrate_with
from tests import neighbours
from tests.conftest import POSTGRES, Cluster


@pytest.fixture(scope="module", params=POSTGRES)
def crowded(request: pytest.FixtureRequest, clusters: Callable[[str], Cluster]) -> Iterator[str]:
    """A database with tables, and with a neighbour's functions and operators."""
    with clusters(request.param).database(migrated=True) as dsn:
        migrate_with(OPTIONAL, dsn)
        neighbours.move_in(dsn, "neighbour", neighbours.resolve(dsn))
        yield dsn


def test_every_function_and_every_catalog_is_named_with_its_schema(
    on_postgres: psycopg.Connection[Any],
) -> None:
    functions = neighbours.function_names(on_postgres)

    assert neighbours.unqualified(neighbours.sql_texts(), functions) == []


def test_no_statement_calls_a_function_of_a_neighbour(crowded: str) -> None:
    used = neighbours.resolve(crowded, "neighbour,public")

    with psycopg.connect(crowded) as connection:
        theirs = connection.execute(
            "select oid::regoperator::text from pg_operator where oid = any(%(operators)s) "
            "and oprnamespace <> 'pg_catalog'::regnamespace union all "
            "select oid::regprocedure::text from pg_proc where oid = any(%(functions)s) "
            "and pronamespace <> 'pg_catalog'::regnamespace",
            {"operators": list(used.operators), "functions": list(used.functions)},
        ).fetchall()
    assert theirs == []
    assert len(used.operators) > 10
    assert len(used.functions) > 10
