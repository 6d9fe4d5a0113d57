"""What the query registry reads, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from asm.engine.registry import BadQuery, Dialect, NamedQuery, QueryRegistry, quote_identifier, read_folder

NOT_CONDITIONS = ["one or other", "not one", "one = 1", "one and", "One", "one, other", ""]


def loaded(
    folder: Path, text: str, dialect: Dialect = "postgres", schema: str | None = None
) -> dict[str, NamedQuery]:
    folder.joinpath("things.sql").write_text(text, "utf-8")
    return read_folder(folder, dialect, schema)


def refused(folder: Path, text: str, dialect: Dialect = "postgres") -> str:
    with pytest.raises(BadQuery) as refusal:
        loaded(folder, text, dialect)
    return str(refusal.value)


def test_a_name_used_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, "-- get_thing\nselect 1;\n\n-- get_thing\nselect 2;\n")

    assert "things.sql" in message
    assert "get_thing" in message


def test_a_name_used_in_two_files_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("others.sql").write_text("-- get_thing\nselect 1;\n")

    message = refused(tmp_path, "-- get_thing\nselect 2;\n")

    assert "things.sql" in message
    assert "get_thing" in message


@pytest.mark.parametrize("rest", ["", "\n-- list_things\nselect 1;\n"], ids=["last", "before another"])
def test_a_block_without_sql_is_refused(rest: str, tmp_path: Path) -> None:
    message = refused(tmp_path, f"-- get_thing\n-- Only words about it.\n{rest}")

    assert "things.sql" in message
    assert "get_thing" in message


@pytest.mark.parametrize("condition", NOT_CONDITIONS)
def test_an_invalid_condition_is_refused(condition: str, tmp_path: Path) -> None:
    message = refused(tmp_path, f"-- get_thing\nselect 1\n where true -- if {condition}\n;\n")

    assert "things.sql" in message
    assert "get_thing" in message


@pytest.mark.parametrize(
    "line", ["where id = %(id)s", "join others using (id)", "and id in (", "or id = 1", "offset 1", "id desc"]
)
def test_an_optional_line_that_is_not_a_whole_clause_is_refused(line: str, tmp_path: Path) -> None:
    message = refused(tmp_path, f"-- get_thing\nselect 1\n where true\n {line} -- if id\n;\n")

    assert "things.sql:4" in message
    assert "get_thing" in message


@pytest.mark.parametrize(
    "clause",
    [
        "and id = %(id)s -- if id",
        "order by id -- if id",
        "limit 1 -- if id",
        "and id in ( -- if id\n 1) -- if id",
    ],
)
def test_an_optional_clause_may_be_a_condition_an_order_or_a_limit(clause: str, tmp_path: Path) -> None:
    query = loaded(tmp_path, f"-- get_thing\nselect 1\n where true\n {clause}\n;\n")["get_thing"]

    assert "where true\n " + clause.replace(" -- if id", "") in query.render({"id": 1}).statements[0].sql


def test_a_clause_whose_lines_have_different_conditions_is_refused(tmp_path: Path) -> None:
    text = "-- get_thing\nselect 1\n where true\n and id in ( -- if id\n 1) -- if other\n;\n"

    assert "things.sql:4" in refused(tmp_path, text)


@pytest.mark.parametrize("line", ["select 1 -- the one", "  -- indented", "select 1; -- done"])
def test_a_comment_in_the_middle_of_a_line_is_refused(line: str, tmp_path: Path) -> None:
    message = refused(tmp_path, f"-- get_thing\n{line}\n;\n")

    assert "things.sql" in message
    assert "get_thing" in message


@pytest.mark.parametrize(
    "sql", ["select 1;\nselect 2;", "select 1; select 2;"], ids=["two lines", "one line"]
)
def test_two_statements_in_a_postgres_block_are_refused(sql: str, tmp_path: Path) -> None:
    message = refused(tmp_path, f"-- get_thing\n{sql}\n")

    assert "things.sql" in message
    assert "get_thing" in message


@pytest.mark.parametrize("parameter", ["%s", "% s", "%(id)b", "%(id)t", ":id"])
def test_a_parameter_in_another_form_is_refused_in_a_postgres_file(parameter: str, tmp_path: Path) -> None:
    message = refused(tmp_path, f"-- get_thing\nselect {parameter};\n")

    assert "things.sql" in message
    assert "get_thing" in message


@pytest.mark.parametrize("parameter", ["?", "%(id)s"])
def test_a_parameter_in_another_form_is_refused_in_a_sqlite_file(parameter: str, tmp_path: Path) -> None:
    message = refused(tmp_path, f"-- get_thing\nselect {parameter};\n", "sqlite")

    assert "things.sql" in message
    assert "get_thing" in message


def test_sql_before_the_first_name_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, "select 1;\n-- get_thing\nselect 1;\n")

    assert "things.sql:1" in message


def test_a_block_without_a_semicolon_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, "-- get_thing\nselect 1\n")

    assert "things.sql" in message
    assert "get_thing" in message


def test_a_value_without_a_parameter_is_refused(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect %(id)s;\n")["get_thing"]

    with pytest.raises(BadQuery, match="get_thing") as refusal:
        query.render({"id": 1, "idd": 2})

    assert "things.sql" in str(refusal.value)


def test_an_optional_line_is_left_out_without_its_value(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect 1\n where true\n   and id = %(id)s -- if id\n;\n")[
        "get_thing"
    ]

    assert "id = " not in query.render({"id": None}).statements[0].sql


def test_an_optional_line_is_sent_with_its_value_and_without_its_condition(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect 1\n where true\n   and id = %(id)s    -- if id\n;\n")[
        "get_thing"
    ]

    assert query.render({"id": 7}).statements[0].sql == "select 1\n where true\n   and id = %(id)s\n;"


@pytest.mark.parametrize("value", [0, False, "", ()])
def test_every_value_but_none_counts_as_given(value: object, tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect 1\n where true\n   and id = %(id)s -- if id\n;\n")[
        "get_thing"
    ]

    assert "and id" in query.render({"id": value}).statements[0].sql


@pytest.mark.parametrize(
    ("given", "sent"),
    [({}, False), ({"one": 1}, False), ({"other": 1}, False), ({"one": 1, "other": 1}, True)],
    ids=["neither", "one", "other", "both"],
)
def test_a_line_with_two_names_needs_both(given: dict[str, int], sent: bool, tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect 1\n order by 1 -- if one and other\n;\n")["get_thing"]

    assert ("order by" in query.render(given).statements[0].sql) is sent


def test_a_choice_of_optional_lines_is_rendered_once(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect 1\n where true\n   and id = %(id)s -- if id\n;\n")[
        "get_thing"
    ]

    assert query.render({"id": 1}) is query.render({"id": 2})


def test_a_name_in_quotes_is_no_parameter(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect ':id', \":id\", :key;\n", "sqlite")["get_thing"]

    assert query.parameters == {"key"}


def test_two_dashes_in_quotes_are_no_comment(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect 'a -- b';\n")["get_thing"]

    assert query.render({}).statements[0].sql == "select 'a -- b';"


def test_a_cast_is_no_parameter(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect %(id)s::text;\n")["get_thing"]

    assert query.parameters == {"id"}


def test_comments_are_not_sent(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\n-- What %(nobody)s needs.\nselect 1;\n")["get_thing"]

    assert query.render({}).statements[0].sql == "select 1;"


def test_a_sqlite_block_may_hold_several_statements(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\ndelete from a;\nselect 1;\n", "sqlite")["get_thing"]

    assert [statement.sql for statement in query.render({}).statements] == ["delete from a;", "select 1;"]


def test_a_schema_is_put_before_our_tables_and_no_others(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect 1 from asm_runs, other_asm_runs;\n", schema='a"b')[
        "get_thing"
    ]

    assert query.render({}).statements[0].sql == 'select 1 from "a""b".asm_runs, other_asm_runs;'


def test_a_percent_sign_in_a_schemas_name_is_doubled_for_the_driver(tmp_path: Path) -> None:
    query = loaded(tmp_path, "-- get_thing\nselect 1 from asm_runs;\n", schema="%(id)s")["get_thing"]

    assert query.render({}).statements[0].sql == 'select 1 from "%%(id)s".asm_runs;'


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "ü" * 32])
def test_an_invalid_schema_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="schema"):
        quote_identifier(name)


@pytest.mark.parametrize("dialect", ["postgres", "sqlite"])
def test_the_query_files_of_asm_load(dialect: Dialect) -> None:
    assert QueryRegistry(dialect).keys() >= {"get_session", "append_event"}
