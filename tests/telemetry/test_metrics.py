"""The metrics of stores."""

from __future__ import annotations

from typing import Any

import pytest

import asm
from asm import telemetry
from tests.conftest import POSTGRES, Where, an_event, events_of
from tests.contract.other_clients import only
from tests.fault.concurrent_writers import wait_until
from tests.telemetry.conftest import Reported

CONNECTIONS = {f"db.client.connection.{name}" for name in ("count", "max", "pending_requests", "wait_time")}
postgres_only = only(POSTGRES[:1], why="SQLite has no pool")


def test_the_duration_of_operations_is_a_histogram_with_the_buckets_of_the_convention(
    instrumented: Any, where: Where, reported: Reported
) -> None:
    instrumented.append_event(an_event())
    instrumented.append_event(an_event())
    with pytest.raises(asm.SessionNotFound):
        instrumented.get_session("ses_1")
    with instrumented.transaction() as tx:
        tx.get_events("ses_1")
    points = {
        each["db.operation.name"]: (each, point)
        for each, point in reported.points("db.client.operation.duration")
    }
    assert points.keys() == {"append_event", "get_session", "get_events"}
    of_append, point = points["append_event"]
    assert point.count == 2
    assert point.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    assert of_append["db.system.name"] == ("postgresql" if where.dialect == "postgres" else "sqlite")
    assert of_append["db.collection.name"] == "asm_events"
    assert points["get_session"][0]["error.type"] == "session_not_found"
    assert not any("asm.session.id" in each for each, _ in points.values())


def test_the_size_of_appends_is_a_histogram(instrumented: Any, reported: Reported) -> None:
    instrumented.append_event(an_event())
    instrumented.append_events(events_of("ses_1", 40))
    [(_, point)] = reported.points("asm.append.batch_size")
    assert (point.count, point.sum, point.max) == (2, 41, 40)


def connections(reported: Reported) -> dict[str, int]:
    points = reported.points("db.client.connection.count")
    return {attributes["db.client.connection.state"]: point.value for attributes, point in points}


@postgres_only
def test_the_connections_of_a_pool_are_counted_until_the_store_is_not_instrumented(
    migrated: str, reported: Reported
) -> None:
    with asm.SessionStore(migrated, min_size=2, max_size=2) as store:
        reported.instrument(store)
        wait_until(lambda: connections(reported) == {"idle": 2, "used": 0})
        with store.transaction() as tx:
            tx.execute("select 1")
            assert connections(reported) == {"idle": 1, "used": 1}
        store.get_events("ses_1")
        assert connections(reported) == {"idle": 2, "used": 0}
        [(of_pool, most)] = reported.points("db.client.connection.max")
        assert set(of_pool) == {"db.system.name", "db.client.connection.pool.name"}
        assert most.value == 2
        [(_, pending)] = reported.points("db.client.connection.pending_requests")
        assert pending.value == 0
        assert reported.metrics() >= CONNECTIONS
        telemetry.uninstrument(store)
        assert reported.metrics() & CONNECTIONS == set()


@only(["sqlite"], why="PostgreSQL has a pool")
def test_sqlite_reports_no_pool(instrumented: Any, reported: Reported) -> None:
    instrumented.append_event(an_event())
    assert reported.metrics() == {"db.client.operation.duration", "asm.append.batch_size"}
