"""DSNs: which database one names, and how to keep its password out of messages."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from asm import dsn_faults
from asm.engine.registry import Dialect, quote_identifier
from asm.errors import ValidationError
from asm.shown import strict

DSN_VARIABLE = "ASM_DSN"
DEFAULT = "sqlite:///asm.db"
MEMORY = ":memory:"

_SCHEMES = ("postgresql://", "postgres://")
_KEY_VALUE = re.compile(r"\s*[a-z_]+\s*=", re.IGNORECASE)
_CONNINFO_DEFAULTS = {
    "fallback_application_name": "asm",
    "connect_timeout": "10",
    # A server whose packets are lost is noticed after 20 to 25 s: an idle connection by its
    # keepalives, one with data on the way by the missing acknowledgement.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


class SecretStr(str):
    """A string that may contain a password. Its repr hides it.

    Tools that report the variables of a traceback call repr.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"


def as_secret(dsn: str | None) -> str | None:
    return SecretStr(dsn) if isinstance(dsn, str) else dsn


class Target(NamedTuple):
    """A database and, on PostgreSQL, the schema of the tables."""

    dialect: Dialect
    address: str
    """What the driver connects to: a libpq conninfo with its password, or the path of a file."""
    schema: str | None = None

    @property
    def dsn(self) -> str:
        """A DSN that names this database."""
        return SecretStr(f"sqlite:///{self.address}") if self.dialect == "sqlite" else self.address

    @property
    def is_new_file(self) -> bool:
        """Whether this is a SQLite file that does not exist, in a folder that does.

        SQLite creates a missing file, so a mistyped path would leave an empty database behind.
        """
        if self.dialect == "postgres" or self.address == MEMORY:
            return False
        path = Path(self.address)
        try:
            return path.parent.is_dir() and not path.exists()
        except OSError:
            # The name is too long, or the folder is not readable. Opening the file reports it.
            return False

    def __repr__(self) -> str:
        return f"Target({str(self)!r})"

    def __str__(self) -> str:
        """The DSN without its password."""
        return strict(self.dsn) if self.dialect == "sqlite" else _without_password(self.address)


def parse_dsn(dsn: Any = None, schema: Any = None) -> Target:
    """The database that a DSN names. The default is ASM_DSN or, without that, sqlite:///asm.db."""
    if dsn is not None:
        return _parse(as_secret(dsn), schema)
    from_environment = as_secret(os.environ.get(DSN_VARIABLE))
    if from_environment is None:
        return _parse(DEFAULT, schema)
    if not from_environment.strip():
        raise ValidationError(
            f"the environment variable {DSN_VARIABLE} is empty: unset it to use {DEFAULT}, or set it to a DSN"
        )
    try:
        return _parse(from_environment, schema)
    except ValidationError as error:
        raise ValidationError(f"the environment variable {DSN_VARIABLE}: {error}") from error


def _parse(dsn: Any, schema: Any) -> Target:
    # No message shows the DSN: it may contain a password.
    if not isinstance(dsn, str):
        raise ValidationError(dsn_faults.type_fault(dsn))
    if not _is_text(dsn):
        raise ValidationError(
            f"a DSN must be text without NUL characters and lone surrogates: {dsn_faults.FORMS}"
        )
    if _KEY_VALUE.match(dsn):
        return _parse_postgres(dsn, schema)
    if dsn == dsn.strip():
        if dsn.startswith("sqlite:"):
            return _parse_sqlite(dsn, schema)
        if dsn.startswith(_SCHEMES):
            return _parse_postgres(dsn, schema)
    raise ValidationError(dsn_faults.form_fault(dsn))


def _is_text(value: str) -> bool:
    # libpq would take the part before a NUL for the whole.
    return "\0" not in value and value == value.encode("utf-8", "replace").decode()


# SQLite.


