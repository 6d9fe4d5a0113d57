"""One history after the other: clients work, a nemesis breaks things, and what was told is checked.

`make soak MINUTES=20` runs it on SQLite and PostgreSQL. It ends with a table for RESULTS.md, and with
status 1 if anything was violated; then the whole history is kept, and its folder named.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

from tests.conftest import in_memory
from tests.fault.checker import Evidence, errors, indeterminate, violations
from tests.fault.client import Part
from tests.fault.clients import Clients
from tests.fault.faults import Fault
from tests.fault.history import read_history
from tests.fault.soak_databases import SoakDatabase, SoakPostgres, SoakSQLite
from tests.servers import installations

VIOLATIONS_TOLD = 20


@dataclass(frozen=True)
class Work:
    """How much happens in one history."""

    clients: int
    workers: int
    """Threads or tasks of each client."""
    seconds: float
    pause_s: float
    """The longest between two faults of a kind."""


@dataclass
class Tally:
    """What happened, added up over histories."""

    histories: int = 0
    clients: int = 0
    operations: int = 0
    events: int = 0
    indeterminate: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.histories += other.histories
        self.clients += other.clients
        self.operations += other.operations
        self.events += other.events
        self.indeterminate += other.indeterminate
        self.faults += other.faults
        self.errors += other.errors
        self.violations += other.violations


class Nemesis(threading.Thread):
    """Does one thing after the other, chosen by chance, until it is told that it is enough."""

    def __init__(self, faults: dict[str, Fault], chance: random.Random, until: float, pause_s: float) -> None:
        super().__init__(daemon=True)
        self._faults = faults
        self._chance = chance
        self._until = until
        self._pause_s = pause_s
        self.done: Counter[str] = Counter()
        self.complaints: list[str] = []

    def run(self) -> None:
        # Each once, before any comes twice.
        queue: list[str] = []
        while True:
            time.sleep(self._chance.uniform(0, self._pause_s))
            if time.monotonic() > self._until:
                return
            queue = queue or self._chance.sample(sorted(self._faults), len(self._faults))
            name = queue.pop()
            try:
                times = self._faults[name]()
            except Exception as error:
                self.complaints.append(f"the nemesis could not do {name!r}: {error!r}")
            else:
                self.done[name] += 1 if times is None else times


def history(place: SoakDatabase, folder: Path, *, seed: int, work: Work) -> Tally:
    """One history in a fresh database, checked. What was violated is kept in the folder."""
    folder.mkdir(parents=True)
    chance = random.Random(seed)
    dsns = place.fresh()
    parts = [
        Part(
            name=f"c{n}",
            dsn=dsns[n // 2 % len(dsns)],
            folder=str(folder),
            colour="sync" if n % 2 else "async",
            seed=chance.getrandbits(32),
            workers=work.workers,
        )
        for n in range(work.clients)
    ]
    with Clients(folder, parts, random.Random(seed + 1)) as crowd:
        crowd.await_all()
        until = time.monotonic() + work.seconds
        nemeses = [
            Nemesis(place.faults(crowd, chance), chance, until, work.pause_s),
            Nemesis(crowd.faults(), random.Random(seed + 2), until, 2 * work.pause_s),
        ]
        for nemesis in nemeses:
            nemesis.start()
        for nemesis in nemeses:
            nemesis.join()
        place.heal()
        crowd.bury()
        crowd.finish()
    evidence = Evidence(read_history(folder), place.rows(), refused=place.refused)
    tally = Tally(
        histories=1,
        clients=crowd.started,
        operations=len(evidence.ops),
        events=len(evidence.rows.events),
        indeterminate=indeterminate(evidence),
        faults=sum((nemesis.done for nemesis in nemeses), Counter()),
        errors=errors(evidence.ops),
        violations=[*crowd.complaints, *(c for n in nemeses for c in n.complaints), *violations(evidence)],
    )
    if tally.violations:
        place.keep(folder)
        rows = evidence.rows
        kept = [*rows.events, rows.counters, rows.sessions, rows.runs]
        (folder / "rows.txt").write_text("\n".join(map(str, kept)))
        (folder / "violations.txt").write_text("\n".join([f"seed {seed}", *tally.violations, ""]))
    else:
        shutil.rmtree(folder)
    place.forget()
    return tally


def soak(place: SoakDatabase, folder: Path, *, seed: int, minutes: float, work: Work) -> Tally:
    tally = Tally()
    end = time.monotonic() + minutes * 60
    for n in count():
        if time.monotonic() >= end:
            return tally
        at = folder / f"{place.kind.lower()}-{n}"
        one = history(place, at, seed=seed + n, work=work)
        tally.add(one)
        _tell(place, seed + n, one, tally)
        if one.violations:
            print(f"  kept in {at}")
            for violation in one.violations[:VIOLATIONS_TOLD]:
                print(f"  VIOLATED: {violation}")
    return tally


def _tell(place: SoakDatabase, seed: int, one: Tally, tally: Tally) -> None:
    print(
        f"{time.strftime('%H:%M:%S')} {place.kind}, history {tally.histories} (seed {seed}): "
        f"{one.operations:,} operations, {sum(one.faults.values())} faults, "
        f"{one.indeterminate} indeterminate, {dict(one.errors)}, {len(one.violations)} violations",
        flush=True,
    )


def table(columns: Sequence[tuple[SoakDatabase, Tally]], *, minutes: float, command: str) -> str:
    """Markdown, as RESULTS.md has it."""
    faults = list(dict.fromkeys(name for _, tally in columns for name in sorted(tally.faults)))
    kinds = list(dict.fromkeys(name for _, tally in columns for name in sorted(tally.errors)))
    lines = [
        f"- {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, `{command}`, {minutes:g} minutes each",
        f"- Python {platform.python_version()}, psycopg {psycopg.__version__}, "
        + ", ".join(f"{place.kind} {place.version}" for place, _ in columns),
        "",
        _row("", *(place.kind for place, _ in columns)),
        _row(*["---"] * (len(columns) + 1)),
    ]
    figures: list[tuple[str, Callable[[Tally], int]]] = [
        ("histories", lambda tally: tally.histories),
        ("client processes", lambda tally: tally.clients),
        ("operations", lambda tally: tally.operations),
        ("events stored", lambda tally: tally.events),
        ("faults", lambda tally: tally.faults.total()),
        *((f"of them {name}", lambda tally, name=name: tally.faults[name]) for name in faults),
        ("writes whose outcome nobody was told", lambda tally: tally.indeterminate),
        ("operations that raised", lambda tally: tally.errors.total()),
        *((f"of them {name}", lambda tally, name=name: tally.errors[name]) for name in kinds),
        ("**violations**", lambda tally: len(tally.violations)),
    ]
    lines += [_row(name, *(f"{figure(tally):,}" for _, tally in columns)) for name, figure in figures]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def places(wanted: str) -> Iterator[SoakDatabase]:
    if wanted in ("", "sqlite"):
        yield SoakSQLite()
    if wanted in ("", "postgres"):
        yield SoakPostgres(installations()[0], folder=in_memory())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="on each database")
    parser.add_argument("--database", choices=["", "sqlite", "postgres"], default="")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--workers", type=int, default=6, help="threads or tasks of each client")
    parser.add_argument("--seconds", type=float, default=30, help="of one history")
    parser.add_argument("--pause", type=float, default=2.5, help="seconds between two faults, at most")
    options = parser.parse_args()
    seed = random.randrange(2**31) if options.seed is None else options.seed
    work = Work(
        clients=options.clients, workers=options.workers, seconds=options.seconds, pause_s=options.pause
    )
    folder = Path(tempfile.mkdtemp(prefix="asm-soak-"))
    print(f"seed {seed}", flush=True)
    columns = []
    for place in places(options.database):
        with place:
            tally = soak(place, folder, seed=seed, minutes=options.minutes, work=work)
        columns.append((place, tally))
    database = f" DATABASE={options.database}" if options.database else ""
    command = f"make soak MINUTES={options.minutes:g}{database} SEED={seed} CLIENTS={options.clients}"
    print("\n" + table(columns, minutes=options.minutes, command=command))
    violated = any(tally.violations for _, tally in columns)
    if violated:
        print(f"\nThe histories are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(violated)


if __name__ == "__main__":
    sys.exit(main())
