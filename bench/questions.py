"""How long do questions across sessions take, on 20,000 sessions, 60,000 runs and 600,000 events?

Each is asked in turn with a look at one session by its id: how many of those it takes as long as can be
believed on any machine. All of it has been asked before, so what is read lies in memory.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import asm
from bench import stock, targets
from bench.databases import Databases
from bench.growth import FLAT
from bench.harness import Line, Rounds, Sample, Side, Step, in_turn
from bench.stock import Stock
from bench.targets import Target

SESSIONS = 20_000
PAGE, PAGE_OF_EVENTS = 50, 100
PRUNED = 20
"""The events that each long session has too many."""
SHARE = 0.25

FEW = Target("runs by min_tokens, of which one in 6,000 has so many", targets.LOOKUP)


def lines(rounds: Rounds, databases: Databases, sessions: int = SESSIONS, scale: int = 1) -> Iterator[Line]:
    for stocked in (stock.of_sqlite, stock.of_postgres):
        with ExitStack() as stack:
            small = stack.enter_context(stocked(rounds, databases, sessions))
            floor = side(small, looking_up(small))
            for question in questions(small):
                target = targets.asked_of(small.database, question.target)
                yield rounds.compare(target, floor, side(small, question), unit="call", share=SHARE)
            if scale > 1:
                large = stack.enter_context(stocked(rounds, databases, sessions * scale))
                yield from compared(rounds, small, large, scale)


def compared(rounds: Rounds, small: Stock, large: Stock, scale: int) -> Iterator[Line]:
    """The same asked of so many times the data: it takes as long, or so many times as long if it grows."""
    for less, more in zip(questions(small), questions(large), strict=True):
        target = Target(
            f"{large.database}: {more.target.what}, at {scale} times the data",
            f"{less.target.what} at {small.sessions:,} sessions",
            FLAT / scale if more.grows else FLAT,
            peak_mb=more.target.peak_mb,
        )
        yield rounds.compare(target, side(small, less), side(large, more), unit="call", share=SHARE)


# How it is measured.


def repeating(of: Stock, step: Step, seconds: float) -> Sample:
    return in_turn(step, seconds, of.server)


def once(of: Stock, step: Step, _: float) -> Sample:
    """For what destroys what it measures: one call, and all is put back when the clock has stopped."""
    sample = in_turn(step, 0, of.server)
    of.restore()
    return sample


def traced(of: Stock, step: Step, seconds: float) -> Sample:
    """With a look at the memory in one more call, when the clock has stopped: looking takes time."""
    sample = in_turn(step, seconds, of.server)
    tracemalloc.start()
    try:
        step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return replace(sample, peak_mb=peak / 1e6)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, how many it must find, and whether there is the more to look at the more is stored."""

    target: Target
    number: int
    ask: Callable[[], int]
    grows: bool = False
    measure: Callable[[Stock, Step, float], Sample] = repeating


def side(of: Stock, question: Question) -> Side:
    def step() -> int:
        number = question.ask()
        if number != question.number:
            raise RuntimeError(f"{question.target.what}: {number:,} found instead of {question.number:,}")
        return 1

    return Side(question.target.what, lambda seconds: question.measure(of, step, seconds))


# What is asked.


def looking_up(of: Stock) -> Question:
    session_id = stock.session_id(of.sessions // 2)
    return Question(Target(targets.LOOKUP, ""), 1, lambda: len([of.store.get_session(session_id)]))


def questions(of: Stock) -> Iterator[Question]:
    yield from of_pages(of)
    yield from of_sums(of)
    yield from of_a_session(of)
    yield from of_everything(of)


def of_pages(of: Stock) -> Iterator[Question]:
    """What ends at a limit."""
    query = of.store.query
    most = stock.how_many(of.runs, stock.MOST_ONE_IN)
    many = stock.how_many(of.runs, stock.MANY_ONE_IN) + most
    yield Question(
        targets.BY_AGENT,
        min(PAGE, stock.how_many(of.sessions, stock.AGENTS)),
        lambda: len(query.search_sessions(agent_id=stock.AGENT, limit=PAGE)),
    )
    yield Question(
        targets.BY_TAG,
        min(PAGE, stock.how_many(of.sessions, stock.TAGGED_ONE_IN)),
        lambda: len(query.search_sessions(tags=[stock.TAG], limit=PAGE)),
    )
    yield Question(
        targets.BY_TOKENS,
        PAGE,
        lambda: len(query.search_runs(order_by="token_usage_desc", limit=PAGE)),
    )
    yield Question(
        targets.MIN_TOKENS,
        min(PAGE, many),
        lambda: len(query.search_runs(min_tokens=stock.MANY_TOKENS, limit=PAGE)),
    )
    yield Question(
        FEW, min(PAGE, most), lambda: len(query.search_runs(min_tokens=stock.MOST_TOKENS, limit=PAGE))
    )
    yield Question(
        targets.BY_CORRELATION,
        stock.CORRELATED,
        lambda: len(query.search_events(correlation_id=stock.CORRELATION_ID, limit=PAGE_OF_EVENTS)),
    )
    yield Question(
        targets.BY_TYPE,
        PAGE_OF_EVENTS,
        lambda: len(query.search_events(types=[stock.TYPE], limit=PAGE_OF_EVENTS)),
    )


def of_sums(of: Stock) -> Iterator[Question]:
    """What goes through all runs, or all events of a type."""
    query = of.store.query
    yield Question(targets.USAGE, of.runs, lambda: query.get_usage_summary().run_count, grows=True)
    yield Question(targets.COST, of.runs, lambda: query.get_cost_summary().run_count, grows=True)
    yield Question(
        targets.MEMORY,
        of.runs,
        lambda: query.get_cost_summary().run_count,
        grows=True,
        measure=traced,
    )
    yield Question(
        targets.RARE_TYPE,
        stock.how_many(of.sessions, stock.RARE_ONE_IN),
        lambda: query.count_events(types=[stock.RARE_TYPE]),
        grows=True,
    )


def of_a_session(of: Stock) -> Iterator[Question]:
    """What has to do with one session, and a long one."""
    query, session_id = of.store.query, of.long_session
    yield Question(targets.STATS, stock.LONG, lambda: query.get_session_stats(session_id).event_count)
    yield Question(targets.EXPORT, stock.LONG, lambda: len(query.export_session(session_id).events))


def of_everything(of: Stock) -> Iterator[Question]:
    """What maintenance does."""
    maintenance = of.store.maintenance
    policy = asm.RetentionPolicy(
        max_completed_session_age_days=None,
        hard_delete_after_days=None,
        max_events_per_session=stock.LONG - PRUNED,
    )
    yield Question(targets.HEALTH, 0, lambda: len(maintenance.health_check()), grows=True)
    yield Question(
        targets.PRUNING,
        PRUNED * stock.how_many(of.sessions, stock.LONG_ONE_IN),
        lambda: maintenance.execute(policy).events_pruned,
        grows=True,
        measure=once,
    )