def _parse_sqlite(dsn: str, schema: Any) -> Target:
    if schema is not None:
        raise ValidationError("SQLite has no schemas: omit `schema`, or use a separate file")
    rest = dsn.removeprefix("sqlite:")
    if rest in ("", "//", "///", f"///{MEMORY}"):
        return Target("sqlite", MEMORY)
    if not rest.startswith("///"):
        raise ValidationError(
            "the SQLite DSN has too few slashes: use sqlite:///file.db for a relative path and "
            "sqlite:////file.db for an absolute one"
        )
    return Target("sqlite", _check_path(rest.removeprefix("///")))


def _check_path(path: str) -> str:
    if "?" in path:
        raise ValidationError("a SQLite DSN takes no options: remove the ? and what follows it")
    if path.startswith("file:"):
        # SQLite reads this as a URI or as a file name, depending on how it was built.
        raise ValidationError("a SQLite DSN takes a path and not a URI: remove file: from it")
    if path.startswith("~/"):
        raise ValidationError("a SQLite DSN takes a path as it is: replace ~ by the path of your home folder")
    return path


# PostgreSQL. psycopg is imported inside the functions, so that a SQLite store works without it.


def _parse_postgres(dsn: str, schema: Any) -> Target:
    return Target("postgres", _conninfo(dsn), None if schema is None else _check_schema(schema))


def _check_schema(schema: Any) -> str:
    if not isinstance(schema, str):
        raise ValidationError(f"schema must be a string, not {type(schema).__name__}")
    if not _is_text(schema):
        raise ValidationError(f"schema {schema!r:.80} contains a NUL character or a lone surrogate")
    if schema.startswith("pg_") or schema == "$user":
        raise ValidationError(f"schema {schema!r:.80} is reserved by PostgreSQL: use another name")
    quote_identifier(schema)
    return schema


def _conninfo(dsn: str) -> SecretStr:
    try:
        from psycopg.conninfo import conninfo_to_dict, make_conninfo
    except ImportError as error:
        raise ImportError(
            f"a PostgreSQL DSN needs psycopg and libpq: pip install 'asm-store[binary]' ({error})"
        ) from error
    if (fault := _libpq_fault(dsn)) is not None:
        raise ValidationError(fault)
    given = conninfo_to_dict(dsn)
    defaults = {name: value for name, value in _CONNINFO_DEFAULTS.items() if name not in given}
    # The documents are read as UTF-8, whatever the DSN and the environment ask for.
    return SecretStr(make_conninfo(dsn, client_encoding="UTF8", **defaults))


def _libpq_fault(dsn: str) -> str | None:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        params = conninfo_to_dict(dsn)
    except (ProgrammingError, UnicodeDecodeError) as error:
        # The error may show the password. To keep it out of the ValidationError's context, that one is
        # raised outside this handler.
        return dsn_faults.libpq_fault(dsn, str(error))
    return dsn_faults.misread_fault(dsn) if _is_misread(params) or _has_bare_at(dsn) else None


def _is_misread(params: Mapping[str, Any]) -> bool:
    """Whether libpq took the end of a password for a host or a port, or a whole DSN for a database."""
    hosts, ports = (str(params.get(name) or "").split(",") for name in ("host", "port"))
    # A socket in the abstract namespace begins with an @, and a socket folder with a /.
    return (
        any("@" in host[1:] and host[0] != "/" for host in hosts)
        or any(port and not port.strip().isdecimal() for port in ports)
        or any(mark in str(params.get("dbname") or "") for mark in ("://", "password="))
    )


def _has_bare_at(dsn: str) -> bool:
    """Whether libpq took the end of a password with a bare / for the database of a URL."""
    if not dsn.startswith(_SCHEMES):
        return False
    return "@" in dsn.partition("://")[2].partition("/")[2].partition("?")[0]


def _without_password(conninfo: str) -> str:
    from psycopg.conninfo import conninfo_to_dict

    params = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    user = f"{quote(params['user'])}@" if "user" in params else ""
    host = quote(params.get("host") or params.get("hostaddr", ""), safe=",:[]")
    port = f":{params['port']}" if "port" in params else ""
    return f"postgresql://{user}{host}{port}/{quote(params.get('dbname', ''))}"
