"""SQLite's errors as ours, told by their result code."""

from __future__ import annotations

import re
import sqlite3

from asm.errors import (
    AsmError,
    Conflict,
    ConnectionFailed,
    MigrationRequired,
    StorageError,
    StorageTimeout,
    StoreClosed,
)


class translated:  # noqa: N801
    """Our errors for SQLite's. What is not in the table goes through untouched."""

    # Not a generator made into a context manager, because every question goes through it.
    __slots__ = ("_path",)

    def __init__(self, path: str = "") -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, sqlite3.Error):
            ours = _translation(error, self._path)
            if ours is not None:
                raise ours from error


def _translation(error: sqlite3.Error, path: str) -> AsmError | None:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return StoreClosed("this store is closed") if isinstance(error, sqlite3.ProgrammingError) else None
    if code in _ROW_EXISTS:
        return Conflict("a row with these keys is there already")
    kind, message = _KINDS.get(code & 0xFF, (None, ""))
    if kind is not None:
        return kind(
            f"{message}{f' ({path})' if path else ''}: {error}", sqlite_errorname=error.sqlite_errorname
        )
    # SQLite tells a missing table from other errors in its message only.
    if _MISSING.match(str(error)):
        return MigrationRequired(f"{error}: run `asm migrate`, or open the store with migrate=True")
    return None


_ROW_EXISTS = (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE)
_MISSING = re.compile(r"no such (table|column): |table \w+ has no column named ")
_KINDS: dict[int, tuple[type[StorageError], str]] = {
    sqlite3.SQLITE_BUSY: (StorageTimeout, "another connection holds the file's lock"),
    sqlite3.SQLITE_LOCKED: (StorageTimeout, "another connection holds the table's lock"),
    sqlite3.SQLITE_INTERRUPT: (StorageTimeout, "the statement took longer than statement_timeout"),
    sqlite3.SQLITE_CANTOPEN: (ConnectionFailed, "the file cannot be opened: does its folder exist"),
    sqlite3.SQLITE_FULL: (StorageError, "the disk is full"),
    sqlite3.SQLITE_IOERR: (StorageError, "the disk failed"),
    sqlite3.SQLITE_READONLY: (StorageError, "the file can only be read"),
    sqlite3.SQLITE_PERM: (StorageError, "the file may not be used"),
    sqlite3.SQLITE_CORRUPT: (StorageError, "the file is damaged"),
    sqlite3.SQLITE_NOTADB: (StorageError, "the file is no SQLite database"),
    sqlite3.SQLITE_NOMEM: (StorageError, "out of memory"),
}


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else has the file's lock."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
