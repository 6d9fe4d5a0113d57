"""Sequence numbers are exactly 1..n for threads and tasks of one process and for several processes."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import asm
from tests.conftest import an_event, events_of, numbers

WRITER = """
import sys
import asm
dsn, name, sessions, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with asm.SessionStore(dsn) as store:
    for n in range(number):
        session_id = f"ses_{n % sessions}"
        event = asm.Event(type="message_sent", session_id=session_id, data={"writer": name, "n": n})
        if n % 5:
            store.append_event(event)
        else:
            batch = [event] + [asm.Event(type="acme.more", session_id=f"ses_{m}") for m in range(sessions)]
            store.append_events(batch)
"""


def at_once(number: int, work: Callable[[int], Any]) -> list[Any]:
    """Work done by so many threads, which start together."""
    ready = threading.Barrier(number)

    def started(index: int) -> Any:
        ready.wait()
        return work(index)

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(started, range(number)))


def assert_unbroken(store: Any, sessions: Iterable[str]) -> None:
    for session_id in sessions:
        events = store.get_events(session_id)
        assert numbers(events) == list(range(1, len(events) + 1))
        assert store.get_latest_sequence(session_id) == len(events)


def test_32_callers_of_one_session_leave_no_gap(store: Any) -> None:
    at_once(32, lambda _: [store.append_event(an_event()) for _ in range(10)])
    assert_unbroken(store, ["ses_1"])
    assert store.get_latest_sequence("ses_1") == 320


def test_32_callers_of_many_sessions_leave_no_gap(store: Any) -> None:
    def work(index: int) -> None:
        chosen = random.Random(index)
        for _ in range(10):
            batch = [an_event(f"ses_{chosen.randrange(7)}") for _ in range(chosen.randrange(1, 6))]
            store.append_events(batch)
            store.append_event(batch[0])

    at_once(32, work)
    assert_unbroken(store, [f"ses_{n}" for n in range(7)])


def test_each_caller_gets_the_number_of_its_own_event(store: Any) -> None:
    stored = [
        event
        for events in at_once(16, lambda _: [store.append_event(an_event()) for _ in range(5)])
        for event in events
    ]
    assert sorted(stored, key=lambda event: event.sequence_number) == store.get_events("ses_1")


def test_the_events_of_one_caller_keep_their_order(store: Any) -> None:
    def work(index: int) -> None:
        for n in range(10):
            store.append_event(an_event(data={"writer": index, "n": n}))

    at_once(8, work)
    by_writer: dict[int, list[int]] = {}
    for event in store.get_events("ses_1"):
        by_writer.setdefault(event.data["writer"], []).append(event.data["n"])
    assert by_writer == {index: list(range(10)) for index in range(8)}


def test_the_same_event_from_many_callers_at_once_is_one_event(store: Any) -> None:
    batch = events_of("ses_1", 5)
    answers = at_once(
        16, lambda index: store.append_events(batch) if index % 2 else [store.append_event(e) for e in batch]
    )
    assert all(answer == answers[0] for answer in answers)
    assert_unbroken(store, ["ses_1"])
    assert store.get_latest_sequence("ses_1") == 5


def test_batches_over_the_same_sessions_in_any_order_do_not_deadlock(store: Any) -> None:
    sessions = [f"ses_{n}" for n in range(6)]

    def work(index: int) -> None:
        for _ in range(8):
            random.Random(index).shuffle(order := list(sessions))
            store.append_events([an_event(session) for session in order])

    at_once(12, work)
    assert Counter(store.get_latest_sequence(session) for session in sessions) == {96: 6}


def test_of_many_callers_with_one_expected_number_exactly_one_succeeds(store: Any) -> None:
    def work(_: int) -> bool:
        try:
            store.append_event(an_event(), expected_sequence=0)
        except asm.SequenceConflict:
            return False
        return True

    assert at_once(16, work).count(True) == 1


def test_a_reader_who_sees_a_number_can_read_everything_up_to_it(store: Any) -> None:
    done = threading.Event()

    def read() -> list[list[int]]:
        seen = []
        while not done.is_set():
            seen.append(numbers(store.get_events("ses_1")))
        return seen

    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(read)
        at_once(8, lambda _: [store.append_event(an_event()) for _ in range(10)])
        done.set()
    assert all(seen == list(range(1, len(seen) + 1)) for seen in reading.result())


def test_appends_concurrent_with_a_deletion_are_deleted_or_start_again_at_1(store: Any) -> None:
    def work(index: int) -> None:
        for _ in range(12):
            if index % 4:
                store.append_event(an_event())
            else:
                store.delete_session("ses_1")

    at_once(8, work)
    assert_unbroken(store, ["ses_1"])
    assert store.append_event(an_event()).sequence_number == store.get_latest_sequence("ses_1")


@pytest.mark.parametrize("sessions", [1, 5])
def test_8_processes_leave_exactly_1_to_n(store: Any, migrated: str, sessions: int) -> None:
    number = 25
    command = [sys.executable, "-c", WRITER, migrated]
    writers = [subprocess.Popen([*command, f"{n}", f"{sessions}", f"{number}"]) for n in range(8)]
    assert [writer.wait() for writer in writers] == [0] * 8
    assert_unbroken(store, [f"ses_{n}" for n in range(sessions)])
    total = sum(store.get_latest_sequence(f"ses_{n}") for n in range(sessions))
    assert total == 8 * (number + number // 5 * sessions)
