"""Transactions that are applied at most once, even if the response to a commit is lost.

A transaction that failed before its commit was sent left nothing, and is attempted again. If the commit was
sent and its response was lost, another connection asks the server for its outcome (`outcomes.py`).
"""

from __future__ import annotations

import asyncio  # async only
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from asm.engine.retry import Backoff, is_retryable
from asm.errors import StorageError
from asm.postgres.adapters import AsyncPlainCursor
from asm.postgres.async_checkouts import AsyncCheckouts
from asm.postgres.async_transaction import begun
from asm.postgres.errors import translated
from asm.postgres.outcomes import (
    GET_STATUS,
    IDENTIFY_SERVER,
    WAIT_FOR_STANDBYS,
    Commit,
    Outcome,
    RunningServer,
    Transaction,
    outcome_unknown,
)
from asm.postgres.timeouts import Timeouts, limited

# sync only: import time

T = TypeVar("T")

PauseBeforeRetry: TypeAlias = Callable[[StorageError | psycopg.Error, Backoff], float]
"""The pause after an error, in seconds; raises the error where another attempt is of no use."""


class AsyncAtMostOnce:
    """Attempts transactions of one database."""

    def __init__(
        self,
        checkouts: AsyncCheckouts,
        timeouts: Timeouts,
        retry_for: float,
        pause_before_retry: PauseBeforeRetry,
    ) -> None:
        self._checkouts = checkouts
        self.timeouts = timeouts
        self._retry_for = retry_for
        self._pause_before_retry = pause_before_retry
        self.can_identify = True
        """Whether the server has and permits the functions that identify it."""

    async def run(
        self,
        attempt: Callable[[Commit[T]], Awaitable[T]],
        name: str,
        *,
        idempotent: bool = False,
        identified: Literal["at start", "at end"] = "at start",
    ) -> T:
        """Attempt a transaction, again only after an attempt that was certainly not applied.

        One that is `idempotent` is attempted again also where that cannot be determined. `name` is its name
        in the log.
        """
        delays = None
        while True:
            commit = Commit[T](identified if self.can_identify else "never")
            try:
                result = await attempt(commit)
                if delays is not None:
                    delays.succeeded()
                return result
            except (StorageError, psycopg.Error) as error:
                delays = delays or Backoff(self._retry_for, name)
                if commit.is_lost(error):
                    outcome = await self._final_outcome(commit, delays)
                    if outcome == "committed":
                        return commit.result
                    if outcome != "aborted" and not idempotent:
                        raise outcome_unknown() from error
                pause_s = self._pause_before_retry(error, delays)
            await asyncio.sleep(pause_s)

    async def _final_outcome(self, commit: Commit[Any], delays: Iterator[float]) -> Outcome:
        """The outcome of a commit without a response, asked for until it is final or the time is up."""
        if commit.transaction is None:
            return "unknown"
        while True:
            try:
                outcome = await self._find_outcome(commit.transaction)
            except (StorageError, psycopg.Error) as error:
                # A store that is closed meanwhile gives no connection, which is not retryable.
                outcome = "in progress" if is_retryable(error) else "unknown"
            pause_s = next(delays, None) if outcome == "in progress" else None
            if pause_s is None:
                return outcome
            await asyncio.sleep(pause_s)

    async def _find_outcome(self, transaction: Transaction) -> Outcome:
        connection = await self._checkouts.checkout()
        try:
            with translated(), limited(connection, self.timeouts.begin_and_commit):
                return await _find_outcome(connection, self.timeouts, transaction)
        finally:
            await self._checkouts.checkin(connection)


async def _find_outcome(
    connection: AsyncConnection[Any], timeouts: Timeouts, transaction: Transaction
) -> Outcome:
    """The outcome of a transaction, asked for on another connection than its own."""
    cursor = AsyncPlainCursor(connection, row_factory=tuple_row)
    try:
        async with begun(connection, timeouts.begin, timeouts.begin_and_commit):
            await cursor.execute(IDENTIFY_SERVER, prepare=False)
            [(is_standby, *identity)] = await cursor.fetchall()
            server = RunningServer(*identity)
            if server.system_identifier != transaction.server.system_identifier:
                return "unknown"
            if is_standby:
                # What it has not replayed yet it reports as aborted.
                return "in progress"
            await cursor.execute(GET_STATUS, {"xid": transaction.xid}, prepare=False)
            [(status,)] = await cursor.fetchall()
            if status == "committed" and server == transaction.server:
                await cursor.execute(WAIT_FOR_STANDBYS, prepare=False)
    except psycopg.errors.InvalidParameterValue:
        # The id has not been given yet: a crash or a failover lost the transaction that had it.
        return "aborted"
    if status == "committed" and server != transaction.server:
        return "unknown"
    return status or "unknown"
