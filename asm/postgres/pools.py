# Generated from asm/postgres/async_pools.py by `make sync`. Change that file instead.

"""Databases behind pools of their own."""

from __future__ import annotations

from typing import Any

from psycopg_pool import ConnectionPool

from asm.postgres.connections import ConnectionSetup, StoreConnection
from asm.postgres.database import Postgres

RECONNECT_S = 3.0
"""The pool retries a failed connection for this long. Then it connects again at the next checkout, with
short pauses at first."""


def connect(
    conninfo: str, *, min_size: int, max_size: int, timeout: float, prepare: bool, **options: Any
) -> Postgres:
    """A database behind a pool of its own, not yet opened."""
    setup = ConnectionSetup(timeout)
    kwargs: dict[str, Any] = {"autocommit": True, "setup": setup}
    if not prepare:
        # Nor are an application's own statements in our transactions prepared.
        kwargs["prepare_threshold"] = None
    pool = ConnectionPool(
        conninfo,
        connection_class=StoreConnection,
        kwargs=kwargs,
        min_size=min_size,
        max_size=max_size,
        timeout=timeout,
        reconnect_timeout=RECONNECT_S,
        open=False,
    )
    return Postgres(pool, conninfo=conninfo, setup=setup, timeout=timeout, prepare=prepare, **options)
