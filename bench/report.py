"""The results of benchmarks: a table on the terminal, a JSON file for each, and a page made of all files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sqlite3
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import plot
from bench.harness import Comparison, Rounds
from bench.targets import LOOKUP, PEERS, QUERIES, TARGETS, Target

RESULTS = Path(__file__).parent / "results"
HEADINGS = (
    "what",
    "floor or peer",
    "target",
    "measured",
    "rate",
    "p99",
    "client µs/event",
    "server µs/event",
    "met?",
)
PACKAGES = ("psycopg", "psycopg-pool", "orjson")
Result = dict[str, Any]
"""A benchmark's results, as its JSON file has them."""


def environment(settings: dict[str, str]) -> dict[str, Any]:
    """The machine, the versions and the server's settings."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit_of(Path(__file__).parents[1]),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "postgresql": settings,
    }


def result_of(
    benchmark: str,
    purpose: str,
    comparisons: Sequence[Comparison],
    rounds: Rounds,
    where: dict[str, Any],
    absent: Sequence[str] = (),
) -> Result:
    """The results of a benchmark, ready for its file."""
    return {
        "benchmark": benchmark,
        "purpose": purpose,
        "environment": where,
        "rounds": {"rounds": rounds.rounds, "seconds": rounds.seconds},
        "absent": list(absent),
        "lines": [as_dict(comparison) for comparison in comparisons],
    }


def as_dict(comparison: Comparison) -> Result:
    """A comparison as it is in the file of its benchmark."""
    return asdict(comparison) | {"goal": str(comparison.target), "misses": comparison.misses}


def write(results: Path, result: Result) -> None:
    """Write a benchmark's file, then the page of all files in the folder."""
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_rounded(result), indent=1, ensure_ascii=False)
    (results / f"{result['benchmark']}.json").write_text(text + "\n")
    write_page(results)
    if result["benchmark"] == "callers":
        (results / "callers.svg").write_text(callers_plot(result))


def write_page(results: Path) -> None:
    """Write README.md from the JSON files in the folder."""
    everything = [json.loads(file.read_text()) for file in sorted(results.glob("*.json"))]
    (results / "README.md").write_text(page(everything))


RUNS = ("benchmark", "date", "commit", "CPU", "PostgreSQL", "rounds", "seconds a side and round")
TERMS = (
    ("floor", "the least that the same work can cost: the same statements or rows without the store"),
    ("measured", "the median of the rounds' ratios of the store's rate to the floor's; both take turns"),
    ("rate", "the median of all rounds, the floor's in brackets"),
    ("p99", "over all calls of all rounds; of a batch, the whole call"),
    ("client", "CPU time of the calling process, per event, or per call where the rate is of calls"),
    ("server", "CPU time of all processes of PostgreSQL, background processes included"),
    ("lookups", "how many calls of `get_session`, measured in turn, take as long as the query"),
    ("reference", "what the reference library took, measured on another day"),
)


def page(everything: Sequence[Result]) -> str:
    """All results as one page of Markdown."""
    # The runs at the end name the server of each, and a cluster is another one.
    of_one_server = [result for result in everything if result["benchmark"] != "distributed"]
    newest = max(of_one_server or everything, key=lambda result: str(result["environment"]["date"]))
    return "\n".join(
        [
            "# Results of the benchmarks",
            "",
            "`make bench` writes this page; do not edit it.",
            "",
            *table(("term", "meaning"), TERMS),
            "",
            *_machine(newest["environment"]),
            "",
            "## Targets",
            "",
            *table(HEADINGS, _target_rows(everything)),
            "",
            "## Queries across sessions",
            "",
            *table(HEADINGS, _rows(everything, QUERIES)),
            "",
            *_other_rows(everything),
            "## Runs",
            "",
            *table(RUNS, map(_run, everything)),
            "",
        ]
    )


def _run(result: Result) -> Sequence[str]:
    where, rounds = result["environment"], result["rounds"]
    return (
        result["benchmark"],
        where["date"],
        where["commit"],
        f"{where['cpu']}, {where['cores']} cores",
        where["postgresql"].get("server_version", "none"),
        str(rounds["rounds"]),
        f"{rounds['seconds']:g}",
    )


def _target_rows(everything: Sequence[Result]) -> list[Sequence[str]]:
    rows = _rows(everything, TARGETS)
    peers = [line for result in everything if result["benchmark"] == "peers" for line in result["lines"]]
    if not peers:
        return [*rows, row(None, PEERS)]
    closest = min(peers, key=lambda line: float(line["ratio"]))
    summary = {"target": asdict(PEERS), "goal": str(PEERS), "floor_name": closest["target"]["what"]}
    return [*rows, row(closest | summary, PEERS)]


def _rows(everything: Sequence[Result], targets: Sequence[Target]) -> list[Sequence[str]]:
    lines = {line["target"]["what"]: line for result in everything for line in result["lines"]}
    return [row(lines.get(target.what), target) for target in targets]


