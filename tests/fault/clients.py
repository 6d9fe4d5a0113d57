"""The client processes of a history, and the successors of killed ones."""

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

from tests.fault.client import ClientConfig, arguments
from tests.fault.faults import Fault
from tests.fault.history import has_begun

BEGIN_S = 20.0
"""How long a process may take to start on a busy machine."""

END_S = 60.0
"""How long a client may take to end when all faults are over."""

DEATH_S = 2.0
"""How long a client may take to reach its next transaction and kill itself in it."""


class Clients:
    """One process for each config. `with` starts them, and kills those that still run."""

    def __init__(self, folder: Path, configs: Sequence[ClientConfig], rng: random.Random) -> None:
        self._folder = folder
        self._configs = list(configs)
        self._random = rng
        self._running: list[subprocess.Popen[bytes]] = []
        # Held while a process is replaced.
        self._lock = threading.RLock()
        self._generation = count(1)
        self.started = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._running = [self._started(config) for config in self._configs]
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
            index = self._random.randrange(len(self._configs))
            self._kill(index)
            self._replace(index)
        self.await_all()

    def kill_in_transaction(self) -> int:
        with self._lock:
            process = self._some()
            process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + DEATH_S
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        self.replace_dead()
        return int(process.poll() is not None)

    def suspend(self) -> None:
        """Suspend a client, possibly while it holds a lock that other clients wait for."""
        with self._lock:
            process = self._some()
            process.send_signal(signal.SIGSTOP)
            time.sleep(self._random.uniform(0.1, 3))
            process.send_signal(signal.SIGCONT)

    def replace_dead(self) -> None:
        """Replace the clients that have killed themselves."""
        with self._lock:
            for index, process in enumerate(self._running):
                if process.poll() == -signal.SIGKILL:
                    self._replace(index)
        self.await_all()

    def await_all(self) -> None:
        """Wait until all clients have started, at most BEGIN_S."""
        deadline = time.monotonic() + BEGIN_S
        while time.monotonic() < deadline and not all(map(self._has_begun, range(len(self._configs)))):
            time.sleep(0.02)

    def some_pid(self) -> int | None:
        with self._lock:
            return next((process.pid for process in self._running if process.poll() is None), None)

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Kill all clients, run the block without any, and start their successors."""
        with self._lock:
            for index in range(len(self._configs)):
                self._kill(index)
            try:
                yield
            finally:
                for index in range(len(self._configs)):
                    self._replace(index)

    def finish(self) -> None:
        """Signal the end, wait for all clients, and note those that do not end."""
        self._configs[0].over.touch()
        by = time.monotonic() + END_S
        for process, config in zip(self._running, self._configs, strict=True):
            try:
                self._note_end(process.wait(max(0.0, by - time.monotonic())), config, expected=0)
            except subprocess.TimeoutExpired:
                self._note_hang(process, config)

    def _some(self) -> subprocess.Popen[bytes]:
        # A client handles its signals once it has started.
        self.await_all()
        begun = [self._running[index] for index in range(len(self._configs)) if self._has_begun(index)]
        return self._random.choice(begun)

    def _started(self, config: ClientConfig) -> subprocess.Popen[bytes]:
        self.started += 1
        with self._errors(config).open("wb") as errors:
            return subprocess.Popen(arguments(config), stderr=errors)

    def _kill(self, index: int) -> None:
        process = self._running[index]
        process.kill()
        self._note_end(process.wait(), self._configs[index], expected=-signal.SIGKILL)

    def _replace(self, index: int) -> None:
        config = self._configs[index]
        replaces = config.name if self._has_begun(index) else config.replaces
        name = f"{config.name.partition('.')[0]}.{next(self._generation)}"
        self._configs[index] = replace(config, name=name, replaces=replaces)
        self._running[index] = self._started(self._configs[index])

    def _note_end(self, status: int, config: ClientConfig, *, expected: int) -> None:
        # A client may still kill itself after it was told to.
        if status not in (expected, -signal.SIGKILL):
            output = self._errors(config).read_text(errors="replace")[-1_500:]
            self.failures.append(f"client {config.name} ended with status {status}: {output}")

    def _note_hang(self, process: subprocess.Popen[bytes], config: ClientConfig) -> None:
        process.send_signal(signal.SIGUSR1)
        # Time for faulthandler to write the stacks.
        time.sleep(0.5)
        process.kill()
        self.failures.append(
            f"client {config.name} did not end within {END_S:g} s; its stacks are in {self._errors(config)}"
        )

    def _has_begun(self, index: int) -> bool:
        return has_begun(self._folder, self._configs[index].name)

    def _errors(self, config: ClientConfig) -> Path:
        return self._folder / f"{config.name}.err"
