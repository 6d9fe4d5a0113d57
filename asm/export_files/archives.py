"""Archives: a folder with one compressed export per session, written before rows are deleted.

A file is merged with every later archive of its session: rows that the session no longer has stay in
the file. So the file of a session that is pruned every day is complete.

An archive is evidence. An event in it never changes, nor what an ended run has recorded. An export that
contradicts it is written beside it, such as that of a session that was deleted and stored again.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import fields, replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from urllib.parse import quote

from asm import files
from asm.errors import StorageError, StorageTimeout
from asm.export_files import jsonl
from asm.models import Event, Run
from asm.operations.exports import SessionExport

LOCK_TIMEOUT_S = 30.0
"""How long to wait for another process that archives into the same folder."""

_LOCK = ".asm-archive.lock"
_NAME_LENGTH_MAX = 200


def archive_session(folder: Path, export: SessionExport) -> None:
    """Write a session to its file in a folder, durably.

    A session that contradicts the archive of its id gets another file. Raises StorageError if the folder
    cannot be written, or a file in it cannot be read, and StorageTimeout if another process has it locked.
    """
    try:
        files.make_folder(folder)
        # Two processes that merge one file would lose each other's events.
        with files.locked(folder / _LOCK, LOCK_TIMEOUT_S):
            file, merged = next(_destinations(folder, export))
            with files.replacing(file) as raw, gzip.GzipFile("", "wb", fileobj=raw) as compressed:
                compressed.writelines(jsonl.dump([merged]))
    except OSError as error:
        path = str(error.filename or folder)
        kind = StorageTimeout if isinstance(error, TimeoutError) else StorageError
        raise kind(f"cannot archive into {path}: {error.strerror or error}", path=path) from error


def read(file: Path) -> SessionExport:
    """The session in a file: its latest archived state, with all events that were ever archived."""
    try:
        with files.reading(file) as opened:
            (export,) = jsonl.read_stream(opened)
    except ValueError as error:
        raise StorageError(
            f"{file} is not an archive of one session; move it elsewhere: {error}", path=str(file)
        ) from error
    return export


def _destinations(folder: Path, export: SessionExport) -> Iterator[tuple[Path, SessionExport]]:
    """The files to which a session may be written, each with the export merged with its contents."""
    for file in _files(folder, export.session.id):
        try:
            earlier = _read_earlier(file, export.session.id)
        except FileNotFoundError:
            yield file, export
        else:
            if _continues(earlier, export):
                yield file, _merge(earlier, export)


def _read_earlier(file: Path, session_id: str) -> SessionExport:
    try:
        return read(file)
    except FileNotFoundError:
        raise
    except (OSError, StorageError) as error:
        # With the id, because it keeps no other session from being archived.
        reason = error.strerror if isinstance(error, OSError) else None
        raise StorageError(
            f"cannot read the archive {file}: {reason}" if reason else str(error),
            path=str(file),
            session_id=session_id,
        ) from error


def _files(folder: Path, session_id: str) -> Iterator[Path]:
    name = quote(session_id, safe="")
    if len(name) > _NAME_LENGTH_MAX:
        name = f"{name[:100]}-{sha256(session_id.encode()).hexdigest()}"
    yield folder / f"{name}.jsonl.gz"
    for number in count(2):
        yield folder / f"{name}.{number}.jsonl.gz"


# Whether an export may be merged with an archive.


def _continues(earlier: SessionExport, later: SessionExport) -> bool:
    """Whether a later export is of the session in an archive, and contradicts nothing in it.

    A session that was deleted and stored again may have the same ids, with other data.
    """
    return (
        _is_same_session(earlier, later)
        and _has_same_events(earlier, later)
        and _has_same_runs(earlier, later)
        and _has_same_artifacts(earlier, later)
    )


def _is_same_session(earlier: SessionExport, later: SessionExport) -> bool:
    one, other = earlier.session, later.session
    return (
        one.id == other.id
        and one.agent_id == other.agent_id
        and one.parent_session_id in (None, other.parent_session_id)
        # An application may save the session with another time, but its events remain.
        and (one.created_at == other.created_at or bool(_up_to(earlier.last_sequence, later)))
    )


def _has_same_events(earlier: SessionExport, later: SessionExport) -> bool:
    """A session receives no event before its last one, and no event with an id that it has."""
    archived = {event.sequence_number: event for event in earlier.events}
    ids = {event.id for event in earlier.events}
    before = _up_to(earlier.last_sequence, later)
    return (
        earlier.last_sequence <= later.last_sequence
        and all(archived.get(event.sequence_number) == event for event in before)
        and ids.isdisjoint(event.id for event in later.events[len(before) :])
    )


def _up_to(sequence: int, export: SessionExport) -> list[Event]:
    return [event for event in export.events if (event.sequence_number or 0) <= sequence]


def _has_same_runs(earlier: SessionExport, later: SessionExport) -> bool:
    """A run that has ended may get other metadata, and what it did not have, such as its cost."""
    ended = {run.id: run for run in earlier.runs if run.status.is_terminal}
    return all(
        getattr(ended[run.id], name) in (getattr(_UNSET, name), getattr(run, name))
        for run in later.runs
        if run.id in ended
        for name in _RECORDED
    )


def _has_same_artifacts(earlier: SessionExport, later: SessionExport) -> bool:
    """An artifact may be deleted, and not restored."""
    archived = {artifact.id: artifact for artifact in earlier.artifacts}
    return all(
        artifact == replace(one, deleted_at=one.deleted_at or artifact.deleted_at)
        for artifact in later.artifacts
        if (one := archived.get(artifact.id)) is not None
    )


_UNSET = Run(session_id="-")
_RECORDED = [each.name for each in fields(Run) if each.name != "metadata"]


def _merge(earlier: SessionExport, later: SessionExport) -> SessionExport:
    runs = {run.id: run for run in (*earlier.runs, *later.runs)}
    events = {event.sequence_number or 0: event for event in (*later.events, *earlier.events)}
    artifacts = {artifact.id: artifact for artifact in (*earlier.artifacts, *later.artifacts)}
    return replace(
        later,
        runs=sorted(runs.values(), key=lambda run: (run.started_at, run.id)),
        events=[events[number] for number in sorted(events)],
        artifacts=sorted(artifacts.values(), key=lambda artifact: (artifact.created_at, artifact.id)),
        pruned_events=later.last_sequence - len(events),
    )
