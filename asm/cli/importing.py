"""`asm import`: sessions from files."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import cast

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from asm.cli.options import dsn_option, open_store
from asm.cli.store_files import StoreFiles
from asm.cli.text import one_line, quantity
from asm.dsn import parse_dsn
from asm.errors import Conflict, SessionNotFound, StorageError, ValidationError
from asm.formats import registry
from asm.formats.base import ExportedSession, Parsed
from asm.operations.imports import ImportBatch, ImportCounts, batches_of
from asm.store import SessionStore, run_operation

_STANDARD_INPUT = Path("-")

_NAMED_MAX = 20
"""The files of a folder that are named if they are passed over; the others are counted."""


@click.command("import")
@click.argument(
    "paths",
    metavar="PATH...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, allow_dash=True, path_type=Path),
)
@dsn_option
def import_(paths: Sequence[Path], dsn: str | None, schema: str | None) -> None:
    """Import sessions from files.

    PATH is a file, a folder of files, or - for an export on the standard input. An export of `asm export`
    keeps its ids, sequence numbers and times, and may be compressed with gzip. A trajectory of
    SWE-agent (.traj) becomes a session with one run. Its ids are derived from its content, so importing
    a file or a copy of it again adds nothing.

    If a file cannot be read, or a session exists with different contents, the error is printed, the
    other files are imported, and the exit status is 1. The files of a folder that have another format
    are named and passed over. A SQLite file that does not exist is created. For any other store, run
    `asm migrate` first.

    \b
    asm import runs/*.traj --dsn sqlite:///agents.db
    asm export ses_1 | asm import - --dsn postgresql://app@db/agents
    """
    target = parse_dsn(dsn, schema)
    own = StoreFiles(target)
    for path in paths:
        if path != _STANDARD_INPUT and path in own:
            raise click.UsageError(f"{path} is a file of the store: to copy a store use `asm copy`.")
    with open_store(dsn, schema, migrate=target.is_new_file) as store:
        totals = _import_all(store, paths, own)
    click.echo(totals.summary())
    sys.exit(1 if totals.failures or totals.conflicts else 0)


def import_into(store: SessionStore, parsed: Parsed) -> ImportCounts:
    """Write what the store lacks, all of it or nothing, and return how much that was.

    A transcript is skipped if its session exists, because that session may have been tagged, paused or
    deleted since. An export that differs from the stored session raises Conflict. A long one is imported
    in one transaction, which is not retried.
    """
    if isinstance(parsed, ExportedSession):
        return _import_batches(store, batches_of(parsed.session, parsed.rows, parsed.counter))
    try:
        store.get_session(parsed.session.id)
    except SessionNotFound:
        store.flush(parsed.session, parsed.run, parsed.events)
        return ImportCounts(sessions=1, runs=1, events=len(parsed.events))
    return ImportCounts()


def _import_batches(store: SessionStore, batches: Iterator[ImportBatch]) -> ImportCounts:
    first, second = next(batches), next(batches, None)
    if second is None:
        return run_operation(store, first.import_all())
    # No transaction is open while the file is read, which may be a pipe whose writer stalls: nobody else
    # could write to a SQLite store meanwhile.
    with _spooled(chain((first, second), batches)) as spooled, store.transaction() as tx:
        counts = [run_operation(tx, batch.import_all()) for batch in spooled]
    return ImportCounts(*map(sum, zip(*counts, strict=True)))


@contextmanager
def _spooled(batches: Iterable[ImportBatch]) -> Iterator[Iterator[ImportBatch]]:
    """The same batches, all of which have been read, from a temporary file that no other process can open."""
    with TemporaryFile() as file:
        number = 0
        for batch in batches:
            try:
                pickle.dump(batch, file, pickle.HIGHEST_PROTOCOL)
            except OSError as error:
                raise StorageError(f"cannot write to a file in {gettempdir()}: {error.strerror}") from error
            number += 1
        file.seek(0)
        yield (pickle.load(file) for _ in range(number))


@dataclass
class _Totals:
    sessions: int = 0
    events: int = 0
    existing: int = 0
    conflicts: int = 0
    failures: int = 0
    skipped: int = 0

    def add(self, counts: ImportCounts) -> None:
        self.sessions += any(counts)
        self.events += counts.events
        self.existing += not any(counts)

    def summary(self) -> str:
        parts = [f"imported {quantity(self.sessions, 'session')} with {quantity(self.events, 'event')}"]
        if self.existing:
            parts.append(f"{self.existing:,} already existed")
        if self.conflicts:
            parts.append(f"{self.conflicts:,} existed with different contents")
        if self.failures:
            parts.append(f"{self.failures:,} could not be read")
        if self.skipped:
            parts.append(f"{quantity(self.skipped, 'file')} passed over")
        return ", ".join(parts)


def _import_all(store: SessionStore, paths: Iterable[Path], own: StoreFiles) -> _Totals:
    totals = _Totals()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for file in progress.track(_files(paths, own, totals, console), description="Importing"):
            with _reporting_failures(totals, console):
                _import_file(store, file, totals, console)
    return totals


def _import_file(store: SessionStore, file: Path, totals: _Totals, console: Console) -> None:
    is_stream = file == _STANDARD_INPUT
    name = "the standard input" if is_stream else str(file)
    for parsed in registry.read_stream(_standard_input(), name) if is_stream else registry.read(file):
        try:
            totals.add(import_into(store, parsed))
        except Conflict as error:
            totals.conflicts += 1
            _print_error(console, f"{name}: {error}")
        except ValidationError as error:
            raise registry.in_file(name, error) from error
        except MemoryError:
            raise ValidationError(f"{name}: there is not enough memory to import the file") from None


def _standard_input() -> BufferedReader:
    if sys.stdin is None:
        raise ValidationError("the standard input is closed: name a file to import")
    return BufferedReader(cast(RawIOBase, sys.stdin.buffer))


def _files(paths: Iterable[Path], own: StoreFiles, totals: _Totals, console: Console) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path == _STANDARD_INPUT or not path.is_dir():
            files.append(path)
            continue
        folder = registry.read_folder(
            path, excluded=lambda file: "a file of the store" if file in own else None
        )
        files += folder.files
        _print_skipped(folder, console)
        totals.skipped += len(folder.skipped)
        for failure in folder.failures:
            with _reporting_failures(totals, console):
                raise failure
        if not folder.files and not folder.failures:
            with _reporting_failures(totals, console):
                raise ValidationError(f"{path}: no file in this folder has a format that asm reads")
    return files


def _print_skipped(folder: registry.Folder, console: Console) -> None:
    for file, reason in folder.skipped[:_NAMED_MAX]:
        _print_error(console, f"passed over {file}: {reason}")
    if (more := len(folder.skipped) - _NAMED_MAX) > 0:
        _print_error(console, f"passed over {quantity(more, 'more file')}")


@contextmanager
def _reporting_failures(totals: _Totals, console: Console) -> Iterator[None]:
    """Print the error of a file that cannot be read, and continue with the next file."""
    try:
        yield
    except ValidationError as error:
        totals.failures += 1
        _print_error(console, str(error))


def _print_error(console: Console, message: str) -> None:
    console.print(Text(f"asm: {one_line(message)}"), soft_wrap=True)
