"""Token counts and costs of runs.

Each is bounded where it enters, so that a 64-bit sum() holds the counts of nine million runs of the
largest size.
"""

from __future__ import annotations

from typing import Any

from asm.documents import Document, dump_object
from asm.errors import ValidationError
from asm.validation import count, is_number, safe_repr

TOKEN_COUNTS = ("input_tokens", "output_tokens", "total_tokens", "cache_read_tokens", "cache_creation_tokens")
"""The keys of `token_usage` that the store reads. Other keys are stored as they are."""

TOKENS_MAX = 10**12
COST_USD_MAX = 10**9


def token_counts(usage: Document) -> dict[str, int | None]:
    """The known counts of a run's `token_usage`, each None if absent.

    If `total_tokens` is absent, it is the sum of the input and output tokens.
    """
    counts = {name: _token_count(usage.get(name), f"token_usage.{name}") for name in TOKEN_COUNTS}
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
    token_counts(usage)
    return usage  # type: ignore[no-any-return]


def add_usage(usage: Document, more: Document) -> Document:
    """The sum of two `token_usage`, key by key. A value that is not a number replaces the one before."""
    check_usage(more, "token_usage")
    total = (token_counts(usage)["total_tokens"] or 0) + (token_counts(more)["total_tokens"] or 0)
    added = {**usage, **{key: _sum(usage.get(key), value, key) for key, value in more.items()}}
    return {**added, "total_tokens": total} if "total_tokens" in added else added


def _sum(value: Any, more: Any, key: str) -> Any:
    if not (is_number(value) and is_number(more)):
        return more
    try:
        return value + more
    except OverflowError as error:
        raise ValidationError(
            f"token_usage.{key} is too large: the sum exceeds a float", path=f"token_usage.{key}"
        ) from error


def check_cost(value: Any, name: str) -> float:
    """A cost in US dollars."""
    if not is_number(value):
        raise ValidationError(f"{name} must be a number of US dollars, not {type(value).__name__}", path=name)
    # NaN fails this comparison, too.
    if not 0 <= value <= COST_USD_MAX:
        raise ValidationError(f"{name} must be from 0 to {COST_USD_MAX:,}, not {safe_repr(value)}", path=name)
    return float(value)
