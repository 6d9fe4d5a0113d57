"""Archives: a folder with one compressed export per session, written before rows are deleted.

A file is merged with every later archive of its session: rows that the session no longer has stay in
the file. So the file of a session that is pruned every day is complete.
"""

from __future__ import annotations

import fcntl
import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from urllib.parse import quote

from asm.errors import StorageError
from asm.formats import jsonl
from asm.operations.exports import SessionExport

_NAME_LENGTH_MAX = 200


def archive_session(folder: Path, export: SessionExport) -> None:
    """Write a session to its file in a folder, durably.

    A session that reuses the id of a deleted one gets another file. Raises StorageError if the folder
    cannot be written, or a file in it cannot be read.
    """
    try:
        _make_folder(folder)
        with _locked_dir(folder) as descriptor:
            _write(*next(_destinations(folder, export)))
            # Without an fsync of the folder, the name of the file may be lost in a crash.
            os.fsync(descriptor)
    except OSError as error:
        path = str(error.filename or folder)
        raise StorageError(f"cannot archive into {path}: {error.strerror or error}", path=path) from error


def read(file: Path) -> SessionExport:
    """The session in a file: its latest archived state, with all events that were ever archived."""
    try:
        (export,) = jsonl.read(file)
    except ValueError as error:
        raise StorageError(
            f"{file} is not an archive of one session; move it elsewhere: {error}", path=str(file)
        ) from error
    return export


def _destinations(folder: Path, export: SessionExport) -> Iterator[tuple[Path, SessionExport]]:
    """The files to which a session may be written, each with the export merged with its contents."""
    for file in _files(folder, export.session.id):
        if not file.exists():
            yield file, export
        elif _continues(earlier := read(file), export):
            yield file, _merge(earlier, export)


def _files(folder: Path, session_id: str) -> Iterator[Path]:
    name = quote(session_id, safe="")
    if len(name) > _NAME_LENGTH_MAX:
        name = f"{name[:100]}-{sha256(session_id.encode()).hexdigest()}"
    yield folder / f"{name}.jsonl.gz"
    for number in count(2):
        yield folder / f"{name}.{number}.jsonl.gz"


def _continues(earlier: SessionExport, later: SessionExport) -> bool:
    """Whether both exports are of one session, which was not deleted and stored again between them."""
    ids = {event.sequence_number: event.id for event in earlier.events}
    return (
        earlier.session.id == later.session.id
        and earlier.last_sequence <= later.last_sequence
        and all(ids.get(event.sequence_number, event.id) == event.id for event in later.events)
    )


def _merge(earlier: SessionExport, later: SessionExport) -> SessionExport:
    runs = {run.id: run for run in (*earlier.runs, *later.runs)}
    events = {event.sequence_number or 0: event for event in (*earlier.events, *later.events)}
    artifacts = {artifact.id: artifact for artifact in (*earlier.artifacts, *later.artifacts)}
    return replace(
        later,
        runs=sorted(runs.values(), key=lambda run: (run.started_at, run.id)),
        events=[events[number] for number in sorted(events)],
        artifacts=sorted(artifacts.values(), key=lambda artifact: (artifact.created_at, artifact.id)),
        pruned_events=later.last_sequence - len(events),
    )


def _write(file: Path, export: SessionExport) -> None:
    # The rename is atomic: an interrupted write leaves the earlier archive.
    unfinished = file.with_name(f".{file.name}.new")
    try:
        with unfinished.open("wb") as raw:
            with gzip.GzipFile("", "wb", fileobj=raw) as compressed:
                compressed.writelines(jsonl.dump([export]))
            raw.flush()
            os.fsync(raw.fileno())
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with _locked_dir(folder.parent) as descriptor:
            os.fsync(descriptor)


@contextmanager
def _locked_dir(folder: Path) -> Iterator[int]:
    """Lock a folder exclusively: two processes that merge one file would lose each other's events."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
