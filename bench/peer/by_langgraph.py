"""LangGraph's PostgresSaver: one checkpoint per call, without numbers, on one connection at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres import PostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from bench import payload
from bench.peer import CONNECTIONS, Address, Peer


@contextmanager
def opened(_: asyncio.Runner, address: Address, __: Sequence[str]) -> Iterator[Peer]:
    # As its documentation requires of a pool's connections.
    options: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    with ConnectionPool(
        address.conninfo, min_size=1, max_size=CONNECTIONS, kwargs=options, open=True
    ) as pool:
        saver: Any = PostgresSaver(pool)
        saver.setup()

        def append(session_id: str, number: int) -> int:
            checkpoint: Any = empty_checkpoint()
            # The saver keeps a string in the row itself, and any other value in a second row.
            checkpoint["channel_values"] = {"message": payload.TEXTS[number % len(payload.TEXTS)]}
            saver.put(_config(session_id), checkpoint, {"source": "loop", "step": number}, {})
            return 1

        def read(session_id: str, limit: int) -> int:
            return sum(1 for _ in saver.list(_config(session_id), limit=limit))

        yield Peer("LangGraph", "threads", append, read)


def _config(session_id: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": session_id, "checkpoint_ns": ""}}
