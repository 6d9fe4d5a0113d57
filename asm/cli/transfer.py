"""`asm export` and `asm copy`: sessions to a file, and a whole store to another."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import Progress

from asm.cli import copying
from asm.cli.display import show_copied
from asm.cli.ids import complete_session_id, find_session_id
from asm.cli.options import dsn_option, open_store
from asm.cli.printer import Printer
from asm.dsn import Target, as_secret, parse_dsn
from asm.errors import SessionNotFound, ValidationError
from asm.formats import jsonl
from asm.migrations import runner
from asm.operations.exports import SessionExport
from asm.store import SessionStore

_STANDARD_OUTPUT = Path("-")


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
@dsn_option
def export(
    sessions: Sequence[str],
    output: Path,
    dsn: str | None,
    schema: str | None,
    *,
    all_sessions: bool,
    artifacts: bool,
) -> None:
    """Export sessions with their runs and events as JSON Lines.

    `asm import` reads the output. Each session is a consistent snapshot. The output file is created
    when the export is complete; if the export fails, an existing file is unchanged.

    \b
    asm export ses_1 ses_2 -o sessions.jsonl
    asm export --all --artifacts | gzip > store.jsonl.gz
    """
    if bool(sessions) == all_sessions:
        raise click.UsageError("Name the sessions to export, or give --all.")
    with open_store(dsn, schema) as store, _opened_for_writing(output) as file:
        exports = _exports(store, None if all_sessions else sessions, artifacts=artifacts)
        file.writelines(jsonl.dump(exports))


@click.command()
@click.argument("source", metavar="SRC", type=as_secret)
@click.argument("target", metavar="DST", type=as_secret)
@click.option("--from-schema", metavar="NAME", help="The PostgreSQL schema of the tables of SRC.")
@click.option("--to-schema", metavar="NAME", help="The PostgreSQL schema of the tables of DST.")
def copy(source: str, target: str, from_schema: str | None, to_schema: str | None) -> None:
    """Copy a whole store into another.

    SRC and DST are DSNs, such as those of a SQLite file and of a PostgreSQL server. If DST has no tables,
    they are created. Ids, sequence numbers, times, soft-deleted sessions and the rows of artifacts are
    copied unchanged. Stop all programs that write to SRC first.

    Rows that exist in DST are skipped, so an interrupted copy is completed by running it again. A row
    that exists in DST with different contents is an error. At the end the rows of both stores are
    counted. The exit status is 1 if DST has fewer.

    \b
    asm copy sqlite:///agents.db postgresql://app@db/agents
    """
    if _is_same(parse_dsn(source, from_schema), parse_dsn(target, to_schema)):
        raise click.UsageError("SRC and DST are the same store.")
    with SessionStore(source, schema=from_schema) as src:
        is_empty = not runner.status(target, schema=to_schema).applied
        with SessionStore(target, schema=to_schema, migrate=is_empty) as dst:
            _copy(src, dst)
            source_rows, target_rows = copying.count_rows(src), copying.count_rows(dst)
    show_copied(Printer(), source_rows, target_rows)
    if any(target_rows[table] < rows for table, rows in source_rows.items()):
        click.echo(
            "asm: DST has fewer rows than SRC: stop the programs that write to SRC and copy again", err=True
        )
        sys.exit(1)


def _exports(
    store: SessionStore, session_ids: Iterable[str] | None, *, artifacts: bool
) -> Iterator[SessionExport]:
    if session_ids is not None:
        for session_id in session_ids:
            yield store.query.export_session(find_session_id(store, session_id), include_artifacts=artifacts)
        return
    for session in copying.all_sessions(store):
        # The session may have been deleted since it was listed.
        with suppress(SessionNotFound):
            yield store.query.export_session(session.id, include_artifacts=artifacts)


@contextmanager
def _opened_for_writing(path: Path) -> Iterator[BinaryIO]:
    """The standard output, or a file that is created when the block ends without an error."""
    if path == _STANDARD_OUTPUT:
        yield _standard_output()
        return
    if not path.name:
        raise ValidationError("--output must name a file, or - for the standard output", path="output")
    try:
        if path.exists() and not path.is_file():
            # Write into a device or a named pipe; do not replace it by a file.
            with path.open("wb") as file:
                yield file
        else:
            # Replace the file that a symbolic link leads to, and not the link.
            with _replacing(Path(os.path.realpath(path))) as file:
                yield file
    except OSError as error:
        raise ValidationError(f"{path}: {error.strerror}", path=str(path)) from error


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
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


def _is_same(source: Target, target: Target) -> bool:
    if source.dialect == target.dialect == "sqlite":
        return Path(source.address).resolve() == Path(target.address).resolve()
    return source == target


def _copy(source: SessionStore, target: SessionStore) -> None:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("Copying", total=sum(copying.count_rows(source).values()))
        for number in copying.copy(source, target):
            progress.advance(bar, number)
