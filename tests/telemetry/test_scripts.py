"""Operations that tell which queries they send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from asm.engine.script import Pipeline, Query, Script, UnitOfWork, no_result, run_script
from asm.telemetry.scripts import reporting, reporting_script


def query(name: str) -> Query[None]:
    return Query(name, {"name": name}, no_result)


def script() -> Script[str]:
    yield query("first")
    yield query("second")
    return "done"


def queries() -> list[Query[None]]:
    return [query("first"), query("second")]


OPERATIONS: dict[str, Callable[[], Any]] = {
    "query": lambda: query("first"),
    "query that may conflict": lambda: Query("first", {"name": "first"}, no_result, script),
    "query of unknown outcome": lambda: Query(
        "first", {"name": "first"}, no_result, on_unknown_outcome=script, prepare=False
    ),
    "unit of work": lambda: UnitOfWork(script, sessions=["ses_1"], idempotent=False),
    "snapshot": lambda: UnitOfWork(script, snapshot=True),
    "pipeline": lambda: Pipeline(queries, len, script, size=2, sessions=["ses_1"]),
}


def named(make: Callable[[], Any]) -> Any:
    operation = make()
    operation.name = "the_method"
    return operation


def fields(operation: Any) -> dict[str, Any]:
    """What an operation consists of; of a function that makes its scripts, whether it has one."""
    values = {name: getattr(operation, name, None) for name in type(operation).__slots__}
    scripts = ("_make", "queries", "on_conflict", "on_unknown_outcome")
    return {name: value is not None if name in scripts else value for name, value in values.items()}


@pytest.mark.parametrize("make", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_that_tells_its_queries_is_otherwise_the_same(make: Callable[[], Any]) -> None:
    operation = named(make)
    observed = reporting(operation, lambda _: None)
    assert type(observed) is type(operation)
    assert fields(observed) == fields(operation)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("query that may conflict", "on_conflict"),
        ("query of unknown outcome", "on_unknown_outcome"),
        ("unit of work", "__iter__"),
        ("snapshot", "__iter__"),
        ("pipeline", "on_conflict"),
    ],
)
def test_each_script_of_an_operation_tells_its_queries(name: str, part: str) -> None:
    seen: list[str] = []
    observed = reporting(OPERATIONS[name](), lambda query: seen.append(query.query))
    seen.clear()
    assert run_script(getattr(observed, part)(), lambda _: []) == "done"
    assert seen == ["first", "second"]


def test_a_pipeline_tells_its_queries_one_by_one() -> None:
    seen: list[str] = []
    observed: Any = reporting(OPERATIONS["pipeline"](), lambda query: seen.append(query.query))
    for number, each in enumerate(observed.queries(), 1):
        assert (len(seen), seen[-1]) == (number, each.query)


def test_in_a_transaction_an_operation_is_a_script_that_tells_its_queries() -> None:
    seen: list[str] = []
    operation = named(OPERATIONS["pipeline"])
    observed = reporting_script(operation, lambda query: seen.append(query.query))
    assert (observed.name, observed.sessions) == ("the_method", ["ses_1"])
    assert run_script(observed, lambda _: []) == "done"
    assert seen == ["first", "second"]
