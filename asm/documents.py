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
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import orjson

from asm.errors import ValidationError
from asm.validation import a_type, safe_repr

Document: TypeAlias = dict[str, Any]

DEPTH_MAX = 500
"""Levels of nesting. The JSON readers of Python and of SQLite fail from about 1,000 levels on."""

DIGITS_MAX = 4_300
"""Digits of an integer. Python by default converts no longer ones from and to text."""

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
    text = None
    try:
        encoded = orjson.dumps(value, option=_OPTIONS)
        if orjson.loads(encoded) == value:
            text = encoded.decode()
    except (TypeError, ValueError, RecursionError):
        # orjson cannot encode the value or, as with deep nesting, decode it again.
        pass
    if text is None:
        text = _dump_strict(value, name)
    if len(text) > DOCUMENT_LENGTH_MAX:
        raise ValidationError(
            f"{name} is {len(text):,} characters of JSON, more than the maximum of {DOCUMENT_LENGTH_MAX:,}: "
            "store it elsewhere and register it as an artifact",
            path=name,
            length=len(text),
        )
    return text


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
    """The value of a stored JSON text."""
    return json.loads(text) if text[:1] in _MARKS else orjson.loads(text)


# What orjson cannot encode.


class _Node(NamedTuple):
    path: str
    value: Any
    depth: int


def _dump_strict(value: Any, name: str) -> str:
    # Without recursion, so that the caller's stack depth does not matter.
    output: list[str] = [" "]
    pending: list[_Node | str] = [_Node(name, value, 1)]
    while pending:
        node = pending.pop()
        if isinstance(node, str):
            output.append(node)
        elif isinstance(node.value, list):
            pending.extend(reversed(_list_parts(node)))
        elif isinstance(node.value, dict):
            pending.extend(reversed(_dict_parts(node)))
        else:
            output.append(_dump_scalar(node))
    return "".join(output)


def _list_parts(node: _Node) -> list[_Node | str]:
    _check_depth(node)
    parts: list[_Node | str] = []
    for index, value in enumerate(node.value):
        parts += [",", _Node(f"{node.path}[{index}]", value, node.depth + 1)]
    return ["[", *parts[1:], "]"]


def _dict_parts(node: _Node) -> list[_Node | str]:
    _check_depth(node)
    parts: list[_Node | str] = []
    for key, value in node.value.items():
        if not isinstance(key, str):
            raise ValidationError(
                f"{_shortened(node.path)} has the key {safe_repr(key)} of type {type(key).__name__}: "
                "JSON keys are strings",
                path=node.path,
            )
        parts += [",", f"{_dump_text(key, node)}:", _Node(f"{node.path}.{key}", value, node.depth + 1)]
    return ["{", *parts[1:], "}"]


def _check_depth(node: _Node) -> None:
    if node.depth > DEPTH_MAX:
        raise ValidationError(
            f"{_shortened(node.path)} is nested deeper than {DEPTH_MAX} levels", path=node.path
        )


def _dump_scalar(node: _Node) -> str:
    value = node.value
    if isinstance(value, str):
        return _dump_text(value, node)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return _dump_integer(value, node)
    if isinstance(value, float) and math.isfinite(value):
        return float.__repr__(value)
    raise ValidationError(f"{_shortened(node.path)} {_why_not_json(value)}", path=node.path)


def _dump_text(value: str, node: _Node) -> str:
    if _SURROGATE_PAIR.search(value):
        raise ValidationError(
            f"{_shortened(node.path)} contains a surrogate pair as two characters, which JSON would join "
            "into one: decode the text as UTF-16 first",
            path=node.path,
        )
    return json.dumps(value)


_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def _dump_integer(value: int, node: _Node) -> str:
    if not -_INTEGER_BOUND < value < _INTEGER_BOUND:
        raise ValidationError(
            f"{_shortened(node.path)} is an integer of more than {DIGITS_MAX:,} digits: make it a string",
            path=node.path,
        )
    return int.__repr__(value)


_INTEGER_BOUND = 10**DIGITS_MAX


def _why_not_json(value: Any) -> str:
    if isinstance(value, float):
        return f"is {value}, which JSON cannot represent: use None or a string"
    if isinstance(value, tuple):
        return "is a tuple, which would be read back as a list: make it a list"
    return f"is {a_type(value)}, which is not JSON: make it a string, number, list or dict"


def _shortened(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:120]} … {path[-60:]}"
