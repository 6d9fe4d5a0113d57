"""What a store promises to callers that wait for events."""

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
from asm.operations.appending import append_event
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


def poller_of(store: Any) -> Any:
    return getattr(store, "_target", store)._database.poller


def subscriptions(store: Any) -> list[polling.Subscription]:
    return [each for group in list(poller_of(store).subscriptions.values()) for each in list(group)]


def polls(store: Any) -> bool:
    """Whether the store polls. It begins when the first caller sleeps."""
    poller = poller_of(store)
    return any(getattr(poller, name, None) for name in ("_thread", "_timer", "_task"))


def sleeping_tasks(store: Any) -> list[Any]:
    """The subscriptions of an async store whose tasks found no events, and sleep."""
    return [each for each in subscriptions(store) if each._awake._waiters]  # type: ignore[attr-defined]


def sleeping(store: Any, threads: ThreadPoolExecutor, work: Callable[[], Any]) -> Future[Any]:
    """Work in a thread that found no events, and sleeps."""
    waiting = threads.submit(work)
    until(lambda: polls(store) or waiting.done())
    return waiting


def test_waiting_ends_when_another_store_appends_an_event(store: Any, other: Any) -> None:
    thread, results = in_thread(lambda: store.get_events("ses_1", wait_timeout=30))
    stored = other.append_event(an_event())
    thread.join()
    assert results == [[stored]]


def test_waiting_is_for_events_that_match_the_filters(store: Any, other: Any) -> None:
    thread, results = in_thread(lambda: store.get_events("ses_1", type="error_occurred", wait_timeout=30))
    other.append_events(events_of("ses_1", 3))
    stored = other.append_event(an_event(type="error_occurred"))
    thread.join()
    assert results == [[stored]]


def test_waiting_without_an_event_gives_nothing(store: Any) -> None:
    assert store.get_events("ses_1", wait_timeout=0.05) == []


def test_a_stored_event_is_returned_at_once(store: Any) -> None:
    stored = store.append_event(an_event())
    assert store.get_events("ses_1", wait_timeout=float("inf")) == [stored]


def test_with_a_limit_of_0_the_call_does_not_wait(store: Any) -> None:
    assert store.get_events("ses_1", limit=0, wait_timeout=float("inf")) == []


def test_waiting_for_ever_ends_when_an_event_is_appended(
    store: Any, other: Any, threads: ThreadPoolExecutor
) -> None:
    waiting = sleeping(store, threads, lambda: store.get_events("ses_1", wait_timeout=float("inf")))
    stored = other.append_event(an_event())
    assert waiting.result(SOON_S) == [stored]


def test_waiting_is_for_events_after_a_number(store: Any, other: Any, threads: ThreadPoolExecutor) -> None:
    waiting = sleeping(store, threads, lambda: store.get_events("ses_1", after=2, wait_timeout=SOON_S))
    stored = [(store if n % 2 else other).append_event(an_event()) for n in range(3)]
    assert waiting.result(SOON_S) == stored[2:]


def test_a_caller_is_woken_by_its_own_session_only(
    store: Any, other: Any, threads: ThreadPoolExecutor
) -> None:
    waiting = [threads.submit(store.get_events, f"ses_{n // 2}", wait_timeout=2 * SOON_S) for n in range(12)]
    until(lambda: len(subscriptions(store)) == 12)
    other.append_events(an_event(f"ses_{n}") for n in range(3))
    assert [len(each.result(SOON_S)) for each in waiting[:6]] == [1] * 6
    assert not any(each.done() for each in waiting[6:])
    store.append_events(an_event(f"ses_{n}") for n in range(3, 6))
    assert [len(each.result(SOON_S)) for each in waiting[6:]] == [1] * 6


# Events that the store appends itself.


