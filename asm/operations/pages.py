"""The rows that a search finds, a page at a time or one after another.

A query asks for one row more than the page holds, which shows whether there is a next page without
counting. The next page begins behind the last row of the page before, in an order that no two rows
share a place in, so pages neither skip nor repeat rows while others are added.

No search is a prepared statement: which index is best depends on how frequent a value is, and a
wrong choice costs more than planning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from asm.engine.script import AsyncDatabase, Database, Query, Rows, Script, UnitOfWork
from asm.models import Page
from asm.operations.cursors import Order

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Search(Generic[T]):
    """A search whose arguments are valid: its query, and how many rows a page has."""

    query: str
    filters: Mapping[str, Any]
    order: Order[T]
    limit: int
    read: Callable[[Rows], list[T]]

    def page(self, cursor: str | None = None) -> Query[Page[T]] | UnitOfWork[Page[T]]:
        """The first page, or the one that a cursor leads to."""
        after = self.order.after(cursor)
        if match_none(self.filters):
            return constant(Page(items=[], cursor=None))
        params = {**self.filters, self.order.name: True, **after, "limit": self.limit + 1}
        return Query(self.query, params, self._read_page, prepare=False)

    def _read_page(self, rows: Rows) -> Page[T]:
        items = self.read(rows[: self.limit])
        has_next = len(rows) > self.limit
        return Page(items=items, cursor=self.order.cursor(items[-1]) if has_next else None)


def iterate(database: Database, search: Search[T]) -> Iterator[T]:
    """The rows of all pages. Each page is queried when its first row is wanted."""
    page = database.run(search.page())
    yield from page
    while page.cursor is not None:
        page = database.run(search.page(page.cursor))
        yield from page


async def iterate_async(database: AsyncDatabase, search: Search[T]) -> AsyncIterator[T]:
    """The same, awaited."""
    page = await database.run(search.page())
    for item in page:
        yield item
    while page.cursor is not None:
        page = await database.run(search.page(page.cursor))
        for item in page:
            yield item


def match_none(filters: Mapping[str, Any]) -> bool:
    """Whether a filter without values, [], leaves nothing to find."""
    return () in filters.values()


def constant(result: T) -> UnitOfWork[T]:
    """A result that is known without a query."""

    def script() -> Script[T]:
        yield from ()
        return result

    return UnitOfWork(script, snapshot=True)
