"""The spans of the runs of agents, and of the calls of their tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from asm.telemetry import names
from asm.telemetry.places import Attributes
from asm.telemetry.spans import error_attributes


class UntracedRun:
    """A run without a span."""

    def claimed(self, agent_id: str, run_id: str) -> None:
        pass

    def ended(self, token_usage: Mapping[str, Any]) -> None:
        pass


class TracedRun:
    """A run with a span."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def claimed(self, agent_id: str, run_id: str) -> None:
        self._span.update_name(f"{names.INVOKE_AGENT} {agent_id}")
        self._span.set_attributes({names.GEN_AI_AGENT: agent_id, names.RUN_ID: run_id})

    def ended(self, token_usage: Mapping[str, Any]) -> None:
        kinds = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens")
        new, output, read, created = (int(token_usage.get(kind) or 0) for kind in kinds)
        used = {
            # The convention counts cached tokens as input tokens, and asm beside them.
            names.GEN_AI_INPUT_TOKENS: new + read + created,
            names.GEN_AI_OUTPUT_TOKENS: output,
            names.GEN_AI_CACHE_READ_TOKENS: read,
            names.GEN_AI_CACHE_CREATION_TOKENS: created,
        }
        self._span.set_attributes({name: tokens for name, tokens in used.items() if tokens})


@contextmanager
def run_span(
    tracer: Tracer, *, session_id: str, agent_id: str | None, provider: str, model: str | None
) -> Iterator[TracedRun]:
    """Around a run. What the manager, the adapter and the tools do in it is in its trace."""
    attributes: Attributes = {
        names.GEN_AI_OPERATION: names.INVOKE_AGENT,
        names.GEN_AI_PROVIDER: provider,
        names.GEN_AI_CONVERSATION: session_id,
        names.SESSION_ID: session_id,
    }
    if agent_id is not None:
        attributes[names.GEN_AI_AGENT] = agent_id
    if model is not None:
        attributes[names.GEN_AI_MODEL] = model
    name = names.INVOKE_AGENT if agent_id is None else f"{names.INVOKE_AGENT} {agent_id}"
    with _span(tracer, name, attributes) as span:
        yield TracedRun(span)


@contextmanager
def tool_span(tracer: Tracer, name: str, call_id: str) -> Iterator[None]:
    """Around a call of a tool. An exception of the tool is its error."""
    attributes: Attributes = {
        names.GEN_AI_OPERATION: names.EXECUTE_TOOL,
        names.GEN_AI_TOOL: name,
        names.GEN_AI_TOOL_CALL: call_id,
    }
    with _span(tracer, f"{names.EXECUTE_TOOL} {name}", attributes):
        yield


@contextmanager
def _span(tracer: Tracer, name: str, attributes: Attributes) -> Iterator[Span]:
    with tracer.start_as_current_span(
        name,
        kind=SpanKind.INTERNAL,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_attributes(dict(error_attributes(error)))
            span.set_status(Status(StatusCode.ERROR))
            raise
