"""Ends a process or a connection at a moment that the test chooses."""

from __future__ import annotations

import os
import resource
import select
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Generator
from itertools import count
from typing import Any

import psycopg
import pytest

from tests.contract.other_clients import fetch_rows


def killed(work: Callable[[], object], cut: Callable[[], None]) -> bool:
    """Run work in a child process with a cut. Whether the cut killed it; if not, the work must succeed."""
    return was_killed(begun(work, cut))


def begun(work: Callable[[], object], cut: Callable[[], None]) -> int:
    """The process id of a forked child that runs work with a cut."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            cut()
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def was_killed(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, "the child failed without its cut"
    return os.WIFSIGNALED(status)


# Cuts of this process. They are never undone: the process ends.

PATCHES = pytest.MonkeyPatch()


def while_the_server_answers(number: int) -> None:
    """Killed when statement `number` is sent; each, `begin` and `commit` among them, is one wait."""
    wait, numbers = psycopg.Connection.wait, count(1)

    def cut(self: Any, exchange: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        if next(numbers) == number:
            next(exchange, None)
            _die()
        return wait(self, exchange, *args, **kwargs)

    PATCHES.setattr(psycopg.Connection, "wait", cut)


def before_a_statement(number: int) -> None:
    """Killed before SQLite begins with statement `number`."""
    numbers = count(1)
    _traced(lambda _: next(numbers) == number)


def before_a_commit(number: int) -> None:
    """Killed before commit `number`, on either database."""
    numbers, commit = count(1), psycopg.Connection.commit
    _traced(lambda sql: sql.upper().startswith("COMMIT") and next(numbers) == number)

    def cut(self: Any) -> None:
        if next(numbers) == number:
            _die()
        commit(self)

    PATCHES.setattr(psycopg.Connection, "commit", cut)


def in_a_write(number: int) -> None:
    """Killed by the system in the middle of a write, when a file grows over `number` times 10,000 bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (number * 10_000, resource.RLIM_INFINITY))


def _traced(is_the_end: Callable[[str], bool]) -> None:
    connect = sqlite3.connect

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        connection.set_trace_callback(lambda sql: _die() if is_the_end(sql) else None)
        return connection

    PATCHES.setattr(sqlite3, "connect", traced)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Terminator:
    """Has the server close a connection before one of its statements."""

    def __init__(self, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._dsn = dsn
        self._left = 0
        self._wait = psycopg.Connection.wait
        terminator = self

        def wait(connection: Any, *args: Any, **kwargs: Any) -> Any:
            terminator.count(connection)
            return terminator._wait(connection, *args, **kwargs)

        monkeypatch.setattr(psycopg.Connection, "wait", wait)

    def before(self, number: int) -> None:
        self._left = number

    def count(self, connection: psycopg.Connection[Any]) -> None:
        self._left -= 1
        if self._left == 0:
            fetch_rows(self._dsn, f"select pg_terminate_backend({connection.info.backend_pid})")
            select.select([connection], [], [])
