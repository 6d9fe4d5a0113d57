"""Indexing what is stored already, after the migration that creates the index for searches by text."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from asm import dsn as dsns
from asm.engine.jobs import run_job
from asm.operations.text_index import Progress, index_events
from asm.sqlite.database import SQLite

_TIMEOUT_S = 60.0
"""How long to wait for another program that writes."""


def index_stored_events(
    dsn: str | None = None, *, schema: str | None = None, progress: Progress | None = None
) -> int:
    """Index the events that are not in the index yet, and return how many there were.

    Each batch is a short transaction. If the program is stopped, the next call goes on where it stopped.
    """
    dsn = dsns.as_secret(dsn)
    database = _connect(dsns.parse_dsn(dsn, schema))
    with closing(database):
        return run_job(index_events(progress), database, "index_events")


def _connect(address: dsns.Target) -> Any:
    limits: dict[str, Any] = {"timeout": _TIMEOUT_S, "statement_timeout": None, "slow_statement": None}
    if address.dialect == "sqlite":
        return SQLite(address.address, **limits)
    from asm.postgres import pools

    # Nothing is prepared, because a pooler may give each transaction another server process.
    database = pools.connect(
        address.address,
        schema=address.schema,
        min_size=1,
        max_size=1,
        retry_for=_TIMEOUT_S,
        prepare=False,
        **limits,
    )
    try:
        database.open()
    except BaseException:
        database.close()
        raise
    return database
