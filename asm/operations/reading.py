"""Reading a session's events: at once, a page at a time, or as they come.

Waiting is asking again when the session has moved. The answer is in the table, so nothing can be
missed, and a lost connection costs no more than a pause.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from asm.engine.polling import AsyncPoller, AsyncPollInTransaction, Poller, PollInTransaction
from asm.engine.script import AsyncDatabase, Database, Query
from asm.errors import ValidationError
from asm.models import Event
from asm.operations import events
from asm.operations.events import Types
from asm.validation import count, is_number, safe_repr


class Pollable(Database, Protocol):
    """A database, or a transaction of one, in which one can wait."""

    @property
    def watch(self) -> Poller | PollInTransaction: ...


class AsyncPollable(AsyncDatabase, Protocol):
    """The same, awaited."""

    @property
    def watch(self) -> AsyncPoller | AsyncPollInTransaction: ...


class LongPoll(NamedTuple):
    """A question that is asked until it finds something, for so many seconds."""

    ask: Query[list[Event]]
    timeout_s: float


class Stream(NamedTuple):
    """A question that is asked for page after page."""

    ask: Query[list[Event]]
    page_size: int
    follows: bool
    timeout_s: float


def get_events(
    session_id: str,
    *,
    run_id: str | None = None,
    type: Types | None = None,
    since: datetime | None = None,
    after: int | None = None,
    before: int | None = None,
    limit: int | None = None,
    wait_timeout: float | None = None,
) -> LongPoll:
    """The events of a session in their order.

    `after` and `before` are sequence numbers, exclusive; `since` is a time, inclusive; `type`
    is one or several; `limit=0` gives nothing. When there is nothing to return, `wait_timeout`
    waits up to so many seconds for it to be appended, by this process or another. What the store
    appends is found at once, what others append within 30 ms; meanwhile no connection is held.
    """
    ask = events.get_events(
        session_id, run_id=run_id, type=type, since=since, after=after, before=before, limit=limit
    )
    timeout_s = seconds(wait_timeout, "wait_timeout") or 0.0
    return LongPoll(ask, 0.0 if ask.params["limit"] == 0 else timeout_s)


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
    ask = events.get_events(
        session_id, run_id=run_id, type=type, since=since, after=after, before=before, limit=limit
    )
    return Stream(ask, _at_least_one(page_size), follows=False, timeout_s=0.0)


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
) -> Stream:
    """The events of a session in their order, and then those that are appended, as they come.

    Filtered as in `get_events`. It goes on for ever, or until nothing came for `idle_timeout`
    seconds, or until `limit` or `before` leave nothing to come. A server that restarts meanwhile
    is no error if it is back within the store's `retry_for`, and no event is missed or repeated.
    """
    ask = events.get_events(
        session_id, run_id=run_id, type=type, since=since, after=after, before=before, limit=limit
    )
    timeout_s = seconds(idle_timeout, "idle_timeout")
    return Stream(
        ask,
        _at_least_one(page_size),
        follows=True,
        timeout_s=float("inf") if timeout_s is None else timeout_s,
    )


def wait(database: Pollable, wanted: LongPoll) -> list[Event]:
    if not wanted.timeout_s:
        return database.run(wanted.ask)
    with database.watch.waiting(*_awaited(wanted)) as waiter:
        while not (found := database.run(wanted.ask)) and waiter.wait_for_change():
            pass
        return found


async def wait_async(database: AsyncPollable, wanted: LongPoll) -> list[Event]:
    if not wanted.timeout_s:
        return await database.run(wanted.ask)
    with database.watch.waiting(*_awaited(wanted)) as waiter:
        while not (found := await database.run(wanted.ask)) and await waiter.wait_for_change():
            pass
        return found


def stream(database: Pollable, wanted: Stream) -> Iterator[Event]:
    left, after = wanted.ask.params["limit"], wanted.ask.params["after"] or 0
    while (page := _page(wanted, after, left)) is not None:
        found = wait(database, page)
        yield from found
        if _is_last(wanted, page, found):
            return
        after, left = _next(found, left)


async def stream_async(database: AsyncPollable, wanted: Stream) -> AsyncIterator[Event]:
    left, after = wanted.ask.params["limit"], wanted.ask.params["after"] or 0
    while (page := _page(wanted, after, left)) is not None:
        found = await wait_async(database, page)
        for event in found:
            yield event
        if _is_last(wanted, page, found):
            return
        after, left = _next(found, left)


def seconds(value: Any, name: str) -> float | None:
    """A length of time, not negative, or None."""
    if value is None:
        return None
    length = value if is_number(value) else -1
    # The comparison is this way round because NaN is no length of time either.
    if not length >= 0:
        raise ValidationError(
            f"{name} must be a number of seconds, 0 or more, not {safe_repr(value)}", path=name
        )
    try:
        return float(length)
    except OverflowError:
        return float("inf")


def _awaited(wanted: LongPoll) -> tuple[str, int, float]:
    """The session, the number that events must be behind, and for how long to wait for one."""
    params = wanted.ask.params
    return params["session_id"], params["after"] or 0, wanted.timeout_s


def _page(wanted: Stream, after: int, left: int | None) -> LongPoll | None:
    """The page behind a number, or None where nothing can follow."""
    before = wanted.ask.params["before"]
    size = wanted.page_size if left is None else min(left, wanted.page_size)
    if size == 0 or (before is not None and after + 1 >= before):
        return None
    params = {**wanted.ask.params, "after": after, "limit": size}
    return LongPoll(Query(wanted.ask.query, params, wanted.ask.read), wanted.timeout_s)


def _is_last(wanted: Stream, page: LongPoll, found: list[Event]) -> bool:
    return not found or (len(found) < page.ask.params["limit"] and not wanted.follows)


def _next(found: list[Event], left: int | None) -> tuple[int, int | None]:
    last = found[-1].sequence_number
    assert last is not None
    return last, None if left is None else left - len(found)


def _at_least_one(page_size: int) -> int:
    size = count(page_size, "page_size")
    if size == 0:
        raise ValidationError("page_size must be at least 1", path="page_size")
    return size
