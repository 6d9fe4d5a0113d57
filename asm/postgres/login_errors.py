"""Why a server lets nobody in.

libpq tells the SQLSTATE of a failed login to its trace alone, and that since version 17; psycopg lets it
trace on Linux alone. Elsewhere nothing is known, and every failure may pass.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, timeout_from_conninfo

from asm.errors import ConnectionFailed

_ANSWER = re.compile(rb'\tErrorResponse\t.*? C "(\w{5})"')
_NOT_RETRYABLE = ("28", "3D")
"""No such user, a wrong password, a host that is not let in; no such database."""


def with_sqlstate(error: ConnectionFailed, conninfo: str) -> ConnectionFailed:
    """The error with the server's SQLSTATE, where it gave one; not retryable where asking again is no use."""
    cause = error.__cause__
    if isinstance(cause, psycopg.OperationalError) and cause.pgconn and cause.pgconn.needs_password:
        error.retryable = False
        return error
    if isinstance(cause, psycopg.errors.ConnectionTimeout) or "sqlstate" in error.details:
        return error
    if state := login_sqlstate(conninfo):
        error.details["sqlstate"] = state
        error.retryable = not state.startswith(_NOT_RETRYABLE)
    return error


def login_sqlstate(conninfo: str) -> str | None:
    """The SQLSTATE with which the server refuses a login. None: it does not, or nobody can say."""
    if sys.platform != "linux":
        return None
    deadline = time.monotonic() + timeout_from_conninfo(conninfo_to_dict(conninfo))
    connection = pq.PGconn.connect_start(conninfo.encode())
    # A pipe, because what is said in a login belongs on no disk.
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with os.fdopen(reading, "rb") as said:
        try:
            if connection.status != pq.ConnStatus.BAD:
                _connect(connection, deadline, trace=writing)
        finally:
            connection.finish()
            os.close(writing)
        states = _ANSWER.findall(said.read() or b"")
        return states[-1].decode() if states else None


def _connect(connection: pq.abc.PGconn, deadline: float, *, trace: int) -> None:
    is_traced = False
    while (left_s := deadline - time.monotonic()) > 0:
        status = connection.connect_poll()
        if status == pq.PollingStatus.READING:
            if not is_traced:
                # Only where somebody has answered the call, because libpq never frees what it traces with.
                connection.trace(trace)
                is_traced = True
            _wait(connection.socket, select.POLLIN, left_s)
        elif status == pq.PollingStatus.WRITING:
            _wait(connection.socket, select.POLLOUT, left_s)
        else:
            break
    if is_traced:
        connection.untrace()


def _wait(socket: int, event: int, longest_s: float) -> None:
    # Not `select`, which takes no number above 1,023, and a server in need has many sockets open.
    poll = select.poll()
    poll.register(socket, event)
    poll.poll(longest_s * 1_000)
