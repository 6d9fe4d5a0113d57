"""Storing the events of a run, and showing them when they are stored.

Each event has an id made of the run's id, its attempt, a part of its claim and a number, so that what is
appended again after a lost response is stored once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from asm.async_store import AsyncSessionStore, run_operation
from asm.documents import Document, check_object
from asm.errors import ValidationError
from asm.models import Event, Run, event_from_row, event_type, now
from asm.operations.owned_runs import append_own
from asm.operations.runs import lease, owner
from asm.validation import a_type, optional_text

Redact = Callable[[Event], Event]
Show = Callable[[Event], object]


def redacted(redact: Redact | None, event: Event) -> Event:
    """What is stored in place of an event."""
    if redact is None:
        return event
    stored = redact(event)
    if not isinstance(stored, Event):
        raise ValidationError(f"redact must return an Event, not {a_type(stored)}", path="redact")
    for name in ("id", "session_id", "run_id", "type"):
        if getattr(stored, name) != getattr(event, name):
            raise ValidationError(f"redact must keep the {name} of an event", path="redact")
    return stored


def redact_failure(error: Exception) -> Document:
    """The data of the event that a run ended, where `redact` raised.

    Nothing of the event may be stored, not even the message of the exception.
    """
    return {"code": "redact_failed", "message": f"redact raised {type(error).__name__}"}


class _Held(NamedTuple):
    """An event as the caller sees it, and as it is stored; a delta is not stored, and some are not shown."""

    original: Event
    stored: Event | None
    is_shown: bool = True


class Recorder:
    """Makes the events of one attempt of a run, and appends them in their order."""

    def __init__(self, store: AsyncSessionStore, run: Run, redact: Redact | None, show: Show) -> None:
        self.events: list[Event] = []
        """The events that are stored, as the caller sees them."""
        self.changed = asyncio.Event()
        """There is something to append."""
        self._store = store
        self._run = run
        self._redact = redact
        self._show = show
        self._prefix = event_id_prefix(run)
        self._number = 0
        self._held: deque[_Held] = deque()

    def make(self, type: str, data: Document, correlation_id: str | None = None) -> Event:
        """An event of the run."""
        self._number += 1
        # What an adapter and a tool give is checked here. The rest is valid, and need not be checked again.
        return event_from_row(
            f"{self._prefix}{self._number:06d}",
            event_type(type, "type"),
            now(),
            self._run.session_id,
            self._run.id,
            None,
            check_object(data, "data"),
            {},
            1,
            self._run.provider,
            optional_text(correlation_id, "correlation_id"),
        )

    def hold(self, event: Event, *, is_shown: bool = True) -> None:
        """Have an event stored with the next ones, in one transaction."""
        self.hold_as(event, redacted(self._redact, event), is_shown=is_shown)

    def hold_as(self, event: Event, stored: Event, *, is_shown: bool = True) -> None:
        self._held.append(_Held(event, stored, is_shown))
        self.changed.set()

    def hold_with(self, type: str, data: Document, name: str, value: Any) -> Any:
        """Hold an event, and return a value as it is to be stored: redacted as data of the event."""
        event = self.make(type, data)
        if self._redact is None:
            self.hold_as(event, event)
            return value
        stored = redacted(self._redact, replace(event, data={**data, name: value}))
        kept = dict(stored.data)
        value = kept.pop(name, None)
        self.hold_as(event, replace(stored, data=kept))
        return value

    def redacted(self, event: Event) -> Event:
        return redacted(self._redact, event)

    def show_delta(self, type: str, data: Document) -> None:
        """Show an event that is not stored, after those that are held."""
        run = self._run
        event = Event(type=type, session_id=run.session_id, run_id=run.id, data=data, provider=run.provider)
        if self._held:
            self._held.append(_Held(event, None))
        else:
            self._show(event)

    @property
    def is_behind(self) -> bool:
        """Whether there are events to store."""
        return bool(self._held)

    @property
    def held(self) -> list[Event]:
        """The events to store next."""
        return [held.stored for held in self._held if held.stored is not None]

    def drop(self, number: int) -> None:
        """Forget the last events that are held: they were not stored."""
        for _ in range(number):
            self._held.pop()

    async def append(self) -> bool:
        """Append the events that are held. Returns whether others appended to the session meanwhile."""
        before = self.events[-1].sequence_number if self.events else None
        append = append_own(self._run, self.held)
        append.name = "append_events"
        stored = await run_operation(self._store, append)
        self.confirm(stored)
        return stored[0].sequence_number != (before or 0) + 1

    def confirm(self, stored: Sequence[Event]) -> None:
        """Show the first of the events that are held: they are stored now."""
        for event in stored:
            held = self._held.popleft()
            if held.stored is not held.original:
                event = replace(held.original, sequence_number=event.sequence_number)
            self.events.append(event)
            if held.is_shown:
                self._show(event)
            while self._held and self._held[0].stored is None:
                self._show(self._held.popleft().original)


def event_id_prefix(run: Run) -> str:
    """How the ids of the events of a run's last attempt begin.

    The random part of the owner tells them from older events of the same run: a fork has these without the
    row of the run, and an application may have replaced the row.
    """
    if (claimed_by := owner(run)) is None:
        return f"{run.id}."
    return f"{run.id}.{lease(run).get('attempt', 1)}.{str(claimed_by).rpartition(':')[2][:8]}."
