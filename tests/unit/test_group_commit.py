"""Who goes with whom, who goes next, and who gets what, without a database."""

from __future__ import annotations

import asyncio
import linecache
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import wraps
from itertools import count
from types import FrameType
from typing import Any, TypeAlias

import pytest

from asm.engine import group_commit
from asm.engine.group_commit import (
    BYTES_MAX,
    ITEMS_MAX,
    MIXED_BATCH_TIMEOUT_S,
    SLOW_BATCH_S,
    AsyncGroupCommit,
    Batch,
    GroupCommit,
    Request,
    WaitQueue,
)
from asm.engine.script import Batchable, Query
from asm.errors import ConnectionFailed, StorageTimeout, StoreClosed

Part: TypeAlias = str
Answers: TypeAlias = "dict[Part, str]"
Who: TypeAlias = "Request[str]"

SOON_S = 30.0
"""Nothing here takes as long, unless somebody waits in vain."""


def question(name: str, *sessions: str, items: int = 1, size_bytes: int = 1) -> Batchable[str]:
    """It is answered with its own name, in capitals; its session goes by its name, too."""
    return Batchable(
        (name,) * items,
        lambda items: Query("capitals", {"parts": list(items)}, dict),
        lambda answers: answers[name],
        lambda: iter(()),  # type: ignore[arg-type, return-value]
        sessions=sessions or (name,),
        size_bytes=size_bytes,
    )


def capitals(items: Iterable[Part]) -> Answers:
    return {part: part.upper() for part in items}


def request(name: str, *sessions: str, **size: int) -> Who:
    return Request(question(name, *sessions, **size))


def line(*requests: Who, parallel_batches_from: int | None = None) -> WaitQueue[Who]:
    made: WaitQueue[Who] = WaitQueue(parallel_batches_from)
    for each in requests:
        made.join(each)
    return made


def sessions_of_half(lane: int) -> list[str]:
    """Two sessions of one half, which is for Python to say, anew in each process."""
    found = (str(number) for number in count() if request(str(number)).lane == lane)
    return [next(found), next(found)]


def flight_of(line: WaitQueue[Who]) -> list[Part]:
    """The names of those who depart next, each once."""
    batch: Batch[Who] = Batch()
    return names(batch) if line.start_batch(batch) else []


def names(batch: Batch[Who]) -> list[Part]:
    return [each.question.items[0] for each in batch.requests]


def departed(line: WaitQueue[Who]) -> Batch[Who]:
    batch: Batch[Who] = Batch()
    assert line.start_batch(batch)
    return batch


def overdue(batch: Batch[Who]) -> Batch[Who]:
    batch.started_at -= SLOW_BATCH_S
    return batch


# The line.


def test_those_who_wait_go_together_in_the_order_in_which_they_came() -> None:
    assert flight_of(line(request("a"), request("b"), request("c"))) == ["a", "b", "c"]


def test_while_one_flight_is_on_its_way_nobody_departs() -> None:
    waiting = line(request("a"))
    departed(waiting)
    waiting.join(request("b"))
    assert flight_of(waiting) == []


def test_a_crowd_goes_in_halves_two_at_a_time() -> None:
    (a, c), (b, d) = sessions_of_half(0), sessions_of_half(1)
    waiting = line(request(a), request(b), request(c), request(d), parallel_batches_from=4)
    assert [flight_of(waiting), flight_of(waiting)] == [[a, c], [b, d]]


def test_while_both_halves_are_on_their_way_nobody_departs() -> None:
    (a, c), (b, d) = sessions_of_half(0), sessions_of_half(1)
    waiting = line(request(a), request(b), parallel_batches_from=2)
    batches = [departed(waiting), departed(waiting)]
    waiting.join(request(c))
    waiting.join(request(d))
    assert (len(batches), flight_of(waiting)) == (2, [])


