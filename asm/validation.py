"""Checks of values where they enter, shared by the models and the operations.

A check takes a value and the name it has in the caller's code. It returns the value as the plain
type that the databases take, or raises a ValidationError whose `path` is that name.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeAlias

from asm.errors import ValidationError

Texts: TypeAlias = str | Iterable[str]
"""One string or several."""

TEXT_LENGTH_MAX = 255
REFERENCE_LENGTH_MAX = 4_096
INTEGER_MAX = 2**63 - 1
"""The largest value of a 64-bit column."""

SEQUENCE_MAX = 2**53 - 1
"""The latest sequence number of an export. Many JSON readers represent larger integers inexactly."""

IMPORTED_SEQUENCE_MAX = 2**52
"""The latest sequence number that an import may bring. After it there is room for more appends than any
program will make, until the session could no longer be exported."""

VALUES_MAX = 100_000
"""The most values of one filter. Both databases take this many in one statement."""

TAGS_MAX = 1_000
"""The most tags of a session, and of a filter by tags. A query compares all of one with all of the other."""


# Strings.


def text(value: Any, name: str, length_max: int = TEXT_LENGTH_MAX) -> str:
    """A string that both databases store unchanged and find again."""
    if type(value) is not str:
        if not isinstance(value, str):
            raise ValidationError(f"{name} must be a string, not {type(value).__name__}", path=name)
        # str() of a `class X(str, Enum)` is the name of its member.
        value = str.__str__(value)
    if not value or len(value) > length_max:
        raise ValidationError(
            f"{name} must have 1 to {length_max:,} characters, not {len(value):,}", path=name
        )
    if "\0" in value:
        raise ValidationError(f"{name} contains a NUL character, which PostgreSQL cannot store", path=name)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValidationError(
                f"{name} contains a lone surrogate, which UTF-8 cannot encode", path=name
            ) from error
    return value  # type: ignore[no-any-return]


def optional_text(value: Any, name: str) -> str | None:
    return None if value is None else text(value, name)


def is_text(value: Any) -> bool:
    """Whether a text column can store the value."""
    try:
        return bool(text(value, ""))
    except ValidationError:
        return False


def texts(values: Any, name: str) -> tuple[str, ...]:
    """Several strings. A single string is refused: it would be read as a list of its characters."""
    if not is_collection(values):
        raise ValidationError(f"{name} must be a list of strings, not {type(values).__name__}", path=name)
    return not_too_many(tuple(text(value, f"{name}[{index}]") for index, value in enumerate(values)), name)


def check_tags(values: Any, name: str) -> tuple[str, ...]:
    """The tags of a session."""
    return not_too_many(texts(values, name), name, TAGS_MAX)


def text_filter(value: Any, name: str) -> tuple[str, ...] | None:
    """The distinct strings to search for, given as one string or several. None searches for all."""
    if value is None:
        return None
    if not is_collection(value):
        return (text(value, name),)
    distinct = dict.fromkeys(text(each, f"{name}[{index}]") for index, each in enumerate(value))
    return not_too_many(tuple(distinct), name)


def tag_filter(value: Any, name: str) -> tuple[str, ...] | None:
    """The distinct tags that a session must have."""
    distinct = text_filter(value, name)
    return None if distinct is None else not_too_many(distinct, name, TAGS_MAX)


def not_too_many(values: tuple[str, ...], name: str, number_max: int | None = None) -> tuple[str, ...]:
    number_max = VALUES_MAX if number_max is None else number_max
    if len(values) > number_max:
        raise ValidationError(
            f"{name} has {len(values):,} values, more than the maximum of {number_max:,}: give fewer, or "
            "split them over several calls",
            path=name,
        )
    return values


def is_collection(value: Any) -> bool:
    """Whether the value can be iterated over and is not a string."""
    return isinstance(value, Iterable) and not isinstance(value, str)


# Times.


def utc_datetime(value: Any, name: str) -> datetime:
    """An aware datetime, converted to UTC."""
    if type(value) is datetime and value.tzinfo is UTC:
        return value
    if not isinstance(value, datetime):
        raise ValidationError(f"{name} must be a datetime, not {type(value).__name__}", path=name)
    try:
        offset = value.utcoffset()
    except Exception as error:
        raise ValidationError(f"{name} has a time zone without a valid offset: {error}", path=name) from error
    if offset is None:
        raise ValidationError(f"{name} is naive: give it a time zone, as in datetime.now(UTC)", path=name)
    try:
        # Not astimezone(): it would keep a subclass, such as pandas.Timestamp.
        return datetime.combine(value.date(), value.time(), UTC) - offset
    except OverflowError as error:
        raise ValidationError(f"{name} is outside the years 1 to 9999 in UTC", path=name) from error


def optional_utc_datetime(value: Any, name: str) -> datetime | None:
    return None if value is None else utc_datetime(value, name)


def parse_time(value: Any, name: str) -> Any:
    """The datetime of a string in ISO 8601. Any other value is returned as it is."""
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise ValidationError(f"{name} is not a time in ISO 8601: {safe_repr(value)}", path=name) from error


# Numbers and flags.


def is_number(value: object) -> bool:
    """Whether the value is an int or a float. Python counts True and False as integers, asm does not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def count(value: Any, name: str, maximum: int = INTEGER_MAX, minimum: int = 0) -> int:
    """A whole number from the minimum to the maximum."""
    if type(value) is not int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValidationError(f"{name} must be a whole number, not {type(value).__name__}", path=name)
        value = int(value)
    if not minimum <= value <= maximum:
        raise ValidationError(
            f"{name} must be from {minimum} to {maximum:,}, not {safe_repr(value)}", path=name
        )
    return value  # type: ignore[no-any-return]


