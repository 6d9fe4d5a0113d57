"""Which database a DSN names, and that no message shows its password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

import asm
from asm.dsn import MEMORY, parse_dsn

PASSWORD = "p@ss:w/o%rd"
ENCODED = "p%40ss%3Aw%2Fo%25rd"

WITH_PASSWORD = {
    "a URL": f"postgresql://ann:{ENCODED}@db.example:5433/agents",
    "the short scheme": f"postgres://ann:{ENCODED}@db.example:5433/agents",
    "a URL with options": f"postgresql://ann:{ENCODED}@db.example/agents?connect_timeout=3&sslmode=disable",
    "a password among the options": f"postgresql://ann@db.example/agents?password={ENCODED}",
    "several hosts": f"postgresql://ann:{ENCODED}@one:5433,two:5434/agents?target_session_attrs=read-write",
    "a socket folder": f"postgresql://ann:{ENCODED}@%2Frun%2Fpg/agents",
    "key=value": f"host=db.example user=ann dbname=agents password='{PASSWORD}'",
    "key = value": f"  host = db.example user = ann dbname = agents password = '{PASSWORD}'",
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASM_DSN", raising=False)


@pytest.mark.parametrize("dsn", WITH_PASSWORD.values(), ids=WITH_PASSWORD)
def test_a_postgres_dsn_is_accepted_in_every_form(dsn: str) -> None:
    assert parse_dsn(dsn).dialect == "postgres"


@pytest.mark.parametrize("dsn", WITH_PASSWORD.values(), ids=WITH_PASSWORD)
def test_the_driver_gets_the_decoded_password(dsn: str) -> None:
    assert conninfo_to_dict(parse_dsn(dsn).address)["password"] == PASSWORD


@pytest.mark.parametrize("dsn", WITH_PASSWORD.values(), ids=WITH_PASSWORD)
def test_the_repr_of_a_target_hides_the_password(dsn: str) -> None:
    shown = f"{parse_dsn(dsn)} {parse_dsn(dsn)!r} {[parse_dsn(dsn)]}"

    assert PASSWORD not in shown
    assert ENCODED not in shown


@pytest.mark.parametrize("dsn", WITH_PASSWORD.values(), ids=WITH_PASSWORD)
def test_the_dsn_of_a_target_names_the_same_database(dsn: str) -> None:
    target = parse_dsn(dsn)

    assert conninfo_to_dict(parse_dsn(target.dsn).address) == conninfo_to_dict(target.address)


@pytest.mark.parametrize(
    ("dsn", "parts"),
    [
        ("postgresql://one:1,two:2/db", {"host": "one,two", "port": "1,2", "dbname": "db"}),
        ("postgresql:///db?host=/run/pg&port=7", {"host": "/run/pg", "port": "7", "dbname": "db"}),
        ("host=/run/pg dbname=db", {"host": "/run/pg", "dbname": "db"}),
        ("postgresql://[::1]:7/db", {"host": "::1", "port": "7", "dbname": "db"}),
        ("service=agents", {"service": "agents"}),
    ],
)
def test_the_parameters_of_a_dsn_reach_the_driver(dsn: str, parts: dict[str, str]) -> None:
    assert parts.items() <= conninfo_to_dict(parse_dsn(dsn).address).items()


def test_the_application_name_is_asm_by_default() -> None:
    assert conninfo_to_dict(parse_dsn("postgresql:///db").address)["fallback_application_name"] == "asm"


def test_an_application_name_in_the_dsn_is_kept() -> None:
    address = parse_dsn("postgresql:///db?application_name=ann").address

    assert conninfo_to_dict(address)["application_name"] == "ann"


def test_the_client_encoding_is_utf_8_even_if_the_dsn_gives_another() -> None:
    address = parse_dsn("postgresql:///db?client_encoding=latin1").address

    assert conninfo_to_dict(address)["client_encoding"] == "UTF8"


@pytest.mark.parametrize(
    ("dsn", "path"),
    [
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite:///some/relative.db", "some/relative.db"),
        ("sqlite:////absolute/file.db", "/absolute/file.db"),
        ("sqlite:///with space and ü.db", "with space and ü.db"),
        ("sqlite:///50%25.db", "50%25.db"),
        ("sqlite:////a/b#c.db", "/a/b#c.db"),
        ("sqlite://", MEMORY),
        ("sqlite:///:memory:", MEMORY),
    ],
)
def test_a_sqlite_dsn_names_a_file_or_memory(dsn: str, path: str) -> None:
    assert (parse_dsn(dsn).dialect, parse_dsn(dsn).address) == ("sqlite", path)


@pytest.mark.parametrize("dsn", ["sqlite:///relative.db", "sqlite:////absolute.db", "sqlite://"])
def test_the_dsn_of_a_sqlite_target_names_the_same_file(dsn: str) -> None:
    target = parse_dsn(dsn)

    assert parse_dsn(target.dsn) == target


def test_asm_dsn_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASM_DSN", "sqlite:///environment.db")

    assert parse_dsn().address == "environment.db"


def test_a_given_dsn_takes_precedence_over_asm_dsn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASM_DSN", "sqlite:///environment.db")

    assert parse_dsn("sqlite:///given.db").address == "given.db"


def test_without_a_dsn_and_asm_dsn_the_database_is_asm_db() -> None:
    assert parse_dsn() == ("sqlite", "asm.db", None)


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_asm_dsn_is_refused_so_that_no_other_store_is_used(
    monkeypatch: pytest.MonkeyPatch, blank: str
) -> None:
    monkeypatch.setenv("ASM_DSN", blank)
    with pytest.raises(asm.ValidationError, match="the environment variable ASM_DSN is empty: unset it"):
        parse_dsn()


def test_a_refusal_of_asm_dsn_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASM_DSN", "agents.db")
    with pytest.raises(asm.ValidationError, match=r"^the environment variable ASM_DSN: 'agents\.db' looks"):
        parse_dsn()


WRONG = {
    "empty": "",
    "blank": "   ",
    "a number": 3,
    "bytes": b"sqlite://",
    "another database": "mysql://ann:secret@host/db",
    "no scheme": "ann:secret@host/db",
    "a bare path": "/var/lib/secret.db",
    "an unencoded password": "postgresql://ann:se%cret@host/db",
    "an unknown option": "postgresql://ann:secret@host/db?colour=secret",
    "an unknown key": "host=db colour=secret",
    "an open quote": "host=db password='secret",
    "two slashes": "sqlite://relative.db",
    "one slash": "sqlite:/absolute.db",
    "a file with options": "sqlite:///file.db?mode=ro",
    "a file by its URI": "sqlite:///file:store.db",
    "a NUL": "sqlite:///file\0.db",
    "a home folder": "sqlite:///~/file.db",
    "a line end": "postgresql://ann:secret@host/db\n",
    "quotation marks": "'postgresql://ann:secret@host/db'",
    "an unencoded password with a ?": "postgresql://ann:se/c?ret=secret@host/db",
    "an unencoded password with @@": "postgresql://ann:a@@secret@host/db",
    "a parameter after an unencoded password": "postgresql://ann:secret/x@host/db?schema=x",
    "a password with a space": "host=db password=a secret=secret",
    "the spelling of SQLAlchemy": "postgresql+psycopg://ann:secret@host/db",
}


@pytest.mark.parametrize("dsn", WRONG.values(), ids=WRONG)
def test_a_dsn_of_another_form_is_refused(dsn: Any) -> None:
    with pytest.raises(asm.ValidationError):
        parse_dsn(dsn)


@pytest.mark.parametrize("dsn", WRONG.values(), ids=WRONG)
def test_the_refusal_of_a_dsn_does_not_show_the_password(dsn: Any) -> None:
    with pytest.raises(asm.ValidationError) as refusal:
        parse_dsn(dsn)

    shown = [
        str(refusal.value),
        repr(refusal.value),
        repr(refusal.value.__cause__),
        repr(refusal.value.details),
    ]
    assert not [each for each in shown if "secret@" in each or "'secret" in each or "=secret" in each]


def test_the_refusal_of_a_dsn_has_no_context_that_shows_the_password() -> None:
    with pytest.raises(asm.ValidationError) as refusal:
        parse_dsn("postgresql://ann:s%secret@host/db")

    assert refusal.value.__context__ is None


@pytest.mark.parametrize("schema", ["agents", 'Ag"ents', "ü", "x" * 63])
def test_a_schema_may_have_any_name(schema: str) -> None:
    assert parse_dsn("postgresql:///db", schema).schema == schema


@pytest.mark.parametrize("schema", ["", "a\0b", "x" * 64, 3, "pg_temp", "pg_mine", "$user"])
def test_a_schema_name_that_postgres_does_not_accept_is_refused(schema: Any) -> None:
    with pytest.raises(asm.ValidationError, match="schema"):
        parse_dsn("postgresql:///db", schema)


def test_a_schema_is_refused_on_sqlite() -> None:
    with pytest.raises(asm.ValidationError, match="schema"):
        parse_dsn("sqlite:///file.db", "agents")


def test_a_file_name_that_is_too_long_is_not_a_new_file(tmp_path: Path) -> None:
    assert not parse_dsn(f"sqlite:///{tmp_path / ('x' * 300)}").is_new_file


@pytest.mark.parametrize(
    ("dsn", "hint"),
    [
        ("agents.db", "use 'sqlite:///agents.db'"),
        ("/var/agents.db", "use 'sqlite:////var/agents.db'"),
        (Path("agents.db"), "use 'sqlite:///agents.db'"),
        ("agents", "use 'sqlite:///NAME' for a SQLite file, or 'dbname=NAME'"),
        (":memory:", "use sqlite://"),
        ("file:agents.db", "begin it with sqlite:///"),
        ("postgresql+asyncpg://h/db", "use postgresql:// without +asyncpg"),
        ("sqlite+pysqlite:///agents.db", "use sqlite:// without +pysqlite"),
        ("jdbc:postgresql://h/db", "remove jdbc:"),
        ("POSTGRES://h/db", "begin it with postgres://"),
        ("pgsql://h/db", "begin it with postgresql://"),
        ("postgesql://h/db", "did you mean 'postgresql'?"),
        ("mysql://h/db", "PostgreSQL or SQLite, and the DSN has the scheme 'mysql'"),
        ("postgresql://h/db\n", "a space or a line end before or after it"),
        ("sqlite:///agents.db ", "a space or a line end before or after it"),
        ("sqlite:///~/agents.db", "replace ~ by the path of your home folder"),
        ("postgresql://u:p@h/db?pgbouncer=true", "parameter 'pgbouncer', .* detects a pooler by itself"),
        ("postgresql://u:p@h/db?schema=x", "parameter 'schema', .* schema=…, or the command --schema"),
        ("postgresql://u:p@h/db?foo=1", "parameter 'foo', which libpq does not know"),
        ("postgresql://u:p@h/db?conect_timeout=1", "did you mean 'connect_timeout'?"),
        ("host=h foo=1", "parameter 'foo', which libpq does not know"),
        ("host=h password='a b' foo=1", "parameter 'foo', which libpq does not know"),
        ("postgresql://h:x/db", "port as a number"),
    ],
)
def test_the_refusal_of_a_dsn_says_what_is_wrong_with_it(dsn: Any, hint: str) -> None:
    with pytest.raises(asm.ValidationError, match=hint.replace("?", r"\?").replace("+", r"\+")):
        parse_dsn(dsn)
