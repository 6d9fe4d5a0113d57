"""Checks that every other process sees what a connection writes.

SQLite does not notice that a database or its write-ahead log was deleted or replaced: it goes on writing to
a file that no other process can open, and that is gone when it is closed. Nor does it know that it runs in
a forked child, where it believes that it has the locks of its parent. So a connection looks for both.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from threading import Lock

from asm import files
from asm.errors import StorageError
from asm.sqlite import file_locks
from asm.sqlite.file_locks import IN_USE, SHARED, WRITE, FileLock, Identity, identity_of

_HEADER = b"SQLite format 3\0"

_COMPANIONS = ("-wal", "-shm", "-journal")
"""What SQLite appends to the name of a database, for the files from which it restores transactions."""


class DatabaseFiles:
    """The file of an open connection, and its write-ahead log."""

    def __init__(self, path: str, *, has_log: bool) -> None:
        self._locks: list[FileLock] = []
        self._log_lock: FileLock | None = None
        self._process = os.getpid()
        # Absolute, because the program may change its working directory. SQLite keeps the log beside the
        # file that a symbolic link leads to.
        self._path = str(Path(path).absolute())
        file = str(Path(path).resolve())
        self._log = f"{file}-wal"
        try:
            self._file_id = identity_of(Path(self._path).stat())
            self._log_id = identity_of(Path(self._log).stat()) if has_log else None
        except OSError as error:
            raise StorageError(f"cannot read {error.filename}: {error.strerror}") from error
        if has_log:
            self._log_lock = file_locks.lock(f"{file}-shm", IN_USE)
            locks = (file_locks.lock(file, SHARED), self._log_lock)
            self._locks = [each for each in locks if each is not None]

    def check_write_lock(self) -> None:
        """StorageError before a commit if another process may have written during the transaction."""
        if self._log_lock is not None and self._log_lock.owner_of(WRITE) not in (self._process, 0):
            raise StorageError(
                f"process {self._process} lost SQLite's lock of {self._path} during the transaction, which "
                "was rolled back: the program opened and closed the database's files itself; copy an open "
                "database with `sqlite3.Connection.backup`, and not as files"
            )

    def check(self) -> None:
        """StorageError if a path leads to another file now, or to none.

        Checked after a commit, because before it another program may still replace a file.
        """
        try:
            # Path.stat takes twice as long, and a function around it counts at every append.
            file = os.stat(self._path)  # noqa: PTH116
            log = file if self._log_id is None else os.stat(self._log)  # noqa: PTH116
            if (file.st_dev, file.st_ino) == self._file_id and (
                log is file or (log.st_dev, log.st_ino) == self._log_id
            ):
                return
        except OSError:
            pass
        self._raise_if_replaced()

    def _raise_if_replaced(self) -> None:
        if _leads_to(self._path, self._file_id) is False:
            raise StorageError(
                f"{self._path} was deleted, moved or replaced while the store had it open, and no other "
                "process sees what this store writes: open the store again"
            )
        if self._log_id is not None and _leads_to(self._log, self._log_id) is False:
            raise StorageError(
                f"{self._log}, the write-ahead log, was deleted or replaced while the store had it open, and "
                "no other process sees what this store writes: close the store and open it again, and do not "
                "delete the log of a database that is in use"
            )

    def before_close(self) -> None:
        """Let SQLite delete the log, unless it is another file's now, of which others acknowledge writes."""
        # If the log was deleted and there is no other, closing saves it: it is copied into the file.
        if _leads_to(self._path, self._file_id) is not False and (
            _leads_to(self._log, self._log_id) is not False or not Path(self._log).exists()
        ):
            self._end_locks()

    def after_close(self) -> None:
        self._end_locks()
        file_locks.close_unused()

    def __del__(self) -> None:
        # The store was not closed.
        self._end_locks()

    def _end_locks(self) -> None:
        file_locks.unlock(self._locks)
        self._locks = []


def create_private(path: str) -> None:
    """Create the file of a new database so that only its owner may read it. SQLite creates its log alike."""
    # Closing a descriptor ends the locks of this process, which another thread may have as soon as the
    # file exists. So no other thread opens a file before the descriptor is closed.
    with _creation:
        try:
            if not Path(path).exists():
                files.create_private(files.followed(Path(path)))
        except OSError as error:
            # Anything else SQLite reports, too, when it opens the file.
            if error.errno == errno.EPERM:
                raise StorageError(f"cannot create {path}: {error.strerror}", path=path) from error


def check_openable(path: str) -> None:
    """StorageError if another user can have planted the file, or if what is written to it could be lost."""
    _check_not_planted(path)
    try:
        found = Path(path).stat()
    except OSError:
        # There is no file yet, or opening it reports why it cannot be read.
        return
    if identity_of(found) in _inherited:
        raise StorageError(
            f"{path} was open in a process when it forked process {os.getpid()}, and SQLite could lose what "
            "the forked process writes: close the store before the fork, and open one in each process; or "
            "start processes without a fork, such as by multiprocessing.get_context('spawn')"
        )
    if found.st_nlink > 1 and stat.S_ISREG(found.st_mode):
        raise StorageError(
            f"{path} is one of {found.st_nlink} hard links to one file, and SQLite has a log for each name: "
            "what is written by one name is lost for the others: replace the others by symbolic links"
        )


def _check_not_planted(path: str) -> None:
    # SQLite replays the pages of whatever log or journal lies beside a database, and so replaces the
    # contents of every table.
    file = os.path.realpath(path)
    companions = (Path(file + suffix) for suffix in _COMPANIONS)
    for each in (Path(path), Path(file), *companions):
        try:
            files.check_not_planted(each)
        except PermissionError as error:
            if error.errno == errno.EPERM:
                raise StorageError(
                    f"cannot use {each}: {error.strerror}: move the database to a folder to which only its "
                    "users may write",
                    path=str(each),
                ) from error
        except OSError:
            # Opening the file reports it, too.
            return


def _leads_to(path: str, identity: Identity | None) -> bool | None:
    """Whether a path leads to this file; None if that cannot be found out."""
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # The folder cannot be searched any more, which says nothing about the file.
        return None
    return (found.st_dev, found.st_ino) == identity


_creation = Lock()

# The databases that were open in the parent of a forked process, in SQLite or otherwise.
_inherited: set[Identity] = set()


def _remember_inherited() -> None:
    global _creation
    _creation = Lock()
    ours = file_locks.forget_inherited()
    with suppress(OSError):
        for path in Path("/dev/fd").iterdir():
            if int(path.name) not in ours:
                with suppress(OSError):
                    _remember_if_database(int(path.name))


def _remember_if_database(descriptor: int) -> None:
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and os.pread(descriptor, len(_HEADER), 0) == _HEADER:
        _inherited.add(identity_of(found))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember_inherited)