def test_a_few_behind_a_flight_of_all_wait_for_it() -> None:
    waiting = line(request("a"), parallel_batches_from=2)
    departed(waiting)
    waiting.join(request("b"))
    assert flight_of(waiting) == []


def test_a_crowd_that_waits_for_one_session_holds_nobody_back() -> None:
    (a, _), (b, _) = sessions_of_half(0), sessions_of_half(1)
    waiting = line(request(a), parallel_batches_from=2)
    overdue(departed(waiting))
    waiting.join(request("more", a))
    waiting.join(request(b))
    assert flight_of(waiting) == [b]


def test_nobody_waits_for_an_overdue_flight_without_a_session_in_it() -> None:
    waiting = line(request("a"))
    overdue(departed(waiting))
    waiting.join(request("more", "a"))
    waiting.join(request("b"))
    assert flight_of(waiting) == ["b"]


def test_nobody_overtakes_within_a_session() -> None:
    waiting = line(request("a"))
    overdue(departed(waiting))
    waiting.join(request("batch", "a", "b"))
    waiting.join(request("b"))
    waiting.join(request("c"))
    assert flight_of(waiting) == ["c"]


def test_a_flight_has_room_for_so_many_events() -> None:
    waiting = line(request("a", items=ITEMS_MAX - 1), request("b"), request("c"))
    assert flight_of(waiting) == ["a", "b"]


def test_a_flight_has_room_for_so_much_json() -> None:
    waiting = line(request("a", size_bytes=BYTES_MAX - 1), request("b"), request("c"))
    assert flight_of(waiting) == ["a", "b"]


def test_who_brings_more_than_there_is_room_for_goes_alone() -> None:
    waiting = line(request("a", items=ITEMS_MAX + 1), request("b"))
    assert flight_of(waiting) == ["a"]


def test_who_has_to_stay_takes_no_room_in_a_flight() -> None:
    waiting = line(request("a"))
    overdue(departed(waiting))
    for each in (request("many", "a", items=ITEMS_MAX), request("b"), request("c")):
        waiting.join(each)
    assert flight_of(waiting) == ["b", "c"]


def test_who_left_is_not_taken_along() -> None:
    gone = request("a")
    waiting = line(gone, request("b"))
    gone.abandoned = True
    assert flight_of(waiting) == ["b"]


def test_who_has_no_answer_when_a_flight_lands_is_first_in_the_line() -> None:
    waiting = line(request("a"), request("b"))
    batch = departed(waiting)
    waiting.join(request("c"))
    batch.requests[0].answer({})
    waiting.finish_batch(batch)
    assert flight_of(waiting) == ["b", "c"]


def test_to_land_twice_is_to_land_once() -> None:
    waiting = line(request("a"))
    batch = departed(waiting)
    waiting.finish_batch(batch)
    waiting.finish_batch(batch)
    assert flight_of(waiting) == ["a"]


def test_a_caller_leads_only_the_flight_it_is_on() -> None:
    waiting = line(request("a"))
    overdue(departed(waiting))
    held_up, free = request("more", "a"), request("b")
    waiting.join(held_up)
    waiting.join(free)
    assert not waiting.start_batch(Batch(), held_up)
    assert waiting.start_batch(Batch(), free)


def test_the_next_to_lead_is_the_first_who_can_go() -> None:
    waiting = line(request("a"))
    overdue(departed(waiting))
    free = request("b")
    for each in (request("more", "a"), free, request("c")):
        waiting.join(each)
    assert waiting.next_leader() is free


def test_where_every_flight_is_slow_one_of_several_sessions_is_given_more_time() -> None:
    waiting = line()
    for name in "abcdefgh":
        waiting.join(request(name))
        slow = departed(waiting)
        slow.started_at -= MIXED_BATCH_TIMEOUT_S
        waiting.finish_batch(slow)
        slow.requests[0].answer({})
    for name in "ab":
        waiting.join(request(name))
    timeout_s = waiting.patience_with(departed(waiting))
    assert timeout_s is not None
    assert timeout_s > 3 * MIXED_BATCH_TIMEOUT_S


