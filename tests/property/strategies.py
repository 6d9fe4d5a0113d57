"""Values that are JSON, and values that are not."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from hypothesis import strategies as st

Path: TypeAlias = list[str | int]

# JSON represents one character by such a pair, so it cannot represent the two surrogates.
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

AWKWARD = [
    "",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff!",
    "\ude00\ud83d",
    "\\u0000",
    '"',
    "\\",
    "\u2028",
    "\ufeff",
    "🎉",
    " ",
]


def texts() -> st.SearchStrategy[str]:
    """Any Unicode text, NUL and lone surrogates included."""
    anything = st.text(st.characters(exclude_categories=()), max_size=20)
    return st.one_of(st.sampled_from(AWKWARD), anything.filter(lambda text: not _SURROGATE_PAIR.search(text)))


def numbers() -> st.SearchStrategy[int | float]:
    """Integers of up to 4,300 digits, floats down to the smallest."""
    return st.one_of(
        st.integers(),
        st.integers(-(2**64), 2**64),
        st.builds(lambda digits, sign: sign * 10**digits, st.integers(18, 4_299), st.sampled_from([-1, 1])),
        st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=True),
        st.sampled_from([-0.0, 5e-324, 1.7976931348623157e308, 1e16, 2**53 + 1, 2**63, -(2**63) - 1]),
    )


def values() -> st.SearchStrategy[Any]:
    """Any JSON value."""
    leaves = st.one_of(st.none(), st.booleans(), numbers(), texts())
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=5), st.dictionaries(texts(), inner, max_size=5), _deeply_nested(inner)
        ),
        max_leaves=25,
    )


def documents() -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(texts(), values(), max_size=5)


def not_json() -> st.SearchStrategy[Any]:
    """Values that are not JSON."""
    return st.one_of(
        st.sampled_from([math.nan, math.inf, -math.inf, (), object(), {1}, frozenset(), 1j, len]),
        st.binary(max_size=3),
        st.tuples(st.integers()),
        st.builds(Decimal, st.integers()),
        st.builds(UUID, int=st.integers(0, 2**128 - 1)),
        st.datetimes(timezones=st.just(UTC)),
        st.dates(),
        st.dictionaries(st.one_of(st.integers(), st.none(), st.booleans()), st.integers(), min_size=1),
    )


def paths() -> st.SearchStrategy[Path]:
    """Paths into a document. They begin with a key, because a document is a dict."""
    key = st.text("abcdefgh", min_size=1, max_size=3)
    step: st.SearchStrategy[str | int] = st.one_of(key, st.integers(0, 3))
    return st.builds(lambda first, rest: [first, *rest], key, st.lists(step, max_size=5))


def nested_at(path: Path, value: Any) -> Any:
    """A document with the value at the path, and valid values next to it."""
    if not path:
        return value
    step, *rest = path
    if isinstance(step, str):
        return {"other": 1, step: nested_at(rest, value)}
    return [*range(step), nested_at(rest, value), "after"]


def path_text(name: str, path: Path) -> str:
    """The path in the form of `details["path"]`."""
    return name + "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in path)


def times() -> st.SearchStrategy[datetime]:
    return st.datetimes(timezones=st.just(UTC))


def _deeply_nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(_nested, inner, st.integers(1, 40), st.booleans())


def _nested(value: Any, depth: int, in_lists: bool) -> Any:
    for _ in range(depth):
        value = [value] if in_lists else {"": value}
    return value
