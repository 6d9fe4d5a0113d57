"""SQLite databases of other programs, which may write them meanwhile. They are only read.

A database is foreign data, too: it may be damaged, or made to do something when it is read. So only plain
tables are read, with the limits of a text file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from asm import files
from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.failures import raise_together
from asm.validation import safe_repr

T = TypeVar("T")
R = TypeVar("R")

MAGIC = b"SQLite format 3\0"

LENGTH_MAX = text.FILE_SIZE_MAX
"""Characters of a value, and of all rows of a session, as of an export that has them."""

STEPS_MAX = 10**8
STEPS_PER_BYTE = 10
"""Instructions of SQLite's virtual machine for reading a database, and for each byte of it. It takes a tenth
of these, unless the tables lack their indexes and each session is a search of all rows."""

_STEPS_AT_A_TIME = 100_000
_ROW_LENGTH = 100
_WAIT_S = 5.0
_TRIES = 20


class Database:
    """A database that is open for reading."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps = STEPS_MAX + STEPS_PER_BYTE * path.stat().st_size
        self._open()

    def _open(self) -> None:
        # Not a pipe or a device. SQLite opens the file by its name.
        with files.reading(self._path, follow_links=True) as file:
            has_log = file.read(len(MAGIC) + 3)[-1:] == b"\x02"
        self._state = _state_of(self._path)
        # SQLite makes an empty log where there is none, and leaves it there. A program that has the
        # database open has made one, so that without one nothing changes the file, and no log is needed.
        self._is_alone = has_log and not self._state.has_log
        address = f"file:{quote(os.fsencode(self._path.absolute()))}?mode=ro"
        self._connection = sqlite3.connect(
            f"{address}&immutable=1" if self._is_alone else address,
            uri=True,
            timeout=_WAIT_S,
            isolation_level=None,
        )
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LENGTH_MAX)
        # A text that is not UTF-8 is the fault of one session.
        self._connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
        # No function that the schema names is called.
        self._connection.execute("pragma trusted_schema = off")
        self._connection.execute("pragma query_only = on")
        self._connection.set_progress_handler(self._take_steps, _STEPS_AT_A_TIME)

    def _take_steps(self) -> bool:
        """Count steps of a query. It ends with an error if this is true."""
        self._steps -= _STEPS_AT_A_TIME
        return self.is_exhausted

    @property
    def is_exhausted(self) -> bool:
        """Whether reading has taken too many steps."""
        return self._steps < 0

    def close(self) -> None:
        self._connection.close()

    def read(self, read: Callable[[], R]) -> R:
        """What a function reads in one transaction. A writer may have to wait for its end.

        The function is called again if a program has begun to write the file.
        """
        for _ in range(_TRIES):
            try:
                self._connection.execute("begin")
                try:
                    found = read()
                finally:
                    self._connection.rollback()
            except (sqlite3.Error, UnicodeError, ValidationError):
                if not self._is_reopened():
                    raise
            else:
                if not self._is_reopened():
                    return found
        raise ValidationError("a program changes the database again and again: import it when it has ended")

    def _is_reopened(self) -> bool:
        if not self._is_alone or _state_of(self._path) == self._state:
            return False
        self.close()
        self._open()
        return True

    def rows(self, sql: str, **values: Any) -> Iterator[Document]:
        """The rows of a query, one by one."""
        cursor = self._connection.execute(sql, values)
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def has_table(self, name: str, columns: Set[str]) -> bool:
        """Whether there is a plain table with these columns: no view, no virtual table, nothing computed."""
        found = list(self.rows("select type from pragma_table_list(:name)", name=name))
        if [each["type"] for each in found] != ["table"]:
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


class _State(NamedTuple):
    """What of a file changes when a program writes it or has it open."""

    inode: int
    size_bytes: int
    time_ns: int
    has_log: bool


def _state_of(path: Path) -> _State:
    found = path.stat()
    has_log = Path(f"{os.path.realpath(path)}-wal").exists()
    return _State(found.st_ino, found.st_size, found.st_mtime_ns, has_log)


# Opening.


def contains(path: Path, head: bytes, is_ours: Callable[[Database], bool]) -> bool:
    """Whether a file is a database with the tables that are asked for."""
    if not head.startswith(MAGIC):
        return False
    try:
        with closing(Database(path)) as database:
            return database.read(lambda: is_ours(database))
    except (sqlite3.Error, UnicodeError, OSError):
        return False


@contextmanager
def reading(path: Path) -> Iterator[Database]:
    """A database, open for reading. Raises ValidationError if it cannot be read."""
    database: Database | None = None
    try:
        with closing(Database(path)) as database:
            yield database
    except (sqlite3.Error, UnicodeError) as error:
        # A UnicodeError is raised for a schema that is not UTF-8.
        reason = str(error)
        if database is not None and database.is_exhausted:
            reason = "it takes too long, because its tables lack the indexes that its program makes"
        raise ValidationError(f"the database cannot be read: {reason}") from error


# Reading.


def each(
    database: Database, ids: Sequence[T], read: Callable[[T], R], name: Callable[[T], str] = safe_repr
) -> Iterator[R]:
    """What is read of each session, as it is then.

    Those that cannot be read are named in one ValidationError at the end.
    """
    failures: list[ValidationError] = []
    for id in ids:
        try:
            found = database.read(partial(read, id))
        except ValidationError as error:
            failures.append(error)
        except (sqlite3.DataError, UnicodeError) as error:
            # It has a value that is too large, or its id is not UTF-8.
            failures.append(ValidationError(f"session {name(id)}: {error}"))
        else:
            yield found
    raise_together(failures)


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
                f"session {safe_repr(self._session_id)} has more than {LENGTH_MAX:,} characters of messages, "
                "the maximum of a session in a database"
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