def test_who_finds_the_line_idle_goes_at_once() -> None:
    assert line().start_alone(Batch(["a"]))


def test_who_finds_somebody_waiting_joins_them() -> None:
    assert not line(request("a")).start_alone(Batch(["b"]))


# A flight that failed.


def failed(error: Exception, *requests: Who, late: Sequence[Part] = ()) -> list[list[Part]]:
    """The flights in which callers go whose first one failed."""
    waiting = line(*requests)
    batch = departed(waiting)
    batch.split(error, lambda each: each.question.items[0] in late)
    batches = []
    while batch.requests:
        waiting.finish_batch(batch)
        batch = Batch()
        if waiting.start_batch(batch):
            batches.append(names(batch))
            for each in batch.requests:
                each.answer({})
    return batches


def test_a_failed_flight_goes_again_in_halves() -> None:
    assert failed(ValueError(), *map(request, "abcd")) == [["a", "b"], ["c", "d"]]


def test_who_failed_alone_is_told() -> None:
    alone = request("a")
    assert failed(ValueError("refused"), alone) == []
    with pytest.raises(ValueError, match="refused"):
        alone.outcome()


def test_a_lost_connection_is_told_to_all_who_were_on_it() -> None:
    requests = [request("a"), request("b")]
    assert failed(ConnectionFailed("gone"), *requests) == []
    for each in requests:
        with pytest.raises(ConnectionFailed):
            each.outcome()


def test_each_is_told_by_an_error_of_its_own() -> None:
    requests = [request("a"), request("b")]
    error = ConnectionFailed("gone", host="db")
    error.__cause__ = OSError("reset")
    failed(error, *requests)
    told = [outcome(each) for each in requests]
    assert told[0] is not told[1]
    assert [(each.details, str(each.__cause__)) for each in told] == [({"host": "db"}, "reset")] * 2


def outcome(request: Who) -> Any:
    try:
        return request.outcome()
    except Exception as error:
        return error


def test_after_a_timeout_each_session_goes_alone() -> None:
    requests = [request("a1", "a"), request("b"), request("a2", "a")]
    assert failed(StorageTimeout(""), *requests) == [["a1", "a2"], ["b"]]


def test_after_a_timeout_who_is_late_is_told() -> None:
    requests = [request("a"), request("b")]
    assert failed(StorageTimeout(""), *requests, late=["a"]) == [["b"]]
    assert isinstance(outcome(requests[0]), StorageTimeout)


def test_a_timeout_of_one_session_is_told_to_all_who_append_to_it() -> None:
    requests = [request("a1", "a"), request("a2", "a")]
    assert failed(StorageTimeout(""), *requests) == []
    assert all(isinstance(outcome(each), StorageTimeout) for each in requests)


# Threads.


