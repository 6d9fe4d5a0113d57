"""`asm import`, `asm export` and `asm copy`: sessions that come in, go out and move."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import BinaryIO, cast

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from asm import dsn as dsns
from asm.cli import copying, transfer
from asm.cli.display import Printer, counted, one_line, show_copied
from asm.cli.options import opened, takes_dsn_option
from asm.errors import Conflict, SessionNotFound, ValidationError
from asm.formats import jsonl, registry
from asm.formats.base import Parsed
from asm.migrations.runner import status as look_at
from asm.operations.exports import SessionExport
from asm.operations.imports import Batch, ImportCounts
from asm.store import SessionStore, run_operation


def import_into(store: SessionStore, found: Parsed) -> ImportCounts:
    """Write what is not there yet, all of it or none of it, and say how much that was.

    A transcript whose session is there is left alone, because that session may have been tagged,
    paused or deleted since. An export that differs from what is there is a Conflict.
    """
    if isinstance(found, SessionExport):
        return run_operation(store, Batch.of(found).import_all())
    try:
        store.get_session(found.session.id)
    except SessionNotFound:
        store.flush(found.session, found.run, found.events)
        return ImportCounts(sessions=1, runs=1, events=len(found.events))
    return ImportCounts()


_PIPE = Path("-")


@click.command("import")
@click.argument(
    "paths",
    metavar="PATH...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, allow_dash=True, path_type=Path),
)
@takes_dsn_option
def import_(paths: Sequence[Path], dsn: str | None, schema: str | None) -> None:
    """Import what was exported, or what other tools recorded.

    PATH is a file, a folder of files, or - for an export on the standard input. An export comes
    back as it was, with its ids, sequence numbers and times; it may be compressed by gzip. A trajectory
    of SWE-agent (.traj) becomes a session with one run, with ids that are made of the content. So
    importing a file again, or a copy of it, adds nothing.

    A file that cannot be read, and a session that is there under other contents, is named with what
    is wrong with it, the others are imported, and the exit status is 1. A SQLite file that does not
    exist yet is created; for any other store run `asm migrate` first.

    \b
    asm import runs/*.traj --dsn sqlite:///agents.db
    asm export ses_1 | asm import - --dsn postgresql://app@db/agents
    """
    with opened(dsn, schema, migrate=dsns.parse_dsn(dsn, schema).is_new_file) as store:
        imported = _import(store, paths)
    click.echo(imported.summary())
    sys.exit(1 if imported.failures or imported.conflicts else 0)


@click.command()
@click.argument("sessions", metavar="[SESSION]...", nargs=-1)
@click.option("--all", "all_sessions", is_flag=True, help="Every session, soft-deleted ones too.")
@click.option("--artifacts", is_flag=True, help="The rows of artifacts too. The bytes stay where they are.")
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    default="-",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Where to. Default: -, which is the standard output.",
)
@takes_dsn_option
def export(
    sessions: Sequence[str],
    output: Path,
    dsn: str | None,
    schema: str | None,
    *,
    all_sessions: bool,
    artifacts: bool,
) -> None:
    """Export sessions as JSON Lines, with their runs and events.

    `asm import` reads them again. Each session is written as it stood at one moment. A file appears
    when it is complete.

    \b
    asm export ses_1 ses_2 -o sessions.jsonl
    asm export --all --artifacts | gzip > store.jsonl.gz
    """
    if bool(sessions) == all_sessions:
        raise click.UsageError("Name the sessions to export, or give --all.")
    with opened(dsn, schema) as store, _written(output) as file:
        exports = _exports(store, None if all_sessions else sessions, artifacts=artifacts)
        file.writelines(jsonl.dump(exports))


@click.command()
@click.argument("source", metavar="SRC", type=dsns.as_secret)
@click.argument("target", metavar="DST", type=dsns.as_secret)
@click.option("--from-schema", metavar="NAME", help="The PostgreSQL schema SRC's tables are in.")
@click.option("--to-schema", metavar="NAME", help="The PostgreSQL schema DST's tables are in.")
def copy(source: str, target: str, from_schema: str | None, to_schema: str | None) -> None:
    """Copy a whole store into another.

    SRC and DST are DSNs, such as those of a SQLite file and of a PostgreSQL server. DST's tables are
    made where it has none. Everything goes along as it is: ids, sequence numbers, times, soft-deleted
    sessions, artifacts' rows. Let nothing write to SRC meanwhile.

    What DST has already is skipped, so a copy that was stopped is finished by running it again. What
    DST has under other contents stops the copy. In the end the rows of both are counted, and the exit
    status is 1 where DST has fewer.

    \b
    asm copy sqlite:///agents.db postgresql://app@db/agents
    """
    if _is_same(dsns.parse_dsn(source, from_schema), dsns.parse_dsn(target, to_schema)):
        raise click.UsageError("SRC and DST are the same store.")
    with SessionStore(source, schema=from_schema) as src:
        is_empty = not look_at(target, schema=to_schema).applied
        with SessionStore(target, schema=to_schema, migrate=is_empty) as dst:
            _copy(src, dst)
            before, after = copying.count_rows(src), copying.count_rows(dst)
    show_copied(Printer(), before, after)
    if any(after[table] < rows for table, rows in before.items()):
        click.echo("asm: DST has fewer rows than SRC: let nothing write to SRC, and copy again", err=True)
        sys.exit(1)


# Importing.


@dataclass
class _Imported:
    sessions: int = 0
    events: int = 0
    known: int = 0
    conflicts: int = 0
    failures: int = 0

    def add(self, written: ImportCounts) -> None:
        self.sessions += any(written)
        self.events += written.events
        self.known += not any(written)

    def summary(self) -> str:
        parts = [f"imported {counted(self.sessions, 'session')} with {counted(self.events, 'event')}"]
        if self.known:
            parts.append(f"{self.known:,} {_were(self.known)} there already")
        if self.conflicts:
            parts.append(f"{self.conflicts:,} {_were(self.conflicts)} there under other contents")
        if self.failures:
            parts.append(f"{self.failures:,} could not be read")
        return ", ".join(parts)


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _import(store: SessionStore, paths: Iterable[Path]) -> _Imported:
    imported = _Imported()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for file in progress.track(_files(paths, imported, console), description="Importing"):
            with _reporting(imported, console):
                _import_file(store, file, imported, console)
    return imported


def _import_file(store: SessionStore, file: Path, imported: _Imported, console: Console) -> None:
    for found in jsonl.read_stream(_standard_input()) if file == _PIPE else registry.read(file):
        try:
            imported.add(transfer.import_into(store, found))
        except Conflict as error:
            imported.conflicts += 1
            _report_failure(console, f"{file}: {error}")


def _standard_input() -> BufferedReader:
    if sys.stdin is None:
        raise ValidationError("the standard input is closed, so there is nothing to import")
    return BufferedReader(cast(RawIOBase, sys.stdin.buffer))


def _files(paths: Iterable[Path], imported: _Imported, console: Console) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        with _reporting(imported, console):
            files += [path] if path == _PIPE else registry.files(path)
    return files


@contextmanager
def _reporting(imported: _Imported, console: Console) -> Iterator[None]:
    """Say what is wrong with a file, and go on to the next."""
    try:
        yield
    except ValidationError as error:
        imported.failures += 1
        _report_failure(console, str(error))


def _report_failure(console: Console, complaint: str) -> None:
    console.print(Text(f"asm: {one_line(complaint)}"), soft_wrap=True)


# Exporting, and copying.


def _exports(
    store: SessionStore, session_ids: Iterable[str] | None, *, artifacts: bool
) -> Iterator[SessionExport]:
    if session_ids is not None:
        for session_id in session_ids:
            yield store.query.export_session(session_id, include_artifacts=artifacts)
        return
    for session in copying.all_sessions(store):
        # One that was deleted since is none of all any more.
        with suppress(SessionNotFound):
            yield store.query.export_session(session.id, include_artifacts=artifacts)


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file that is there when it is complete, or the standard output."""
    if path == _PIPE:
        yield _standard_output()
        return
    if not path.name:
        raise ValidationError("--output must name a file, or - for the standard output", path="output")
    try:
        if path.exists() and not path.is_file():
            # A device, or a pipe with a name, is written to. Replaced, it would be gone.
            with path.open("wb") as file:
                yield file
        else:
            # Where a link leads, lest a file takes the place of the link.
            with _appearing(Path(os.path.realpath(path))) as file:
                yield file
    except OSError as error:
        raise ValidationError(f"{path}: {error.strerror}", path=str(path)) from error


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _standard_output() -> BinaryIO:
    if sys.stdout is None:
        raise ValidationError("the standard output is closed: name a file with --output")
    return sys.stdout.buffer


def _is_same(place: dsns.Target, other: dsns.Target) -> bool:
    if place.dialect == other.dialect == "sqlite":
        return Path(place.address).resolve() == Path(other.address).resolve()
    return place == other


def _copy(source: SessionStore, target: SessionStore) -> None:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("Copying", total=sum(copying.count_rows(source).values()))
        for number in copying.copy(source, target):
            progress.advance(bar, number)
