"""Session exports as JSON Lines, for files and pipes.

Every line is one JSON object. Its first key says what it is:

    {"format": "asm-export", "version": 1}
    {"session": {…}, "last_sequence": 2, "pruned_events": 0, "runs": 1, "events": 2, "artifacts": 0}
    {"run": {…}}
    {"event": {…}}
    {"event": {…}}
    {"end": {"sessions": 1}}

The header is followed by the sessions, each session line by as many lines of each kind as it says, and
the last session by the end. So truncation at any point is detected, and one export may follow another
in a file. Models are written as their `to_dict` returns them. Integers have up to 4,300 digits,
and a lone surrogate is written as an escape. Blank lines and byte order marks are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import orjson

from asm import documents
from asm.documents import Document
from asm.errors import ValidationError
from asm.formats import text
from asm.models import Artifact, Event, Model, Run, Session
from asm.operations.exports import SessionExport
from asm.validation import count, safe_repr

M = TypeVar("M", bound=Model)

FORMAT = "asm-export"
VERSION = 1

_DOCUMENTS = frozenset(
    {"metadata", "context", "input", "output", "error", "token_usage", "provider_metadata", "data"}
)


def dump(exports: Iterable[SessionExport]) -> Iterator[bytes]:
    """The lines of an export of these sessions, each with its line ending."""
    yield _line({"format": FORMAT, "version": VERSION})
    sessions = 0
    for export in exports:
        yield from _dump_one(export)
        sessions += 1
    yield _line({"end": {"sessions": sessions}})


def load(lines: Iterable[bytes]) -> Iterator[SessionExport]:
    """The sessions in these lines, one by one. A ValidationError names the line that is invalid."""
    return _load(text.clean_lines(lines))


def _load(lines: Iterator[bytes]) -> Iterator[SessionExport]:
    reader = _LineReader(lines)
    if not reader.next():
        raise _invalid(1, "expected the header of an export, but the file is empty")
    while True:
        reader.check_header()
        sessions = 0
        while reader.next_of("session", "end") == "session":
            yield _load_one(reader)
            sessions += 1
        reader.check_end(sessions)
        if not reader.next():
            return


def sniff(_path: Path, head: bytes) -> bool:
    """Whether a file starts like an export."""
    return f'"{FORMAT}"'.encode() in head.partition(b"\n")[0]


def read(path: Path) -> Iterator[SessionExport]:
    """The sessions in a file, one by one."""
    with path.open("rb") as file:
        yield from read_stream(file)


def read_stream(file: BufferedReader) -> Iterator[SessionExport]:
    """The sessions in an open file or a pipe, one by one."""
    return _load(text.read_lines(file))


# One export.


def _dump_one(export: SessionExport) -> Iterator[bytes]:
    yield _line(
        {
            "session": _encode(export.session),
            "last_sequence": export.last_sequence,
            "pruned_events": export.pruned_events,
            "runs": len(export.runs),
            "events": len(export.events),
            "artifacts": len(export.artifacts),
        }
    )
    for run in export.runs:
        yield _line({"run": _encode(run)})
    for event in export.events:
        yield _line({"event": _encode(event)})
    for artifact in export.artifacts:
        yield _line({"artifact": _encode(artifact)})


def _load_one(lines: _LineReader) -> SessionExport:
    first = lines.number
    last_sequence, pruned_events = lines.count("last_sequence"), lines.count("pruned_events")
    runs, events, artifacts = lines.count("runs"), lines.count("events"), lines.count("artifacts")
    session = lines.model("session", Session)
    values: dict[str, Any] = {
        "runs": lines.models("run", Run, runs),
        "events": lines.models("event", Event, events),
        "artifacts": lines.models("artifact", Artifact, artifacts),
    }
    with _at(first):
        return SessionExport(
            session=session,
            **values,
            last_sequence=last_sequence,
            pruned_events=pruned_events,
        )


def _encode(model: Model) -> dict[str, Any]:
    # orjson would refuse or change some of the values that a document may have.
    return {
        name: orjson.Fragment(documents.dump(value, name)) if name in _DOCUMENTS else value
        for name, value in model.to_dict().items()
    }


def _line(values: dict[str, Any]) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)


# Reading lines.


class _LineReader:
    """Reads and parses lines one by one, and keeps the values of the current line."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._values: Document = {}
        self.number = 0

    def next(self) -> bool:
        """Read the next line that is not blank. Returns whether there is one."""
        line: bytes | None = b""
        while line == b"":
            self.number += 1
            with _at(self.number):
                line = next(self._lines, None)
        if line is None:
            return False
        with _at(self.number):
            self._values = _parse(line)
        return True

    def next_of(self, *kinds: str) -> str:
        """Read the next line, which must be of one of these kinds. Returns its kind."""
        expected = " or ".join(f"`{kind}`" for kind in kinds)
        if not self.next():
            raise _invalid(self.number, f"expected {expected}, but the file ends here: it is truncated")
        for kind in kinds:
            if kind in self._values:
                return kind
        raise _invalid(self.number, f"expected {expected}, not `{next(iter(self._values), '')}`")

    def check_header(self) -> None:
        version = self._values.get("version")
        if self._values.get("format") != FORMAT or not isinstance(version, int):
            raise _invalid(self.number, f"expected the header of an export, with the format {FORMAT!r}")
        if version != VERSION:
            raise _invalid(
                self.number,
                f"the export has version {safe_repr(version)}, but this asm reads version {VERSION}: "
                "import it with the asm that wrote it, or a newer one",
            )

    def check_end(self, sessions: int) -> None:
        end = self._values["end"]
        if not isinstance(end, dict) or end.get("sessions") != sessions:
            raise _invalid(
                self.number,
                f"the end does not count the {sessions} sessions before it: lines are missing",
            )

    def count(self, name: str) -> int:
        with _at(self.number):
            return count(self._values.get(name), name)

    def model(self, kind: str, model: type[M]) -> M:
        with _at(self.number):
            return model.from_dict(self._values[kind])

    def models(self, kind: str, model: type[M], number: int) -> list[M]:
        """The models in the next lines, which must all be of one kind."""
        return [self.model(self.next_of(kind), model) for _ in range(number)]


def _parse(line: bytes) -> Document:
    try:
        # The leading space selects the parser that keeps every number and character.
        values = documents.load(b" " + line)
    except json.JSONDecodeError as error:
        raise ValidationError(f"not JSON at column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValidationError(f"not UTF-8 at byte {error.start:,}") from error
    except (ValueError, RecursionError) as error:
        raise ValidationError(f"JSON that Python cannot parse: {error}") from error
    if not isinstance(values, dict):
        raise ValidationError(f"expected a JSON object, not {type(values).__name__}")
    return values


@contextmanager
def _at(number: int) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise _invalid(number, str(error)) from error


def _invalid(number: int, message: str) -> ValidationError:
    return ValidationError(f"line {number:,}: {message}", line=number)
