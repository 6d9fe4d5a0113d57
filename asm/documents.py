"""JSON documents: encoding before a write and decoding after a read.

A document is read back equal to what was written, on both databases. orjson encodes whatever it can.
Integers beyond 64 bits, lone surrogates and deep nesting go through the encoder below and the
standard library's decoder. Such a text begins with one space, which JSON permits and both databases
store unchanged; `load` recognizes by it which decoder to use.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import orjson

from asm.errors import ValidationError, unreadable_value
from asm.validation import a_type, safe_repr

Document: TypeAlias = dict[str, Any]

DEPTH_MAX = 500
"""Levels of nesting. The JSON readers of Python and of SQLite fail from about 1,000 levels on."""

DIGITS_MAX = 4_300
"""Digits of an integer, as many as Python by default converts from and to text."""

DOCUMENT_LENGTH_MAX = 64 * 1024 * 1024
"""Characters of one document's JSON text."""

ROW_LENGTH_MAX = 2 * DOCUMENT_LENGTH_MAX
"""Characters of all documents of a row. At four bytes each they fit 1 GB, the limit of both databases."""

FIRST_UNMARKED = "!"
"""The least text that has no leading space. A comparison with it in SQL tells marked texts from others."""

_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_MARKS = (" ", b" ")


def dump(value: Any, name: str) -> str:
    """The JSON text of a value. A ValidationError names the path of what is not JSON."""
    # orjson silently turns NaN into null, tuples into lists and UUIDs into strings. Decoding its
    # output and comparing detects all of that: 0.6 µs for 300 bytes, a tenth of a walk in Python.
    try:
        encoded = orjson.dumps(value, option=_OPTIONS)
        # A text has no more characters than bytes.
        if len(encoded) <= DOCUMENT_LENGTH_MAX and orjson.loads(encoded) == value:
            return encoded.decode()
    except (TypeError, ValueError, RecursionError):
        # orjson cannot encode the value or, as with deep nesting, decode it again.
        return _StrictEncoder(name).encode(value)
    return _dump_rare(value, name, encoded)


def _dump_rare(value: Any, name: str, encoded: bytes) -> str:
    """The text of a value that is long, or that orjson has encoded as another."""
    # The length first: a decoded value takes ten times the memory of its text.
    if len(text := encoded.decode()) > DOCUMENT_LENGTH_MAX:
        raise _too_long(name, len(text))
    with suppress(ValueError, RecursionError):
        if len(encoded) > DOCUMENT_LENGTH_MAX and orjson.loads(encoded) == value:
            return text
    return _StrictEncoder(name).encode(value)


def dump_object(value: Any, name: str) -> str:
    """The JSON text of a dict."""
    if not isinstance(value, dict):
        raise ValidationError(f"{name} must be a dict, not {type(value).__name__}", path=name)
    return dump(value, name) if value else "{}"


def check(value: Any, name: str) -> Any:
    """The value itself, if it is JSON."""
    dump(value, name)
    return value


def check_object(value: Any, name: str) -> Document:
    """The value itself, if it is a dict and JSON."""
    dump_object(value, name)
    checked: Document = value
    return checked


def check_parsed(value: Document, name: str) -> None:
    """Raise ValidationError if an object cannot be stored, all of whose values `parse` has returned.

    It takes a third of the time of `check_object`: nothing in it can change when it is encoded.
    """
    with suppress(TypeError):
        if len(orjson.dumps(value)) <= DOCUMENT_LENGTH_MAX:
            return
    check_object(value, name)


def check_together(texts: Iterable[Any], name: str) -> None:
    """Raise ValidationError if the documents of one row are together too long to store."""
    length = sum(len(text) for text in texts if text is not None)
    if length > ROW_LENGTH_MAX:
        raise ValidationError(
            f"the documents of {name} are {length:,} characters of JSON together, more than the maximum "
            f"of {ROW_LENGTH_MAX:,}: store the largest elsewhere and register them as artifacts",
            length=length,
        )


def load(text: str | bytes) -> Any:
    """The value of a stored JSON text.

    ValidationError if another program stored what asm does not read, such as too long an integer.
    """
    try:
        return _decode(text, _STORED) if text[:1] in _MARKS else orjson.loads(text)
    except ValidationError:
        raise
    except (ValueError, RecursionError) as error:
        raise unreadable_value(error) from error


def parse(text: str | bytes) -> Any:
    """The value of a JSON text that another program wrote, every number and character of it kept.

    A ValidationError says that an integer has too many digits, that a number is not JSON, such as NaN, or
    that a float would be infinite.
    Other faults raise what `json.loads` raises: JSONDecodeError, UnicodeDecodeError or RecursionError.
    """
    if isinstance(text, bytes) and _LONG_NUMBER not in text.translate(_DIGITS):
        # A third of the time. orjson reads an integer of more than 64 bits as a float.
        with suppress(ValueError):
            return orjson.loads(text)
    return _decode(text, _FOREIGN)


_DIGITS = bytes(ord("0") if chr(byte).isdecimal() else 0 for byte in range(128)) + bytes(128)
_LONG_NUMBER = b"0" * 19


class _Decoders(NamedTuple):
    """Two decoders of one language, of which the second looks at the digits of each integer."""

    fast: json.JSONDecoder
    careful: json.JSONDecoder


def _decode(text: str | bytes, decoders: _Decoders) -> Any:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogatepass")
    if sys.get_int_max_str_digits() == DIGITS_MAX:
        try:
            return decoders.fast.decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:
            # An integer is too long. The other decoder says so.
            pass
    return decoders.careful.decode(text)


