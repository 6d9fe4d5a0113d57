"""Waiting for new events by tasks of one event loop. `polling` describes it, and has it for threads."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from asm.engine.polling import (
    POLL_INTERVAL_MIN_S,
    BasePollInTransaction,
    Counters,
    Subscription,
    Subscriptions,
    poll_interval_s,
)
from asm.engine.script import Query
from asm.engine.shielding import check_loop

AsyncPoll: TypeAlias = Callable[[Query[Counters]], Awaitable[Counters | None]]


class AsyncPoller(Subscriptions["_TaskSubscription"]):
    """The subscriptions of tasks. Each poll is a task of its own; between two polls there is only a timer."""

    def __init__(self, poll: AsyncPoll) -> None:
        super().__init__()
        self._poll = poll
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._pause_s = POLL_INTERVAL_MIN_S

    def subscribe(self, session_id: str, after: int, timeout_s: float) -> _TaskSubscription:
        check_loop(self._loop)
        return _TaskSubscription(self, session_id, after, timeout_s)

    def start(self) -> None:
        if self._timer is None and self._task is None:
            self._timer = self._loop.call_later(self._pause_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self.subscriptions:
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(self._end)

    async def _run(self) -> None:
        began = time.monotonic()
        try:
            self._update(await self._poll(self._query()) or {})
        except Exception as error:
            self._fail(error)
        self._pause_s = poll_interval_s(began)

    def _end(self, _task: asyncio.Task[None]) -> None:
        # Called as well if the task was cancelled.
        self._task = None
        if self.subscriptions:
            self.start()


class _TaskSubscription(Subscription):
    __slots__ = ("_awake",)

    def __init__(self, poller: AsyncPoller, session_id: str, after: int, timeout_s: float) -> None:
        super().__init__(poller, session_id, after, timeout_s)
        self._awake = asyncio.Event()

    def wake(self) -> None:
        self._awake.set()

    async def wait_for_change(self) -> bool:
        """Sleep until there may be new events. False: the time is up."""
        if self._is_over():
            return False
        await asyncio.sleep(self._pause_s())
        self._poller.start()
        remaining_s = self._remaining_s()
        try:
            async with asyncio.timeout(None if math.isinf(remaining_s) else remaining_s):
                await self._awake.wait()
        except TimeoutError:
            return False
        self._awake.clear()
        return self._woken()


class AsyncPollInTransaction(BasePollInTransaction):
    """The poller of a transaction, awaited."""

    async def wait_for_change(self) -> bool:
        """Sleep for an interval. False: the time is up."""
        if (pause_s := self._pause_s()) > 0:
            await asyncio.sleep(pause_s)
        return pause_s > 0
