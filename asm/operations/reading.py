"""Reading the events of a session: at once, a page at a time, or as they are appended.

Waiting means to query again when the counter of the session has changed. The events are in the table, so none
can be missed, and a lost connection costs no more than a pause.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from asm.engine.polling import Poller, PollInTransaction
from asm.engine.script import AsyncDatabase, Database, Query
from asm.errors import ValidationError
from asm.models import Event
from asm.operations import events
from asm.operations.events import Types
from asm.validation import count, seconds

if TYPE_CHECKING:
    from asm.engine.async_polling import AsyncPoller, AsyncPollInTransaction


class Pollable(Database, Protocol):
    """A database, or one transaction of it, in which a caller can wait for events."""

    @property
    def poller(self) -> Poller | PollInTransaction: ...


class AsyncPollable(AsyncDatabase, Protocol):
    """The same, awaited."""

    @property
    def poller(self) -> AsyncPoller | AsyncPollInTransaction: ...


class LongPoll(NamedTuple):
    """A query that is repeated until it finds events, for at most `timeout_s` seconds."""

    query: Query[list[Event]]
    timeout_s: float


class Stream(NamedTuple):
    """A query that is sent for page after page. If it `follows`, each page may wait for events.

    Its iterator ends when no event arrives for `timeout_s`, and yields None each time that none arrives
    for `heartbeat_s`.
    """

    query: Query[list[Event]]
    page_size: int
    follows: bool
    timeout_s: float
    heartbeat_s: float = math.inf


def get_events(
    session_id: str,
    *,
    run_id: str | None = None,
    type: Types | None = None,
    since: datetime | None = None,
    after: int | None = None,
    before: int | None = None,
    limit: int | None = None,
    last: int | None = None,
    wait_timeout: float | None = None,
) -> LongPoll:
    """The events of a session in their order.

    `after` and `before` are sequence numbers, exclusive; `since` is a time, inclusive; `type`
    is one or several; `limit=0` gives nothing. `last=n` gives the newest n that match, in the same
    order, and cannot be combined with `limit`. When there is nothing to return, the call waits up
    to `wait_timeout` seconds for an event to be appended, by this process or another. It finds an
    event of this store at once, one of another store within 30 ms, and holds no connection while
    it waits.
    """
    query = events.get_events(
        session_id, run_id=run_id, type=type, since=since, after=after, before=before, limit=limit, last=last
    )
    timeout_s = seconds(wait_timeout, "wait_timeout") or 0.0
    return LongPoll(query, 0.0 if 0 in (limit, last) else timeout_s)


def iter_events(
    session_id: str,
    *,
    run_id: str | None = None,
    type: Types | None = None,
    since: datetime | None = None,
    after: int | None = None,
    before: int | None = None,
    limit: int | None = None,
    page_size: int = 1_000,
) -> Stream:
    """The events of a session in their order, read a page at a time, filtered as in `get_events`."""
    query = events.get_events(
        session_id, run_id=run_id, type=type, since=since, after=after, before=before, limit=limit
    )
    return Stream(query, count(page_size, "page_size", minimum=1), follows=False, timeout_s=0.0)


def follow_events(
    session_id: str,
    *,
    run_id: str | None = None,
    type: Types | None = None,
    since: datetime | None = None,
    after: int = 0,
    before: int | None = None,
    limit: int | None = None,
    page_size: int = 1_000,
    idle_timeout: float | None = None,
    heartbeat: float | None = None,
) -> Stream:
    """The events of a session in their order, and then further events as they are appended.

    Filtered as in `get_events`. The iterator ends when no event arrives for `idle_timeout` seconds,
    or when `limit` or `before` leave nothing to come; otherwise it goes on for ever. With `heartbeat`
    it yields None whenever no event has arrived for that many seconds, so that its caller can keep a
    connection alive, or stop. A None does not postpone the end by `idle_timeout`. If the server
    restarts and is back within the store's `retry_for`, the iterator goes on, and no event is missed or
    repeated.
    """
    query = events.get_events(
        session_id, run_id=run_id, type=type, since=since, after=after, before=before, limit=limit
    )
    timeout_s, heartbeat_s = seconds(idle_timeout, "idle_timeout"), seconds(heartbeat, "heartbeat")
    if heartbeat_s == 0:
        raise ValidationError("heartbeat must be more than 0 seconds", path="heartbeat")
    return Stream(
        query,
        count(page_size, "page_size", minimum=1),
        follows=True,
        timeout_s=math.inf if timeout_s is None else timeout_s,
        heartbeat_s=math.inf if heartbeat_s is None else heartbeat_s,
    )


def wait(database: Pollable, poll: LongPoll) -> list[Event]:
    if not poll.timeout_s:
        return database.run(poll.query)
    poll.query.waits = True
    with database.poller.subscribe(*_subscribed(poll)) as subscription:
        while not (found := database.run(poll.query)) and subscription.wait_for_change():
            pass
        return found


async def wait_async(database: AsyncPollable, poll: LongPoll) -> list[Event]:
    if not poll.timeout_s:
        return await database.run(poll.query)
    poll.query.waits = True
    with database.poller.subscribe(*_subscribed(poll)) as subscription:
        while not (found := await database.run(poll.query)) and await subscription.wait_for_change():
            pass
        return found


def stream(database: Pollable, pages: Stream) -> Iterator[Event | None]:
    after, remaining = pages.query.params["after"] or 0, pages.query.params["limit"]
    ends_at = _ends_at(pages)
    while (page := _page(pages, after, remaining, ends_at)) is not None:
        found = wait(database, page)
        yield from found
        if _is_last(pages, page, found):
            return
        if found:
            after, remaining = _next(found, remaining)
            ends_at = _ends_at(pages)
        else:
            yield None


async def stream_async(database: AsyncPollable, pages: Stream) -> AsyncIterator[Event | None]:
    after, remaining = pages.query.params["after"] or 0, pages.query.params["limit"]
    ends_at = _ends_at(pages)
    while (page := _page(pages, after, remaining, ends_at)) is not None:
        found = await wait_async(database, page)
        for event in found:
            yield event
        if _is_last(pages, page, found):
            return
        if found:
            after, remaining = _next(found, remaining)
            ends_at = _ends_at(pages)
        else:
            yield None


def _ends_at(pages: Stream) -> float:
    """When the iterator ends, if no further event arrives."""
    return time.monotonic() + pages.timeout_s


def _subscribed(poll: LongPoll) -> tuple[str, int, float]:
    """The session, the sequence number that new events exceed, and how long to wait."""
    params = poll.query.params
    return params["session_id"], params["after"] or 0, poll.timeout_s


def _page(pages: Stream, after: int, remaining: int | None, ends_at: float) -> LongPoll | None:
    """The page after a sequence number, or None if no event can follow."""
    before = pages.query.params["before"]
    size = pages.page_size if remaining is None else min(remaining, pages.page_size)
    if size == 0 or (before is not None and after + 1 >= before):
        return None
    params = {**pages.query.params, "after": after, "limit": size}
    timeout_s = min(max(ends_at - time.monotonic(), 0.0), pages.heartbeat_s)
    return LongPoll(Query(pages.query.query, params, pages.query.read), timeout_s)


def _is_last(pages: Stream, page: LongPoll, found: list[Event]) -> bool:
    if not found:
        # It waited until the end, and not only until the next heartbeat.
        return page.timeout_s < pages.heartbeat_s
    return len(found) < page.query.params["limit"] and not pages.follows


def _next(found: list[Event], remaining: int | None) -> tuple[int, int | None]:
    last = found[-1].sequence_number
    assert last is not None
    return last, None if remaining is None else remaining - len(found)