# Integers. Python converts up to `sys.get_int_max_str_digits()` digits, which an application may have set to
# fewer than DIGITS_MAX, or to any number. The time grows with the square of the digits, so they are counted
# first. `decimal` has no such setting; it is imported where it is needed, which is rare.


def _integer(digits: str) -> int:
    if len(digits) > DIGITS_MAX and (number := len(digits.lstrip("-"))) > DIGITS_MAX:
        raise ValidationError(
            f"an integer of {number:,} digits is more than the maximum of {DIGITS_MAX:,}: make it a string"
        )
    try:
        return int(digits)
    except ValueError:
        from decimal import Decimal

        return int(Decimal(digits))


def _digits(value: int) -> str:
    """The digits of an integer that has at most DIGITS_MAX of them."""
    try:
        return int.__repr__(value)
    except ValueError:
        from decimal import Decimal

        return str(Decimal(value))


def _refuse_constant(name: str) -> None:
    raise ValidationError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValidationError(f"the number {_shortened(digits)} is {value} as a float: make it a string")
    return value


_STORED = _Decoders(json.JSONDecoder(), json.JSONDecoder(parse_int=_integer))
_FOREIGN = _Decoders(
    json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite),
    json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer),
)


# What orjson cannot encode.


class _StrictEncoder:
    """Encodes one value, without recursion, so that the depth of the caller's stack does not matter.

    It keeps the keys that lead to the current value, and spells its path only for an error: the paths of all
    values take as much memory as a long key times the values below it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._keys: list[str | int] = []
        self._parts = [" "]
        self._length = 1

    def encode(self, value: Any) -> str:
        pending: list[Iterator[Any]] = [iter([value])]
        while pending:
            # The iterator of a container goes on where the one inside it began.
            for each in pending[-1]:
                if isinstance(each, list | dict):
                    self._open()
                    pending.append(self._items(each) if isinstance(each, list) else self._fields(each))
                    break
                self._write(self._scalar(each))
            else:
                pending.pop()
                if self._keys:
                    self._keys.pop()
        return "".join(self._parts)

    def _open(self) -> None:
        if len(self._keys) == DEPTH_MAX:
            raise self._refused(f"is nested deeper than {DEPTH_MAX} levels")
        self._keys.append(0)

    def _items(self, values: list[Any]) -> Iterator[Any]:
        self._write("[")
        for index, value in enumerate(values):
            self._keys[-1] = index
            if index:
                self._write(",")
            yield value
        self._write("]")

    def _fields(self, values: dict[Any, Any]) -> Iterator[Any]:
        self._write("{")
        for index, (key, value) in enumerate(values.items()):
            if index:
                self._write(",")
            self._write(f"{self._key(key)}:")
            self._keys[-1] = key
            yield value
        self._write("}")

    def _key(self, key: Any) -> str:
        # The path of an object, and not that of its last value.
        levels = len(self._keys) - 1
        if not isinstance(key, str):
            why = f"has the key {safe_repr(key)} of type {type(key).__name__}: JSON keys are strings"
            raise self._refused(why, levels)
        return self._text(key, levels)

    def _scalar(self, value: Any) -> str:
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool):
            return json.dumps(value)
        if isinstance(value, int):
            if not -_INTEGER_BOUND < value < _INTEGER_BOUND:
                raise self._refused(f"is an integer of more than {DIGITS_MAX:,} digits: make it a string")
            return _digits(value)
        if isinstance(value, float) and math.isfinite(value):
            return float.__repr__(value)
        raise self._refused(_why_not_json(value))

    def _text(self, value: str, levels: int | None = None) -> str:
        if len(value) > DOCUMENT_LENGTH_MAX:
            raise _too_long(self._name, len(value), "at least ")
        if _SURROGATE_PAIR.search(value):
            raise self._refused(
                "contains a surrogate pair as two characters, which JSON would join into one: decode the "
                "text as UTF-16 first",
                levels,
            )
        return json.dumps(value)

    def _write(self, part: str) -> None:
        self._parts.append(part)
        self._length += len(part)
        if self._length > DOCUMENT_LENGTH_MAX:
            raise _too_long(self._name, self._length, "at least ")

    def _refused(self, why: str, levels: int | None = None) -> ValidationError:
        """The error about the current value, or about the container that is so many levels deep."""
        spelled = spell_path(self._name, self._keys[:levels])
        return ValidationError(f"{_shortened(spelled)} {why}", path=spelled)


_INTEGER_BOUND = 10**DIGITS_MAX
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def _why_not_json(value: Any) -> str:
    if isinstance(value, float):
        return f"is {value}, which JSON cannot represent: use None or a string"
    if isinstance(value, tuple):
        return "is a tuple, which would be read back as a list: make it a list"
    return f"is {a_type(value)}, which is not JSON: make it a string, number, list or dict"


def _too_long(name: str, length: int, at_least: str = "") -> ValidationError:
    return ValidationError(
        f"{name} is {at_least}{length:,} characters of JSON, more than the maximum of "
        f"{DOCUMENT_LENGTH_MAX:,}: store it elsewhere and register it as an artifact",
        path=name,
        length=length,
    )


def spell_path(name: str, keys: Iterable[str | int]) -> str:
    """The path of a value below `name`, as in "data.items[3].score". Long keys are shortened."""
    return name + "".join(f"[{key}]" if isinstance(key, int) else f".{_shortened(key)}" for key in keys)


def _shortened(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:120]} … {path[-60:]}"
