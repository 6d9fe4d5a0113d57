"""The databases of histories: each history gets a new one."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

from psycopg import sql
from psycopg.conninfo import make_conninfo

import asm
from tests.fault.checker import REFUSED, REFUSED_BY_SQLITE, Rows, rows_in_postgres, rows_in_sqlite
from tests.fault.faults import ClientProcesses, Fault, PostgresFaults, SQLiteFaults, admin, terminate
from tests.fault.proxy import Proxy
from tests.servers import Installation, Server, fresh_folder

# The kernel keeps what a killed process has written, so nothing has to be synced.
SETTINGS = {"fsync": "off", "synchronous_commit": "on", "max_connections": "200"}
DISK_BYTES = 256 * 1024 * 1024


class SoakDatabase(Protocol):
    """A database of one kind. `with` opens it, and removes all of it at the end."""

    kind: str
    version: str
    refused: tuple[str, ...]
    """Errors after which nothing was written."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def fresh(self) -> list[str]:
        """Create an empty database with tables, and return the DSNs that lead to it."""

    def faults(self, clients: ClientProcesses, rng: random.Random) -> dict[str, Fault]:
        """Its faults by name."""

    def heal(self) -> None:
        """Undo all faults."""

    def rows(self) -> Rows:
        """The stored rows, when all clients have ended."""

    def keep(self, folder: Path) -> None:
        """Copy files that may explain a violation."""

    def forget(self) -> None:
        """Remove the database of the last history."""


class SoakPostgres:
    """A private server, reached directly and through a proxy."""

    kind = "PostgreSQL"
    refused: tuple[str, ...] = REFUSED

    def __init__(
        self,
        installation: Installation,
        folder: Path | None = None,
        *,
        settings: Mapping[str, str] = SETTINGS,
    ) -> None:
        self._server = Server(installation, folder=folder, settings=settings)
        self._name = ""
        self._number = 0

    def __enter__(self) -> Self:
        self._server.start()
        self._proxy = Proxy(self._server.dsn()).__enter__()
        with admin(self._server) as connection:
            [(version,)] = connection.execute("show server_version").fetchall()
        self.version = version.split()[0]
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.__exit__()
        self._server.close()

    def fresh(self) -> list[str]:
        self._number += 1
        self._name = f"history_{self._number}"
        with admin(self._server) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(self._name)))
        asm.migrate(self._dsn)
        return [make_conninfo(self._proxy.dsn, dbname=self._name), self._dsn]

    def faults(self, clients: ClientProcesses, rng: random.Random) -> dict[str, Fault]:
        return PostgresFaults(self._server, self._proxy, self._name, rng).by_name()

    def heal(self) -> None:
        self._proxy.mend()
        self._proxy.accept()
        self._proxy.cut()

    def rows(self) -> Rows:
        with admin(self._server) as connection:
            # The server may still execute statements of clients that have ended.
            while connection.execute(CONNECTED, [self._name]).fetchone() is not None:
                terminate(connection, self._name, share=1)
                time.sleep(0.02)
        return rows_in_postgres(self._dsn)

    def keep(self, folder: Path) -> None:
        shutil.copy(self._server.log, folder / "server.log")

    def forget(self) -> None:
        with admin(self._server) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(self._name)))

    @property
    def _dsn(self) -> str:
        return self._server.dsn(self._name)


CONNECTED = "select from pg_stat_activity where datname = %s and backend_type = 'client backend'"


class SoakSQLite:
    """A file on a small private file system, or in a folder if none can be mounted."""

    kind = "SQLite"
    version = sqlite3.sqlite_version
    refused: tuple[str, ...] = REFUSED_BY_SQLITE

    def __enter__(self) -> Self:
        self._disk = fresh_folder()
        self._is_mounted = _succeeds(
            "mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self._disk)
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_mounted:
            _succeeds("umount", "--lazy", str(self._disk))
        shutil.rmtree(self._disk, ignore_errors=True)

    def fresh(self) -> list[str]:
        asm.migrate(self._dsn)
        return [self._dsn]

    def faults(self, clients: ClientProcesses, rng: random.Random) -> dict[str, Fault]:
        return SQLiteFaults(self._file, rng, clients).by_name(is_mounted=self._is_mounted)

    def heal(self) -> None:
        """The faults of a file do not last."""

    def rows(self) -> Rows:
        return rows_in_sqlite(str(self._file))

    def keep(self, folder: Path) -> None:
        for file in self._disk.glob("store.db*"):
            shutil.copy(file, folder)

    def forget(self) -> None:
        for file in self._disk.iterdir():
            file.unlink()

    @property
    def _file(self) -> Path:
        return self._disk / "store.db"

    @property
    def _dsn(self) -> str:
        return f"sqlite:///{self._file}"


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False
