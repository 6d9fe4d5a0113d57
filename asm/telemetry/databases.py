# Generated from asm/telemetry/async_databases.py by `make sync`. Change that file instead.

"""Databases that report what they do, in place of those that do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from asm.engine.observation import ObservedDatabase
from asm.engine.script import Operation, Params, Query, Row
from asm.telemetry.spans import Spans

T = TypeVar("T")


class TracedDatabase(ObservedDatabase):
    """A database whose operations have spans."""

    def __init__(self, database: Any, spans: Spans) -> None:
        self._database = database
        self._spans = spans
        self._send_statement = database.group_commit.send
        database.group_commit.send = self._send

    def detach(self) -> Any:
        self._database.group_commit.send = self._send_statement
        self._spans.instruments.forget_pool(self._database)
        return self._database

    def job(self, name: str) -> AbstractContextManager[object]:
        return self._spans.block(f"maintenance.{name}")

    def run(self, operation: Operation[T]) -> T:
        with self._spans.operation(operation) as span:
            result: T = self._database.run(span.operation)
            span.result = result
            return result

    def _send(self, query: Query[Any], /, **limits: Any) -> Any:
        with self._spans.statement(query) as span:
            return self._send_statement(span.operation, **limits)

    @contextmanager
    def transaction(self) -> Iterator[TracedTransaction]:
        with self._spans.block("transaction"), self._database.transaction() as tx:
            yield TracedTransaction(tx, self._spans)

    def run_transaction(self, work: Callable[[TracedTransaction], T], *, idempotent: bool) -> T:
        def traced(tx: Any) -> T:
            return work(TracedTransaction(tx, self._spans))

        with self._spans.block("run_transaction"):
            result: T = self._database.run_transaction(traced, idempotent=idempotent)
            return result

    @property
    def poller(self) -> Any:
        """That of the database, whose polls have no spans: there are up to two hundred in a second."""
        return self._database.poller

    def close(self) -> None:
        self._database.close()


class TracedTransaction:
    """A transaction whose operations have spans, which are children of its own."""

    def __init__(self, tx: Any, spans: Spans) -> None:
        self._tx = tx
        self._spans = spans

    def run(self, operation: Operation[T]) -> T:
        with self._spans.in_transaction(operation) as span:
            result: T = self._tx.run(span.operation)
            span.result = result
            return result

    def execute(self, sql: str, params: Params) -> list[Row]:
        with self._spans.own_statement() as span:
            result: list[Row] = self._tx.execute(sql, params)
            span.result = result
            return result

    @property
    def connection(self) -> Any:
        return self._tx.connection

    @property
    def poller(self) -> Any:
        return self._tx.poller
