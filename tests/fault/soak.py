"""One history after the other: clients work, a nemesis breaks things, and what was told is checked.

`make soak MINUTES=20` runs it on SQLite and PostgreSQL. It ends with a table for RESULTS.md, and with
status 1 if anything was violated; then the whole history is kept, and its folder named.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self

import psycopg

from tests.conftest import in_memory
from tests.fault.checker import Evidence, errors, indeterminate, violations
from tests.fault.client import Part, arguments
from tests.fault.history import has_begun, read_history
from tests.fault.places import Fault, Place, PostgresPlace, SQLitePlace
from tests.servers import installations

BEGIN_S = 20.0
"""So long a process may take to begin, on a machine that is busy with other things."""

END_S = 60.0
"""So long a client may take to come to its end, when nothing is broken any more."""

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


class Clients:
    """The processes that work with the store, and those that took the place of killed ones."""

    def __init__(self, folder: Path, parts: Sequence[Part]) -> None:
        self._folder = folder
        self._parts = list(parts)
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.RLock()
        self._generation = count(1)
        self.started = 0
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        self._running = [self._started(part) for part in self._parts]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()

    def faults(self, chance: random.Random) -> dict[str, Fault]:
        def kill() -> None:
            with self._lock:
                place = chance.randrange(len(self._parts))
                self._kill(place)
                self._replace(place)
            self.await_all()

        def kill_in_transaction() -> None:
            with self._lock:
                place = chance.randrange(len(self._parts))
                if self._has_begun(place):
                    self._running[place].send_signal(signal.SIGUSR2)
            # It may be opening its store, and then dies later.
            deadline = time.monotonic() + 2
            while self._running[place].poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            self.bury()

        def suspend() -> None:
            # As the lid of a laptop does, perhaps while it holds a lock that others wait for.
            with self._lock:
                process = self._running[chance.randrange(len(self._parts))]
                process.send_signal(signal.SIGSTOP)
                time.sleep(chance.uniform(0.1, 3))
                process.send_signal(signal.SIGCONT)

        return {
            "client killed with -9": kill,
            "client killed in its transaction": kill_in_transaction,
            "client suspended": suspend,
        }

    def bury(self) -> None:
        """Have others take the place of those that have died by their own hand."""
        with self._lock:
            for place, process in enumerate(self._running):
                if process.poll() == -signal.SIGKILL:
                    self._replace(place)

    def some_pid(self) -> int | None:
        with self._lock:
            return next((process.pid for process in self._running if process.poll() is None), None)

    def await_all(self) -> None:
        """Wait until all have begun, or have had the time."""
        deadline = time.monotonic() + BEGIN_S
        while time.monotonic() < deadline and not all(map(self._has_begun, range(len(self._parts)))):
            time.sleep(0.02)

    @contextmanager
    def replaced(self) -> Iterator[None]:
        with self._lock:
            for place in range(len(self._parts)):
                self._kill(place)
            yield
            for place in range(len(self._parts)):
                self._replace(place)

    def finish(self, by: float) -> None:
        """Wait until all have come to their end, and say who did not."""
        for place, part in enumerate(self._parts):
            self._end(place, part, by)

    def _end(self, place: int, part: Part, by: float) -> None:
        process = self._running[place]
        try:
            status = process.wait(max(0.0, by - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
            process.kill()
            process.wait()
            self.complaints.append(f"client {part.name} came to no end; its stacks are in {part.name}.err")
        else:
            if status == -signal.SIGKILL:
                # Told to die in a transaction late, and its history may end there.
                return
            if status:
                self.complaints.append(
                    f"client {part.name} ended with status {status}: {self._last_words(part)}"
                )

    def _started(self, part: Part) -> subprocess.Popen[bytes]:
        self.started += 1
        with (self._folder / f"{part.name}.err").open("wb") as errors:
            return subprocess.Popen(arguments(part), stderr=errors)

    def _kill(self, place: int) -> None:
        self._running[place].kill()
        self._end_of(place)

    def _end_of(self, place: int) -> None:
        status = self._running[place].wait()
        if status != -signal.SIGKILL:
            part = self._parts[place]
            self.complaints.append(
                f"client {part.name} had ended with status {status}: {self._last_words(part)}"
            )

    def _replace(self, place: int) -> None:
        part = self._parts[place]
        before = part.name if self._has_begun(place) else part.before
        name = f"{part.name.partition('.')[0]}.{next(self._generation)}"
        self._parts[place] = Part(**{**vars(part), "name": name, "before": before})
        self._running[place] = self._started(self._parts[place])

    def _has_begun(self, place: int) -> bool:
        return has_begun(self._folder, self._parts[place].name)

    def _last_words(self, part: Part) -> str:
        return (self._folder / f"{part.name}.err").read_text(errors="replace")[-1_500:]


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
                self._faults[name]()
            except Exception as error:
                self.complaints.append(f"the nemesis could not do {name!r}: {error!r}")
            self.done[name] += 1


def history(place: Place, folder: Path, *, seed: int, work: Work) -> Tally:
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
    with Clients(folder, parts) as crowd:
        crowd.await_all()
        until = time.monotonic() + work.seconds
        nemeses = [
            Nemesis(place.faults(crowd, chance), chance, until, work.pause_s),
            Nemesis(crowd.faults(chance), random.Random(seed + 1), until, 2 * work.pause_s),
        ]
        for nemesis in nemeses:
            nemesis.start()
        for nemesis in nemeses:
            nemesis.join()
        place.heal()
        crowd.bury()
        parts[0].over.touch()
        crowd.finish(time.monotonic() + END_S)
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
        (folder / "violations.txt").write_text("\n".join([f"seed {seed}", *tally.violations, ""]))
    else:
        shutil.rmtree(folder)
    place.forget()
    return tally


def soak(place: Place, folder: Path, *, seed: int, minutes: float, work: Work) -> Tally:
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


def _tell(place: Place, seed: int, one: Tally, tally: Tally) -> None:
    print(
        f"{time.strftime('%H:%M:%S')} {place.kind}, history {tally.histories} (seed {seed}): "
        f"{one.operations:,} operations, {sum(one.faults.values())} faults, "
        f"{one.indeterminate} indeterminate, {dict(one.errors)}, {len(one.violations)} violations",
        flush=True,
    )


def table(columns: Sequence[tuple[Place, Tally]], *, minutes: float, command: str) -> str:
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
        *((f"of them `{name}`", lambda tally, name=name: tally.errors[name]) for name in kinds),
        ("**violations**", lambda tally: len(tally.violations)),
    ]
    lines += [_row(name, *(f"{figure(tally):,}" for _, tally in columns)) for name, figure in figures]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def places(wanted: str) -> Iterator[Place]:
    if wanted in ("", "sqlite"):
        yield SQLitePlace()
    if wanted in ("", "postgres"):
        yield PostgresPlace(installations()[0], folder=in_memory())


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
