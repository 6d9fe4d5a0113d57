"""Which stores are instrumented, from when on and until when, and what it costs those that are not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asm
from asm import telemetry
from asm.telemetry.places import _server
from bench.frames import calls_of
from tests.conftest import an_event
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


# What it costs


def output_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_store_that_is_not_instrumented_imports_nothing_of_it() -> None:
    code = """
import asyncio, json, sys, asm
with asm.SessionStore("sqlite://", migrate=True) as store:
    store.append_event(asm.Event(type="message_sent", session_id="ses_1"))
    store.maintenance.health_check()
async def use():
    async with asm.AsyncSessionStore("sqlite://", migrate=True) as store:
        await store.append_event(asm.Event(type="message_sent", session_id="ses_1"))
asyncio.run(use())
print(json.dumps(list(sys.modules)))
"""
    loaded = json.loads(output_of(code))
    assert [name for name in loaded if name.startswith(("asm.telemetry", "opentelemetry"))] == []


OF_TELEMETRY = {"asm.observing", "asm.engine.observation", "asm.telemetry.spans", "opentelemetry.context"}


def functions_entered(call: Callable[[], object]) -> set[str]:
    """The modules of the functions that a call enters in this thread."""
    modules: set[str] = set()

    def profile(frame: Any, event: str, _arg: object) -> None:
        if event == "call":
            modules.add(frame.f_globals.get("__name__", ""))

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return modules


def test_a_store_that_is_not_instrumented_any_more_makes_the_same_calls_as_before(
    dsn: str, reported: Reported
) -> None:
    with asm.SessionStore(dsn, migrate=True) as store:

        def use() -> None:
            append(store)
            store.get_events("ses_1", limit=1)

        use()
        before, modules = calls_of(use), functions_entered(use)
        assert not modules.intersection(OF_TELEMETRY)
        instrumentation = reported.instrument(store)
        assert functions_entered(use).intersection(OF_TELEMETRY)
        instrumentation.uninstrument()
        assert calls_of(use) == before


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
