"""SQLite databases of other programs, which may write them meanwhile. They are only read.

A database is foreign data, too: it may be damaged, or made to do something when it is read. So only plain
tables are read, with the limits of a text file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from asm import files
from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text

T = TypeVar("T")
R = TypeVar("R")

MAGIC = b"SQLite format 3\0"
_LOG_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_LOG_SUFFIX = "-wal"

LENGTH_MAX = text.FILE_SIZE_MAX
"""Characters of a value, and of all rows of a session, as of an export that has them."""

NAMED_MAX = 20
"""Sessions that an error names."""

_ROW_LENGTH = 100
_WAIT_S = 5.0


class Database:
    """A database that is open for reading."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, **values: Any) -> Iterator[Document]:
        """The rows of a query, one by one."""
        cursor = self._connection.execute(sql, values)
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A block in which all queries see the same rows. A writer may have to wait for its end."""
        self._connection.execute("begin")
        try:
            yield
        finally:
            self._connection.rollback()

    def has_table(self, name: str, columns: Set[str]) -> bool:
        """Whether there is a plain table with these columns: no view, no virtual table, nothing computed."""
        found = list(self.rows("select type, sql from sqlite_master where name = :name", name=name))
        if len(found) != 1 or found[0]["type"] != "table" or _is_virtual(found[0]["sql"]):
            return False
        described = list(self.rows("select name, hidden from pragma_table_xinfo(:name)", name=name))
        return columns <= {column["name"] for column in described} and not any(
            column["hidden"] for column in described
        )

    def tables_with(self, column: str) -> list[str]:
        """The names of the tables whose definition has this word."""
        sql = (
            "select name from sqlite_master where type = 'table' and instr(lower(sql), :column) order by name"
        )
        return [row["name"] for row in self.rows(sql, column=column)]

    def referenced(self, table: str, column: str) -> str | None:
        """The table to which a column refers by a foreign key."""
        sql = 'select "table" as name from pragma_foreign_key_list(:table) where "from" = :column limit 1'
        return next((row["name"] for row in self.rows(sql, table=table, column=column)), None)


def _is_virtual(sql: object) -> bool:
    return "virtual" in str(sql)[:20].lower()


# Opening.


def contains(path: Path, head: bytes, is_ours: Callable[[Database], bool]) -> bool:
    """Whether a file is a database with the tables that are asked for, or the write-ahead log of one."""
    if head.startswith(_LOG_MAGIC):
        if (main := main_file(path)) is None or not main.is_file():
            return False
        path, head = main, text.read_head(main, len(MAGIC))
    if not head.startswith(MAGIC):
        return False
    try:
        with _connected(path) as connection:
            return is_ours(Database(connection))
    except (sqlite3.Error, UnicodeError, OSError):
        return False


def main_file(path: Path) -> Path | None:
    """The database of a write-ahead log, None for another file.

    While a program has the database open, only its log changes.
    """
    is_log = path.name.endswith(_LOG_SUFFIX) and path.name != _LOG_SUFFIX
    return path.with_name(path.name.removesuffix(_LOG_SUFFIX)) if is_log else None


@contextmanager
def reading(path: Path) -> Iterator[Database]:
    """A database, open for reading. Raises ValidationError if it cannot be read."""
    try:
        with _connected(main_file(path) or path) as connection:
            yield Database(connection)
    except (sqlite3.Error, UnicodeError) as error:
        # A UnicodeError is raised for a schema that is not UTF-8.
        raise ValidationError(f"the database cannot be read: {error}") from error


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    # Not a pipe or a device. SQLite opens the file by its name.
    with files.reading(path, follow_links=True) as file:
        is_logged = file.read(len(MAGIC) + 3)[-1:] == b"\x02"
    mode = "rw" if is_logged and not _is_open(path) else "ro"
    address = f"file:{quote(str(path.absolute()))}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=_WAIT_S, isolation_level=None)) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LENGTH_MAX)
        # No function that the schema names is called.
        connection.execute("pragma trusted_schema = off")
        connection.execute("pragma query_only = on")
        yield connection


def _is_open(path: Path) -> bool:
    """Whether a program has the database open, or was killed while it had.

    Otherwise SQLite makes an empty log for the time of reading, and removes it only if it may write.
    """
    name = os.path.realpath(path)
    return any(Path(name + suffix).exists() for suffix in (_LOG_SUFFIX, "-journal"))


# Reading.


def each(database: Database, ids: Iterable[T], read: Callable[[T], R]) -> Iterator[R]:
    """What is read of each session, as it is then.

    Those that cannot be read are named in one ValidationError at the end.
    """
    failures: list[ValidationError] = []
    for id in list(ids):
        try:
            with database.snapshot():
                found = read(id)
        except ValidationError as error:
            failures.append(error)
        else:
            yield found
    if len(failures) == 1:
        raise failures[0]
    if failures:
        named = "; ".join(map(str, failures[:NAMED_MAX]))
        more = f"; and {len(failures) - NAMED_MAX:,} more" if len(failures) > NAMED_MAX else ""
        raise ValidationError(f"{len(failures):,} sessions cannot be read: {named}{more}")


class SessionSize:
    """Bounds the rows of a session, which is held in memory."""

    def __init__(self, session_id: Any) -> None:
        self._session_id = session_id
        self._length = 0

    def add(self, *values: Any) -> None:
        """Count a row with these values. Raises ValidationError if the session is too large."""
        self._length += _ROW_LENGTH + sum(map(_length, values))
        if self._length > LENGTH_MAX:
            raise ValidationError(
                f"session {self._session_id!r} has more than {LENGTH_MAX:,} characters of messages, the "
                "maximum of a session in a database"
            )


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 0


def parsed(value: Any) -> Any:
    """The JSON that a column has."""
    return text.parse_json(value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass"))


def object_in(value: Any, name: str) -> Document:
    """The JSON object that a column has."""
    try:
        document = parsed(value)
    except ValidationError as error:
        raise ValidationError(f"{name}: {error}") from error
    if not isinstance(document, dict):
        raise ValidationError(f"{name} must be an object, not {type(document).__name__}")
    return document
