"""What was measured, for people and for programs: a table, a file a question, and a page of all files."""

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
from bench.harness import Line, Rounds
from bench.targets import LOOKUP, PEERS, QUESTIONS, TARGETS, Target

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
Found = dict[str, Any]
"""A question's results as its file has them."""


def environment(settings: dict[str, str]) -> dict[str, Any]:
    """The machine, the versions and the server's settings."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "postgresql": settings,
    }


def found(
    question: str,
    asks: str,
    lines: Sequence[Line],
    rounds: Rounds,
    where: dict[str, Any],
    absent: Sequence[str] = (),
) -> Found:
    """A question's results, ready for its file."""
    return {
        "question": question,
        "asks": asks,
        "environment": where,
        "rounds": {"rounds": rounds.rounds, "seconds": rounds.seconds},
        "absent": list(absent),
        "lines": [told(line) for line in lines],
    }


def told(line: Line) -> Found:
    """A line as the file of its question has it."""
    return asdict(line) | {"asked": str(line.target), "misses": line.misses}


def keep(results: Path, result: Found) -> None:
    """Write a question's file, then the table of all files there are."""
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_rounded(result), indent=1, ensure_ascii=False)
    (results / f"{result['question']}.json").write_text(text + "\n")
    everything = [json.loads(file.read_text()) for file in sorted(results.glob("*.json"))]
    (results / "README.md").write_text(page(everything))
    if result["question"] == "callers":
        (results / "callers.svg").write_text(drawn(result))


WHEN = ("question", "date", "commit", "CPU", "PostgreSQL", "rounds", "seconds a turn")
PREFACE = """# What was measured

Written by `make bench`. A ratio is the median of the rounds' own ratios of our rate to the floor's, both
sides measured in turn; rates are medians, p99 is over all calls of all rounds (of a batch, the whole call).
CPU time is per event, or per call where the rate is of calls. Client is the process that asks, all its
threads; server is every process of PostgreSQL, its background writers too. In brackets: the floor's own.
Events and rows are made before the clock starts, on both sides; `thin` says what making an Event costs.
Of a question across sessions it is the median call, and how many lookups of a session by its id, in turn
with it, take as long; no more than 3 times as long is asked of SQLite. The reference library's figures were
measured on another day.
"""


def page(everything: Sequence[Found]) -> str:
    """All results as one page of Markdown."""
    newest = max(everything, key=lambda result: str(result["environment"]["date"]))
    return "\n".join(
        [
            PREFACE,
            *_machine(newest["environment"]),
            "",
            "## What was asked for",
            "",
            *_markdown(_asked_for(everything)),
            "",
            "## What is asked across sessions",
            "",
            *_markdown(_rows(everything, QUESTIONS)),
            "",
            *_others(everything),
            "## When",
            "",
            *_table(WHEN, map(_when, everything)),
            "",
        ]
    )


def _when(result: Found) -> Sequence[str]:
    where, rounds = result["environment"], result["rounds"]
    return (
        result["question"],
        where["date"],
        where["commit"],
        f"{where['cpu']}, {where['cores']} cores",
        where["postgresql"].get("server_version", "none"),
        str(rounds["rounds"]),
        f"{rounds['seconds']:g}",
    )


def _asked_for(everything: Sequence[Found]) -> list[Sequence[str]]:
    rows = _rows(everything, TARGETS)
    peers = [line for result in everything if result["question"] == "peers" for line in result["lines"]]
    if not peers:
        return [*rows, row(None, PEERS)]
    closest = min(peers, key=lambda line: float(line["ratio"]))
    summary = {"target": asdict(PEERS), "asked": str(PEERS), "floor_name": closest["target"]["what"]}
    return [*rows, row(closest | summary, PEERS)]


def _rows(everything: Sequence[Found], targets: Sequence[Target]) -> list[Sequence[str]]:
    lines = {line["target"]["what"]: line for result in everything for line in result["lines"]}
    return [row(lines.get(target.what), target) for target in targets]


