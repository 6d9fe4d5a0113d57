"""Searches by the words in the data of events: of events, and of the sessions that have such events.

Every event counts, whether it is in the index or not. Those that are not are read and compared here, in the
same snapshot, before the query that makes the page; it is given which of them match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import orjson

from asm.engine.script import Query, Row, Rows, Script, UnitOfWork, scalar
from asm.models import Event, Page, Session
from asm.operations import sessions
from asm.operations.cursors import Keyset, Order
from asm.operations.events import read_events
from asm.operations.pages import Search, match_none
from asm.operations.snippets import snippet
from asm.operations.text_index import check_text_index, find_unindexed
from asm.operations.text_queries import TextQuery
from asm.operations.words import TEXT_LENGTH_MAX, word_count, words_of

T = TypeVar("T", Event, Session)

RELEVANCE = "relevance"

_PAGE_SIZE = 200
"""The events that are read at a time of those that are not indexed."""


def _event_relevance(row: Row) -> Keyset:
    rank, session_id, number = row[-1], row[3], row[5]
    return {"last_rank": rank, "last_session": session_id, "last_sequence": number}


def _session_relevance(row: Row) -> Keyset:
    return {"last_rank": row[-1], "last_id": row[0]}


EVENT_RELEVANCE: Order[Any] = Order(
    "events", RELEVANCE, ("last_rank", "last_session", "last_sequence"), _event_relevance
)
SESSION_RELEVANCE: Order[Any] = Order("sessions", RELEVANCE, ("last_rank", "last_id"), _session_relevance)


@dataclass(frozen=True, slots=True)
class TextSearch(Search[T]):
    """A search by text. `snippets` makes those of a page, of its rows."""

    text: TextQuery
    snippets: Callable[[TextSearch[Any], Rows, str], Script[list[str]]]

    def page(self, cursor: str | None = None) -> UnitOfWork[Page[T]]:
        """The first page, or the one that a cursor leads to."""
        after = self.order.after(cursor)
        return UnitOfWork(partial(self._page, after), snapshot=True)

    def count(self, query: str) -> UnitOfWork[int]:
        """How many rows a query counts on all pages together."""
        return UnitOfWork(partial(self._count, query), snapshot=True)

    @property
    def is_ranked(self) -> bool:
        return self.order.name == RELEVANCE

    def _page(self, after: Keyset) -> Script[Page[T]]:
        yield from check_text_index()
        if match_none(self.filters):
            return Page(items=[], snippets=[])
        found = yield from _find_in_unindexed(self.text, ranked=self.is_ranked)
        params = {**self.filters, self.order.name: True, **after, "limit": self.limit + 1}
        if self.is_ranked:
            params["ranges"] = _ranges(self.text)
        rows = yield self._query(self.query, params, found)
        shown = rows[: self.limit]
        items = self.read([row[:-1] for row in shown] if self.is_ranked else shown)
        cursor = None
        if len(rows) > self.limit:
            last: Any = shown[-1] if self.is_ranked else items[-1]
            cursor = self.order.cursor(last)
        return Page(items=items, cursor=cursor, snippets=(yield from self.snippets(self, shown, found)))

    def _count(self, query: str) -> Script[int]:
        yield from check_text_index()
        if match_none(self.filters):
            return 0
        found = yield from _find_in_unindexed(self.text, ranked=False)
        number: int = scalar((yield self._query(query, self.filters, found)))
        return number

    def _query(self, query: str, params: Any, found: str) -> Query[Any]:
        return Query(query, {**params, "match": self.text.expression, "found": found}, list, prepare=False)

    def newest_matches(self, session_ids: Sequence[str], found: str) -> Query[Any]:
        """The newest event that matches in each session, with its data."""
        params = {"session_ids": tuple(session_ids), "length_max": TEXT_LENGTH_MAX}
        return self._query("find_matching_events", params, found)


def event_search(
    text: TextQuery, filters: dict[str, Any], order: Order[Any], limit: int
) -> TextSearch[Event]:
    query = "search_events_by_relevance" if order is EVENT_RELEVANCE else "search_events_by_text"
    return TextSearch(query, filters, order, limit, read_events, text, _event_snippets)


def session_search(
    text: TextQuery, filters: dict[str, Any], order: Order[Any], limit: int
) -> TextSearch[Session]:
    query = "search_sessions_by_relevance" if order is SESSION_RELEVANCE else "search_sessions_by_text"
    return TextSearch(query, filters, order, limit, sessions.read_sessions, text, _session_snippets)


def _event_snippets(search: TextSearch[Any], rows: Rows, _found: str) -> Script[list[str]]:
    yield from ()
    return [snippet(search.text, row[6]) for row in rows]


def _session_snippets(search: TextSearch[Any], rows: Rows, found: str) -> Script[list[str]]:
    """Of the newest event of each session that matches."""
    if not rows:
        return []
    ids = [row[0] for row in rows]
    newest = yield search.newest_matches(ids, found)
    data = dict[str, str](newest)
    # In an application's transaction, a session may have lost the event since.
    return [snippet(search.text, data.get(id, "")) for id in ids]


def _find_in_unindexed(text: TextQuery, *, ranked: bool) -> Script[str]:
    """Which of the events that are not in the index match, as JSON, with their relevance if it counts."""
    found: dict[tuple[str, int], int | None] = {}
    last: Row | None = None
    while True:
        rows = yield from find_unindexed(_PAGE_SIZE, after=last)
        for _, session_id, number, _, data in rows:
            words = words_of(data)
            if text.matches(words):
                found[session_id, number] = _relevance(text, words) if ranked else None
        if len(rows) < _PAGE_SIZE:
            break
        last = rows[-1]
    records = [
        {"session_id": session_id, "sequence_number": number, "rank": rank}
        for (session_id, number), rank in found.items()
    ]
    return orjson.dumps(records).decode()


def _relevance(text: TextQuery, words: list[str]) -> int:
    """Which part of the words are those sought, in millionths, as the queries calculate it.

    Fifty words are added, so that a text of one word is not the most relevant. It depends on the event and
    the text alone, and not on other events, so that pages by relevance neither skip nor repeat events while
    others are added.
    """
    return 1_000_000 * text.hits(words) // (word_count(words) + 50)


def _ranges(text: TextQuery) -> str:
    return orjson.dumps([{"first": first, "last": last} for first, last in text.ranges]).decode()
