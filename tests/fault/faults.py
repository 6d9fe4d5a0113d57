"""Faults of databases. Each method causes a fault and undoes it."""

from __future__ import annotations

import os
import random
import resource
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import psycopg

from tests.fault.history import PIECE_BYTES
from tests.fault.proxy import Moment, Proxy, Way
from tests.servers import Server

Fault = Callable[[], int | None]
"""Returns how often the fault occurred; None is once."""

WAYS: list[tuple[Way, ...]] = [("server",), ("client",), ("server", "client")]
NEEDLES = [b"commit", b'"of":']
"""The proxy cuts at these bytes: a transaction sends `commit`, a single append only its document."""


class ClientProcesses(Protocol):
    """The methods of the clients that faults of a database use."""

    def some_pid(self) -> int | None: ...

    def await_all(self) -> None: ...

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Kill all clients, run the block without any, and start their successors."""
        yield


class PostgresFaults:
    """Faults of a server and of the network to it."""

    def __init__(self, server: Server, proxy: Proxy, database: str, rng: random.Random) -> None:
        self._server = server
        self._proxy = proxy
        self._database = database
        self._random = rng

    def by_name(self) -> dict[str, Fault]:
        return {
            "server stopped immediately": self.stop_immediately,
            "server killed with -9": self.kill,
            "server restarted": self._server.restart,
            "backends terminated": self.terminate,
            "turned read-only and back": self.read_only,
            "a foreign lock": self.hold_lock,
            "connections cut": self.cut,
            "cut before a commit": partial(self.cut_at_commit, "before"),
            "cut in a commit": partial(self.cut_at_commit, "in"),
            "cut after a commit": partial(self.cut_at_commit, "after"),
            "black hole": self.black_hole,
            "cable unplugged": self.unplug,
            "delay": self.delay,
            "half closed": self._proxy.half_close,
            "connections refused": self.refuse,
        }

    def stop_immediately(self) -> None:
        self._server.stop("immediate")
        self._wait(0, 3)
        self._server.start()

    def kill(self) -> None:
        self._server.kill()
        self._wait(0, 2)
        self._server.start()

    def terminate(self) -> None:
        for _ in range(self._random.randint(1, 4)):
            with admin(self._server) as connection:
                terminate(connection, self._database, share=self._random.random())
            self._wait(0, 0.2)

    def read_only(self) -> None:
        self._set_read_only("on")
        self._wait(0.2, 2.5)
        self._set_read_only("off")

    def hold_lock(self) -> None:
        with closing(psycopg.connect(self._server.dsn(self._database))) as holder:
            holder.execute("select from asm_session_sequences order by random() limit 1 for update")
            self._wait(0.2, 6)

    def cut(self) -> None:
        self._proxy.cut()

    def cut_at_commit(self, moment: Moment) -> int:
        before = self._proxy.faults[f"cut {moment}"]
        self._proxy.cut_when(self._random.choice(NEEDLES), moment, times=self._random.randint(1, 5))
        self._wait(0.2, 1)
        return self._proxy.faults[f"cut {moment}"] - before

    def black_hole(self) -> None:
        self._proxy.black_hole(*self._random.choice(WAYS))
        self._wait(0.2, 3)
        self._proxy.mend()
        # Bytes that were discarded are lost. A cut ends the wait of half of the affected connections.
        if self._random.random() < 0.5:
            self._proxy.cut()

    def unplug(self) -> None:
        self._proxy.unplug()
        self._wait(0.2, 3)
        self._proxy.mend()

    def delay(self) -> None:
        self._proxy.delay(self._random.uniform(0.02, 0.4))
        self._wait(0.5, 2)
        self._proxy.mend()

    def refuse(self) -> None:
        self._proxy.refuse()
        self._proxy.cut()
        self._wait(0.2, 3)
        self._proxy.accept()

    def _set_read_only(self, value: str) -> None:
        with admin(self._server) as connection:
            connection.execute(f"alter system set default_transaction_read_only = {value}".encode())
            connection.execute("select pg_reload_conf()")

    def _wait(self, least_s: float, most_s: float) -> None:
        time.sleep(self._random.uniform(least_s, most_s))


class SQLiteFaults:
    """Faults of a file and of its file system."""

    def __init__(self, file: Path, rng: random.Random, clients: ClientProcesses) -> None:
        self._file = file
        self._disk = file.parent
        self._random = rng
        self._clients = clients

    def by_name(self, *, is_mounted: bool) -> dict[str, Fault]:
        faults: dict[str, Fault] = {
            "a foreign lock": self.hold_lock,
            "log truncated": self.truncate_log,
            "no room for one client": self.limit_files,
        }
        # Only a private file system may be filled or made read-only.
        if is_mounted:
            faults |= {"disk full": self.fill_disk, "turned read-only and back": self.read_only}
        return faults

    def hold_lock(self) -> None:
        with closing(sqlite3.connect(self._file, isolation_level=None, timeout=5)) as holder:
            holder.execute("begin immediate")
            self._wait(0.1, 6)

    def truncate_log(self) -> None:
        with closing(sqlite3.connect(self._file, timeout=1)) as connection:
            connection.execute("pragma wal_checkpoint(truncate)").fetchall()

    def limit_files(self) -> None:
        """Make writes of one process beyond a file size fail."""
        if (pid := self._clients.some_pid()) is None:
            return
        log = self._file.with_name(f"{self._file.name}-wal")
        with suppress(ProcessLookupError, FileNotFoundError):
            size = self._random.choice([self._file, log]).stat().st_size + self._random.randrange(10_000)
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            # The process must still be able to write its history.
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (max(size, PIECE_BYTES), hard))
            self._wait(0.2, 2)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    def fill_disk(self) -> None:
        ballast = self._disk / "ballast"
        with ballast.open("wb") as file:
            while (free := os.statvfs(self._disk).f_bavail) > 0:
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), ballast.stat().st_size, free * 4096)
        self._wait(0.2, 2)
        ballast.unlink()

    def read_only(self) -> None:
        # Remounting read-only fails while a process has a file open for writing.
        with self._clients.replaced():
            self._remount("ro")
        try:
            self._clients.await_all()
            self._wait(0.5, 1.5)
        finally:
            with self._clients.replaced():
                self._remount("rw")

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self._disk)], check=True)

    def _wait(self, least_s: float, most_s: float) -> None:
        time.sleep(self._random.uniform(least_s, most_s))


def admin(server: Server) -> psycopg.Connection:
    """A connection that may write even if the server is set to read-only."""
    options = "-c default_transaction_read_only=off"
    return psycopg.connect(server.socket_dsn(), autocommit=True, options=options)


def terminate(connection: psycopg.Connection, database: str, *, share: float) -> None:
    connection.execute(
        """
        select pg_terminate_backend(pid) from pg_stat_activity
         where datname = %s and backend_type = 'client backend' and random() < %s
        """,
        [database, share],
    )
