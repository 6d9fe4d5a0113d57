"""Imports files of other tools and exports into a store, again as often as they grow.

The session of a file keeps under `source` in its metadata what was read of it: the path, the size, the time
of its last modification and the offset behind the last line. A file that has not changed is not read again.
One that has grown is read from its beginning, because what its new lines mean depends on those before, and
what the old lines say is not stored again. Ids come from the records, so that reading a line twice stores
nothing twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import Any

from asm import documents, files
from asm.documents import Document
from asm.enums import SessionStatus
from asm.errors import AsmError, Conflict, RunNotFound, SessionNotFound, ValidationError
from asm.export_files import text
from asm.export_files.exported import ExportedSession
from asm.formats import registry
from asm.formats.base import Log, Parsed, Reader, Transcript
from asm.formats.export_imports import import_export
from asm.models import Run, Session
from asm.store import SessionStore, Transaction
from asm.validation import a_type

STORED_FROM_BYTES = 4 * 1024 * 1024
"""After this much of a log, what it says so far is stored, and need not be held in memory."""

EVENTS_PER_TRANSACTION = 5_000

LOOKED_UP = 500
"""Files whose sessions are looked up at a time."""

SOURCE = "source"
"""The key of the metadata of a session under which its files are."""

Progress = Callable[[int, int, str], object]


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """A file that could not be imported, or a part of it, and why. `named` if the caller gave its path."""

    path: str
    error: AsmError
    named: bool

    def __str__(self) -> str:
        return (
            str(registry.in_file(self.path, self.error))
            if isinstance(self.error, ValidationError)
            else (f"{self.path}: {self.error}")
        )


@dataclass(slots=True)
class ImportReport:
    """What `import_files` did.

    `sessions` were added or have grown, by `runs` and `events`; of `unchanged` files or sessions nothing was
    new. `failures` are files that could not be imported, and `skipped` are those of folders that have no
    sessions, with the reason.
    """

    sessions: int = 0
    runs: int = 0
    events: int = 0
    unchanged: int = 0
    failures: list[ImportFailure] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def count(self, runs: int, events: int) -> None:
        self.sessions += 1
        self.runs += runs
        self.events += events


def import_files(
    store: SessionStore,
    paths: Iterable[str | os.PathLike[str]],
    *,
    strict: bool = False,
    progress: Progress | None = None,
    excluded: Callable[[Path], bool] = lambda _: False,
) -> ImportReport:
    """Import files, folders of files and pipes, and return what that added.

    Importing again adds what is new. What was changed in the store stays: tags, the status, the metadata, a
    deletion. A file that cannot be imported is among the `failures` of the report, and the others are
    imported; with `strict` the first failure is raised. `progress(done, number, path)` is called before each
    file. Files for which `excluded(path)` is true are not opened. An AsyncSessionStore has no use here:
    open a SessionStore of the same DSN.
    """
    if not isinstance(store, SessionStore):
        raise ValidationError(f"import_files takes a SessionStore, not {a_type(store)}", path="store")
    importer = Importer(store, strict=strict)
    found = importer.find([Path(path) for path in paths], excluded)
    for number, file in enumerate(found):
        if progress is not None:
            progress(number, len(found), str(file.path))
        importer.import_file(file)
    if progress is not None:
        progress(len(found), len(found), "")
    return importer.report


@dataclass(slots=True)
class FoundFile:
    """A file to import. `source` is what its session says of it, if it was imported before."""

    path: Path
    named: bool
    reader: Reader | None = None
    session_id: str | None = None
    source: Mapping[str, Any] | None = None
    main: Path | None = None
    """The file with which it is read."""


class Importer:
    """Imports files one by one, and counts."""

    def __init__(self, store: SessionStore, *, strict: bool = False) -> None:
        self.report = ImportReport()
        self._store = store
        self._strict = strict

    # Finding files.

    def find(self, paths: Sequence[Path], excluded: Callable[[Path], bool]) -> list[FoundFile]:
        """The files at some paths, without those that are read with another one."""
        found: list[FoundFile] = []
        for path in paths:
            if path.is_dir():
                found += self._find_in(path, excluded)
            elif excluded(path):
                self._fail(
                    str(path),
                    ValidationError("a file of the store: to copy a store use `asm copy`"),
                    named=True,
                )
            else:
                found.append(FoundFile(path, named=True))
        for start in range(0, len(found), LOOKED_UP):
            self._look_up(found[start : start + LOOKED_UP])
        return [file for file in found if file.named or file.main is None]

    def _find_in(self, folder: Path, excluded: Callable[[Path], bool]) -> list[FoundFile]:
        contents = registry.read_folder(
            folder, excluded=lambda file: "a file of the store" if excluded(file) else None
        )
        self.report.skipped += [(str(file), reason) for file, reason in contents.skipped]
        for failure in contents.failures:
            self._fail(str(failure.details.get("path", folder)), failure, named=False)
        if not contents.files and not contents.failures:
            self._fail(
                str(folder), ValidationError("no file in this folder has a format that asm reads"), named=True
            )
        return [FoundFile(file, named=False) for file in contents.files]

    def _look_up(self, found: Sequence[FoundFile]) -> None:
        """Find out what is stored of some files."""
        for file in found:
            if file.path.is_fifo():
                continue
            try:
                head = text.read_head(file.path, registry.HEAD_BYTES)
                file.reader = registry.find_reader(file.path)
                if file.reader is not None:
                    file.session_id = file.reader.session_id(file.path, head)
                    file.main = file.reader.main_file(file.path)
            except (OSError, ValidationError):
                # Importing it says why.
                continue
        ids = {file.session_id for file in found if file.session_id is not None}
        stored = {session.id: session for session in self._store.get_sessions(sorted(ids))}
        for file in found:
            if file.session_id in stored:
                file.source = source_of(stored[file.session_id], file.path)

    # Importing.

    def import_file(self, file: FoundFile) -> None:
        """Import one file, unless it has not changed."""
        try:
            if file.source is not None and _is_unchanged(file.path, file.source):
                self.report.unchanged += 1
            elif (
                file.reader is not None and file.reader.log is not None and not text.is_compressed(file.path)
            ):
                self._import_log(file, file.reader.log(file.path))
            else:
                self._import_all(file, registry.read(file.path))
        except AsmError as error:
            self._fail(str(file.path), error, file.named)
        except OSError as error:
            self._fail(str(file.path), ValidationError(str(error.strerror or error)), file.named)
        except MemoryError:
            problem = ValidationError("there is not enough memory to import the file")
            self._fail(str(file.path), problem, file.named)

    def import_stream(self, file: BufferedReader, name: str) -> None:
        """Import an export from an open file or a pipe."""
        try:
            self._import_all(FoundFile(Path(name), named=True), registry.read_stream(file, name))
        except AsmError as error:
            self._fail(name, error, named=True)

    def _import_all(self, file: FoundFile, parsed: Iterable[Parsed]) -> None:
        source = _source_of(file.path)
        for each in parsed:
            try:
                if isinstance(each, ExportedSession):
                    counts = import_export(self._store, each)
                    self._count(any(counts), counts.runs, counts.events)
                else:
                    self._count(*self._import(each, source))
            except Conflict as error:
                self._fail(str(file.path), error, file.named)

    def _import_log(self, file: FoundFile, log: Log) -> None:
        """Read a log, and store what it says behind the offset up to which it is stored."""
        reading = LogReading(file.path, log, file.source)
        added: dict[str, tuple[int, int, int]] = {}
        for transcripts in reading.read():
            for transcript in transcripts:
                id = transcript.session.id
                sessions, runs, events = self._import(transcript, reading.source, grows=True)
                before = added.get(id, (0, 0, 0))
                added[id] = (max(before[0], sessions), before[1] + runs, before[2] + events)
        self._remember(file.session_id or next(iter(added), None), reading.source)
        for counts in added.values() or [(0, 0, 0)]:
            self._count(*counts)

    def _remember(self, session_id: str | None, source: Document) -> None:
        """Have a session keep what was read of its file, if the last lines said nothing of the session."""
        if session_id is None:
            return
        for stored in self._store.get_sessions([session_id]):
            known = source_of(stored, Path(source["path"]))
            if known is not None and {**known, **source} != known:
                self._store.update_session(session_id, partial(_with_read, source))

    def _count(self, sessions: int, runs: int, events: int) -> None:
        if sessions or runs or events:
            self.report.count(runs, events)
        else:
            self.report.unchanged += 1

    def _import(
        self, transcript: Transcript, source: Document | None, *, grows: bool = False
    ) -> tuple[int, int, int]:
        """Store what a transcript has. Returns how many sessions, runs and events that added."""
        events = transcript.events
        added = (0, 0, 0)
        for start in range(0, max(len(events), 1), EVENTS_PER_TRANSACTION):
            part = events[start : start + EVENTS_PER_TRANSACTION]
            is_last = start + EVENTS_PER_TRANSACTION >= len(events)
            one = Transcript(transcript.session, transcript.runs if is_last else [], part)
            work = _Storing(one, source if is_last else None, grows=grows)
            counts = self._store.run_transaction(work, idempotent=True)
            added = (max(added[0], counts[0]), added[1] + counts[1], added[2] + counts[2])
        return added

    def _fail(self, path: str, error: AsmError, named: bool) -> None:
        failure = ImportFailure(path, error, named)
        if self._strict:
            raise registry.in_file(path, error) if isinstance(error, ValidationError) else error
        self.report.failures.append(failure)


class _Storing:
    """The transaction that stores a transcript."""

    def __init__(self, transcript: Transcript, source: Document | None, *, grows: bool) -> None:
        """Unless the file `grows`, its rows change only together with new events.

        A file without times gives its own time to all that it has.
        """
        self._transcript = transcript
        self._source = source
        self._grows = grows

    def __call__(self, tx: Transaction) -> tuple[int, int, int]:
        given, runs, events = self._transcript.session, self._transcript.runs, self._transcript.events
        before = tx.get_latest_sequence(given.id)
        # The counter is locked first, as by every append.
        stored = tx.append_events(events) if events else []
        after = max((event.sequence_number or 0 for event in stored), default=before)
        is_new, is_changed = False, self._grows or after > before
        try:
            tx.update_session(given.id, partial(_merged, given, self._source, is_changed))
        except SessionNotFound:
            is_new = True
            tx.save_session(_new(given, self._source))
        changed = [run for run in runs if is_new or _is_changed(tx, run, unless_known=not is_changed)]
        for run in changed:
            tx.save_run(run)
        return int(is_new), len(changed), max(after - before, 0)


def _is_changed(tx: Transaction, run: Run, *, unless_known: bool) -> bool:
    try:
        return tx.get_run(run.id, session_id=run.session_id) != run and not unless_known
    except RunNotFound:
        return True


def _new(given: Session, source: Document | None) -> Session:
    return replace(
        given, metadata={**given.metadata, **_with_source([], source, _told(given.metadata, given.status))}
    )


def _told(values: Document, status: SessionStatus) -> dict[str, str]:
    """Marks of the values that a file has given: a later import replaces those that are still the same."""
    return {name: _mark(value) for name, value in {**values, _STATUS: str(status)}.items() if name != SOURCE}


_STATUS = ".status"


def _mark(value: Any) -> str:
    return sha256(documents.dump(value, "metadata").encode(errors="surrogatepass")).hexdigest()[:8]


def _with_read(source: Document, stored: Session) -> Session:
    """The row of a session with another source of the same file."""
    sources = [
        {**each, **source} if each.get("path") == source["path"] else each for each in _sources(stored)
    ]
    return replace(stored, metadata={**stored.metadata, SOURCE: sources[0] if len(sources) == 1 else sources})


def _merged(given: Session, source: Document | None, is_changed: bool, stored: Session) -> Session:
    """The row of a session after an import, which keeps what was changed in the store."""
    if stored.metadata.get("format") != given.metadata.get("format"):
        raise Conflict(
            f"session {given.id!r} was not imported from a file of this format: delete it, or import into "
            "another store",
            session_id=given.id,
        )
    before = _sources(stored)
    told: Any = before[0].get("told", {}) if before else {}
    if not is_changed:
        return replace(stored, metadata={**stored.metadata, **_with_source(before, source, told)})
    unchanged = {
        name for name, mark in _told(stored.metadata, stored.status).items() if told.get(name) == mark
    }
    new = {
        name: value
        for name, value in given.metadata.items()
        if name not in stored.metadata or name in unchanged
    }
    marks = {**told, **_told(new, given.status)}
    return replace(
        stored,
        status=given.status if _STATUS in unchanged else stored.status,
        metadata={**stored.metadata, **new, **_with_source(before, source, marks)},
        updated_at=max(stored.updated_at, given.updated_at),
    )


# Sources.


def source_of(session: Session, path: Path) -> Mapping[str, Any] | None:
    """What a session says of a file, if it was imported from it."""
    name = _absolute(path)
    return next((source for source in _sources(session) if source.get("path") == name), None)


def _sources(session: Session) -> list[dict[str, Any]]:
    found = session.metadata.get(SOURCE)
    found = found if isinstance(found, list) else [found]
    return [each for each in found if isinstance(each, dict)]


def _with_source(
    before: Sequence[Mapping[str, Any]], source: Document | None, told: Document
) -> dict[str, Any]:
    if source is None:
        return {SOURCE: before[0] if len(before) == 1 else list(before)} if before else {}
    others = [each for each in before if each.get("path") != source["path"]]
    sources = [{**source, "told": told}, *others]
    return {SOURCE: sources[0] if len(sources) == 1 else sources}


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - a path that does not exist any more has no other form


def _source_of(path: Path) -> Document | None:
    """What a session keeps of a file that is read as a whole."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not path.is_file():
        return None
    return {"path": _absolute(path), "size": found.st_size, "time": found.st_mtime, "offset": found.st_size}


