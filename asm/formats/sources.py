"""What a session says of the files from which it was imported.

It is in the metadata of the session, under `source`: the path, the size and the time of the last modification
of a file, and the offset behind the last line that was read. A session of several files has a list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asm.documents import Document
from asm.models import Session

SOURCE = "source"


def source_of(session: Session, path: Path) -> Mapping[str, Any] | None:
    """What a session says of a file, if it was imported from it."""
    name = absolute(path)
    return next((source for source in sources_of(session) if source.get("path") == name), None)


def sources_of(session: Session) -> list[dict[str, Any]]:
    """All that a session says of its files."""
    found = session.metadata.get(SOURCE)
    found = found if isinstance(found, list) else [found]
    return [each for each in found if isinstance(each, dict)]


def with_source(
    before: Sequence[Mapping[str, Any]], source: Document | None, told: Document
) -> dict[str, Any]:
    if source is None:
        return {SOURCE: before[0] if len(before) == 1 else list(before)} if before else {}
    others = [each for each in before if each.get("path") != source["path"]]
    sources = [{**source, "told": told}, *others]
    return {SOURCE: sources[0] if len(sources) == 1 else sources}


def absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - a path that does not exist any more has no other form


def source_of_file(path: Path, parts: Sequence[Path]) -> Document | None:
    """What a session keeps of a file that is read as a whole, with other parts of the session."""
    if not path.is_file():
        return None
    try:
        size_bytes, time = _state(parts)
    except OSError:
        return None
    return {"path": absolute(path), "size": size_bytes, "time": time, "offset": size_bytes}


def unfinished(source: Document | None) -> Document | None:
    """The source while only a part of what was read is stored: the file is read from its start again."""
    return None if source is None else {"path": source["path"], "size": 0, "time": 0.0, "offset": 0}


def is_unchanged(parts: Sequence[Path], source: Mapping[str, Any]) -> bool:
    return _state(parts) == (source.get("size"), source.get("time"))


def _state(parts: Sequence[Path]) -> tuple[int, float]:
    """The size of some files together, and the time of the last modification of any."""
    found = [path.stat() for path in parts]
    return sum(each.st_size for each in found), max(each.st_mtime for each in found)


def with_read(source: Document, stored: Session) -> Session:
    """The row of a session with another source of the same file."""
    sources = [
        {**each, **source} if each.get("path") == source["path"] else each for each in sources_of(stored)
    ]
    return replace(stored, metadata={**stored.metadata, SOURCE: sources[0] if len(sources) == 1 else sources})
