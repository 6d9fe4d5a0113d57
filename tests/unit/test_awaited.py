"""Blocking stores with awaited methods."""

from __future__ import annotations

import asyncio
import threading

import pytest

import asm
from asm.awaited import STORE_THREADS, at_once, in_threads, result_of


def an_event(number: int = 1) -> asm.Event:
    return asm.Event(id=f"e{number}", type="message_sent", session_id="s")


async def append_two(store: asm.AsyncSessionStore) -> list[int | None]:
    async def work(tx: asm.AsyncTransaction) -> list[int | None]:
        return [(await tx.append_event(an_event(number))).sequence_number for number in (1, 2)]

    numbers = await store.run_transaction(work)
    page = await store.query.search_events(session_ids="s")
    return [*numbers, len(page.items)]


def test_a_blocking_store_is_awaited_from_any_number_of_event_loops() -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        awaited = in_threads(store)

        assert asyncio.run(append_two(awaited)) == [1, 2, 2]
        assert asyncio.run(append_two(awaited)) == [1, 2, 2]


def test_all_that_awaits_one_store_shares_its_threads() -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        before = set(threading.enumerate())
        kept = [in_threads(store) for _ in range(2 * STORE_THREADS)]
        for awaited in kept:
            assert asyncio.run(awaited.get_events("s")) == []
        assert len(set(threading.enumerate()) - before) <= STORE_THREADS


def test_a_blocking_store_is_used_without_an_event_loop() -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        assert result_of(append_two(at_once(store))) == [1, 2, 2]


def test_the_error_of_a_method_is_raised_where_it_is_awaited() -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        with pytest.raises(asm.SessionNotFound):
            asyncio.run(in_threads(store).get_session("s"))
        with pytest.raises(asm.SessionNotFound):
            result_of(at_once(store).get_session("s"))


def test_the_event_loop_goes_on_while_a_method_waits() -> None:
    released = threading.Event()

    async def update_and_release(store: asm.AsyncSessionStore) -> None:
        loop, waiting = asyncio.get_running_loop(), asyncio.Event()

        def change(session: asm.Session) -> asm.Session:
            loop.call_soon_threadsafe(waiting.set)
            assert released.wait(60)
            return session

        update = asyncio.create_task(store.update_session("s", change))
        await waiting.wait()
        released.set()
        await update

    with asm.SessionStore("sqlite://", migrate=True) as store:
        store.save_session(asm.Session(id="s", agent_id="a"))
        asyncio.run(update_and_release(in_threads(store)))


def test_a_call_that_waits_for_something_else_is_refused() -> None:
    with pytest.raises(RuntimeError, match="awaited something that is not done: "):
        result_of(asyncio.sleep(0))
