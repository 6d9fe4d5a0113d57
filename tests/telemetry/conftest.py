"""What an instrumented store reports, kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from psycopg.conninfo import conninfo_to_dict

from asm import telemetry
from tests.conftest import Blocking, Where

Points = list[tuple[dict[str, Any], Any]]


class Reported:
    """Providers of a program, and what they were given."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader])
        self.tracer = self.tracer_provider.get_tracer("the application")

    def instrument(self, store: Any = None, **options: Any) -> telemetry.Instrumentation:
        return telemetry.instrument(
            store._target if isinstance(store, Blocking) else store,
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
            **options,
        )

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """The spans that have ended, in the order of their starts; those whose name begins so."""
        spans = sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        return [span for span in spans if name is None or span.name.startswith(name)]

    def names(self) -> list[str]:
        return [span.name for span in self.spans()]

    def clear(self) -> None:
        self._exporter.clear()

    def points(self, metric: str) -> Points:
        """The attributes and the data of each point of a metric."""
        if metric not in (metrics := self.metrics()):
            return []
        return [(dict(point.attributes or {}), point) for point in metrics[metric].data.data_points]

    def metrics(self) -> dict[str, Metric]:
        """What was reported of each metric, by its name."""
        data = self._reader.get_metrics_data()
        return {
            each.name: each
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for each in scope.metrics
        }

    def close(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


@pytest.fixture
def reported() -> Iterator[Reported]:
    reported = Reported()
    yield reported
    telemetry.uninstrument()
    reported.close()


@pytest.fixture
def open_instrumented(opened: Callable[..., Any], migrated: str, reported: Reported) -> Callable[..., Any]:
    """Opens a store, and instruments it with the options of `instrument`."""

    def open_store(dsn: str | None = None, **options: Any) -> Any:
        store = opened(dsn or migrated)
        reported.instrument(store, **options)
        return store

    return open_store


@pytest.fixture
def instrumented(open_instrumented: Callable[..., Any]) -> Any:
    """An instrumented store on every kind of database, blocking and async."""
    return open_instrumented()


def place_of(where: Where) -> dict[str, Any]:
    """The attributes that say where a database is."""
    if where.dialect == "sqlite":
        return {"db.system.name": "sqlite", "db.namespace": where.dsn.removeprefix("sqlite:///")}
    server = conninfo_to_dict(where.dsn)
    return {
        "db.system.name": "postgresql",
        "db.namespace": server["dbname"],
        "server.address": server["host"],
        "server.port": int(str(server["port"])),
    }


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def span_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def trace_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def parent_id(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def linked(span: ReadableSpan) -> set[int]:
    """The ids of the spans that a span links to."""
    return {link.context.span_id for link in span.links}
