"""The files of trajectories: how they are recognised, and read with those that they refer to.

A trajectory refers to files beside it: to the next part of a session that is continued in another file, and
to the trajectories of sub-agents. It is read together with these, and they belong to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.atif import trajectory
from asm.formats.atif.trajectory import FORMAT, Segment, SessionOfTrajectory
from asm.formats.base import Reader, Transcript
from asm.formats.failures import raise_together
from asm.formats.session_rows import hashed_id
from asm.formats.times import modified_at
from asm.validation import is_text

FILES_MAX = 1_000
"""Files that are read together, and the sub-agents that they may have."""

DEPTH_MAX = 8
"""Levels of sub-agents."""

_HEAD_BYTES = 4_096
_VERSION = re.compile(rb'"schema_version"\s*:\s*"ATIF-v')
_SESSION = re.compile(
    rb'\{\s*"schema_version"\s*:\s*"ATIF-v[^"\\]{1,20}"\s*,\s*"session_id"\s*:\s*"([^"\\]{1,255})"'
)
_REFERENCES = (b'"continued_trajectory_ref"', b'"trajectory_path"')


def sniff(_path: Path, head: bytes) -> bool:
    """Whether a file begins like a trajectory."""
    return head.startswith(b"{") and _VERSION.search(head) is not None


def _session_id(_path: Path, head: bytes) -> str | None:
    found = _SESSION.match(head)
    return None if found is None else trajectory.session_of(found[1].decode("utf-8", "surrogateescape"))


# The files that a trajectory refers to.


def _beside(path: Path, name: Any) -> Path | None:
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
        segment = Segment("", each)
        yield each.get("continued_trajectory_ref")
        yield from (ref.get("trajectory_path") for _, ref in segment.refs())
        documents += [inner for inner in _embedded(each) if isinstance(inner.get("steps"), list)]


def _embedded(document: Mapping[str, Any]) -> list[Document]:
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
        found = dict.fromkeys(_beside(path, name) for name in _names(document))
    except (OSError, ValidationError):
        return ()
    return tuple(each for each in found if each is not None and each != path)


@lru_cache(maxsize=16)
def _referrers(folder: Path, _changed_at: int) -> Mapping[Path, Path]:
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


def _referrer(path: Path) -> Path | None:
    for folder in dict.fromkeys((path.parent, path.parent.parent)):
        try:
            found = _referrers(folder, folder.stat().st_mtime_ns).get(path)
        except OSError:
            continue
        if found is not None:
            return found
    return None


def _main_file(path: Path) -> Path | None:
    """The file that leads to this one. Of files that lead to one another it is the first by name."""
    seen, each = {path: 0}, path
    while (referrer := _referrer(each)) is not None and len(seen) < FILES_MAX:
        if referrer in seen:
            each = min(list(seen)[seen[referrer] :])
            break
        seen[referrer] = len(seen)
        each = referrer
    return None if each == path else each


def _parts(path: Path) -> list[Path]:
    found, following = {path: None}, [path]
    while following and len(found) < FILES_MAX:
        new = [each for each in _references(following.pop()) if each not in found]
        found |= dict.fromkeys(new)
        following += new
    result = _result_file(path)
    return [*found, *([] if result is None else [result])]


# The outcome of the trial.


def _result_file(path: Path) -> Path | None:
    """The file in which Harbor keeps the result of the trial: beside the folder of the agent's files."""
    parent = path.absolute().parent
    for folder in (parent, parent.parent) if parent.name == "agent" else (parent,):
        if (found := folder / "result.json").is_file():
            return found
    return None


def _result(path: Path) -> Document:
    """The result of the trial, {} if there is none, or it is being written."""
    file = _result_file(path)
    if file is None:
        return {}
    try:
        result = text.parse_json(text.read_bytes(file))
    except (OSError, ValidationError):
        return {}
    return result if isinstance(result, dict) else {}


# Reading.


def read(path: Path) -> Iterator[Transcript]:
    """The session in a file, and those of its sub-agents. Files that cannot be read are named at the end."""
    reading = _Reading()
    yield from reading.sessions(path)
    raise_together(reading.failures)


READER = Reader(FORMAT, sniff, read=read, session_id=_session_id, main_file=_main_file, parts=_parts)


@dataclass(frozen=True, slots=True)
class _Subagent:
    """A trajectory of a sub-agent before its session has rows."""

    id: str
    path: Path
    segment: Segment
    about: Document


