"""A statement as libpq takes it."""

from __future__ import annotations

from asm.postgres.fast_path import positional_statement


def test_named_placeholders_are_numbered_in_order() -> None:
    statement = positional_statement("select %(b)s, %(a)s")
    assert (statement.text, statement.names) == (b"select $1, $2", ("b", "a"))


def test_a_placeholder_that_occurs_twice_is_one_parameter() -> None:
    statement = positional_statement("select %(a)s, %(b)s, %(a)s")
    assert (statement.text, statement.names) == (b"select $1, $2, $1", ("a", "b"))


def test_a_doubled_percent_sign_is_one() -> None:
    assert positional_statement("select 5 %% %(by)s, '%%(no)s'").text == b"select 5 % $1, '%(no)s'"
