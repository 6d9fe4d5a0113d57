"""The metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from asm.telemetry import names

SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""The buckets of the convention."""

EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)

Statistics = dict[str, int]
Values = Callable[[Statistics], Iterable[tuple[float, dict[str, str]]]]


class Instruments:
    """The metrics of one meter provider."""

    def __init__(self, meter_provider: MeterProvider | None) -> None:
        meter = get_meter(names.SCOPE, version("asm-store"), meter_provider, names.SCHEMA_URL)
        self.duration = meter.create_histogram(
            names.OPERATION_DURATION,
            "s",
            "Duration of the operations of a store, with all that they wait for",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.batch_size = meter.create_histogram(
            names.APPEND_BATCH_SIZE,
            "{event}",
            "Number of events that one statement of the group commit appends",
            explicit_bucket_boundaries_advisory=EVENTS,
        )
        self._pools: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()
        """The databases with a pool that are observed, and the attributes of their values."""
        self._wait_time = meter.create_histogram(
            names.WAIT_TIME,
            "s",
            "Time that operations have waited for a connection of a pool",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        meter.create_observable_up_down_counter(
            names.CONNECTION_COUNT, [self._observing(_count)], "{connection}", "Connections, by their state"
        )
        meter.create_observable_up_down_counter(
            names.CONNECTION_MAX, [self._observing(_max)], "{connection}", "Connections that a pool may open"
        )
        meter.create_observable_up_down_counter(
            names.PENDING_REQUESTS, [self._observing(_pending)], "{request}", "Operations that wait for one"
        )

    def observe_pool(self, database: Any) -> None:
        """Report the connections of a database with a pool, and how long operations wait for one."""
        attributes = {names.SYSTEM: "postgresql", names.POOL_NAME: database.pool_name}
        self._pools[database] = attributes
        database.observe_waits(partial(self._wait_time.record, attributes=attributes))

    def forget_pool(self, database: Any) -> None:
        if self._pools.pop(database, None) is not None:
            database.observe_waits(None)

    def _observing(self, values: Values) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def observe(_options: CallbackOptions) -> Iterator[Observation]:
            for database, attributes in list(self._pools.items()):
                for value, more in values(database.pool_statistics()):
                    yield Observation(value, {**attributes, **more})

        return observe


@cache
def instruments_of(meter_provider: MeterProvider | None) -> Instruments:
    """The metrics of a provider, made once: it would ignore the callbacks of a second instrument."""
    return Instruments(meter_provider)


def _count(statistics: Statistics) -> Iterator[tuple[float, dict[str, str]]]:
    idle = statistics["pool_available"]
    yield idle, {names.CONNECTION_STATE: "idle"}
    yield max(statistics["pool_size"] - idle, 0), {names.CONNECTION_STATE: "used"}


def _max(statistics: Statistics) -> Iterator[tuple[float, dict[str, str]]]:
    yield statistics["pool_max"], {}


def _pending(statistics: Statistics) -> Iterator[tuple[float, dict[str, str]]]:
    yield statistics["requests_waiting"], {}
