"""OpenTelemetry: spans and metrics of what stores do, and of the runs of agents, for a program that asks.

    import asm.telemetry
    asm.telemetry.instrument()

A store that is not instrumented makes no call of this package and of OpenTelemetry, and does not import them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from asm.telemetry.instruments import instruments_of
    from asm.telemetry.telemetry import Telemetry, tracer_of
except ImportError as error:
    if not (error.name or "").startswith("opentelemetry"):
        raise
    raise ImportError("asm.telemetry needs opentelemetry-api: pip install 'asm-store[otel]'") from error

from asm import observing
from asm.async_store import AsyncSessionStore
from asm.errors import ValidationError
from asm.store import SessionStore
from asm.validation import a_type, flag

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["Instrumentation", "instrument", "uninstrument"]


class Instrumentation:
    """What one call of `instrument` has instrumented."""

    def __init__(self, telemetry: Telemetry, store: SessionStore | AsyncSessionStore | None) -> None:
        self._telemetry = telemetry
        self._store = store

    def uninstrument(self) -> None:
        """Undo that call, unless a later one has replaced it. Calling it again does nothing."""
        if observing.own_observer(self._store) is self._telemetry:
            observing.observe(None, self._store)


def instrument(
    store: SessionStore | AsyncSessionStore | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    statements: bool = False,
    gen_ai: bool = False,
) -> Instrumentation:
    """Have a store report its operations to OpenTelemetry; without one, all stores, also those to come.

    Without providers, those that the program has set globally are used. With `statements`, spans have the
    SQL of asm's own statements, which contains no values. With `gen_ai`, the runs of agents and the calls of
    their tools have spans, too. A span or a metric never contains what is stored or searched for, except ids
    of sessions.

    A second call for the same store, or for all stores, replaces the first. What is asked for one store
    replaces there what is asked for all. Operations, iterators and transactions that have begun are not
    affected.
    """
    _check_store(store)
    tracer = tracer_of(_provider(tracer_provider, "tracer_provider", "get_tracer"))
    instruments = instruments_of(_provider(meter_provider, "meter_provider", "get_meter"))
    telemetry = Telemetry(
        tracer, instruments, statements=flag(statements, "statements"), gen_ai=flag(gen_ai, "gen_ai")
    )
    observing.observe(telemetry, store)
    return Instrumentation(telemetry, store)


def uninstrument(store: SessionStore | AsyncSessionStore | None = None) -> None:
    """Undo `instrument(store)`; without a store, `instrument()`. If there is nothing to undo, do nothing."""
    _check_store(store)
    observing.observe(None, store)


def _check_store(store: object) -> None:
    if not (store is None or isinstance(store, SessionStore | AsyncSessionStore)):
        raise ValidationError(
            f"store must be a SessionStore or an AsyncSessionStore, not {a_type(store)}", path="store"
        )


def _provider(provider: Any, name: str, method: str) -> Any:
    if provider is not None and not callable(getattr(provider, method, None)):
        raise ValidationError(f"{name} must have {method}(), not be {a_type(provider)}", path=name)
    return provider
