"""Threads that write without pause, and a check of what they have stored."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import asm
from tests.conftest import an_event, events_of
from tests.contract.other_clients import fetch_rows

SOON_S = 30.0


class ConcurrentWriters:
    """Threads that each write in one of four ways until they are stopped."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self._stopped = threading.Event()
        self._rounds: dict[str, int] = {}
        self._futures: list[Future[list[str]]] = []

    def wait_for_progress(self) -> None:
        """Wait until every thread has started and completed a write since the call."""
        before = dict(self._rounds)
        wait_until(
            lambda: all(self._rounds[name] > before[name] + 1 for name in before) or self._has_failed()
        )

    @contextmanager
    def running(self, stores: list[Any], callers: int) -> Iterator[None]:
        names = [f"{index}_{n}" for index in range(len(stores)) for n in range(callers)]
        self._rounds = dict.fromkeys(names, 0)
        with ThreadPoolExecutor(len(names)) as threads:
            self._futures = [
                threads.submit(self._work, name, stores[n // callers], n) for n, name in enumerate(names)
            ]
            try:
                self.wait_for_progress()
                yield
                self.wait_for_progress()
            finally:
                self._stopped.set()
            for each in self._futures:
                self.acknowledged += each.result(SOON_S)

    def _has_failed(self) -> bool:
        return any(each.done() for each in self._futures)

    def _work(self, name: str, store: Any, n: int) -> list[str]:
        done: list[str] = []
        write, session_id = _WRITES[n % len(_WRITES)], f"ses_{n % 8}"
        for number in count():
            if self._stopped.is_set():
                break
            done += [event.id for event in write(store, session_id, name, number)]
            self._rounds[name] += 1
        return done


def _append(store: Any, session_id: str, _name: str, _number: int) -> list[asm.Event]:
    return [store.append_event(an_event(session_id))]


def _append_batch(store: Any, session_id: str, _name: str, _number: int) -> list[asm.Event]:
    events: list[asm.Event] = store.append_events([*events_of(session_id, 2), *events_of("ses_all", 1)])
    return events


def _flush(store: Any, _session_id: str, name: str, number: int) -> list[asm.Event]:
    session = asm.Session(agent_id="agent", id=f"flushed_{name}")
    run = asm.Run(session_id=session.id, id=f"run_{name}_{number}")
    events: list[asm.Event] = store.flush(session, run, events_of(session.id, 2))
    return events


def _append_expecting(store: Any, _session_id: str, name: str, number: int) -> list[asm.Event]:
    return [store.append_event(an_event(f"expected_{name}"), expected_sequence=number)]


_WRITES = (_append, _append_batch, _flush, _append_expecting)


def assert_stored_exactly_once(dsn: str, event_ids: list[str]) -> None:
    """Check that exactly these events are stored, and that each session is numbered from 1 without gaps."""
    rows = fetch_rows(dsn, "select session_id, sequence_number, id from asm_events order by session_id, 2")
    numbers: dict[str, list[int]] = defaultdict(list)
    for session_id, number, _ in rows:
        numbers[session_id].append(number)
    assert all(of_one == list(range(1, len(of_one) + 1)) for of_one in numbers.values())
    assert sorted(id for *_, id in rows) == sorted(event_ids)
    assert dict(fetch_rows(dsn, "select session_id, last_sequence from asm_session_sequences")) == {
        session_id: len(of_one) for session_id, of_one in numbers.items()
    }


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
