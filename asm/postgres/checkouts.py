# Generated from asm/postgres/async_checkouts.py by `make sync`. Change that file instead.

"""Taking connections out of a pool, and giving them back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from asm.errors import StorageTimeout, copied, store_closed
from asm.postgres.connections import ConnectionSetup, is_broken
from asm.postgres.deadlines import close_if_dirty
from asm.postgres.errors import is_unusable_server, translated, translation
from asm.postgres.spare import SpareConnection

DIAGNOSE_AFTER_S = 1.0
"""A checkout that takes this long reports why the pool cannot connect, if it cannot."""


def _growing_waits(timeout: float) -> Iterator[float]:
    """Times to wait between two looks at the pool's last error: each look costs the place in its queue."""
    wait_s = DIAGNOSE_AFTER_S
    while timeout > 0:
        yield min(wait_s, timeout)
        timeout -= wait_s
        wait_s *= 2


class Checkouts:
    """The connections of a pool, of which one may stay outside between two operations."""

    def __init__(
        self,
        pool: ConnectionPool[Any],
        setup: ConnectionSetup | None,
        timeout: float | None,
        *,
        is_own: bool,
    ) -> None:
        """A pool that is not `is_own` is borrowed, and never closed."""
        self._pool = pool
        self._setup = setup
        self._timeout = timeout
        self._is_own = is_own
        self._closed = False
        self._process = os.getpid()
        # A pool that may be empty has to see when no operation needs a connection.
        self._spare: SpareConnection[Connection[Any]] = SpareConnection(enabled=is_own and pool.min_size > 0)
        self.waited: Callable[[float], object] | None = None
        """Called with the seconds that it took to get a connection from the pool."""

    def close(self) -> None:
        """Refuse checkouts, and close a pool of our own."""
        self._closed = True
        if self._is_own:
            self._pool.close()
            for connection in self._spare.close():
                self._pool.putconn(connection)

    def statistics(self) -> dict[str, int]:
        """Those of the pool. A connection that stays outside of it between two operations is available."""
        statistics = self._pool.get_stats()
        return {**statistics, "pool_available": statistics["pool_available"] + self._spare.size}

    def checkout(self) -> Connection[Any]:
        if self._closed:
            raise store_closed()
        while True:
            connection = self._spare.checkout() or self._wait_for_connection()
            if not is_broken(connection):
                return connection
            # Not by `close()`: psycopg_pool documents that it returns a connection to a pool that was made
            # with `close_returns`.
            connection.pgconn.finish()
            self.checkin(connection)

    def _wait_for_connection(self) -> Connection[Any]:
        started_at = time.perf_counter()
        self._spare.start_waiting()
        try:
            # A connection may have become the spare one just before this caller began to wait.
            connection = self._spare.checkout() or self._getconn()
        finally:
            self._spare.stop_waiting()
        if self.waited is not None:
            self.waited(time.perf_counter() - started_at)
        return connection

    def _getconn(self) -> Connection[Any]:
        timeout = self._timeout
        with translated():
            if timeout is None or self._setup is None:
                return self._from_pool(None)
            started_at = time.monotonic()
            for wait_s in _growing_waits(timeout):
                with suppress(PoolTimeout):
                    return self._from_pool(wait_s)
                self._raise_connect_error(self._setup, started_at)
            raise StorageTimeout(f"no connection became free within {timeout:g} s") from (
                self._setup.error_since(started_at)
            )

    def _raise_connect_error(self, setup: ConnectionSetup, since: float) -> None:
        """Raise why the pool failed to connect, unless a connection that is in use may become free."""
        if (error := setup.error_since(since)) is None:
            return
        ours = translation(error) or copied(error)
        if not (setup.has_connections and getattr(ours, "retryable", False)):
            raise ours from error

    def _from_pool(self, timeout: float | None) -> Connection[Any]:
        connection: Connection[Any]
        connection = self._pool.getconn(timeout)
        return connection

    def drop_server(self, connection: Connection[Any], error: Exception) -> None:
        """Replace all connections of the pool if they lead to a server that is of no use."""
        if is_unusable_server(error, connection):
            connection.pgconn.finish()
            if self._is_own and not self._closed:
                self._pool.drain()
                for spare in self._spare.checkout_all():
                    self._pool.putconn(spare)

    def checkin(self, connection: Connection[Any], *, is_reusable: bool = True) -> None:
        if os.getpid() != self._process:
            return
        if (unused := self._spare.checkin(connection) if is_reusable else connection) is not None:
            # psycopg_pool would wait for the response to a rollback, and could not be cancelled. Not reported
            # upstream yet.
            close_if_dirty(unused)
            self._pool.putconn(unused)
