"""Run an agent, and print its trace: python examples/tracing.py [DSN]

The program prints each trace when it is complete, as a timeline. A service sends its traces to a collector
instead, with BatchSpanProcessor(OTLPSpanExporter()) in place of the console.
"""

import sys
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, format_trace_id

import asm
import asm.telemetry
from asm.agents.demo import TOOLS, Demo, on_tool

SHOWN = {
    "asm.rows": "rows",
    "asm.retries": "retries",
    "gen_ai.usage.input_tokens": "input tokens",
    "gen_ai.usage.output_tokens": "output tokens",
    "error.type": "error",
}
WIDTH = 40


class Timeline(SpanExporter):
    """Prints the spans of a trace below each other, each as a bar, when the first one ends."""

    def __init__(self) -> None:
        self._ended: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._ended.append(span)
            if span.parent is None:
                trace = context_of(span).trace_id
                print_trace([each for each in self._ended if context_of(each).trace_id == trace], span)
                self._ended = [each for each in self._ended if context_of(each).trace_id != trace]
        return SpanExportResult.SUCCESS


def print_trace(spans: list[ReadableSpan], root: ReadableSpan) -> None:
    print(f"\ntrace {format_trace_id(context_of(root).trace_id)}")
    print(f"{'begins at':>12}  {'and takes':>12}")
    scale = WIDTH / max(end_of(root) - start_of(root), 1)
    for depth, span in in_order(spans, root):
        begin, end = start_of(span) - start_of(root), end_of(span) - start_of(root)
        left = min(int(begin * scale), WIDTH - 1)
        bar = " " * left + "█" * max(int(end * scale) - left, 1)
        attributes = span.attributes or {}
        more = ", ".join(f"{what}: {attributes[key]!s}" for key, what in SHOWN.items() if key in attributes)
        name = "  " * depth + span.name
        times = f"{begin / 1e6:9.2f} ms  {(end - begin) / 1e6:9.2f} ms"
        print(f"{times}  {bar:<{WIDTH}}  {name:<38} {more}".rstrip())


def in_order(spans: list[ReadableSpan], span: ReadableSpan, depth: int = 0) -> list[tuple[int, ReadableSpan]]:
    """A span and those below it, each with its depth."""
    id = context_of(span).span_id
    children = sorted([each for each in spans if each.parent and each.parent.span_id == id], key=start_of)
    return [(depth, span), *(line for child in children for line in in_order(spans, child, depth + 1))]


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def start_of(span: ReadableSpan) -> int:
    return span.start_time or 0


def end_of(span: ReadableSpan) -> int:
    return span.end_time or 0


def main(dsn: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Timeline()))
    asm.telemetry.instrument(tracer_provider=provider, gen_ai=True)

    with asm.SessionStore(dsn, migrate=True) as store:
        result = asm.SessionManager(store).run_once(
            Demo(),
            "Will it rain in Bergen today?",
            agent_id="weather-agent",
            tools=TOOLS,
            on_tool=on_tool,
        )
        # From a run that is stored to its trace.
        print(f"\nThe run {result.run.id} has the traceparent {result.run.metadata['traceparent']}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///asm-demo.db")
