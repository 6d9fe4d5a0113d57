"""Where a store's database is, as attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from asm.telemetry import names

Attributes: TypeAlias = dict[str, str | int]


def place_of(store: Any) -> Attributes:
    """The attributes of the database of a store, the same for all its operations."""
    dialect, address, schema = store._dsn_target
    if dialect == "sqlite":
        return {names.SYSTEM: "sqlite", names.NAMESPACE: address}
    place: Attributes = {names.SYSTEM: "postgresql"}
    pool = store._pool
    conninfo, parameters = (address, {}) if pool is None else (pool.conninfo, pool.kwargs or {})
    if callable(conninfo) or callable(parameters):
        # A borrowed pool asks for them whenever it connects.
        return place
    return {**place, **_server(conninfo, schema, parameters)}


def _server(conninfo: str, schema: str | None, parameters: Mapping[str, Any] | None = None) -> Attributes:
    """Where the connections lead that are made with a conninfo and with parameters of a pool."""
    # Imported here, because a program with SQLite need not have it.
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import Conninfo

    defaults = {option.keyword.decode(): option.val for option in Conninfo.get_defaults()}
    options = {name: value.decode() for name, value in defaults.items() if value is not None}
    for name, value in {**conninfo_to_dict(conninfo), **(parameters or {})}.items():
        if name in defaults and value is not None:
            options[name] = str(value)
    database = options.get("dbname") or options.get("user", "")
    attributes: Attributes = {names.NAMESPACE: f"{database}|{schema}" if schema else database}
    host, port = options.get("host") or options.get("hostaddr", ""), options.get("port", "")
    # Of several servers, which one answers changes while the store is open.
    if host and "," not in host:
        attributes[names.SERVER_ADDRESS] = host
        if port.isdecimal():
            attributes[names.SERVER_PORT] = int(port)
    return attributes
