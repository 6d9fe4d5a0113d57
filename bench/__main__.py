"""python -m bench [BENCHMARK …]: compare the store with its floors, print tables, and write the results."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench import report
from bench.databases import Databases
from bench.harness import Comparison, Rounds

BENCHMARKS = (
    "single_append",
    "async_append",
    "batches",
    "reads",
    "flush",
    "saves",
    "operations",
    "running",
    "forks",
    "imports",
    "sqlite",
    "growth",
    "thin",
    "frames",
    "telemetry",
    "text_search",
    "callers",
    "indexes",
    "queries",
    "waiting",
)
MORE = ("peers", "distributed")
"""These run only when they are named."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice([*BENCHMARKS, *MORE]), metavar="[BENCHMARK]…")
@click.option(
    "--dsn",
    envvar="ASM_BENCH_DSN",
    help="A PostgreSQL database to measure on, in a schema that is dropped afterwards. "
    "Without it, a server is started.",
)
@click.option(
    "--distributed",
    is_flag=True,
    help="Distribute the tables over the workers of Citus; the DSN is that of its coordinator.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0.01),
    default=1.0,
    show_default=True,
    help="How long one side runs in one round.",
)
@click.option(
    "--events",
    type=click.IntRange(10_000),
    default=1_000_000,
    show_default=True,
    help="The largest number of stored events in `growth`.",
)
@click.option(
    "--scale",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Run `queries` on this many times the data, too.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=report.RESULTS,
    help="The folder for the result files.",
)
def main(
    names: tuple[str, ...],
    dsn: str | None,
    distributed: bool,
    rounds: int,
    seconds: float,
    events: int,
    scale: int,
    results: Path,
) -> None:
    """Compare the store with its floors: every BENCHMARK, or those named.

    single_append, async_append, batches, reads, flush, saves, operations, running, forks, imports, sqlite,
    growth, thin, frames, telemetry, text_search, callers, indexes, queries, waiting; and peers and
    distributed, which run only when they are named. The last one needs a coordinator of Citus.
    """
    console = Console()
    every = Rounds(rounds, seconds)
    with Databases(dsn or None, distributed=distributed) as databases:
        where = report.environment(databases.settings())
        for name in names or BENCHMARKS:
            module = importlib.import_module(f"bench.{name}")
            sizes: dict[str, dict[str, Any]] = {
                "growth": {"sizes": growth_sizes(events)},
                "queries": {"scale": scale},
            }
            benchmark = partial(module.comparisons, databases=databases, **sizes.get(name, {}))
            comparisons = run(console, name, benchmark, every)
            if comparisons:
                report.print_table(console, comparisons)
            absent = module.absent() if name == "peers" else []
            for each in absent:
                console.print(f"Not measured: {each}", soft_wrap=True)
            if comparisons:
                result = report.result_of(name, module.__doc__ or "", comparisons, every, where, absent)
                report.write(results, result)
    console.print(f"The results are in {results}.")


def run(
    console: Console, name: str, benchmark: Callable[[Rounds], Iterable[Comparison]], every: Rounds
) -> list[Comparison]:
    """Make the comparisons of one benchmark, and show the progress."""
    comparisons: list[Comparison] = []
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(name)
        rounds = replace(every, say=lambda text: progress.update(task, description=f"{name}: {text}"))
        try:
            for comparison in benchmark(rounds):
                comparisons.append(comparison)
                measured = report.measured(report.as_dict(comparison))
                console.print(
                    f"{name}: {comparison.target.what}: {measured} against {comparison.floor_name}",
                    highlight=False,
                    soft_wrap=True,
                )
        except LookupError as missing:
            console.print(f"{name}: {missing}")
    return comparisons


def growth_sizes(events: int) -> tuple[int, ...]:
    """The numbers of stored events that `growth` compares."""
    return (*(size for size in (10_000, 1_000_000) if size < events), events)


if __name__ == "__main__":
    main()
