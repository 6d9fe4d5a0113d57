"""Operations that report which queries they send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

from asm.engine.script import Operation, Pipeline, Query, Script, UnitOfWork

T = TypeVar("T")

OnQuery: TypeAlias = Callable[[Query[Any]], object]


def reporting(operation: Operation[T], on_query: OnQuery) -> Operation[T]:
    """An operation with the same result. A Batchable is left as it is: the group commit sends its queries."""
    observed: Operation[T]
    if isinstance(operation, UnitOfWork):
        observed = UnitOfWork(
            lambda: _script(iter(operation), on_query),
            snapshot=operation.snapshot,
            sessions=operation.sessions,
            idempotent=operation.idempotent,
        )
    elif isinstance(operation, Pipeline):
        on_conflict = operation.on_conflict
        observed = Pipeline(
            lambda: _queries(operation, on_query),
            operation.read,
            None if on_conflict is None else lambda: _script(on_conflict(), on_query),
            size=operation.size,
            sessions=operation.sessions,
        )
    elif isinstance(operation, Query):
        observed = reporting_query(operation, on_query)
    else:
        return operation
    observed.name = operation.name
    return observed


def reporting_query(query: Query[T], on_query: OnQuery) -> Query[T]:
    on_query(query)
    on_conflict, on_unknown = query.on_conflict, query.on_unknown_outcome
    if on_conflict is None and on_unknown is None:
        return query
    observed = Query(
        query.query,
        query.params,
        query.read,
        None if on_conflict is None else lambda: _script(on_conflict(), on_query),
        on_unknown_outcome=None if on_unknown is None else lambda: _script(on_unknown(), on_query),
        prepare=query.prepare,
    )
    observed.name = query.name
    return observed


def reporting_script(operation: Operation[T], on_query: OnQuery) -> UnitOfWork[T]:
    """What an operation runs inside a transaction."""
    observed = UnitOfWork(lambda: _script(iter(operation), on_query), sessions=operation.sessions)
    observed.name = operation.name or getattr(operation, "query", "")
    return observed


def _script(script: Script[T], on_query: OnQuery) -> Script[T]:
    try:
        query = next(script)
        while True:
            on_query(query)
            query = script.send((yield query))
    except StopIteration as end:
        result: T = end.value
        return result


def _queries(pipeline: Pipeline[Any], on_query: OnQuery) -> Iterator[Query[Any]]:
    for query in pipeline.queries():
        on_query(query)
        yield query
