"""Where a store's database is, as attributes."""

from __future__ import annotations

from typing import Any, TypeAlias

from asm.telemetry import names

Attributes: TypeAlias = dict[str, str | int]


def place_of(store: Any) -> Attributes:
    """The attributes of the database of a store, the same for all its operations."""
    dialect, address, schema = store._dsn_target
    if dialect == "sqlite":
        return {names.SYSTEM: "sqlite", names.NAMESPACE: address}
    return {names.SYSTEM: "postgresql", **_server(_conninfo(store, address), schema)}


def _conninfo(store: Any, address: str) -> str:
    """What the connections are made with; of a borrowed pool, as far as it is a text."""
    if store._pool is None:
        return address
    conninfo = store._pool.conninfo
    return conninfo if isinstance(conninfo, str) else ""


def _server(conninfo: str, schema: str | None) -> Attributes:
    # Imported here, because a program with SQLite need not have it.
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import Conninfo

    options = {
        option.keyword.decode(): option.val.decode()
        for option in Conninfo.get_defaults()
        if option.val is not None
    }
    options |= {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    database = options.get("dbname") or options.get("user", "")
    attributes: Attributes = {names.NAMESPACE: f"{database}|{schema}" if schema else database}
    host, port = options.get("host") or options.get("hostaddr", ""), options.get("port", "")
    # Of several servers, which one answers changes while the store is open.
    if host and "," not in host:
        attributes[names.SERVER_ADDRESS] = host
        if port.isdecimal():
            attributes[names.SERVER_PORT] = int(port)
    return attributes
