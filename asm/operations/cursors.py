"""Cursors: the end of a page, as text with which a search continues.

A cursor encodes the keyset of the last row of a page: the values by which the order sorts, which no
other row shares. So the next page starts after that row, whatever was added since. A checksum of
the keyset and of its order precedes it. It detects a cursor that was truncated, mistyped, or given to
another search. It is not a signature: a forged cursor returns nothing that a search would not.
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
"""The values by which an order sorts a row, by the names of the query's parameters."""


@dataclass(frozen=True, slots=True)
class Order(Generic[T]):
    """An order in which a search returns rows of one kind, a page at a time."""

    kind: str
    name: str
    parameters: tuple[str, ...]
    keyset: Callable[[T], Keyset]

    def cursor(self, last: T) -> str:
        """The cursor of the page that follows the page with this last row."""
        return self._encode(self.keyset(last))

    def after(self, cursor: str | None) -> Keyset:
        """The keyset after which a page starts, empty for the first page."""
        if cursor is None:
            return {}
        if not isinstance(cursor, str):
            raise self._invalid()
        if len(cursor) > _LENGTH_MAX:
            raise self._invalid()
        try:
            keyset = self._decode(cursor)
        except (ValueError, OverflowError) as error:
            raise self._invalid() from error
        # This compares the checksum, and refuses any other spelling of a valid cursor.
        if self._encode(keyset) != cursor:
            raise self._invalid()
        return keyset

    def _encode(self, keyset: Keyset) -> str:
        values = "\0".join(_encode_value(keyset[name]) for name in self.parameters).encode()
        checksum = crc32(f"{self.kind} {self.name} ".encode() + values)
        return urlsafe_b64encode(checksum.to_bytes(_CHECKSUM_BYTES, "big") + values).decode().rstrip("=")

    def _decode(self, cursor: str) -> Keyset:
        decoded = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        values = decoded[_CHECKSUM_BYTES:].decode().split("\0")
        return {name: _DECODERS[name](value) for name, value in zip(self.parameters, values, strict=True)}

    def _invalid(self) -> InvalidCursor:
        return InvalidCursor(
            f"not a cursor of {self.kind} by {self.name}: pass the cursor of the previous page unchanged, "
            "to the same search in the same order",
            path="cursor",
        )


_LENGTH_MAX = 4_096
"""Characters of a cursor. Two ids of the longest characters and a time have fewer than 2,800."""

_CHECKSUM_BYTES = 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _encode_value(value: datetime | int | str) -> str:
    return str((value - _EPOCH) // _MICROSECOND if isinstance(value, datetime) else value)


def _decode_time(digits: str) -> datetime:
    return _EPOCH + int(digits) * _MICROSECOND


_DECODERS: Mapping[str, Callable[[str], Any]] = {
    "last_at": _decode_time,
    "last_rank": lambda digits: count(int(digits), "rank"),
    "last_tokens": lambda digits: count(int(digits), "tokens"),
    "last_session": partial(text, name="session_id"),
    "last_sequence": lambda digits: count(int(digits), "sequence_number"),
    "last_id": partial(text, name="id"),
}
