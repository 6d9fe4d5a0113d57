"""Procedures, driven by hand: each question by itself, with work between them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

from asm.engine.jobs import Callback, Job, run_job, run_job_async, run_step
from asm.engine.script import Operation, Query, scalar
from asm.errors import ConnectionFailed, ValidationError

Answer = Any


class Replay:
    """Answers that were written down before, and the questions they were given to. An error is raised."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def run(self, question: Operation[Any]) -> Any:
        assert isinstance(question, Query)
        self.asked.append(question.query)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class AsyncReplay(Replay):
    async def run(self, question: Operation[Any]) -> Any:
        return super().run(question)


def performed(procedure: Job[Any], *answers: Answer) -> Any:
    return run_job(procedure, Replay(*answers))


def performed_async(procedure: Job[Any], *answers: Answer) -> Any:
    return asyncio.run(run_job_async(procedure, AsyncReplay(*answers)))


BOTH = pytest.mark.parametrize("performed", [performed, performed_async], ids=["sync", "async"])

Performed = Callable[..., Any]


def asked(query: str) -> Job[int]:
    return run_step(Query[int](query, {}, scalar))


def sum_of_two() -> Job[int]:
    left = yield from asked("left")
    right = yield from asked("right")
    return left + right


@BOTH
def test_each_question_of_a_procedure_gets_its_answer(performed: Performed) -> None:
    assert performed(sum_of_two(), 3, 4) == 7


def test_a_procedure_asks_in_its_order() -> None:
    script = Replay(3, 4)

    run_job(sum_of_two(), script)

    assert script.asked == ["left", "right"]


@BOTH
def test_work_is_done_between_the_questions(performed: Performed) -> None:
    done = []

    def procedure() -> Job[int]:
        number = yield from asked("number")
        yield from run_step(Callback(lambda: done.append(number)))
        return number + (yield from run_step(Callback(lambda: 5, blocks=True)))

    assert (performed(procedure(), 2), done) == (7, [2])


@BOTH
def test_what_a_step_raises_the_procedure_may_answer(performed: Performed) -> None:
    def procedure() -> Job[str]:
        try:
            yield from asked("number")
        except ConnectionFailed as error:
            return f"went on after {error} with {(yield from asked('other'))}"
        return "was answered"

    assert performed(procedure(), ConnectionFailed("a cut"), 3) == "went on after a cut with 3"


@BOTH
def test_what_the_procedure_does_not_answer_ends_it(performed: Performed) -> None:
    with pytest.raises(ConnectionFailed, match="a cut"):
        performed(sum_of_two(), 3, ConnectionFailed("a cut"))


@BOTH
def test_what_work_raises_is_raised_in_the_procedure(performed: Performed) -> None:
    def procedure() -> Job[str]:
        try:
            yield from run_step(Callback(lambda: 1 // 0))
        except ZeroDivisionError:
            return "answered"
        return "nothing to answer"

    assert performed(procedure()) == "answered"


@BOTH
def test_an_interrupt_ends_a_procedure_at_once(performed: Performed) -> None:
    closed = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    def procedure() -> Job[None]:
        try:
            yield from run_step(Callback(interrupt))
        except Exception:
            closed.append("answered")
        finally:
            closed.append("closed")

    with pytest.raises(KeyboardInterrupt):
        performed(procedure())
    assert closed == ["closed"]


async def a_coroutine() -> int:
    return 5


def test_an_awaited_procedure_awaits_its_work() -> None:
    assert performed_async(run_step(Callback(a_coroutine))) == 5


def test_a_blocking_procedure_refuses_work_that_wants_to_be_awaited() -> None:
    with pytest.raises(ValidationError, match="AsyncSessionStore"):
        performed(run_step(Callback(a_coroutine)))


def test_work_that_blocks_does_not_hold_up_the_loop() -> None:
    threads = performed_async(both_threads())

    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def both_threads() -> Generator[Any, Any, list[threading.Thread]]:
    here = yield from run_step(Callback(threading.current_thread))
    there = yield from run_step(Callback(threading.current_thread, blocks=True))
    return [here, there]
