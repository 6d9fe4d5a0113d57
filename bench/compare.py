"""python -m bench.compare BASE [BENCHMARK …]: measure this checkout and another one alternately.

Each round runs every benchmark once in either checkout, each time in a process of its own, and the two
take turns in going first. A row's ratio is the median of its rounds' ratios of our rate to BASE's rate.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click

from bench.__main__ import BENCHMARKS, MORE
from bench.databases import Databases
from bench.report import RESULTS, commit_of, table

HERE = Path(__file__).parents[1]
FLOOR = 0.95
"""A row whose ratio is lower is listed."""

RENAMED = {"queries": "questions"}
"""The names that benchmarks had in older checkouts."""

TIMEOUT_S = 900
HEADINGS = ("row", "this checkout, per s", "base, per s", "ratio", "lowest", "highest", "rounds")

Rates = dict[str, float]
"""The rate of each row of a benchmark."""


@dataclass
class Pairs:
    """The rates of one row in both checkouts, round by round."""

    ours: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [one / other for one, other in zip(self.ours, self.base, strict=True)]

    @property
    def ratio(self) -> float:
        return median(self.ratios)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("base", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("names", nargs=-1, type=click.Choice([*BENCHMARKS, *MORE]), metavar="[BENCHMARK]…")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.01), default=0.3, show_default=True, help="Per side.")
@click.option("--dsn", envvar="ASM_BENCH_DSN", help="A PostgreSQL server. Without it, one is started.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=RESULTS / "comparison.md",
    help="The page to write.",
)
def main(
    base: Path, names: tuple[str, ...], rounds: int, seconds: float, dsn: str | None, output: Path
) -> None:
    """Measure this checkout and the one in BASE alternately, and compare them row by row."""
    rows: dict[str, Pairs] = {}
    with ExitStack() as stack:
        databases = stack.enter_context(Databases(dsn or None))
        environment = os.environ | ({"ASM_BENCH_DSN": databases.dsn} if databases.dsn else {})
        for number in range(rounds):
            for name in names or BENCHMARKS:
                click.echo(f"round {number + 1} of {rounds}: {name}", err=True)
                sides = [HERE, base.resolve()]
                measured = {
                    side: rates(side, name, seconds, environment)
                    for side in (sides if number % 2 else reversed(sides))
                }
                add_round(rows, *(measured[side] for side in sides))
    text = page(rows, commit_of(HERE), commit_of(base), seconds)
    output.write_text(text)
    click.echo(text)
    click.echo(f"The comparison is in {output}.", err=True)


def rates(checkout: Path, name: str, seconds: float, environment: dict[str, str]) -> Rates:
    """Run one benchmark for one round in a checkout. A benchmark that it lacks has no rows."""
    module = name if (checkout / "bench" / f"{name}.py").exists() else RENAMED.get(name, name)
    if not (checkout / "bench" / f"{module}.py").exists():
        return {}
    python = checkout / ".venv" / "bin" / "python"
    with tempfile.TemporaryDirectory(prefix="asm-compare-") as folder:
        command = [str(python) if python.exists() else sys.executable, "-m", "bench", module]
        command += ["--rounds=1", f"--seconds={seconds}", "--events=20000", f"--results={folder}"]
        outcome = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        if outcome.returncode:
            raise click.ClickException(f"{module} failed in {checkout}: {outcome.stderr[-2_000:]}")
        results = Path(folder) / f"{module}.json"
        lines = json.loads(results.read_text())["lines"] if results.exists() else []
    return {line["target"]["what"]: float(line["ours"]["rate"]) for line in lines}


def add_round(rows: dict[str, Pairs], ours: Rates, base: Rates) -> None:
    """Add one round's rates of the rows that both checkouts have."""
    for what in (row for row in ours if row in base):
        pairs = rows.setdefault(what, Pairs())
        pairs.ours.append(ours[what])
        pairs.base.append(base[what])


def page(rows: dict[str, Pairs], ours: str, base: str, seconds: float) -> str:
    """The comparison as Markdown: every row, then those below the floor."""
    slower = [what for what, pairs in rows.items() if pairs.ratio < FLOOR]
    return "\n".join(
        [
            "# Comparison of two checkouts",
            "",
            f"`make bench-compare` wrote this page: commit {ours} and base {base}, {seconds:g} s a run.",
            "A ratio is the median of the rounds' ratios of this checkout's rate to the base's rate.",
            "",
            *table(HEADINGS, _cells(rows)),
            "",
            f"## Rows below {FLOOR:.2f}",
            "",
            *([f"- {what}: {rows[what].ratio:.2f}" for what in slower] or ["None."]),
            "",
        ]
    )


def _cells(rows: dict[str, Pairs]) -> Iterable[Sequence[str]]:
    for what, pairs in rows.items():
        yield (
            what,
            f"{median(pairs.ours):,.0f}",
            f"{median(pairs.base):,.0f}",
            f"{pairs.ratio:.2f}",
            f"{min(pairs.ratios):.2f}",
            f"{max(pairs.ratios):.2f}",
            str(len(pairs.ratios)),
        )


if __name__ == "__main__":
    main()
