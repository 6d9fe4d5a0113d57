"""Every benchmark runs at a tiny size, and its rows are on the page."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import batches, report, targets
from bench.__main__ import BENCHMARKS
from bench.databases import Databases
from bench.harness import Rounds, Sample, Side
from tests.conftest import in_memory

TINY = Rounds(rounds=1, seconds=0.02)
WITH_TARGET = (*targets.TARGETS, *targets.QUERIES)
OPTIONS: dict[str, dict[str, Any]] = {
    "forks": {"events": 1_000},
    "growth": {"sizes": (1_000, 2_000)},
    "imports": {"files": 3, "long_bytes": 200_000},
    "callers": {"callers": (1, 4)},
    "operations": {"lengths": (100, 1_000)},
    "queries": {"sessions": 60, "scale": 2},
    "running": {"ended": (5, 20), "concurrent": 3},
    "waiting": {"sessions": (1, 2)},
}
SIZES: dict[str, dict[str, Any]] = {
    "batches": {"CASES": [(target, size // 10) for target, size in batches.CASES]},
    "operations": {"BLOCK": 500, "RACERS": 8, "THREADS": 8},
    "running": {"TO_END": 100},
    "saves": {"ROWS": 100},
    "sqlite": {"BATCH": 100, "PROCESSES": 2, "THREADS": 8},
}
"""Constants of the benchmarks that no option changes."""
ONE_FOLLOWER = {target for target in targets.WOKEN if target.what.endswith("one of 1 followers")}
EXPECTED = {
    "single_append": {
        targets.ONE_THREAD,
        targets.EIGHT_THREADS,
        targets.THREADS,
        targets.THREADS_ON_ONE,
    },
    "async_append": {targets.TASKS, targets.MANY_TASKS, targets.TASKS_ON_ONE},
    "batches": {
        targets.BATCH_100,
        targets.BATCH_1000,
        targets.BATCH_10000,
        targets.BATCH_REFERENCE,
    },
    "reads": {
        targets.GET_EVENTS,
        targets.PAGE,
        targets.GET_SESSION,
        targets.GET_ACTIVE_RUN,
        targets.SAVE_SESSION,
    },
    "flush": {targets.FLUSH},
    "forks": {targets.FORK, targets.SQLITE_FORK},
    "imports": {targets.IMPORT, targets.IMPORT_LONG},
    "sqlite": {
        targets.SQLITE_APPEND,
        targets.SQLITE_THREADS,
        targets.SQLITE_MIXED,
        targets.SQLITE_PROCESSES,
        targets.SQLITE_BATCHES,
        targets.SQLITE_ASYNC,
    },
    "operations": set(targets.OPERATIONS),
    "running": set(targets.RUNNING),
    "queries": set(targets.QUERIES),
    # The targets of more followers are those of one.
    "waiting": {*ONE_FOLLOWER, targets.BESIDE_FOLLOWERS},
}


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    with Databases(within=in_memory()) as databases:
        if databases.dsn is None:
            pytest.skip("there is no PostgreSQL here")
        yield databases


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_measures_its_rows_and_writes_them(
    name: str, databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"bench.{name}")
    for constant, value in SIZES.get(name, {}).items():
        monkeypatch.setattr(module, constant, value)

    comparisons = list(module.comparisons(TINY, databases, **OPTIONS.get(name, {})))
    report.write(
        tmp_path, report.result_of(name, "Why?", comparisons, TINY, report.environment(databases.settings()))
    )

    assert {comparison.target for comparison in comparisons}.intersection(WITH_TARGET) == EXPECTED.get(
        name, set()
    )
    assert comparisons
    assert all(comparison.ratio > 0 and not math.isnan(comparison.ours.p99_ms) for comparison in comparisons)
    assert all(
        f"| {comparison.target.what} |" in (tmp_path / "README.md").read_text() for comparison in comparisons
    )
    assert json.loads((tmp_path / f"{name}.json").read_text())["environment"]["postgresql"]["fsync"] == "on"


def test_every_target_is_a_row_of_a_benchmark() -> None:
    measured = {target for targets in EXPECTED.values() for target in targets}
    assert measured.union(targets.WOKEN) == set(WITH_TARGET)


def test_sides_alternate_and_the_ratio_is_the_median_of_the_rounds() -> None:
    turns: list[str] = []
    rates = {"floor": iter([1, 100, 10, 40]), "ours": iter([1, 50, 20, 40])}

    def side(name: str) -> Side:
        def run(seconds: float) -> Sample:
            turns.append(name)
            return Sample(next(rates[name]), 1.0, [seconds], 0.5)

        return Side(name, run)

    comparison = Rounds(rounds=3).compare(targets.FLUSH, side("floor"), side("ours"))

    assert turns == ["floor", "ours"] * 4
    assert comparison.ratio == 1.0
    assert comparison.floor.rate == 40
    assert comparison.misses == []


def test_a_median_or_a_memory_above_its_target_is_a_miss() -> None:
    sample = Sample(3, 1.0, [0.002, 0.004, 0.009], 0.5, peak_mb=2.0)
    side = Side("either", lambda _: sample)

    def misses(median_ms: float, peak_mb: float) -> list[str]:
        target = targets.Target("what", "a floor", median_ms=median_ms, peak_mb=peak_mb)
        return Rounds(rounds=1).compare(target, side, side).misses

    assert misses(median_ms=4, peak_mb=2.1) == []
    assert misses(median_ms=3.9, peak_mb=2) == ["median", "memory"]
