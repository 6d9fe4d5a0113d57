"""Where a store is: a PostgreSQL server or a SQLite file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from asm.engine.registry import Dialect, quote_identifier
from asm.errors import ValidationError
from asm.validation import is_instance

ENVIRONMENT_VARIABLE = "ASM_DSN"
DEFAULT = "sqlite:///asm.db"
MEMORY = ":memory:"

_SCHEMES = ("postgresql://", "postgres://")
_KEY_VALUE = re.compile(r"\s*[a-z_]+\s*=", re.IGNORECASE)
_FORMS = (
    "postgresql://…, a libpq key=value string, sqlite:///relative.db, sqlite:////absolute.db or sqlite://"
)
_DEFAULTS = {
    "fallback_application_name": "asm",
    "connect_timeout": "10",
    # A server that has fallen silent, its packets lost without a word, is given up after 20 to 25 s:
    # at rest, it is asked for a sign of life; asked something, it has to acknowledge that.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
_UNREADABLE = "libpq cannot read this DSN: check that @ : / and % in its password are percent-encoded"


class SecretStr(str):
    """A DSN, or what the driver makes of one: text that may hold a password, and does not show in a repr.

    So it stays out of a traceback that prints the values of variables, as error reporters do.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<an address>"


def as_secret(dsn: str | None) -> str | None:
    """A DSN as an Address."""
    return SecretStr(str.__str__(dsn)) if is_instance(dsn, str) else dsn


class Target(NamedTuple):
    """A database and, on PostgreSQL, the schema the tables live in."""

    dialect: Dialect
    address: str
    """What the driver connects to: a libpq conninfo with its password, or a file's path."""
    schema: str | None = None

    @property
    def dsn(self) -> str:
        """A DSN that leads here again."""
        return SecretStr(f"sqlite:///{self.address}") if self.dialect == "sqlite" else self.address

    @property
    def is_new_file(self) -> bool:
        """Whether this is a SQLite file that is not there yet, in a folder that is.

        Only what means to write creates it, or a misspelt path would leave an empty file behind.
        """
        if self.dialect == "postgres" or self.address == MEMORY:
            return False
        path = Path(self.address)
        try:
            return path.parent.is_dir() and not path.exists()
        except OSError:
            # Too long a name, or a folder that may not be looked into: opening it says so.
            return False

    def __repr__(self) -> str:
        return f"Place({str(self)!r})"

    def __str__(self) -> str:
        """The address without its password."""
        return self.dsn if self.dialect == "sqlite" else _without_password(self.address)


def parse_dsn(dsn: Any = None, schema: Any = None) -> Target:
    """What a DSN means. Without one, ASM_DSN; without that, sqlite:///asm.db."""
    dsn = as_secret(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT if dsn is None else dsn)
    if not is_instance(dsn, str) or not dsn.strip() or not _is_text(dsn):
        raise ValidationError(f"a DSN is text: {_FORMS}")
    if dsn.startswith("sqlite:"):
        if schema is not None:
            raise ValidationError("SQLite has no schemas: leave `schema` out, or use a file of its own")
        return Target("sqlite", _path(dsn))
    if dsn.startswith(_SCHEMES) or _KEY_VALUE.match(dsn):
        return Target("postgres", _conninfo(dsn), None if schema is None else _schema(schema))
    # Nothing of it is shown: it may hold a password, or be one.
    raise ValidationError(f"this is no DSN that asm knows; it takes {_FORMS}")


def _schema(schema: Any) -> str:
    if not is_instance(schema, str):
        raise ValidationError(f"schema must be a string, not {type(schema).__name__}")
    name = str.__str__(schema)
    if not _is_text(name):
        raise ValidationError(f"schema {name!r:.80} has a NUL or a lone surrogate, which are no text")
    if name.startswith("pg_") or name == "$user":
        raise ValidationError(
            f"schema {name!r:.80} means something of its own to PostgreSQL: take another name"
        )
    quote_identifier(name)
    return name


def _is_text(value: str) -> bool:
    # libpq would stop at a NUL, and take what comes before it for the whole.
    return "\0" not in value and value == value.encode("utf-8", "replace").decode()


def _path(dsn: str) -> str:
    rest = dsn.removeprefix("sqlite:")
    if rest in ("", "//", "///", f"///{MEMORY}"):
        return MEMORY
    if not rest.startswith("///"):
        raise ValidationError(
            "too few slashes in this DSN: a relative file is sqlite:///file.db, an absolute one sqlite:////file.db"
        )
    path = rest.removeprefix("///")
    if "?" in path:
        raise ValidationError("asm takes no options after a SQLite file's name: leave out the ? and the rest")
    if path.startswith("file:"):
        # To some builds of SQLite it is, and to others it is a file of that name.
        raise ValidationError("a SQLite file is named by its path, not by a URI: leave out the file:")
    return path


def _conninfo(dsn: str) -> SecretStr:
    # Whatever the DSN and the environment say: documents are read as they stand, in UTF-8.
    if not _is_readable(dsn):
        raise ValidationError(_UNREADABLE)
    given = conninfo_to_dict(dsn).keys()
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in given}
    return SecretStr(make_conninfo(dsn, client_encoding="UTF8", **defaults))


def _is_readable(dsn: str) -> bool:
    try:
        given = conninfo_to_dict(dsn)
    except (ProgrammingError, UnicodeDecodeError):
        # libpq repeats what it could not read, which may hold the password; so its words are not kept.
        return False
    return not _is_misread(given) and not _has_bare_at(dsn)


def _has_bare_at(dsn: str) -> bool:
    """Whether the end of a password with a bare / in it was taken for a URL's database."""
    if not dsn.startswith(_SCHEMES):
        return False
    return "@" in dsn.partition("://")[2].partition("/")[2].partition("?")[0]


def _is_misread(given: Mapping[str, Any]) -> bool:
    """Whether the end of a password with a bare @ or / in it was taken for a host or a port."""
    hosts, ports = (str(given.get(name) or "").split(",") for name in ("host", "port"))
    return any("@" in host and host[0] not in "/@" for host in hosts) or any(
        port and not port.strip().isdecimal() for port in ports
    )


def _without_password(conninfo: str) -> str:
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    user = f"{quote(parts['user'])}@" if "user" in parts else ""
    host = quote(parts.get("host") or parts.get("hostaddr", ""), safe=",:[]")
    port = f":{parts['port']}" if "port" in parts else ""
    return f"postgresql://{user}{host}{port}/{quote(parts.get('dbname', ''))}"
