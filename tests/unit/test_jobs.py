"""Jobs, run with results that a test wrote: each operation by itself, with callbacks between them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

from asm.engine.jobs import Callback, Job, run_job, run_job_async, run_step
from asm.engine.script import Operation, Query, scalar
from asm.errors import ConnectionFailed, ValidationError


class Replay:
    """Gives recorded results to queries in order, and keeps their names. It raises a recorded error."""

    def __init__(self, *recorded: Any) -> None:
        self.recorded = list(recorded)
        self.names: list[str] = []

    def run(self, operation: Operation[Any]) -> Any:
        assert isinstance(operation, Query)
        self.names.append(operation.query)
        result = self.recorded.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


class AsyncReplay(Replay):
    async def run(self, operation: Operation[Any]) -> Any:
        return super().run(operation)


def run_with(job: Job[Any], *recorded: Any) -> Any:
    return run_job(job, Replay(*recorded))


def run_with_async(job: Job[Any], *recorded: Any) -> Any:
    return asyncio.run(run_job_async(job, AsyncReplay(*recorded)))


both = pytest.mark.parametrize("run", [run_with, run_with_async], ids=["sync", "async"])

Run = Callable[..., Any]


def query(name: str) -> Job[int]:
    return run_step(Query[int](name, {}, scalar))


def sum_of_two() -> Job[int]:
    left = yield from query("left")
    right = yield from query("right")
    return left + right


@both
def test_each_query_of_a_job_receives_its_result(run: Run) -> None:
    assert run(sum_of_two(), 3, 4) == 7


def test_a_job_sends_its_queries_in_order() -> None:
    replay = Replay(3, 4)

    run_job(sum_of_two(), replay)

    assert replay.names == ["left", "right"]


@both
def test_callbacks_are_called_between_the_queries(run: Run) -> None:
    numbers = []

    def job() -> Job[int]:
        number = yield from query("number")
        yield from run_step(Callback(lambda: numbers.append(number)))
        return number + (yield from run_step(Callback(lambda: 5, blocks=True)))

    assert (run(job(), 2), numbers) == (7, [2])


@both
def test_a_job_may_handle_the_error_of_a_query(run: Run) -> None:
    def job() -> Job[str]:
        try:
            yield from query("number")
        except ConnectionFailed as error:
            return f"went on after {error} with {(yield from query('other'))}"
        return "no error"

    assert run(job(), ConnectionFailed("a lost connection"), 3) == "went on after a lost connection with 3"


@both
def test_an_error_that_a_job_does_not_handle_ends_it(run: Run) -> None:
    with pytest.raises(ConnectionFailed, match="a lost connection"):
        run(sum_of_two(), 3, ConnectionFailed("a lost connection"))


@both
def test_a_job_may_handle_the_error_of_a_callback(run: Run) -> None:
    def job() -> Job[str]:
        try:
            yield from run_step(Callback(lambda: 1 // 0))
        except ZeroDivisionError:
            return "handled"
        return "no error"

    assert run(job()) == "handled"


@both
def test_an_interrupt_ends_a_job_at_once(run: Run) -> None:
    ended = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    def job() -> Job[None]:
        try:
            yield from run_step(Callback(interrupt))
        except Exception:
            ended.append("handled")
        finally:
            ended.append("closed")

    with pytest.raises(KeyboardInterrupt):
        run(job())
    assert ended == ["closed"]


async def a_coroutine() -> int:
    return 5


def test_an_awaited_job_awaits_its_callbacks() -> None:
    assert run_with_async(run_step(Callback(a_coroutine))) == 5


def test_a_blocking_job_refuses_an_async_callback() -> None:
    with pytest.raises(ValidationError, match="AsyncSessionStore"):
        run_with(run_step(Callback(a_coroutine)))


def test_a_callback_that_blocks_does_not_block_the_event_loop() -> None:
    threads = run_with_async(threads_of_callbacks())

    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def threads_of_callbacks() -> Generator[Any, Any, list[threading.Thread]]:
    here = yield from run_step(Callback(threading.current_thread))
    there = yield from run_step(Callback(threading.current_thread, blocks=True))
    return [here, there]
