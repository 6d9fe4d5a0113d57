"""The processes that work with a store, and those that take the place of killed ones."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Self

from tests.fault.client import Part, arguments
from tests.fault.faults import Fault
from tests.fault.history import has_begun

BEGIN_S = 20.0
"""So long a process may take to begin, on a machine that is busy with other things."""

END_S = 60.0
"""So long a client may take to come to its end, when nothing is broken any more."""

DEATH_S = 2.0
"""So long a client may take to come to its next transaction, and die in it."""


class Clients:
    """One process for each part. `with` starts them, and ends whoever is left."""

    def __init__(self, folder: Path, parts: Sequence[Part], chance: random.Random) -> None:
        self._folder = folder
        self._parts = list(parts)
        self._chance = chance
        self._running: list[subprocess.Popen[bytes]] = []
        # Held while one takes the place of another.
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

    def faults(self) -> dict[str, Fault]:
        return {
            "client killed with -9": self.kill,
            "client killed in its transaction": self.kill_in_transaction,
            "client suspended": self.suspend,
        }

    def kill(self) -> None:
        with self._lock:
            place = self._chance.randrange(len(self._parts))
            self._kill(place)
            self._replace(place)
        self.await_all()

    def kill_in_transaction(self) -> int:
        with self._lock:
            process = self._some()
            process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + DEATH_S
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        self.bury()
        return int(process.poll() is not None)

    def suspend(self) -> None:
        """As the lid of a laptop does, perhaps while it holds a lock that others wait for."""
        with self._lock:
            process = self._some()
            process.send_signal(signal.SIGSTOP)
            time.sleep(self._chance.uniform(0.1, 3))
            process.send_signal(signal.SIGCONT)

    def bury(self) -> None:
        """Have others take the place of those that have died by their own hand."""
        with self._lock:
            for place, process in enumerate(self._running):
                if process.poll() == -signal.SIGKILL:
                    self._replace(place)
        self.await_all()

    def await_all(self) -> None:
        """Wait until all have begun, or have had the time."""
        deadline = time.monotonic() + BEGIN_S
        while time.monotonic() < deadline and not all(map(self._has_begun, range(len(self._parts)))):
            time.sleep(0.02)

    def some_pid(self) -> int | None:
        with self._lock:
            return next((process.pid for process in self._running if process.poll() is None), None)

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """All are killed; in here nobody runs; afterwards others take their places."""
        with self._lock:
            for place in range(len(self._parts)):
                self._kill(place)
            try:
                yield
            finally:
                for place in range(len(self._parts)):
                    self._replace(place)

    def finish(self) -> None:
        """Tell all that it is over, wait for them, and note who does not come to an end."""
        self._parts[0].over.touch()
        by = time.monotonic() + END_S
        for process, part in zip(self._running, self._parts, strict=True):
            try:
                self._note_end(process.wait(max(0.0, by - time.monotonic())), part, expected=0)
            except subprocess.TimeoutExpired:
                self._note_hang(process, part)

    def _some(self) -> subprocess.Popen[bytes]:
        # One that has begun, because only such a one knows what its signals mean.
        self.await_all()
        begun = [self._running[place] for place in range(len(self._parts)) if self._has_begun(place)]
        return self._chance.choice(begun)

    def _started(self, part: Part) -> subprocess.Popen[bytes]:
        self.started += 1
        with self._errors(part).open("wb") as errors:
            return subprocess.Popen(arguments(part), stderr=errors)

    def _kill(self, place: int) -> None:
        process = self._running[place]
        process.kill()
        self._note_end(process.wait(), self._parts[place], expected=-signal.SIGKILL)

    def _replace(self, place: int) -> None:
        part = self._parts[place]
        before = part.name if self._has_begun(place) else part.before
        name = f"{part.name.partition('.')[0]}.{next(self._generation)}"
        self._parts[place] = replace(part, name=name, before=before)
        self._running[place] = self._started(self._parts[place])

    def _note_end(self, status: int, part: Part, *, expected: int) -> None:
        # Who was told to die may do so late.
        if status not in (expected, -signal.SIGKILL):
            last_words = self._errors(part).read_text(errors="replace")[-1_500:]
            self.complaints.append(f"client {part.name} ended with status {status}: {last_words}")

    def _note_hang(self, process: subprocess.Popen[bytes], part: Part) -> None:
        process.send_signal(signal.SIGUSR1)
        # For its stacks to be written.
        time.sleep(0.5)
        process.kill()
        self.complaints.append(f"client {part.name} came to no end; its stacks are in {self._errors(part)}")

    def _has_begun(self, place: int) -> bool:
        return has_begun(self._folder, self._parts[place].name)

    def _errors(self, part: Part) -> Path:
        return self._folder / f"{part.name}.err"
