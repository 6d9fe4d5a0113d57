"""Operations that tell which queries they send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

from asm.engine.script import Operation, Pipeline, Query, Script, UnitOfWork

T = TypeVar("T")

Tell: TypeAlias = Callable[[Query[Any]], object]


def telling(operation: Operation[T], tell: Tell) -> Operation[T]:
    """An operation with the same result. A Batchable is left as it is: the group commit sends its queries."""
    told: Operation[T]
    if isinstance(operation, UnitOfWork):
        told = UnitOfWork(
            lambda: _script(iter(operation), tell),
            snapshot=operation.snapshot,
            sessions=operation.sessions,
            idempotent=operation.idempotent,
        )
    elif isinstance(operation, Pipeline):
        on_conflict = operation.on_conflict
        told = Pipeline(
            lambda: _queries(operation, tell),
            operation.read,
            None if on_conflict is None else lambda: _script(on_conflict(), tell),
            size=operation.size,
            sessions=operation.sessions,
        )
    elif isinstance(operation, Query):
        told = telling_query(operation, tell)
    else:
        return operation
    told.name = operation.name
    return told


def telling_query(query: Query[T], tell: Tell) -> Query[T]:
    tell(query)
    on_conflict, on_unknown = query.on_conflict, query.on_unknown_outcome
    if on_conflict is None and on_unknown is None:
        return query
    told = Query(
        query.query,
        query.params,
        query.read,
        None if on_conflict is None else lambda: _script(on_conflict(), tell),
        on_unknown_outcome=None if on_unknown is None else lambda: _script(on_unknown(), tell),
        prepare=query.prepare,
    )
    told.name = query.name
    return told


def telling_script(operation: Operation[T], tell: Tell) -> UnitOfWork[T]:
    """What an operation runs inside a transaction."""
    told = UnitOfWork(lambda: _script(iter(operation), tell), sessions=operation.sessions)
    told.name = operation.name or getattr(operation, "query", "")
    return told


def _script(script: Script[T], tell: Tell) -> Script[T]:
    try:
        query = next(script)
        while True:
            tell(query)
            query = script.send((yield query))
    except StopIteration as end:
        result: T = end.value
        return result


def _queries(pipeline: Pipeline[Any], tell: Tell) -> Iterator[Query[Any]]:
    for query in pipeline.queries():
        tell(query)
        yield query
