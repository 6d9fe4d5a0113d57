# Generated from asm/postgres/async_deadlines.py by `make sync`. Change that file instead.

"""No statement of ours waits for ever for a server that does not respond.

TCP keepalives and `tcp_user_timeout`, which `asm.dsn` sets, end a connection whose packets are lost.
The limits here are for a server, or a pooler in front of it, whose kernel lives and whose process is
stuck or has lost the session. Without a `statement_timeout` a read, and a statement in a transaction, is
unbounded while its server accepts connections. An application's own statements on `tx.connection` are
never bounded.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg import Connection, capabilities, pq
from psycopg.conninfo import make_conninfo
from psycopg.errors import _WaitTimeout

from asm.dsn import SecretStr
from asm.postgres.fast_path import PQGen
from asm.postgres.timeouts import Limit, Limited, ServerUnresponsive, timed_out

T = TypeVar("T")

CANCEL_TIMEOUT_S = 5.0
"""How long a cancel request may take, and how long the cancelled statement may take to end."""


class BoundedConnection(Connection[Any], Limited):
    """A connection whose statements end, at the latest, when their limit does."""

    def run(self, gen: PQGen[T], limit: Limit | None) -> T:
        """The result of a generator of the fast path, within a limit."""
        try:
            if limit is None:
                return super().wait(gen)
            try:
                return super().wait(gen, timeout=limit.after_s)
            except _WaitTimeout:
                return self._limit_reached(gen, limit)
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
        limit = self.limit
        try:
            return super().wait(gen, timeout=limit.after_s)
        except _WaitTimeout:
            return self._limit_reached(gen, limit)

    def _limit_reached(self, gen: PQGen[T], limit: Limit) -> T:
        if limit.cancels:
            self._cancel(gen, limit.after_s)
        while self._server_accepts_connections():
            with suppress(_WaitTimeout):
                return super().wait(gen, timeout=limit.after_s)
        self.close()
        raise ServerUnresponsive(f"no response after {limit.after_s:g} s, and no new connection either")

    def _cancel(self, gen: PQGen[Any], after_s: float) -> NoReturn:
        try:
            self._request_cancel()
            # The server reports success for a commit whose wait for a standby was cancelled.
            super().wait(gen, timeout=CANCEL_TIMEOUT_S)
        except psycopg.errors.QueryCanceled:
            pass
        except psycopg.Error as error:
            if error.sqlstate is not None:
                raise
            self.close()
            raise ServerUnresponsive(f"no response after {after_s:g} s, nor to a cancel request") from error
        finally:
            if not capabilities.has_cancel_safe():
                # A request that is late must not cancel the next statement.
                self.close()
        raise timed_out(after_s)

    def _request_cancel(self) -> None:
        if capabilities.has_cancel_safe():
            self.cancel_safe(timeout=CANCEL_TIMEOUT_S)
            return
        # The cancel request of libpq before version 17 has no timeout, and waits for the server's response.
        request = self.pgconn.get_cancel()
        threading.Thread(target=_cancel, args=[request], name="asm cancel", daemon=True).start()

    def _server_accepts_connections(self) -> bool:
        # On a second connection, because any use of this one would wait behind the statement, and a
        # cancel request would end it.
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


def _cancel(request: pq.abc.PGcancel) -> None:
    with suppress(psycopg.Error):
        request.cancel()


def close_if_dirty(connection: Connection[Any]) -> None:
    """Close a connection whose statement or transaction was left unfinished; the pool makes another."""
    pgconn = connection.pgconn
    if pgconn.pipeline_status != pq.PipelineStatus.OFF or pgconn.transaction_status not in _CLEAN:
        pgconn.finish()


_CLEAN = (pq.TransactionStatus.IDLE, pq.TransactionStatus.UNKNOWN)
