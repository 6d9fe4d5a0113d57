"""The errors of a session: events of certain types, and the failed results in the items of frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from asm import AsyncSessionStore, Event, EventType
from asm.content import FAILURES, ITEMS, ToolResult, read_content
from asm.web.budget import size_of

TYPES = (EventType.TOOL_CALL_FAILED, *FAILURES)
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
    typed, count, items = await asyncio.gather(
        _typed(store, session_id, 0, LISTED_MAX),
        store.query.count_events(session_ids=session_id, types=TYPES),
        _failed_items(store, session_id, 0, items_max=ITEMS_MAX),
    )
    listed = sorted([*typed, *items.failed])[:LISTED_MAX]
    return Errors(listed, count + len(items.failed), items.are_all)


async def next_error(store: AsyncSessionStore, session_id: str, after: int) -> int | None:
    """The number of the first error after an event."""
    typed, items = await asyncio.gather(
        _typed(store, session_id, after, 1),
        _failed_items(store, session_id, after, items_max=SOUGHT_MAX, failed_max=1),
    )
    return min([*typed, *items.failed], default=None)


async def _typed(store: AsyncSessionStore, session_id: str, after: int, limit: int) -> list[int]:
    # Errors are rare: of one type, the index by type finds the first ones.
    found = await asyncio.gather(
        *(store.get_events(session_id, type=type, after=after, limit=limit) for type in TYPES)
    )
    return _numbers(chain.from_iterable(found))


class _Items(NamedTuple):
    """The numbers of the items with failed results, and whether all items were read."""

    failed: list[int]
    are_all: bool


async def _failed_items(store: AsyncSessionStore, session_id: str, after: int, **limits: Any) -> _Items:
    # A session mostly has the items of one framework, or of none.
    found = await asyncio.gather(*(_failed_of(store, session_id, type, after, **limits) for type in ITEMS))
    return _Items([n for each in found for n in each.failed], all(each.are_all for each in found))


async def _failed_of(
    store: AsyncSessionStore,
    session_id: str,
    type: str,
    after: int,
    *,
    items_max: int,
    failed_max: int | None = None,
) -> _Items:
    failed: list[int] = []
    read, size = 0, 0
    while items := await store.get_events(session_id, type=type, after=after, limit=_BATCH):
        failed += _numbers(item for item in items if _has_failed(item))
        if len(items) < _BATCH:
            break
        read += len(items)
        size += sum(size_of(item.data) for item in items)
        is_enough = failed_max is not None and len(failed) >= failed_max
        if is_enough or read >= items_max or size > items_max * _CHARACTERS_PER_ITEM:
            return _Items(failed, are_all=False)
        after = items[-1].sequence_number or 0
    return _Items(failed, are_all=True)


def _has_failed(item: Event) -> bool:
    return any(each.failed for each in read_content(item.type, item.data).of(ToolResult))


def _numbers(events: Iterable[Event]) -> list[int]:
    return [event.sequence_number or 0 for event in events]
