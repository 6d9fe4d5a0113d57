"""The databases of a benchmark: a PostgreSQL schema or a SQLite file, removed after use."""

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
    """A schema with the store's tables."""

    dsn: str
    schema: str
    queries: QueryRegistry
    pgbench: Path | None
    server: Cpu | None
    """The CPU seconds of the server's processes, if the benchmark started the server."""

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.dsn, autocommit=True)

    def statement(self, name: str, **values: object) -> str:
        """The SQL that the store sends for a query, with its parameters in the driver's style."""
        (statement,) = self.queries[name].render(values).statements
        return statement.sql


@dataclass(frozen=True, slots=True)
class SQLiteFile:
    """A SQLite file with the store's tables."""

    path: Path

    @property
    def dsn(self) -> str:
        return f"sqlite:///{self.path}"


class Cpu:
    """The CPU time of all of a server's processes, ended ones included."""

    def __init__(self, postmaster: psutil.Process) -> None:
        self._postmaster = postmaster

    def __call__(self) -> float:
        # Repeat if a process ended during the sum: its time moves to that of its parent's children.
        while True:
            family = self._family()
            total = sum(map(self._of_itself, family))
            if self._family() == family:
                return total

    def _family(self) -> list[int]:
        """The ids of all processes. Linux lists them; psutil reads every process of the machine for them."""
        parent = self._postmaster.pid
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            return [parent, *(each.pid for each in self._postmaster.children())]
        return [parent, *map(int, children)]

    def _of_itself(self, pid: int) -> float:
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            ended = times.children_user + times.children_system if pid == self._postmaster.pid else 0.0
            return _precise(pid, float(times.user + times.system)) + float(ended)
        return 0.0


def _precise(pid: int, ticks_s: float) -> float:
    """Linux also counts nanoseconds. Ticks of 10 ms lost a third of 0.5 s over 32 connections."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError, ValueError):
        return ticks_s


class Databases:
    """The databases of one run of the bench, in a folder for temporary files unless another one is named."""

    def __init__(
        self, dsn: str | None = None, within: Path | None = None, *, distributed: bool = False
    ) -> None:
        """With `distributed`, the DSN is that of a coordinator of Citus, which distributes the tables."""
        self._dsn = dsn
        self._distributed = distributed
        self._within = within
        self._stack = ExitStack()
        folder = tempfile.TemporaryDirectory(prefix="asm-bench-", dir=within)
        self.folder = Path(self._stack.enter_context(folder))

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
        """A server with PostgreSQL's default settings: it syncs at every commit."""
        if self._dsn is not None or self._installation is None:
            return None
        return self._stack.enter_context(Server(installations()[0], self._within))

    @property
    def dsn(self) -> str | None:
        if self._dsn is not None:
            return self._dsn
        return self._server.dsn() if self._server else None

    @cached_property
    def cpu(self) -> Cpu | None:
        if self._server is None:
            return None
        pid = int((self._server.folder / "data" / "postmaster.pid").read_text().split()[0])
        return Cpu(psutil.Process(pid))

    @cached_property
    def pgbench(self) -> Path | None:
        """The pgbench of the server's installation, else the one on the path."""
        installed = self._installation / "pgbench" if self._installation else None
        found = shutil.which("pgbench")
        return installed if installed and installed.exists() else Path(found) if found else None

    @contextmanager
    def postgres(self, *, distributed: bool | None = None) -> Iterator[PostgresSchema]:
        """A new schema, so that nothing else in the database changes."""
        if self.dsn is None:
            raise LookupError("no PostgreSQL server found: name one with `make bench DSN=postgresql://…`")
        if distributed is None:
            distributed = self._distributed
        schema = f"asm_bench_{secrets.token_hex(4)}"
        asm.migrate(self.dsn, schema=schema, distributed=distributed)
        queries = QueryRegistry("postgres", schema, distributed=distributed)
        try:
            yield PostgresSchema(self.dsn, schema, queries, self.pgbench, self.cpu)
        finally:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                connection.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))
                if self._server is not None:
                    # So that the next benchmark does not sync what this one has written.
                    connection.execute("checkpoint")

    @contextmanager
    def file(self) -> Iterator[SQLiteFile]:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            database = SQLiteFile(Path(folder) / "bench.db")
            asm.migrate(database.dsn)
            yield database

    def settings(self) -> dict[str, str]:
        """The server's settings that matter to a benchmark."""
        if self.dsn is None:
            return {}
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            found = connection.execute(
                "select name, current_setting(name) from pg_settings where name = any(%s)", [list(SETTINGS)]
            )
            return dict(found.fetchall())