def _other_rows(everything: Sequence[Result]) -> Iterable[str]:
    with_target = {target.what for target in (*TARGETS, *QUERIES)}
    for result in everything:
        rest = [line for line in result["lines"] if line["target"]["what"] not in with_target]
        if rest:
            yield from [f"## {result['benchmark']}", "", result["purpose"].strip(), ""]
            if result["benchmark"] == "callers":
                yield from ["![throughput and p99 over the number of callers](callers.svg)", ""]
            yield from [*table(HEADINGS, [row(line, None) for line in rest]), ""]
        yield from (f"Not measured: {each}\n" for each in result.get("absent", ()))


def row(line: Result | None, target: Target | None) -> Sequence[str]:
    """A line's cells, in the order of the headings."""
    if line is None:
        assert target is not None
        return (target.what, target.baseline, str(target), *[""] * 5, "not measured")
    floor, ours = line["floor"], line["ours"]
    baseline, name = line["target"]["baseline"], line["floor_name"]
    unit = "" if line["unit"] == "event" else f" {line['unit']}s"
    met = f"no: {', '.join(line['misses'])}" if line["misses"] else "yes" if line["goal"] else ""
    return (
        line["target"]["what"],
        baseline if baseline.startswith(name) else f"{baseline} ({name})",
        line["goal"],
        measured(line),
        _with_floor(f"{ours['rate']:,.0f}{unit}/s", f"{floor['rate']:,.0f}{unit}/s"),
        _with_floor(_time(ours["p99_ms"]), _time(floor["p99_ms"])),
        _with_floor(f"{ours['client_us']:.1f}", f"{floor['client_us']:.1f}"),
        _with_floor(_cpu_time(ours), _cpu_time(floor)),
        met,
    )


def measured(line: Result) -> str:
    """The ratio, or the time of a query across sessions, and the other figures that have a target."""
    wanted, ours = line["target"], line["ours"]
    is_query = wanted["baseline"] == LOOKUP
    ratio = (
        f"{_time(ours['p50_ms'])}, {1 / line['ratio']:,.1f} lookups" if is_query else f"{line['ratio']:.2f}x"
    )
    calls = line.get("calls")
    others = (
        f"{calls['functions']} functions, {calls['depth']} deep" if calls else None,
        None if ours["spread"] is None or wanted["spread"] is None else f"shares {ours['spread']:.2f}x",
        None if wanted["longest_ms"] is None else f"longest {ours['longest_ms']:.0f} ms",
        None if wanted["peak_mb"] is None else f"{ours['peak_mb']:.3f} MB",
        # Files of older commits have no such field.
        None if wanted.get("core") is None else f"{ours['core']:.1%} of a core",
    )
    return ", ".join([ratio, *(each for each in others if each)])


def _with_floor(ours: str, floors: str) -> str:
    return f"{ours} ({floors})" if ours else ""


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds >= 1 else f"{milliseconds:.3f} ms"


def _cpu_time(figures: Result) -> str:
    return "" if figures["server_us"] is None else f"{figures['server_us']:.1f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown, line by line."""
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]


def print_table(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Print a table; Markdown where the output is no terminal."""
    rows = [row(as_dict(comparison), None) for comparison in comparisons]
    if not console.is_terminal:
        print("\n".join(table(HEADINGS, rows)))
        return
    shown = Table(*HEADINGS)
    for cells in rows:
        shown.add_row(*cells, style="red" if cells[-1].startswith("no") else None)
    console.print(shown)


def callers_plot(result: Result) -> str:
    """The plot of the benchmark `callers`, as SVG."""
    names = {"tasks": ("asm, tasks", "#2f81f7"), "threads": ("asm, threads", "#d29922")}
    curves = [
        plot.Curve(
            name,
            colour,
            [_point(line, line["ours"]) for line in result["lines"] if kind in line["target"]["what"]],
        )
        for kind, (name, colour) in names.items()
    ]
    floor = [
        _point(line, line["floor"])
        for line in result["lines"]
        if "tasks" in line["target"]["what"]
        and line["floor_name"].split()[1] == line["target"]["what"].split()[0]
    ]
    where = result["environment"]
    version = where["postgresql"].get("server_version", "")
    title = f"PostgreSQL {version}, {where['cores']} cores, {where['date'][:10]}"
    return plot.svg([*curves, plot.Curve("pgbench", "#8b949e", floor)], title)


def _point(line: Result, figures: Result) -> plot.Point:
    return plot.Point(int(line["target"]["what"].split()[0]), figures["rate"], figures["p99_ms"])


def _machine(where: dict[str, Any]) -> Iterable[str]:
    settings = dict(where["postgresql"])
    version = settings.pop("server_version", "none")
    yield f"- {where['date']}, commit {where['commit']}"
    yield f"- {where['cpu']}, {where['cores']} cores shared by client and server; {where['os']}"
    packages = ", ".join(f"{name} {number}" for name, number in where["packages"].items())
    yield f"- Python {where['python']}, {packages}, SQLite {where['sqlite']}, PostgreSQL {version}"
    if settings:
        yield f"- PostgreSQL settings: {', '.join(f'{name} {value}' for name, value in settings.items())}"
    yield "- SQLite settings: journal_mode wal, synchronous full"


def commit_of(checkout: Path) -> str:
    """The commit that a checkout is at, and whether its code was changed since."""
    try:
        commit = _git(checkout, "rev-parse", "--short", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--", "asm", "sql")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} and changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    outcome = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return outcome.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
