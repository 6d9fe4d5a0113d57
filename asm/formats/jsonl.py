"""Session exports as JSON Lines, for files and pipes.

Every line is one JSON object, and says by its first key what it is:

    {"format": "asm-export", "version": 1}
    {"session": {…}, "last_sequence": 2, "pruned_events": 0, "runs": 1, "events": 2, "artifacts": 0}
    {"run": {…}}
    {"event": {…}}
    {"event": {…}}
    {"end": {"sessions": 1}}

The header comes first, then each session with as many lines of each kind behind it as its own
line says, then the end. So a file that was cut anywhere is noticed, and one export may follow
another. Models stand as their `to_dict` has them. Integers may have up to 4,300 digits, and a
lone surrogate is an escape.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import orjson

from asm import documents
from asm.documents import Document
from asm.errors import ValidationError
from asm.models import Artifact, Event, Model, Run, Session
from asm.operations.exports import SessionExport
from asm.validation import count, safe_repr

M = TypeVar("M", bound=Model)

FORMAT = "asm-export"
VERSION = 1

_DOCUMENTS = frozenset(
    {"metadata", "context", "input", "output", "error", "token_usage", "provider_metadata", "data"}
)
_GZIP = b"\x1f\x8b"


def dump(exports: Iterable[SessionExport]) -> Iterator[bytes]:
    """The lines of some exports, each with its end."""
    yield _line({"format": FORMAT, "version": VERSION})
    sessions = 0
    for export in exports:
        yield from _dump_one(export)
        sessions += 1
    yield _line({"end": {"sessions": sessions}})


def load(lines: Iterable[bytes]) -> Iterator[SessionExport]:
    """The exports in some lines, one after another. ValidationError names the line that is wrong."""
    remaining = _Lines(lines)
    if not remaining.next():
        raise _wrong(1, "the header of an export should stand here, but there is nothing at all")
    while True:
        remaining.check_header()
        sessions = 0
        while remaining.next_of("session", "end") == "session":
            yield _load_one(remaining)
            sessions += 1
        remaining.check_end(sessions)
        if not remaining.next():
            return


def sniff(_path: Path, head: bytes) -> bool:
    """Whether a file begins like an export, compressed or not."""
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head)
        except zlib.error:
            return False
    return f'"{FORMAT}"'.encode() in head.partition(b"\n")[0]


def read(path: Path) -> Iterator[SessionExport]:
    """The exports in a file, one after another."""
    with path.open("rb") as file:
        yield from read_stream(file)


def read_stream(file: BufferedReader) -> Iterator[SessionExport]:
    """The exports that come through a file or a pipe, compressed or not, one after another."""
    if file.peek(len(_GZIP)).startswith(_GZIP):
        with gzip.open(file) as uncompressed:
            yield from load(uncompressed)
    else:
        yield from load(file)


# One export.


def _dump_one(export: SessionExport) -> Iterator[bytes]:
    yield _line(
        {
            "session": _spelled(export.session),
            "last_sequence": export.last_sequence,
            "pruned_events": export.pruned_events,
            "runs": len(export.runs),
            "events": len(export.events),
            "artifacts": len(export.artifacts),
        }
    )
    for run in export.runs:
        yield _line({"run": _spelled(run)})
    for event in export.events:
        yield _line({"event": _spelled(event)})
    for artifact in export.artifacts:
        yield _line({"artifact": _spelled(artifact)})


def _load_one(lines: _Lines) -> SessionExport:
    first = lines.number
    last_sequence, pruned_events = lines.count("last_sequence"), lines.count("pruned_events")
    runs, events, artifacts = lines.count("runs"), lines.count("events"), lines.count("artifacts")
    session = lines.model("session", Session)
    found_runs = lines.models("run", Run, runs)
    found_events = lines.models("event", Event, events)
    found_artifacts = lines.models("artifact", Artifact, artifacts)
    with _at(first):
        return SessionExport(
            session=session,
            runs=found_runs,
            events=found_events,
            artifacts=found_artifacts,
            last_sequence=last_sequence,
            pruned_events=pruned_events,
        )


def _spelled(model: Model) -> dict[str, Any]:
    # Documents in their own spelling, which holds what orjson alone would refuse or change.
    return {
        name: orjson.Fragment(documents.dump(value, name)) if name in _DOCUMENTS else value
        for name, value in model.to_dict().items()
    }


def _line(values: dict[str, Any]) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)


# Lines as they come in.


class _Lines:
    """Lines that are read one by one, and what the last one said."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._values: Document = {}
        self.number = 0

    def next(self) -> bool:
        """Go to the next line, if there is one."""
        self.number += 1
        with _at(self.number):
            line = self._read()
            if line is None:
                return False
            self._values = _parsed(line)
            return True

    def next_of(self, *kinds: str) -> str:
        """Go to the next line, which must be of one of these kinds, and say which."""
        expected = " or ".join(f"`{kind}`" for kind in kinds)
        if not self.next():
            raise _wrong(self.number, f"{expected} should stand here, but the file has ended: it was cut")
        for kind in kinds:
            if kind in self._values:
                return kind
        raise _wrong(self.number, f"{expected} should stand here, not `{next(iter(self._values), '')}`")

    def check_header(self) -> None:
        version = self._values.get("version")
        if self._values.get("format") != FORMAT or not isinstance(version, int):
            raise _wrong(
                self.number, f"the header of an export, with the format {FORMAT!r}, should stand here"
            )
        if version != VERSION:
            raise _wrong(
                self.number,
                f"this export has version {safe_repr(version)}, and this asm reads version {VERSION}: "
                "import it with the asm that wrote it, or a newer one",
            )

    def check_end(self, sessions: int) -> None:
        end = self._values["end"]
        if not isinstance(end, dict) or end.get("sessions") != sessions:
            raise _wrong(
                self.number, f"the end does not count the {sessions} sessions before it: some are lost"
            )

    def count(self, name: str) -> int:
        with _at(self.number):
            return count(self._values.get(name), name)

    def model(self, kind: str, model: type[M]) -> M:
        with _at(self.number):
            return model.from_dict(self._values[kind])

    def models(self, kind: str, model: type[M], number: int) -> list[M]:
        """The next lines, so many, all of one kind."""
        return [self.model(self.next_of(kind), model) for _ in range(number)]

    def _read(self) -> bytes | None:
        try:
            return next(self._lines, None)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValidationError(f"the compressed file is cut or damaged: {error}") from error


def _parsed(line: bytes) -> Document:
    try:
        # The space asks for the reader that keeps every number and every character.
        values = documents.load(b" " + line)
    except json.JSONDecodeError as error:
        raise ValidationError(f"not JSON at column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValidationError(f"not UTF-8 at byte {error.start:,}") from error
    except (ValueError, RecursionError) as error:
        raise ValidationError(f"not JSON that Python reads: {error}") from error
    if not isinstance(values, dict):
        raise ValidationError(f"a JSON object should stand here, not {type(values).__name__}")
    return values


@contextmanager
def _at(number: int) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise _wrong(number, str(error)) from error


def _wrong(number: int, complaint: str) -> ValidationError:
    return ValidationError(f"line {number:,}: {complaint}", line=number)
