"""How long a question to PostgreSQL may take, and who sees to it."""

from __future__ import annotations

from typing import Any

from asm.engine.registry import RenderedQuery
from asm.engine.script import Operation, Pipeline, UnitOfWork

IDLE_IN_TRANSACTION_TIMEOUT_S = 20.0
"""A plan that writes, and whose client says nothing for so long, is ended by the server. One whose
machine has vanished would hold its locks until TCP gives it up, which takes two hours."""


class Timeouts:
    """How long things may take: what a transaction begins with, and what a lone statement is given."""

    def __init__(self, timeout: float | None, statement_timeout: float | None) -> None:
        self.timeout = timeout
        self.bound_statements = statement_timeout is not None
        self._statement_timeout = statement_timeout
        self.begin_user = _begin("read committed", timeout, statement_timeout)
        """A transaction that its caller ends, who may take any time between two statements."""
        self.begin = _begin_plan(timeout, statement_timeout)
        self._begin_snapshot = _begin("repeatable read read only", timeout, statement_timeout)
        # One that writes and takes long waits for a lock.
        self._writing_s = _shortest(timeout, statement_timeout)
        self._reading_s = statement_timeout

    def begin_for(self, question: Operation[Any], *, lock_timeout_s: float | None) -> str:
        if lock_timeout_s is not None:
            return _begin_plan(_shortest(self.timeout, lock_timeout_s), self._statement_timeout)
        return self._begin_snapshot if isinstance(question, UnitOfWork) and question.snapshot else self.begin

    def timeout_s(self, render: RenderedQuery, *, lock_timeout_s: float | None) -> float | None:
        if not render.writes:
            return self._reading_s
        return self._writing_s if lock_timeout_s is None else _shortest(self._writing_s, lock_timeout_s)

    def patience_with(self, volley: Pipeline[Any]) -> float | None:
        return None if self._writing_s is None else self._writing_s * volley.size


def _shortest(*limits_s: float | None) -> float | None:
    return min((limit_s for limit_s in limits_s if limit_s is not None), default=None)


def _begin_plan(timeout: float | None, statement_timeout: float | None) -> str:
    begin = _begin("read committed", timeout, statement_timeout)
    idle_ms = milliseconds(IDLE_IN_TRANSACTION_TIMEOUT_S)
    return f"{begin}; set local idle_in_transaction_session_timeout = {idle_ms}"


def _begin(isolation: str, timeout: float | None, statement_timeout: float | None) -> str:
    # One trip, and nothing that outlives the transaction. Without parameters, because only
    # so does PostgreSQL take several statements at once.
    begin = f"begin isolation level {isolation}"
    if timeout is not None:
        begin += f"; set local lock_timeout = {milliseconds(timeout)}"
    if statement_timeout is not None:
        begin += f"; set local statement_timeout = {milliseconds(statement_timeout)}"
    return begin


def milliseconds(seconds: float) -> int:
    """For a setting of the server, where 0 would be no limit at all."""
    return max(1, min(int(seconds * 1000), 2**31 - 1))
