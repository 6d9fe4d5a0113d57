"""Other clients of a store's database: an application's statements, yoyo's command, other processes."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import conninfo_to_dict
from yoyo.scripts.main import main as yoyo_main

from asm import dsn as dsns
from asm.engine.registry import sql_folder
from asm.engine.script import Rows, Script, UnitOfWork
from asm.migrations import files
from tests.conftest import CITUS_DSN, Blocking, in_loop

ROOT = Path(__file__).parents[2]
STEPS = list(files.MIGRATIONS)
STEP, LAST_STEP = STEPS[0], STEPS[-1]
CAP_DAC_OVERRIDE = 1 << 1
SHORT_S = 3.0
"""A timeout that a test waits for, of a store whose other calls succeed within it on a busy machine."""
LOCK_WAITS = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
if CITUS_DSN:
    LOCK_WAITS += " union all select 1 from citus_lock_waits"
"""Returns a row while a statement in the database, or on the workers for it, waits for a lock."""
needs_triggers = pytest.mark.skipif(CITUS_DSN is not None, reason="Citus refuses triggers on its tables")
TABLES = {"asm_sessions", "asm_runs", "asm_events", "asm_session_sequences", "asm_artifacts"}

STOPPING_STEP = """
import sys
from yoyo import step

def stop(connection):
    print("stopped", flush=True)
    sys.stdin.readline()

step(stop)
"""


def only(kinds: Sequence[str], *, why: str) -> pytest.MarkDecorator:
    """Mark a test of a promise that only some databases make; `why` says why the others do not."""
    assert why
    return pytest.mark.parametrize("kind", kinds, indirect=True)


def driver_connection(dsn: str) -> AbstractContextManager[Any]:
    """A connection of the driver in autocommit mode, which does not wait for a lock on SQLite."""
    target = dsns.parse_dsn(dsn)
    if target.dialect == "sqlite":
        return closing(sqlite3.connect(target.address, isolation_level=None, timeout=0))
    return psycopg.connect(target.address, autocommit=True)


@contextmanager
def opened_pool(dsn: str, colour: str, **kwargs: Any) -> Iterator[Any]:
    """A pool of an application, blocking or async, with these options of its connections."""
    if colour == "sync":
        with psycopg_pool.ConnectionPool(dsn, kwargs=kwargs, min_size=1, open=True) as pool:
            yield pool
        return
    async_pool = in_loop(_opened_async_pool(dsn, kwargs))
    try:
        yield async_pool
    finally:
        in_loop(async_pool.close())


async def _opened_async_pool(dsn: str, kwargs: dict[str, Any]) -> Any:
    pool = psycopg_pool.AsyncConnectionPool(dsn, kwargs=kwargs, min_size=1, open=False)
    await pool.open()
    return pool


def fetch_rows(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """Execute a statement on a new connection and return its rows."""
    with driver_connection(dsn) as connection:
        cursor = connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def tables(dsn: str, schema: str = "public") -> set[str]:
    """The names of all tables, those of other applications included."""
    name = "'" + schema.replace("'", "''") + "'"
    if CITUS_DSN and schema == "public":
        name = "current_schema()"
    listed = {
        "sqlite": "select name from sqlite_master where type = 'table'",
        "postgres": f"select tablename from pg_tables where schemaname = {name}",
    }
    return {name for (name,) in fetch_rows(dsn, listed[dsns.parse_dsn(dsn).dialect])}


def open_files() -> list[Path]:
    """The files that this process has open."""
    return [each.resolve() for each in Path("/proc/self/fd").iterdir()]


def copied_folder(to: Path) -> Path:
    """A copy of the `sql` folder that a test can change."""
    return Path(shutil.copytree(sql_folder("sqlite").parent, to))


def ids_in(folder: Path) -> list[str]:
    """The ids of all migrations in an `sql` folder that a store needs, in order."""
    found = folder.rglob("migrations/*.rollback.sql")
    return sorted({file.name.removesuffix(".rollback.sql") for file in found})


def use_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make this process one of a release whose migrations are those in an `sql` folder."""
    monkeypatch.setattr(files, "sql_folder", folder.joinpath)
    monkeypatch.setattr(files, "MIGRATIONS", ids_in(folder))
    monkeypatch.setattr(files, "OPTIONAL", {})


