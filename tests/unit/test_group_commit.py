"""Group commit of threads and of tasks, without a database: a test decides when a query returns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import wraps
from typing import Any

import pytest

from asm.engine import group_commit, wait_queue
from asm.engine.async_group_commit import AsyncGroupCommit
from asm.engine.group_commit import GroupCommit, _ThreadRequest
from asm.engine.script import Batchable
from asm.engine.wait_queue import MIXED_BATCH_TIMEOUT_S, SLOW_BATCH_S
from asm.errors import StorageTimeout, StoreClosed
from tests.unit.test_wait_queue import operation

DEADLINE_S = 30.0
"""Nothing here takes as long, unless a thread or a task waits for ever."""


def capitals(items: Iterable[str]) -> dict[str, str]:
    return {item: item.upper() for item in items}


def refuse_x(items: Iterable[str]) -> dict[str, str]:
    if "x" in items:
        raise ValueError("refused")
    return capitals(items)


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0)


@pytest.fixture
def no_batch_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a batch takes so long that the next one does not wait for it."""
    monkeypatch.setattr(wait_queue, "SLOW_BATCH_S", DEADLINE_S)
    monkeypatch.setattr(group_commit, "SLOW_BATCH_S", DEADLINE_S)


# Threads.


class Gate:
    """Sends queries: it records each, and holds it until the test lets it through."""

    def __init__(self, execute: Callable[[list[str]], dict[str, str]] = capitals) -> None:
        self.batches: list[list[str]] = []
        self.lock_timeouts: list[float | None] = []
        self._execute = execute
        self._changed = threading.Condition()
        self._permits = 0

    def __call__(self, query: Any, /, *, retry_for: float, lock_timeout_s: float | None) -> dict[str, str]:
        items = list(query.params["items"])
        with self._changed:
            self.batches.append(items)
            self.lock_timeouts.append(lock_timeout_s)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._permits, DEADLINE_S)
            self._permits -= 1
        return self._execute(items)

    def open(self, permits: int = 1_000_000) -> None:
        with self._changed:
            self._permits += permits
            self._changed.notify_all()

    def wait_for(self, batches: int) -> None:
        """Wait until this many were sent."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.batches) >= batches, DEADLINE_S)


class Threads:
    """Threads that append, and the result or the error of each."""

    def __init__(self, gate: Gate, *, timeout: float = DEADLINE_S) -> None:
        self.group_commit = GroupCommit(gate, parallel_batches_from=None, timeout=timeout, retry_for=0)
        self.results: dict[str, Any] = {}
        self._threads: list[threading.Thread] = []

    def append(self, name: str, *sessions: str) -> None:
        """Start a thread. Its operation waits or is being sent when this returns."""
        before = self._accepted()
        thread = threading.Thread(target=self._run, args=(operation(name, *sessions),), daemon=True)
        self._threads.append(thread)
        thread.start()
        until(lambda: self._accepted() > before or not thread.is_alive())

    def join(self) -> dict[str, Any]:
        for thread in self._threads:
            thread.join(DEADLINE_S)
        assert not any(thread.is_alive() for thread in self._threads)
        return self.results

    def _accepted(self) -> int:
        """How many operations wait or are being sent; a lone one's batch has no requests."""
        queue = self.group_commit._queue
        with self.group_commit._lock:
            return len(queue.requests) + sum(not batch.requests for batch in queue._sending())

    def _run(self, operation: Batchable[str]) -> None:
        try:
            self.results[operation.items[0]] = self.group_commit.run(operation)
        except BaseException as error:
            self.results[operation.items[0]] = error


def append_together(gate: Gate, *names: str) -> dict[str, Any]:
    """The results of threads, of which the first is being sent while the others arrive."""
    threads = Threads(gate)
    threads.append(names[0])
    gate.wait_for(1)
    for name in names[1:]:
        threads.append(name)
    gate.open()
    return threads.join()


def assert_closes(group_commit: GroupCommit) -> None:
    closing = threading.Thread(target=group_commit.close, daemon=True)
    closing.start()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()


def test_a_lone_thread_is_sent_at_once() -> None:
    gate = Gate()
    gate.open()
    group_commit = GroupCommit(gate, parallel_batches_from=None, timeout=DEADLINE_S, retry_for=0)
    assert group_commit.run(operation("a")) == "A"


@pytest.mark.usefixtures("no_batch_is_slow")
def test_waiting_threads_are_sent_together_and_each_gets_its_own_result() -> None:
    gate = Gate()
    assert append_together(gate, *"abcd") == capitals("abcd")
    assert gate.batches == [["a"], ["b", "c", "d"]]


@pytest.mark.usefixtures("no_batch_is_slow")
def test_a_refused_thread_fails_no_other() -> None:
    results = append_together(Gate(refuse_x), *"abcxde")
    assert str(results.pop("x")) == "refused"
    assert results == capitals("abcde")


