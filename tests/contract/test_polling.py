"""What a store promises to those who wait for events."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

import asm
from asm.engine import polling
from asm.operations.events import append_event
from tests.conftest import Colour, an_event, events_of, numbers
from tests.contract.other_clients import fetch_rows, only, run_in_fork

SOON_S = 30.0


@pytest.fixture
def other(opened: Callable[..., Any], migrated: str) -> Any:
    """Another store on the same database, as another process would have."""
    return opened(migrated)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def until_async(holds: Callable[[], object], pause_s: float = 0.02) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(pause_s)


def watch_of(store: Any) -> Any:
    return getattr(store, "_target", store)._database.watch


def waiters(store: Any) -> list[polling.Subscription]:
    return [waiter for waiters in list(watch_of(store).waiters.values()) for waiter in list(waiters)]


def looks(store: Any) -> bool:
    """Whether anybody looks, which begins when somebody falls asleep."""
    watched = watch_of(store)
    return any(getattr(watched, name, None) for name in ("_lookout", "_alarm", "_looking"))


def asleep_in_loop(store: Any) -> list[Any]:
    """The waiters of an async store that have asked in vain, and wait."""
    return [waiter for waiter in waiters(store) if waiter._awake._waiters]  # type: ignore[attr-defined]


def asleep(store: Any, threads: ThreadPoolExecutor, work: Callable[[], Any]) -> Future[Any]:
    """Work that has asked in vain, and waits."""
    waiting = threads.submit(work)
    until(lambda: looks(store) or waiting.done())
    return waiting


def test_waiting_ends_when_an_event_is_appended_by_another(store: Any, other: Any) -> None:
    thread, results = in_thread(lambda: store.get_events("ses_1", wait_timeout=30))
    stored = other.append_event(an_event())
    thread.join()
    assert results == [[stored]]


def test_waiting_is_for_what_the_filters_let_through(store: Any, other: Any) -> None:
    thread, results = in_thread(lambda: store.get_events("ses_1", type="error_occurred", wait_timeout=30))
    other.append_events(events_of("ses_1", 3))
    stored = other.append_event(an_event(type="error_occurred"))
    thread.join()
    assert results == [[stored]]


def test_waiting_in_vain_gives_nothing(store: Any) -> None:
    assert store.get_events("ses_1", wait_timeout=0.05) == []


def test_what_is_there_is_not_waited_for(store: Any) -> None:
    stored = store.append_event(an_event())
    assert store.get_events("ses_1", wait_timeout=float("inf")) == [stored]


def test_nothing_is_not_waited_for_where_nothing_is_asked_for(store: Any) -> None:
    assert store.get_events("ses_1", limit=0, wait_timeout=float("inf")) == []


def test_waiting_for_ever_ends_when_an_event_comes(
    store: Any, other: Any, threads: ThreadPoolExecutor
) -> None:
    waiting = asleep(store, threads, lambda: store.get_events("ses_1", wait_timeout=float("inf")))
    stored = other.append_event(an_event())
    assert waiting.result(SOON_S) == [stored]


def test_waiting_is_for_events_behind_a_number(store: Any, other: Any, threads: ThreadPoolExecutor) -> None:
    waiting = asleep(store, threads, lambda: store.get_events("ses_1", after=2, wait_timeout=SOON_S))
    stored = [(store if n % 2 else other).append_event(an_event()) for n in range(3)]
    assert waiting.result(SOON_S) == stored[2:]


def test_each_is_woken_by_their_own_session(store: Any, other: Any, threads: ThreadPoolExecutor) -> None:
    waiting = [threads.submit(store.get_events, f"ses_{n // 2}", wait_timeout=2 * SOON_S) for n in range(12)]
    until(lambda: len(waiters(store)) == 12)
    other.append_events(an_event(f"ses_{n}") for n in range(3))
    assert [len(each.result(SOON_S)) for each in waiting[:6]] == [1] * 6
    assert not any(each.done() for each in waiting[6:])
    store.append_events(an_event(f"ses_{n}") for n in range(3, 6))
    assert [len(each.result(SOON_S)) for each in waiting[6:]] == [1] * 6


# What a store appends itself.


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next look is so far off that nothing comes of it."""
    monkeypatch.setattr(polling, "POLL_INTERVAL_MIN_S", 10 * SOON_S)
    monkeypatch.setattr(polling, "POLL_INTERVAL_MAX_S", 10 * SOON_S)


