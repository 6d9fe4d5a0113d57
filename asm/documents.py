"""JSON in and out.

What goes in comes out equal, on both databases. orjson does the work for what it can
carry. Integers beyond 64 bits, lone surrogates and deep nesting go through the standard
library, and such a text is marked by one leading space: white space that JSON allows
and no database touches tells the reader which of the two can read it back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import orjson

from asm.errors import ValidationError
from asm.validation import is_instance, safe_repr

Document: TypeAlias = dict[str, Any]

DEPTH_MAX = 500
"""Levels of nesting. Beyond it the JSON readers of Python and of SQLite begin to refuse."""

TEXT_LENGTH_MAX = 64 * 1024 * 1024
"""Characters of one document's text."""

ROW_LENGTH_MAX = 2 * TEXT_LENGTH_MAX
"""Characters of all documents of a row. One has up to four bytes, and both databases stop at 1 GB a row."""

_AS_PLAIN = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
FIRST_UNMARKED = "!"
"""Every text that is not marked sorts behind it, and every one that is marked before."""

_ONLY_STANDARD_LIBRARY = (" ", b" ")


def dump(value: Any, name: str) -> str:
    """The JSON text of a value, or a ValidationError naming the path of what is not JSON."""
    # orjson turns NaN into null, tuples into lists and UUIDs into strings without a word.
    # Reading back what it wrote and comparing finds all of that at the speed of C:
    # 0.6 µs for 300 bytes, where a walk in Python takes ten times as long.
    text = None
    try:
        written = orjson.dumps(value, option=_AS_PLAIN)
        if orjson.loads(written) == value:
            text = written.decode()
    except Exception:
        # Not for orjson, or a value whose own way of comparing fails.
        pass
    if text is None:
        text = _dump_strict(value, name)
    if len(text) > TEXT_LENGTH_MAX:
        raise ValidationError(
            f"{name} is {len(text):,} characters of JSON; at most {TEXT_LENGTH_MAX:,} are kept: "
            "store it elsewhere and register it as an artifact",
            path=name,
            length=len(text),
        )
    return text


def dump_object(value: Any, name: str) -> str:
    """The JSON text of an object, which is what most documents must be."""
    if not is_instance(value, dict):
        raise ValidationError(f"{name} must be a dict, not {type(value).__name__}", path=name)
    return "{}" if type(value) is dict and not value else dump(value, name)


def check_together(texts: Iterable[Any], name: str) -> None:
    """ValidationError where the documents of a row, each small enough, together are not."""
    length = sum(len(text) for text in texts if text is not None)
    if length > ROW_LENGTH_MAX:
        raise ValidationError(
            f"the documents of {name} are {length:,} characters of JSON together; "
            f"at most {ROW_LENGTH_MAX:,} are kept: store the largest elsewhere, registered as artifacts",
            length=length,
        )


def load(text: str | bytes) -> Any:
    """The value of a stored JSON text."""
    if text[:1] in _ONLY_STANDARD_LIBRARY:
        return json.loads(text, parse_int=_integer)
    return orjson.loads(text)


def _dump_strict(value: Any, name: str) -> str:
    # Without recursion, so that how deep a caller's stack is makes no difference.
    pieces: list[str] = [" "]
    waiting: list[_Part | str] = [_Part(name, value, 1)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            pieces.append(part)
        elif is_instance(part.value, dict, list):
            waiting.extend(reversed(_taken_apart(part)))
        else:
            pieces.append(_scalar(part))
    return "".join(pieces)


class _Part(NamedTuple):
    path: str
    value: Any
    depth: int


def _taken_apart(part: _Part) -> list[_Part | str]:
    path, value, depth = part
    if depth > DEPTH_MAX:
        raise ValidationError(f"{_short(path)} is nested deeper than {DEPTH_MAX} levels", path=path)
    pieces: list[_Part | str] = []
    if is_instance(value, list):
        for index, inner in enumerate(list.__iter__(value)):
            pieces += [",", _Part(f"{path}[{index}]", inner, depth + 1)]
        return ["[", *pieces[1:], "]"]
    for key, inner in dict.items(value):
        if not is_instance(key, str):
            kind = type(key).__name__
            raise ValidationError(
                f"{_short(path)} has the key {safe_repr(key)}, a {kind}: JSON keys are strings", path=path
            )
        pieces += [",", f"{_text(key, part)}:", _Part(f"{path}.{key}", inner, depth + 1)]
    return ["{", *pieces[1:], "}"]


def _scalar(part: _Part) -> str:
    value = part.value
    if is_instance(value, str):
        return _text(str.__str__(value), part)
    if value is None or type(value) is bool:
        return json.dumps(value)
    if is_instance(value, int):
        return _digits(int.__int__(value))
    if is_instance(value, float) and math.isfinite(float.__float__(value)):
        return float.__repr__(value)
    if is_instance(value, float):
        complaint = f"is {float.__repr__(value)}, which JSON cannot say: use None or a string"
    elif is_instance(value, tuple):
        complaint = "is a tuple, which would come back as a list: make it a list"
    else:
        complaint = f"is a {type(value).__name__}, which is not JSON: make it a string, number, list or dict"
    raise ValidationError(f"{_short(part.path)} {complaint}", path=part.path)


def _text(value: str, part: _Part) -> str:
    if _SURROGATE_PAIR.search(value):
        raise ValidationError(
            f"{_short(part.path)} holds the two halves of one character as two characters, "
            "which JSON would join: decode it as UTF-16 first",
            path=part.path,
        )
    return json.dumps(value)


# A high surrogate and a low one behind it. Each alone is kept; together JSON has no other
# spelling for them than that of the one character they stand for.
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


# Python refuses to convert integers of more than 4,300 digits from and to text, as a guard
# for programs that read them from strangers. Decimal has no such bound.
_EASY_DIGITS = 4_000


def _digits(value: int) -> str:
    if value.bit_length() <= 3 * _EASY_DIGITS:
        return int.__repr__(value)
    return f"{Decimal(value):f}"


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= _EASY_DIGITS else int(Decimal(digits))


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:120]} … {path[-60:]}"
