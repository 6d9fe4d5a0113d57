"""What the blocking and the awaited database share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection, pq

from asm.engine.registry import QueryRegistry
from asm.engine.script import (
    Pipeline,
    Query,
    Rows,
    UnitOfWork,
)
from asm.errors import ConnectionFailed, StorageError
from asm.postgres.connections import (
    ServerUnresponsive,
)
from asm.postgres.errors import only_reads

T = TypeVar("T")

Unbatched: TypeAlias = "Query[T] | UnitOfWork[T] | Pipeline[T]"
"""A question that is put to the database by itself, with no other."""

PARALLEL_BATCHES_FROM = 128
"""From so many waiting appends on, two batches at a time: 38,000/s from 512 tasks instead of 29,000;
with 64 tasks two are no faster than one, and cost the client a fifth more."""

DIAGNOSE_AFTER_S = 1.0
"""A pool that gives no connection in that time is asked why."""


class PipelineRun(Generic[T]):
    """A volley on its way, spelled out for the wire one question after the other."""

    def __init__(self, queries: QueryRegistry, volley: Pipeline[T]) -> None:
        self._queries = queries
        self._volley = volley
        self._reads: list[Callable[[Rows], Any]] = []

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        self._reads = []
        for ask in self._volley.queries():
            self._reads.append(ask.read)
            yield self._queries[ask.query].render(ask.params).statements[0].sql, ask.params

    def read(self, answers: Sequence[Rows]) -> T:
        return self._volley.read([read(rows) for read, rows in zip(self._reads, answers, strict=True)])


def is_unusable_server(error: ConnectionFailed | psycopg.Error) -> bool:
    return (
        only_reads(error)
        or isinstance(error, ServerUnresponsive)
        or isinstance(error.__cause__, ServerUnresponsive)
    )


def check_not_aborted(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    # PostgreSQL answers the commit of a failed transaction with a rollback and no error.
    if connection.info.transaction_status == pq.TransactionStatus.INERROR:
        raise StorageError("an earlier statement of this transaction failed, so nothing of it is kept")


def check_not_ended(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    # What came next would be committed statement by statement.
    if connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        raise StorageError("`tx.connection` has committed this transaction or rolled it back")


def bind(params: Mapping[str, Any]) -> dict[str, Any]:
    """The values as psycopg takes them: to it, a tuple would be a composite."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}
