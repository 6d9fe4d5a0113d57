"""A run whose lease cannot be renewed until it is over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pytest

import asm
from asm.agents.lifecycle import Lifecycle
from asm.operations.runs import is_stale
from tests.agents.conftest import manager_of, types
from tests.agents.scripted import Gate, Scripted, answer, call, said
from tests.conftest import Where
from tests.fault.concurrent_writers import wait_until
from tests.fault.proxy import Proxy


class Waiting:
    """An adapter's step, or a tool, that waits until it is stopped."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.is_left = False

    async def __call__(self, *_: Any) -> None:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.is_left = True


class Outage(NamedTuple):
    """How no write reaches a database for a while, and what a store raises then."""

    dsn: str
    begin: Callable[[], AbstractContextManager[None]]
    errors: tuple[type[asm.StorageError], ...]


@pytest.fixture
def outage(where: Where) -> Iterator[Outage]:
    @contextmanager
    def locked() -> Iterator[None]:
        with asm.SessionStore(where.dsn) as holder, holder.transaction():
            yield

    @contextmanager
    def unreachable() -> Iterator[None]:
        proxy.refuse()
        proxy.cut()
        yield
        proxy.accept()

    if where.dialect == "sqlite":
        yield Outage(where.dsn, locked, (asm.StorageTimeout,))
        return
    with Proxy(where.dsn) as proxy:
        # A pool pauses before it connects again. During that time no connection becomes free.
        yield Outage(proxy.dsn, unreachable, (asm.ConnectionFailed, asm.StorageTimeout))


IN_ADAPTER = "adapter"
IN_TOOL = "tool"


@pytest.mark.parametrize("place", [IN_ADAPTER, IN_TOOL])
def test_a_run_whose_lease_is_over_and_cannot_be_renewed_stops_and_is_recovered(
    place: str,
    outage: Outage,
    where: Where,
    opened: Callable[..., Any],
    in_background: Callable[..., Future[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = opened(outage.dsn, timeout=0.5, retry_for=0)
    manager = manager_of(store, lease=0.3)
    session_id, waiting = manager.start_session("assistant").id, Waiting()
    adapter = Scripted([waiting] if place == IN_ADAPTER else [said("Let me see.", "tool_use"), call("t")])
    running = in_background(manager.run, session_id, adapter, "Hi", run_id="run_1", on_tool=waiting)
    assert waiting.reached.wait(60)

    with outage.begin():
        error = running.exception(60)

    assert isinstance(error, outage.errors)
    assert waiting.is_left
    assert adapter.is_closed.is_set()
    assert "the lease of run run_1 was not renewed" in caplog.text
    check_recovered(opened(where.dsn), session_id, caplog.text)


def test_a_run_that_cannot_store_an_event_stops_and_is_recovered_when_its_lease_is_over(
    outage: Outage,
    where: Where,
    opened: Callable[..., Any],
    in_background: Callable[..., Future[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = manager_of(opened(outage.dsn, timeout=0.5, retry_for=0), lease=1.0)
    session_id, gate = manager.start_session("assistant").id, Gate()
    adapter = Scripted([gate.wait, said("Hello."), Waiting()])
    running = in_background(manager.run, session_id, adapter, "Hi", run_id="run_1")
    assert gate.reached.wait(60)

    with outage.begin():
        gate.open()
        error = running.exception(60)

    assert isinstance(error, outage.errors)
    assert adapter.is_closed.is_set()
    check_recovered(opened(where.dsn), session_id, caplog.text)


def test_a_run_whose_renewal_raises_anything_is_logged_and_stops_when_its_lease_is_over(
    store: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise LookupError("not of asm")

    monkeypatch.setattr(Lifecycle, "own", fail)
    with pytest.raises(LookupError):
        manager_of(store, lease=0.3).run_once(Scripted([Waiting()]), "Hi", run_id="run_1", timeout=60)

    assert "the lease of run run_1 was not renewed: LookupError('not of asm')" in caplog.text
    assert store.get_run("run_1").status == "failed"


def check_recovered(store: Any, session_id: str, log: str) -> None:
    """Check that a run is running until its lease is over, and that it is recovered then."""
    assert "the end of run run_1 may not be stored, and `recover` ends it then" in log
    assert types(store.get_events(session_id))[-1] in ("message_sent", "turn_completed")
    assert store.get_run("run_1").status == "running"
    wait_until(lambda: is_stale(store.get_run("run_1")))
    manager, recovered = manager_of(store), list[asm.Run]()

    def recover() -> bool:
        recovered.extend(manager.recover(grace=0))
        return bool(recovered)

    wait_until(recover)
    (ended,) = recovered
    assert (ended.id, ended.status, ended.error["code"]) == ("run_1", "failed", "abandoned")
    assert manager.run(session_id, answer(), "Hi").text == "Hello."
    assert store.maintenance.health_check() == []
