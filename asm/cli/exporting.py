"""`asm export`: sessions to a file or a pipe."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import Progress

from asm import files
from asm.awaited import in_threads
from asm.cli import copying
from asm.cli.html import check_installed, write_html
from asm.cli.ids import complete_session_id, find_session_id
from asm.cli.options import dsn_option, open_store
from asm.cli.text import one_line, quantity
from asm.dsn import parse_dsn
from asm.errors import SessionNotFound, ValidationError
from asm.export_files import jsonl, text
from asm.formats import atif_export, session_trees
from asm.operations.exports import SessionExport
from asm.store import SessionStore
from asm.store_files import StoreFiles

_STANDARD_OUTPUT = Path("-")
_HEAD_BYTES = 4_096


@click.command()
@click.argument("sessions", metavar="[SESSION]...", nargs=-1, shell_complete=complete_session_id)
@click.option("--all", "all_sessions", is_flag=True, help="Export every session, also soft-deleted ones.")
@click.option("--artifacts", is_flag=True, help="Include the rows of artifacts, without their contents.")
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    default="-",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="The output file. Default: -, the standard output.",
)
@click.option(
    "--format",
    type=click.Choice(["jsonl", "atif", "html"]),
    default="jsonl",
    show_default=True,
    help="jsonl has all there is. atif is a trajectory, html a page of one session.",
)
@dsn_option
def export(
    sessions: Sequence[str],
    output: Path,
    dsn: str | None,
    schema: str | None,
    *,
    all_sessions: bool,
    artifacts: bool,
    format: str,
) -> None:
    """Export sessions as JSON Lines, or one as a trajectory or a page.

    SESSION is the id of a session or its beginning, if no other id begins so. Each session is a
    consistent snapshot. `asm import` reads JSON Lines and trajectories.

    FILE gets its name when the export is complete. A new file can only be read by its owner. An empty file
    or an earlier export is replaced and keeps its permissions. Any other file is kept, and the exit status
    is 1.

    \b
    asm export ses_1 ses_2 -o sessions.jsonl
    asm export --all --artifacts | gzip > store.jsonl.gz
    asm export ses_1 --format html -o session.html
    asm export ses_1 --format atif -o trajectory.json
    """
    if bool(sessions) == all_sessions:
        raise click.UsageError("Name the sessions to export, or give --all.")
    if format != "jsonl" and (len(sessions) != 1 or artifacts):
        raise click.UsageError(f"--format {format} exports one session, without --artifacts.")
    if format == "html":
        check_installed()
    if output in StoreFiles(parse_dsn(dsn, schema)):
        raise click.UsageError(f"{output} is a file of the store: name another file.")
    with open_store(dsn, schema) as store, _opened_for_writing(output) as file:
        # An unknown id is reported before anything is written.
        ids = None if all_sessions else dict.fromkeys(find_session_id(store, each) for each in sessions)
        if ids is not None and format == "html":
            exported = _Exported(1, write_html(dsn, schema, next(iter(ids)), file))
        elif ids is not None and format == "atif":
            exported = _write_atif(store, next(iter(ids)), file)
        else:
            exported = _write_lines(store, ids, output, file, artifacts=artifacts)
    if output != _STANDARD_OUTPUT:
        click.echo(f"{exported} to {one_line(str(output))}", err=True)


@dataclass
class _Exported:
    sessions: int = 0
    events: int = 0

    def count(
        self, exports: Iterable[SessionExport], advance: Callable[[], object]
    ) -> Iterator[SessionExport]:
        for export in exports:
            yield export
            self.sessions += 1
            self.events += len(export.events)
            advance()

    def __str__(self) -> str:
        return f"exported {quantity(self.sessions, 'session')} with {quantity(self.events, 'event')}"


def _write_lines(
    store: SessionStore, ids: Collection[str] | None, output: Path, file: BinaryIO, *, artifacts: bool
) -> _Exported:
    total = copying.count_rows(store)["sessions"] if ids is None else len(ids)
    exported = _Exported()
    with _progress(total, disable=output == _STANDARD_OUTPUT) as advance:
        exports = _exports(store, ids, artifacts=artifacts)
        file.writelines(jsonl.dump(exported.count(exports, advance)))
    return exported


def _write_atif(store: SessionStore, session_id: str, file: BinaryIO) -> _Exported:
    tree = asyncio.run(session_trees.read_tree(in_threads(store), session_id))
    file.write(atif_export.dump(tree))
    trees = list(tree.all())
    return _Exported(len(trees), sum(len(each.export.events) for each in trees))


def _exports(
    store: SessionStore, session_ids: Iterable[str] | None, *, artifacts: bool
) -> Iterator[SessionExport]:
    if session_ids is not None:
        for session_id in session_ids:
            yield store.query.export_session(session_id, include_artifacts=artifacts)
        return
    for session in copying.all_sessions(store):
        # The session may have been deleted since it was listed.
        with suppress(SessionNotFound):
            yield store.query.export_session(session.id, include_artifacts=artifacts)


@contextmanager
def _progress(total: int, *, disable: bool) -> Iterator[Callable[[], object]]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=disable or not console.is_terminal) as progress:
        bar = progress.add_task("Exporting", total=total)
        yield lambda: progress.advance(bar)


@contextmanager
def _opened_for_writing(path: Path) -> Iterator[BinaryIO]:
    """The standard output, or a file that gets its name when the block ends without an error."""
    if path == _STANDARD_OUTPUT:
        output = _standard_output()
        yield output
        # The interpreter flushes at its exit, where an error is no longer reported on one line.
        output.flush()
        return
    if not path.name:
        raise ValidationError("--output must name a file, or - for the standard output", path="output")
    try:
        # Replace the file that a symbolic link leads to, and not the link.
        target = files.followed(path)
        with _opened(path, target) as file:
            yield file
    except OSError as error:
        raise ValidationError(f"{path}: {error.strerror}", path=str(path)) from error


def _opened(path: Path, target: Path) -> AbstractContextManager[BinaryIO]:
    if path.exists() and not path.is_file():
        # Not the target: /dev/stdout may lead to a pipe, which has no path of its own.
        return files.writing_into(path)
    if target.exists():
        head = text.read_head(target, _HEAD_BYTES)
        if head and not (jsonl.sniff(target, head) or atif_export.sniff(head)):
            raise ValidationError(
                f"{path} exists and is no export: name another file, or delete it", path=str(path)
            )
    return files.replacing(target)


def _standard_output() -> BinaryIO:
    if sys.stdout is None:
        raise ValidationError("the standard output is closed: name a file with --output")
    return sys.stdout.buffer
