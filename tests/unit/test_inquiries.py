"""What those are promised who want to know the same of a server at the same moment."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from asm.errors import ConnectionFailed
from asm.postgres import server_checks
from asm.postgres.server_checks import AsyncSingleFlight, SingleFlight

CROWD = 8


def test_threads_that_want_to_know_are_told_what_one_of_them_is() -> None:
    asked, ready = list[int](), threading.Barrier(CROWD)

    def ask() -> None:
        asked.append(1)
        time.sleep(0.2)
        raise ConnectionFailed("down")

    inquiry = SingleFlight(ask)

    def want_to_know() -> None:
        ready.wait()
        inquiry.answer()

    with ThreadPoolExecutor(CROWD) as threads:
        told = [each.exception() for each in [threads.submit(want_to_know) for _ in range(CROWD)]]
    assert len(asked) < CROWD
    assert {str(error) for error in told} == {"down"}
    assert len({id(error) for error in told}) == CROWD


def test_who_wants_to_know_later_asks_again() -> None:
    asked = list[int]()
    inquiry = SingleFlight(lambda: asked.append(1))
    inquiry.answer()
    inquiry.answer()
    assert len(asked) == 2


def test_where_the_one_who_asked_was_interrupted_another_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_checks, "LEADER_TIMEOUT_S", 0.01)
    asked = list[int]()
    inquiry = SingleFlight(lambda: asked.append(1))
    inquiry._under_way = server_checks._Flight()
    inquiry.answer()
    inquiry.answer()
    assert len(asked) == 2


def test_tasks_that_want_to_know_are_told_though_others_are_cancelled() -> None:
    asked = list[int]()

    async def main() -> list[object]:
        begun, over = asyncio.Event(), asyncio.Event()

        async def ask() -> None:
            asked.append(1)
            begun.set()
            await over.wait()
            raise ConnectionFailed("down")

        inquiry = AsyncSingleFlight(ask)
        waiting = [asyncio.create_task(inquiry.answer()) for _ in range(CROWD)]
        await begun.wait()
        waiting[0].cancel()
        over.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    cancelled, *told = asyncio.run(main())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [str(error) for error in told] == ["down"] * (CROWD - 1)
    assert len(asked) == 1


def test_tasks_that_want_to_know_later_ask_again() -> None:
    asked = list[int]()

    async def ask() -> None:
        asked.append(1)

    async def main() -> None:
        inquiry = AsyncSingleFlight(ask)
        await inquiry.answer()
        await inquiry.answer()

    asyncio.run(main())
    assert len(asked) == 2
