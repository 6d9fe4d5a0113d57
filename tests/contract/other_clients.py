"""Others on a store's database: an application's statements, yoyo's own command, a process of its own."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from asm import dsn as dsns
from asm.engine.registry import sql_folder
from asm.engine.script import Rows, Script, UnitOfWork
from asm.migrations.files import list_files
from tests.conftest import Blocking, in_loop

ROOT = Path(__file__).parents[2]
STEPS = [file.id for file in list_files("sqlite")]
STEP, LAST_STEP = STEPS[0], STEPS[-1]
CAP_DAC_OVERRIDE = 1 << 1
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
    """For a promise that only some databases make; `why` says why the others do not."""
    assert why
    return pytest.mark.parametrize("kind", kinds, indirect=True)


def driver_connection(dsn: str) -> AbstractContextManager[Any]:
    """A connection that is not the store's, in autocommit and with no patience."""
    place = dsns.parse_dsn(dsn)
    if place.dialect == "sqlite":
        return closing(sqlite3.connect(place.address, isolation_level=None, timeout=0))
    return psycopg.connect(place.address, autocommit=True)


def fetch_rows(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    """The rows of a statement on a connection of its own."""
    with driver_connection(dsn) as connection:
        cursor = connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def tables(dsn: str, schema: str = "public") -> set[str]:
    """The names of all tables, the store's and others."""
    name = schema.replace("'", "''")
    listed = {
        "sqlite": "select name from sqlite_master where type = 'table'",
        "postgres": f"select tablename from pg_tables where schemaname = '{name}'",
    }
    return {name for (name,) in fetch_rows(dsn, listed[dsns.parse_dsn(dsn).dialect])}


def open_files() -> list[Path]:
    """The files that this process has open."""
    return [each.resolve() for each in Path("/proc/self/fd").iterdir()]


def copied_folder(to: Path) -> Path:
    """A copy of the `sql` folder, to be changed."""
    return Path(shutil.copytree(sql_folder("sqlite").parent, to))


def folder_that_stops(to: Path, dsn: str, *, at: str) -> Path:
    """A folder with our migrations and one more, that says "stopped" and goes on when it is told to."""
    migrations = copied_folder(to) / dsns.parse_dsn(dsn).dialect / "migrations"
    (migrations / f"{at}.py").write_text(STOPPING_STEP)
    return migrations


def migrations_of(dsn: str) -> Path:
    return sql_folder(dsns.parse_dsn(dsn).dialect) / "migrations"


def yoyo(command: str, dsn: str, folder: Path | None = None) -> str:
    """What yoyo's own command prints."""
    with yoyo_running(command, dsn, folder or migrations_of(dsn)) as process:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        return output


def yoyo_running(command: str, dsn: str, folder: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    options = [*command.split(), "--batch", "--no-config-file", "--database", yoyo_url(dsn), str(folder)]
    return running("yoyo", *options)


def yoyo_url(dsn: str) -> str:
    place = dsns.parse_dsn(dsn)
    if place.dialect == "sqlite":
        return f"sqlite:///{place.address}"
    return f"postgresql+psycopg://{url_part(dsn)}"


def url_part(dsn: str, **changed: str) -> str:
    """What stands behind the scheme of a PostgreSQL URL."""
    given = {"port": "5432", "password": "", **conninfo_to_dict(dsn), **changed}
    part = {name: quote(str(value), safe="") for name, value in given.items()}
    return f"{part['user']}:{part['password']}@{part['host']}:{part['port']}/{part['dbname']}"


@contextmanager
def running(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program of its own, with a pipe at every end; killed where the test leaves it alive."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line a process prints."""
    assert process.stdout
    return process.stdout.readline().strip()


def send_line(process: subprocess.Popen[str], line: str = "") -> None:
    assert process.stdin
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def run_in_fork(work: Callable[[], Any]) -> Any:
    """What work returns or raises in a forked child, which ends without tidying up what it inherited."""
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
    """Let this process write only what its permissions allow, root's too. It can still read everything."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, own_process = 0x20080522, 0
    header = (ctypes.c_uint32 * 2)(version_3, own_process)
    # Twice (effective, permitted, inheritable), of 32 capabilities each.
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
    question: UnitOfWork[Any], disturb: Callable[[], object], *, after: str | None = None
) -> UnitOfWork[Any]:
    """A plan after each of whose questions, or after the one of that name, something happens."""

    def plan() -> Script[Any]:
        rows: Rows | None = None
        inner = iter(question)
        while True:
            try:
                ask = inner.send(rows) if rows is not None else next(inner)
            except StopIteration as end:
                return end.value
            rows = yield ask
            if after in (None, ask.query):
                disturb()

    return UnitOfWork(plan, snapshot=question.snapshot)


def run_operation(store: Any, question: UnitOfWork[Any]) -> Any:
    """The answer to a question of our own, in a store of either colour."""
    if isinstance(store, Blocking):
        return in_loop(store._target._database.run(question))
    return store._database.run(question)
