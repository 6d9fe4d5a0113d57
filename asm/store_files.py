"""The files of a SQLite store, which no command overwrites or reads as other files.

They are recognised by their identity, whatever path leads to them. They are not opened for that: closing a
file ends all locks that its process has on it, also those of SQLite.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from asm.dsn import MEMORY, Target

_SUFFIXES = ("", "-wal", "-shm", "-journal")


class StoreFiles:
    """The database file of a store, its logs and its index of the log. PostgreSQL and memory have none."""

    def __init__(self, target: Target) -> None:
        is_file = target.dialect == "sqlite" and target.address != MEMORY
        database = _resolved(Path(target.address)) if is_file else None
        self._files = (
            [] if database is None else [database.with_name(database.name + each) for each in _SUFFIXES]
        )

    def __contains__(self, path: Path) -> bool:
        """Whether a path leads to a file of the store, or would if that file existed."""
        found = identity_of(path)
        if found is not None:
            return any(found == identity_of(file) for file in self._files)
        path = _resolved(path)
        # Some file systems do not distinguish upper and lower case.
        return any(
            path.name.casefold() == file.name.casefold() and _is_same(path.parent, file.parent)
            for file in self._files
        )

    def has_output(self) -> bool:
        """Whether the standard output is a file of the store."""
        with suppress(AttributeError, OSError, ValueError):
            found = os.fstat(sys.stdout.fileno())
            return any((found.st_dev, found.st_ino) == identity_of(file) for file in self._files)
        return False

    def in_folder(self, folder: Path) -> list[Path]:
        """The files of the store that are in a folder."""
        return [file for file in self._files if _is_same(file.parent, folder)]


def identity_of(path: Path) -> tuple[int, int] | None:
    """The device and the inode of a file, None if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _is_same(one: Path, other: Path) -> bool:
    found = identity_of(one)
    return found is not None and found == identity_of(other)


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))
