"""How long queries across sessions take, on 20,000 sessions, 60,000 runs and 600,000 events.

Each query takes turns with `get_session`. The number of such calls that take as long as the query depends
less on the machine than a time does. A warm-up runs every query first, so the data it reads is in memory.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import asm
from bench import dataset, targets
from bench.databases import Databases
from bench.dataset import Dataset
from bench.growth import FLAT
from bench.harness import Comparison, Rounds, Sample, Side, Step, in_turn
from bench.targets import Target

SESSIONS = 20_000
PAGE, PAGE_OF_EVENTS = 50, 100
PRUNED = 20
"""The events by which each long session exceeds the policy's limit."""
SHARE = 0.25

FEW = Target("runs by min_tokens, of which one in 6,000 has so many", targets.LOOKUP)


def comparisons(
    rounds: Rounds, databases: Databases, sessions: int = SESSIONS, scale: int = 1
) -> Iterator[Comparison]:
    for stored in (dataset.of_sqlite, dataset.of_postgres):
        with ExitStack() as stack:
            small = stack.enter_context(stored(rounds, databases, sessions))
            floor = side(small, looking_up(small))
            for timed in timed_calls(small):
                target = targets.for_database(small.database, timed.target)
                yield rounds.compare(target, floor, side(small, timed), unit="call", share=SHARE)
            if scale > 1:
                large = stack.enter_context(stored(rounds, databases, sessions * scale))
                yield from compared(rounds, small, large, scale)


def compared(rounds: Rounds, small: Dataset, large: Dataset, scale: int) -> Iterator[Comparison]:
    """The same queries on `scale` times the data: a time is the same, or grows if `grows` is set."""
    for less, more in zip(timed_calls(small), timed_calls(large), strict=True):
        target = Target(
            f"{large.database}: {more.target.what}, at {scale} times the data",
            f"{less.target.what} at {small.sessions:,} sessions",
            FLAT / scale if more.grows else FLAT,
            peak_mb=more.target.peak_mb,
        )
        yield rounds.compare(target, side(small, less), side(large, more), unit="call", share=SHARE)


# Ways of measuring.


def repeating(of: Dataset, step: Step, seconds: float) -> Sample:
    return in_turn(step, seconds, of.server)


def once(of: Dataset, step: Step, _: float) -> Sample:
    """Measure one call that changes the data, and restore the data when the clock has stopped."""
    sample = in_turn(step, 0, of.server)
    of.restore()
    return sample


def traced(of: Dataset, step: Step, seconds: float) -> Sample:
    """Measure, then trace the memory of one more call: tracing takes time, so the clock has stopped."""
    sample = in_turn(step, seconds, of.server)
    tracemalloc.start()
    try:
        step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return replace(sample, peak_mb=peak / 1e6)


@dataclass(frozen=True, slots=True)
class TimedCall:
    """A call, the number that it must return, and whether its work grows with the data."""

    target: Target
    number: int
    call: Callable[[], int]
    grows: bool = False
    measure: Callable[[Dataset, Step, float], Sample] = repeating


def side(of: Dataset, timed: TimedCall) -> Side:
    def step() -> int:
        number = timed.call()
        if number != timed.number:
            raise RuntimeError(f"{timed.target.what}: {number:,} found instead of {timed.number:,}")
        return 1

    return Side(timed.target.what, lambda seconds: timed.measure(of, step, seconds))


# The queries.


def looking_up(of: Dataset) -> TimedCall:
    session_id = dataset.session_id(of.sessions // 2)
    return TimedCall(Target(targets.LOOKUP, ""), 1, lambda: len([of.store.get_session(session_id)]))


def timed_calls(of: Dataset) -> Iterator[TimedCall]:
    yield from of_pages(of)
    yield from of_sums(of)
    yield from of_a_session(of)
    yield from of_everything(of)


def of_pages(of: Dataset) -> Iterator[TimedCall]:
    """Searches that end at a limit."""
    query = of.store.query
    most = dataset.how_many(of.runs, dataset.MOST_ONE_IN)
    many = dataset.how_many(of.runs, dataset.MANY_ONE_IN) + most
    yield TimedCall(
        targets.BY_AGENT,
        min(PAGE, dataset.how_many(of.sessions, dataset.AGENTS)),
        lambda: len(query.search_sessions(agent_id=dataset.AGENT, limit=PAGE)),
    )
    yield TimedCall(
        targets.BY_TAG,
        min(PAGE, dataset.how_many(of.sessions, dataset.TAGGED_ONE_IN)),
        lambda: len(query.search_sessions(tags=[dataset.TAG], limit=PAGE)),
    )
    yield TimedCall(
        targets.BY_TOKENS,
        PAGE,
        lambda: len(query.search_runs(order_by="token_usage_desc", limit=PAGE)),
    )
    yield TimedCall(
        targets.MIN_TOKENS,
        min(PAGE, many),
        lambda: len(query.search_runs(min_tokens=dataset.MANY_TOKENS, limit=PAGE)),
    )
    yield TimedCall(
        FEW, min(PAGE, most), lambda: len(query.search_runs(min_tokens=dataset.MOST_TOKENS, limit=PAGE))
    )
    yield TimedCall(
        targets.BY_CORRELATION,
        dataset.CORRELATED,
        lambda: len(query.search_events(correlation_id=dataset.CORRELATION_ID, limit=PAGE_OF_EVENTS)),
    )
    yield TimedCall(
        targets.BY_TYPE,
        PAGE_OF_EVENTS,
        lambda: len(query.search_events(types=[dataset.TYPE], limit=PAGE_OF_EVENTS)),
    )


def of_sums(of: Dataset) -> Iterator[TimedCall]:
    """Queries that read all runs, or all events of a type."""
    query = of.store.query
    yield TimedCall(targets.USAGE, of.runs, lambda: query.get_usage_summary().run_count, grows=True)
    yield TimedCall(targets.COST, of.runs, lambda: query.get_cost_summary().run_count, grows=True)
    yield TimedCall(
        targets.MEMORY,
        of.runs,
        lambda: query.get_cost_summary().run_count,
        grows=True,
        measure=traced,
    )
    yield TimedCall(
        targets.RARE_TYPE,
        dataset.how_many(of.sessions, dataset.RARE_ONE_IN),
        lambda: query.count_events(types=[dataset.RARE_TYPE]),
        grows=True,
    )


def of_a_session(of: Dataset) -> Iterator[TimedCall]:
    """Queries about one long session."""
    query, session_id = of.store.query, of.long_session
    yield TimedCall(targets.STATS, dataset.LONG, lambda: query.get_session_stats(session_id).event_count)
    yield TimedCall(targets.EXPORT, dataset.LONG, lambda: len(query.export_session(session_id).events))


def of_everything(of: Dataset) -> Iterator[TimedCall]:
    """Maintenance of the whole store."""
    maintenance = of.store.maintenance
    policy = asm.RetentionPolicy(
        max_completed_session_age_days=None,
        hard_delete_after_days=None,
        max_events_per_session=dataset.LONG - PRUNED,
    )
    yield TimedCall(targets.HEALTH, 0, lambda: len(maintenance.health_check()), grows=True)
    yield TimedCall(
        targets.PRUNING,
        PRUNED * dataset.how_many(of.sessions, dataset.LONG_ONE_IN),
        lambda: maintenance.execute(policy).events_pruned,
        grows=True,
        measure=once,
    )