SESSION = asm.Session(id="ses_1", agent_id="agent_1")
RUN = asm.Run(session_id="ses_1")


def in_a_transaction(store: Any) -> None:
    with store.transaction() as tx:
        tx.append_event(an_event())


APPENDS: dict[str, Callable[[Any], Any]] = {
    "append_event": lambda store: store.append_event(an_event()),
    "append_event where expected": lambda store: store.append_event(an_event(), expected_sequence=0),
    "append_events": lambda store: store.append_events([an_event("ses_0"), an_event()]),
    "append_events of many": lambda store: store.append_events(events_of("ses_1", 501)),
    "flush": lambda store: store.flush(SESSION, RUN, [an_event()]),
    "import_session": lambda store: store.import_session(
        asm.SessionExport(session=SESSION, events=[an_event(sequence_number=1)])
    ),
    "transaction": in_a_transaction,
}


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize("append", APPENDS)
def test_what_a_store_appends_wakes_its_own_waiters_without_a_look(
    store: Any, threads: ThreadPoolExecutor, append: str
) -> None:
    waiting = asleep(store, threads, lambda: store.get_events("ses_1", wait_timeout=SOON_S))
    APPENDS[append](store)
    assert waiting.result(2 * SOON_S)[0].sequence_number == 1


@pytest.mark.usefixtures("nobody_looks")
def test_what_a_crowd_appends_wakes_those_who_wait(store: Any, threads: ThreadPoolExecutor) -> None:
    following = asleep(store, threads, lambda: list(store.follow_events("ses_1", limit=40)))
    for each in [threads.submit(store.append_event, an_event()) for _ in range(40)]:
        each.result(SOON_S)
    assert numbers(following.result(SOON_S)) == list(range(1, 41))


@pytest.mark.usefixtures("nobody_looks")
def test_what_the_filters_hold_back_does_not_end_waiting(store: Any, threads: ThreadPoolExecutor) -> None:
    waiting = asleep(
        store, threads, lambda: store.get_events("ses_1", type="error_occurred", wait_timeout=SOON_S)
    )
    for _ in range(20):
        store.append_event(an_event())
    stored = store.append_event(an_event(type="error_occurred"))
    assert waiting.result(2 * SOON_S) == [stored]


@pytest.mark.usefixtures("nobody_looks")
def test_what_is_rolled_back_wakes_nobody(store: Any, threads: ThreadPoolExecutor) -> None:
    waiting = asleep(store, threads, lambda: store.get_events("ses_1", wait_timeout=SOON_S))
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        tx.append_event(an_event())
        raise ZeroDivisionError
    (waiter,) = waiters(store)
    assert not waiter._was_woken
    store.append_event(an_event())
    assert numbers(waiting.result(2 * SOON_S)) == [1]


# Sessions that go back, and are filled up.


def seen(store: Any) -> bool:
    return bool(waiters(store)) and all(waiter._stood for waiter in waiters(store))


def test_a_session_deleted_and_begun_again_is_waited_for_like_any_other(
    store: Any, other: Any, threads: ThreadPoolExecutor
) -> None:
    other.append_events(events_of("ses_1", 2))
    waiting = threads.submit(store.get_events, "ses_1", type="error_occurred", wait_timeout=SOON_S)
    until(lambda: seen(store))
    other.delete_session("ses_1")
    first, second = other.append_events([an_event(type="error_occurred"), an_event()])
    assert numbers([first, second]) == [1, 2]
    assert waiting.result(2 * SOON_S) == [first]


def test_an_event_imported_into_a_gap_is_found(store: Any, other: Any, threads: ThreadPoolExecutor) -> None:
    pruned = an_event(type="error_occurred", sequence_number=1)
    kept = an_event(sequence_number=2)
    other.import_session(asm.SessionExport(session=SESSION, events=[kept]))
    waiting = threads.submit(store.get_events, "ses_1", type="error_occurred", wait_timeout=SOON_S)
    until(lambda: seen(store))
    other.import_session(asm.SessionExport(session=SESSION, events=[pruned, kept]))
    assert waiting.result(2 * SOON_S) == [pruned]


