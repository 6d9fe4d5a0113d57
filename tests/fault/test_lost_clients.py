"""A client whose machine is lost does not close its connections, and the server keeps its locks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import asm
from asm.engine.script import Script, UnitOfWork
from asm.operations import events
from asm.postgres import timeouts
from tests.conftest import POSTGRES, Cluster, an_event, in_loop
from tests.fault.proxy import Proxy

pytestmark = pytest.mark.skipif(not POSTGRES, reason="a SQLite client cannot be lost without its file")


@pytest.fixture
def server(clusters: Callable[[str], Cluster]) -> Iterator[str]:
    with clusters(POSTGRES[0]).database(migrated=True) as dsn:
        yield dsn


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        yield proxy


def test_the_locks_of_a_client_that_is_lost_during_an_operation_are_released(
    server: str, proxy: Proxy, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "IDLE_IN_TRANSACTION_TIMEOUT_S", 1.0)
    lost, other = opened(proxy.dsn, retry_for=0), opened(server, timeout=60)
    has_locked = threading.Event()

    def script() -> Script[None]:
        yield from events.lock_counters(["ses_1"])
        proxy.unplug()
        has_locked.set()
        yield from events.lock_counters(["ses_1"])

    outcome: list[asm.AsmError] = []
    thread = threading.Thread(target=lambda: outcome.append(error_of(lost, UnitOfWork(script))))
    thread.start()
    has_locked.wait()
    assert other.append_event(an_event()).sequence_number == 1
    proxy.mend()
    thread.join()
    assert isinstance(outcome[0], asm.ConnectionFailed)


def test_an_applications_transaction_may_be_idle_for_any_time(
    server: str, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "IDLE_IN_TRANSACTION_TIMEOUT_S", 0.001)
    store = opened(server)
    with store.transaction() as tx:
        tx.append_event(an_event())
        shown = tx.connection.execute("show idle_in_transaction_session_timeout")
        assert in_either(in_either(shown).fetchone()) == ("0",)


def error_of(store: Any, operation: UnitOfWork[None]) -> asm.AsmError:
    with pytest.raises(asm.AsmError) as caught:
        database = store._database
        in_either(database.run(operation))
    return caught.value


def in_either(result: Any) -> Any:
    """The result of a call of either store."""
    return in_loop(result) if hasattr(result, "__await__") else result