class Counter:
    """Where questions are asked. It answers so many as it is opened for."""

    def __init__(self, answer: Callable[[list[Part]], Answers] = capitals) -> None:
        self.asked: list[list[Part]] = []
        self.brief: list[float | None] = []
        self._answer = answer
        self._changed = threading.Condition()
        self._answers = 0

    def __call__(self, ask: Query[Any], /, *, retry_for: float, lock_timeout_s: float | None) -> Answers:
        items = list(ask.params["parts"])
        with self._changed:
            self.asked.append(items)
            self.brief.append(lock_timeout_s)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._answers, SOON_S)
            self._answers -= 1
        return self._answer(items)

    def open(self, answers: int = 1_000_000) -> None:
        with self._changed:
            self._answers += answers
            self._changed.notify_all()

    def wait_for(self, questions: int) -> None:
        """Until so many were asked."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= questions, SOON_S)


class Threads:
    """Threads that ask, and what they are told."""

    def __init__(self, counter: Any, *, timeout: float = SOON_S) -> None:
        self.gather = GroupCommit(counter, parallel_batches_from=None, timeout=timeout, retry_for=0)
        self.told: dict[Part, Any] = {}
        self._threads: list[threading.Thread] = []

    def ask(self, name: Part, *sessions: str) -> None:
        """One more thread, which is in the line, or on its way, when this returns."""
        here = self._here()
        thread = threading.Thread(target=self._asked, args=(question(name, *sessions),), daemon=True)
        self._threads.append(thread)
        thread.start()
        until(lambda: self._here() > here or not thread.is_alive())

    def finish(self) -> dict[Part, Any]:
        for thread in self._threads:
            thread.join(SOON_S)
        assert not any(thread.is_alive() for thread in self._threads)
        return self.told

    def _here(self) -> int:
        waiting = self.gather._line
        with self.gather._lock:
            return len(waiting._waiting) + sum(len(each.requests) or 1 for each in waiting._batches)

    def _asked(self, question: Batchable[str]) -> None:
        try:
            self.told[question.items[0]] = self.gather.ask(question)
        except BaseException as error:
            self.told[question.items[0]] = error


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0)


def asked_at_once(counter: Counter, *requests: Part) -> dict[Part, Any]:
    """What callers are told of whom the first is on its way while the others come."""
    threads = Threads(counter)
    threads.ask(requests[0])
    counter.wait_for(1)
    for name in requests[1:]:
        threads.ask(name)
    counter.open()
    return threads.finish()


def test_alone_a_thread_asks_at_once() -> None:
    counter = Counter()
    counter.open()
    assert GroupCommit(counter, parallel_batches_from=None, timeout=1, retry_for=0).ask(question("a")) == "A"


def test_threads_that_wait_go_together_and_each_gets_its_own_answer() -> None:
    counter = Counter()
    assert asked_at_once(counter, *"abcd") == capitals("abcd")
    assert counter.asked == [["a"], ["b", "c", "d"]]


def refusing(items: Iterable[Part]) -> Answers:
    if "x" in items:
        raise ValueError("refused")
    return capitals(items)


def test_a_refused_thread_fails_no_other() -> None:
    told = asked_at_once(Counter(refusing), *"abcxde")
    assert str(told.pop("x")) == "refused"
    assert told == capitals("abcde")


class Interrupt(BaseException):
    pass


def test_an_interrupted_leader_leaves_the_others_their_answers() -> None:
    interrupts = [Interrupt()]

    def interrupted(items: list[Part]) -> Answers:
        if len(items) > 1 and interrupts:
            raise interrupts.pop()
        return capitals(items)

    told = asked_at_once(Counter(interrupted), *"abcd")
    assert sorted(map(str, told.values())) == ["", "A", "C", "D"]
    assert isinstance(told["b"], Interrupt)


def test_a_thread_that_is_interrupted_while_it_waits_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupt

    counter = Counter()
    threads = Threads(counter)
    threads.ask("a")
    counter.wait_for(1)
    monkeypatch.setattr(group_commit._ThreadRequest, "sleep", interrupt)
    with pytest.raises(Interrupt):
        threads.gather.ask(question("b"))
    counter.open()
    threads.finish()
    assert_finishes(threads.gather)
    assert counter.asked == [["a"]]


def test_only_a_flight_of_several_sessions_waits_briefly_for_a_lock() -> None:
    counter = Counter()
    threads = Threads(counter)
    threads.ask("a")
    counter.wait_for(1)
    threads.ask("b")
    threads.ask("c")
    counter.open(1)
    counter.wait_for(2)
    threads.ask("d1", "d")
    threads.ask("d2", "d")
    counter.open()
    threads.finish()
    assert counter.brief == [None, MIXED_BATCH_TIMEOUT_S, None]


def test_an_append_in_the_midst_of_an_append_of_the_same_thread_goes_alone() -> None:
    inner: list[str] = []

    def interrupted(items: list[Part]) -> Answers:
        if items == ["a"]:
            inner.append(threads.gather.ask(question("handler", "a")))
        return capitals(items)

    counter = Counter(interrupted)
    counter.open()
    threads = Threads(counter)
    threads.ask("a")
    assert threads.finish() == {"a": "A"}
    assert inner == ["HANDLER"]


def test_closing_in_the_midst_of_an_append_of_the_same_thread_waits_for_nobody() -> None:
    def interrupted(items: list[Part]) -> Answers:
        threads.gather.finish()
        return capitals(items)

    counter = Counter(interrupted)
    counter.open()
    threads = Threads(counter)
    threads.ask("a")
    assert threads.finish() == {"a": "A"}


def test_a_thread_that_cannot_go_in_time_is_told() -> None:
    counter = Counter()
    threads = Threads(counter, timeout=0)
    threads.ask("a1", "a")
    counter.wait_for(1)
    threads.ask("a2", "a")
    until(lambda: "a2" in threads.told)
    counter.open()
    told = threads.finish()
    assert isinstance(told.pop("a2"), StorageTimeout)
    assert told == {"a1": "A1"}


def test_a_thread_of_another_session_does_not_wait_for_an_overdue_flight() -> None:
    counter = Counter()
    threads = Threads(counter)
    threads.ask("a")
    counter.wait_for(1)
    threads.ask("b")
    counter.wait_for(2)
    counter.open()
    assert threads.finish() == capitals("ab")
    assert counter.asked == [["a"], ["b"]]


def test_finishing_waits_for_all_threads_that_are_here() -> None:
    counter = Counter()
    threads = Threads(counter)
    threads.ask("a")
    counter.wait_for(1)
    threads.ask("b")
    closing = threading.Thread(target=threads.gather.finish)
    closing.start()
    counter.open(1)
    counter.wait_for(2)
    assert closing.is_alive()
    counter.open()
    closing.join(SOON_S)
    assert not closing.is_alive()
    assert threads.finish() == capitals("ab")


def test_after_finishing_a_thread_is_refused() -> None:
    threads = Threads(Counter())
    threads.gather.finish()
    with pytest.raises(StoreClosed):
        threads.gather.ask(question("a"))


class Cut:
    """Interrupts its thread at one of the lines of `gather.py` that it comes by."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._inside: set[tuple[FrameType, int]] = set()

    @property
    def has_cut(self) -> bool:
        return self._left == 0

    def __enter__(self) -> None:
        sys.settrace(self._entered)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _entered(self, frame: FrameType, _event: str, _arg: object) -> Any:
        return self._line if frame.f_code.co_filename == group_commit.__file__ else None

    def _line(self, frame: FrameType, event: str, _arg: object) -> Any:
        if event == "line" and self._may_cut(frame):
            self._left -= 1
            if self.has_cut:
                sys.settrace(None)
                raise Interrupt
        return self._line

    def _may_cut(self, frame: FrameType) -> bool:
        # Python lets no signal in between the end of a `with` and its `__exit__`, nor before the
        # one call of a `finally`.
        line = linecache.getline(group_commit.__file__, frame.f_lineno).strip()
        if "_inside.discard" in line:
            return False
        key = (frame, frame.f_lineno)
        if line.startswith("with self.") and key in self._inside:
            self._inside.discard(key)
            return False
        if line.startswith("with self."):
            self._inside.add(key)
        return True


