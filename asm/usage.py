"""Token counts and costs of runs.

Each is bounded where it enters, so that a 64-bit sum() holds the counts of nine million runs of the
largest size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from asm.documents import Document, dump_object, spell_path
from asm.errors import ValidationError
from asm.provider_usage import (
    LEVELS_MAX,
    TOKEN_COUNTS,
    TOKENS_MAX,
    Counts,
    other_keys,
    read_counts,
    read_document,
    total_of,
)
from asm.validation import count, is_number, safe_repr

COST_USD_MAX = 10**9


def token_counts(usage: Document) -> dict[str, int | None]:
    """The known counts of a run's `token_usage`, each None if absent.

    If `total_tokens` is absent, it is the sum of the input and output tokens. Counts under a provider's
    own names are read like those of `token_usage`; if they cannot be, they are keys like any other.
    """
    counts = {name: _token_count(usage.get(name), f"token_usage.{name}") for name in TOKEN_COUNTS}
    if not usage.keys() <= counts.keys():
        counts |= _parts(usage).counts
    input_tokens, output_tokens, total_tokens = map(counts.get, TOKEN_COUNTS[:3])
    if total_tokens is None and (input_tokens, output_tokens) != (None, None):
        total = (input_tokens or 0) + (output_tokens or 0)
        counts["total_tokens"] = _token_count(total, "token_usage.input_tokens + token_usage.output_tokens")
    return counts


def _token_count(value: Any, path: str) -> int | None:
    return None if value is None else count(value, path, TOKENS_MAX)


def check_usage(usage: Any, name: str) -> Document:
    """A `token_usage` that is a document with known counts within their bounds."""
    dump_object(usage, name)
    checked: Document = usage
    token_counts(checked)
    return checked


class _Parts(NamedTuple):
    """A usage taken apart: the known counts, and what is under other keys."""

    counts: Counts
    others: Document


def _parts(usage: Document) -> _Parts:
    """The parts of a document that a run may have, whatever is under other keys."""
    document = read_document(usage, "token_usage")
    try:
        return _Parts(read_counts(document, "token_usage", None), other_keys(document))
    except ValidationError:
        names = [name for name in TOKEN_COUNTS if usage.get(name) is not None]
        known = {name: count(usage[name], f"token_usage.{name}", TOKENS_MAX) for name in names}
        return _Parts(known, {key: value for key, value in usage.items() if key not in TOKEN_COUNTS})


def add_usage(usage: Document, more: Any, provider: str | None = None) -> Document:
    """The sum of a run's `token_usage` and of a provider's own usage, with the counts under known names."""
    document = read_document(more, "token_usage")
    if not document:
        return usage
    before = _parts(usage)
    added = _Parts(read_counts(document, "token_usage", provider), other_keys(document))
    dump_object(added.others, "token_usage")
    counts = _add_counts(before.counts, added.counts)
    return {**counts, **_add(before.others, added.others)}


def _add_counts(counts: Counts, more: Counts) -> Counts:
    total = total_of(counts) + total_of(more)
    names = [name for name in TOKEN_COUNTS if name in counts or name in more]
    added = {name: counts.get(name, 0) + more.get(name, 0) for name in names}
    return {**added, "total_tokens": total} if "total_tokens" in added else added


def _add(values: Document, more: Document, path: tuple[str, ...] = ()) -> Document:
    """The sums of the numbers of two documents. A value that is not a number replaces the one before."""
    return {**values, **{key: _sum(values.get(key), value, (*path, key)) for key, value in more.items()}}


def _sum(value: Any, more: Any, path: tuple[str, ...]) -> Any:
    if len(path) < LEVELS_MAX and isinstance(value, dict) and isinstance(more, dict):
        return _add(value, more, path)
    if not (is_number(value) and is_number(more)):
        return more
    try:
        return value + more
    except OverflowError as error:
        spelled = spell_path("token_usage", path)
        raise ValidationError(f"{spelled} is too large: the sum exceeds a float", path=spelled) from error


def check_cost(value: Any, name: str) -> float:
    """A cost in US dollars."""
    if not is_number(value):
        raise ValidationError(f"{name} must be a number of US dollars, not {type(value).__name__}", path=name)
    # NaN fails this comparison, too.
    if not 0 <= value <= COST_USD_MAX:
        raise ValidationError(f"{name} must be from 0 to {COST_USD_MAX:,}, not {safe_repr(value)}", path=name)
    return float(value)
