"""python -m bench [QUESTION …]: measure the store beside its floors, show the table, keep the results."""

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
from bench.harness import Line, Rounds
from bench.places import Places

QUESTIONS = (
    "single_append",
    "async_append",
    "batches",
    "reads",
    "flush",
    "saves",
    "sqlite",
    "growth",
    "thin",
    "callers",
    "indexes",
    "questions",
    "waiting",
)
MORE = ("peers",)
RESULTS = Path(__file__).parent / "results"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("questions", nargs=-1, type=click.Choice([*QUESTIONS, *MORE]), metavar="[QUESTION]…")
@click.option(
    "--dsn",
    envvar="ASM_BENCH_DSN",
    help="A PostgreSQL to measure on, in a schema that is dropped afterwards. Without it, one of our own.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="For one turn of one side."
)
@click.option(
    "--events", type=click.IntRange(10_000), default=1_000_000, show_default=True, help="How far growth goes."
)
@click.option(
    "--scale",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Ask the questions of so many times the data, too.",
)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Where the files go.")
def main(
    questions: tuple[str, ...],
    dsn: str | None,
    rounds: int,
    seconds: float,
    events: int,
    scale: int,
    results: Path,
) -> None:
    """Measure the store beside its floors: every QUESTION, or those named.

    single_append, async_append, batches, reads, flush, saves, sqlite, growth, thin, callers, indexes,
    questions, waiting; and peers, which only runs when it is named.
    """
    console = Console()
    every = Rounds(rounds, seconds)
    with Places(dsn or None) as places:
        where = report.environment(places.settings())
        for name in questions or QUESTIONS:
            module = importlib.import_module(f"bench.{name}")
            # How much is stored is the affair of these two.
            own: dict[str, dict[str, Any]] = {
                "growth": {"sizes": sizes(events)},
                "questions": {"scale": scale},
            }
            question = partial(module.lines, places=places, **own.get(name, {}))
            lines = measured(console, name, question, every)
            if lines:
                report.show(console, lines)
            absent = module.absent() if name == "peers" else []
            for each in absent:
                console.print(f"Not measured: {each}", soft_wrap=True)
            if lines:
                found = report.found(name, module.__doc__ or "", lines, every, where, absent)
                report.keep(results, found)
    console.print(f"The results are in {results}.")


def measured(
    console: Console, name: str, question: Callable[[Rounds], Iterable[Line]], every: Rounds
) -> list[Line]:
    """The lines of one question, with a word on each turn while it goes on."""
    lines: list[Line] = []
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(name)
        rounds = replace(every, say=lambda said: progress.update(task, description=f"{name}: {said}"))
        try:
            for line in question(rounds):
                lines.append(line)
                told = report.measured(report.told(line))
                console.print(
                    f"{name}: {line.target.what}: {told} beside {line.floor_name}",
                    highlight=False,
                    soft_wrap=True,
                )
        except LookupError as missing:
            console.print(f"{name}: {missing}")
    return lines


def sizes(events: int) -> tuple[int, ...]:
    """What growth compares: little, much, and as much as was asked for."""
    return (*(size for size in (10_000, 1_000_000) if size < events), events)


if __name__ == "__main__":
    main()
