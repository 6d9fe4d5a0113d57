"""Where a question is measured: a PostgreSQL schema or a SQLite file of its own, gone afterwards."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

import asm
from asm.engine.registry import QueryRegistry
from tests.servers import Server, installations

SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "jit",
    "max_connections",
)


@dataclass(frozen=True, slots=True)
class PostgresSchema:
    """A schema with our tables in it."""

    dsn: str
    schema: str
    queries: QueryRegistry
    pgbench: Path | None
    server: Cpu | None
    """The CPU seconds of the server's processes, where the server is ours."""

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.dsn, autocommit=True)

    def statement(self, name: str, **given: object) -> str:
        """The SQL that the store sends for a query, with its parameters in the driver's style."""
        (statement,) = self.queries[name].render(given).statements
        return statement.sql


@dataclass(frozen=True, slots=True)
class SQLiteFile:
    """A SQLite file with our tables in it."""

    path: Path

    @property
    def dsn(self) -> str:
        return f"sqlite:///{self.path}"


class Cpu:
    """The CPU time of a server's processes together; of those that have ended, too."""

    def __init__(self, postmaster: psutil.Process) -> None:
        self._postmaster = postmaster

    def __call__(self) -> float:
        # Again, if one has ended meanwhile: its time moves to its parent's children's.
        while True:
            family = self._family()
            total = sum(self._of_itself(process) for process in family)
            if self._family() == family:
                return total

    def _family(self) -> list[psutil.Process]:
        return [self._postmaster, *self._postmaster.children(recursive=True)]

    def _of_itself(self, process: psutil.Process) -> float:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            ended = times.children_user + times.children_system if process == self._postmaster else 0.0
            return _precise(process.pid, float(times.user + times.system)) + float(ended)
        return 0.0


def _precise(pid: int, ticks_s: float) -> float:
    """Linux counts nanoseconds, too; ticks of 10 ms lost a third of half a second over 32 connections."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError, ValueError):
        return ticks_s


class Databases:
    """The databases of one run of the bench."""

    def __init__(self, dsn: str | None = None) -> None:
        self._getconn = dsn
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="asm-bench-")))

    def __enter__(self) -> Databases:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def _installation(self) -> Path | None:
        found = installations()
        return found[0].bin if found else None

    @cached_property
    def _server(self) -> Server | None:
        """A server of our own with everything as PostgreSQL ships it: it syncs at every commit."""
        if self._getconn is not None or self._installation is None:
            return None
        return self._stack.enter_context(Server(installations()[0]))

    @property
    def dsn(self) -> str | None:
        if self._getconn is not None:
            return self._getconn
        return self._server.dsn() if self._server else None

    @cached_property
    def cpu(self) -> Cpu | None:
        if self._server is None:
            return None
        pid = int((self._server.folder / "data" / "postmaster.pid").read_text().split()[0])
        return Cpu(psutil.Process(pid))

    @cached_property
    def pgbench(self) -> Path | None:
        """The server's own, else the machine's."""
        beside = self._installation / "pgbench" if self._installation else None
        found = shutil.which("pgbench")
        return beside if beside and beside.exists() else Path(found) if found else None

    @contextmanager
    def postgres(self) -> Iterator[PostgresSchema]:
        """A schema of its own, so that nothing of a given database is touched."""
        if self.dsn is None:
            raise LookupError("there is no PostgreSQL here; `make bench DSN=postgresql://…` measures another")
        schema = f"asm_bench_{secrets.token_hex(4)}"
        asm.migrate(self.dsn, schema=schema)
        try:
            yield PostgresSchema(self.dsn, schema, QueryRegistry("postgres", schema), self.pgbench, self.cpu)
        finally:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                connection.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))
                if self._server is not None:
                    # What one question has written is not to be synced in the next one's time.
                    connection.execute("checkpoint")

    @contextmanager
    def file(self) -> Iterator[SQLiteFile]:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            place = SQLiteFile(Path(folder) / "bench.db")
            asm.migrate(place.dsn)
            yield place

    def settings(self) -> dict[str, str]:
        """What the server says of itself, of what matters here."""
        if self.dsn is None:
            return {}
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            found = connection.execute(
                "select name, current_setting(name) from pg_settings where name = any(%s)", [list(SETTINGS)]
            )
            return dict(found.fetchall())
