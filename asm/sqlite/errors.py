"""Maps sqlite3's errors to asm's by their result code."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from asm.errors import (
    ROW_EXISTS,
    AsmError,
    Conflict,
    ConnectionFailed,
    MigrationRequired,
    StorageError,
    StorageTimeout,
    StoreClosed,
    ValidationError,
    counter_at_end,
    store_closed,
)


class translated:  # noqa: N801
    """Raises asm's errors in place of sqlite3's. The statements append to the `sessions`."""

    __slots__ = ("_path", "_sessions")

    def __init__(self, path: str = "", sessions: Sequence[str] = ()) -> None:
        self._path = path
        self._sessions = sessions

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise_translated(error, self._path, self._sessions)


def raise_translated(error: sqlite3.Error, path: str = "", sessions: Sequence[str] = ()) -> NoReturn:
    """Raise asm's error for this one."""
    if sessions and is_out_of_range(error):
        raise counter_at_end(sessions) from error
    raise _translation(error, path) from error


NOT_EXECUTED = (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError, OverflowError, TypeError)
"""What `execute` of sqlite3 raises; the last four are for a statement or a value that it does not accept."""


def statement_error(error: Exception) -> AsmError:
    """Our error for that of an application's own statement, whose tables are not ours to migrate."""
    if not isinstance(error, sqlite3.Error):
        return ValidationError(f"the statement was not executed: {error}")
    ours = _translation(error, "")
    if getattr(error, "sqlite_errorcode", None) is None and not isinstance(ours, StoreClosed):
        return ValidationError(f"the statement was not executed: {error}")
    if isinstance(ours, MigrationRequired):
        return StorageError(f"SQLite refused the statement: {error}", sqlite_errorname=error.sqlite_errorname)
    return ours


def open_transaction_error() -> StorageError:
    """The error for a call of the store that would wait for its own caller's transaction."""
    return StorageError(
        "the caller has a transaction open on this store: inside `transaction()`, call the transaction's "
        "methods, not the store's"
    )


def is_out_of_range(error: BaseException | None) -> bool:
    """Whether a sum has exceeded 64 bits: SQLite makes a float of it, which the column refuses."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == _NOT_AN_INTEGER


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds the file's lock."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _translation(error: sqlite3.Error, path: str) -> AsmError:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return store_closed() if _CLOSED.search(str(error)) else StorageError(f"the driver failed: {error}")
    if code in _ROW_EXISTS:
        return Conflict(f"{ROW_EXISTS}: {error}")
    if path and code & 0xFF in _CANNOT_OPEN and (reason := _why_it_cannot_be_opened(Path(path).resolve())):
        kind = ConnectionFailed if code & 0xFF == sqlite3.SQLITE_CANTOPEN else StorageError
        return kind(f"{reason}: {error}", sqlite_errorname=error.sqlite_errorname)
    known, message = _KINDS.get(code & 0xFF, (None, ""))
    if known is not None:
        return known(
            f"{message}{f' ({path})' if path else ''}: {error}", sqlite_errorname=error.sqlite_errorname
        )
    if str(error).startswith(_NO_FTS5):
        return StorageError(
            f"the SQLite library of this Python, {sqlite3.sqlite_version}, was built without FTS5, which "
            f"searches by text need: use a Python whose SQLite has it ({error})",
            sqlite_errorname=error.sqlite_errorname,
        )
    # SQLite has no result code of its own for a missing table or column.
    if _MISSING.match(str(error)):
        return MigrationRequired(f"{error}: run `asm migrate`, or open the store with migrate=True")
    return StorageError(f"SQLite refused the statement: {error}", sqlite_errorname=error.sqlite_errorname)


def _why_it_cannot_be_opened(file: Path) -> str | None:
    folder = file.parent
    if not _may(os.F_OK, folder):
        return f"cannot open {file}: its folder does not exist"
    try:
        is_folder = file.is_dir()
    except OSError as error:
        # Such as a name that is too long.
        return f"cannot open {file}: {error.strerror}"
    if not _may(os.F_OK, file) and not _may(os.W_OK, folder):
        return f"cannot create {file}: this process cannot write to its folder"
    if is_folder:
        return f"cannot open {file}: it is a folder"
    if _may(os.F_OK, file) and not _may(os.R_OK, file):
        return f"cannot open {file}: this process may not read it"
    if not _may(os.W_OK, folder):
        return (
            f"{file} cannot be opened, not even to be read: SQLite has to create {file.name}-wal and "
            f"{file.name}-shm beside it, and this process cannot write to the folder {folder}: get the right "
            "to write to the folder, or copy the file to a folder that this process can write to"
        )
    return None


def _may(mode: int, path: Path) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


_CANNOT_OPEN = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
_ROW_EXISTS = (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE)
_NOT_AN_INTEGER = 3_091
"""SQLITE_CONSTRAINT_DATATYPE, which not every sqlite3 has a name for."""
_CLOSED = re.compile("closed (database|cursor)")
_NO_FTS5 = "no such module: fts5"
_MISSING = re.compile(r"no such (table|column): |table \w+ has no column named ")
_KINDS: dict[int, tuple[type[StorageError], str]] = {
    sqlite3.SQLITE_BUSY: (StorageTimeout, "another connection holds the lock of the file"),
    sqlite3.SQLITE_LOCKED: (StorageTimeout, "another connection holds the lock of the table"),
    sqlite3.SQLITE_INTERRUPT: (StorageTimeout, "the statement took longer than statement_timeout"),
    sqlite3.SQLITE_CANTOPEN: (ConnectionFailed, "cannot open the file; check the limit of open files"),
    sqlite3.SQLITE_FULL: (StorageError, "the disk is full"),
    sqlite3.SQLITE_IOERR: (StorageError, "the disk failed"),
    sqlite3.SQLITE_READONLY: (StorageError, "the file is read-only"),
    sqlite3.SQLITE_PERM: (StorageError, "permission to use the file is denied"),
    sqlite3.SQLITE_CORRUPT: (StorageError, "the file is damaged"),
    sqlite3.SQLITE_NOTADB: (StorageError, "the file is not a SQLite database"),
    sqlite3.SQLITE_NOMEM: (StorageError, "out of memory"),
}
