"""Where histories happen: a database, what is stored in it, and what can go wrong with it.

Every fault is a method that does it and undoes it; when it returns, the database is well again.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

import asm
from tests.fault.checker import REFUSED, REFUSED_BY_SQLITE, Rows, rows_in_postgres, rows_in_sqlite
from tests.fault.history import PIECE_BYTES
from tests.fault.proxy import Moment, Proxy, Way
from tests.servers import Installation, Server, fresh_folder

# A process that is killed has given its data to the kernel, so nothing has to reach the disk.
SETTINGS = {"fsync": "off", "synchronous_commit": "on", "max_connections": "200"}
SWALLOWED: list[tuple[Way, ...]] = [("server",), ("client",), ("server", "client")]
DISK_BYTES = 256 * 1024 * 1024

Fault = Callable[[], None]


class Crowd(Protocol):
    """The clients, as far as a fault of the database needs them."""

    def some_pid(self) -> int | None: ...

    def await_all(self) -> None: ...

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """All clients are killed, and others take their place in here; and again at the end."""
        yield


class Place(Protocol):
    """A database of one kind, in which one history follows the other."""

    kind: str
    version: str
    refused: tuple[str, ...]

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def fresh(self) -> list[str]:
        """An empty database with tables, and the DSNs that lead to it."""

    def faults(self, crowd: Crowd, chance: random.Random) -> dict[str, Fault]:
        """What can be done to it, by name."""

    def heal(self) -> None:
        """Leave nothing of any fault."""

    def rows(self) -> Rows:
        """What is stored, when nobody is connected any more."""

    def keep(self, folder: Path) -> None:
        """Keep what is stored for whoever looks into a violation."""

    def forget(self) -> None:
        """Make room for the next history."""


class PostgresPlace:
    """A server of its own, reached directly and through a proxy."""

    kind = "PostgreSQL"
    refused: tuple[str, ...] = REFUSED

    def __init__(
        self,
        installation: Installation,
        folder: Path | None = None,
        *,
        settings: Mapping[str, str] = SETTINGS,
        only: Collection[str] = (),
    ) -> None:
        self._server = Server(installation, folder=folder, settings=settings)
        self._only = only
        self._name = ""
        self._number = 0

    def __enter__(self) -> Self:
        self._server.start()
        self._proxy = Proxy(self._server.dsn()).__enter__()
        with self._admin() as admin:
            self.version = admin.execute("show server_version").fetchone()[0].split()[0]  # type: ignore[index]
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.__exit__()
        self._server.close()

    def fresh(self) -> list[str]:
        self._number += 1
        self._name = f"history_{self._number}"
        with self._admin() as admin:
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(self._name)))
        asm.migrate(self._dsn)
        return [make_conninfo(self._proxy.dsn, dbname=self._name), self._dsn]

    def faults(self, crowd: Crowd, chance: random.Random) -> dict[str, Fault]:
        proxy = self._proxy

        def wait(least_s: float, most_s: float) -> None:
            time.sleep(chance.uniform(least_s, most_s))

        def stop_immediately() -> None:
            self._server.stop("immediate")
            wait(0, 3)
            self._server.start()

        def kill_server() -> None:
            self._server.kill()
            wait(0, 2)
            self._server.start()

        def restart() -> None:
            self._server.restart()

        def terminate() -> None:
            for _ in range(chance.randint(1, 4)):
                with self._admin() as admin:
                    admin.execute(TERMINATE_SOME, [self._name, chance.random()])
                wait(0, 0.2)

        def read_only() -> None:
            self._set_read_only(True)
            try:
                wait(0.2, 2.5)
            finally:
                self._set_read_only(False)

        def hold_lock() -> None:
            with closing(psycopg.connect(self._dsn)) as holder, suppress(psycopg.Error):
                holder.execute(LOCK_SOME_COUNTER)
                wait(0.2, 6)

        def cut() -> None:
            proxy.cut()

        def cut_at_commit(moment: Moment) -> Fault:
            def cut() -> None:
                # A transaction says it; a lone append says nothing but its document, and commits.
                needle = chance.choice([b"commit", b'"of":'])
                proxy.cut_when(needle, moment, times=chance.randint(1, 5))
                wait(0.2, 1)

            return cut

        def black_hole() -> None:
            proxy.black_hole(*chance.choice(SWALLOWED))
            wait(0.2, 3)
            proxy.mend()
            if chance.random() < 0.5:
                proxy.cut()

        def unplug() -> None:
            proxy.unplug()
            wait(0.2, 3)
            proxy.mend()

        def delay() -> None:
            proxy.delay(chance.uniform(0.02, 0.4))
            wait(0.5, 2)
            proxy.mend()

        def half_close() -> None:
            proxy.half_close()

        def refuse() -> None:
            proxy.refuse()
            proxy.cut()
            wait(0.2, 3)
            proxy.accept()

        faults: dict[str, Fault] = {
            "server stopped immediately": stop_immediately,
            "server killed with -9": kill_server,
            "server restarted": restart,
            "backends terminated": terminate,
            "turned read-only and back": read_only,
            "a foreign lock": hold_lock,
            "connections cut": cut,
            "cut before a commit": cut_at_commit("before"),
            "cut in a commit": cut_at_commit("in"),
            "cut after a commit": cut_at_commit("after"),
            "black hole": black_hole,
            "cable unplugged": unplug,
            "delay": delay,
            "half closed": half_close,
            "connections refused": refuse,
        }
        return {name: faults[name] for name in self._only} or faults

    def heal(self) -> None:
        self._proxy.mend()
        self._proxy.accept()
        # What once fell into a black hole stays there until somebody's patience ends.
        self._proxy.cut()

    def rows(self) -> Rows:
        with self._admin() as admin:
            # The server may still be busy with what somebody asked who has gone.
            while admin.execute(CONNECTED, [self._name]).fetchone() is not None:
                admin.execute(TERMINATE_SOME, [self._name, 1.0])
                time.sleep(0.02)
        return rows_in_postgres(self._dsn)

    def keep(self, folder: Path) -> None:
        shutil.copy(self._server.log, folder / "server.log")

    def forget(self) -> None:
        with self._admin() as admin:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(self._name)))

    @property
    def _dsn(self) -> str:
        return self._server.dsn(self._name)

    def _admin(self) -> psycopg.Connection:
        options = "-c default_transaction_read_only=off"
        return psycopg.connect(self._server.socket_dsn(), autocommit=True, options=options)

    def _set_read_only(self, is_on: bool) -> None:
        with self._admin() as admin:
            admin.execute(
                f"alter system set default_transaction_read_only = {'on' if is_on else 'off'}".encode()
            )
            admin.execute("select pg_reload_conf()")


TERMINATE_SOME = """
    select pg_terminate_backend(pid) from pg_stat_activity
     where datname = %s and backend_type = 'client backend' and random() < %s