def optional_count(value: Any, name: str) -> int | None:
    return None if value is None else count(value, name)


def seconds(value: Any, name: str) -> float | None:
    """A duration that is not negative, or None."""
    if value is None:
        return None
    duration_s = value if is_number(value) else -1
    # Written so that NaN is refused, too.
    if not duration_s >= 0:
        raise ValidationError(
            f"{name} must be a number of seconds, 0 or more, not {safe_repr(value)}", path=name
        )
    try:
        return float(duration_s)
    except OverflowError:
        return float("inf")


def flag(value: Any, name: str) -> bool:
    """True or False. Other values are refused: the text "no", for one, is true in Python."""
    if type(value) is not bool:
        raise ValidationError(f"{name} must be True or False, not {safe_repr(value)}", path=name)
    return value


# Functions.


def plain_function(value: Any, name: str) -> Any:
    """A function that returns its result without being awaited."""
    if inspect.iscoroutinefunction(value):
        raise ValidationError(f"{name} must be a plain function, not a coroutine function", path=name)
    return function(value, name)


def function(value: Any, name: str) -> Any:
    if not callable(value):
        raise ValidationError(f"{name} must be a function, not {a_type(value)}", path=name)
    return value


def not_a_coroutine(result: Any, name: str) -> Any:
    """The result of a function of the caller's that is not awaited."""
    if inspect.iscoroutine(result):
        # Closed, or Python would warn that it was never awaited.
        result.close()
        raise ValidationError(f"{name} must be a plain function, and it returned a coroutine", path=name)
    return result


def awaitable(result: Any, name: str) -> Any:
    """The result of a function of the caller's that is awaited."""
    if not inspect.isawaitable(result):
        raise ValidationError(
            f"{name} must be a coroutine function (`async def`), and it returned {a_type(result)}", path=name
        )
    return result


# An application's own statements.


def statement(sql: Any) -> str:
    """The text of a statement. libpq would send a text with a NUL only up to it."""
    if not isinstance(sql, str):
        raise ValidationError(f"sql must be a string, not {a_type(sql)}", path="sql")
    if "\0" in sql:
        raise ValidationError(
            "sql contains a NUL character: remove it, and give values as params", path="sql"
        )
    return sql


def statement_values(params: Any) -> Any:
    """The values of a statement, as both drivers take them. sqlite3 takes a string for its characters."""
    if isinstance(params, str | bytes | bytearray) or not isinstance(params, Sequence | Mapping):
        raise ValidationError(
            f"params must be a list, a tuple or a dict of the values, not {a_type(params)}", path="params"
        )
    return params


# Dicts and messages.


def check_keys(values: Any, known: Iterable[str], owner: str) -> Mapping[str, Any]:
    """The mapping given to a `from_dict`, none of whose keys is unknown."""
    if not isinstance(values, Mapping):
        raise ValidationError(f"{owner}.from_dict takes a dict, not {type(values).__name__}")
    if unknown := [name for name in values if name not in known]:
        hint = did_you_mean(unknown[0], known)
        raise ValidationError(
            f"{owner} has no field {safe_repr(unknown[0])}{hint}; it has {', '.join(known)}"
        )
    return values


def safe_repr(value: object) -> str:
    """The repr of a value, shortened to fit into a message. Of a container only the beginning is read."""
    try:
        return f"{_REPR.repr(value):.80}"
    except Exception:
        return f"{a_type(value)} without a repr"


class _Repr(reprlib.Repr):
    """The repr of the standard library that shortens values, for integers and dicts of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = 80

    def repr_int(self, x: int, _level: int) -> str:
        # The time to convert an integer grows with the square of its digits.
        return repr(x) if x.bit_length() <= 128 else f"an integer of {x.bit_length():,} bits"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        # It would sort all keys.
        return super().repr_dict(dict(islice(x.items(), self.maxdict + 1)), level)

    def repr_set(self, x: set[Any], level: int) -> str:
        return super().repr_set(set(islice(x, self.maxset + 1)), level)

    def repr_frozenset(self, x: frozenset[Any], level: int) -> str:
        return super().repr_frozenset(frozenset(islice(x, self.maxfrozenset + 1)), level)

    def repr_instance(self, x: Any, _level: int) -> str:
        return repr(x)


_REPR = _Repr()


def a_type(value: object) -> str:
    """The name of the value's type with its article: "an int", "a set"; "None" for None."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """The part of a message that suggests the known name most like the value; "" if none is."""
    if not isinstance(value, str) or len(value) > TEXT_LENGTH_MAX:
        return ""
    # Imported here, because only errors need it.
    from difflib import get_close_matches

    nearest = get_close_matches(value.lower(), known, n=1, cutoff=0.75)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""
