"""Databases that report what they do, in place of those that do it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

from asm.engine.observation import ObservedDatabase
from asm.engine.script import Operation, Params, Query, Row
from asm.telemetry.spans import Spans

T = TypeVar("T")


class AsyncTracedDatabase(ObservedDatabase):
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

    async def run(self, operation: Operation[T]) -> T:
        with self._spans.operation(operation) as span:
            result: T = await self._database.run(span.operation)
            span.result = result
            return result

    async def _send(self, query: Query[Any], /, **limits: Any) -> Any:
        with self._spans.statement(query) as span:
            return await self._send_statement(span.operation, **limits)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncTracedTransaction]:
        # sync only: with self._spans.block("transaction"), self._database.transaction() as tx:
        # sync only:     yield TracedTransaction(tx, self._spans)
        # begin: async only
        with self._spans.block("transaction"):
            async with self._database.transaction() as tx:
                yield AsyncTracedTransaction(tx, self._spans)
        # end: async only

    async def run_transaction(
        self, work: Callable[[AsyncTracedTransaction], Awaitable[T]], *, idempotent: bool
    ) -> T:
        async def traced(tx: Any) -> T:
            return await work(AsyncTracedTransaction(tx, self._spans))

        with self._spans.block("run_transaction"):
            result: T = await self._database.run_transaction(traced, idempotent=idempotent)
            return result

    @property
    def poller(self) -> Any:
        """That of the database, whose polls have no spans: there are up to two hundred in a second."""
        return self._database.poller

    async def close(self) -> None:
        await self._database.close()


class AsyncTracedTransaction:
    """A transaction whose operations have spans, which are children of its own."""

    def __init__(self, tx: Any, spans: Spans) -> None:
        self._tx = tx
        self._spans = spans

    async def run(self, operation: Operation[T]) -> T:
        with self._spans.in_transaction(operation) as span:
            result: T = await self._tx.run(span.operation)
            span.result = result
            return result

    async def execute(self, sql: str, params: Params) -> list[Row]:
        with self._spans.own_statement() as span:
            result: list[Row] = await self._tx.execute(sql, params)
            span.result = result
            return result

    @property
    def connection(self) -> Any:
        return self._tx.connection

    @property
    def poller(self) -> Any:
        return self._tx.poller
