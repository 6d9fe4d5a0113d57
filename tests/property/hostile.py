"""What nobody should give a store, and somebody will."""

from __future__ import annotations

import math
import random
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asm


class Theirs(Exception):
    """What the objects of a caller raise: no business of ours."""


def _raises(*_: object, **__: object) -> Any:
    raise Theirs


_DUNDERS = (
    *(
        "__repr__",
        "__str__",
        "__hash__",
        "__eq__",
        "__ne__",
        "__lt__",
        "__le__",
        "__gt__",
        "__ge__",
        "__bool__",
    ),
    *("__len__", "__iter__", "__next__", "__contains__", "__getitem__", "__int__", "__float__", "__index__"),
    *("__add__", "__radd__", "__format__", "__fspath__", "__reduce_ex__"),
)
_QUIET = ("__repr__", "__str__", "__hash__", "__eq__", "__ne__", "__bool__", "__format__", "__reduce_ex__")


def _with(base: type, names: Any, method: Callable[..., Any] = _raises) -> type:
    return type(f"Hostile{base.__name__.title()}", (base,), dict.fromkeys(names, method))


Sulking = _with(object, _QUIET)
"""Nothing can be done with it, not even be shown."""
Raging = _with(object, _DUNDERS)
SulkingText = _with(str, set(_DUNDERS) - {"__fspath__", "__next__", "__bool__", "__int__", "__float__"})
SulkingNumber = _with(int, set(_DUNDERS) - {"__fspath__", "__next__", "__iter__", "__len__"})
SulkingFloat = _with(float, set(_DUNDERS) - {"__fspath__", "__next__", "__iter__", "__len__", "__index__"})
SulkingDict = _with(
    dict, ["__iter__", "__getitem__", "__len__", "__eq__", "__contains__", "__repr__", "items", "keys"]
)
SulkingList = _with(list, ["__iter__", "__getitem__", "__len__", "__eq__", "__contains__", "__repr__"])
LyingText = _with(str, ["__eq__"], lambda *_: False)
LyingText.__hash__ = str.__hash__  # type: ignore[assignment]
ForgetfulText = _with(str, ["__hash__"], lambda self: random.getrandbits(60))
FlatteringNumber = _with(int, ["__lt__", "__le__", "__gt__", "__ge__", "__eq__"], lambda *_: True)
FlatteringNumber.__hash__ = int.__hash__  # type: ignore[assignment]
LyingDict = _with(dict, ["__len__"], lambda _: 0)
LyingList = _with(list, ["__len__"], lambda _: 7)


