"""Imports files of other tools and exports into a store, again as often as they grow.

The session of a file keeps under `source` in its metadata what was read of it: the path, the size, the time
of its last modification and the offset behind the last line. A file that has not changed is not read again.
One that has grown is read from its beginning, because what its new lines mean depends on those before, and
what the old lines say is not stored again. Ids come from the records, so that reading a line twice stores
nothing twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

from asm.documents import Document
from asm.errors import AsmError, Conflict, ValidationError
from asm.export_files import text
from asm.export_files.exported import ExportedSession
from asm.formats import registry
from asm.formats.base import Log, Parsed, Reader, Transcript
from asm.formats.export_imports import import_export
from asm.formats.log_reading import LogReading
from asm.formats.sources import is_unchanged, source_of, source_of_file, unfinished, with_read
from asm.formats.storing import Storing
from asm.store import SessionStore
from asm.store_files import StoreFiles
from asm.validation import a_type

EVENTS_PER_TRANSACTION = 5_000

LOOKED_UP = 500
"""Files whose sessions are looked up at a time."""

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
) -> ImportReport:
    """Import files, folders of files and pipes, and return what that added.

    Importing again adds what is new. What was changed in the store stays: tags, the status, the metadata, a
    deletion. A file that cannot be imported is among the `failures` of the report, and the others are
    imported; with `strict` the first failure is raised. `progress(done, number, path)` is called before each
    file. The files of the store itself are not opened. An AsyncSessionStore has no use here: open a
    SessionStore of the same DSN.
    """
    if not isinstance(store, SessionStore):
        raise ValidationError(f"import_files takes a SessionStore, not {a_type(store)}", path="store")
    importer = Importer(store, strict=strict)
    own = StoreFiles(store._dsn_target)
    found = importer.find([Path(path) for path in paths], own.__contains__)
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
    recognised: registry.Recognised | None = None
    """What it is; None if it was not opened, or cannot be."""
    source: Mapping[str, Any] | None = None

    @property
    def reader(self) -> Reader | None:
        return None if self.recognised is None else self.recognised.reader

    @property
    def session_id(self) -> str | None:
        return None if self.recognised is None else self.recognised.session_id

    @property
    def main(self) -> Path | None:
        """The file with which it is read."""
        return None if self.recognised is None else self.recognised.main


class Importer:
    """Imports files one by one, and counts."""

    def __init__(self, store: SessionStore, *, strict: bool = False, logs_kept: int = 0) -> None:
        """So many logs are held in memory as they were read, to go on in them without reading them again."""
        self.report = ImportReport()
        self._store = store
        self._strict = strict
        self._logs_kept = logs_kept
        self._readings: dict[Path, LogReading] = {}

    # Finding files.

    def find(
        self, paths: Sequence[Path], excluded: Callable[[Path], bool], *, may_be_empty: bool = False
    ) -> list[FoundFile]:
        """The files at some paths, without those that are read with another one.

        A folder without any fails, unless it `may_be_empty`.
        """
        found: list[FoundFile] = []
        for path in paths:
            if path.is_dir():
                found += self._find_in(path, excluded, may_be_empty=may_be_empty)
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

    def _find_in(
        self, folder: Path, excluded: Callable[[Path], bool], *, may_be_empty: bool
    ) -> list[FoundFile]:
        contents = registry.read_folder(
            folder, excluded=lambda file: "a file of the store" if excluded(file) else None
        )
        self.report.skipped += [(str(file), reason) for file, reason in contents.skipped]
        for failure in contents.failures:
            self._fail(str(failure.details.get("path", folder)), failure, named=False)
        if not (contents.files or contents.failures or may_be_empty):
            self._fail(
                str(folder), ValidationError("no file in this folder has a format that asm reads"), named=True
            )
        return [FoundFile(file, named=False, recognised=found) for file, found in contents.files.items()]

    def _look_up(self, found: Sequence[FoundFile]) -> None:
        """Find out what is stored of some files."""
        for file in found:
            if file.recognised is None:
                # If it fails, importing the file says why.
                with suppress(OSError, ValidationError):
                    file.recognised = registry.recognise(file.path)
        ids = {file.session_id for file in found if file.session_id is not None}
        stored = {session.id: session for session in self._store.get_sessions(sorted(ids))}
        for file in found:
            if file.session_id in stored:
                file.source = source_of(stored[file.session_id], file.path)

    # Importing.

    def import_file(self, file: FoundFile) -> None:
        """Import one file, unless it has not changed."""
        try:
            if file.source is not None and is_unchanged(_parts_of(file), file.source):
                self.report.unchanged += 1
            elif (reading := self._reading_of(file)) is not None:
                self._import_log(file, reading)
                self._keep(file.path, reading)
            else:
                self._import_all(file, registry.read(file.path))
        except AsmError as error:
            self._fail(str(file.path), error, file.named)
        except OSError as error:
            self._fail(str(file.path), ValidationError(str(error.strerror or error)), file.named)
        except MemoryError:
            problem = ValidationError("there is not enough memory to import the file")
            self._fail(str(file.path), problem, file.named)

    def import_changed(self, paths: Iterable[Path]) -> None:
        """Import files of folders that are new or have changed.

        Files of other formats are left alone: those that are empty yet have none.
        """
        found = [FoundFile(path, named=False) for path in dict.fromkeys(paths)]
        self._look_up(found)
        changed = {file.path for file in found}
        mains = [
            FoundFile(path, named=False)
            for path in dict.fromkeys(file.main for file in found)
            if path is not None and path not in changed
        ]
        self._look_up(mains)
        for file in [*found, *mains]:
            if file.main is None and file.reader is not None:
                self.import_file(file)

    def import_stream(self, file: BufferedReader, name: str) -> None:
        """Import an export from an open file or a pipe."""
        try:
            self._import_all(FoundFile(Path(name), named=True), registry.read_stream(file, name))
        except AsmError as error:
            self._fail(name, error, named=True)

    def _import_all(self, file: FoundFile, parsed: Iterable[Parsed]) -> None:
        source = source_of_file(file.path, _parts_of(file))
        grows = file.reader is not None and file.reader.has_times
        for each in parsed:
            try:
                if isinstance(each, ExportedSession):
                    counts = import_export(self._store, each)
                    self._count(any(counts), counts.runs, counts.events)
                else:
                    self._count(*self._import(each, source, grows=grows))
            except Conflict as error:
                self._fail(str(file.path), error, file.named)

    def _import_log(self, file: FoundFile, reading: LogReading) -> None:
        """Read a log, and store what it says behind the offset up to which it is stored."""
        added: dict[str, tuple[int, int, int]] = {}
        remembered: dict[str, Document] = {}
        for transcripts in reading.read():
            for transcript in transcripts:
                id = transcript.session.id
                sessions, runs, events = self._import(transcript, reading.source, grows=True)
                before = added.get(id, (0, 0, 0))
                added[id] = (max(before[0], sessions), before[1] + runs, before[2] + events)
                remembered[id] = dict(reading.source)
        session_id = file.session_id or next(iter(added), None)
        if session_id is not None and remembered.get(session_id) != reading.source:
            self._remember(session_id, reading.source)
        for counts in added.values() or [(0, 0, 0)]:
            self._count(*counts)

    def _reading_of(self, file: FoundFile) -> LogReading | None:
        """The reading of a log, which goes on if the log is held in memory; None if the file is no log."""
        kept = self._readings.pop(file.path, None)
        if kept is not None and kept.goes_on():
            return kept
        log = _log_of(file)
        return None if log is None else LogReading(file.path, log, file.source)

    def _keep(self, path: Path, reading: LogReading) -> None:
        self._readings[path] = reading
        if len(self._readings) > self._logs_kept:
            del self._readings[next(iter(self._readings))]

    def _remember(self, session_id: str, source: Document) -> None:
        """Have a session keep what was read of its file, if the last lines said nothing of the session."""
        for stored in self._store.get_sessions([session_id]):
            known = source_of(stored, Path(source["path"]))
            if known is not None and {**known, **source} != known:
                self._store.update_session(session_id, partial(with_read, source))

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
            work = Storing(one, source if is_last else unfinished(source), grows=grows)
            counts = self._store.run_transaction(work, idempotent=True)
            added = (max(added[0], counts[0]), added[1] + counts[1], added[2] + counts[2])
        return added

    def _fail(self, path: str, error: AsmError, named: bool) -> None:
        failure = ImportFailure(path, error, named)
        if self._strict:
            raise registry.in_file(path, error) if isinstance(error, ValidationError) else error
        self.report.failures.append(failure)


def _parts_of(file: FoundFile) -> Sequence[Path]:
    return [file.path] if file.reader is None else file.reader.parts(file.path)


def _log_of(file: FoundFile) -> Log | None:
    """The log that a file is, unless it is compressed: that one does not grow, and has no offsets."""
    if file.reader is None or file.reader.log is None or text.is_compressed(file.path):
        return None
    return file.reader.log(file.path)