@pytest.mark.parametrize("place", [0, 1, 2], ids=["alone", "leader", "follower"])
def test_wherever_a_thread_is_interrupted_the_others_get_their_answers(place: int) -> None:
    at, cut = 1, Cut(1)
    while at == 1 or cut.has_cut:
        cut = Cut(at)
        assert_others_are_answered(place, cut)
        at += 1
    assert at > 30


def assert_others_are_answered(place: int, cut: Cut) -> None:
    counter = Counter()
    threads = Threads(counter)
    victim = threading.Thread(target=interrupted, args=(threads.gather, cut), daemon=True)
    for name in "ab"[:place]:
        threads.ask(name)
        counter.wait_for(1)
    here = threads._here()
    victim.start()
    until(lambda: threads._here() > here or not victim.is_alive())
    threads.ask("c")
    counter.open()
    victim.join(SOON_S)
    assert not victim.is_alive()
    assert threads.finish() == capitals("ab"[:place] + "c")
    assert_finishes(threads.gather)


def interrupted(gather: GroupCommit, cut: Cut) -> None:
    try:
        with cut:
            gather.ask(question("victim"))
    except Interrupt:
        pass


def assert_finishes(gather: GroupCommit) -> None:
    closing = threading.Thread(target=gather.finish, daemon=True)
    closing.start()
    closing.join(SOON_S)
    assert not closing.is_alive()


