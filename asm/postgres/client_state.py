"""The driver's own state of a connection, which an application may change on `tx.connection`."""

from __future__ import annotations

from typing import Any

from psycopg.adapt import AdaptersMap

from asm.postgres.errors import Connected


class ClientState:
    """A connection's attributes and adapters before an application gets it."""

    def __init__(self, connection: Connected) -> None:
        self._connection = connection
        self._attributes = _attributes(connection)
        self._adapters = connection.adapters
        # Registering an adapter changes this copy.
        connection._adapters = AdaptersMap(self._adapters)

    def restore(self) -> bool:
        """Restore the adapters; whether all the rest is as it was before."""
        self._connection._adapters = self._adapters
        return _attributes(self._connection) == self._attributes


def _attributes(connection: Connected) -> tuple[Any, ...]:
    return (
        connection.autocommit,
        connection.isolation_level,
        connection.read_only,
        connection.deferrable,
        connection.row_factory,
        connection.cursor_factory,
        connection.server_cursor_factory,
        connection.prepare_threshold,
        connection.prepared_max,
        tuple(connection._notice_handlers),
        tuple(connection._notify_handlers),
    )
