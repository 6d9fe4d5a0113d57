# Generated from asm/postgres/async_at_most_once.py by `make sync`. Change that file instead.

"""Transactions that are applied at most once, even if the response to a commit is lost.

A transaction that failed before its commit was sent left nothing, and is attempted again. If the commit was
sent and its response was lost, another connection asks the server for its outcome (`outcomes.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, TypeVar

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

from asm.engine.retry import Backoff, is_retryable
from asm.errors import StorageError
from asm.postgres.adapters import PlainCursor
from asm.postgres.checkouts import Checkouts
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
from asm.postgres.transaction import begun

T = TypeVar("T")

PauseBeforeRetry: TypeAlias = Callable[[StorageError | psycopg.Error, Backoff], float]
"""The pause after an error, in seconds; raises the error where another attempt is of no use."""


class AtMostOnce:
    """Attempts transactions of one database."""

    def __init__(
        self,
        checkouts: Checkouts,
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

    def run(
        self,
        attempt: Callable[[Commit[T]], T],
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
                result = attempt(commit)
                if delays is not None:
                    delays.succeeded()
                return result
            except (StorageError, psycopg.Error) as error:
                delays = delays or Backoff(self._retry_for, name)
                if commit.is_lost(error):
                    outcome = self._final_outcome(commit, delays)
                    if outcome == "committed":
                        return commit.result
                    if outcome != "aborted" and not idempotent:
                        raise outcome_unknown() from error
                pause_s = self._pause_before_retry(error, delays)
            time.sleep(pause_s)

    def _final_outcome(self, commit: Commit[Any], delays: Iterator[float]) -> Outcome:
        """The outcome of a commit without a response, asked for until it is final or the time is up."""
        if commit.transaction is None:
            return "unknown"
        while True:
            try:
                outcome = self._find_outcome(commit.transaction)
            except (StorageError, psycopg.Error) as error:
                # A store that is closed meanwhile gives no connection, which is not retryable.
                outcome = "in progress" if is_retryable(error) else "unknown"
            pause_s = next(delays, None) if outcome == "in progress" else None
            if pause_s is None:
                return outcome
            time.sleep(pause_s)

    def _find_outcome(self, transaction: Transaction) -> Outcome:
        connection = self._checkouts.checkout()
        try:
            with translated(), limited(connection, self.timeouts.begin_and_commit):
                return _find_outcome(connection, self.timeouts, transaction)
        finally:
            self._checkouts.checkin(connection)


def _find_outcome(connection: Connection[Any], timeouts: Timeouts, transaction: Transaction) -> Outcome:
    """The outcome of a transaction, asked for on another connection than its own."""
    cursor = PlainCursor(connection, row_factory=tuple_row)
    try:
        with begun(connection, timeouts.begin, timeouts.begin_and_commit):
            cursor.execute(IDENTIFY_SERVER, prepare=False)
            [(is_standby, *identity)] = cursor.fetchall()
            server = RunningServer(*identity)
            if server.system_identifier != transaction.server.system_identifier:
                return "unknown"
            if is_standby:
                # What it has not replayed yet it reports as aborted.
                return "in progress"
            cursor.execute(GET_STATUS, {"xid": transaction.xid}, prepare=False)
            [(status,)] = cursor.fetchall()
            if status == "committed" and server == transaction.server:
                cursor.execute(WAIT_FOR_STANDBYS, prepare=False)
    except psycopg.errors.InvalidParameterValue:
        # The id has not been given yet: a crash or a failover lost the transaction that had it.
        return "aborted"
    if status == "committed" and server != transaction.server:
        return "unknown"
    return status or "unknown"
