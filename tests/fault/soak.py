"""Histories: clients work while a nemesis causes faults, and the checker compares results with rows.

`make soak MINUTES=20` runs histories on SQLite and PostgreSQL and prints a table for RESULTS.md. If there
is a violation, it exits with status 1, keeps the histories with violations, and prints their folder.
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
from tests.fault.client import ClientConfig
from tests.fault.clients import Clients
from tests.fault.faults import Fault
from tests.fault.history import read_history
from tests.fault.soak_databases import SoakDatabase, SoakPostgres, SoakSQLite
from tests.servers import installations

VIOLATIONS_SHOWN = 20


@dataclass(frozen=True)
class Work:
    """The size of one history."""

    clients: int
    workers: int
    """Threads or tasks of each client process."""
    seconds: float
    pause_s: float
    """The longest pause between two faults of the database."""


@dataclass
class Tally:
    """Totals over histories."""

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
    """Causes one random fault after the other until a moment."""

    def __init__(self, faults: dict[str, Fault], rng: random.Random, until: float, pause_s: float) -> None:
        super().__init__(daemon=True)
        self._faults = faults
        self._random = rng
        self._until = until
        self._pause_s = pause_s
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self) -> None:
        # Every fault once before any of them again.
        queue: list[str] = []
        while True:
            time.sleep(self._random.uniform(0, self._pause_s))
            if time.monotonic() > self._until:
                return
            queue = queue or self._random.sample(sorted(self._faults), len(self._faults))
            name = queue.pop()
            try:
                times = self._faults[name]()
            except Exception as error:
                self.failures.append(f"the nemesis could not cause {name!r}: {error!r}")
            else:
                self.done[name] += 1 if times is None else times


def history(database: SoakDatabase, folder: Path, *, seed: int, work: Work) -> Tally:
    """Run one history in a new database and check it. A history with violations is kept in the folder."""
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    dsns = database.fresh()
    configs = [
        ClientConfig(
            name=f"c{n}",
            dsn=dsns[n // 2 % len(dsns)],
            folder=str(folder),
            colour="sync" if n % 2 else "async",
            seed=rng.getrandbits(32),
            workers=work.workers,
        )
        for n in range(work.clients)
    ]
    with Clients(folder, configs, random.Random(seed + 1)) as clients:
        clients.await_all()
        until = time.monotonic() + work.seconds
        nemeses = [
            Nemesis(database.faults(clients, rng), rng, until, work.pause_s),
            Nemesis(clients.faults(), random.Random(seed + 2), until, 2 * work.pause_s),
        ]
        for nemesis in nemeses:
            nemesis.start()
        for nemesis in nemeses:
            nemesis.join()
        database.heal()
        clients.replace_dead()
        clients.finish()
    evidence = Evidence(read_history(folder), database.rows(), refused=database.refused)
    tally = Tally(
        histories=1,
        clients=clients.started,
        operations=len(evidence.ops),
        events=len(evidence.rows.events),
        indeterminate=indeterminate(evidence),
        faults=sum((nemesis.done for nemesis in nemeses), Counter()),
        errors=errors(evidence.ops),
        violations=[*clients.failures, *(c for n in nemeses for c in n.failures), *violations(evidence)],
    )
    if tally.violations:
        database.keep(folder)
        rows = evidence.rows
        kept = [*rows.events, rows.counters, rows.sessions, rows.runs]
        (folder / "rows.txt").write_text("\n".join(map(str, kept)))
        (folder / "violations.txt").write_text("\n".join([f"seed {seed}", *tally.violations, ""]))
    else:
        shutil.rmtree(folder)
    database.forget()
    return tally


def soak(database: SoakDatabase, folder: Path, *, seed: int, minutes: float, work: Work) -> Tally:
    tally = Tally()
    end = time.monotonic() + minutes * 60
    for n in count():
        if time.monotonic() >= end:
            return tally
        at = folder / f"{database.kind.lower()}-{n}"
        one = history(database, at, seed=seed + n, work=work)
        tally.add(one)
        _print(database, seed + n, one, tally)
        if one.violations:
            print(f"  kept in {at}")
            for violation in one.violations[:VIOLATIONS_SHOWN]:
                print(f"  VIOLATED: {violation}")
    return tally


def _print(database: SoakDatabase, seed: int, one: Tally, tally: Tally) -> None:
    print(
        f"{time.strftime('%H:%M:%S')} {database.kind}, history {tally.histories} (seed {seed}): "
        f"{one.operations:,} operations, {sum(one.faults.values())} faults, "
        f"{one.indeterminate} indeterminate, {dict(one.errors)}, {len(one.violations)} violations",
        flush=True,
    )


def table(columns: Sequence[tuple[SoakDatabase, Tally]], *, minutes: float, command: str) -> str:
    """A table in Markdown for RESULTS.md."""
    faults = list(dict.fromkeys(name for _, tally in columns for name in sorted(tally.faults)))
    kinds = list(dict.fromkeys(name for _, tally in columns for name in sorted(tally.errors)))
    lines = [
        f"- {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, `{command}`, {minutes:g} minutes each",
        f"- Python {platform.python_version()}, psycopg {psycopg.__version__}, "
        + ", ".join(f"{database.kind} {database.version}" for database, _ in columns),
        "",
        _row("", *(database.kind for database, _ in columns)),
        _row(*["---"] * (len(columns) + 1)),
    ]
    figures: list[tuple[str, Callable[[Tally], int]]] = [
        ("histories", lambda tally: tally.histories),
        ("client processes", lambda tally: tally.clients),
        ("operations", lambda tally: tally.operations),
        ("events stored", lambda tally: tally.events),
        ("faults", lambda tally: tally.faults.total()),
        *((f"of them {name}", lambda tally, name=name: tally.faults[name]) for name in faults),
        ("writes with an unknown outcome", lambda tally: tally.indeterminate),
        ("operations that raised", lambda tally: tally.errors.total()),
        *((f"of them {name}", lambda tally, name=name: tally.errors[name]) for name in kinds),
        ("**violations**", lambda tally: len(tally.violations)),
    ]
    lines += [_row(name, *(f"{figure(tally):,}" for _, tally in columns)) for name, figure in figures]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def databases(wanted: str) -> Iterator[SoakDatabase]:
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
    parser.add_argument("--seconds", type=float, default=30, help="length of one history")
    parser.add_argument(
        "--pause", type=float, default=2.5, help="longest pause between two faults, in seconds"
    )
    options = parser.parse_args()
    seed = random.randrange(2**31) if options.seed is None else options.seed
    work = Work(
        clients=options.clients, workers=options.workers, seconds=options.seconds, pause_s=options.pause
    )
    folder = Path(tempfile.mkdtemp(prefix="asm-soak-"))
    print(f"seed {seed}", flush=True)
    columns = []
    for database in databases(options.database):
        with database:
            tally = soak(database, folder, seed=seed, minutes=options.minutes, work=work)
        columns.append((database, tally))
    option = f" DATABASE={options.database}" if options.database else ""
    command = f"make soak MINUTES={options.minutes:g}{option} SEED={seed} CLIENTS={options.clients}"
    print("\n" + table(columns, minutes=options.minutes, command=command))
    violated = any(tally.violations for _, tally in columns)
    if violated:
        print(f"\nThe histories are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(violated)


if __name__ == "__main__":
    sys.exit(main())
