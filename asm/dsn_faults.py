"""Why a DSN is refused, and the form that works. No message shows a part that may be a password."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from asm.validation import a_type, did_you_mean

FORMS = (
    "use postgresql://…, a libpq key=value string, sqlite:///relative.db, sqlite:////absolute.db or sqlite://"
)

_SCHEMES = ("postgresql", "postgres", "sqlite")
_ALIASES = {"pgsql": "postgresql", "psql": "postgresql", "pg": "postgresql", "file": "sqlite"}
_SCHEME = re.compile(r"([a-z][a-z0-9.-]{1,30})(?:\+([a-z0-9_]{1,30}))?:(?=/|\w+\.)", re.IGNORECASE)
_PATH_LENGTH_MAX = 200

_UNKNOWN_PARAMETER = re.compile(r'invalid (?:URI query parameter:|connection option) "(\w{1,40})"')
_SECRET = re.compile(r"(?:password|secret)\s*=", re.IGNORECASE)
_UNQUOTED_SECRET = re.compile(rf"{_SECRET.pattern}\s*[^\s']", re.IGNORECASE)
_WELL_FORMED = re.compile(
    r"""(?>\s*\w+\s*=\s*(?:'(?:[^'\\]|\\.)*'|[^\s'\\]*)(?=\s|\Z))*+\s*""", re.IGNORECASE | re.DOTALL
)
_ADVICE = {
    "pgbouncer": "asm detects a pooler by itself (prepare=False turns prepared statements off)",
    **dict.fromkeys(
        ("schema", "currentschema", "search_path"), "give the store schema=…, or the command --schema"
    ),
    **dict.fromkeys(
        ("connection_limit", "pool_size", "max_pool_size", "max_overflow"), "give the store max_size=…"
    ),
    **dict.fromkeys(("pool_timeout", "lock_timeout"), "give the store timeout=…"),
    "statement_timeout": "give the store statement_timeout=…",
    **dict.fromkeys(
        ("prepare", "prepare_threshold", "statement_cache_size", "prepared_statement_cache_size"),
        "prepare=False turns prepared statements off",
    ),
}
"""What to do in place of a parameter of another driver, or of another name for a parameter of the store."""


def type_fault(dsn: object) -> str:
    """Why an object that is no string is not a DSN."""
    if isinstance(dsn, os.PathLike):
        return f"a DSN is text and not a path: {_as_file(os.fsdecode(dsn))}"
    return f"a DSN must be a string, not {a_type(dsn)}: {FORMS}"


def form_fault(dsn: str) -> str:
    """Why a string is not a DSN."""
    text = dsn.strip()
    if not text:
        return f"the DSN is empty: {FORMS}"
    if text[0] in "'\"" and text[-1] == text[0]:
        return "the DSN has quotation marks around it: remove them"
    if text != dsn:
        return "the DSN has a space or a line end before or after it: remove that"
    if text == ":memory:":
        return "use sqlite:// for a SQLite database in memory"
    if text.startswith("jdbc:"):
        return "the DSN is one of JDBC: remove jdbc: from it"
    if scheme := _SCHEME.match(text):
        return _scheme_fault(scheme[1].lower(), scheme[2])
    if not re.search("[@:=?]", text) and len(text) <= _PATH_LENGTH_MAX:
        return _name_fault(text)
    return f"the DSN has an unknown form: {FORMS}"


def libpq_fault(dsn: str, message: str) -> str:
    """Why libpq cannot read a DSN, given its message."""
    unknown = _UNKNOWN_PARAMETER.search(message)
    if unknown is None or _may_be_password(dsn, unknown[1]):
        # libpq's message repeats the text that it could not read, which may be the password.
        return misread_fault(dsn)
    name = unknown[1]
    advice = _ADVICE.get(name.lower())
    if advice is not None:
        return f"the DSN has the parameter {name!r}, which libpq does not know: remove it; {advice}"
    return (
        f"the DSN has the parameter {name!r}, which libpq does not know"
        f"{did_you_mean(name, _known_parameters())}: correct or remove it"
    )


def misread_fault(dsn: str) -> str:
    """Why libpq reads a DSN as something else than was meant."""
    if "://" in dsn:
        return (
            "libpq cannot read the DSN: percent-encode the characters @ : / and % of its password, give the "
            "port as a number, and each parameter after ? as name=value"
        )
    return (
        "libpq cannot read the DSN: give each parameter as name=value, put a value with a space into "
        r"single quotes, and write \' for a quote and \\ for a backslash in a value"
    )


def _scheme_fault(scheme: str, driver: str | None) -> str:
    if driver is not None and scheme in _SCHEMES:
        return f"the DSN names the driver {driver!r}: use {scheme}:// without +{driver}"
    known = _ALIASES.get(scheme, scheme)
    if known in _SCHEMES:
        slashes = "///" if known == "sqlite" else "//"
        return f"the DSN has an unknown form: begin it with {known}:{slashes}"
    return (
        f"asm keeps sessions in PostgreSQL or SQLite, and the DSN has the scheme {scheme!r}"
        f"{did_you_mean(scheme, _SCHEMES)}: {FORMS}"
    )


def _name_fault(text: str) -> str:
    if re.search(r"[/\\.~]", text) or Path(text).exists():
        return f"{text!r} looks like the path of a file and not like a DSN: {_as_file(text)}"
    return "a name is not a DSN: use 'sqlite:///NAME' for a SQLite file, or 'dbname=NAME' for PostgreSQL"


def _as_file(path: str) -> str:
    # The user of a path such as ~name may not exist.
    with suppress(RuntimeError):
        path = str(Path(path).expanduser())
    return f"use 'sqlite:///{path}'"


def _may_be_password(dsn: str, name: str) -> bool:
    """Whether the name of a parameter that libpq refuses may be a part of a password that it misreads."""
    before = dsn.rpartition(name)[0]
    if "://" in dsn:
        return "@" in dsn.partition("?")[2] or bool(_SECRET.search(before))
    return bool(_UNQUOTED_SECRET.search(before)) or not _WELL_FORMED.fullmatch(dsn)


def _known_parameters() -> list[str]:
    from psycopg.pq import Conninfo

    defaults: list[Any] = Conninfo.get_defaults()
    return [option.keyword.decode() for option in defaults]
