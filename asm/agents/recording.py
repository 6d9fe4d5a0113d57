"""Storing the events of a run, and showing them when they are stored.

Each event has an id made of the run's id, its attempt and a number, so that what is appended again after a
lost response is stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from asm.async_store import AsyncSessionStore
from asm.documents import Document
from asm.errors import ValidationError
from asm.models import Event, Run
from asm.operations.runs import lease
from asm.validation import a_type

Redact = Callable[[Event], Event]
Show = Callable[[Event], None]

REDACT_FAILED = "redact_failed"


class Redactor:
    """What is stored in place of an event: what the caller's function returns."""

    def __init__(self, redact: Redact | None) -> None:
        self._redact = redact

    def __call__(self, event: Event) -> Event:
        if self._redact is None:
            return event
        redacted = self._redact(event)
        if not isinstance(redacted, Event):
            raise ValidationError(f"redact must return an Event, not {a_type(redacted)}", path="redact")
        for name in ("id", "session_id", "run_id", "type"):
            if getattr(redacted, name) != getattr(event, name):
                raise ValidationError(f"redact must keep the {name} of an event", path="redact")
        return redacted

    def value(self, event: Event, name: str) -> tuple[Any, Event]:
        """One value of an event's data as it is to be stored, and the event to store without it."""
        redacted = self(event)
        data = dict(redacted.data)
        return data.pop(name, None), replace(redacted, data=data)


class _Made(NamedTuple):
    """An event as the caller sees it and as it is stored, and whether the caller sees it."""

    original: Event
    stored: Event
    shown: bool


class Recorder:
    """Makes the events of one attempt of a run, and appends them."""

    def __init__(self, store: AsyncSessionStore, run: Run, redact: Redactor, show: Show) -> None:
        self._store = store
        self._run = run
        self._redact = redact
        self._show = show
        self._prefix = event_id_prefix(run)
        self._number = 0
        self._made: list[_Made] = []
        """The events that are not stored yet."""
        self.events: list[Event] = []
        self.last_sequence: int | None = None

    def make(self, type: str, data: Document, correlation_id: str | None = None) -> Event:
        """An event of the run. Its data is checked here."""
        self._number += 1
        return Event(
            id=f"{self._prefix}{self._number:06d}",
            type=type,
            session_id=self._run.session_id,
            run_id=self._run.id,
            data=data,
            provider=self._run.provider,
            correlation_id=correlation_id,
        )

    def hold(self, event: Event, *, shown: bool = True) -> None:
        """Have an event stored with the next ones, in one transaction."""
        self.hold_as(event, self._redact(event), shown=shown)

    def hold_as(self, event: Event, stored: Event, *, shown: bool = True) -> None:
        self._made.append(_Made(event, stored, shown))

    @property
    def held(self) -> list[Event]:
        """The events to store next."""
        return [made.stored for made in self._made]

    def drop(self, number: int) -> None:
        """Forget the events that are held after the first `number`: they were not stored."""
        del self._made[number:]

    async def append(self) -> bool:
        """Append the events that are held. Returns whether others appended to the session meanwhile."""
        if not self._made:
            return False
        before = self.last_sequence
        stored = await self._store.append_events(self.held)
        self.confirm(stored)
        return stored[0].sequence_number != (before or 0) + 1

    def confirm(self, stored: Sequence[Event]) -> None:
        """Show the events that were held, which are stored now."""
        made, self._made = self._made, []
        for each, event in zip(made, stored, strict=True):
            if each.stored is not each.original:
                event = replace(each.original, sequence_number=event.sequence_number)
            self.events.append(event)
            if each.shown:
                self._show(event)
        self.last_sequence = stored[-1].sequence_number

    def show_transient(self, type: str, data: Document) -> None:
        """Show an event that is not stored."""
        self._show(
            Event(
                type=type,
                session_id=self._run.session_id,
                run_id=self._run.id,
                data=data,
                provider=self._run.provider,
            )
        )


def event_id_prefix(run: Run) -> str:
    """How the ids of the events of a run's last attempt begin."""
    attempt = lease(run).get("attempt", 1)
    return f"{run.id}." if attempt == 1 else f"{run.id}.{attempt}."


class Streamed:
    """The text of a message that is being streamed: all of it, and what is not stored of it."""

    BYTES_MAX = 4_096

    def __init__(self, *, keep_s: float | None) -> None:
        self.keep_s = keep_s
        self._pieces: list[str] = []
        self._unstored: list[str] = []
        self._unstored_size = 0

    def add(self, text: str) -> bool:
        """Add a piece. Returns whether it is the first of those to store."""
        self._pieces.append(text)
        if self.keep_s is None:
            return False
        self._unstored.append(text)
        self._unstored_size += len(text)
        return len(self._unstored) == 1

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def is_full(self) -> bool:
        return self._unstored_size >= self.BYTES_MAX

    def take_unstored(self) -> str:
        taken, self._unstored, self._unstored_size = "".join(self._unstored), [], 0
        return taken

    def clear(self) -> None:
        """Forget the message: it is complete."""
        self._pieces.clear()
        self.take_unstored()
