"""Methods that are made of operations look like methods that somebody wrote."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from functools import partial

import pytest

import asm


def names_in_traceback(call: Callable[[], object]) -> list[str]:
    with pytest.raises(asm.SessionNotFound) as raised:
        call()
    return [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]


async def get_absent_session() -> None:
    async with asm.AsyncSessionStore("sqlite://", migrate=True) as store:
        await store.get_session("ses_absent")


def test_a_traceback_names_the_operation() -> None:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        names = names_in_traceback(partial(store.get_session, "ses_absent"))
    assert ("get_session" in names, "method" in names) == (True, False)


def test_a_traceback_names_the_awaited_operation() -> None:
    names = names_in_traceback(lambda: asyncio.run(get_absent_session()))
    assert ("get_session" in names, "method" in names) == (True, False)