# Tasks.


class AsyncCounter:
    """The same, awaited."""

    def __init__(self, answer: Callable[[list[Part]], Answers] = capitals) -> None:
        self.asked: list[list[Part]] = []
        self._answer = answer
        self._answers = asyncio.Semaphore(0)
        self.shut_for: list[Part] = []

    async def __call__(
        self, ask: Query[Any], /, *, retry_for: float, lock_timeout_s: float | None
    ) -> Answers:
        items = list(ask.params["parts"])
        self.asked.append(items)
        await self._answers.acquire()
        if items == self.shut_for:
            await asyncio.Event().wait()
        return self._answer(items)

    def open(self, answers: int = 1_000) -> None:
        for _ in range(answers):
            self._answers.release()


Tasks: TypeAlias = "list[asyncio.Task[str]]"


class Crowd:
    """Tasks that ask, of which the first is on its way."""

    def __init__(self, counter: AsyncCounter, *, timeout: float = SOON_S) -> None:
        self.counter = counter
        self.gather = AsyncGroupCommit(counter, parallel_batches_from=None, timeout=timeout, retry_for=0)
        self.tasks: Tasks = []

    async def ask(self, *requests: Part) -> Tasks:
        for name in requests:
            self.tasks.append(asyncio.create_task(self.gather.ask(question(name))))
            await asyncio.sleep(0)
        return self.tasks

    async def finish(self) -> list[Any]:
        """What each was told."""
        self.counter.open()
        async with asyncio.timeout(SOON_S):
            told = await asyncio.gather(*self.tasks, return_exceptions=True)
            await self.gather.finish()
        return told


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that awaits."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@in_a_loop
async def test_alone_a_task_asks_at_once() -> None:
    parallel_batches_from = Crowd(AsyncCounter())
    await parallel_batches_from.ask("a")
    assert await parallel_batches_from.finish() == ["A"]


@in_a_loop
async def test_tasks_that_wait_go_together_and_each_gets_its_own_answer() -> None:
    parallel_batches_from = Crowd(AsyncCounter())
    await parallel_batches_from.ask(*"abcd")
    assert await parallel_batches_from.finish() == list("ABCD")
    assert parallel_batches_from.counter.asked == [["a"], ["b", "c", "d"]]


@in_a_loop
async def test_a_refused_task_fails_no_other() -> None:
    parallel_batches_from = Crowd(AsyncCounter(refusing))
    await parallel_batches_from.ask(*"abxc")
    assert list(map(str, await parallel_batches_from.finish())) == ["A", "B", "refused", "C"]


@pytest.mark.parametrize("cancelled", ["a", "b", "d", "abcd", "bc"])
@in_a_loop
async def test_cancelled_tasks_take_no_other_with_them(cancelled: str) -> None:
    parallel_batches_from = Crowd(AsyncCounter())
    for name, task in zip("abcd", await parallel_batches_from.ask(*"abcd"), strict=True):
        if name in cancelled:
            task.cancel()
    told = await parallel_batches_from.finish()
    assert [each for each in told if isinstance(each, str)] == [
        name.upper() for name in "abcd" if name not in cancelled
    ]


