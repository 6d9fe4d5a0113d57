# Generated from asm/postgres/async_connections.py by `make sync`. Change that file instead.

"""Connections of our own class, and whether a connection is still of use."""

from __future__ import annotations

import select
import time
import weakref
from functools import cached_property
from typing import Any, Self

from psycopg import Connection
from psycopg.rows import tuple_row

from asm.postgres.adapters import PlainCursor
from asm.postgres.deadlines import BoundedConnection
from asm.postgres.fast_path import FastPath
from asm.postgres.outcomes import RunningServer
from asm.postgres.timeouts import Limit, limited, milliseconds

CONFIGURE_TIMEOUT_S = 10.0
"""For a new connection: the pool's few workers wait for it."""


class ConnectionSetup:
    """What the connections of one pool have in common: their lock timeout, and why the last one failed."""

    def __init__(self, lock_timeout_s: float) -> None:
        self.lock_timeout = f"{milliseconds(lock_timeout_s)}ms"
        self.last_error: Exception | None = None
        self._failed_at = 0.0
        self._connections: set[weakref.ref[Any]] = set()

    def connected(self, connection: StoreConnection) -> None:
        self.last_error = None
        self._connections.add(weakref.ref(connection, self._connections.discard))

    def failed(self, error: Exception) -> None:
        self.last_error, self._failed_at = error, time.monotonic()

    def error_since(self, moment: float) -> Exception | None:
        """Why the last attempt to connect failed, if it did since a moment of the monotonic clock."""
        return self.last_error if self._failed_at >= moment else None

    @property
    def has_connections(self) -> bool:
        made = [connection() for connection in list(self._connections)]
        return any(connection is not None and not connection.closed for connection in made)


class StoreConnection(BoundedConnection):
    """A connection with a fast path for statements outside of transactions."""

    server: RunningServer | None = None
    """The server that gave it a transaction id; one server for as long as the connection exists."""

    is_read_only_by_client = False
    """Whether the role, the database or the DSN sets default_transaction_read_only, not only the server."""

    settings = ""
    """The statement that set what our statements rely on; empty behind a pooler, where nothing is set."""

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
            setup.failed(error)
            raise
        setup.connected(connection)
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

    def _configure(self, setup: ConnectionSetup) -> None:
        """Set what our statements rely on, unless a pooler stands between this connection and the server.

        A transaction pooler may give each transaction another server process. A setting would apply to
        other clients, and a prepared statement might not exist there, or be another client's statement of the
        same name. A pooler that tracks prepared statements loses them when the driver deallocates its
        own, and then closes the connection. So nothing is set and nothing is prepared behind a pooler.
        """
        with limited(self, Limit(CONFIGURE_TIMEOUT_S)):
            cursor = PlainCursor(self, row_factory=tuple_row)
            settings = _SETTINGS.format(lock_timeout=setup.lock_timeout)
            try:
                cursor.execute(
                    f"{settings} where pg_catalog.pg_backend_pid() = {self.info.backend_pid}".encode(),
                    prepare=False,
                )
                if self.info.parameter_status("default_transaction_read_only") == "on":
                    self._find_who_made_it_read_only()
            except BaseException:
                self.close()
                raise
        if cursor.rowcount:
            self.settings = f"{settings};"
        else:
            self.prepare_threshold = None
            self.fast_path.prepares = False

    def _find_who_made_it_read_only(self) -> None:
        cursor = PlainCursor(self, row_factory=tuple_row)
        cursor.execute(_READ_ONLY_BY_CLIENT, prepare=False)
        self.is_read_only_by_client = bool(cursor.rowcount)


# Not a query file: a connection is configured before it belongs to a store and its schema. A statement
# outside a transaction is READ COMMITTED whatever a role's or a database's default is, as those in
# transactions are. gin_fuzzy_search_limit would let the server leave out sessions with a tag.
_SETTINGS = """
select pg_catalog.set_config('lock_timeout', '{lock_timeout}', false),
       pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
       pg_catalog.set_config('gin_fuzzy_search_limit', '0', false)"""

_READ_ONLY_BY_CLIENT = """
select 1
  from pg_catalog.pg_settings
 where name = 'default_transaction_read_only'
   and source in ('global', 'database', 'user', 'database user', 'client')
"""


def is_broken(connection: Connection[Any]) -> bool:
    """Whether the server closed the connection while it was in the pool.

    An idle connection has nothing to read. If it is readable, the server has closed it or announces that
    it will. This costs no round trip. The `check` of psycopg_pool costs one for each checkout, and after a
    broken connection it waits a second or more before it checks the next, which is not reported upstream yet.
    """
    if connection.closed:
        return True
    if isinstance(connection, StoreConnection):
        return bool(connection.readable.poll(0))
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