def test_a_session_that_is_pruned_meanwhile_is_waited_for(
    store: Any, other: Any, threads: ThreadPoolExecutor
) -> None:
    other.save_session(SESSION)
    other.append_events(events_of("ses_1", 5))
    waiting = asleep(store, threads, lambda: store.get_events("ses_1", after=5, wait_timeout=SOON_S))
    other.maintenance.prune_session_events("ses_1", asm.RetentionPolicy(max_events_per_session=2))
    stored = other.append_event(an_event())
    assert waiting.result(2 * SOON_S) == [stored]


# Ends.


class Held(NamedTuple):
    """A store whose only connection a transaction has."""

    store: Any
    waiting: Future[Any]


@contextmanager
def held(
    kind: str, migrated: str, opened: Callable[..., Any], threads: ThreadPoolExecutor, work: Any
) -> Iterator[Held]:
    in_memory = kind == "sqlite"
    store = opened("sqlite://", migrate=True) if in_memory else opened(migrated, min_size=1, max_size=1)
    waiting = asleep(store, threads, lambda: work(store))
    with store.transaction() as tx:
        tx.get_latest_sequence("ses_1")
        yield Held(store, waiting)


def test_waiting_ends_in_time_where_a_look_takes_longer(
    kind: str, migrated: str, opened: Callable[..., Any], threads: ThreadPoolExecutor
) -> None:
    def work(store: Any) -> Any:
        return store.get_events("ses_1", wait_timeout=1), time.monotonic()

    began = time.monotonic()
    with held(kind, migrated, opened, threads, work) as (_, waiting):
        found, ended = waiting.result(SOON_S)
    assert found == []
    assert ended - began < SOON_S / 2