def _others(everything: Sequence[Found]) -> Iterable[str]:
    asked = {target.what for target in (*TARGETS, *QUESTIONS)}
    for result in everything:
        rest = [line for line in result["lines"] if line["target"]["what"] not in asked]
        if rest:
            yield from [f"## {result['question']}", "", result["asks"], ""]
            if result["question"] == "callers":
                yield from ["![throughput and p99 over the number of callers](callers.svg)", ""]
            yield from [*_markdown([row(line, None) for line in rest]), ""]
        yield from (f"Not measured: {each}\n" for each in result.get("absent", ()))


def row(line: Found | None, target: Target | None) -> Sequence[str]:
    """A result's cells, in the order of the headings."""
    if line is None:
        assert target is not None
        return (target.what, target.beside, str(target), *[""] * 5, "not measured")
    floor, ours = line["floor"], line["ours"]
    beside, name = line["target"]["beside"], line["floor_name"]
    unit = "" if line["unit"] == "event" else f" {line['unit']}s"
    met = f"no: {', '.join(line['misses'])}" if line["misses"] else "yes" if line["asked"] else ""
    return (
        line["target"]["what"],
        beside if beside.startswith(name) else f"{beside} ({name})",
        line["asked"],
        measured(line),
        _both(f"{ours['rate']:,.0f}{unit}/s", f"{floor['rate']:,.0f}{unit}/s"),
        _both(_time(ours["p99_ms"]), _time(floor["p99_ms"])),
        _both(f"{ours['client_us']:.1f}", f"{floor['client_us']:.1f}"),
        _both(_cpu_time(ours), _cpu_time(floor)),
        met,
    )


def measured(line: Found) -> str:
    """The ratio, or how long a question across sessions took, and what else was asked for."""
    wanted, ours = line["target"], line["ours"]
    across = wanted["beside"] == LOOKUP
    ratio = (
        f"{_time(ours['p50_ms'])}, {1 / line['ratio']:,.1f} lookups" if across else f"{line['ratio']:.2f}x"
    )
    calls = line.get("calls")
    others = (
        f"{calls['functions']} functions, {calls['depth']} deep" if calls else None,
        None if ours["spread"] is None or wanted["spread"] is None else f"shares {ours['spread']:.2f}x",
        None if wanted["longest_ms"] is None else f"longest {ours['longest_ms']:.0f} ms",
        None if wanted["peak_mb"] is None else f"{ours['peak_mb']:.3f} MB",
        # Results of earlier commits do not tell.
        None if wanted.get("core") is None else f"{ours['core']:.1%} of a core",
    )
    return ", ".join([ratio, *(each for each in others if each)])


def _both(ours: str, floors: str) -> str:
    return f"{ours} ({floors})" if ours else ""


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds >= 1 else f"{milliseconds:.3f} ms"


def _cpu_time(figures: Found) -> str:
    return "" if figures["server_us"] is None else f"{figures['server_us']:.1f}"


def _markdown(rows: Iterable[Sequence[str]]) -> list[str]:
    return _table(HEADINGS, rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]


def show(console: Console, lines: Sequence[Line]) -> None:
    """A table for a person; Markdown where nobody looks."""
    rows = [row(told(line), None) for line in lines]
    if not console.is_terminal:
        print("\n".join(_markdown(rows)))
        return
    table = Table(*HEADINGS)
    for cells in rows:
        table.add_row(*cells, style="red" if cells[-1].startswith("no") else None)
    console.print(table)


def drawn(result: Found) -> str:
    """The plot of the callers question."""
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


def _point(line: Found, figures: Found) -> plot.Point:
    return plot.Point(int(line["target"]["what"].split()[0]), figures["rate"], figures["p99_ms"])


def _machine(where: dict[str, Any]) -> Iterable[str]:
    settings = dict(where["postgresql"])
    version = settings.pop("server_version", "none")
    yield f"- {where['date']}, commit {where['commit']}"
    yield f"- {where['cpu']}, {where['cores']} cores shared by client and server; {where['os']}"
    packages = ", ".join(f"{name} {number}" for name, number in where["packages"].items())
    yield f"- Python {where['python']}, {packages}, SQLite {where['sqlite']}, PostgreSQL {version}"
    if settings:
        yield f"- PostgreSQL's settings: {', '.join(f'{name} {value}' for name, value in settings.items())}"
    yield "- SQLite's settings: journal_mode wal, synchronous full"


def _commit() -> str:
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short", "HEAD")
        changed = _git(here.parent, "status", "--porcelain", "--", "asm", "sql")
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
