"""opencode's database, a SQLite file that another program may write meanwhile. It is only read.

A database is foreign data, too: it may be damaged, or made to do something when it is read. So only plain
tables are read, with the limits of a text file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from asm import files
from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text

_MAGIC = b"SQLite format 3\0"

_TABLES = {
    "session": {"id", "project_id", "parent_id", "title", "time_created", "time_updated"},
    "message": {"id", "session_id", "time_created", "data"},
    "part": {"id", "message_id", "session_id", "data"},
}
"""The tables of a database, and columns that all versions of them have."""

_LENGTH_MAX = text.FILE_SIZE_MAX
"""Characters of a value, and of all messages of a session, as of an export that has them."""

_ROW_LENGTH = 100
_WAIT_S = 5.0

_NAMES = {"project_id": "projectID", "parent_id": "parentID", "share_url": "share"}
_TIMES = {"time_created": "created", "time_updated": "updated"}
_DOCUMENTS = ("revert", "summary_diffs", "permission", "model")


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file is a SQLite database with opencode's tables."""
    if not head.startswith(_MAGIC):
        return False
    try:
        with _connected(path) as connection:
            return _has_tables(connection)
    except (sqlite3.Error, UnicodeError, OSError):
        return False


@contextmanager
def reading(path: Path) -> Iterator[Database]:
    """A database, open for reading as it is now. Raises ValidationError if it cannot be read."""
    try:
        with _connected(path) as connection:
            # One transaction: opencode may write between two queries.
            connection.execute("begin")
            yield Database(connection)
    except (sqlite3.Error, UnicodeError) as error:
        # A UnicodeError is raised for a schema that is not UTF-8.
        raise ValidationError(f"the database cannot be read: {error}") from error


class Database:
    """The sessions of a database, and their messages."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def sessions(self) -> Iterator[Document]:
        """The sessions, those before which were begun earlier, as an export describes them."""
        for row in self._rows("select * from session order by time_created, id"):
            yield _info(row)

    def messages(self, session_id: Any) -> Iterator[tuple[Document, list[Any]]]:
        """The messages of a session with their parts, in their order."""
        rows = self._rows(
            """
            select message.id, message.data, part.id as part_id, part.data as part_data
              from message
              left join part on part.message_id = message.id
             where message.session_id = :session_id
             order by message.time_created, message.id, part.id
            """,
            {"session_id": session_id},
        )
        for id, group in groupby(_bounded(rows, session_id), lambda row: row["id"]):
            parts = list(group)
            info = _document(parts[0]["data"], f"message {id}")
            yield (
                {**info, "id": id},
                [
                    {**_document(row["part_data"], f"part {row['part_id']}"), "id": row["part_id"]}
                    for row in parts
                    if row["part_id"] is not None
                ],
            )

    def _rows(self, sql: str, values: Document | None = None) -> Iterator[Document]:
        cursor = self._connection.execute(sql, values or {})
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))


def _bounded(rows: Iterator[Document], session_id: Any) -> Iterator[Document]:
    """The rows of a session, which is held in memory."""
    length, before = 0, None
    for row in rows:
        length += _ROW_LENGTH + _length(row["part_data"])
        length += _length(row["data"]) if row["id"] != before else 0
        before = row["id"]
        if length > _LENGTH_MAX:
            raise ValidationError(
                f"session {session_id!r} has more than {_LENGTH_MAX:,} characters of messages, the maximum "
                "of a session in a database"
            )
        yield row


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 0


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    # Not a pipe or a device. SQLite opens the file by its name.
    files.reading(path, follow_links=True).close()
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=_WAIT_S, isolation_level=None)) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LENGTH_MAX)
        # No function that the schema names is called.
        connection.execute("pragma trusted_schema = off")
        connection.execute("pragma query_only = on")
        yield connection


def _has_tables(connection: sqlite3.Connection) -> bool:
    return all(_has_table(connection, name, columns) for name, columns in _TABLES.items())


def _has_table(connection: sqlite3.Connection, name: str, columns: set[str]) -> bool:
    """Whether there is a plain table with these columns: no view, no virtual table, nothing computed."""
    found = connection.execute("select type, sql from sqlite_master where name = ?", (name,)).fetchall()
    if len(found) != 1 or found[0][0] != "table" or "virtual" in str(found[0][1])[:20].lower():
        return False
    described = connection.execute(f"pragma table_xinfo({name})").fetchall()
    return columns <= {column[1] for column in described} and not any(column[6] for column in described)


def _info(row: Document) -> Document:
    """A row of a session as an export has it."""
    times = {own: row.get(name) for name, own in _TIMES.items()}
    others = {name: value for name, value in row.items() if name not in _TIMES and value is not None}
    info = {_NAMES.get(name, name): _stored(name, value) for name, value in others.items()}
    return {**info, "time": times}


def _stored(name: str, value: Any) -> Any:
    if name in _DOCUMENTS and isinstance(value, str):
        return text.parse_json(value.encode("utf-8", "surrogatepass"))
    return value.hex() if isinstance(value, bytes) else value


def _document(value: Any, name: str) -> Document:
    try:
        encoded = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        document = text.parse_json(encoded)
    except ValidationError as error:
        raise ValidationError(f"{name}: {error}") from error
    if not isinstance(document, dict):
        raise ValidationError(f"{name} must be an object, not {type(document).__name__}")
    return document
