"""What a DSN means, and that its password is nobody's business."""

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
def test_a_postgres_dsn_is_known_in_every_form(dsn: str) -> None:
    assert parse_dsn(dsn).dialect == "postgres"


@pytest.mark.parametrize("dsn", WITH_PASSWORD.values(), ids=WITH_PASSWORD)
def test_the_driver_gets_the_password_as_it_is(dsn: str) -> None:
    assert conninfo_to_dict(parse_dsn(dsn).address)["password"] == PASSWORD


@pytest.mark.parametrize("dsn", WITH_PASSWORD.values(), ids=WITH_PASSWORD)
def test_a_place_is_shown_without_its_password(dsn: str) -> None:
    shown = f"{parse_dsn(dsn)} {parse_dsn(dsn)!r} {[parse_dsn(dsn)]}"

    assert PASSWORD not in shown
    assert ENCODED not in shown


@pytest.mark.parametrize("dsn", WITH_PASSWORD.values(), ids=WITH_PASSWORD)
def test_the_dsn_of_a_place_leads_there_again(dsn: str) -> None:
    there = parse_dsn(dsn)

    assert conninfo_to_dict(parse_dsn(there.dsn).address) == conninfo_to_dict(there.address)


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
def test_what_a_dsn_says_reaches_the_driver(dsn: str, parts: dict[str, str]) -> None:
    assert parts.items() <= conninfo_to_dict(parse_dsn(dsn).address).items()


def test_the_server_is_told_whose_connections_these_are() -> None:
    assert conninfo_to_dict(parse_dsn("postgresql:///db").address)["fallback_application_name"] == "asm"


def test_an_application_keeps_its_own_name() -> None:
    address = parse_dsn("postgresql:///db?application_name=ann").address

    assert conninfo_to_dict(address)["application_name"] == "ann"


def test_documents_travel_in_utf_8_whatever_the_dsn_says() -> None:
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
def test_the_dsn_of_a_file_s_place_leads_there_again(dsn: str) -> None:
    there = parse_dsn(dsn)

    assert parse_dsn(there.dsn) == there


def test_without_a_dsn_the_environment_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASM_DSN", "sqlite:///environment.db")

    assert parse_dsn().address == "environment.db"


def test_a_given_dsn_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASM_DSN", "sqlite:///environment.db")

    assert parse_dsn("sqlite:///given.db").address == "given.db"


def test_without_either_it_is_a_file_of_that_name() -> None:
    assert parse_dsn() == ("sqlite", "asm.db", None)


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASM_DSN", "")

    assert parse_dsn().address == "asm.db"


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
}


@pytest.mark.parametrize("dsn", WRONG.values(), ids=WRONG)
def test_another_form_is_refused(dsn: Any) -> None:
    with pytest.raises(asm.ValidationError):
        parse_dsn(dsn)


@pytest.mark.parametrize("dsn", WRONG.values(), ids=WRONG)
def test_a_refusal_does_not_tell_the_password(dsn: Any) -> None:
    with pytest.raises(asm.ValidationError) as refusal:
        parse_dsn(dsn)

    told = [
        str(refusal.value),
        repr(refusal.value),
        repr(refusal.value.__cause__),
        repr(refusal.value.details),
    ]
    assert not [each for each in told if "secret@" in each or "'secret" in each or "=secret" in each]


def test_a_refusal_does_not_tell_the_password_in_its_traceback() -> None:
    with pytest.raises(asm.ValidationError) as refusal:
        parse_dsn("postgresql://ann:s%secret@host/db")

    assert refusal.value.__context__ is None


@pytest.mark.parametrize("schema", ["agents", 'Ag"ents', "ü", "x" * 63])
def test_a_schema_of_any_name_is_kept(schema: str) -> None:
    assert parse_dsn("postgresql:///db", schema).schema == schema


@pytest.mark.parametrize("schema", ["", "a\0b", "x" * 64, 3, "pg_temp", "pg_mine", "$user"])
def test_a_schema_that_postgres_cannot_keep_is_refused(schema: Any) -> None:
    with pytest.raises(asm.ValidationError, match="schema"):
        parse_dsn("postgresql:///db", schema)


def test_a_schema_is_refused_on_sqlite() -> None:
    with pytest.raises(asm.ValidationError, match="schema"):
        parse_dsn("sqlite:///file.db", "agents")


def test_a_name_too_long_for_a_file_is_no_new_file(tmp_path: Path) -> None:
    assert not parse_dsn(f"sqlite:///{tmp_path / ('x' * 300)}").is_new_file