@in_a_loop
async def test_a_task_that_left_the_line_is_not_asked_for() -> None:
    parallel_batches_from = Crowd(AsyncCounter())
    (await parallel_batches_from.ask(*"abc"))[1].cancel()
    await parallel_batches_from.finish()
    assert parallel_batches_from.counter.asked == [["a"], ["c"]]


@pytest.mark.parametrize("steps", range(3))
@in_a_loop
async def test_when_the_task_of_a_flight_is_cancelled_its_callers_get_their_answers(steps: int) -> None:
    parallel_batches_from = Crowd(AsyncCounter())
    await parallel_batches_from.ask(*"abc")
    parallel_batches_from.counter.open()
    await begun(parallel_batches_from)
    for _ in range(steps):
        await asyncio.sleep(0)
    for flying in parallel_batches_from.gather._flying:
        flying.cancel()
    assert await parallel_batches_from.finish() == list("ABC")


async def begun(parallel_batches_from: Crowd) -> None:
    """Until a flight has a task, which has not yet made a step."""
    for _ in range(10):
        if parallel_batches_from.gather._flying:
            return
        await asyncio.sleep(0)


@in_a_loop
async def test_when_all_tasks_are_cancelled_no_other_begins() -> None:
    parallel_batches_from = Crowd(AsyncCounter())
    await parallel_batches_from.ask(*"abc")
    everything = asyncio.all_tasks() - {asyncio.current_task()}
    for each in everything:
        each.cancel()
    await asyncio.gather(*everything, return_exceptions=True)
    await parallel_batches_from.finish()
    assert parallel_batches_from.counter.asked == [["a"]]


@in_a_loop
async def test_one_session_that_is_held_up_holds_up_no_other_of_its_flight() -> None:
    timeouts = [StorageTimeout("")]

    def held_up(items: list[Part]) -> Answers:
        if len(items) > 1 and timeouts:
            raise timeouts.pop()
        return capitals(items)

    parallel_batches_from = Crowd(AsyncCounter(held_up))
    await parallel_batches_from.ask(*"abcd")
    parallel_batches_from.counter.shut_for = ["b"]
    parallel_batches_from.counter.open(1)
    # Until nobody is in the line, and so nobody looks around any more.
    await asyncio.sleep(2 * SLOW_BATCH_S)
    parallel_batches_from.counter.open()
    async with asyncio.timeout(SOON_S):
        assert [await parallel_batches_from.tasks[2], await parallel_batches_from.tasks[3]] == ["C", "D"]
    assert not parallel_batches_from.tasks[1].done()
    parallel_batches_from.tasks[1].cancel()


@in_a_loop
async def test_a_task_that_cannot_go_in_time_is_told() -> None:
    parallel_batches_from = Crowd(AsyncCounter(), timeout=0)
    first = asyncio.create_task(parallel_batches_from.gather.ask(question("a1", "a")))
    await asyncio.sleep(0)
    with pytest.raises(StorageTimeout):
        await parallel_batches_from.gather.ask(question("a2", "a"))
    parallel_batches_from.counter.open()
    assert await first == "A1"


@in_a_loop
async def test_finishing_waits_for_all_tasks_that_are_here_whoever_else_finishes() -> None:
    parallel_batches_from = Crowd(AsyncCounter())
    await parallel_batches_from.ask(*"abc")
    finishing = [asyncio.create_task(parallel_batches_from.gather.finish()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(each.done() for each in finishing)
    parallel_batches_from.counter.open()
    async with asyncio.timeout(SOON_S):
        await asyncio.gather(*finishing)
    assert [len(asked) for asked in parallel_batches_from.counter.asked] == [1, 2]


@in_a_loop
async def test_after_finishing_a_task_is_refused() -> None:
    parallel_batches_from = Crowd(AsyncCounter())
    await parallel_batches_from.gather.finish()
    with pytest.raises(StoreClosed):
        await parallel_batches_from.gather.ask(question("a"))
