"""Procedures, driven by hand: each question by itself, with work between them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

from asm.errors import ConnectionFailed, ValidationError
from asm.plan import Ask, Question, first
from asm.procedures import Procedure, Work, perform, perform_async, result_of

Answer = Any


class Script:
    """Answers that were written down before, and the questions they were given to. An error is raised."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def run(self, question: Question[Any]) -> Any:
        assert isinstance(question, Ask)
        self.asked.append(question.query)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class AsyncScript(Script):
    async def run(self, question: Question[Any]) -> Any:
        return super().run(question)


def performed(procedure: Procedure[Any], *answers: Answer) -> Any:
    return perform(procedure, Script(*answers))


def performed_async(procedure: Procedure[Any], *answers: Answer) -> Any:
    return asyncio.run(perform_async(procedure, AsyncScript(*answers)))


BOTH = pytest.mark.parametrize("performed", [performed, performed_async], ids=["sync", "async"])

Performed = Callable[..., Any]


def asked(query: str) -> Procedure[int]:
    return result_of(Ask[int](query, {}, first))


def sum_of_two() -> Procedure[int]:
    left = yield from asked("left")
    right = yield from asked("right")
    return left + right


@BOTH
def test_each_question_of_a_procedure_gets_its_answer(performed: Performed) -> None:
    assert performed(sum_of_two(), 3, 4) == 7


def test_a_procedure_asks_in_its_order() -> None:
    script = Script(3, 4)

    perform(sum_of_two(), script)

    assert script.asked == ["left", "right"]


@BOTH
def test_work_is_done_between_the_questions(performed: Performed) -> None:
    done = []

    def procedure() -> Procedure[int]:
        number = yield from asked("number")
        yield from result_of(Work(lambda: done.append(number)))
        return number + (yield from result_of(Work(lambda: 5, blocks=True)))

    assert (performed(procedure(), 2), done) == (7, [2])


@BOTH
def test_what_a_step_raises_the_procedure_may_answer(performed: Performed) -> None:
    def procedure() -> Procedure[str]:
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
    def procedure() -> Procedure[str]:
        try:
            yield from result_of(Work(lambda: 1 // 0))
        except ZeroDivisionError:
            return "answered"
        return "nothing to answer"

    assert performed(procedure()) == "answered"


@BOTH
def test_an_interrupt_ends_a_procedure_at_once(performed: Performed) -> None:
    closed = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    def procedure() -> Procedure[None]:
        try:
            yield from result_of(Work(interrupt))
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
    assert performed_async(result_of(Work(a_coroutine))) == 5


def test_a_blocking_procedure_refuses_work_that_wants_to_be_awaited() -> None:
    with pytest.raises(ValidationError, match="AsyncSessionStore"):
        performed(result_of(Work(a_coroutine)))


def test_work_that_blocks_does_not_hold_up_the_loop() -> None:
    threads = performed_async(both_threads())

    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def both_threads() -> Generator[Any, Any, list[threading.Thread]]:
    here = yield from result_of(Work(threading.current_thread))
    there = yield from result_of(Work(threading.current_thread, blocks=True))
    return [here, there]
