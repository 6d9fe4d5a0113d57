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
and a lone surrogate is written as an escape. So are characters that act on a terminal or are invisible there,
because an export may be printed. Blank lines and byte order marks are ignored.

An export is read line by line, and refused at the first line that is not what the lines before it say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import orjson

from asm import documents, files
from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.export_files.exported import ExportedSession
from asm.models import Artifact, Event, Model, Run, Session
from asm.operations.exports import SequenceCounter, SessionExport, check_sum
from asm.shown import UNSAFE
from asm.validation import INTEGER_MAX, SEQUENCE_MAX, count, safe_repr

M = TypeVar("M", bound=Model)
Row: TypeAlias = Run | Event | Artifact

FORMAT = "asm-export"
VERSION = 1

_KINDS: dict[str, type[Row]] = {"run": Run, "event": Event, "artifact": Artifact}
"""The rows of a session by the first key of their lines, in their order."""

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
    return map(ExportedSession.whole, iterate_lines(lines))


def sniff(_path: Path, head: bytes) -> bool:
    """Whether a file starts like an export."""
    return f'"{FORMAT}"'.encode() in head.partition(b"\n")[0]


def read(path: Path) -> Iterator[SessionExport]:
    """The sessions in a file, one by one."""
    return map(ExportedSession.whole, iterate(path))


def read_stream(file: BufferedReader) -> Iterator[SessionExport]:
    """The sessions in an open file or a pipe, one by one."""
    return map(ExportedSession.whole, iterate_stream(file))


def iterate(path: Path) -> Iterator[ExportedSession]:
    """The sessions in a file or a pipe, one by one, and the rows of each as they are taken."""
    with path.open("rb") if path.is_fifo() else files.reading(path, follow_links=True) as file:
        yield from iterate_stream(file)


def iterate_stream(file: BufferedReader) -> Iterator[ExportedSession]:
    """The same of an open file or a pipe."""
    return _load(text.read_lines(file))


def iterate_lines(lines: Iterable[bytes]) -> Iterator[ExportedSession]:
    """The same of some lines."""
    return _load(text.clean_lines(lines))


def _load(lines: Iterator[bytes]) -> Iterator[ExportedSession]:
    reader = _LineReader(lines)
    if not reader.next():
        raise _invalid(1, "expected the header of an export, but the file is empty")
    while True:
        reader.check_header()
        sessions = 0
        while reader.next_of("session", "end") == "session":
            session = _load_one(reader)
            yield session
            # The rows that were not taken are checked all the same.
            for _ in session.rows:
                pass
            sessions += 1
        reader.check_end(sessions)
        if not reader.next():
            return


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


def _load_one(lines: _LineReader) -> ExportedSession:
    session = lines.model("session", Session)
    counter = SequenceCounter(
        lines.count("last_sequence", SEQUENCE_MAX), lines.count("pruned_events", SEQUENCE_MAX)
    )
    numbers = {model: lines.count(f"{kind}s") for kind, model in _KINDS.items()}
    with _at(lines.number):
        check_sum(numbers[Event], counter.pruned_events, counter.last_sequence)
    return ExportedSession(session, counter, _rows(lines, session, counter, numbers))


def _rows(
    lines: _LineReader, session: Session, counter: SequenceCounter, numbers: Mapping[type[Row], int]
) -> Iterator[Row]:
    last = 0
    for kind, model in _KINDS.items():
        for _ in range(numbers[model]):
            lines.next_of(kind)
            row = lines.model(kind, model)
            if row.session_id != session.id:
                raise _invalid(
                    lines.number, f"the {kind} belongs to session {row.session_id!r}, not to {session.id!r}"
                )
            if isinstance(row, Event):
                last = _checked_number(lines, row.sequence_number, last, counter)
            yield row


def _checked_number(lines: _LineReader, number: int | None, last: int, counter: SequenceCounter) -> int:
    """The sequence number of an event, which follows that of the event before."""
    if number is None or not last < number <= counter.last_sequence:
        raise _invalid(
            lines.number,
            f"the event has the sequence number {number}, which must be from {last + 1} to the last_sequence "
            f"of its session, {counter.last_sequence}",
        )
    return number


def _encode(model: Model) -> dict[str, Any]:
    # The same as `to_dict`, whose values orjson makes of times and statuses itself. It would refuse or
    # change some of the values that a document may have, but for an empty one.
    values = {name: getattr(model, name) for name in model.__dataclass_fields__}
    return {
        name: orjson.Fragment(documents.dump(value, name)) if value and name in _DOCUMENTS else value
        for name, value in values.items()
    }


def _line(values: dict[str, Any]) -> bytes:
    line = orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)
    return line if line.isascii() and b"\x7f" not in line else _escaped(line)


def _escaped(line: bytes) -> bytes:
    """The line, in which the characters that act on a terminal, or are invisible there, are escapes."""
    # Only the other characters are searched, because a search takes longer than all else that makes a line.
    if UNSAFE.search(line.translate(None, _ASCII).decode()) is None:
        return line
    escaped = UNSAFE.sub(lambda found: _escape(found[0]), line.decode()).encode()
    # It must be possible to read whatever is written.
    return line if text.is_too_long(escaped) else escaped


_ASCII = bytes(range(0x7F))


@lru_cache(maxsize=1_000)
def _escape(character: str) -> str:
    units = character.encode("utf-16-be").hex(" ", 2).split()
    return "".join(f"\\u{unit}" for unit in units)


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
        try:
            while line == b"":
                self.number += 1
                line = next(self._lines, None)
            self._values = _parse(line) if line is not None else {}
        except ValidationError as error:
            raise _invalid(self.number, str(error)) from error
        except MemoryError:
            # Without its cause, which keeps what fills the memory.
            raise _invalid(self.number, "there is not enough memory to read the line") from None
        return line is not None

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
            raise _invalid(
                self.number,
                f"expected the header of an export, with the format {FORMAT!r}: give a file of another "
                "tool by its path",
            )
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

    def count(self, name: str, maximum: int = INTEGER_MAX) -> int:
        with _at(self.number):
            return count(self._values.get(name), name, maximum)

    def model(self, kind: str, model: type[M]) -> M:
        with _at(self.number):
            return model.from_dict(self._values[kind])


def _parse(line: bytes) -> Document:
    values = text.parse_json(line)
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
