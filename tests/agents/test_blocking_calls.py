"""Calls of the blocking manager end, whatever they are given and however they are interrupted."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest

import asm
from asm.agents import blocking, execution
from tests.agents.conftest import types
from tests.agents.scripted import Gate, Scripted, answer
from tests.conftest import Where, an_event
from tests.fault.concurrent_writers import wait_until

WRONG_CALLS: dict[str, Callable[[asm.SessionManager], Any]] = {
    "an unknown keyword": lambda manager: manager.recover(foo=1),  # type: ignore[call-arg]
    "a misspelt keyword": lambda manager: manager.transcript("ses_1", max_message=3),  # type: ignore[call-arg]
    "a missing argument": lambda manager: manager.cancel(),  # type: ignore[call-arg]
    "no input": lambda manager: manager.run_once(answer()),  # type: ignore[call-arg]
    "a run without a session": lambda manager: manager.run(),  # type: ignore[call-arg]
    "an unknown keyword of a run": lambda manager: manager.run_once(answer(), "Hi", foo=1),
}


@pytest.fixture
def memory() -> Iterator[asm.SessionStore]:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        yield store


@pytest.mark.parametrize("wrong", WRONG_CALLS)
def test_a_call_with_wrong_arguments_raises_a_type_error(wrong: str, memory: asm.SessionStore) -> None:
    with pytest.raises(TypeError, match=r"argument"):
        WRONG_CALLS[wrong](asm.SessionManager(memory))


def was_cancelled(store: asm.SessionStore, session_id: str) -> bool:
    (run,) = store.list_runs(session_id)
    return run.status == "cancelled"


def test_an_interrupt_is_raised_also_if_its_run_has_not_ended_in_time(
    where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, interrupts = Gate(), [KeyboardInterrupt()]

    class Interrupted(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            loop = manager._loop._loop
            assert loop is not None
            # The read of the next event has begun when a later task has ended.
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)
            if interrupts:
                raise interrupts.pop()
            return super().result(timeout)

    async def go_on(_: Any) -> None:
        with suppress(asyncio.CancelledError):
            await gate.wait()
        await gate.wait()

    with asm.SessionStore(where.dsn) as store:
        manager = asm.SessionManager(store)
        session_id = manager.start_session("assistant").id
        events = manager.stream(session_id, Scripted([go_on]), "Hi")
        assert types([next(events), next(events)]) == ["run_started", "message_sent"]
        assert gate.reached.wait(60)
        monkeypatch.setattr(blocking, "INTERRUPT_WAIT_S", 0)
        monkeypatch.setattr(blocking, "Future", Interrupted)

        with pytest.raises(KeyboardInterrupt):
            next(events)
        gate.open()

        wait_until(lambda: was_cancelled(store, session_id))


@pytest.fixture
def collects_by_hand() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def leave_in_a_cycle(*left: Any) -> None:
    """Leave objects to the garbage collector, as an exception does whose traceback refers to them."""
    cycle: list[Any] = [*left]
    cycle.append(cycle)


@pytest.mark.usefixtures("collects_by_hand")
def test_a_stream_that_is_collected_in_the_thread_of_its_run_is_cancelled(where: Where) -> None:
    async def collect(_: Any) -> None:
        await gate.wait()
        gc.collect()

    with asm.SessionStore(where.dsn) as store:
        manager, gate = asm.SessionManager(store), Gate()
        session_id = manager.start_session("assistant").id
        events = manager.stream(session_id, Scripted([collect, Gate().wait]), "Hi")
        next(events)
        leave_in_a_cycle(events)
        del events
        gate.open()

        wait_until(lambda: was_cancelled(store, session_id))
        assert manager.run(session_id, answer(), "Hi").text == "Hello."


@pytest.mark.usefixtures("collects_by_hand")
def test_a_stream_that_is_collected_together_with_its_manager_is_cancelled(where: Where) -> None:
    with asm.SessionStore(where.dsn) as store:
        manager = asm.SessionManager(store)
        session_id = manager.start_session("assistant").id
        events = manager.stream(session_id, Scripted([Gate().wait]), "Hi")
        next(events)
        leave_in_a_cycle(manager, events)
        del manager, events

        gc.collect()

        wait_until(lambda: was_cancelled(store, session_id))


def run_twice(loop: asyncio.AbstractEventLoop) -> None:
    """Wait until a loop has run what is due, and what that left for its next round."""
    for _ in range(2):
        ran = threading.Event()
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ran.set)
            ran.wait(5)


def test_a_loop_whose_manager_is_collected_goes_on_until_its_streams_are_closed(
    memory: asm.SessionStore,
) -> None:
    manager = asm.SessionManager(memory)
    session_id = manager.start_session("assistant").id
    events = manager.stream(session_id, answer(), "Hi")
    next(events)
    loop = manager._loop._loop
    assert loop is not None
    wait_until(lambda: memory.list_runs(session_id)[0].status == "completed")
    wait_until(lambda: not asyncio.all_tasks(loop))

    # As the garbage collector does, which may close the stream much later.
    manager._loop._collected()
    run_twice(loop)
    del events

    wait_until(loop.is_closed)


def test_a_run_whose_end_takes_too_long_is_logged_as_one_that_may_be_stored_and_is(
    where: Where,
    monkeypatch: pytest.MonkeyPatch,
    in_background: Callable[..., Future[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(execution, "END_TIMEOUT_S", 1.0)
    with asm.SessionStore(where.dsn) as store, asm.SessionStore(where.dsn) as other:
        manager, gate = asm.SessionManager(store), Gate()
        session_id = manager.start_session("assistant").id
        adapter = Scripted([gate.wait, asm.ProviderError("overloaded")])
        running = in_background(manager.run, session_id, adapter, "Hi", run_id="run_1")
        assert gate.reached.wait(60)
        with other.transaction() as tx:
            tx.append_events([an_event(session_id)])
            gate.open()
            assert isinstance(running.exception(60), asm.ProviderError)

        assert "the end of run run_1 may not be stored" in caplog.text
        wait_until(lambda: store.get_run("run_1").status == "failed")
