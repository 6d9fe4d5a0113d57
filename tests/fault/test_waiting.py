"""Calls that wait for events go on while the server restarts, and fail if it stays down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

import asm
from tests.conftest import INSTALLATIONS, UNSYNCED, an_event, in_memory, numbers
from tests.contract.other_clients import running, send_line
from tests.fault.event_writer import LAST
from tests.servers import Server

SOON_S = 60.0

own_server_only = pytest.mark.skipif(not INSTALLATIONS, reason="no server of our own to stop")


@pytest.fixture
def sessions() -> list[str]:
    """Sessions of this test alone: all tests here share a server."""
    return [f"ses_{uuid4().hex}" for _ in range(6)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(next(iter(INSTALLATIONS.values())), in_memory(), settings=UNSYNCED) as server:
        asm.migrate(server.dsn())
        yield server


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def followed(store: Any, session_id: str, found: list[asm.Event]) -> None:
    """Follow a session until its event of the last type."""
    for event in store.follow_events(session_id):
        found.append(event)
        if event.type == LAST:
            return


@own_server_only
def test_followers_miss_nothing_and_repeat_nothing_while_the_server_restarts(
    server: Server, opened: Callable[..., Any], sessions: list[str]
) -> None:
    dsn = server.dsn()
    store = opened(dsn, timeout=SOON_S, retry_for=SOON_S, max_size=3)
    found: dict[str, list[asm.Event]] = {session_id: [] for session_id in sessions}

    def all_have(number: int) -> bool:
        return all(len(events) >= number for events in found.values())

    with (
        ThreadPoolExecutor(len(sessions)) as threads,
        running("tests.fault.event_writer", dsn, *sessions) as writer,
    ):
        following = [threads.submit(followed, store, *each) for each in found.items()]
        until(lambda: all_have(20))
        for _ in range(2):
            server.stop("immediate")
            had = max(map(len, found.values()))
            server.start()
            until(lambda had=had: all_have(had + 20) or any(each.done() for each in following))  # type: ignore[misc]
        send_line(writer)
        for each in following:
            each.result(SOON_S)
        assert writer.wait(SOON_S) == 0

    for session_id, events in found.items():
        assert numbers(events) == list(range(1, len(events) + 1))
        assert [event.data["n"] for event in events] == numbers(events)
        assert events == store.get_events(session_id)


@own_server_only
def test_all_waiting_calls_raise_connection_failed_when_the_server_stays_down(
    server: Server, opened: Callable[..., Any], sessions: list[str]
) -> None:
    store = opened(server.dsn(), timeout=5, retry_for=0.5)
    with ThreadPoolExecutor(20) as threads:
        waiting = [threads.submit(store.get_events, each, wait_timeout=float("inf")) for each in sessions * 3]
        until(lambda: len(waiters(store)) == len(waiting))
        server.stop("immediate")
        errors = [each.exception(SOON_S) for each in waiting]
        server.start()
        assert {type(error) for error in errors} == {asm.ConnectionFailed}
        again = threads.submit(store.get_events, sessions[0], wait_timeout=SOON_S)
        store.append_event(an_event(sessions[0]))
        assert numbers(again.result(2 * SOON_S)) == [1]


def waiters(store: Any) -> list[Any]:
    poller = getattr(store, "_target", store)._database.poller
    return [each for group in list(poller.subscriptions.values()) for each in list(group)]
