"""Whom an instrumented store, and the managers that use it, report to."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

from opentelemetry.trace import Tracer, TracerProvider, get_tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from asm.async_store import AsyncSessionStore
from asm.engine.registry import QueryRegistry
from asm.observing import ObservedRun
from asm.telemetry import names, runs
from asm.telemetry.async_databases import AsyncTracedDatabase
from asm.telemetry.databases import TracedDatabase
from asm.telemetry.instruments import Instruments
from asm.telemetry.places import place_of
from asm.telemetry.spans import Spans


class Telemetry:
    """Reports to one tracer and one set of metrics."""

    def __init__(self, tracer: Tracer, instruments: Instruments, *, statements: bool, gen_ai: bool) -> None:
        self._tracer = tracer
        self._instruments = instruments
        self._statements = statements
        self._gen_ai = gen_ai

    def database(self, store: Any, database: Any) -> TracedDatabase | AsyncTracedDatabase:
        target, place = store._dsn_target, place_of(store)
        queries = QueryRegistry(target.dialect, target.schema) if self._statements else None
        spans = Spans(self._tracer, self._instruments, place, queries)
        if target.dialect == "postgres":
            self._instruments.observe_pool(database)
        traced = AsyncTracedDatabase if isinstance(store, AsyncSessionStore) else TracedDatabase
        return traced(database, spans)

    def run(
        self, *, session_id: str, agent_id: str | None, provider: str, model: str | None
    ) -> AbstractContextManager[ObservedRun]:
        if not self._gen_ai:
            return nullcontext(runs.UntracedRun())
        return runs.run_span(
            self._tracer, session_id=session_id, agent_id=agent_id, provider=provider, model=model
        )

    def tool(self, name: str, call_id: str) -> AbstractContextManager[object]:
        return runs.tool_span(self._tracer, name, call_id) if self._gen_ai else nullcontext()

    def carrier(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        return {name: value for name, value in carrier.items() if name == "traceparent"}


def tracer_of(tracer_provider: TracerProvider | None) -> Tracer:
    return get_tracer(names.SCOPE, version("asm-store"), tracer_provider, names.SCHEMA_URL)