def add_migration(folder: Path, dsn: str, id: str, statements: str, undo: str = "") -> None:
    """Add a migration to the `sql` folder that `use_folder` was given."""
    file = folder / dsns.parse_dsn(dsn).dialect / "migrations" / f"{id}.sql"
    file.write_text(f"-- {id}.\n-- depends: {LAST_STEP}\n\n{statements}\n")
    file.with_suffix(".rollback.sql").write_text(undo)
    vars(files)["MIGRATIONS"] = ids_in(folder)


def folder_that_stops(to: Path, dsn: str, *, at: str) -> Path:
    """Migrations for yoyo's command, one of which prints "stopped" and waits for a line of input."""
    migrations = copied_folder(to) / dsns.parse_dsn(dsn).dialect / "migrations"
    (migrations / f"{at}.py").write_text(STOPPING_STEP)
    return migrations


def migrations_of(dsn: str) -> Path:
    return sql_folder(dsns.parse_dsn(dsn).dialect) / "migrations"


def yoyo(command: str, dsn: str, folder: Path | None = None) -> str:
    """Run yoyo's command in a forked child, where yoyo is imported already, and return its output."""
    options = yoyo_options(command, dsn, folder or migrations_of(dsn))

    def printed() -> str:
        with redirect_stdout(StringIO()) as output, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert not yoyo_main(options)
        return output.getvalue()

    with warnings.catch_warnings():
        # The child waits for no thread of the test process.
        warnings.simplefilter("ignore", DeprecationWarning)
        outcome = run_in_fork(printed)
    assert isinstance(outcome, str), outcome
    return outcome


def yoyo_running(command: str, dsn: str, folder: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    return running("yoyo", *yoyo_options(command, dsn, folder))


def yoyo_options(command: str, dsn: str, folder: Path) -> list[str]:
    return [*command.split(), "--batch", "--no-config-file", "--database", yoyo_url(dsn), str(folder)]


def yoyo_url(dsn: str) -> str:
    target = dsns.parse_dsn(dsn)
    if target.dialect == "sqlite":
        return f"sqlite:///{target.address}"
    return f"postgresql+psycopg://{url_part(dsn)}"


def url_part(dsn: str, **changed: str) -> str:
    """The part of a PostgreSQL URL after the scheme."""
    given = {"port": "5432", "password": "", **conninfo_to_dict(dsn), **changed}
    part = {name: quote(str(value), safe="") for name, value in given.items()}
    return f"{part['user']}:{part['password']}@{part['host']}:{part['port']}/{part['dbname']}"


@contextmanager
def running(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process with pipes for its input and output; killed if it still runs after the block."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout
    return process.stdout.readline().strip()


def send_line(process: subprocess.Popen[str], line: str = "") -> None:
    assert process.stdin
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def run_in_fork(work: Callable[[], Any]) -> Any:
    """The result or the error's type of `work` in a forked child, which exits without any cleanup."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, pickle.dumps(_outcome(work)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        outcome = pickle.loads(pipe.read())
    os.waitpid(child, 0)
    return outcome


def obey_file_permissions() -> None:
    """Take from root the right to write where permissions forbid it. Root still reads every file."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, own_process = 0x20080522, 0
    header = (ctypes.c_uint32 * 2)(version_3, own_process)
    # The effective, permitted and inheritable sets of the first and of the second 32 capabilities.
    capabilities = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, capabilities) == 0, os.strerror(ctypes.get_errno())
    capabilities[0] &= ~CAP_DAC_OVERRIDE
    assert libc.capset(header, capabilities) == 0, os.strerror(ctypes.get_errno())


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BaseException as error:
        return type(error)


def with_interference(
    unit: UnitOfWork[Any], disturb: Callable[[], object], *, after: str | None = None
) -> UnitOfWork[Any]:
    """A unit of work that calls `disturb` after each query, or after the query named `after`."""

    def script() -> Script[Any]:
        rows: Rows | None = None
        inner = iter(unit)
        while True:
            try:
                query = inner.send(rows) if rows is not None else next(inner)
            except StopIteration as end:
                return end.value
            rows = yield query
            if after in (None, query.query):
                disturb()

    return UnitOfWork(script, snapshot=unit.snapshot)


def run_operation(store: Any, operation: UnitOfWork[Any]) -> Any:
    """Run an operation on the database of a blocking or async store, and return its result."""
    if isinstance(store, Blocking):
        return in_loop(store._target._database.run(operation))
    return store._database.run(operation)
