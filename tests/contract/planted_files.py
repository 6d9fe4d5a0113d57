"""What another user may put in the place of a file, and processes that are killed while they write one."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

VICTIM = b"of somebody else"


def _socket(path: Path) -> None:
    # The path of a socket may have only about 100 bytes.
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def _link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("victim"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to a pipe": _link_to_pipe,
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a folder": lambda path: path.mkdir(),
}
PLANTED: dict[str, Callable[[Path], object]] = {
    **IRREGULAR,
    "a hard link": lambda path: path.hardlink_to(path.with_name("victim")),
}


def plant(path: Path, what: str) -> Path:
    """Put something in the place of a file. Returns the file `victim` beside it, to which a link leads."""
    victim = path.with_name("victim")
    victim.write_bytes(VICTIM)
    PLANTED[what](path)
    return victim


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names_in(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def killed_at_every_step(work: Callable[[], object]) -> Iterator[int]:
    """Processes that do this work, each killed before another of its steps with files."""
    for step in count():
        child = os.fork()
        if child == 0:
            try:
                _kill_before(step)
                work()
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, _KILLED)
        if status == 0:
            return
        yield step


_KILLED = 9


def _kill_before(step: int) -> None:
    steps, fsync = count(), os.fsync

    def kill(event: str, _arguments: object) -> None:
        # The audit events of Python that say what is done with files.
        if event.startswith(("open", "os.", "fcntl.")) and next(steps) == step:
            os._exit(_KILLED)

    def audited_fsync(fd: Any) -> None:
        sys.audit("os.fsync")
        fsync(fd)

    os.fsync = audited_fsync
    sys.addaudithook(kill)