@pytest.mark.usefixtures("no_batch_is_slow")
def test_an_interrupted_leader_fails_no_other() -> None:
    interrupts = [KeyboardInterrupt()]

    def interrupt_once(items: list[str]) -> dict[str, str]:
        if len(items) > 1 and interrupts:
            raise interrupts.pop()
        return capitals(items)

    results = append_together(Gate(interrupt_once), *"abcd")
    assert isinstance(results.pop("b"), KeyboardInterrupt)
    assert results == capitals("acd")


@pytest.mark.usefixtures("no_batch_is_slow")
def test_an_interrupted_lone_thread_fails_no_other() -> None:
    def interrupt_first(items: list[str]) -> dict[str, str]:
        if items == ["a"]:
            raise KeyboardInterrupt
        return capitals(items)

    results = append_together(Gate(interrupt_first), *"abc")
    assert isinstance(results.pop("a"), KeyboardInterrupt)
    assert results == capitals("bc")


def test_a_thread_that_is_interrupted_while_it_waits_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    gate = Gate()
    threads = Threads(gate)
    threads.append("a")
    gate.wait_for(1)
    monkeypatch.setattr(_ThreadRequest, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        threads.group_commit.run(operation("b"))
    gate.open()
    threads.join()
    assert_closes(threads.group_commit)
    assert gate.batches == [["a"]]


def test_only_a_batch_of_several_sessions_has_a_lock_timeout() -> None:
    gate = Gate()
    threads = Threads(gate)
    threads.append("a")
    gate.wait_for(1)
    threads.append("b")
    threads.append("c")
    gate.open(1)
    gate.wait_for(2)
    threads.append("d1", "d")
    threads.append("d2", "d")
    gate.open()
    threads.join()
    assert gate.lock_timeouts == [None, MIXED_BATCH_TIMEOUT_S, None]


def test_a_thread_that_is_not_sent_in_time_raises_a_timeout() -> None:
    gate = Gate()
    threads = Threads(gate, timeout=0)
    threads.append("a1", "a")
    gate.wait_for(1)
    threads.append("a2", "a")
    until(lambda: "a2" in threads.results)
    gate.open()
    results = threads.join()
    assert isinstance(results.pop("a2"), StorageTimeout)
    assert results == {"a1": "A1"}


def test_a_thread_of_another_session_does_not_wait_for_a_slow_batch() -> None:
    gate = Gate()
    threads = Threads(gate)
    threads.append("a")
    gate.wait_for(1)
    threads.append("b")
    gate.wait_for(2)
    gate.open()
    assert threads.join() == capitals("ab")
    assert gate.batches == [["a"], ["b"]]


def test_closing_waits_for_all_accepted_threads() -> None:
    gate = Gate()
    threads = Threads(gate)
    threads.append("a")
    gate.wait_for(1)
    threads.append("b")
    closing = threading.Thread(target=threads.group_commit.close)
    closing.start()
    gate.open(1)
    gate.wait_for(2)
    assert closing.is_alive()
    gate.open()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert threads.join() == capitals("ab")


def test_a_closed_group_commit_refuses_a_thread() -> None:
    threads = Threads(Gate())
    threads.group_commit.close()
    with pytest.raises(StoreClosed):
        threads.group_commit.run(operation("a"))


# Tasks.


class AsyncGate:
    """The same, awaited. It never returns from a batch of `blocked`."""

    def __init__(self, execute: Callable[[list[str]], dict[str, str]] = capitals) -> None:
        self.batches: list[list[str]] = []
        self.blocked: list[str] = []
        self._execute = execute
        self._permits = asyncio.Semaphore(0)
        self._batch_sent = asyncio.Event()

    async def __call__(
        self, query: Any, /, *, retry_for: float, lock_timeout_s: float | None
    ) -> dict[str, str]:
        items = list(query.params["items"])
        self.batches.append(items)
        self._batch_sent.set()
        await self._permits.acquire()
        if items == self.blocked:
            await asyncio.Event().wait()
        return self._execute(items)

    def open(self, permits: int = 1_000) -> None:
        for _ in range(permits):
            self._permits.release()

    async def wait_for(self, batches: int) -> None:
        """Wait until this many were sent."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.batches) < batches:
                self._batch_sent.clear()
                await self._batch_sent.wait()


class Tasks:
    """Tasks that append, of which the first is sent alone."""

    def __init__(self, gate: AsyncGate, *, timeout: float = DEADLINE_S) -> None:
        self.gate = gate
        self.group_commit = AsyncGroupCommit(gate, parallel_batches_from=None, timeout=timeout, retry_for=0)
        self.tasks: list[asyncio.Task[str]] = []

    async def append(self, *names: str) -> list[asyncio.Task[str]]:
        for name in names:
            self.tasks.append(asyncio.create_task(self.group_commit.run(operation(name))))
            await asyncio.sleep(0)
        return self.tasks

    async def join(self) -> list[Any]:
        """The result or the error of each."""
        self.gate.open()
        async with asyncio.timeout(DEADLINE_S):
            results = await asyncio.gather(*self.tasks, return_exceptions=True)
            await self.group_commit.close()
        return results


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@in_loop
async def test_a_lone_task_is_sent_at_once() -> None:
    tasks = Tasks(AsyncGate())
    await tasks.append("a")
    assert await tasks.join() == ["A"]


@in_loop
async def test_waiting_tasks_are_sent_together_and_each_gets_its_own_result() -> None:
    tasks = Tasks(AsyncGate())
    await tasks.append(*"abcd")
    assert await tasks.join() == list("ABCD")
    assert tasks.gate.batches == [["a"], ["b", "c", "d"]]


@in_loop
async def test_a_refused_task_fails_no_other() -> None:
    tasks = Tasks(AsyncGate(refuse_x))
    await tasks.append(*"abxc")
    assert list(map(str, await tasks.join())) == ["A", "B", "refused", "C"]


@pytest.mark.parametrize("cancelled", ["a", "b", "d", "abcd", "bc"])
@in_loop
async def test_a_cancelled_task_cancels_no_other(cancelled: str) -> None:
    tasks = Tasks(AsyncGate())
    for name, task in zip("abcd", await tasks.append(*"abcd"), strict=True):
        if name in cancelled:
            task.cancel()
    results = await tasks.join()
    assert [each for each in results if isinstance(each, str)] == [
        name.upper() for name in "abcd" if name not in cancelled
    ]


@in_loop
async def test_a_task_that_is_cancelled_while_it_waits_is_not_sent() -> None:
    tasks = Tasks(AsyncGate())
    (await tasks.append(*"abc"))[1].cancel()
    await tasks.join()
    assert tasks.gate.batches == [["a"], ["c"]]


@pytest.mark.parametrize("steps", range(3))
@in_loop
async def test_when_the_task_of_a_batch_is_cancelled_its_requests_are_sent_again(steps: int) -> None:
    tasks = Tasks(AsyncGate())
    await tasks.append(*"abc")
    tasks.gate.open()
    for _ in range(10):
        if tasks.group_commit._sending:
            break
        await asyncio.sleep(0)
    for _ in range(steps):
        await asyncio.sleep(0)
    for sending in tasks.group_commit._sending:
        sending.cancel()
    assert await tasks.join() == list("ABC")


@in_loop
async def test_when_all_tasks_are_cancelled_no_further_batch_is_sent() -> None:
    tasks = Tasks(AsyncGate())
    await tasks.append(*"abc")
    everything = asyncio.all_tasks() - {asyncio.current_task()}
    for each in everything:
        each.cancel()
    await asyncio.gather(*everything, return_exceptions=True)
    await tasks.join()
    assert tasks.gate.batches == [["a"]]


@in_loop
async def test_a_locked_session_blocks_no_other_of_its_batch() -> None:
    timeouts = [StorageTimeout("")]

    def time_out_once(items: list[str]) -> dict[str, str]:
        if len(items) > 1 and timeouts:
            raise timeouts.pop()
        return capitals(items)

    tasks = Tasks(AsyncGate(time_out_once))
    await tasks.append(*"abcd")
    tasks.gate.blocked = ["b"]
    tasks.gate.open(1)
    await tasks.gate.wait_for(2)
    # The timer has run and was not started again, because no request waits.
    await asyncio.to_thread(until, lambda: tasks.group_commit._timer is None)
    tasks.gate.open()
    async with asyncio.timeout(DEADLINE_S):
        assert [await tasks.tasks[2], await tasks.tasks[3]] == ["C", "D"]
    assert not tasks.tasks[1].done()
    tasks.tasks[1].cancel()


@in_loop
async def test_a_request_that_arrives_behind_a_slow_batch_is_sent() -> None:
    tasks = Tasks(AsyncGate())
    await tasks.append("a")
    tasks.group_commit._queue._batches[0].started_at -= SLOW_BATCH_S
    await tasks.append("b")
    await tasks.gate.wait_for(2)
    assert await tasks.join() == ["A", "B"]


@in_loop
async def test_a_task_that_is_not_sent_in_time_raises_a_timeout() -> None:
    tasks = Tasks(AsyncGate(), timeout=0)
    first = asyncio.create_task(tasks.group_commit.run(operation("a1", "a")))
    await asyncio.sleep(0)
    with pytest.raises(StorageTimeout, match="append not sent within"):
        await tasks.group_commit.run(operation("a2", "a"))
    tasks.gate.open()
    assert await first == "A1"


@in_loop
async def test_closing_waits_for_all_accepted_tasks_however_often_it_is_called() -> None:
    tasks = Tasks(AsyncGate())
    await tasks.append(*"abc")
    closing = [asyncio.create_task(tasks.group_commit.close()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(each.done() for each in closing)
    tasks.gate.open()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*closing)
    assert [len(batch) for batch in tasks.gate.batches] == [1, 2]


@in_loop
async def test_a_closed_group_commit_refuses_a_task() -> None:
    tasks = Tasks(AsyncGate())
    await tasks.group_commit.close()
    with pytest.raises(StoreClosed):
        await tasks.group_commit.run(operation("a"))
