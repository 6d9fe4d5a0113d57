"""The migrations make what schema.sql says, and can be taken back and made again."""

from __future__ import annotations

import asm
from tests.conftest import Where
from tests.make_schema import HEADER, schema_file, schema_of


def test_schema_sql_is_what_the_migrations_make(where: Where) -> None:
    committed = schema_file("sqlite" if where.dialect == "sqlite" else "postgres").read_text("utf-8")

    assert schema_of(where.dsn) == committed, "run `make schema`"


def test_rolling_back_leaves_none_of_our_tables(dsn: str) -> None:
    asm.migrate(dsn)

    asm.rollback(dsn)

    assert schema_of(dsn) == HEADER


def test_migrating_up_down_and_up_again_makes_the_same_tables(dsn: str) -> None:
    asm.migrate(dsn)
    first = schema_of(dsn)
    asm.rollback(dsn)

    asm.migrate(dsn)

    assert schema_of(dsn) == first
