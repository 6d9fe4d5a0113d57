"""The migrations create the tables of schema.sql, and can be rolled back and applied again."""

from __future__ import annotations

import asm
from tests.conftest import Where
from tests.make_schema import HEADER, schema_file, schema_of


def test_schema_sql_shows_what_the_migrations_create(where: Where) -> None:
    committed = schema_file("sqlite" if where.dialect == "sqlite" else "postgres").read_text("utf-8")

    assert schema_of(where.dsn) == committed, "run `make schema`"


def test_a_rollback_drops_all_tables(dsn: str) -> None:
    asm.migrate(dsn)

    asm.rollback(dsn)

    assert schema_of(dsn) == HEADER


def test_migrating_up_down_and_up_again_creates_the_same_tables(dsn: str) -> None:
    asm.migrate(dsn)
    first = schema_of(dsn)
    asm.rollback(dsn)

    asm.migrate(dsn)

    assert schema_of(dsn) == first
