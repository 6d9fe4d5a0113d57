"""Appends of several callers in one statement: its span, and theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

import asm
from tests.conftest import POSTGRES, an_event
from tests.contract.other_clients import only
from tests.fault.concurrent_writers import wait_until
from tests.fault.proxy import Proxy
from tests.telemetry.conftest import Reported, attributes, linked, parent_id, span_id, trace_id

postgres_only = only(POSTGRES[:1], why="SQLite has no connection that could be lost")


TWO = ("second", "third")


@contextmanager
def waiting_appends(
    store: Any, other: str, reported: Reported, behind: Sequence[str] = TWO
) -> Iterator[None]:
    """Appends, each in a trace of its own: one that waits for a lock, and others that wait for it.

    When the block ends, the lock is released, and the others share a statement.
    """

    def append(name: str) -> asm.Event:
        with reported.tracer.start_as_current_span(name):
            event: asm.Event = store.append_event(an_event(id=f"evt_{name}"))
            return event

    queue = getattr(store, "_target", store)._database._database.group_commit._queue
    with ThreadPoolExecutor(3) as threads, asm.SessionStore(other) as holder:
        with holder.transaction() as tx:
            tx.append_event(an_event())
            appends = [threads.submit(append, "first")]
            wait_until(lambda: queue._batches)
            appends += [threads.submit(append, name) for name in behind]
            wait_until(lambda: len(queue.waiting) == len(behind))
            yield
        for each in appends:
            each.result()


def test_a_shared_statement_has_a_span_of_its_own_that_is_linked_with_those_of_its_callers(
    open_instrumented: Callable[..., Any], migrated: str, reported: Reported
) -> None:
    store = open_instrumented(statements=True)
    with waiting_appends(store, migrated, reported):
        pass
    [shared] = reported.spans("group_commit asm_events")
    callers = {name: caller for name in ("first", "second", "third") for caller in reported.spans(name)}
    appends = {parent_id(span): span for span in reported.spans("append_event asm_events")}
    first, second, third = (appends[span_id(callers[name])] for name in ("first", "second", "third"))

    assert shared.parent is None
    assert trace_id(shared) not in {trace_id(caller) for caller in callers.values()}
    assert linked(shared) == {span_id(second), span_id(third)}
    assert linked(second) == linked(third) == {span_id(shared)}
    assert linked(first) == set()
    assert attributes(shared)["db.operation.batch.size"] == 2
    assert "insert into asm_events" in attributes(shared)["db.query.text"]
    assert "insert into asm_events" in attributes(first)["db.query.text"]
    assert "db.query.text" not in attributes(second)
    assert shared.kind is SpanKind.CLIENT
    # One statement for the first, one for the two others.
    [(_, point)] = reported.points("asm.append.batch_size")
    assert (point.count, point.sum) == (2, 3)
    # The duration is that of each caller, and the statement is not counted beside them.
    [(of_append, duration)] = reported.points("db.client.operation.duration")
    assert (of_append["db.operation.name"], duration.count) == ("append_event", 3)


@postgres_only
def test_the_retries_of_a_shared_statement_are_those_of_its_callers(
    migrated: str, open_instrumented: Callable[..., Any], reported: Reported
) -> None:
    with Proxy(migrated) as proxy:
        store = open_instrumented(proxy.dsn)
        with waiting_appends(store, migrated, reported):
            proxy.cut_when(b"evt_third", "before")
    [shared] = reported.spans("group_commit asm_events")
    retries = [attributes(span).get("asm.retries") for span in reported.spans("append_event asm_events")]
    assert attributes(shared)["asm.retries"] == 1
    assert retries == [None, 1, 1]


@postgres_only
def test_the_retries_of_a_statement_are_those_of_its_caller_whoever_it_waited_for(
    migrated: str, open_instrumented: Callable[..., Any], reported: Reported
) -> None:
    with Proxy(migrated) as proxy:
        store = open_instrumented(proxy.dsn)
        with waiting_appends(store, migrated, reported, behind=["second"]):
            proxy.cut_when(b"evt_second", "before")
    assert reported.spans("group_commit") == []
    retries = [attributes(span).get("asm.retries") for span in reported.spans("append_event asm_events")]
    assert retries == [None, 1]


@postgres_only
def test_a_shared_statement_that_fails_says_why_as_its_callers_do(
    migrated: str, opened: Callable[..., Any], reported: Reported
) -> None:
    with Proxy(migrated) as proxy:
        store = opened(proxy.dsn, retry_for=0)
        reported.instrument(store)
        with pytest.raises(asm.ConnectionFailed), waiting_appends(store, migrated, reported):
            proxy.cut_when(b"evt_third", "before")
    [shared] = reported.spans("group_commit asm_events")
    failed = [span for span in reported.spans("append_event asm_events") if span.links]
    for span in (shared, *failed):
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == "storage_connection_failed"
    assert len(failed) == 2
