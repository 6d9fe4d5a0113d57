"""What does a store that reports to OpenTelemetry cost, and how much of that is the SDK's?

The floor does by hand what the conventions ask for: the call of a store without telemetry, in a span of the
SDK with the same attributes, and its duration in a histogram. A store that is not instrumented makes no call
of `asm.telemetry`, which `tests/telemetry` verifies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

import asm
from asm import telemetry
from bench import appends
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Sample, Side, in_turn
from bench.payload import Supply
from bench.reads import counted, stored
from bench.targets import Target

Call: TypeAlias = Callable[[], object]
Run: TypeAlias = Callable[[float], Sample]

SHARE = 0.5
WITHOUT = "the store without telemetry"
BY_HAND = "the store without telemetry, in a span of the SDK by hand"
RESULT = ("asm.rows",)
"""The attributes that are known only after the call."""


class Discarding(SpanExporter):
    """The SDK does all its work, and nothing is sent."""

    def __init__(self) -> None:
        self.last: ReadableSpan | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.last = spans[-1]
        return SpanExportResult.SUCCESS


class Sdk:
    """The SDK of a program."""

    def __init__(self) -> None:
        self._exporter = Discarding()
        self._tracer_provider = TracerProvider()
        self._tracer_provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._meter_provider = MeterProvider([InMemoryMetricReader()])
        self._tracer = self._tracer_provider.get_tracer("bench")
        self._duration = self._meter_provider.get_meter("bench").create_histogram("by_hand.duration", "s")

    def instrument(self, store: asm.SessionStore) -> None:
        telemetry.instrument(
            store, tracer_provider=self._tracer_provider, meter_provider=self._meter_provider
        )

    def by_hand(self, bare: Call, traced: Call) -> Call:
        """A call in a span like that of another call, which is made here once."""
        traced()
        self._tracer_provider.force_flush()
        assert self._exporter.last is not None
        name, attributes = self._exporter.last.name, dict(self._exporter.last.attributes or {})
        given = {name: value for name, value in attributes.items() if name not in RESULT}
        of_duration = {name: value for name, value in given.items() if not name.startswith("asm.")}
        known_then = {name: value for name, value in attributes.items() if name in RESULT}

        def step() -> None:
            begun_at = time.perf_counter()
            with self._tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=given) as span:
                bare()
                span.set_attributes(known_then)
            self._duration.record(time.perf_counter() - begun_at, of_duration)

        return step

    def shutdown(self) -> None:
        self._tracer_provider.shutdown()
        self._meter_provider.shutdown()


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    sdk = Sdk()
    try:
        with (
            databases.file() as file,
            asm.SessionStore(file.dsn) as bare,
            asm.SessionStore(file.dsn) as traced,
        ):
            sdk.instrument(traced)
            yield from _compared(rounds, "SQLite", sdk, bare, traced)
        with (
            databases.postgres() as place,
            asm.SessionStore(place.dsn, schema=place.schema) as bare,
            asm.SessionStore(place.dsn, schema=place.schema) as traced,
        ):
            sdk.instrument(traced)
            yield from _compared(rounds, "PostgreSQL", sdk, bare, traced)
    finally:
        sdk.shutdown()


def _compared(
    rounds: Rounds, database: str, sdk: Sdk, bare: asm.SessionStore, traced: asm.SessionStore
) -> Iterator[Comparison]:
    session, supply = stored(bare, 10), appends.own()
    supply.fill(0)
    for name, calls, prepared in (
        ("get_session", [partial(store.get_session, session.id) for store in (bare, traced)], _as_it_is),
        (
            "append_event",
            [partial(_append, store, supply) for store in (bare, traced)],
            partial(appends.supplied, supply),
        ),
    ):
        yield from _of_calls(rounds, f"{database}: {name}", sdk, calls, prepared)


def _of_calls(
    rounds: Rounds, what: str, sdk: Sdk, calls: Sequence[Call], prepared: Callable[[Run], Run]
) -> Iterator[Comparison]:
    def side(name: str, call: Call) -> Side:
        return Side(name, prepared(partial(in_turn, counted(call, 1))))

    without, with_telemetry = calls
    floors = {
        WITHOUT: side("without telemetry", without),
        BY_HAND: side("a span by hand", sdk.by_hand(without, with_telemetry)),
    }
    ours = side("with telemetry", with_telemetry)
    for baseline, floor in floors.items():
        target = Target(f"{what} with telemetry", baseline, 0.8 if baseline is BY_HAND else None)
        yield rounds.compare(target, floor, ours, unit="call", share=SHARE)


def _as_it_is(run: Run) -> Run:
    return run


def _append(store: asm.SessionStore, supply: Supply) -> asm.Event:
    return store.append_event(supply.take())
