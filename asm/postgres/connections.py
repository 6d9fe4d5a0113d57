# Generated from asm/postgres/async_connections.py by `make sync`. Change that file instead.

"""Connections of our own class: no statement of ours waits for ever for a dead server.

TCP keepalives and `tcp_user_timeout`, which `asm.dsn` sets, end a connection whose packets are lost.
The limits here are for a server, or a pooler in front of it, whose kernel lives and whose process is
stuck or has lost the session. Without a `statement_timeout` a read, and a statement in a transaction, is
unbounded while its server accepts connections. An application's own statements on `tx.connection` are
never bounded.
"""

from __future__ import annotations

import select
from contextlib import suppress
from functools import cached_property
from typing import Any, Self, TypeVar

import psycopg
from psycopg import Connection, pq
from psycopg.conninfo import make_conninfo
from psycopg.errors import _WaitTimeout
from psycopg.rows import tuple_row

from asm.dsn import SecretStr
from asm.postgres.adapters import PlainCursor
from asm.postgres.errors import ServerUnresponsive, timed_out
from asm.postgres.fast_path import FastPath, PQGen
from asm.postgres.timeouts import Limit, Limited, limited, milliseconds

T = TypeVar("T")

CANCEL_TIMEOUT_S = 5.0
"""How long a cancel request may take, and how long the cancelled statement may take to end."""

CONFIGURE_TIMEOUT_S = 10.0
"""For a new connection: the pool's few workers wait for it."""


class ConnectionSetup:
    """What the connections of one pool have in common: their lock timeout, and why the last one failed."""

    def __init__(self, lock_timeout_s: float) -> None:
        self.lock_timeout = f"{milliseconds(lock_timeout_s)}ms"
        self.last_error: Exception | None = None


class StoreConnection(Connection[Any], Limited):
    """A connection with a fast path for statements outside of transactions."""

    @classmethod
    def connect(  # type: ignore[override]
        cls, *args: Any, setup: ConnectionSetup | None = None, **kwargs: Any
    ) -> Self:
        if setup is None:
            return super().connect(*args, **kwargs)
        try:
            connection = super().connect(*args, **kwargs)
            connection._configure(setup)
        except Exception as error:
            setup.last_error = error
            raise
        setup.last_error = None
        return connection

    @cached_property
    def fast_path(self) -> FastPath:
        return FastPath(self.pgconn)

    @cached_property
    def readable(self) -> select.poll:
        """Polled, it returns something when there is something to read."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return poll

    def run(self, gen: PQGen[T], limit: Limit | None) -> T:
        """The result of a generator of the fast path, within a limit."""
        try:
            try:
                return super().wait(gen, timeout=limit and limit.after_s)
            except _WaitTimeout:
                return self._overdue(gen, limit)
        except ServerUnresponsive as error:
            # A pooler without a free server connection does not pass a cancel request on.
            if limit is not None and limit.cancels:
                raise timed_out(limit.after_s) from error
            raise
        except BaseException:
            close_if_dirty(self)
            raise

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """psycopg's own; a statement of a cursor of ours is bounded by `self.limit`."""
        if self.limit is None or args or kwargs:
            return super().wait(gen, *args, **kwargs)
        try:
            return super().wait(gen, timeout=self.limit.after_s)
        except _WaitTimeout:
            return self._overdue(gen, self.limit)

    def _overdue(self, gen: PQGen[T], limit: Limit | None) -> T:
        assert limit is not None
        while not limit.cancels:
            if not self._server_accepts_connections():
                self.close()
                raise ServerUnresponsive(
                    f"no response after {limit.after_s:g} s, and no new connection either"
                )
            with suppress(_WaitTimeout):
                return super().wait(gen, timeout=limit.after_s)
        try:
            self.cancel_safe(timeout=CANCEL_TIMEOUT_S)
            # The server reports success for a commit whose wait for a standby was cancelled.
            super().wait(gen, timeout=CANCEL_TIMEOUT_S)
        except psycopg.errors.QueryCanceled:
            pass
        except psycopg.Error as error:
            if error.sqlstate is not None:
                raise
            self.close()
            raise ServerUnresponsive(
                f"no response after {limit.after_s:g} s, nor to a cancel request"
            ) from error
        raise timed_out(limit.after_s)

    def _server_accepts_connections(self) -> bool:
        info = self.info
        # The host of this connection, and not the next of several.
        conninfo = SecretStr(
            make_conninfo(
                info.dsn,
                password=info.password,
                host=info.host,
                hostaddr=info.hostaddr,
                port=info.port,
                target_session_attrs="any",
            )
        )
        try:
            other = Connection.connect(conninfo, autocommit=True)
        except psycopg.errors.ConnectionTimeout:
            return False
        except psycopg.Error:
            # A server that refuses a login or a connection responds.
            return True
        other.close()
        return True

    def _configure(self, setup: ConnectionSetup) -> None:
        """Set the lock timeout, unless a pooler stands between this connection and the server.

        A transaction pooler may give each transaction another server process. A setting would apply to
        other clients, and a prepared statement might not exist there, or be another client's statement of the
        same name. A pooler that tracks prepared statements loses them when the driver deallocates its
        own, and then closes the connection. So nothing is set and nothing is prepared behind a pooler.
        """
        with limited(self, Limit(CONFIGURE_TIMEOUT_S)):
            cursor = PlainCursor(self, row_factory=tuple_row)
            params = {"process": self.info.backend_pid, "lock_timeout": setup.lock_timeout}
            try:
                cursor.execute(_SET_IF_DIRECT, params, prepare=False)
            except BaseException:
                self.close()
                raise
        if not cursor.rowcount:
            self.prepare_threshold = None
            self.fast_path.prepares = False


# Not a query file: a connection is configured before it belongs to a store and its schema.
_SET_IF_DIRECT = (
    "select set_config('lock_timeout', %(lock_timeout)s, false) where pg_backend_pid() = %(process)s"
)


def close_if_dirty(connection: Connection[Any]) -> None:
    """Close a connection whose statement or transaction was left unfinished; the pool makes another."""
    pgconn = connection.pgconn
    if pgconn.pipeline_status != pq.PipelineStatus.OFF or pgconn.transaction_status not in _CLEAN:
        pgconn.finish()


_CLEAN = (pq.TransactionStatus.IDLE, pq.TransactionStatus.UNKNOWN)


def is_broken(connection: Connection[Any]) -> bool:
    """Whether the server closed the connection while it was in the pool.

    An idle connection has nothing to read. If it is readable, the server has closed it or announces that
    it will. This costs no round trip; the pool's own check costs one for each checkout, and waits a
    second or more before it checks the next connection.
    """
    if connection.closed:
        return True
    if isinstance(connection, StoreConnection):
        return bool(connection.readable.poll(0))
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