class Pretending:
    """What says that it is of a class of which it is not."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self._kind


class Colour(StrEnum):
    RED = "red"
    DOTTED = "acme.dotted"


class Number(IntEnum):
    ONE = 1
    HUGE = 2**70


class Odd(Enum):
    ONE = "pending"


@dataclass
class Plain:
    id: str = "ses_1"


class _Nowhere(tzinfo):
    dst = tzname = _raises

    def utcoffset(self, _: datetime | None) -> timedelta | None:
        return None


class _Refusing(tzinfo):
    utcoffset = dst = tzname = _raises


class _Strange(tzinfo):
    dst = tzname = _raises

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def utcoffset(self, _: datetime | None) -> Any:
        return self.answer


class OddMoment(datetime):
    """A datetime of a library that knows better."""

    def isoformat(self, *_: object, **__: object) -> str:
        return "tomorrow"

    def astimezone(self, *_: object) -> Any:
        return self

    def __sub__(self, _: object) -> Any:
        return timedelta(0)


class OddMapping(Mapping[Any, Any]):
    """Its keys are no keys."""

    def __getitem__(self, _: object) -> Any:
        raise Theirs

    def __iter__(self) -> Iterator[Any]:
        return iter(["id", 1])

    def __len__(self) -> int:
        return 2


def _recursive_list() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


def _recursive_dict() -> dict[str, Any]:
    inner: dict[str, Any] = {}
    inner["a"] = inner
    return inner


def _deep(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = None
    for _ in range(depth):
        value = wrap(value)
    return value


def _breaking(*values: Any) -> Iterator[Any]:
    yield from values
    raise Theirs


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

_TEXTS: list[Callable[[], Any]] = [partial(str, text) for text in TEXTS]

_TEXT_LIKE: list[Callable[[], Any]] = [
    lambda: Colour.RED,
    lambda: Colour.DOTTED,
    lambda: asm.SessionStatus.ACTIVE,
    lambda: asm.RunStatus.TIMEOUT,
    lambda: asm.EventType.RUN_STARTED,
    lambda: SulkingText("ses_1"),
    lambda: SulkingText("acme.sulking"),
    lambda: LyingText("ses_1"),
    lambda: ForgetfulText("ses_2"),
    lambda: LyingText("active"),
]

_NUMBERS: list[Callable[[], Any]] = [
    partial(lambda value: value, value)
    for value in [
        *(
            None,
            True,
            False,
            0,
            1,
            -1,
            2,
            1_000,
            1_001,
            2**31,
            2**53,
            2**63 - 2,
            2**63 - 1,
            2**63,
            -(2**63) - 1,
        ),
        *(2**64, 10**400, 10**5_000, -(10**5_000), 0.0, -0.0, 0.5, 1.0, 1e16, 1e308, 5e-324, 1j),
        *(math.nan, math.inf, -math.inf, Decimal(1), Decimal("NaN"), Decimal("sNaN"), Fraction(1, 3)),
        *(Number.ONE, Number.HUGE),
    ]
] + [
    lambda: SulkingNumber(1),
    lambda: SulkingNumber(-1),
    lambda: SulkingFloat(1.0),
    lambda: FlatteringNumber(-5),
    lambda: FlatteringNumber(2**70),
]

_MOMENTS: list[Callable[[], Any]] = [
    partial(lambda value: value, value)
    for value in [
        datetime(2025, 1, 1),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))),
        datetime(
            2025, 1, 1, tzinfo=timezone(timedelta(hours=23, minutes=59, seconds=59, microseconds=999999))
        ),
        datetime(2025, 1, 1, tzinfo=_Nowhere()),
        datetime(2025, 1, 1, tzinfo=_Refusing()),
        datetime(2025, 1, 1, tzinfo=_Strange(timedelta(days=3))),
        datetime(2025, 1, 1, tzinfo=_Strange("+01:00")),
        OddMoment(2025, 1, 1, tzinfo=UTC),
        OddMoment(2025, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        date(2025, 1, 1),
        timedelta(days=1),
        datetime.now(UTC).time(),
    ]
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
    lambda: [SulkingText("a")],
    lambda: [Sulking()],
    lambda: [LyingText("a"), LyingText("a")],
    lambda: {"a": 1},
    lambda: {1: 2},
    lambda: {None: None},
    lambda: {"": {"": [{}]}},
    lambda: {"a": math.nan},
    lambda: {"a": (1,)},
    lambda: {"a": b"a"},
    lambda: {"a": Sulking()},
    lambda: {"a": Raging()},
    lambda: {"a": "\ud83d\ude00"},
    lambda: {"\ud83d\ude00": 1},
    lambda: {"a": "\0\ud800", "b": 10**5_000},
    lambda: {"model": "\0", "input_tokens": -1},
    lambda: {"input_tokens": 2**63},
    lambda: {"input_tokens": 2**63 - 1, "output_tokens": 2**63 - 1},
    lambda: {"input_tokens": True, "total_tokens": 1.5},
    lambda: {"input_tokens": FlatteringNumber(-5)},
    lambda: {"default": {"input": 10**400, "output": 1}},
    lambda: {"claude": {"default": {"input": math.nan, "output": 1}}},
    lambda: {"claude": {"default": {"input": 10**5_000, "output": 1}}},
    lambda: {"claude": {"models": {"": {"input": 1, "output": 1}}}},
    lambda: {"claude": _recursive_dict()},
    lambda: SulkingDict(a=1),
    lambda: LyingDict(a=1),
    lambda: SulkingList([1]),
    lambda: LyingList(["a"]),
    lambda: MappingProxyType({"a": 1}),
    OddMapping,
    _recursive_list,
    _recursive_dict,
    lambda: _deep(600, lambda inner: [inner]),
    lambda: {"a": _deep(499, lambda inner: [inner])},
    lambda: {"a": _deep(499, lambda inner: {"a": inner})},
    lambda: {"a": _deep(30_000, lambda inner: [inner])},
    lambda: {"a": _deep(30_000, lambda inner: {"a": inner})},
    lambda: range(3),
    lambda: iter([]),
    lambda: iter(["a", "b"]),
    lambda: (each for each in ["active", "failed"]),
    lambda: (each for each in [1, None]),
    _breaking,
    lambda: _breaking("a"),
]

_OBJECTS: list[Callable[[], Any]] = [
    object,
    Sulking,
    Raging,
    Plain,
    lambda: Odd.ONE,
    lambda: Pretending(str),
    lambda: Pretending(int),
    lambda: Pretending(datetime),
    lambda: Pretending(dict),
    lambda: Pretending(asm.Event),
    lambda: Pretending(asm.Session),
    lambda: Pretending(asm.RetentionPolicy),
    lambda: b"",
    lambda: b"ses_1\xff",
    lambda: bytearray(b"a"),
    lambda: memoryview(b"a"),
    lambda: Ellipsis,
    lambda: NotImplemented,
    lambda: ValueError("x"),
    lambda: len,
    lambda: _raises,
    lambda: str,
    lambda: asm.Event,
    lambda: asm,
    lambda: uuid.UUID(int=1),
    lambda: Path("/dev/null/x"),
    lambda: Path("\0"),
    lambda: re.compile("a"),
    lambda: slice(1),
]

EVERYTHING: list[Callable[[], Any]] = [*_TEXTS, *_TEXT_LIKE, *_NUMBERS, *_MOMENTS, *_COLLECTIONS, *_OBJECTS]

_BY_KIND = [_TEXTS, _TEXT_LIKE, _NUMBERS, _MOMENTS, _COLLECTIONS, _OBJECTS]


def anything(rng: random.Random) -> Any:
    """Any of it, each kind as often as the others."""
    return rng.choice(rng.choice(_BY_KIND))()


def altered(text: str, rng: random.Random) -> Any:
    """Some text, cut, longer or with another character in it."""
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