@pytest.fixture
def no_further_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first poll, the next is so late that a test does not see it."""
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


@pytest.mark.usefixtures("no_further_poll")
@pytest.mark.parametrize("append", APPENDS)
def test_an_append_wakes_callers_of_the_same_store_without_a_poll(
    store: Any, threads: ThreadPoolExecutor, append: str
) -> None:
    waiting = sleeping(store, threads, lambda: store.get_events("ses_1", wait_timeout=SOON_S))
    APPENDS[append](store)
    assert waiting.result(2 * SOON_S)[0].sequence_number == 1


@pytest.mark.usefixtures("no_further_poll")
def test_appends_of_many_threads_wake_a_caller_of_the_same_store(
    store: Any, threads: ThreadPoolExecutor
) -> None:
    following = sleeping(store, threads, lambda: list(store.follow_events("ses_1", limit=40)))
    for each in [threads.submit(store.append_event, an_event()) for _ in range(40)]:
        each.result(SOON_S)
    assert numbers(following.result(SOON_S)) == list(range(1, 41))


@pytest.mark.usefixtures("no_further_poll")
def test_an_event_that_does_not_match_the_filters_does_not_end_waiting(
    store: Any, threads: ThreadPoolExecutor
) -> None:
    waiting = sleeping(
        store, threads, lambda: store.get_events("ses_1", type="error_occurred", wait_timeout=SOON_S)
    )
    for _ in range(20):
        store.append_event(an_event())
    stored = store.append_event(an_event(type="error_occurred"))
    assert waiting.result(2 * SOON_S) == [stored]


@pytest.mark.usefixtures("no_further_poll")
def test_a_rolled_back_append_wakes_no_caller(store: Any, threads: ThreadPoolExecutor) -> None:
    waiting = sleeping(store, threads, lambda: store.get_events("ses_1", wait_timeout=SOON_S))
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        tx.append_event(an_event())
        raise ZeroDivisionError
    (subscription,) = subscriptions(store)
    assert not subscription._was_woken
    store.append_event(an_event())
    assert numbers(waiting.result(2 * SOON_S)) == [1]


# Sessions whose counter goes back.


def polled(store: Any) -> bool:
    """Whether each subscription has received its counter."""
    return bool(subscriptions(store)) and all(each._counter for each in subscriptions(store))


def test_waiting_goes_on_when_a_session_is_deleted_and_begun_again(
    store: Any, other: Any, threads: ThreadPoolExecutor
) -> None:
    other.append_events(events_of("ses_1", 2))
    waiting = threads.submit(store.get_events, "ses_1", type="error_occurred", wait_timeout=SOON_S)
    until(lambda: polled(store))
    other.delete_session("ses_1")
    first, second = other.append_events([an_event(type="error_occurred"), an_event()])
    assert numbers([first, second]) == [1, 2]
    assert waiting.result(2 * SOON_S) == [first]


def test_waiting_goes_on_when_the_session_is_pruned(
    store: Any, other: Any, threads: ThreadPoolExecutor
) -> None:
    other.save_session(SESSION)
    other.append_events(events_of("ses_1", 5))
    waiting = sleeping(store, threads, lambda: store.get_events("ses_1", after=5, wait_timeout=SOON_S))
    other.maintenance.prune_session_events("ses_1", asm.RetentionPolicy(max_events_per_session=2))
    stored = other.append_event(an_event())
    assert waiting.result(2 * SOON_S) == [stored]


# How waiting ends.


class Held(NamedTuple):
    """A store whose only connection is in a transaction, and a call that waits."""

    store: Any
    waiting: Future[Any]


@contextmanager
def held(
    kind: str, migrated: str, opened: Callable[..., Any], threads: ThreadPoolExecutor, work: Any
) -> Iterator[Held]:
    in_memory = kind == "sqlite"
    store = opened("sqlite://", migrate=True) if in_memory else opened(migrated, min_size=1, max_size=1)
    waiting = sleeping(store, threads, lambda: work(store))
    with store.transaction() as tx:
        tx.get_latest_sequence("ses_1")
        yield Held(store, waiting)


def test_waiting_ends_in_time_when_a_poll_takes_longer(
    kind: str, migrated: str, opened: Callable[..., Any], threads: ThreadPoolExecutor
) -> None:
    def work(store: Any) -> Any:
        return store.get_events("ses_1", wait_timeout=1), time.monotonic()

    began = time.monotonic()
    with held(kind, migrated, opened, threads, work) as (_, waiting):
        found, ended = waiting.result(SOON_S)
    assert found == []
    assert ended - began < SOON_S / 2


def test_waiting_ends_in_time_when_others_append_during_every_query(
    store: Any, colour: Colour, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = getattr(store, "_target", store)._database
    run, operations = database.run, list[object]()

    def append_after(operation: Any) -> Any:
        operations.append(operation)
        assert len(operations) < 1_000
        return run(append_event(an_event()))

    def run_and_append(operation: Any) -> Any:
        found = run(operation)
        append_after(operation)
        return found

    async def run_and_append_async(operation: Any) -> Any:
        found = await run(operation)
        await append_after(operation)
        return found

    monkeypatch.setattr(database, "run", run_and_append if colour == "sync" else run_and_append_async)
    assert store.get_events("ses_1", type="acme.absent", wait_timeout=0.1) == []
    assert operations


def test_a_waiting_caller_holds_no_connection(
    kind: str, migrated: str, opened: Callable[..., Any], threads: ThreadPoolExecutor
) -> None:
    def work(store: Any) -> Any:
        return store.get_events("ses_1", wait_timeout=SOON_S)

    with held(kind, migrated, opened, threads, work) as (store, waiting):
        pass
    store.append_event(an_event())
    assert numbers(waiting.result(SOON_S)) == [1]


@pytest.mark.usefixtures("no_further_poll")
def test_closing_a_store_ends_all_waiting(store: Any, threads: ThreadPoolExecutor) -> None:
    waiting = [threads.submit(store.get_events, f"ses_{n}", wait_timeout=float("inf")) for n in range(8)]
    following = [threads.submit(lambda: list(store.follow_events("ses_1"))) for n in range(8)]
    until(lambda: len(subscriptions(store)) == 16)
    store.close()
    for each in waiting + following:
        assert isinstance(each.exception(SOON_S), asm.StoreClosed)


def test_the_error_of_a_poll_is_raised_in_all_callers(
    migrated: str, store: Any, threads: ThreadPoolExecutor
) -> None:
    waiting = [threads.submit(store.get_events, f"ses_{n}", wait_timeout=float("inf")) for n in range(8)]
    until(lambda: len(subscriptions(store)) == 8)
    fetch_rows(migrated, "alter table asm_session_sequences rename to elsewhere")
    errors = [each.exception(SOON_S) for each in waiting]
    assert {type(error) for error in errors} == {asm.MigrationRequired}
    assert len({id(error) for error in errors}) == 8


def test_after_the_error_of_a_poll_a_caller_can_wait_again(
    migrated: str, store: Any, threads: ThreadPoolExecutor
) -> None:
    waiting = sleeping(store, threads, lambda: store.get_events("ses_1", wait_timeout=float("inf")))
    fetch_rows(migrated, "alter table asm_session_sequences rename to elsewhere")
    assert waiting.exception(SOON_S)
    fetch_rows(migrated, "alter table elsewhere rename to asm_session_sequences")
    waiting = sleeping(store, threads, lambda: store.get_events("ses_1", wait_timeout=SOON_S))
    store.append_event(an_event())
    assert numbers(waiting.result(2 * SOON_S)) == [1]


def test_polling_ends_with_the_last_subscription(store: Any, threads: ThreadPoolExecutor) -> None:
    waiting = sleeping(store, threads, lambda: store.get_events("ses_1", wait_timeout=0.2))
    assert waiting.result(SOON_S) == []
    assert subscriptions(store) == []
    until(lambda: not polls(store))


def test_one_query_polls_for_all_callers(store: Any, threads: ThreadPoolExecutor) -> None:
    waiting = [threads.submit(store.get_events, f"ses_{n}", wait_timeout=float("inf")) for n in range(8)]
    until(lambda: len(subscriptions(store)) == 8)
    assert sorted(poller_of(store)._query().params["session_ids"]) == [f"ses_{n}" for n in range(8)]
    store.append_events(an_event(f"ses_{n}") for n in range(8))
    assert all(each.result(SOON_S) for each in waiting)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("place", ["a file", "memory"])
def test_sqlite_runs_a_poll_only_after_a_write_or_for_other_sessions(place: str, migrated: str) -> None:
    with asm.SessionStore("sqlite://" if place == "memory" else migrated, migrate=True) as store:
        poll = store._database.poller._poll
        empty = [poll(polling.poll_counters(ids)) for ids in (["ses_1"], ["ses_1"], ["ses_1", "ses_2"])]
        store.append_event(an_event())
        changed = poll(polling.poll_counters(["ses_1", "ses_2"]))
    assert empty == [{}, None, {}]
    assert changed is not None
    assert list(changed) == ["ses_1"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_cannot_wait_in_its_parents_store(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        outcome = run_in_fork(lambda: store.get_events("ses_1", wait_timeout=SOON_S))
        assert outcome is asm.StoreClosed


def test_a_signal_handler_cannot_wait_while_its_thread_changes_the_subscriptions() -> None:
    poller = polling.Poller(lambda _: {})
    with poller._locked():
        poller.notify(["ses_1"])
        with pytest.raises(asm.StorageError, match="re-entrant"), poller.subscribe("ses_1", 0, 1):
            pass
    with poller.subscribe("ses_1", 0, 1):
        assert list(poller.subscriptions) == ["ses_1"]


def test_waiting_in_a_store_that_is_not_open_is_refused() -> None:
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
def test_waiting_in_a_transaction_finds_events_that_others_commit(
    store: Any, other: Any, threads: ThreadPoolExecutor
) -> None:
    with store.transaction() as tx:
        tx.save_session(SESSION)
        waiting = threads.submit(tx.get_events, "ses_1", wait_timeout=SOON_S)
        stored = other.append_event(an_event())
        assert waiting.result(2 * SOON_S) == [stored]


# Cancelled callers.


def test_a_cancelled_task_leaves_no_subscription(migrated: str) -> None:
    async def main() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            tasks = [
                asyncio.create_task(store.get_events("ses_1", wait_timeout=float("inf"))) for _ in range(8)
            ]
            await until_async(lambda: len(sleeping_tasks(store)) == 8)
            for task in tasks[1:]:
                task.cancel()
            await asyncio.wait(tasks[1:])
            assert len(subscriptions(store)) == 1
            await store.append_event(an_event())
            assert numbers(await tasks[0]) == [1]
            assert subscriptions(store) == []

    asyncio.run(main())


def test_an_iterator_that_times_out_leaves_no_subscription(migrated: str) -> None:
    async def main() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            await store.append_event(an_event())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    async for event in store.follow_events("ses_1"):
                        assert event.sequence_number == 1
            assert subscriptions(store) == []

    asyncio.run(main())


def test_a_cancelled_poll_is_repeated(migrated: str) -> None:
    async def main() -> None:
        async with asm.AsyncSessionStore(migrated) as store, asm.AsyncSessionStore(migrated) as other:
            waiting = asyncio.create_task(store.get_events("ses_1", wait_timeout=SOON_S))
            await until_async(lambda: poller_of(store)._task, pause_s=0)
            poll = poller_of(store)._task
            poll.cancel()
            await asyncio.wait([poll])
            stored = await other.append_event(an_event())
            assert await waiting == [stored]

    asyncio.run(main())


# Many callers.

MANY = 1_000


@pytest.mark.parametrize("colour", ["sync"], indirect=True)
def test_a_thousand_tasks_wait_on_two_connections(migrated: str, colour: Colour, other: Any) -> None:
    async def main() -> list[list[asm.Event]]:
        async with asm.AsyncSessionStore(migrated, max_size=2) as store:
            tasks = [
                asyncio.create_task(store.get_events(f"ses_{n}", wait_timeout=4 * SOON_S))
                for n in range(MANY)
            ]
            await until_async(lambda: len(sleeping_tasks(store)) == MANY)
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
        until(lambda: len(subscriptions(store)) == MANY)
        other.append_events(an_event(f"ses_{n}") for n in range(MANY))
        found = [each.result(4 * SOON_S) for each in waiting]
    assert [events[0].session_id for events in found] == [f"ses_{n}" for n in range(MANY)]


def test_following_gives_stored_events_and_then_new_ones(store: Any, other: Any) -> None:
    store.append_events(events_of("ses_1", 3))
    thread, results = in_thread(lambda: list(store.follow_events("ses_1", limit=6, page_size=2)))
    other.append_events(events_of("ses_1", 3))
    thread.join()
    assert numbers(results[0]) == [1, 2, 3, 4, 5, 6]


def test_following_starts_after_a_number(store: Any) -> None:
    store.append_events(events_of("ses_1", 3))
    assert numbers(list(store.follow_events("ses_1", after=2, idle_timeout=0))) == [3]


def test_following_ends_when_no_event_arrives_for_the_idle_timeout(store: Any) -> None:
    store.append_event(an_event())
    assert numbers(list(store.follow_events("ses_1", idle_timeout=0.05))) == [1]


def test_following_ends_when_no_further_event_can_match(store: Any) -> None:
    store.append_events(events_of("ses_1", 3))
    assert numbers(list(store.follow_events("ses_1", before=3))) == [1, 2]


def test_following_misses_and_repeats_no_event_while_many_append(store: Any, other: Any) -> None:
    thread, results = in_thread(lambda: numbers(list(store.follow_events("ses_1", limit=120, page_size=7))))
    writers = [in_thread(lambda: [other.append_event(an_event()) for _ in range(30)])[0] for _ in range(4)]
    for each in [*writers, thread]:
        each.join()
    assert results[0] == list(range(1, 121))


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", True])
def test_a_timeout_must_be_a_number_of_seconds(store: Any, seconds: Any) -> None:
    with pytest.raises(asm.ValidationError, match="wait_timeout"):
        store.get_events("ses_1", wait_timeout=seconds)
    with pytest.raises(asm.ValidationError, match="idle_timeout"):
        store.follow_events("ses_1", idle_timeout=seconds)
