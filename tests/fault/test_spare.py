"""The connection that stays out of its pool between two operations."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from asm.postgres.spare import SpareConnection
from tests.conftest import POSTGRES, Cluster
from tests.contract.other_clients import only

pytestmark = only(POSTGRES[:1], why="SQLite has no pool, and the server plays no part in it")

THREADS = 4
ROUNDS = 2_000


@pytest.fixture
def connections(kind: str, clusters: Callable[[str], Cluster]) -> Iterator[list[psycopg.Connection[Any]]]:
    made = [psycopg.connect(clusters(kind).dsn, autocommit=True) for _ in range(THREADS)]
    yield made
    for connection in made:
        connection.close()


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
def test_connections_that_threads_check_in_at_the_same_time_all_come_back(
    connections: list[psycopg.Connection[Any]],
) -> None:
    start = threading.Barrier(THREADS)

    def check_in(
        spare: SpareConnection[psycopg.Connection[Any]], connection: psycopg.Connection[Any]
    ) -> psycopg.Connection[Any] | None:
        start.wait()
        return spare.checkin(connection)

    with ThreadPoolExecutor(THREADS) as threads:
        for _ in range(ROUNDS):
            spare: SpareConnection[psycopg.Connection[Any]] = SpareConnection(enabled=True)
            checked_in = threads.map(check_in, [spare] * THREADS, connections)
            given_back = [connection for connection in checked_in if connection is not None]
            given_back += spare.close()
            assert set(given_back) == set(connections)
