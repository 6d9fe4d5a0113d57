"""Which stores are instrumented, from when on and until when, and what it costs those that are not."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

import asm
from asm import telemetry
from asm.telemetry.places import _server, place_of
from bench.frames import calls_of
from bench.harness import Calls
from tests.conftest import an_event, in_loop
from tests.contract.test_opening import CALLS
from tests.telemetry.conftest import Reported

APPEND = "append_event asm_events"


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


def append(*stores: asm.SessionStore) -> None:
    for store in stores:
        store.append_event(an_event())


def test_without_a_store_all_are_instrumented_those_that_are_open_and_those_to_come(
    dsn: str, reported: Reported
) -> None:
    with asm.SessionStore(dsn, migrate=True) as before:
        instrumentation = reported.instrument()
        with asm.SessionStore(dsn) as after:
            append(before, after)
            assert reported.names() == [APPEND, APPEND]
            instrumentation.uninstrument()
            append(before, after)
    with asm.SessionStore(dsn) as later:
        append(later)
    assert reported.names() == [APPEND, APPEND]


def test_an_async_store_can_be_instrumented_before_it_is_open(dsn: str, reported: Reported) -> None:
    async def use() -> None:
        store = asm.AsyncSessionStore(dsn, migrate=True)
        reported.instrument(store)
        async with store:
            await store.append_event(an_event())

    asyncio.run(use())
    assert reported.names() == [APPEND]


def test_opening_a_store_makes_no_spans(dsn: str, reported: Reported) -> None:
    reported.instrument()
    with asm.SessionStore(dsn, migrate=True):
        pass
    assert reported.names() == []


def test_instrumenting_twice_makes_one_span_of_an_operation(dsn: str, reported: Reported) -> None:
    with asm.SessionStore(dsn, migrate=True) as store:
        first = reported.instrument()
        second = reported.instrument()
        reported.instrument(store)
        reported.instrument(store)
        append(store)
        assert reported.names() == [APPEND]
        telemetry.uninstrument(store)
        append(store)
        assert len(reported.names()) == 2
        first.uninstrument()  # the second has replaced it
        append(store)
        assert len(reported.names()) == 3
        second.uninstrument()
        second.uninstrument()
        telemetry.uninstrument()
        append(store)
        assert len(reported.names()) == 3


def test_what_is_asked_for_one_store_replaces_there_what_is_asked_for_all(
    dsn: str, reported: Reported
) -> None:
    of_one = Reported()
    with asm.SessionStore(dsn, migrate=True) as one, asm.SessionStore(dsn) as another:
        of_one.instrument(one)
        reported.instrument()
        append(one, another)
    assert (of_one.names(), reported.names()) == ([APPEND], [APPEND])
    of_one.close()


def test_without_providers_the_global_ones_are_used() -> None:
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import asm, asm.telemetry
asm.telemetry.instrument()
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with asm.SessionStore("sqlite://", migrate=True) as store:
    store.append_event(asm.Event(type="message_sent", session_id="ses_1"))
print([span.name for span in exporter.get_finished_spans()])
"""
    assert output_of(code) == f"['{APPEND}']\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"store": "sqlite://"}, "store must be a SessionStore or an AsyncSessionStore, not a str"),
        ({"tracer_provider": 7}, r"tracer_provider must have get_tracer\(\)"),
        ({"meter_provider": 7}, r"meter_provider must have get_meter\(\)"),
        ({"statements": "yes"}, "statements must be"),
        ({"gen_ai": 1}, "gen_ai must be"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(asm.ValidationError, match=message):
        telemetry.instrument(**arguments)


# Where a database is


@pytest.mark.parametrize(
    ("conninfo", "schema", "place"),
    [
        (
            "host=db.example port=6432 dbname=agents",
            "tenant",
            {"db.namespace": "agents|tenant", "server.address": "db.example", "server.port": 6432},
        ),
        (
            "postgresql://u:secret@[::1]/agents",
            None,
            {"db.namespace": "agents", "server.address": "::1", "server.port": 5432},
        ),
        ("host=a,b port=1,2 user=u", None, {"db.namespace": "u"}),
    ],
    ids=["schema", "uri", "several servers"],
)
def test_the_place_of_a_postgresql_database(
    conninfo: str, schema: str | None, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"):
        monkeypatch.delenv(variable, raising=False)
    assert _server(conninfo, schema) == place


def test_the_place_comes_from_the_environment_as_the_connection_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    monkeypatch.setenv("PGDATABASE", "agents")
    monkeypatch.setenv("PGPORT", "5433")
    assert _server("", None) == {
        "db.namespace": "agents",
        "server.address": "db.example",
        "server.port": 5433,
    }


@pytest.mark.parametrize(
    "options",
    [
        {"conninfo": "host=db.example port=6432 dbname=agents"},
        {"kwargs": {"host": "db.example", "port": 6432, "dbname": "agents", "autocommit": True}},
        {"conninfo": "dbname=other host=db.example", "kwargs": {"port": 6432, "dbname": "agents"}},
    ],
    ids=["conninfo", "parameters", "both"],
)
def test_the_place_of_a_borrowed_pool_is_where_its_connections_lead(options: dict[str, Any]) -> None:
    store = asm.AsyncSessionStore(pool=AsyncConnectionPool(open=False, **options))
    assert place_of(store) == {
        "db.system.name": "postgresql",
        "db.namespace": "agents",
        "server.address": "db.example",
        "server.port": 6432,
    }


def test_the_place_of_a_pool_that_asks_for_it_whenever_it_connects_is_not_known() -> None:
    store = asm.AsyncSessionStore(pool=AsyncConnectionPool(lambda: "dbname=agents", open=False))
    assert place_of(store) == {"db.system.name": "postgresql"}


# What it costs


def output_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_store_that_is_not_instrumented_imports_nothing_of_it(migrated: str) -> None:
    code = f"""
import asyncio, json, sys, asm
from asm.agents.demo import Demo
with asm.SessionStore({migrated!r}) as store:
    store.append_event(asm.Event(type="message_sent", session_id="ses_1"))
    store.maintenance.health_check()
    asm.SessionManager(store).run_once(Demo(), "Hi")
async def use():
    async with asm.AsyncSessionStore({migrated!r}) as store:
        await store.append_event(asm.Event(type="message_sent", session_id="ses_1"))
        await asm.AsyncSessionManager(store).run_once(Demo(), "Hi")
asyncio.run(use())
print(json.dumps(list(sys.modules)))
"""
    loaded = json.loads(output_of(code))
    assert [name for name in loaded if name.startswith(("asm.telemetry", "opentelemetry"))] == []


def test_telemetry_needs_no_more_of_opentelemetry_than_its_api(migrated: str) -> None:
    code = f"""
import json, sys, asm, asm.telemetry
asm.telemetry.instrument(gen_ai=True, statements=True)
from asm.agents.demo import Demo
with asm.SessionStore({migrated!r}) as store:
    asm.SessionManager(store).run_once(Demo(), "Hi")
print(json.dumps(list(sys.modules)))
"""
    loaded = json.loads(output_of(code))
    assert "opentelemetry.trace" in loaded
    assert [name for name in loaded if name.startswith(("opentelemetry.sdk", "opentelemetry.semconv"))] == []


OF_TELEMETRY = {"asm.observing", "asm.engine.observation", "asm.telemetry.spans", "opentelemetry.context"}

HOT = {
    **{name: CALLS[name] for name in ("save_session", "append_event", "append_events", "get_session")},
    **{name: CALLS[name] for name in ("get_events", "iter_events", "query.search_events", "update_session")},
}


def test_a_store_that_was_never_instrumented_calls_nothing_of_it(store: Any) -> None:
    store.save_session(asm.Session(agent_id="agent", id="ses_1"))
    for name, call in HOT.items():
        modules = functions_entered(partial(call, store))
        assert any(module.startswith("asm.") for module in modules)
        assert not [each for each in modules if each.startswith(("opentelemetry", "asm.telemetry"))], name
        assert not modules & OF_TELEMETRY, name


def functions_entered(call: Callable[[], object]) -> set[str]:
    """The modules of the functions that a call enters in this thread and in the tests' event loop."""
    modules: set[str] = set()

    async def set_profile(function: Any) -> None:
        sys.setprofile(function)

    def profile(frame: Any, event: str, _arg: object) -> None:
        if event == "call":
            modules.add(frame.f_globals.get("__name__", ""))

    in_loop(set_profile(profile))
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        in_loop(set_profile(None))
    return modules


def test_a_store_that_is_not_instrumented_any_more_makes_the_same_calls_as_before(
    dsn: str, reported: Reported
) -> None:
    with asm.SessionStore(dsn, migrate=True) as store:

        def calls() -> Calls:
            # What earlier tests left would be finalized during the call.
            gc.collect()
            return calls_of(partial(append, store))

        append(store)
        before = calls()
        instrumentation = reported.instrument(store)
        assert calls() != before
        instrumentation.uninstrument()
        assert calls() == before


def test_a_store_that_is_not_instrumented_any_more_calls_nothing_of_it(
    store: Any, reported: Reported
) -> None:
    def use() -> None:
        store.append_event(an_event())
        store.get_events("ses_1", limit=1)

    instrumentation = reported.instrument(store)
    assert functions_entered(use) & OF_TELEMETRY
    instrumentation.uninstrument()
    assert not functions_entered(use) & OF_TELEMETRY


def test_without_opentelemetry_the_import_says_what_to_install() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
try:
    import asm.telemetry
except ImportError as error:
    print(error)
"""
    assert output_of(code) == "asm.telemetry needs opentelemetry-api: pip install 'asm-store[otel]'\n"
