"""Where a page ended, as text that asks for what follows.

A cursor holds the place of the page's last row, which no other row has in that order, so the
next page begins behind it whatever was added meanwhile. Before the place stands a checksum of
it and of the order it is a place in, which is how a cursor that was cut, mistyped or brought to
another search is known. It is no signature: whoever makes one up finds what any search finds.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar
from zlib import crc32

from asm.errors import InvalidCursor
from asm.validation import count, text

T = TypeVar("T")

Keyset: TypeAlias = Mapping[str, datetime | int | str]
"""What tells a row from all others in an order, by the names that a query has for it."""


@dataclass(frozen=True, slots=True)
class Order(Generic[T]):
    """An order in which one kind of thing is found, a page at a time."""

    kind: str
    name: str
    parameters: tuple[str, ...]
    place: Callable[[T], Keyset]

    def cursor(self, last: T) -> str:
        """The cursor for what follows the last of a page."""
        return self._written(self.place(last))

    def after(self, cursor: str | None) -> Keyset:
        """The place where a page starts, empty for the first. InvalidCursor for what is no cursor of ours."""
        if cursor is None:
            return {}
        if not isinstance(cursor, str):
            raise self._refused()
        try:
            place = self._read(cursor)
        except (ValueError, OverflowError) as error:
            raise self._refused() from error
        # Written again it must be the same: that compares the checksum, and leaves no second
        # spelling of a cursor.
        if self._written(place) != cursor:
            raise self._refused()
        return place

    def _written(self, place: Keyset) -> str:
        values = "\0".join(_spelled(place[name]) for name in self.parameters).encode()
        checksum = crc32(f"{self.kind} {self.name} ".encode() + values)
        return urlsafe_b64encode(checksum.to_bytes(_CHECKSUM_BYTES, "big") + values).decode().rstrip("=")

    def _read(self, cursor: str) -> Keyset:
        decoded = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        values = decoded[_CHECKSUM_BYTES:].decode().split("\0")
        return {name: _READERS[name](value) for name, value in zip(self.parameters, values, strict=True)}

    def _refused(self) -> InvalidCursor:
        return InvalidCursor(
            f"this is no cursor of {self.kind} by {self.name}: give the cursor of the page before as it is, "
            "to the same search in the same order",
            path="cursor",
        )


_CHECKSUM_BYTES = 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _spelled(value: datetime | int | str) -> str:
    return str((value - _EPOCH) // _MICROSECOND if isinstance(value, datetime) else value)


def _moment(digits: str) -> datetime:
    return _EPOCH + int(digits) * _MICROSECOND


_READERS: Mapping[str, Callable[[str], Any]] = {
    "last_at": _moment,
    "last_tokens": lambda digits: count(int(digits), "tokens"),
    "last_session": partial(text, name="session_id"),
    "last_sequence": lambda digits: count(int(digits), "sequence_number"),
    "last_id": partial(text, name="id"),
}
