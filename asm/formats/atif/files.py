"""The files of trajectories: how they are recognised, and which belong together.

A trajectory refers to files beside it: to the next part of a session that is continued in another file, and
to the trajectories of sub-agents. It is read together with these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.atif import trajectory
from asm.formats.atif.trajectory import Segment

FILES_MAX = 1_000
"""Files that are read together, and the sub-agents that they may have."""

_HEAD_BYTES = 4_096
_VERSION = re.compile(rb'"schema_version"\s*:\s*"ATIF-v')
_SESSION = re.compile(
    rb'\{\s*"schema_version"\s*:\s*"ATIF-v[^"\\]{1,20}"\s*,\s*"session_id"\s*:\s*"([^"\\]{1,255})"'
)
_REFERENCES = (b'"continued_trajectory_ref"', b'"trajectory_path"')


def sniff(_path: Path, head: bytes) -> bool:
    """Whether a file begins like a trajectory."""
    return head.startswith(b"{") and _VERSION.search(head) is not None


def session_id(_path: Path, head: bytes) -> str | None:
    found = _SESSION.match(head)
    return None if found is None else trajectory.session_of(found[1].decode("utf-8", "surrogateescape"))


# The files that a trajectory refers to.


def beside(path: Path, name: Any) -> Path | None:
    """The trajectory that a reference names, which lies beside the file or in a folder beside it."""
    if not isinstance(name, str) or not name:
        return None
    parts = PurePosixPath(name).parts
    if len(parts) > 2 or ".." in parts or name.startswith("/"):
        return None
    found = path.parent.joinpath(*parts)
    try:
        # A symbolic link may lead elsewhere.
        is_inside = found.is_file() and found.resolve().is_relative_to(path.parent.resolve())
        return found if is_inside and sniff(found, text.read_head(found, _HEAD_BYTES)) else None
    except (OSError, ValueError):
        return None


def _names(document: Document) -> Iterator[Any]:
    """The names of files to which a trajectory refers, with those in it."""
    documents = [document]
    while documents:
        each = documents.pop()
        yield each.get("continued_trajectory_ref")
        yield from (ref.get("trajectory_path") for _, ref in Segment("", each).refs())
        documents += filter(trajectory.is_valid, embedded(each))


def embedded(document: Mapping[str, Any]) -> list[Document]:
    found = document.get("subagent_trajectories")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _references(path: Path) -> tuple[Path, ...]:
    state = path.stat()
    return _references_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4_096)
def _references_of(path: Path, _size_bytes: int, _changed_at: int) -> tuple[Path, ...]:
    """The files to which one refers. One that is no trajectory refers to none."""
    try:
        content = text.read_bytes(path)
        if not any(each in content for each in _REFERENCES):
            return ()
        document = trajectory.check(text.parse_json(content))
        found = dict.fromkeys(beside(path, name) for name in _names(document))
    except (OSError, ValidationError):
        return ()
    return tuple(each for each in found if each is not None and each != path)


def _referrers(folder: Path) -> Mapping[Path, Path]:
    """The files in a folder, and in those in it, to which a file in the folder refers, and which that is."""
    found: dict[Path, Path] = {}
    with os.scandir(folder) as entries:
        paths = sorted(Path(each) for each in entries if each.name.endswith((".json", ".json.gz")))
    for path in paths:
        try:
            if path.is_file() and sniff(path, text.read_head(path, _HEAD_BYTES)):
                for each in _references(path):
                    found.setdefault(each, path)
        except (OSError, ValidationError):
            continue
    return found


def main_file(path: Path) -> Path | None:
    """The file that leads to this one. Of files that lead to one another it is the first by name."""
    each = path
    while True:
        # A reference leads to the same folder or into one below, so this goes up, and ends.
        found = _main_files_of(each.parent).get(each, each)
        above = _main_files_of(each.parent.parent).get(found)
        if above is None or above == found:
            return None if found == path else found
        each = above


def _main_files_of(folder: Path) -> Mapping[Path, Path]:
    try:
        return _main_files(folder, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=16)
def _main_files(folder: Path, _changed_at: int) -> Mapping[Path, Path]:
    """The files to which a file in a folder refers, and the first of those that lead there."""
    referrers = _referrers(folder)
    mains: dict[Path, Path] = {}
    for path in referrers:
        seen: dict[Path, None] = {}
        each = path
        while each in referrers and each not in seen and each not in mains:
            seen[each] = None
            each = referrers[each]
        if each in seen:
            paths = list(seen)
            main = min(paths[paths.index(each) :])
        else:
            main = mains.get(each, each)
        mains |= dict.fromkeys(seen, main)
    return mains


def parts(path: Path) -> list[Path]:
    found, following = {path: None}, [path]
    while following and len(found) < FILES_MAX:
        new = [each for each in _references(following.pop()) if each not in found]
        found |= dict.fromkeys(new)
        following += new
    result = result_file(path)
    return [*found, *([] if result is None else [result])]


# The outcome of the trial.


def result_file(path: Path) -> Path | None:
    """The file in which Harbor keeps the result of the trial: beside the folder of the agent's files."""
    parent = path.absolute().parent
    for folder in (parent, parent.parent) if parent.name == "agent" else (parent,):
        if (found := folder / "result.json").is_file():
            return found
    return None
