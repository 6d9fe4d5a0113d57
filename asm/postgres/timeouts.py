"""How long a statement may take, and whether the server or the client enforces it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import psycopg

from asm.engine.script import Operation, Pipeline, UnitOfWork
from asm.errors import StorageTimeout

IDLE_IN_TRANSACTION_TIMEOUT_S = 20.0
"""The server ends a transaction of ours whose client sends nothing for this long. The locks of a client
whose machine is lost would otherwise be held until TCP gives up, which takes two hours."""

GRACE_S = 1.0
"""How much longer the client waits than the server, so that the server's own error arrives first."""


class Limit(NamedTuple):
    """How long the client waits for a statement.

    After that time the client cancels the statement; or, where `cancels` is False, it checks that the
    server still accepts connections, and waits again as long as it does.
    """

    after_s: float
    cancels: bool = True

    def shortened(self, after_s: float) -> Limit:
        return Limit(min(self.after_s, after_s))


class ServerUnresponsive(psycopg.OperationalError):
    """The server's machine is up, and its process is stuck or has lost the session."""


def timed_out(after_s: float) -> StorageTimeout:
    return StorageTimeout(
        f"the statement was cancelled after {after_s:g} s without a result: retry, or open the store with a "
        "longer timeout"
    )


class Limited:
    """A connection that bounds its statements: `limit` is None while it executes an application's own.

    Several tasks or threads may use one connection, and wait for each other, each with a limit of its own.
    """

    @property
    def limit(self) -> Limit | None:
        connection, limit = _LIMIT.get()
        return limit if connection is self else None


_LIMIT: ContextVar[tuple[object, Limit | None]] = ContextVar("_LIMIT", default=(None, None))


@contextmanager
def limited(connection: object, limit: Limit | None) -> Iterator[None]:
    """Bound the statements of a block, if the connection is one of our own class."""
    before = _LIMIT.set((connection, limit))
    try:
        yield
    finally:
        _LIMIT.reset(before)


class Timeouts:
    """The `begin` of each kind of transaction, with the server's limits, and the client's limits."""

    def __init__(
        self, timeout: float | None, statement_timeout: float | None, *, propagates: bool = False
    ) -> None:
        """With `propagates`, the settings of a transaction are those of its part on each worker of Citus."""
        self.timeout = timeout
        self.bounds_statements = statement_timeout is not None
        begin = partial(
            _begin, timeout_s=timeout, statement_timeout_s=statement_timeout, propagates=propagates
        )
        self.begin_user = begin("read committed")
        """A transaction that the application ends, with no limit on the time between two statements."""
        self.begin = f"{begin('read committed')}; {_LIMIT_IDLE}"
        self.settings = _settings(timeout, statement_timeout)
        """The settings of `begin` as the columns of a select, for a transaction that has begun."""
        self._begin_snapshot = begin("repeatable read read only")
        self._begin = begin
        while_alive = None if timeout is None else Limit(timeout + GRACE_S, cancels=False)
        # Of a statement outside a transaction the server bounds only the wait for a lock, which is what a
        # write that takes long does there.
        self.write = _limit(_shortest(timeout and timeout + GRACE_S, statement_timeout))
        self.read = _limit(statement_timeout) or while_alive
        # In a transaction the server enforces the two timeouts.
        self.in_transaction = _limit(statement_timeout, GRACE_S) or while_alive
        self.begin_and_commit = _limit(_shortest(timeout, statement_timeout), GRACE_S)

    def begin_for(self, operation: Operation[Any], lock_timeout_s: float | None) -> str:
        if lock_timeout_s is not None:
            timeout_s = _shortest(self.timeout, lock_timeout_s)
            return f"{self._begin('read committed', timeout_s=timeout_s)}; {_LIMIT_IDLE}"
        return (
            self._begin_snapshot if isinstance(operation, UnitOfWork) and operation.snapshot else self.begin
        )

    def pipeline(self, pipeline: Pipeline[Any], lock_timeout_s: float | None) -> Limit | None:
        if self.write is None:
            return None
        limit = Limit(self.write.after_s * pipeline.size + GRACE_S)
        # The first statement waits for the locks of all sessions.
        return limit if lock_timeout_s is None else limit.shortened(lock_timeout_s)


def _limit(after_s: float | None, grace_s: float = 0.0) -> Limit | None:
    return None if after_s is None else Limit(after_s + grace_s)


def _shortest(*limits_s: float | None) -> float | None:
    return min((limit_s for limit_s in limits_s if limit_s is not None), default=None)


def _settings(timeout_s: float | None, statement_timeout_s: float | None) -> str:
    limits_s = {
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT_S,
        "lock_timeout": timeout_s,
        "statement_timeout": statement_timeout_s,
    }
    return ", ".join(
        f"pg_catalog.set_config('{name}', '{milliseconds(limit_s)}', true)"
        for name, limit_s in limits_s.items()
        if limit_s is not None
    )


def _begin(
    isolation: str, timeout_s: float | None, statement_timeout_s: float | None, *, propagates: bool
) -> str:
    # One round trip, and settings that end with the transaction. Without parameters, because
    # PostgreSQL takes several statements at once only in the simple protocol.
    begin = f"begin isolation level {isolation}"
    if propagates:
        begin += f"; set local {_PROPAGATION} = 'local'"
    if timeout_s is not None:
        begin += f"; set local lock_timeout = {milliseconds(timeout_s)}"
    if statement_timeout_s is not None:
        begin += f"; set local statement_timeout = {milliseconds(statement_timeout_s)}"
    return begin


_PROPAGATION = "citus.propagate_set_commands"


def milliseconds(seconds: float) -> int:
    """For a setting of the server, where 0 means no limit."""
    return max(1, min(int(seconds * 1000), 2**31 - 1))


_LIMIT_IDLE = f"set local idle_in_transaction_session_timeout = {milliseconds(IDLE_IN_TRANSACTION_TIMEOUT_S)}"
"""Ends a transaction of ours, which an application's own is not."""
