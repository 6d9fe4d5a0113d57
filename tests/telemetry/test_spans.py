"""The spans of a store's operations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from psycopg.conninfo import conninfo_to_dict

import asm
from asm import telemetry
from tests.conftest import POSTGRES, Where, an_artifact, an_event, events_of
from tests.contract.other_clients import only
from tests.contract.test_opening import CALLS, MAINTENANCE_CALLS
from tests.fault.proxy import Proxy
from tests.telemetry.conftest import Reported, attributes, parent_id, place_of, span_id

postgres_only = only(POSTGRES[:1], why="SQLite has no connection that could be lost")

MARKER = "s3cr3t"


@pytest.fixture
def proxy(migrated: str) -> Iterator[Proxy]:
    with Proxy(migrated) as proxy:
        yield proxy


# Names and attributes


ONE_PAGE = {
    "iter_events": "get_events",
    "follow_events": "get_events",
    **{f"query.iter_{rows}": f"search_{rows}" for rows in ("sessions", "runs", "events")},
}
"""The method that reads one page of what an iterator yields."""


def test_each_method_of_a_store_has_a_span_named_after_it_and_its_table(
    instrumented: Any, reported: Reported
) -> None:
    found = {name: {named(span) for span in spans} for name, spans in spans_of_calls(instrumented, reported)}
    assert found == {name: {(method_of(name), table_of(name), SpanKind.CLIENT)} for name in CALLS}


def spans_of_calls(store: Any, reported: Reported) -> Iterator[tuple[str, list[ReadableSpan]]]:
    """The methods of a store, and the spans of a call of each."""
    store.flush(asm.Session(agent_id="agent", id="ses_1"), asm.Run(session_id="ses_1"), [an_event()])
    for name, call in CALLS.items():
        reported.clear()
        with suppress(asm.NotFound, asm.Conflict):
            call(store)
        yield name, reported.spans()


def named(span: ReadableSpan) -> tuple[str, str, SpanKind]:
    """The method and the table of a span, which its name and its attributes say."""
    method, table = attributes(span)["db.operation.name"], attributes(span)["db.collection.name"]
    assert span.name == f"{method} {table}"
    return method, table, span.kind


def method_of(name: str) -> str:
    return ONE_PAGE.get(name, name.rpartition(".")[2])


def table_of(name: str) -> str:
    if name.startswith("artifacts."):
        return "asm_artifacts"
    if "run" in name or "summary" in name:
        return "asm_runs"
    if "event" in name:
        return "asm_events"
    return "asm_session_sequences" if "sequence" in name else "asm_sessions"


JOBS = [name for name in MAINTENANCE_CALLS if name != "list_stale_runs"]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_has_a_span_around_the_spans_of_its_statements(
    instrumented: Any, reported: Reported, name: str
) -> None:
    instrumented.append_events(events_of("ses_1", 3))
    reported.clear()
    MAINTENANCE_CALLS[name](instrumented)
    job, *steps = reported.spans()
    assert (job.name, job.kind) == (f"maintenance.{name}", SpanKind.INTERNAL)
    assert steps
    assert {parent_id(step) for step in steps} == {span_id(job)}
    assert {step.kind for step in steps} == {SpanKind.CLIENT}
    for step in steps:
        # A step is named after its statement.
        assert step.name == attributes(step)["db.operation.name"]
        assert step.name.startswith(f"{name}: ")


def test_a_span_has_the_attributes_of_the_database_conventions(
    instrumented: Any, where: Where, reported: Reported
) -> None:
    instrumented.append_events(events_of("ses_1", 3))
    instrumented.append_events(events_of("ses_1", 1))
    several, one = reported.spans()
    of_both = {
        **place_of(where),
        "db.operation.name": "append_events",
        "db.collection.name": "asm_events",
        "asm.session.id": "ses_1",
    }
    assert attributes(several) == {**of_both, "db.operation.batch.size": 3, "asm.rows": 3}
    # One event is no batch.
    assert attributes(one) == {**of_both, "asm.rows": 1}
    assert several.status.status_code is StatusCode.UNSET
    scope = several.instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.schema_url) == ("asm", "https://opentelemetry.io/schemas/1.33.0")


@postgres_only
def test_the_namespace_is_the_database_and_the_schema(
    dsn: str, opened: Callable[..., Any], reported: Reported
) -> None:
    asm.migrate(dsn, schema="tenant")
    reported.instrument(store := opened(dsn, schema="tenant"), statements=True)
    store.append_event(an_event())
    [span] = reported.spans()
    assert attributes(span)["db.namespace"] == f"{conninfo_to_dict(dsn)['dbname']}|tenant"
    assert 'insert into "tenant".asm_events' in attributes(span)["db.query.text"]


def test_the_session_is_named_whether_it_is_given_or_found(instrumented: Any, reported: Reported) -> None:
    session, run = asm.Session(agent_id="agent", id="ses_1"), asm.Run(id="run_1", session_id="ses_1")
    instrumented.save_session(session)
    instrumented.save_run(run)
    instrumented.get_session("ses_1")
    instrumented.get_run("run_1")
    instrumented.update_run("run_1", lambda run: run)
    instrumented.list_runs("ses_1")
    instrumented.append_event(an_event(), expected_sequence=0)
    instrumented.flush(session, run, [an_event()])
    instrumented.delete_session("ses_1")
    assert {span.name: attributes(span).get("asm.session.id") for span in reported.spans()} == dict.fromkeys(
        reported.names(), "ses_1"
    )


def test_the_rows_of_a_result_are_counted(instrumented: Any, reported: Reported) -> None:
    instrumented.append_events(events_of("ses_1", 5))
    reported.clear()
    instrumented.get_events("ses_1", limit=2)
    instrumented.query.search_events(limit=3)
    instrumented.get_events("ses_2")
    assert [attributes(span)["asm.rows"] for span in reported.spans()] == [2, 3, 0]


# What is raised


def test_a_failure_has_our_code_and_the_databases_code_and_no_text(
    instrumented: Any, where: Where, reported: Reported
) -> None:
    with pytest.raises(asm.StorageError), instrumented.transaction() as tx:
        tx.execute("select * from nowhere")
    with pytest.raises(asm.SessionNotFound):
        instrumented.get_session("ses_1")
    transaction, failed, absent = reported.spans()
    assert (transaction.name, transaction.kind) == ("transaction", SpanKind.INTERNAL)
    assert (failed.name, failed.kind) == ("execute", SpanKind.CLIENT)
    for span in (transaction, failed, absent):
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
        assert span.events == ()
    for span in (transaction, failed):
        assert attributes(span)["error.type"] == "storage_error"
        code = attributes(span)["db.response.status_code"]
        assert code == ("42P01" if where.dialect == "postgres" else "SQLITE_ERROR")
    assert attributes(absent)["error.type"] == "session_not_found"
    assert "db.response.status_code" not in attributes(absent)


def test_no_span_and_no_metric_contains_what_is_stored_or_searched_for(
    open_instrumented: Callable[..., Any], reported: Reported
) -> None:
    store = open_instrumented(statements=True)
    marked = {MARKER: f"{MARKER}\n%s"}
    session = asm.Session(agent_id=MARKER, id="ses_1", metadata=marked, context=marked, tags=[MARKER])
    run = asm.Run(session_id="ses_1", input=marked, provider=MARKER, error=marked)
    store.flush(session, run, [an_event(data=marked, metadata=marked, correlation_id=MARKER)])
    store.append_event(an_event(type=f"{MARKER}.event"))
    store.get_events("ses_1", type=f"{MARKER}.event")
    store.query.search_sessions(tags=[MARKER], agent_id=MARKER)
    store.import_session(store.query.export_session("ses_1"))
    store.maintenance.execute(asm.RetentionPolicy(max_events_per_session=1))
    with pytest.raises(asm.Conflict), store.transaction() as tx:
        tx.execute(f"select '{MARKER}'")
        tx.artifacts.register(an_artifact(MARKER))
        tx.artifacts.register(an_artifact(MARKER))
    with pytest.raises(asm.RunNotFound):
        store.get_run(MARKER)
    assert "s3cr3t" not in "".join(span.to_json() for span in reported.spans())
    assert "s3cr3t" not in repr(reported.points("db.client.operation.duration"))


@postgres_only
def test_a_retry_is_inside_the_span_of_its_operation_and_counted(
    proxy: Proxy, open_instrumented: Callable[..., Any], reported: Reported
) -> None:
    store = open_instrumented(proxy.dsn)
    proxy.cut_when(b"evt_lost", "before", times=2)
    store.append_event(an_event(id="evt_lost"))
    [span] = reported.spans()
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span)["asm.retries"] == 2
    assert [event.name for event in span.events] == ["asm.retry"] * 2
    assert dict(span.events[0].attributes or {})["error.type"] == "storage_connection_failed"


@postgres_only
def test_a_transaction_that_runs_again_has_one_span_with_its_retries(
    proxy: Proxy, open_instrumented: Callable[..., Any], reported: Reported
) -> None:
    store = open_instrumented(proxy.dsn)
    proxy.cut_when(b"evt_lost", "before")
    store.run_transaction(lambda tx: tx.append_event(an_event(id="evt_lost")))
    [outer] = reported.spans("run_transaction")
    assert attributes(outer)["asm.retries"] == 1
    first, second = reported.spans("append_event")
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)


# The text of statements


def test_spans_have_the_text_of_statements_only_if_it_is_asked_for(
    open_instrumented: Callable[..., Any], reported: Reported
) -> None:
    store = open_instrumented()
    store.append_event(an_event(id="evt_1"))
    store.delete_session("ses_1")
    assert not any("db.query.text" in attributes(span) for span in reported.spans())
    reported.clear()
    reported.instrument(getattr(store, "_target", store), statements=True)
    store.append_event(an_event(id="evt_1"))
    store.append_event(an_event(id="evt_1"))
    store.delete_session("ses_1")
    with store.transaction() as tx:
        tx.append_event(an_event())
        tx.execute("select 'a value'")
    texts = [
        attributes(span).get("db.query.text", "") for span in reported.spans() if span.name != "transaction"
    ]
    first, repeated, deleted, in_transaction, own = texts
    assert "insert into asm_events" in first
    # A conflict: the script that looks for what is stored follows.
    assert repeated.startswith(first)
    assert "from asm_events" in repeated.removeprefix(first)
    assert "delete from asm_runs" in deleted
    assert "insert into asm_events" in in_transaction
    assert own == ""


def test_the_text_of_each_method_is_that_of_its_statements(
    open_instrumented: Callable[..., Any], reported: Reported
) -> None:
    store = open_instrumented(statements=True)
    for name, spans in spans_of_calls(store, reported):
        for span in spans:
            text = attributes(span)["db.query.text"]
            assert table_of(name) in text, name
            assert text.endswith(";"), name


# Pages and polls


def test_each_page_of_an_iterator_has_a_span(instrumented: Any, reported: Reported) -> None:
    instrumented.append_events(events_of("ses_1", 5))
    reported.clear()
    assert len(list(instrumented.iter_events("ses_1", page_size=2))) == 5
    assert list(instrumented.query.iter_runs()) == []
    assert [(span.name, attributes(span)["asm.rows"]) for span in reported.spans()] == [
        *[("get_events asm_events", rows) for rows in (2, 2, 1)],
        ("search_runs asm_runs", 0),
    ]


def test_a_caller_that_waits_has_spans_only_for_what_it_finds(instrumented: Any, reported: Reported) -> None:
    instrumented.append_events(events_of("ses_1", 2))
    reported.clear()
    assert len(list(instrumented.follow_events("ses_1", idle_timeout=0.1))) == 2
    assert instrumented.get_events("ses_2", wait_timeout=0.1) == []
    with instrumented.transaction() as tx:
        assert tx.get_events("ses_2", wait_timeout=0.1) == []
    assert [(span.name, attributes(span).get("asm.rows")) for span in reported.spans()] == [
        ("get_events asm_events", 2),
        ("transaction", None),
    ]


# Parents


def test_operations_are_children_of_the_callers_span(instrumented: Any, reported: Reported) -> None:
    with reported.tracer.start_as_current_span("request") as request:
        instrumented.append_event(an_event())
        list(instrumented.iter_events("ses_1"))
    instrumented.get_events("ses_1")
    inside = request.get_span_context().span_id
    assert [parent_id(span) for span in reported.spans()] == [None, inside, inside, None]


def test_a_transaction_is_the_parent_of_its_operations(migrated: str, reported: Reported) -> None:
    with asm.SessionStore(migrated) as store:
        reported.instrument(store)
        with reported.tracer.start_as_current_span("request"), store.transaction() as tx:
            tx.append_event(an_event())
            with reported.tracer.start_as_current_span("work"):
                tx.execute("select 1")
        store.run_transaction(lambda tx: tx.get_events("ses_1"))
        store.get_events("ses_1")
    assert tree(reported) == NESTED


def test_an_async_transaction_is_the_parent_of_its_operations(migrated: str, reported: Reported) -> None:
    async def use() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            telemetry.instrument(store, tracer_provider=reported.tracer_provider)
            with reported.tracer.start_as_current_span("request"):
                async with store.transaction() as tx:
                    await tx.append_event(an_event())
                    with reported.tracer.start_as_current_span("work"):
                        await tx.execute("select 1")

            async def work(tx: asm.AsyncTransaction) -> object:
                return await tx.get_events("ses_1")

            await store.run_transaction(work)
            await store.get_events("ses_1")

    asyncio.run(use())
    assert tree(reported) == NESTED


NESTED = [
    ("request", None),
    ("transaction", "request"),
    ("append_event asm_events", "transaction"),
    ("work", "transaction"),
    ("execute", "work"),
    ("run_transaction", None),
    ("get_events asm_events", "run_transaction"),
    ("get_events asm_events", None),
]


def tree(reported: Reported) -> list[tuple[str, str | None]]:
    """The names of the spans and of their parents."""
    names = {span_id(span): span.name for span in reported.spans()}
    return [(span.name, names.get(parent_id(span) or 0)) for span in reported.spans()]


def test_tasks_and_threads_of_one_store_keep_their_own_parents(migrated: str, reported: Reported) -> None:
    async def use() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            reported.instrument(store)

            async def append(number: int) -> None:
                with reported.tracer.start_as_current_span(f"task {number}"):
                    await store.append_event(an_event(data={"n": number}))

            await asyncio.gather(*[append(number) for number in range(20)])

    asyncio.run(use())
    names = {span_id(span): span.name for span in reported.spans()}
    parents = [names[parent_id(span) or 0] for span in reported.spans("append_event")]
    assert sorted(parents) == sorted(f"task {number}" for number in range(20))


def test_a_blocking_call_in_a_thread_of_a_task_is_in_the_tasks_trace(
    migrated: str, reported: Reported
) -> None:
    with asm.SessionStore(migrated) as store:
        reported.instrument(store)

        async def handle() -> None:
            with reported.tracer.start_as_current_span("request"):
                await asyncio.to_thread(store.append_event, an_event())

        asyncio.run(handle())
    assert tree(reported) == [("request", None), ("append_event asm_events", "request")]


def test_a_transaction_that_fails_says_why(instrumented: Any, reported: Reported) -> None:
    with pytest.raises(ZeroDivisionError), instrumented.transaction() as tx:
        tx.append_event(an_event())
        1 / 0  # noqa: B018
    [span] = reported.spans("transaction")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "ZeroDivisionError"


async def _entered(manager: Any) -> None:
    await manager.__aenter__()


async def _left(manager: Any) -> None:
    await manager.__aexit__(None, None, None)


async def _between_two_tasks(manager: Any) -> None:
    await asyncio.create_task(_entered(manager))
    await asyncio.create_task(_left(manager))


async def _in_a_task_of_its_own(manager: Any) -> None:
    await _entered(manager)
    await asyncio.create_task(_left(manager))


@pytest.mark.parametrize("use", [_between_two_tasks, _in_a_task_of_its_own])
def test_a_transaction_may_end_in_another_task_than_it_began_in(
    use: Callable[[Any], Coroutine[Any, Any, None]],
    migrated: str,
    reported: Reported,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a fixture of a test, or a dependency of a web framework, may."""

    async def main() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            reported.instrument(store)
            await asyncio.create_task(use(store.transaction()))
            await store.get_events("ses_1")

    asyncio.run(main())
    assert tree(reported) == [("transaction", None), ("get_events asm_events", None)]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
