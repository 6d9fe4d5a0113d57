"""What a value is, whatever its class makes of it.

A subclass compares, counts and spells as it likes, and a mock says that it is of a class of which it
is not. So what enters is looked at by the plain type's own means, and goes on as a plain value.
"""

from __future__ import annotations

from typing import Any


def is_a(value: object, *kinds: type) -> bool:
    """Whether a value is of one of these classes, and does not only say so."""
    return issubclass(type(value), kinds)


def is_number(value: object) -> bool:
    return is_a(value, int, float) and type(value) is not bool


def number(value: Any) -> int | float:
    """An int or a float as no more than that."""
    return int.__int__(value) if is_a(value, int) else float.__float__(value)


def shown(value: object) -> str:
    """A value for a message, shortened, even one that cannot be shown."""
    if type(value) is int and value.bit_length() > 128:
        return f"an integer of {value.bit_length():,} bits"
    try:
        return f"{value!r:.80}"
    except Exception:
        # Code of the caller's, or an integer with too many digits in it.
        return f"a {type(value).__name__} that cannot be shown"
