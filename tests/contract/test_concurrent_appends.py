"""Appends of many callers at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import asm
from tests.conftest import Where, an_event, events_of, numbers
from tests.contract.other_clients import fetch_rows

REFUSE_POISON = {
    "postgres": "alter table asm_events add constraint no_poison check (correlation_id <> 'poison')",
    "sqlite": (
        "create trigger no_poison before insert on asm_events when new.correlation_id = 'poison' "
        "begin select raise(abort, 'no poison'); end"
    ),
}


def concurrently(store: Any, *work: Callable[[], Any]) -> list[Any]:
    """The outcomes of calls that began while a transaction held their lock."""
    with ThreadPoolExecutor(len(work)) as threads:
        with store.transaction() as tx:
            tx.append_event(an_event())
            started = threading.Barrier(len(work) + 1)
            waiting = [threads.submit(_after, started, each) for each in work]
            started.wait()
        return [each.exception() or each.result() for each in waiting]


def _after(started: threading.Barrier, work: Callable[[], Any]) -> Any:
    started.wait()
    return work()


def appending(store: Any, event: asm.Event) -> Callable[[], Any]:
    return lambda: store.append_event(event)


def test_concurrent_appends_are_numbered_without_a_gap(store: Any) -> None:
    stored = concurrently(store, *(appending(store, an_event()) for _ in range(24)))
    assert sorted(numbers(stored)) == list(range(2, 26))


def test_an_event_the_database_refuses_fails_only_its_caller(
    where: Where, opened: Callable[..., Any]
) -> None:
    fetch_rows(where.dsn, REFUSE_POISON[where.dialect])
    store = opened(where.dsn)
    events = [an_event(correlation_id="poison" if n == 5 else None) for n in range(12)]
    outcomes = concurrently(store, *(appending(store, event) for event in events))
    assert isinstance(outcomes.pop(5), Exception)
    assert sorted(numbers(outcomes)) == list(range(2, 13))
    assert numbers(store.get_events("ses_1")) == list(range(1, 13))


def test_a_duplicate_among_concurrent_appends_returns_the_stored_event(store: Any) -> None:
    first = store.append_event(an_event())
    outcomes = concurrently(store, appending(store, first), *(appending(store, an_event()) for _ in range(8)))
    assert outcomes[0] == first
    assert sorted(numbers(outcomes[1:])) == list(range(3, 11))


def test_a_conflict_among_concurrent_appends_fails_only_its_caller(store: Any) -> None:
    outcomes = concurrently(
        store,
        lambda: store.append_event(an_event("other"), expected_sequence=7),
        *(appending(store, an_event()) for _ in range(8)),
    )
    assert isinstance(outcomes[0], asm.SequenceConflict)
    assert sorted(numbers(outcomes[1:])) == list(range(2, 10))


def test_concurrent_batches_are_contiguous(store: Any) -> None:
    batches = concurrently(
        store, *(lambda n=n: store.append_events(events_of("ses_1", n + 1)) for n in range(12))
    )
    for batch in map(numbers, batches):
        assert batch == list(range(batch[0], batch[0] + len(batch)))


def test_closing_during_appends_keeps_every_acknowledged_event(
    migrated: str, opened: Callable[..., Any]
) -> None:
    store = opened(migrated)
    begun = threading.Barrier(9)

    def work() -> list[str]:
        acknowledged = []
        begun.wait()
        try:
            while True:
                acknowledged.append(store.append_event(an_event()).id)
        except asm.StoreClosed:
            return acknowledged

    with ThreadPoolExecutor(8) as threads:
        working = [threads.submit(work) for _ in range(8)]
        begun.wait()
        store.get_latest_sequence("ses_1")
        store.close()
        acknowledged = {id for each in working for id in each.result()}
    events = opened(migrated).get_events("ses_1")
    assert acknowledged <= {event.id for event in events}
    assert numbers(events) == list(range(1, len(events) + 1))


@pytest.mark.parametrize("cancelled", [[0], [1], [5], [0, 1, 2, 3, 4, 5], [2, 3]])
def test_cancelled_tasks_do_not_fail_others(migrated: str, cancelled: list[int]) -> None:
    async def main() -> None:
        async with asm.AsyncSessionStore(migrated) as store:
            async with store.transaction() as tx:
                await tx.append_event(an_event())
                tasks = [asyncio.create_task(store.append_event(an_event())) for _ in range(12)]
                await asyncio.sleep(0)
                for index in cancelled:
                    tasks[index].cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            stored = [outcome for outcome in outcomes if isinstance(outcome, asm.Event)]
            assert len(stored) == len(tasks) - len(cancelled)
            kept = await store.get_events("ses_1")
            assert numbers(kept) == list(range(1, len(kept) + 1))
            assert set(stored) <= set(kept)

    asyncio.run(main())
