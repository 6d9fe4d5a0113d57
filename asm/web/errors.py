"""The errors of a session: events of certain types, and the failed results in the items of frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from asm import AsyncSessionStore, Event, EventType
from asm.content import ITEMS, ToolResult, read_content
from asm.web.budget import size_of

TYPES = (
    EventType.TOOL_CALL_FAILED,
    EventType.ERROR_OCCURRED,
    EventType.POLICY_VIOLATION,
    EventType.RUN_FAILED,
    EventType.RUN_TIMEOUT,
    EventType.SESSION_FAILED,
)
"""The types of events that are errors."""

LISTED_MAX = 12

ITEMS_MAX = 1_000
"""The items of frameworks that are read for a page. Only their data says whether they are errors."""

SOUGHT_MAX = 20_000
"""The items that are read to find the next error when a person asks for it."""

_BATCH = 50
_CHARACTERS_PER_ITEM = 3_000


@dataclass(frozen=True, slots=True)
class Errors:
    """The numbers of the first errors of a session, and how many there are; more, if that is not all."""

    listed: list[int]
    count: int
    is_all: bool


async def find_errors(store: AsyncSessionStore, session_id: str) -> Errors:
    typed, count, (failed, is_all) = await asyncio.gather(
        store.get_events(session_id, type=TYPES, limit=LISTED_MAX),
        store.query.count_events(session_ids=session_id, types=TYPES),
        _failed_items(store, session_id, items_max=ITEMS_MAX),
    )
    listed = sorted([*_numbers(typed), *failed])[:LISTED_MAX]
    return Errors(listed, count + len(failed), is_all)


async def next_error(store: AsyncSessionStore, session_id: str, after: int) -> int | None:
    """The number of the first error after an event."""
    typed, (failed, _) = await asyncio.gather(
        store.get_events(session_id, type=TYPES, after=after, limit=1),
        _failed_items(store, session_id, after=after, items_max=SOUGHT_MAX, count_max=1),
    )
    return min([*_numbers(typed), *failed], default=None)


async def _failed_items(
    store: AsyncSessionStore, session_id: str, *, items_max: int, after: int = 0, count_max: int | None = None
) -> tuple[list[int], bool]:
    """The numbers of the items with failed results, and whether all items were read."""
    failed: list[int] = []
    read, size = 0, 0
    async for items in _batches(store, session_id, after):
        failed += _numbers([item for item in items if _has_failed(item)])
        read += len(items)
        size += sum(size_of(item.data) for item in items)
        is_enough = count_max is not None and len(failed) >= count_max
        if is_enough or read >= items_max or size > items_max * _CHARACTERS_PER_ITEM:
            return failed[:count_max], len(items) < _BATCH
    return failed, True


async def _batches(store: AsyncSessionStore, session_id: str, after: int) -> AsyncIterator[list[Event]]:
    while items := await store.get_events(session_id, type=ITEMS, after=after, limit=_BATCH):
        yield items
        if len(items) < _BATCH:
            return
        after = items[-1].sequence_number or 0


def _has_failed(item: Event) -> bool:
    return any(each.failed for each in read_content(item.type, item.data).of(ToolResult))


def _numbers(events: Sequence[Event]) -> list[int]:
    return [event.sequence_number or 0 for event in events]
