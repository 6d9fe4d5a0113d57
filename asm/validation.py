"""What a value is, whatever its class makes of it.

A subclass compares, counts and spells as it likes, and a mock says that it is of a class of which it
is not. So what enters is looked at by the plain type's own means, and goes on as a plain value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from asm.errors import ValidationError


def is_instance(value: object, *kinds: type) -> bool:
    """Whether a value is of one of these classes, and does not only say so."""
    return issubclass(type(value), kinds)


def is_number(value: object) -> bool:
    return is_instance(value, int, float) and type(value) is not bool


def number(value: Any) -> int | float:
    """An int or a float as no more than that."""
    return int.__int__(value) if is_instance(value, int) else float.__float__(value)


def safe_repr(value: object) -> str:
    """A value for a message, shortened, even one that cannot be shown."""
    if type(value) is int and value.bit_length() > 128:
        return f"an integer of {value.bit_length():,} bits"
    try:
        return f"{value!r:.80}"
    except Exception:
        # Code of the caller's, or an integer with too many digits in it.
        return f"a {type(value).__name__} that cannot be shown"


Texts: TypeAlias = str | Iterable[str]
"""One string or several."""

TEXT_LENGTH_MAX = 255
REFERENCE_LENGTH_MAX = 4_096
INTEGER_MAX = 2**63 - 1
VALUES_MAX = 100_000


# Values as they enter.


def text(value: Any, name: str, length_max: int = TEXT_LENGTH_MAX) -> str:
    """A string both databases keep as it is and find again."""
    if type(value) is not str:
        value = _plain_text(value, name)
    if not value or len(value) > length_max:
        raise ValidationError(
            f"{name} must have 1 to {length_max:,} characters, not {len(value):,}", path=name
        )
    if "\0" in value:
        raise ValidationError(
            f"{name} holds a NUL character, which PostgreSQL does not keep in text", path=name
        )
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValidationError(
                f"{name} holds a lone surrogate, which is no character", path=name
            ) from error
    return value  # type: ignore[no-any-return]


def _plain_text(value: Any, name: str) -> str:
    if not is_instance(value, str):
        raise ValidationError(f"{name} must be a string, not {type(value).__name__}", path=name)
    # As plain text: an enum of the caller's own is spelled with its class otherwise.
    return str.__str__(value)


def optional_text(value: Any, name: str) -> str | None:
    return None if value is None else text(value, name)


def is_text(value: Any) -> bool:
    """Whether a value could stand in a text column."""
    try:
        return bool(text(value, ""))
    except ValidationError:
        return False


def texts(values: Any, name: str) -> tuple[str, ...]:
    """Several strings. One string alone is most likely a slip, and is refused."""
    if not is_collection(values):
        raise ValidationError(f"{name} must be a list of strings, not {type(values).__name__}", path=name)
    return not_too_many(tuple(text(value, f"{name}[{index}]") for index, value in enumerate(values)), name)


def text_filter(value: Any, name: str) -> tuple[str, ...] | None:
    """One string or several, each once, as a set to look for; None is no set."""
    if value is None:
        return None
    if not is_collection(value):
        return (text(value, name),)
    each_once = dict.fromkeys(text(each, f"{name}[{index}]") for index, each in enumerate(value))
    return not_too_many(tuple(each_once), name)


def not_too_many(values: tuple[str, ...], name: str) -> tuple[str, ...]:
    """So many that one statement and one row can carry them."""
    if len(values) > VALUES_MAX:
        raise ValidationError(
            f"{name} has {len(values):,} values; at most {VALUES_MAX:,} go at once: ask in several parts",
            path=name,
        )
    return values


def is_collection(value: Any) -> bool:
    """Whether it is values to go through, and not one of them."""
    return is_instance(value, Iterable) and not is_instance(value, str)


def utc_datetime(value: Any, name: str) -> datetime:
    """An aware time, in UTC."""
    if type(value) is datetime and value.tzinfo is UTC:
        return value
    if not is_instance(value, datetime):
        raise ValidationError(f"{name} must be a datetime, not {type(value).__name__}", path=name)
    try:
        ahead = datetime.utcoffset(value)
    except Exception as error:
        raise ValidationError(f"{name} has a time zone that fails: {safe_repr(error)}", path=name) from error
    if ahead is None:
        raise ValidationError(
            f"{name} is naive, so it could be any hour: give it a time zone, as in datetime.now(UTC)",
            path=name,
        )
    try:
        # As a plain datetime: one of another library has its own ideas of spelling and of differences.
        return datetime.combine(datetime.date(value), datetime.time(value), UTC) - ahead
    except OverflowError as error:
        raise ValidationError(f"{name} lies outside the years 1 to 9999 in UTC", path=name) from error


def flag(value: Any, name: str) -> bool:
    """True or False; what only counts as one or the other, such as the text "no", is most likely a slip."""
    if type(value) is not bool:
        raise ValidationError(f"{name} must be True or False, not {safe_repr(value)}", path=name)
    return value


def optional_utc_datetime(value: Any, name: str) -> datetime | None:
    return None if value is None else utc_datetime(value, name)


def count(value: Any, name: str, maximum: int = INTEGER_MAX) -> int:
    """A whole number from 0 up to what a 64-bit column holds."""
    if type(value) is not int:
        if not is_number(value) or not is_instance(value, int):
            raise ValidationError(f"{name} must be a whole number, not {type(value).__name__}", path=name)
        value = int.__int__(value)
    if not 0 <= value <= maximum:
        raise ValidationError(f"{name} must be from 0 to {maximum:,}, not {safe_repr(value)}", path=name)
    return value  # type: ignore[no-any-return]


def optional_count(value: Any, name: str) -> int | None:
    return None if value is None else count(value, name)


def _time_of(value: Any, name: str) -> Any:
    if not is_instance(value, str):
        return value
    try:
        return datetime.fromisoformat(str.__str__(value))
    except ValueError as error:
        raise ValidationError(f"{name} is no time in ISO 8601: {safe_repr(value)}", path=name) from error


def check_keys(values: Any, known: Iterable[str], owner: str) -> dict[str, Any]:
    """Values by the names of fields, of which there are no others."""
    if not is_instance(values, Mapping):
        raise ValidationError(f"{owner}.from_dict takes a dict, not {type(values).__name__}")
    given = {str.__str__(name) if is_instance(name, str) else name: values[name] for name in values}
    if unknown := [name for name in given if name not in known]:
        raise ValidationError(f"{owner} has no field {safe_repr(unknown[0])}; it has {', '.join(known)}")
    return given