def _is_unchanged(path: Path, source: Mapping[str, Any]) -> bool:
    found = path.stat()
    return (found.st_size, found.st_mtime) == (source.get("size"), source.get("time"))


# Logs.


def _log_of(file: FoundFile) -> Log | None:
    """The log that a file is, unless it is compressed: that one does not grow, and has no offsets."""
    if file.reader is None or file.reader.log is None or text.is_compressed(file.path):
        return None
    return file.reader.log(file.path)


_FIRST_BYTES = 1_024


class LogReading:
    """One reading of a log, from its beginning, and then as far as it has grown."""

    def __init__(self, path: Path, log: Log, source: Mapping[str, Any] | None) -> None:
        self.source: Document = {"path": _absolute(path)}
        """What the session of the file keeps of it."""
        self._path = path
        self._log = log
        self._offset = 0
        self._number = 0
        self._stored = self._stored_up_to(source)

    def read(self) -> Iterator[list[Transcript]]:
        """What the log says that is not stored, in parts."""
        found = self._path.stat()
        with files.reading(self._path, follow_links=True) as file:
            self.source["begins"] = _beginning(file)
            file.seek(self._offset)
            unsaved = 0
            for line in text.raw_lines(file):
                if not line.endswith(b"\n") and not registry.is_whole(line.strip()):
                    break
                self._add(line)
                unsaved += len(line)
                self._offset += len(line)
                if self._offset == self._stored:
                    self._log.take()
                    unsaved = 0
                elif self._offset > self._stored and unsaved >= STORED_FROM_BYTES:
                    self.source |= {"size": self._offset, "time": 0.0, "offset": self._offset}
                    yield self._log.take()
                    unsaved = 0
        self.source |= {"size": found.st_size, "time": found.st_mtime, "offset": self._offset}
        if unsaved:
            yield self._log.take()

    def _add(self, line: bytes) -> None:
        self._number += 1
        registry.add_line(self._log, next(text.clean_lines([line])), self._number)

    def _stored_up_to(self, source: Mapping[str, Any] | None) -> int:
        """The offset of what is stored already; 0 if the file is not the one that was imported."""
        offset = None if source is None else source.get("offset")
        if source is None or type(offset) is not int or offset > self._path.stat().st_size:
            return 0
        with files.reading(self._path, follow_links=True) as file:
            return offset if source.get("begins") == _beginning(file) else 0


def _beginning(file: BufferedReader) -> str:
    """A hash of the first line of a file, as far as it is short."""
    return sha256(file.readline(_FIRST_BYTES)).hexdigest()[:16]
