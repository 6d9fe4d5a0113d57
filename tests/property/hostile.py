"""Values that a store must accept or refuse in the same way on every database."""

from __future__ import annotations

import math
import random
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asm


class CallersError(Exception):
    """Raised by an iterator or a callback of the caller. A store passes it on."""


def raising(*_: object, **__: object) -> Any:
    raise CallersError


class Colour(StrEnum):
    RED = "red"
    DOTTED = "acme.dotted"


class OldColour(str, Enum):  # noqa: UP042
    RED = "red"


class Number(IntEnum):
    ONE = 1
    HUGE = 2**70


class NotText(Enum):
    PENDING = "pending"


@dataclass
class Plain:
    id: str = "ses_1"


class Timestamp(datetime):
    """A datetime of another library, with a format of its own."""

    def isoformat(self, *_: object, **__: object) -> str:
        return "tomorrow"


def _recursive_list() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


def _recursive_dict() -> dict[str, Any]:
    inner: dict[str, Any] = {}
    inner["a"] = inner
    return inner


def _nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = None
    for _ in range(depth):
        value = wrap(value)
    return value


def _raising_after(*values: Any) -> Iterator[Any]:
    yield from values
    raise CallersError


TEXTS = [
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "x\udfff",
    "'",
    '"',
    "'; drop table asm_events; --",
    "%",
    "%s",
    "%(id)s",
    ":id",
    "?1",
    "$1",
    "{}",
    "{a,b}",
    "[]",
    "null",
    "NULL",
    "\\",
    "\n",
    "é",
    "e\u0301",
    "İ",
    "ß",
    "\u202e",
    "\ufeff",
    "a\u200b\u3164\ufe0f\U000e0041",
    "\uffff",
    "\U0010ffff",
    "🎉" * 255,
    "x" * 255,
    "x" * 256,
    "x" * 300_000,
    ".",
    "a.b",
    "acme." + "x" * 300,
    "acme.\0",
    "acme.\ud800",
    "nan",
    "-1",
    "2025-01-01",
    "2025-01-01T00:00:00+25:00",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
]

_ENUM_MEMBERS: list[Any] = [
    *(Colour.RED, Colour.DOTTED, OldColour.RED, NotText.PENDING, Number.ONE, Number.HUGE),
    *(asm.SessionStatus.ACTIVE, asm.RunStatus.TIMEOUT, asm.EventType.RUN_STARTED),
]

_NUMBERS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 1_000, 1_001),
    *(10**12, 10**12 + 1, 2**31, 2**53, 2**63 - 2, 2**63 - 1, 2**63, -(2**63) - 1),
    *(2**64, 10**400, 10**5_000, -(10**5_000), 0.0, -0.0, 0.5, 1.0, 1e16, 1e308, 5e-324, 1j),
    *(math.nan, math.inf, -math.inf, Decimal(1), Decimal("NaN"), Decimal("sNaN"), Fraction(1, 3)),
]

_TIMES: list[Any] = [
    datetime(2025, 1, 1),
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))),
    datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=23, minutes=59, seconds=59, microseconds=999999))),
    Timestamp(2025, 1, 1, tzinfo=UTC),
    Timestamp(2025, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    date(2025, 1, 1),
    timedelta(days=1),
    datetime.now(UTC).time(),
]

_COLLECTIONS: list[Callable[[], Any]] = [
    list,
    lambda: (),
    lambda: set[Any](),
    dict,
    lambda: [None],
    lambda: [[]],
    lambda: ["a", 1],
    lambda: ("a", "a"),
    lambda: {"a", "b"},
    lambda: ["\0"],
    lambda: ["\ud800", "a"],
    lambda: ["x" * 300],
    lambda: [Colour.RED],
    lambda: [object()],
    lambda: {"a": 1},
    lambda: {1: 2},
    lambda: {None: None},
    lambda: {"": {"": [{}]}},
    lambda: {"a": math.nan},
    lambda: {"a": (1,)},
    lambda: {"a": b"a"},
    lambda: {"a": object()},
    lambda: {"a": "\ud83d\ude00"},
    lambda: {"\ud83d\ude00": 1},
    lambda: {"a": "\0\ud800", "b": 10**4_000},
    lambda: {"a": 10**5_000},
    lambda: {"model": "\0", "input_tokens": -1},
    lambda: {"input_tokens": 10**12 + 1},
    lambda: {"input_tokens": 10**12, "output_tokens": 10**12},
    lambda: {"input_tokens": True, "total_tokens": 1.5},
    lambda: {"input_tokens": Number.HUGE},
    lambda: {"default": {"input": 10**400, "output": 1}},
    lambda: {"claude": {"default": {"input": math.nan, "output": 1}}},
    lambda: {"claude": {"default": {"input": 10**5_000, "output": 1}}},
    lambda: {"claude": {"models": {"": {"input": 1, "output": 1}}}},
    lambda: {"claude": _recursive_dict()},
    lambda: MappingProxyType({"a": 1}),
    _recursive_list,
    _recursive_dict,
    lambda: _nested(600, lambda inner: [inner]),
    lambda: {"a": _nested(499, lambda inner: [inner])},
    lambda: {"a": _nested(499, lambda inner: {"a": inner})},
    lambda: {"a": _nested(30_000, lambda inner: [inner])},
    lambda: {"a": _nested(30_000, lambda inner: {"a": inner})},
    lambda: range(3),
    lambda: iter([]),
    lambda: iter(["a", "b"]),
    lambda: (each for each in ["active", "failed"]),
    lambda: (each for each in [1, None]),
    _raising_after,
    lambda: _raising_after("a"),
]

_OBJECTS: list[Callable[[], Any]] = [
    object,
    Plain,
    lambda: b"",
    lambda: b"ses_1\xff",
    lambda: bytearray(b"a"),
    lambda: memoryview(b"a"),
    lambda: Ellipsis,
    lambda: NotImplemented,
    lambda: ValueError("x"),
    lambda: len,
    lambda: raising,
    lambda: str,
    lambda: asm.Event,
    lambda: asm,
    lambda: uuid.UUID(int=1),
    lambda: Path("/dev/null/x"),
    lambda: Path("\0"),
    lambda: re.compile("a"),
    lambda: slice(1),
]


def _constants(values: list[Any]) -> list[Callable[[], Any]]:
    return [partial(lambda value: value, value) for value in values]


_CONSTANTS: tuple[list[Any], ...] = (TEXTS, _ENUM_MEMBERS, _NUMBERS, _TIMES)
_KINDS = [*map(_constants, _CONSTANTS), _COLLECTIONS, _OBJECTS]


def any_value(rng: random.Random) -> Any:
    """One of the values above; each kind is equally likely."""
    return rng.choice(rng.choice(_KINDS))()


def altered(text: str, rng: random.Random) -> Any:
    """The text shortened, lengthened or with one character replaced."""
    at = rng.randrange(len(text) + 1)
    return rng.choice(
        [
            text[:at],
            text[at:],
            text[:at] + rng.choice("Aa9-_=+/ é\0\n") + text[at:],
            text[:at] + rng.choice("Aa9-_=") + text[at + 1 :],
            text + "=",
            text + text,
            text.swapcase(),
            text.encode(),
        ]
    )
