"""What the logger `asm` gets: retries, slow statements and, at DEBUG, every statement.

No line contains a value that was stored or searched for, nor a DSN.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from asm.engine.script import Operation, Query, Rows

logger = logging.getLogger("asm")


class StatementLog:
    """Logs the statements of a store.

    A database decides inline whether to log, with `log.slow_s is not None or logger.isEnabledFor(DEBUG)`:
    a call would make every append slower.
    """

    __slots__ = ("slow_s",)

    def __init__(self, slow_s: float | None) -> None:
        self.slow_s = slow_s

    def executed(self, operation: Operation[Any], started_at: float, query: Query[Any] | None = None) -> None:
        """Log an operation, or a query of it. `started_at` is its start by `time.perf_counter`."""
        took_s = time.perf_counter() - started_at
        name = _name_of(operation, query)
        if self.slow_s is not None and took_s > self.slow_s:
            logger.warning("%s took %.3f s, more than slow_statement=%g", name, took_s, self.slow_s)
        else:
            logger.debug("%s took %.2f ms", name, took_s * 1_000)

    def timed(
        self, operation: Operation[Any], execute: Callable[[Query[Any]], Rows]
    ) -> Callable[[Query[Any]], Rows]:
        """`execute` for the queries of an operation, with a line for each."""

        def execute_timed(query: Query[Any]) -> Rows:
            started_at = time.perf_counter()
            rows = execute(query)
            self.executed(operation, started_at, query)
            return rows

        return execute_timed

    def timed_async(
        self, operation: Operation[Any], execute: Callable[[Query[Any]], Awaitable[Rows]]
    ) -> Callable[[Query[Any]], Awaitable[Rows]]:
        """The same, awaited."""

        async def execute_timed(query: Query[Any]) -> Rows:
            started_at = time.perf_counter()
            rows = await execute(query)
            self.executed(operation, started_at, query)
            return rows

        return execute_timed


def _name_of(operation: Operation[Any], query: Query[Any] | None) -> str:
    """The store's method, and the statement where it has another name."""
    name = operation_name(operation)
    return name if query is None or name.startswith(query.query) else f"{name}: {query.query}"


def operation_name(operation: Operation[Any]) -> str:
    """The store's method that made an operation, the query of one that no method made, or "transaction"."""
    return operation.name or getattr(operation, "query", "transaction")
