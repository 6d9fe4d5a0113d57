"""The two sides of a comparison, measured alternately for several rounds in one run.

A Side runs for a number of seconds and returns a Sample. `compare` warms both sides up, alternates
A B A B, and makes a Comparison of the samples: rates are medians over the rounds, the ratio is the median of
the rounds' ratios, latencies are pooled. A noisy machine changes a ratio less than it changes a time.
"""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.targets import Target


@dataclass(frozen=True, slots=True)
class Sample:
    """The work of one side in one round."""

    units: int
    elapsed_s: float
    latencies_s: Sequence[float]
    client_s: float
    """CPU time of the side's own process or processes."""
    server_s: float | None = None
    """CPU time of the server's processes, if the benchmark started the server."""
    shares: Sequence[int] = ()
    """How many units each caller did."""
    peak_mb: float | None = None
    """The most memory that one call of the client allocated, if it was measured."""

    @property
    def rate(self) -> float:
        return self.units / self.elapsed_s


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: its name, and a function that runs it for a number of seconds."""

    name: str
    run: Callable[[float], Sample]


@dataclass(frozen=True, slots=True)
class Figures:
    """One side's figures over all rounds."""

    rate: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    client_us: float
    server_us: float | None
    spread: float | None
    peak_mb: float | None
    core: float
    """CPU time of the calling process over elapsed time."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The functions of the package that one call enters, and how many are on the stack at most."""

    functions: int
    depth: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The store's figures for one target and those of its floor: one row of a result."""

    target: Target
    unit: str
    floor_name: str
    floor: Figures
    ours: Figures
    ratio: float
    rounds: int
    calls: Calls | None = None

    @property
    def misses(self) -> list[str]:
        """The limits of the target that were not met."""
        wanted = self.target
        found = [
            "ratio" if wanted.ratio is not None and self.ratio < wanted.ratio else None,
            "functions" if self.calls and self.calls.functions > (wanted.functions or 0) else None,
            "p99" if wanted.p99_ms is not None and self.ours.p99_ms >= wanted.p99_ms else None,
            "shares" if wanted.spread is not None and (self.ours.spread or 1) > wanted.spread else None,
            "wait" if wanted.longest_ms is not None and self.ours.longest_ms >= wanted.longest_ms else None,
            "median" if wanted.median_ms is not None and self.ours.p50_ms > wanted.median_ms else None,
            "memory" if wanted.peak_mb is not None and (self.ours.peak_mb or 0) >= wanted.peak_mb else None,
            "core" if wanted.core is not None and self.ours.core >= wanted.core else None,
        ]
        return [each for each in found if each]


Say = Callable[[str], None]


@dataclass
class Rounds:
    """How long and how often to measure, and a function that shows the progress."""

    rounds: int = 5
    seconds: float = 1.0
    say: Say = field(default=lambda _: None)

    def compare(
        self, target: Target, floor: Side, ours: Side, *, unit: str = "event", share: float = 1.0
    ) -> Comparison:
        """Measure both sides alternately, each for `share` of the seconds, and return the comparison."""
        floors, own = self.alternate(target.what, (floor, ours), share)
        return comparison(target, unit, floor.name, floors, own)

    def alternate(self, what: str, sides: Sequence[Side], share: float = 1.0) -> list[list[Sample]]:
        """The samples of each side. A shorter run of each warms it up and is discarded."""
        seconds = self.seconds * share
        for side in sides:
            self.say(f"{what}: warming up {side.name}")
            _measured(side, seconds / 2)
        samples: list[list[Sample]] = [[] for _ in sides]
        for number in range(1, self.rounds + 1):
            for side, own in zip(sides, samples, strict=True):
                self.say(f"{what}: round {number} of {self.rounds}, {side.name}")
                own.append(_measured(side, seconds))
        return samples


def comparison(
    target: Target, unit: str, floor_name: str, floors: Sequence[Sample], ours: Sequence[Sample]
) -> Comparison:
    """The comparison of the samples of both sides, round by round."""
    ratio = median(mine.rate / other.rate for mine, other in zip(ours, floors, strict=True))
    return Comparison(target, unit, floor_name, summarized(floors), summarized(ours), ratio, len(ours))


def _measured(side: Side, seconds: float) -> Sample:
    sample = side.run(seconds)
    if not sample.units or not sample.elapsed_s:
        raise RuntimeError(f"{side.name} completed no call in {seconds:g} s")
    return sample


