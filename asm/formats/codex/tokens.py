"""The tokens in a Codex log: it repeats a total, which grows, and falls back when a session is resumed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from asm.documents import Document
from asm.formats.session_rows import counts_of, token_number

_COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens", "total_tokens")


class TokenTotal:
    """The last total of a log. Only its increase counts."""

    def __init__(self) -> None:
        self._last = dict.fromkeys(_COUNTS, 0)

    def increase(self, payload: Document) -> Counter[str]:
        """The tokens by which the total of a `token_count` exceeds the one before, in the store's names."""
        info = payload.get("info")
        usage: Any = info.get("total_token_usage") if isinstance(info, dict) else None
        if not isinstance(usage, dict):
            return Counter()
        total = {name: token_number(usage.get(name)) for name in _COUNTS}
        before, self._last = self._last, total
        if total["total_tokens"] < before["total_tokens"]:
            before = dict.fromkeys(_COUNTS, 0)
        return _own_counts({name: max(total[name] - before[name], 0) for name in _COUNTS})


def _own_counts(more: dict[str, int]) -> Counter[str]:
    cached, written = more["cached_input_tokens"], more["cache_write_input_tokens"]
    return counts_of(
        input_tokens=max(more["input_tokens"] - cached - written, 0),
        output_tokens=more["output_tokens"],
        total_tokens=more["total_tokens"],
        cache_read_tokens=cached,
        cache_creation_tokens=written,
    )
