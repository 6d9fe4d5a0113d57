"""Reads a trajectory with the files to which it refers."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.atif import trajectory
from asm.formats.atif.files import FILES_MAX, beside, embedded, result_file
from asm.formats.atif.trajectory import FORMAT, Segment, SessionBuilder
from asm.formats.base import Transcript
from asm.formats.failures import raise_together
from asm.formats.session_rows import hashed_id
from asm.formats.times import modified_at
from asm.validation import is_text

DEPTH_MAX = 8
"""Levels of sub-agents."""


def read(path: Path) -> Iterator[Transcript]:
    """The session in a file, and those of its sub-agents. Files that cannot be read are named at the end."""
    reading = _Reading()
    yield from reading.sessions(path)
    raise_together(reading.failures)


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
            elif any(segment.refs()) or embedded(segment.document):
                self._fail(
                    segment.file, ValidationError(f"it has more than {DEPTH_MAX} levels of sub-agents")
                )
        session = SessionBuilder(
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
        for file, inner, name, call_id, ref in self._inner(path, segment, found):
            if self._subagents == FILES_MAX:
                self._fail(segment.file, ValidationError(f"it has more than {FILES_MAX:,} sub-agents"))
                return
            self._subagents += 1
            id = self._id_of(parent_id, inner, name)
            self._ids.add(id)
            found |= dict.fromkeys([("trajectory_id", name), *_keys(ref)], id)
            call = {"source_call_id": call_id} if is_text(call_id) else {}
            yield _Subagent(id, file, inner, {**call, **trajectory.title_of(ref)})

    def _inner(
        self, path: Path, segment: Segment, found: Container[tuple[str, str]]
    ) -> Iterator[tuple[Path, Segment, str, Any, Document]]:
        """The trajectories of sub-agents with their names, and the calls and the references to them."""
        refs = list(segment.refs())
        by_name = {key: (call_id, ref) for call_id, ref in reversed(refs) for key in _keys(ref)}
        for number, document in enumerate(embedded(segment.document)):
            name = _name(document) or str(number)
            try:
                inner = Segment(segment.file, trajectory.check(document))
            except ValidationError as error:
                self._fail(f"{segment.file}, subagent_trajectories[{number}]", error)
                return
            yield path, inner, name, *by_name.get(("trajectory_id", name), (None, {}))
        for call_id, ref in refs:
            if not any(key in found for key in _keys(ref)):
                following = self._referred(path, ref.get("trajectory_path"))
                if following is not None:
                    file, inner = following
                    yield file, inner, _name(inner.document) or file.name.partition(".json")[0], call_id, ref

    def _id_of(self, parent_id: str, segment: Segment, name: str) -> str:
        """The id of a sub-agent's session. Sub-agents may have the session of the first agent as theirs."""
        own = trajectory.session_of(segment.document.get("session_id"))
        for id in (own, f"{parent_id}/{name}"):
            if id is not None and is_text(id) and id not in self._ids:
                return id
        return hashed_id("ses_", FORMAT, parent_id, name, segment.key)

    def _referred(self, path: Path, name: Any) -> tuple[Path, Segment] | None:
        """The trajectory in a file that was not read yet; None if there is none, or it cannot be read."""
        found = beside(path, name)
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


def _name(document: Document) -> str | None:
    name = document.get("trajectory_id")
    return name if isinstance(name, str) and name else None


def _modified_at(paths: Iterator[Path]) -> datetime:
    return max(map(modified_at, paths))


def _result(path: Path) -> Document:
    """The result of the trial, {} if there is none, or it is being written."""
    file = result_file(path)
    if file is None:
        return {}
    try:
        result = text.parse_json(text.read_bytes(file))
    except (OSError, ValidationError):
        return {}
    return result if isinstance(result, dict) else {}