def summarized(samples: Sequence[Sample]) -> Figures:
    latencies = sorted(latency for sample in samples for latency in sample.latencies_s)
    server = [sample.server_s / sample.units for sample in samples if sample.server_s is not None]
    spreads = [
        max(sample.shares) / max(1, min(sample.shares)) for sample in samples if len(sample.shares) > 1
    ]
    peaks = [sample.peak_mb for sample in samples if sample.peak_mb is not None]
    return Figures(
        rate=median(sample.rate for sample in samples),
        p50_ms=quantile(latencies, 0.50) * 1e3,
        p99_ms=quantile(latencies, 0.99) * 1e3,
        longest_ms=quantile(latencies, 1) * 1e3,
        client_us=median(sample.client_s / sample.units for sample in samples) * 1e6,
        server_us=median(server) * 1e6 if server else None,
        spread=median(spreads) if spreads else None,
        peak_mb=max(peaks, default=None),
        core=median(sample.client_s / sample.elapsed_s for sample in samples),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The lowest value that this share of the values does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


Step = Callable[[], int]
"""One call of one caller; returns how many units it did. IndexError: the supply is used up."""

Server = Callable[[], float] | None
"""Returns the CPU seconds that the server's processes have used."""


def in_turn(step: Step, seconds: float, server: Server = None) -> Sample:
    """Run one caller in the current thread."""
    latencies: list[float] = []
    settle()
    with Stopwatch(server) as watch:
        units = _calls(step, time.perf_counter() + seconds, latencies)
    return watch.sample(units, latencies, [units])


def _calls(step: Step, deadline: float, latencies: list[float]) -> int:
    units, clock = 0, time.perf_counter
    # At least one call, because a caller without a call has no latency.
    while True:
        before = clock()
        try:
            units += step()
        except IndexError:
            return units
        after = clock()
        latencies.append(after - before)
        if after >= deadline:
            return units


def by_threads(steps: Sequence[Step], seconds: float, server: Server = None) -> Sample:
    """Run a thread for each caller; all start at the same moment."""
    ready, go = threading.Barrier(len(steps) + 1), threading.Event()
    latencies: list[list[float]] = [[] for _ in steps]
    shares = [0] * len(steps)
    failures: list[BaseException] = []
    deadline = [0.0]

    def caller(number: int) -> None:
        ready.wait()
        go.wait()
        try:
            shares[number] = _calls(steps[number], deadline[0], latencies[number])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(len(steps))]
    for thread in threads:
        thread.start()
    ready.wait()
    settle()
    with Stopwatch(server) as watch:
        deadline[0] = time.perf_counter() + seconds
        go.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return watch.sample(sum(shares), [each for own in latencies for each in own], shares)


AsyncStep = Callable[[], Awaitable[object]]
"""One awaited call of one caller, which is one unit."""


def by_tasks(
    runner: asyncio.Runner, steps: Sequence[AsyncStep], seconds: float, server: Server = None
) -> Sample:
    """Run a task for each caller, in the loop in which the store was opened."""
    latencies: list[float] = []
    shares = [0] * len(steps)

    async def caller(number: int, deadline: float) -> None:
        step, clock = steps[number], time.perf_counter
        while True:
            before = clock()
            try:
                awaitable = step()
            except IndexError:
                return
            await awaitable
            after = clock()
            latencies.append(after - before)
            shares[number] += 1
            if after >= deadline:
                return

    async def callers() -> None:
        deadline = time.perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(len(steps)):
                group.create_task(caller(number, deadline))

    settle()
    with Stopwatch(server) as watch:
        runner.run(callers())
    return watch.sample(sum(shares), latencies, shares)


class Stopwatch:
    """Elapsed time, this process's CPU time and the server's, over a block."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> Stopwatch:
        self._server_s = self._server() if self._server else None
        self._client_s = time.process_time()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.elapsed_s = time.perf_counter() - self._start
        self.client_s = time.process_time() - self._client_s
        self.server_s = self._server() - (self._server_s or 0.0) if self._server else None

    def sample(self, units: int, latencies: Sequence[float], shares: Sequence[int] = ()) -> Sample:
        return Sample(units, self.elapsed_s, latencies, self.client_s, self.server_s, shares)


def settle() -> None:
    """Exclude all existing objects from garbage collection."""
    gc.collect()
    gc.freeze()