"""
CONNECTED = "select from pg_stat_activity where datname = %s and backend_type = 'client backend'"
LOCK_SOME_COUNTER = "select from asm_session_sequences order by random() limit 1 for update"


class SQLitePlace:
    """A file on a small file system of its own where one may be mounted, else in a folder."""

    kind = "SQLite"
    version = sqlite3.sqlite_version
    refused: tuple[str, ...] = REFUSED_BY_SQLITE

    def __enter__(self) -> Self:
        self._disk = fresh_folder()
        self.is_mounted = _told("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self._disk))
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_mounted:
            _told("umount", "--lazy", str(self._disk))
        shutil.rmtree(self._disk, ignore_errors=True)

    def fresh(self) -> list[str]:
        asm.migrate(self._dsn)
        return [self._dsn]

    def faults(self, crowd: Crowd, chance: random.Random) -> dict[str, Fault]:
        def wait(least_s: float, most_s: float) -> None:
            time.sleep(chance.uniform(least_s, most_s))

        def hold_lock() -> None:
            with closing(sqlite3.connect(self._file, isolation_level=None, timeout=5)) as holder:
                holder.execute("begin immediate")
                wait(0.1, 6)

        def truncate_log() -> None:
            with closing(sqlite3.connect(self._file, timeout=1)) as connection:
                connection.execute("pragma wal_checkpoint(truncate)").fetchall()

        def limit_files() -> None:
            # Every write of that process beyond this size fails, as on a disk that is full.
            if (pid := crowd.some_pid()) is None:
                return
            with suppress(ProcessLookupError, FileNotFoundError):
                size = max(chance.choice([self._file, self._log]).stat().st_size, PIECE_BYTES)
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + chance.randint(0, 9_999), hard))
                wait(0.2, 2)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

        def fill_disk() -> None:
            ballast = self._disk / "ballast"
            with ballast.open("wb") as file:
                while (free := os.statvfs(self._disk).f_bavail) > 0:
                    with suppress(OSError):
                        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free * 4096)
            wait(0.2, 2)
            ballast.unlink()

        def read_only() -> None:
            # A file system turns read-only only when nobody has a file open for writing.
            with crowd.replaced():
                self._set_read_only(True)
            try:
                crowd.await_all()
                wait(0.5, 1.5)
            finally:
                with crowd.replaced():
                    self._set_read_only(False)

        faults: dict[str, Fault] = {
            "a foreign lock": hold_lock,
            "log truncated": truncate_log,
            "no room for one client": limit_files,
        }
        if self.is_mounted:
            faults["disk full"] = fill_disk
        if self.is_mounted or os.geteuid() != 0:
            faults["turned read-only and back"] = read_only
        return faults

    def heal(self) -> None:
        """Nothing lasts."""

    def rows(self) -> Rows:
        with closing(sqlite3.connect(self._file)) as connection:
            [(verdict,)] = connection.execute("pragma integrity_check(1)").fetchall()
            assert verdict == "ok", verdict
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
    def _log(self) -> Path:
        return self._disk / "store.db-wal"

    @property
    def _dsn(self) -> str:
        return f"sqlite:///{self._file}"

    def _set_read_only(self, is_on: bool) -> None:
        if self.is_mounted:
            options = "remount,ro" if is_on else "remount,rw"
            subprocess.run(["mount", "-o", options, str(self._disk)], check=True)
        else:
            for path in (*self._disk.iterdir(), self._disk):
                path.chmod((0o500 if path.is_dir() else 0o400) if is_on else 0o700)


def _told(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False
