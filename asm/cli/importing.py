"""`asm import`: sessions from files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from io import BufferedReader, RawIOBase
from pathlib import Path
from threading import Event
from typing import cast

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from asm.cli.following import Follower, changes, stopped_by_signals
from asm.cli.options import dsn_option, open_store
from asm.cli.text import one_line, quantity
from asm.dsn import parse_dsn
from asm.engine.jobs import run_job
from asm.errors import Conflict, StorageError, ValidationError
from asm.formats.importing import FoundFile, Importer, ImportReport
from asm.operations.text_index import index_events
from asm.store import SessionStore
from asm.store_files import StoreFiles

_STANDARD_INPUT = Path("-")

_LOGS_KEPT = 32
"""The logs that are held in memory with --follow, so that their new lines alone are read."""

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
@click.option("--strict", is_flag=True, help="Exit with 1 if a file in a folder cannot be imported, too.")
@click.option("--follow", "-f", is_flag=True, help="Go on as the files of the folders grow, until Ctrl-C.")
@dsn_option
def import_(
    paths: Sequence[Path], dsn: str | None, schema: str | None, *, strict: bool, follow: bool
) -> None:
    """Import sessions from the logs of other tools, and from exports.

    PATH is a file, a folder of files, or - for an export on the standard input. Importing again adds what
    is new, and keeps what was changed in the store. An export of `asm export` keeps its ids, sequence
    numbers and times, and may be compressed with gzip.

    Files that cannot be imported, and sessions that exist with different contents, are listed at the end,
    and the others are imported. The exit status is 1 if one of them was named, or if --strict is given.
    Files of a folder that have another format are passed over. A SQLite file that does not exist is created.
    For any other store, run `asm migrate` first.

    With --follow, files of the folders are imported as they are written, and what cannot be imported is
    named at once. Ctrl-C or SIGTERM ends the command when the file that is being read is stored, with the
    status 0.

    \b
    asm import ~/.claude/projects ~/.codex --dsn sqlite:///agents.db
    asm import --follow ~/.claude/projects --dsn sqlite:///agents.db
    asm import runs/*.traj --dsn sqlite:///agents.db
    asm export ses_1 | asm import - --dsn postgresql://app@db/agents
    """
    target = parse_dsn(dsn, schema)
    own = StoreFiles(target)
    for path in paths:
        if path != _STANDARD_INPUT and path in own:
            raise click.UsageError(f"{path} is a file of the store: to copy a store use `asm copy`.")
    if follow and (others := [path for path in paths if not path.is_dir()]):
        raise click.UsageError(f"--follow needs folders, and {others[0]} is not one.")
    console = Console(stderr=True)
    with open_store(dsn, schema, migrate=target.is_new_file) as store:
        if follow:
            _follow(store, paths, own, console)
            return
        report = _import_all(store, paths, own, console)
        _index(store, console)
    _print_problems(report, console)
    click.echo(_summary(report))
    sys.exit(1 if any(failure.named or strict for failure in report.failures) else 0)


def _import_all(
    store: SessionStore, paths: Sequence[Path], own: StoreFiles, console: Console
) -> ImportReport:
    importer = Importer(store)
    if _STANDARD_INPUT in paths:
        importer.import_stream(_standard_input(), "the standard input")
    found = importer.find([path for path in paths if path != _STANDARD_INPUT], own.__contains__)
    _import_found(importer, found, console)
    return importer.report


def _import_found(
    importer: Importer, found: Sequence[FoundFile], console: Console, stop: Event | None = None
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Importing", total=len(found))
        for file in found:
            if stop is not None and stop.is_set():
                return
            importer.import_file(file)
            progress.advance(task)


class _Stopped(Exception):
    """The command is to end between two batches of the index."""


def _index(store: SessionStore, console: Console, stop: Event | None = None) -> None:
    """Add what was imported to the index of words, if the store has one.

    A role that may not write to the index leaves the events to the searches.
    """

    def check(_: int) -> None:
        if stop is not None and stop.is_set():
            raise _Stopped

    # Without a terminal no thread is needed that shows the status.
    shown = console.status("Indexing") if console.is_terminal else nullcontext()
    with suppress(StorageError, _Stopped), shown:
        run_job(index_events(check), store._database)


def _follow(store: SessionStore, folders: Sequence[Path], own: StoreFiles, console: Console) -> None:
    """Import what is in some folders, and then what changes there."""
    importer = Importer(store, logs_kept=_LOGS_KEPT)
    follower = Follower(importer, own, lambda failure: _print_error(console, str(failure)))
    is_first = True
    with stopped_by_signals() as stop:
        for changed in changes(folders, stop):
            if changed is not None:
                before = importer.report.events
                follower.import_changed(changed)
                if importer.report.events != before:
                    _index(store, console, stop)
                continue
            found = importer.find(folders, own.__contains__, may_be_empty=True)
            _import_found(importer, found, console, stop)
            follower.report_failures(file.path for file in found)
            importer.report.skipped.clear()
            _index(store, console, stop)
            if is_first:
                click.echo(_summary(importer.report))
                _print_error(console, f"following {quantity(len(folders), 'folder')}, Ctrl-C ends it")
                importer.report, is_first = ImportReport(), False
    click.echo(f"imported {quantity(importer.report.events, 'more event')}")


def _summary(report: ImportReport) -> str:
    conflicts = sum(isinstance(failure.error, Conflict) for failure in report.failures)
    parts = [f"imported {quantity(report.sessions, 'session')} with {quantity(report.events, 'event')}"]
    if report.unchanged:
        parts.append(f"{report.unchanged:,} already existed")
    if conflicts:
        parts.append(f"{conflicts:,} existed with different contents")
    if failures := len(report.failures) - conflicts:
        parts.append(f"{failures:,} could not be read")
    if report.skipped:
        parts.append(f"{quantity(len(report.skipped), 'file')} passed over")
    return ", ".join(parts)


def _standard_input() -> BufferedReader:
    if sys.stdin is None:
        raise ValidationError("the standard input is closed: name a file to import")
    return BufferedReader(cast(RawIOBase, sys.stdin.buffer))


def _print_problems(report: ImportReport, console: Console) -> None:
    for path, reason in report.skipped[:_NAMED_MAX]:
        _print_error(console, f"passed over {path}: {reason}")
    if (more := len(report.skipped) - _NAMED_MAX) > 0:
        _print_error(console, f"passed over {quantity(more, 'more file')}")
    for failure in report.failures:
        _print_error(console, str(failure))


def _print_error(console: Console, message: str) -> None:
    console.print(Text(f"asm: {one_line(message)}"), soft_wrap=True)
