"""A private PgBouncer between a store and a server, if the machine has the program.

PgBouncer refuses to run as root; then it runs as the user that runs the servers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.servers import Server, free_port, fresh_folder, give_away, is_free, printed, server_user

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
SOON_S = 20.0


def pgbouncer_version() -> tuple[int, ...]:
    """The version of PgBouncer, (0,) if there is none."""
    found = re.search(r"PgBouncer (\d+)\.(\d+)", printed(PGBOUNCER, "--version")) if PGBOUNCER else None
    return tuple(map(int, found.groups())) if found else (0,)


class Pooler:
    """PgBouncer in front of all databases of a server; `with` starts and ends it.

    `settings` go to pgbouncer.ini. By default it pools transactions and uses its server connections in
    turn, so that the transactions of one client run on different connections.
    """

    def __init__(self, dsn: str, **settings: str | int) -> None:
        self._server = conninfo_to_dict(dsn)
        self._settings: Mapping[str, str | int] = {
            "pool_mode": "transaction",
            "default_pool_size": 4,
            "server_round_robin": 1,
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = fresh_folder()
        self.port = free_port()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def dsn(self, dsn: str) -> str:
        """The DSN that leads through the pooler to the same database."""
        return make_conninfo(dsn, host=Server.host, port=self.port)

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        assert PGBOUNCER is not None
        self._write_configuration()
        user = server_user()
        identity: dict[str, Any] = (
            {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        )
        self._process = subprocess.Popen(
            [PGBOUNCER, "-q", str(self.folder / "pgbouncer.ini")], cwd=self.folder, **identity
        )
        deadline = time.monotonic() + SOON_S
        while is_free(self.port):
            assert self._process.poll() is None, self._log()
            assert time.monotonic() < deadline, self._log()
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it and end every connection; `start` brings it back on the same port."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_configuration(self) -> None:
        host, port = self._server["host"], self._server.get("port", "5432")
        settings = {
            "listen_addr": Server.host,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "logfile": self.folder / "log",
            "auth_type": "scram-sha-256",
            "auth_file": self.folder / "users",
            **self._settings,
        }
        lines = ["[databases]", f"* = host={host} port={port}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        self._write("pgbouncer.ini", "\n".join(lines))
        self._write("users", '"{user}" "{password}"\n'.format(**self._server))

    def _write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.write_text(text)
        give_away(file)

    def _log(self) -> str:
        log: Path = self.folder / "log"
        return log.read_text(errors="replace") if log.exists() else "PgBouncer wrote no log"
