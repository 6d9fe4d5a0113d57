"""A task that runs an agent is cancelled from outside: the run is stored as cancelled, and the task ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

import asm
from asm.agents import tools
from tests.agents.conftest import types
from tests.agents.killed_runs import CountingLoop
from tests.agents.scripted import Scripted, call, delta, said
from tests.conftest import Where

Test = Callable[[asm.AsyncSessionStore, asm.AsyncSessionManager], Coroutine[Any, Any, None]]


def with_manager(where: Where, test: Test) -> None:
    async def main() -> None:
        async with asm.AsyncSessionStore(where.dsn) as store:
            await test(store, asm.AsyncSessionManager(store))

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())


class Waiting:
    """An adapter's step, or a tool, that waits until it is cancelled."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.is_left = False

    async def __call__(self, *_: Any) -> None:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.is_left = True


async def check_cancelled(store: asm.AsyncSessionStore, run_id: str = "run_1") -> list[str]:
    run = await store.get_run(run_id)
    assert (run.status, run.error["reason"]) == ("cancelled", "the task that ran it was cancelled")
    events = types(await store.get_events(run.session_id))
    assert events[-2:] == ["run_cancelled", "session_cancelled"]
    assert await store.maintenance.health_check() == []
    return events


@pytest.mark.parametrize("times", [1, 3])
def test_a_cancelled_task_stores_that_its_run_is_cancelled_and_is_cancelled(times: int, where: Where) -> None:
    async def test(store: asm.AsyncSessionStore, manager: asm.AsyncSessionManager) -> None:
        waiting = Waiting()
        adapter = Scripted([delta("Hel"), waiting])
        task = asyncio.create_task(manager.run_once(adapter, "Hi", run_id="run_1"))
        await waiting.reached.wait()

        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)

        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiting.is_left
        assert "message_received" in await check_cancelled(store)

    with_manager(where, test)


def test_a_cancelled_task_stops_its_tool(where: Where) -> None:
    async def test(store: asm.AsyncSessionStore, manager: asm.AsyncSessionManager) -> None:
        waiting = Waiting()
        adapter = Scripted([said("Let me see.", "tool_use"), call("t")])
        task = asyncio.create_task(manager.run_once(adapter, "Hi", run_id="run_1", on_tool=waiting))
        await waiting.reached.wait()

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiting.is_left
        await check_cancelled(store)

    with_manager(where, test)


def test_a_tool_that_ignores_its_cancellation_does_not_keep_a_run_going(where: Where) -> None:
    async def test(store: asm.AsyncSessionStore, manager: asm.AsyncSessionManager) -> None:
        waiting = Waiting()

        async def ignore(*_: Any) -> str:
            with suppress(asyncio.CancelledError):
                await waiting()
            return "42"

        adapter = Scripted([said("Let me see.", "tool_use"), call("t")])
        task = asyncio.create_task(manager.run_once(adapter, "Hi", run_id="run_1", on_tool=ignore))
        await waiting.reached.wait()

        assert (await manager.cancel("run_1")).status == "cancelled"

        with pytest.raises(asm.RunCancelled):
            await task
        assert len(adapter.requests) == 1
        run = await store.get_run("run_1")
        assert "tool_call_completed" not in types(await store.get_events(run.session_id))

    with_manager(where, test)


def test_an_adapter_that_does_not_stop_reports_nothing_more(
    where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "CLOSE_TIMEOUT_S", 0.01)

    async def test(store: asm.AsyncSessionStore, manager: asm.AsyncSessionManager) -> None:
        reached, released = asyncio.Event(), asyncio.Event()

        async def go_on(_: Any) -> None:
            reached.set()
            while not released.is_set():
                with suppress(asyncio.CancelledError):
                    await released.wait()

        async def read() -> None:
            async for event in manager.stream(session.id, adapter, "Hi", run_id="run_1"):
                shown.append(event)  # noqa: PERF401 - they are needed although the run fails

        shown: list[asm.Event] = []
        session = await manager.start_session("assistant")
        adapter = Scripted([go_on, delta("late"), said("late")])
        task = asyncio.create_task(read())
        await reached.wait()
        await manager.cancel("run_1")
        with pytest.raises(asm.RunCancelled):
            await task

        released.set()
        await asyncio.to_thread(adapter.is_closed.wait, 60)

        assert types(shown) == ["run_started", "message_sent", "run_cancelled"]
        assert await store.get_events(session.id, run_id="run_1") == shown

    with_manager(where, test)


def test_a_task_that_is_cancelled_at_any_step_leaves_the_truth(where: Where) -> None:
    """The task is cancelled at each step of the loop in turn, also in a claim and in an end."""

    async def test(store: asm.AsyncSessionStore, manager: asm.AsyncSessionManager) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        statuses = []
        for step in range(1, 400):
            adapter = Scripted([said("Let me see.", "tool_use"), call("t")], [said("Here.")])
            run = manager.run_once(adapter, "Hi", run_id=f"run_{step}", on_tool=tool)
            task = asyncio.create_task(run)
            loop.at_last_step = task.cancel  # type: ignore[method-assign, assignment]
            loop.steps_left = step
            await asyncio.wait([task])
            loop.steps_left = 0
            statuses.append(await status_of(store, f"run_{step}"))
            if not task.cancelled():
                assert task.result().run.status == "completed"
                break
        assert statuses[0] is None
        assert set(statuses) == {None, "cancelled", "completed"}
        assert await store.query.search_runs(status="running") == asm.Page(items=[])
        assert await store.maintenance.health_check() == []

    async def tool(*_: Any) -> str:
        return "42"

    async def status_of(store: asm.AsyncSessionStore, run_id: str) -> str | None:
        try:
            run = await store.get_run(run_id)
        except asm.RunNotFound:
            return None
        ends = types(await store.get_events(run.session_id))[-2:]
        assert ends == [f"run_{run.status}", f"session_{run.status}"]
        return str(run.status)

    with_manager(where, test)


def test_a_run_that_is_refused_when_its_task_is_cancelled_logs_no_exception(where: Where) -> None:
    async def test(store: asm.AsyncSessionStore, manager: asm.AsyncSessionManager) -> None:
        loop, unhandled = asyncio.get_running_loop(), list[Any]()
        assert isinstance(loop, CountingLoop)
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        await store.save_run(asm.Run(session_id="ses_1", status="running"))
        await store.save_session(asm.Session(id="ses_1", agent_id="agent", status="active"))
        for step in range(1, 400):
            task = asyncio.create_task(manager.run("ses_1", Scripted([]), "Hi"))
            loop.at_last_step = task.cancel  # type: ignore[method-assign, assignment]
            loop.steps_left = step
            await asyncio.wait([task])
            loop.steps_left = 0
            if not task.cancelled():
                assert isinstance(task.exception(), asm.RunActive)
                break
        del task
        gc.collect()
        assert unhandled == []

    with_manager(where, test)


def test_a_stream_whose_task_is_cancelled_cancels_its_run(where: Where) -> None:
    async def test(store: asm.AsyncSessionStore, manager: asm.AsyncSessionManager) -> None:
        waiting = Waiting()
        session = await manager.start_session("assistant")

        async def read() -> None:
            async for _ in manager.stream(session.id, Scripted([waiting]), "Hi"):
                pass

        task = asyncio.create_task(read())
        await waiting.reached.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        (run,) = await store.list_runs(session.id)
        assert run.status == "cancelled"

    with_manager(where, test)