@dataclass(slots=True)
class _Reading:
    """Reads a file and those to which it refers, each once."""

    failures: list[ValidationError] = field(default_factory=list)
    _read: set[Path] = field(default_factory=set)
    _ids: set[str] = field(default_factory=set)
    _subagents: int = 0
    _size_bytes: int = 0

    def sessions(self, path: Path) -> Iterator[Transcript]:
        self._read.add(path)
        segment = Segment(path.name, self._document(path))
        id = trajectory.session_id(segment)
        self._ids.add(id)
        yield from self._session(id, path, segment, result=_result(path))

    def _session(
        self,
        id: str,
        path: Path,
        first: Segment,
        *,
        parent_id: str | None = None,
        about: Document | None = None,
        result: Document | None = None,
        depth: int = 0,
    ) -> Iterator[Transcript]:
        segments = [(path, first), *self._continuations(path, first)]
        found: dict[tuple[str, str], str] = {}
        subagents: list[_Subagent] = []
        for place, segment in segments:
            if depth < DEPTH_MAX:
                subagents += self._begun_by(id, place, segment, found)
            elif any(segment.refs()) or _embedded(segment.document):
                self._fail(
                    segment.file, ValidationError(f"it has more than {DEPTH_MAX} levels of sub-agents")
                )
        session = SessionOfTrajectory(
            id,
            first,
            at=_modified_at(place for place, _ in segments),
            session_of=lambda ref: next((found[key] for key in _keys(ref) if key in found), None),
            parent_id=parent_id,
            about=about,
        )
        for _, segment in segments:
            session.add(segment)
        session.add_result(result or {})
        yield session.transcript()
        for each in subagents:
            yield from self._session(
                each.id, each.path, each.segment, parent_id=id, about=each.about, depth=depth + 1
            )

    def _continuations(self, path: Path, segment: Segment) -> Iterator[tuple[Path, Segment]]:
        while (
            following := self._referred(path, segment.document.get("continued_trajectory_ref"))
        ) is not None:
            path, segment = following
            yield path, segment

    def _begun_by(
        self, parent_id: str, path: Path, segment: Segment, found: dict[tuple[str, str], str]
    ) -> Iterator[_Subagent]:
        """The sub-agents of a trajectory: those in the document, and those in files of their own."""
        refs = list(segment.refs())
        for number, document in enumerate(_embedded(segment.document)):
            name = document.get("trajectory_id")
            call_id, ref = next(
                ((c, r) for c, r in refs if name and r.get("trajectory_id") == name), (None, {})
            )
            try:
                inner = Segment(segment.file, trajectory.check(document))
            except ValidationError as error:
                self._fail(f"{segment.file}, subagent_trajectories[{number}]", error)
                continue
            yield from self._subagent(parent_id, path, inner, call_id, ref, name or str(number), found)
        for call_id, ref in refs:
            if any(key in found for key in _keys(ref)):
                continue
            following = self._referred(path, ref.get("trajectory_path"))
            if following is not None:
                name = following[1].document.get("trajectory_id") or following[0].name.partition(".json")[0]
                yield from self._subagent(parent_id, *following, call_id, ref, name, found)

    def _subagent(
        self,
        parent_id: str,
        path: Path,
        segment: Segment,
        call_id: Any,
        ref: Document,
        name: Any,
        found: dict[tuple[str, str], str],
    ) -> Iterator[_Subagent]:
        self._subagents += 1
        if self._subagents > FILES_MAX:
            self._fail(segment.file, ValidationError(f"it has more than {FILES_MAX:,} sub-agents"))
            return
        id = self._id_of(parent_id, segment, str(name))
        self._ids.add(id)
        found |= dict.fromkeys([*_keys({"trajectory_id": name}), *_keys(ref)], id)
        call = {"source_call_id": call_id} if is_text(call_id) else {}
        yield _Subagent(id, path, segment, {**call, **trajectory.title_of(ref)})

    def _id_of(self, parent_id: str, segment: Segment, name: str) -> str:
        """The id of a sub-agent's session. Sub-agents may have the session of the first agent as theirs."""
        own = trajectory.session_of(segment.document.get("session_id"))
        for id in (own, f"{parent_id}/{name}"):
            if id is not None and is_text(id) and id not in self._ids:
                return id
        return hashed_id("ses_", FORMAT, parent_id, name, segment.key)

    def _referred(self, path: Path, name: Any) -> tuple[Path, Segment] | None:
        """The trajectory in a file that was not read yet; None if there is none, or it cannot be read."""
        found = _beside(path, name)
        if found is None or found in self._read:
            return None
        self._read.add(found)
        try:
            if len(self._read) > FILES_MAX:
                raise ValidationError(f"more than {FILES_MAX:,} files belong together")
            return found, Segment(found.name, self._document(found))
        except (OSError, ValidationError) as error:
            self._fail(found.name, error)
            return None

    def _document(self, path: Path) -> Document:
        content = text.read_bytes(path)
        self._size_bytes += len(content)
        if self._size_bytes > text.FILE_SIZE_MAX:
            raise ValidationError(
                f"the files that belong together have more than {text.FILE_SIZE_MAX:,} bytes"
            )
        return trajectory.check(text.parse_json(content))

    def _fail(self, name: str, error: Exception) -> None:
        self.failures.append(ValidationError(f"{name}: {error}", part=name))


def _keys(ref: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reference may be found by. The session that it names is that of several trajectories."""
    names = ("trajectory_id", "trajectory_path")
    return [(name, value) for name in names if isinstance(value := ref.get(name), str) and value]


def _modified_at(paths: Iterator[Path]) -> datetime:
    return max(map(modified_at, paths))
