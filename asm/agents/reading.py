"""Reading what an adapter yields in one turn, so that a stop interrupts the adapter and no write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from asm.agents.protocol import AdapterEvent
from asm.agents.stopping import cancelled
from asm.errors import ValidationError
from asm.validation import a_type


class TurnReader:
    """Reads an adapter's iterator in a task of its own.

    The caller's task takes what has arrived, stores it, and is woken by `wake` when something else needs it.
    """

    def __init__(self, events: AsyncIterator[AdapterEvent]) -> None:
        if not hasattr(events, "__aiter__"):
            raise ValidationError(
                f"adapter.turn must return an async iterator of AdapterEvent, not {a_type(events)}",
                path="adapter.turn",
            )
        self._arrived: list[AdapterEvent] = []
        self._wakeup = asyncio.Event()
        self._task = asyncio.create_task(self._read(events))
        self._task.add_done_callback(lambda _: self.wake())

    @property
    def is_exhausted(self) -> bool:
        """Whether the turn has ended, and all its events were taken."""
        return self._task.done() and not self._arrived

    def wake(self) -> None:
        self._wakeup.set()

    async def take(self) -> list[AdapterEvent]:
        """The events that have arrived, at least one unless the turn has ended or `wake` was called."""
        await self._wakeup.wait()
        self._wakeup.clear()
        taken, self._arrived = self._arrived, []
        return taken

    def check(self) -> None:
        """Raise what the adapter raised, if the turn has ended so."""
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        """Have the adapter give its connection back."""
        await cancelled(self._task, "the adapter")

    async def _read(self, events: Any) -> None:
        try:
            async for event in events:
                if not isinstance(event, AdapterEvent):
                    raise ValidationError(
                        f"an adapter yields AdapterEvent, not {a_type(event)}", path="adapter.turn"
                    )
                if not isinstance(event.data, Mapping):
                    raise ValidationError(
                        f"the data of an AdapterEvent must be a dict, not {a_type(event.data)}",
                        path="adapter.turn",
                    )
                self._arrived.append(event)
                self.wake()
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()
