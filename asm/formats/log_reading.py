"""Reads a log from its beginning, and goes on where it has grown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from asm import files
from asm.documents import Document
from asm.export_files import text
from asm.formats import registry
from asm.formats.base import Log, Transcript
from asm.formats.sources import absolute

STORED_FROM_BYTES = 4 * 1024 * 1024
"""After this much of a log, what it says so far is stored, and need not be held in memory."""

_COMPARED_BYTES = 1_024
"""How much of the first line, and of what is before the offset, has to be the same in a file that grew."""


class LogReading:
    """One reading of a log, from its beginning, and then as far as it has grown."""

    def __init__(self, path: Path, log: Log, source: Mapping[str, Any] | None) -> None:
        self.source: Document = {"path": absolute(path)}
        """What the session of the file keeps of it."""
        self._path = path
        self._log = log
        self._offset = 0
        self._number = 0
        self._end = b""
        self._identity: tuple[int, int] | None = None
        self._stored = self._stored_up_to(source)

    def read(self) -> Iterator[list[Transcript]]:
        """What the log says that is not stored, in parts. Called again, it goes on behind what was read."""
        with files.reading(self._path, follow_links=True) as file:
            found = os.fstat(file.fileno())
            self._identity = found.st_dev, found.st_ino
            self.source["begins"] = _hash(file.readline(_COMPARED_BYTES))
            file.seek(self._offset)
            unsaved = 0
            for line in text.raw_lines(file):
                if not line.endswith(b"\n") and not registry.is_whole(line.strip()):
                    break
                self._add(line)
                unsaved += len(line)
                if self._offset == self._stored:
                    self._log.take()
                    unsaved = 0
                elif self._offset > self._stored and unsaved >= STORED_FROM_BYTES:
                    # Not as it is now: the rest has not been read.
                    self._note(size_bytes=self._offset, time=0.0)
                    yield self._log.take()
                    unsaved = 0
        self._note(size_bytes=found.st_size, time=found.st_mtime)
        if unsaved:
            yield self._log.take()

    def goes_on(self) -> bool:
        """Whether the file is the one that was read, and ends and begins as it did then, or has grown."""
        found = self._path.stat()
        if (found.st_dev, found.st_ino) != self._identity:
            return False
        return _stored_offset(self._path, self.source) == self._offset

    def _add(self, line: bytes) -> None:
        self._number += 1
        registry.add_line(self._log, text.clean_line(line), self._number)
        self._offset += len(line)
        self._end = (line if len(line) >= _COMPARED_BYTES else self._end + line)[-_COMPARED_BYTES:]

    def _note(self, *, size_bytes: int, time: float) -> None:
        self.source |= {
            "size": size_bytes,
            "time": time,
            "offset": self._offset,
            "ends": _hash(self._end),
        }

    def _stored_up_to(self, source: Mapping[str, Any] | None) -> int:
        return 0 if source is None else _stored_offset(self._path, source)


def _stored_offset(path: Path, source: Mapping[str, Any]) -> int:
    """The offset of what is stored already; 0 if the file is not the one that was imported."""
    offset = source.get("offset")
    if type(offset) is not int or not 0 <= offset <= path.stat().st_size:
        return 0
    with files.reading(path, follow_links=True) as file:
        if source.get("begins") != _hash(file.readline(_COMPARED_BYTES)):
            return 0
        file.seek(max(0, offset - _COMPARED_BYTES))
        return offset if source.get("ends") == _hash(file.read(min(offset, _COMPARED_BYTES))) else 0


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]
