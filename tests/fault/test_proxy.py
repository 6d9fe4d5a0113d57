"""The proxy injects the faults that it promises."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from select import select

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.conftest import POSTGRES, Cluster
from tests.contract.other_clients import driver_connection, fetch_rows
from tests.fault.proxy import HOST, SOON_S, Moment, Proxy

WRITES = "insert into written values (1)"


@pytest.fixture
def server(clusters: Callable[[str], Cluster]) -> Iterator[str]:
    with clusters(POSTGRES[0]).database(migrated=False) as dsn:
        fetch_rows(dsn, "create table written (n int)")
        yield dsn


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        yield proxy


def answers(proxy: Proxy) -> bool:
    """Whether it answers within the shortest time that libpq waits for a connection."""
    try:
        return fetch_rows(make_conninfo(proxy.dsn, connect_timeout=2), "select 1") == [(1,)]
    except psycopg.OperationalError:
        return False


def test_the_proxy_forwards_data_unchanged(proxy: Proxy) -> None:
    text = "x" * 1_000_000
    with driver_connection(proxy.dsn) as connection:
        assert connection.execute("select %s::text", [text]).fetchone() == (text,)


def test_cut_resets_all_connections(proxy: Proxy) -> None:
    with driver_connection(proxy.dsn) as one, driver_connection(proxy.dsn) as other:
        assert proxy.cut() == 2
        for connection in (one, other):
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select 1")
    assert proxy.faults["cut"] == 2
    assert answers(proxy)


@pytest.mark.parametrize(("moment", "writes"), [("before", 0), ("in", 1), ("after", 1)])
def test_cut_when_resets_the_connection_that_sends_the_bytes(
    server: str, proxy: Proxy, moment: Moment, writes: int
) -> None:
    proxy.cut_when(b"INSERT into written", moment)
    with driver_connection(proxy.dsn) as connection, pytest.raises(psycopg.OperationalError):
        connection.execute(WRITES)
    # The lock waits for the statement of the lost connection.
    with driver_connection(server) as connection, connection.transaction():
        connection.execute("lock table written")
        assert connection.execute("select count(*) from written").fetchone() == (writes,)
    assert proxy.faults[f"cut {moment}"] == 1
    fetch_rows(proxy.dsn, WRITES)


def test_a_black_hole_swallows_data_and_mend_lets_new_connections_through(proxy: Proxy) -> None:
    with closing(psycopg.connect(proxy.dsn)) as connection:
        proxy.black_hole()
        assert not answers(proxy)
        proxy.mend()
        assert answers(proxy)
        connection.pgconn.send_query(b"select 1")
        assert not select([connection], [], [], 0.1)[0]


def test_an_unplugged_network_is_noticed_by_the_kernel(proxy: Proxy) -> None:
    options = "tcp_user_timeout=1000"
    with closing(psycopg.connect(f"{proxy.dsn} {options}")) as connection:
        proxy.unplug()
        connection.pgconn.send_query(b"select 1")
        assert select([connection], [], [], SOON_S)[0]
        with pytest.raises(psycopg.OperationalError):
            connection.pgconn.consume_input()


def test_mend_plugs_the_network_in_again(proxy: Proxy) -> None:
    with driver_connection(proxy.dsn) as connection:
        proxy.unplug()
        assert not answers(proxy)
        proxy.mend()
        assert connection.execute("select 1").fetchone() == (1,)


def test_connections_are_refused_and_accepted_on_the_same_port(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, proxy.port), timeout=2)
    proxy.accept()
    assert answers(proxy)


def test_a_half_closed_connection_ends_for_its_client(proxy: Proxy) -> None:
    with driver_connection(proxy.dsn) as connection:
        proxy.half_close()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_delay_holds_the_answers_of_the_server(proxy: Proxy) -> None:
    with closing(psycopg.connect(proxy.dsn)) as connection:
        proxy.delay(0.3)
        start = time.monotonic()
        connection.pgconn.send_query(b"select 1")
        assert select([connection], [], [], SOON_S)[0]
        assert time.monotonic() - start > 0.25
