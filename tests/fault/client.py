"""A process that works with a store until the history ends, and records every operation and its result.

A worker is a generator of operations. A thread runs them with the blocking store, a task with the async
one. If the process is killed, its successor repeats the writes whose outcome is unknown.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeAlias

import asm
from tests.fault.history import (
    CANCELLED,
    DIED_BEFORE_COMMIT,
    UNTYPED,
    Key,
    Op,
    Recorder,
    an_event,
    numbers,
    read_history,
    seen,
    unfinished,
)

Work: TypeAlias = "Generator[Op, None, None]"

TIMEOUTS: dict[str, Any] = {"timeout": 5.0, "statement_timeout": 5.0, "retry_for": 20.0}
"""Longer than any fault of PostgreSQL, so that retries hide most faults."""

STEP_S = 0.02
"""The longest pause between two operations of a worker."""

SESSIONS = [f"busy-{n}" for n in range(5)]
QUIET_SESSIONS = [f"quiet-{n}" for n in range(30)]

LARGE = 520
"""More events than one statement inserts."""

die = threading.Event()
"""Set by a signal: the process kills itself in its next transaction."""


@dataclass(kw_only=True)
class ClientConfig:
    """The parameters of a client process."""

    name: str
    dsn: str
    folder: str
    colour: Literal["sync", "async"]
    seed: int
    workers: int
    replaces: str | None = None
    """The name of the client that it replaces."""
    options: dict[str, Any] = field(default_factory=lambda: dict(TIMEOUTS))

    @property
    def over(self) -> Path:
        """When this file exists, the workers end."""
        return Path(self.folder) / "over"


class Worker:
    """The operations of one thread or task, and their results as far as later ones depend on them."""

    def __init__(self, name: str, config: ClientConfig, left_over: Sequence[Op]) -> None:
        self._name = name
        self._config = config
        self._random = random.Random(f"{config.seed} {name}")
        self._number = count()
        self._left_over = left_over
        self._done: list[Op] = []
        self._latest_seen: dict[str, int] = {}

    def work(self) -> Work:
        for op in self._left_over:
            yield from self._recorded(self._repetition_of(op))
        while not self._config.over.exists():
            if die.is_set():
                yield self._write("die", self._some(self._session(), 1, 3))
            op = self._random.choices(self._kinds, self._weights)[0](self)
            if op.expected is not None and op.block == op.id:
                yield from self._recorded(self._read("latest", op.session))
                op.expected = self._latest_seen.get(op.session, 0)
            yield from self._recorded(op)
        session = self._session()
        yield self._write("append", [self._new(session)], is_last=True)
        yield self._read("get", session, after=self._latest_seen.get(session, 0), is_last=True)

    def _recorded(self, op: Op) -> Work:
        yield op
        if op.writes and op.error != "sequence_conflict":
            self._done = [*self._done[-50:], op]
        for (session, _), number in zip(op.events, op.numbers or [], strict=False):
            self._latest_seen[session] = max(number, self._latest_seen.get(session, 0))
        if op.saw or op.latest:
            latest = op.saw[-1].number if op.saw else op.latest or 0
            self._latest_seen[op.session] = max(latest, self._latest_seen.get(op.session, 0))

    def _append(self) -> Op:
        return self._write("append", [self._new(self._session())])

    def _batch(self) -> Op:
        return self._write("batch", self._some(self._session(), 2, 6))

    def _large_batch(self) -> Op:
        return self._write("batch", self._some(self._session(), LARGE, LARGE + 20))

    def _spanning_batch(self) -> Op:
        sessions = [self._session() for _ in range(3)]
        return self._write(
            "batch", [self._new(self._random.choice(sessions)) for _ in range(self._random.randint(2, 8))]
        )

    def _batch_with_repeated(self) -> Op:
        singles = [op.events[0] for op in self._done if op.do == "append" and op.expected is None]
        events = self._some(self._session(), 2, 5)
        if not singles:
            return self._write("batch", events)
        repeated = [self._random.choice(singles)]
        events.insert(self._random.randint(0, len(events)), repeated[0])
        return self._write("batch", events, repeated=repeated)

    def _append_expecting(self) -> Op:
        return self._write("append", [self._new(self._quiet_session())], expected=0)

    def _batch_expecting(self) -> Op:
        return self._write("batch", self._some(self._quiet_session(), 2, 5), expected=0)

    def _flush(self) -> Op:
        events = self._some(self._session(), 1, 4)
        return self._write("flush", events, run=f"run-{self._name}-{next(self._number)}")

    def _transaction(self) -> Op:
        return self._write("transaction", self._some(self._session(), 2, 3))

    def _repeat(self) -> Op:
        again = [op for op in self._done if op.do != "transaction"]
        return self._repetition_of(self._random.choice(again)) if again else self._append()

    def _get(self) -> Op:
        session = self._session()
        return self._read("get", session, after=self._latest_seen.get(session, 0))

    def _get_all(self) -> Op:
        return self._read("get", self._session())

    def _get_some(self) -> Op:
        session = self._session()
        after = self._random.randint(0, self._latest_seen.get(session, 0))
        return self._read("get", session, after=after, limit=self._random.randint(1, 50))

    def _iterate(self) -> Op:
        session = self._session()
        after = max(0, self._latest_seen.get(session, 0) - self._random.randint(0, 100))
        return self._read("iterate", session, after=after)

    def _follow(self) -> Op:
        session = self._session()
        after = max(0, self._latest_seen.get(session, 0) - self._random.randint(0, 10))
        return self._read("follow", session, after=after, limit=self._random.randint(1, 60))

    def _follow_for_long(self) -> Op:
        session = self._session()
        return self._read("follow", session, after=self._latest_seen.get(session, 0), limit=200)

    def _wait(self) -> Op:
        session = self._session()
        return self._read("wait", session, after=self._latest_seen.get(session, 0))

    def _latest(self) -> Op:
        return self._read("latest", self._session())

    _choices: tuple[tuple[Callable[[Worker], Op], float], ...] = (
        (_append, 40),
        (_batch, 8),
        (_spanning_batch, 8),
        (_large_batch, 0.2),
        (_batch_with_repeated, 3),
        (_append_expecting, 4),
        (_batch_expecting, 4),
        (_flush, 6),
        (_transaction, 2),
        (_repeat, 6),
        (_get, 6),
        (_get_all, 0.5),
        (_get_some, 3),
        (_iterate, 3),
        (_follow, 3),
        (_follow_for_long, 0.3),
        (_wait, 2),
        (_latest, 3),
    )
    _kinds = tuple(kind for kind, _ in _choices)
    _weights = tuple(weight for _, weight in _choices)

    def _session(self) -> str:
        return self._random.choice(SESSIONS) if self._random.random() > 0.1 else self._quiet_session()

    def _quiet_session(self) -> str:
        # Other workers seldom append to it, so its sequence is likely to be the one last read.
        return self._random.choice(QUIET_SESSIONS)

    def _new(self, session: str) -> Key:
        return (session, f"{self._name}-{next(self._number)}")

    def _some(self, session: str, least: int, most: int) -> list[Key]:
        return [self._new(session) for _ in range(self._random.randint(least, most))]

    def _write(self, do: Any, events: list[Key], **fields: Any) -> Op:
        id = self._id()
        session = events[0][0]
        return Op(
            id=id, writer=self._name, do=do, started_at=0, session=session, events=events, block=id, **fields
        )

    def _read(self, do: Any, session: str, **fields: Any) -> Op:
        return Op(id=self._id(), writer=self._name, do=do, started_at=0, session=session, **fields)

    def _repetition_of(self, op: Op) -> Op:
        return Op(
            id=self._id(),
            writer=self._name,
            do=op.do,
            started_at=0,
            session=op.session,
            events=op.events,
            repeated=op.repeated,
            block=op.block,
            expected=op.expected,
            run=op.run,
        )

    def _id(self) -> str:
        return f"{self._name}-op{next(self._number)}"


class Threads:
    """Runs the workers of a process as threads with a blocking store."""

    def __init__(self, config: ClientConfig, recorder: Recorder, workers: Sequence[Worker]) -> None:
        self._config = config
        self._recorder = recorder
        self._workers = workers

    def run(self) -> None:
        with _opened(self._config) as store, ThreadPoolExecutor(len(self._workers)) as threads:
            list(threads.map(partial(self._perform_all, store), self._workers))

    def _perform_all(self, store: asm.SessionStore, worker: Worker) -> None:
        for op in worker.work():
            op.started_at = time.monotonic()
            self._recorder.record_start(op)
            try:
                self._perform(store, op)
            except Exception as error:
                _failed(op, error)
            op.ended_at = time.monotonic()
            self._recorder.record_end(op)
            time.sleep(random.uniform(0, STEP_S))

    def _perform(self, store: asm.SessionStore, op: Op) -> None:
        if op.do == "append":
            [event] = _events(op)
            op.numbers = numbers([store.append_event(event, expected_sequence=op.expected)])
        elif op.do == "batch":
            op.numbers = numbers(store.append_events(_events(op), expected_sequence=op.expected))
        elif op.do == "flush":
            op.numbers = numbers(store.flush(_session(op), _run(op), _events(op)))
        elif op.do in ("transaction", "die"):
            with store.transaction() as tx:
                stored = [tx.append_event(event) for event in _events(op)]
                if op.do == "die":
                    _die(self._recorder, op)
            op.numbers = numbers(stored)
        elif op.do == "latest":
            op.latest = store.get_latest_sequence(op.session)
        elif op.do in ("get", "wait"):
            found = store.get_events(op.session, after=op.after, limit=op.limit, wait_timeout=_idle_s(op))
            op.saw = [seen(event) for event in found]
        else:
            # Events read before an error count, too.
            op.saw = []
            for event in self._stream(store, op):
                op.saw.append(seen(event))

    def _stream(self, store: asm.SessionStore, op: Op) -> Any:
        if op.do == "iterate":
            return store.iter_events(op.session, after=op.after, page_size=40)
        return store.follow_events(
            op.session, after=op.after, limit=op.limit, page_size=7, idle_timeout=_idle_s(op)
        )


class Tasks:
    """Runs the workers of a process as tasks with an async store, and cancels some operations."""

    def __init__(self, config: ClientConfig, recorder: Recorder, workers: Sequence[Worker]) -> None:
        self._config = config
        self._recorder = recorder
        self._workers = workers
        self._random = random.Random(f"{config.seed} cancels {config.name}")

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with await _opened_async(self._config) as store:
            await asyncio.gather(*(self._perform_all(store, worker) for worker in self._workers))

    async def _perform_all(self, store: asm.AsyncSessionStore, worker: Worker) -> None:
        for op in worker.work():
            op.started_at = time.monotonic()
            self._recorder.record_start(op)
            try:
                async with asyncio.timeout(self._cancel_after_s(op)):
                    await self._perform(store, op)
            except Exception as error:
                _failed(op, error)
            op.ended_at = time.monotonic()
            self._recorder.record_end(op)
            await asyncio.sleep(random.uniform(0, STEP_S))

    def _cancel_after_s(self, op: Op) -> float | None:
        if op.is_last or self._random.random() > 0.02:
            return None
        return self._random.uniform(0, 0.01)

    async def _perform(self, store: asm.AsyncSessionStore, op: Op) -> None:
        if op.do == "append":
            [event] = _events(op)
            op.numbers = numbers([await store.append_event(event, expected_sequence=op.expected)])
        elif op.do == "batch":
            op.numbers = numbers(await store.append_events(_events(op), expected_sequence=op.expected))
        elif op.do == "flush":
            op.numbers = numbers(await store.flush(_session(op), _run(op), _events(op)))
        elif op.do in ("transaction", "die"):
            async with store.transaction() as tx:
                stored = [await tx.append_event(event) for event in _events(op)]
                if op.do == "die":
                    _die(self._recorder, op)
            op.numbers = numbers(stored)
        elif op.do == "latest":
            op.latest = await store.get_latest_sequence(op.session)
        elif op.do in ("get", "wait"):
            found = await store.get_events(
                op.session, after=op.after, limit=op.limit, wait_timeout=_idle_s(op)
            )
            op.saw = [seen(event) for event in found]
        else:
            op.saw = []
            async for event in self._stream(store, op):
                op.saw.append(seen(event))

    def _stream(self, store: asm.AsyncSessionStore, op: Op) -> Any:
        if op.do == "iterate":
            return store.iter_events(op.session, after=op.after, page_size=40)
        return store.follow_events(
            op.session, after=op.after, limit=op.limit, page_size=7, idle_timeout=_idle_s(op)
        )


def _idle_s(op: Op) -> float:
    """How long an operation waits for new events: longer if it reads many."""
    if op.do == "get":
        return 0
    return 2 if (op.limit or 0) > 100 else 0.3


def _events(op: Op) -> list[asm.Event]:
    return [an_event(key, op.run) for key in op.events]


def _session(op: Op) -> asm.Session:
    return asm.Session(agent_id="soak", id=op.session, metadata={"flushed by": op.block})


def _run(op: Op) -> asm.Run:
    assert op.run is not None
    return asm.Run(session_id=op.session, id=op.run)


def _failed(op: Op, error: Exception) -> None:
    op.numbers = None
    if isinstance(error, TimeoutError):
        op.error = CANCELLED
    else:
        op.error = error.code if isinstance(error, asm.AsmError) else UNTYPED
        op.message = f"{type(error).__name__}: {error}"[:300]


def _die(recorder: Recorder, op: Op) -> None:
    op.error = DIED_BEFORE_COMMIT
    op.ended_at = time.monotonic()
    recorder.record_end(op)
    os.kill(os.getpid(), signal.SIGKILL)


def _opened(config: ClientConfig) -> asm.SessionStore:
    while True:
        try:
            return asm.SessionStore(config.dsn, **config.options)
        except asm.StorageError as error:
            _check_time(config, error)
        time.sleep(0.2)


async def _opened_async(config: ClientConfig) -> asm.AsyncSessionStore:
    while True:
        try:
            return await asm.AsyncSessionStore(config.dsn, **config.options).open()
        except asm.StorageError as error:
            _check_time(config, error)
        await asyncio.sleep(0.2)


def _check_time(config: ClientConfig, error: asm.StorageError) -> None:
    # A store that does not open when all faults are over ends the client, which is a violation.
    sys.stderr.write(f"opening: {error!r}\n")
    if config.over.exists():
        raise error


def main() -> None:
    config = ClientConfig(**json.loads(sys.argv[1]))
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGUSR2, lambda *_: die.set())
    # A write beyond the limit that the nemesis sets fails, instead of ending the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    folder = Path(config.folder)
    left_over = list(unfinished(read_history(folder, config.replaces))) if config.replaces else []
    names = [f"{config.name}.{n}" for n in range(config.workers)]
    workers = [Worker(name, config, left_over[n :: len(names)]) for n, name in enumerate(names)]
    recorder = Recorder(folder, config.name)
    (Threads if config.colour == "sync" else Tasks)(config, recorder, workers).run()


def arguments(config: ClientConfig) -> list[str]:
    return [sys.executable, "-m", "tests.fault.client", json.dumps(asdict(config))]


if __name__ == "__main__":
    main()