def test_waiting_ends_in_time_where_others_append_during_every_question(
    store: Any, colour: Colour, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = getattr(store, "_target", store)._database
    run, asked = database.run, list[object]()

    def append_beside(question: Any) -> Any:
        asked.append(question)
        assert len(asked) < 1_000
        return run(append_event(an_event()))

    def ask(question: Any) -> Any:
        found = run(question)
        append_beside(question)
        return found

    async def ask_async(question: Any) -> Any:
        found = await run(question)
        await append_beside(question)
        return found

    monkeypatch.setattr(database, "run", ask if colour == "sync" else ask_async)
    assert store.get_events("ses_1", type="acme.absent", wait_timeout=0.1) == []
    assert asked


def test_who_waits_holds_no_connection(
    kind: str, migrated: str, opened: Callable[..., Any], threads: ThreadPoolExecutor
) -> None:
    def work(store: Any) -> Any:
        return store.get_events("ses_1", wait_timeout=SOON_S)

    with held(kind, migrated, opened, threads, work) as (store, waiting):
        pass
    store.append_event(an_event())
    assert numbers(waiting.result(SOON_S)) == [1]


@pytest.mark.usefixtures("nobody_looks")
def test_closing_a_store_ends_all_waiting(store: Any, threads: ThreadPoolExecutor) -> None:
    waiting = [threads.submit(store.get_events, f"ses_{n}", wait_timeout=float("inf")) for n in range(8)]
    following = [threads.submit(lambda: list(store.follow_events("ses_1"))) for n in range(8)]
    until(lambda: len(waiters(store)) == 16)
    store.close()
    for each in waiting + following:
        assert isinstance(each.exception(SOON_S), asm.StoreClosed)


def test_what_keeps_a_store_from_looking_is_raised_at_all_who_wait(
    migrated: str, store: Any, threads: ThreadPoolExecutor
) -> None:
    waiting = [threads.submit(store.get_events, f"ses_{n}", wait_timeout=float("inf")) for n in range(8)]
    until(lambda: len(waiters(store)) == 8)
    fetch_rows(migrated, "alter table asm_session_sequences rename to elsewhere")
    errors = [each.exception(SOON_S) for each in waiting]
    assert {type(error) for error in errors} == {asm.MigrationRequired}
    assert len({id(error) for error in errors}) == 8


def test_after_an_error_one_can_wait_again(migrated: str, store: Any, threads: ThreadPoolExecutor) -> None:
    waiting = asleep(store, threads, lambda: store.get_events("ses_1", wait_timeout=float("inf")))
    fetch_rows(migrated, "alter table asm_session_sequences rename to elsewhere")
    assert waiting.exception(SOON_S)
    fetch_rows(migrated, "alter table elsewhere rename to asm_session_sequences")
    waiting = asleep(store, threads, lambda: store.get_events("ses_1", wait_timeout=SOON_S))
    store.append_event(an_event())
    assert numbers(waiting.result(2 * SOON_S)) == [1]


def test_when_nobody_waits_nobody_looks(store: Any, threads: ThreadPoolExecutor) -> None:
    waiting = asleep(store, threads, lambda: store.get_events("ses_1", wait_timeout=0.2))
    assert waiting.result(SOON_S) == []
    assert waiters(store) == []
    until(lambda: not looks(store))


def test_one_question_is_asked_for_all_who_wait(store: Any, threads: ThreadPoolExecutor) -> None:
    waiting = [threads.submit(store.get_events, f"ses_{n}", wait_timeout=float("inf")) for n in range(8)]
    until(lambda: len(waiters(store)) == 8)
    assert sorted(watch_of(store)._question().params["session_ids"]) == [f"ses_{n}" for n in range(8)]
    store.append_events(an_event(f"ses_{n}") for n in range(8))
    assert all(each.result(SOON_S) for each in waiting)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("place", ["a file", "memory"])
def test_sqlite_answers_a_look_only_where_something_was_written_or_others_are_looked_for(
    place: str, migrated: str
) -> None:
    with asm.SessionStore("sqlite://" if place == "memory" else migrated, migrate=True) as store:
        look = store._database.watch._look
        stood = [look(polling.find_counters(asked)) for asked in (["ses_1"], ["ses_1"], ["ses_1", "ses_2"])]
        store.append_event(an_event())
        moved = look(polling.find_counters(["ses_1", "ses_2"]))
    assert stood == [{}, None, {}]
    assert moved is not None
    assert list(moved) == ["ses_1"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_may_not_wait_in_its_parents_store(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        outcome = run_in_fork(lambda: store.get_events("ses_1", wait_timeout=SOON_S))
        assert outcome is asm.StoreClosed


def test_nobody_waits_in_a_store_that_is_not_open() -> None:
    async def main() -> None:
        await asm.AsyncSessionStore("sqlite://", migrate=True).get_events("ses_1", wait_timeout=SOON_S)

    with pytest.raises(asm.StoreClosed, match="not open"):
        asyncio.run(main())


def test_waiting_in_a_transaction_ends_in_time(store: Any) -> None:
    with store.transaction() as tx:
        assert tx.get_events("ses_1", wait_timeout=0.05) == []
        tx.append_event(an_event())
        assert numbers(list(tx.follow_events("ses_1", idle_timeout=0.05))) == [1]


@only(["postgres-18", "postgres-15"], why="a SQLite file has one writer, and it is the transaction")
def test_waiting_in_a_transaction_finds_what_others_commit(
    store: Any, other: Any, threads: ThreadPoolExecutor
) -> None:
    with store.transaction() as tx:
        tx.save_session(SESSION)
        waiting = threads.submit(tx.get_events, "ses_1", wait_timeout=SOON_S)
        stored = other.append_event(an_event())
        assert waiting.result(2 * SOON_S) == [stored]


# Cancelling.


def test_a_cancelled_waiter_leaves_nothing_behind(migrated: str) -> None:
    async def main() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            tasks = [
                asyncio.create_task(store.get_events("ses_1", wait_timeout=float("inf"))) for _ in range(8)
            ]
            await until_async(lambda: len(asleep_in_loop(store)) == 8)
            for task in tasks[1:]:
                task.cancel()
            await asyncio.wait(tasks[1:])
            assert len(waiters(store)) == 1
            await store.append_event(an_event())
            assert numbers(await tasks[0]) == [1]
            assert waiters(store) == []

    asyncio.run(main())


def test_a_follower_that_is_given_up_leaves_nothing_behind(migrated: str) -> None:
    async def main() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            await store.append_event(an_event())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    async for event in store.follow_events("ses_1"):
                        assert event.sequence_number == 1
            assert waiters(store) == []

    asyncio.run(main())


def test_a_look_that_is_cancelled_is_taken_again(migrated: str) -> None:
    async def main() -> None:
        async with asm.AsyncSessionStore(migrated) as store, asm.AsyncSessionStore(migrated) as other:
            waiting = asyncio.create_task(store.get_events("ses_1", wait_timeout=SOON_S))
            await until_async(lambda: watch_of(store)._looking, pause_s=0)
            look = watch_of(store)._looking
            look.cancel()
            await asyncio.wait([look])
            stored = await other.append_event(an_event())
            assert await waiting == [stored]

    asyncio.run(main())


# Crowds.

MANY = 1_000


@pytest.mark.parametrize("colour", ["sync"], indirect=True)
def test_a_thousand_tasks_wait_on_two_connections(migrated: str, colour: Colour, other: Any) -> None:
    async def main() -> list[list[asm.Event]]:
        async with asm.AsyncSessionStore(migrated, max_size=2) as store:
            tasks = [
                asyncio.create_task(store.get_events(f"ses_{n}", wait_timeout=4 * SOON_S))
                for n in range(MANY)
            ]
            await until_async(lambda: len(asleep_in_loop(store)) == MANY)
            await asyncio.to_thread(other.append_events, [an_event(f"ses_{n}") for n in range(MANY)])
            return await asyncio.gather(*tasks)

    found = asyncio.run(main())
    assert [events[0].session_id for events in found] == [f"ses_{n}" for n in range(MANY)]


@pytest.mark.parametrize("colour", ["sync"], indirect=True)
def test_a_thousand_threads_wait_on_two_connections(
    migrated: str, colour: Colour, opened: Callable[..., Any], other: Any
) -> None:
    store = opened(migrated, max_size=2)
    with ThreadPoolExecutor(MANY) as threads:
        waiting = [threads.submit(store.get_events, f"ses_{n}", wait_timeout=4 * SOON_S) for n in range(MANY)]
        until(lambda: len(waiters(store)) == MANY)
        other.append_events(an_event(f"ses_{n}") for n in range(MANY))
        found = [each.result(4 * SOON_S) for each in waiting]
    assert [events[0].session_id for events in found] == [f"ses_{n}" for n in range(MANY)]


def test_following_gives_what_is_there_and_what_comes(store: Any, other: Any) -> None:
    store.append_events(events_of("ses_1", 3))
    thread, results = in_thread(lambda: list(store.follow_events("ses_1", limit=6, page_size=2)))
    other.append_events(events_of("ses_1", 3))
    thread.join()
    assert numbers(results[0]) == [1, 2, 3, 4, 5, 6]


def test_following_starts_behind_a_number(store: Any) -> None:
    store.append_events(events_of("ses_1", 3))
    assert numbers(list(store.follow_events("ses_1", after=2, idle_timeout=0))) == [3]


def test_following_ends_when_nothing_came_for_so_long(store: Any) -> None:
    store.append_event(an_event())
    assert numbers(list(store.follow_events("ses_1", idle_timeout=0.05))) == [1]


def test_following_ends_where_nothing_more_can_come(store: Any) -> None:
    store.append_events(events_of("ses_1", 3))
    assert numbers(list(store.follow_events("ses_1", before=3))) == [1, 2]


def test_following_misses_nothing_and_repeats_nothing_while_many_append(store: Any, other: Any) -> None:
    thread, results = in_thread(lambda: numbers(list(store.follow_events("ses_1", limit=120, page_size=7))))
    writers = [in_thread(lambda: [other.append_event(an_event()) for _ in range(30)])[0] for _ in range(4)]
    for each in [*writers, thread]:
        each.join()
    assert results[0] == list(range(1, 121))


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", True])
def test_a_time_to_wait_is_a_number_of_seconds(store: Any, seconds: Any) -> None:
    with pytest.raises(asm.ValidationError, match="wait_timeout"):
        store.get_events("ses_1", wait_timeout=seconds)
    with pytest.raises(asm.ValidationError, match="idle_timeout"):
        store.follow_events("ses_1", idle_timeout=seconds)
