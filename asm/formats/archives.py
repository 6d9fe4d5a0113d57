"""Sessions kept in a folder, a file for each, before they are deleted or pruned.

A file holds all that was ever archived of its session: what an earlier archive has and the
session has no more stays in it. So a session that is pruned every day is whole in its file.
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
    """Write a session into its file in a folder. It is on the disk when this returns.

    A session that began anew under the id of an earlier one has a file of its own beside that one's.
    StorageError where the folder or an earlier archive in it does not let us.
    """
    try:
        _make(folder)
        with _locked_dir(folder) as descriptor:
            _write(*next(_places(folder, export)))
            # The folder itself, so that the disk knows the file's name, too.
            os.fsync(descriptor)
    except OSError as error:
        path = str(error.filename or folder)
        raise StorageError(f"cannot archive into {path}: {error.strerror or error}", path=path) from error


def read(file: Path) -> SessionExport:
    """The session in a file, as it was archived last, with all events that ever were."""
    try:
        (export,) = jsonl.read(file)
    except ValueError as error:
        raise StorageError(
            f"{file} is no archive of one session, move it out of the way: {error}", path=str(file)
        ) from error
    return export


def _places(folder: Path, export: SessionExport) -> Iterator[tuple[Path, SessionExport]]:
    """The files a session may be written into, and with what is there already."""
    for file in _files(folder, export.session.id):
        if not file.exists():
            yield file, export
        elif _continues(earlier := read(file), export):
            yield file, _joined(earlier, export)


def _files(folder: Path, session_id: str) -> Iterator[Path]:
    name = quote(session_id, safe="")
    if len(name) > _NAME_LENGTH_MAX:
        name = f"{name[:100]}-{sha256(session_id.encode()).hexdigest()}"
    yield folder / f"{name}.jsonl.gz"
    for number in count(2):
        yield folder / f"{name}.{number}.jsonl.gz"


def _continues(earlier: SessionExport, later: SessionExport) -> bool:
    """Whether both are of one session, the later one at the same place or further on."""
    ids = {event.sequence_number: event.id for event in earlier.events}
    return (
        earlier.session.id == later.session.id
        and earlier.last_sequence <= later.last_sequence
        and all(ids.get(event.sequence_number, event.id) == event.id for event in later.events)
    )


def _joined(earlier: SessionExport, later: SessionExport) -> SessionExport:
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
    # Beside it and then in its place: who is killed on the way leaves the earlier one.
    beside = file.with_name(f".{file.name}.new")
    try:
        with beside.open("wb") as raw:
            with gzip.GzipFile("", "wb", fileobj=raw) as packed:
                packed.writelines(jsonl.dump([export]))
            raw.flush()
            os.fsync(raw.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _make(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with _locked_dir(folder.parent) as descriptor:
            os.fsync(descriptor)


@contextmanager
def _locked_dir(folder: Path) -> Iterator[int]:
    """A folder for us alone: two who add to one file at a time would lose what the other added."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
