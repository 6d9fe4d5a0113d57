"""Who goes with whom, who goes next, and who gets what, without a database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from asm.errors import ConnectionFailed
from asm.gather import PARTS_MAX, AsyncGather, Gather
from asm.plan import Ask, Joining


def question(*parts: str) -> Joining[list[str]]:
    """It is answered with its own parts, in capitals."""
    return Joining(parts, _together, lambda answers: [answers[part] for part in parts])


def _together(parts: Sequence[str]) -> Ask[dict[str, str]]:
    return Ask("capitals", {"parts": list(parts)}, lambda rows: dict(rows))


def capitals(ask: Ask[Any]) -> Any:
    return {part: part.upper() for part in ask.params["parts"]}


class Gate:
    """Answers what it is asked, the first time only when it is opened."""

    def __init__(self, answer: Callable[[Ask[Any]], Any] = capitals) -> None:
        self.asked: list[list[str]] = []
        self.entered = threading.Event()
        self._open = threading.Event()
        self._answer = answer

    def __call__(self, ask: Ask[Any]) -> Any:
        self.asked.append(ask.params["parts"])
        self.entered.set()
        self._open.wait()
        return self._answer(ask)

    def open(self) -> None:
        self._open.set()


class Callers:
    """Threads that ask, one after the other, while the first is on its way."""

    def __init__(self, gather: Gather, gate: Gate) -> None:
        self._gather = gather
        self._gate = gate
        self._threads: list[threading.Thread] = []
        self.outcomes: dict[str, Any] = {}

    def ask(self, *parts: str) -> None:
        thread = threading.Thread(target=self._asked, args=parts)
        self._threads.append(thread)
        waiting = len(self._gather._queue)
        thread.start()
        if len(self._threads) == 1:
            self._gate.entered.wait()
        else:
            while len(self._gather._queue) == waiting:
                pass

    def finish(self) -> None:
        self._gate.open()
        for thread in self._threads:
            thread.join()

    def _asked(self, *parts: str) -> None:
        try:
            self.outcomes[parts[0]] = self._gather.ask(question(*parts))
        except Exception as error:
            self.outcomes[parts[0]] = error


def asked_at_once(gate: Gate, *questions: Sequence[str]) -> dict[str, Any]:
    callers = Callers(Gather(gate), gate)
    for parts in questions:
        callers.ask(*parts)
    callers.finish()
    return callers.outcomes


def test_alone_a_caller_asks_at_once() -> None:
    assert Gather(capitals).ask(question("a", "b")) == ["A", "B"]


def test_those_who_wait_go_together_in_the_order_in_which_they_came() -> None:
    gate = Gate()
    asked_at_once(gate, "a", "b", ("c", "d"), "e")
    assert gate.asked == [["a"], ["b", "c", "d", "e"]]


def test_each_gets_its_own_answer() -> None:
    assert asked_at_once(Gate(), "a", "b", ("c", "d")) == {"a": ["A"], "b": ["B"], "c": ["C", "D"]}


def test_who_brings_more_than_there_is_room_for_goes_with_the_next() -> None:
    gate = Gate()
    many = [f"m{n}" for n in range(PARTS_MAX - 1)]
    asked_at_once(gate, "a", "b", many, "c")
    assert gate.asked == [["a"], ["b", *many], ["c"]]


def test_a_question_larger_than_the_room_goes_alone() -> None:
    gate = Gate()
    many = [f"m{n}" for n in range(PARTS_MAX + 1)]
    asked_at_once(gate, "a", many, "b")
    assert gate.asked == [["a"], many, ["b"]]


def refusing(ask: Ask[Any]) -> Any:
    if "x" in ask.params["parts"]:
        raise ValueError("refused")
    return capitals(ask)


def test_one_that_is_refused_fails_nobody_else() -> None:
    outcomes = asked_at_once(Gate(refusing), "a", "b", "c", "x", "d", "e")
    assert str(outcomes.pop("x")) == "refused"
    assert outcomes == {name: [name.upper()] for name in "abcde"}


def test_a_lost_connection_is_told_to_all_who_were_on_it() -> None:
    def lost(_: Ask[Any]) -> Any:
        raise ConnectionFailed("gone")

    gate = Gate(lost)
    outcomes = asked_at_once(gate, "a", "b", "c")
    assert [type(outcome) for outcome in outcomes.values()] == [ConnectionFailed] * 3
    assert gate.asked == [["a"], ["b", "c"]]


def test_each_gets_an_error_of_its_own() -> None:
    def lost(_: Ask[Any]) -> Any:
        raise ConnectionFailed("gone", host="db") from OSError("reset")

    outcomes = asked_at_once(Gate(lost), "a", "b", "c")
    assert len({id(outcome) for outcome in outcomes.values()}) == 3
    assert [(o.details, str(o.__cause__)) for o in outcomes.values()] == [({"host": "db"}, "reset")] * 3


def test_one_who_is_interrupted_on_the_way_leaves_the_others_their_answers() -> None:
    class Interrupted(BaseException):
        pass

    def interrupted(ask: Ask[Any]) -> Any:
        if len(ask.params["parts"]) == 3:
            raise Interrupted
        return capitals(ask)

    gate = Gate(interrupted)
    callers = Callers(Gather(gate), gate)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading, "excepthook", lambda _: None)
        for name in "abcd":
            callers.ask(name)
        callers.finish()
    assert callers.outcomes == {"a": ["A"], "c": ["C"], "d": ["D"]}


def test_finishing_waits_for_all_who_wait() -> None:
    gate = Gate()
    gather = Gather(gate)
    callers = Callers(gather, gate)
    for name in "abc":
        callers.ask(name)
    gate.open()
    gather.finish()
    assert [sorted(parts) for parts in gate.asked] == [["a"], ["b", "c"]]
    callers.finish()


class AsyncGate:
    """Answers what it is asked, the first time only when it is opened."""

    def __init__(self, answer: Callable[[Ask[Any]], Any] = capitals) -> None:
        self.asked: list[list[str]] = []
        self.opened = asyncio.Event()
        self._answer = answer

    async def __call__(self, ask: Ask[Any]) -> Any:
        self.asked.append(ask.params["parts"])
        await self.opened.wait()
        return self._answer(ask)


async def queued(gate: AsyncGate, *names: str) -> list[asyncio.Task[list[str]]]:
    """Tasks that ask, the first of which is on its way."""
    gather = AsyncGather(gate)
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(gather.ask(question(name))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return tasks


def test_tasks_that_wait_go_together_and_each_gets_its_own_answer() -> None:
    async def main() -> None:
        gate = AsyncGate()
        tasks = await queued(gate, *"abcd")
        gate.opened.set()
        assert await asyncio.gather(*tasks) == [["A"], ["B"], ["C"], ["D"]]
        assert gate.asked == [["a"], ["b", "c", "d"]]

    asyncio.run(main())


def test_a_refused_task_fails_no_other() -> None:
    async def main() -> None:
        gate = AsyncGate(refusing)
        tasks = await queued(gate, "a", "b", "x", "c")
        gate.opened.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [outcomes[0], outcomes[1], str(outcomes[2]), outcomes[3]] == [["A"], ["B"], "refused", ["C"]]

    asyncio.run(main())


@pytest.mark.parametrize("cancelled", range(4))
def test_a_cancelled_task_takes_no_other_with_it(cancelled: int) -> None:
    async def main() -> None:
        gate = AsyncGate()
        tasks = await queued(gate, *"abcd")
        tasks[cancelled].cancel()
        await asyncio.sleep(0)
        gate.opened.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes.pop(cancelled), asyncio.CancelledError)
        assert sorted(outcomes) == [[name.upper()] for name in "abcd" if name != "abcd"[cancelled]]  # type: ignore[type-var]

    asyncio.run(main())
