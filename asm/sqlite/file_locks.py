"""Locks that keep SQLite from deleting the write-ahead log of a database that is open.

The last connection of a file deletes its log. SQLite finds out that it is the last one by a POSIX lock,
which every connection has. But a process loses all its POSIX locks of a file when it closes any of its
descriptors of that file, such as after `open(path).read()`. Other processes then delete the log, and what
the open connection writes to it later is lost.

A lock of an open file description, which Linux has, covers the same bytes and is lost only with its own
descriptor. For the reason given above, that descriptor is not closed either while there may be POSIX
locks: it is kept for the next connection.

A transaction that writes has an exclusive lock, so no second lock can protect it. But the same descriptor
shows whether the transaction still has it.
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import NamedTuple

if sys.platform == "linux":
    from fcntl import F_OFD_GETLK, F_OFD_SETLK, F_RDLCK, F_UNLCK, F_WRLCK, fcntl

Identity = tuple[int, int]
"""The device and the inode of a file."""


class Bytes(NamedTuple):
    """The bytes of a file that a lock covers."""

    start: int
    length: int


SHARED = Bytes(0x40000002, 510)
"""In the database file: every connection in write-ahead mode has this lock."""

IN_USE = Bytes(128, 1)
"""In the -shm file: a process that opens it and finds no such lock clears it."""

WRITE = Bytes(120, 1)
"""In the -shm file: the lock of a transaction that writes."""

_FLOCK = struct.Struct("hhqqi4x")
"""Type, whence, start, length, process."""


class FileLock:
    """A lock that is shared by the connections of this process to one file."""

    def __init__(self, descriptor: int, covered: Bytes) -> None:
        self.users = 0
        self._descriptor: int | None = descriptor
        self._covered = covered
        self._sees_locks = _can_see_locks(descriptor, covered)

    def lock(self) -> None:
        self.users += 1
        if self.users == 1:
            # A file system without such locks has only SQLite's own.
            self._set(F_RDLCK)

    def unlock(self) -> None:
        self.users -= 1
        if self.users == 0:
            self._set(F_UNLCK)

    def owner_of(self, covered: Bytes) -> int | None:
        """The process that has an exclusive lock on these bytes; None without one, 0 if that is unknown."""
        if not self._sees_locks or self._descriptor is None:
            return 0
        # Not by calling a function: every commit does this.
        flock = fcntl(self._descriptor, F_OFD_GETLK, _FLOCK.pack(F_WRLCK, os.SEEK_SET, *covered, 0))
        kind, _whence, _start, _length, process = _FLOCK.unpack(flock)
        return None if kind == F_UNLCK else max(process, 0)

    def close(self) -> bool:
        """Close the descriptor if no connection has a lock that it would lose."""
        if self.users or not self._set(F_WRLCK):
            return False
        self.forget()
        return True

    def forget(self) -> int:
        """Close the descriptor and return it. In a forked child, this leaves the lock to the parent."""
        descriptor, self._descriptor = self._descriptor, None
        assert descriptor is not None
        os.close(descriptor)
        return descriptor

    def _set(self, kind: int) -> bool:
        if self._descriptor is not None:
            with suppress(OSError):
                fcntl(self._descriptor, F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, *self._covered, 0))
                return True
        return False


_locks: dict[Identity, FileLock] = {}
# Reentrant, because a garbage collection inside it may unlock the files of a forgotten store.
_mutex = RLock()


def lock(path: str, covered: Bytes) -> FileLock | None:
    """Lock a file until `unlock`, or None where the system cannot, or this process cannot write the file."""
    if sys.platform != "linux":
        return None
    with _mutex, suppress(OSError):
        found = _locks.get(identity_of(Path(path).stat())) or _opened(path, covered)
        found.lock()
        return found
    return None


def unlock(locks: list[FileLock]) -> None:
    with _mutex:
        for each in locks:
            each.unlock()


def close_unused() -> None:
    """Close the descriptors that no connection needs any more."""
    with _mutex:
        for identity, each in list(_locks.items()):
            if each.close():
                del _locks[identity]


def forget_inherited() -> set[int]:
    """Close the descriptors of the parent in a forked child, which has no locks yet, and return them."""
    global _mutex
    _mutex = RLock()
    descriptors = {each.forget() for each in _locks.values()}
    _locks.clear()
    return descriptors


def identity_of(stat: os.stat_result) -> Identity:
    return stat.st_dev, stat.st_ino


def _opened(path: str, covered: Bytes) -> FileLock:
    descriptor = os.open(path, os.O_RDWR)
    # The path may lead to another file than a moment ago.
    identity = identity_of(os.fstat(descriptor))
    return _locks.setdefault(identity, FileLock(descriptor, covered))


def _can_see_locks(descriptor: int, covered: Bytes) -> bool:
    """Whether the file system reports the lock that SQLite has on these bytes."""
    with suppress(OSError):
        flock = fcntl(descriptor, F_OFD_GETLK, _FLOCK.pack(F_WRLCK, os.SEEK_SET, *covered, 0))
        return bool(_FLOCK.unpack(flock)[0] != F_UNLCK)
    return False
