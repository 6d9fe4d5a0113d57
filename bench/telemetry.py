"""What does a store that reports to OpenTelemetry cost, compared with one that does not?

A store that is not instrumented makes no call of `asm.telemetry`, which `tests/telemetry` verifies.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import asm
from asm import telemetry
from bench import appends
from bench.databases import Databases
from bench.harness import Comparison, Rounds, Side, in_turn
from bench.reads import counted, stored
from bench.targets import Target

SHARE = 0.5
BASELINE = "the store without telemetry"


class Discarding(SpanExporter):
    """The SDK does all its work, and nothing is sent."""

    def export(self, _spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def comparisons(rounds: Rounds, databases: Databases) -> Iterator[Comparison]:
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(BatchSpanProcessor(Discarding()))
    meter_provider = MeterProvider([InMemoryMetricReader()])
    instrument = partial(telemetry.instrument, tracer_provider=tracer_provider, meter_provider=meter_provider)
    try:
        with (
            databases.file() as file,
            asm.SessionStore(file.dsn) as bare,
            asm.SessionStore(file.dsn) as traced,
        ):
            instrument(traced)
            yield from _compared(rounds, "SQLite", bare, traced)
        with (
            databases.postgres() as place,
            asm.SessionStore(place.dsn, schema=place.schema) as bare,
            asm.SessionStore(place.dsn, schema=place.schema) as traced,
        ):
            instrument(traced)
            yield from _compared(rounds, "PostgreSQL", bare, traced)
    finally:
        tracer_provider.shutdown()
        meter_provider.shutdown()


def _compared(
    rounds: Rounds, database: str, bare: asm.SessionStore, traced: asm.SessionStore
) -> Iterator[Comparison]:
    session = stored(bare, 10)

    yield rounds.compare(
        Target(f"{database}: get_session with telemetry", BASELINE),
        Side("without", partial(in_turn, counted(partial(bare.get_session, session.id), 1))),
        Side("with", partial(in_turn, counted(partial(traced.get_session, session.id), 1))),
        unit="call",
        share=SHARE,
    )
    yield rounds.compare(
        Target(f"{database}: append_event with telemetry", BASELINE),
        appends.threads(bare, 1, appends.own()),
        appends.threads(traced, 1, appends.own()),
        share=SHARE,
    )
