"""The metrics of stores."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import Histogram, Sum

import asm
from tests.agents.conftest import in_background
from tests.conftest import POSTGRES, Where, an_event, events_of
from tests.contract.other_clients import only
from tests.fault.concurrent_writers import wait_until
from tests.telemetry.conftest import Reported, place_of

__all__ = ["in_background"]

CONNECTIONS = {f"db.client.connection.{name}" for name in ("count", "max", "pending_requests", "wait_time")}
postgres_only = only(POSTGRES[:1], why="SQLite has no pool")


def test_the_duration_of_operations_is_a_histogram_with_the_buckets_of_the_convention(
    instrumented: Any, where: Where, reported: Reported
) -> None:
    instrumented.append_event(an_event())
    instrumented.append_event(an_event())
    with pytest.raises(asm.SessionNotFound):
        instrumented.get_session("ses_1")
    with pytest.raises(asm.StorageError), instrumented.transaction() as tx:
        tx.get_events("ses_1")
        tx.execute("select * from nowhere")
    points = {
        each["db.operation.name"]: (each, point)
        for each, point in reported.points("db.client.operation.duration")
    }
    assert points.keys() == {"append_event", "get_session", "get_events", "execute"}
    assert points["append_event"][1].count == 2
    assert points["append_event"][1].explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    place = place_of(where)
    events, sessions = {"db.collection.name": "asm_events"}, {"db.collection.name": "asm_sessions"}
    absent = {"error.type": "session_not_found"}
    code = "42P01" if where.dialect == "postgres" else "SQLITE_ERROR"
    failed = {"error.type": "storage_error", "db.response.status_code": code}
    assert {name: each for name, (each, _) in points.items()} == {
        "append_event": {**place, **events, "db.operation.name": "append_event"},
        "get_session": {**place, **sessions, **absent, "db.operation.name": "get_session"},
        "get_events": {**place, **events, "db.operation.name": "get_events"},
        "execute": {**place, **failed, "db.operation.name": "execute"},
    }


def test_the_duration_of_an_operation_is_that_of_its_span(instrumented: Any, reported: Reported) -> None:
    instrumented.append_event(an_event())
    [span] = reported.spans()
    [(_, point)] = reported.points("db.client.operation.duration")
    assert span.start_time is not None
    assert span.end_time is not None
    assert round(point.sum * 1e9) == span.end_time - span.start_time


def test_the_size_of_appends_is_a_histogram(instrumented: Any, where: Where, reported: Reported) -> None:
    instrumented.append_event(an_event())
    instrumented.append_events(events_of("ses_1", 40))
    [(of_appends, point)] = reported.points("asm.append.batch_size")
    assert (point.count, point.sum, point.max) == (2, 41, 40)
    assert of_appends == place_of(where)


def connections(reported: Reported) -> dict[str, int]:
    points = reported.points("db.client.connection.count")
    return {attributes["db.client.connection.state"]: point.value for attributes, point in points}


@postgres_only
def test_the_connections_of_a_pool_are_counted_until_the_store_is_not_instrumented(
    opened: Callable[..., Any], migrated: str, reported: Reported
) -> None:
    store = opened(migrated, min_size=2, max_size=2)
    instrumentation = reported.instrument(store)
    wait_until(lambda: connections(reported) == {"idle": 2, "used": 0})
    with store.transaction() as tx:
        tx.execute("select 1")
        assert connections(reported) == {"idle": 1, "used": 1}
    store.get_events("ses_1")
    assert connections(reported) == {"idle": 2, "used": 0}
    instrumentation.uninstrument()
    assert reported.metrics().keys() & (CONNECTIONS - {"db.client.connection.wait_time"}) == set()


@postgres_only
def test_operations_that_wait_for_a_connection_are_counted_and_their_time_is_a_histogram(
    opened: Callable[..., Any], migrated: str, reported: Reported, in_background: Callable[..., Future[Any]]
) -> None:
    def pending() -> int:
        [(_, point)] = reported.points("db.client.connection.pending_requests")
        return int(point.value)

    def waits() -> int:
        return sum(point.count for _, point in reported.points("db.client.connection.wait_time"))

    store = opened(migrated, min_size=1, max_size=1)
    instrumentation = reported.instrument(store)
    with store.transaction() as tx:
        tx.execute("select 1")
        before = waits()
        waiting = in_background(store.get_events, "ses_1")
        wait_until(lambda: pending() == 1)
    waiting.result(60)
    assert (pending(), waits()) == (0, before + 1)
    [(of_pool, point)] = reported.points("db.client.connection.wait_time")
    assert of_pool.keys() == {"db.system.name", "db.client.connection.pool.name"}
    assert 0 < point.max <= point.sum
    assert point.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    instrumentation.uninstrument()
    with store.transaction() as tx:
        tx.execute("select 1")
        waiting = in_background(store.get_events, "ses_1")
    waiting.result(60)
    assert waits() == before + 1


@only(["sqlite"], why="PostgreSQL has a pool")
def test_sqlite_reports_no_pool(instrumented: Any, reported: Reported) -> None:
    instrumented.append_event(an_event())
    assert reported.metrics().keys() == {"db.client.operation.duration", "asm.append.batch_size"}


@postgres_only
def test_each_metric_has_the_type_and_the_unit_of_the_convention(
    opened: Callable[..., Any], migrated: str, reported: Reported
) -> None:
    store = opened(migrated, min_size=1, max_size=7)
    reported.instrument(store)
    with store.transaction() as tx:
        tx.execute("select 1")
        # The second connection comes from the pool.
        store.append_event(an_event())
    found = {name: (type(each.data), each.unit) for name, each in reported.metrics().items()}
    assert found == {
        "asm.append.batch_size": (Histogram, "{event}"),
        "db.client.operation.duration": (Histogram, "s"),
        "db.client.connection.wait_time": (Histogram, "s"),
        "db.client.connection.count": (Sum, "{connection}"),
        "db.client.connection.max": (Sum, "{connection}"),
        "db.client.connection.pending_requests": (Sum, "{request}"),
    }
    [(of_pool, most)] = reported.points("db.client.connection.max")
    assert of_pool.keys() == {"db.system.name", "db.client.connection.pool.name"}
    assert most.value == 7
    sums = [each.data for each in reported.metrics().values() if isinstance(each.data, Sum)]
    assert [each.is_monotonic for each in sums] == [False] * 3
