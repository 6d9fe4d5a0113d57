"""The runs of a conversation, and the tokens of its messages, each counted once.

A log has one record for each block of a model's message, and each repeats the usage of the message as far
as it was known then. So the last record of a message counts. Its event is written when a later record shows
that the message has ended; the run has its counts at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from asm.documents import Document
from asm.errors import ValidationError
from asm.models import Run, RunStatus
from asm.provider_usage import TOKENS_MAX, token_usage


@dataclass(slots=True)
class OpenRun:
    """What is known of a run, from its prompt to the next."""

    id: str
    input: Any
    started_at: datetime
    ended_at: datetime
    output: Any = None
    error: Document | None = None
    is_answered: bool = False
    is_interrupted: bool = False
    turns: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    """Of the messages that have ended."""
    models: dict[str, None] = field(default_factory=dict)
    service_tier: Any = None

    @property
    def status(self) -> RunStatus:
        if self.is_interrupted:
            return RunStatus.CANCELLED
        if self.error is not None:
            return RunStatus.FAILED
        return RunStatus.COMPLETED if self.is_answered else RunStatus.CANCELLED

    def row(self, session_id: str, provider: str, unfinished: dict[str, int]) -> Run:
        """The run as it is stored. `unfinished` are the tokens of a message that may not have ended."""
        tokens = self.tokens + Counter(unfinished)
        models = list(self.models)
        details: Document = {"model": models[-1]} if models else {}
        if len(models) > 1:
            details["models"] = models
        if self.service_tier is not None:
            details["service_tier"] = self.service_tier
        return Run(
            id=self.id,
            session_id=session_id,
            status=self.status,
            input=self.input,
            output=self.output,
            error=self.error if self.status == RunStatus.FAILED else None,
            turn_count=self.turns,
            token_usage=dict(tokens),
            started_at=self.started_at,
            ended_at=self.ended_at,
            provider=provider,
            provider_metadata=details,
            # No model was asked, as for the command /clear. Without a cost it would be a run without a price.
            cost_usd=None if self.turns else 0.0,
        )


@dataclass(slots=True)
class OpenMessage:
    """A message of a model whose last record may not have been read yet."""

    key: str
    run: OpenRun
    model: str | None
    usage: Any
    at: datetime


class CountedMessages:
    """The tokens that were counted, by message."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, ...]] = {}

    def is_new(self, key: str) -> bool:
        return key not in self._counts

    def increase(self, key: str, usage: Any) -> dict[str, int]:
        """The tokens of a message that have not been counted for it before."""
        counts = _counts_of(usage)
        counted = self._counts.get(key, _NOTHING)
        return {
            name: now - before
            for name, now, before in zip(_COUNTS, counts, counted, strict=True)
            if now > before
        }

    def count(self, key: str, usage: Any) -> dict[str, int]:
        """Count the tokens of a message that have not been counted for it before, and return them."""
        increase = self.increase(key, usage)
        self._counts[key] = tuple(map(max, _counts_of(usage), self._counts.get(key, _NOTHING)))
        return increase


_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens")
_LOGGED = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
"""The names of the counts in a log."""


_NOTHING = (0,) * len(_COUNTS)


def _counts_of(usage: Any) -> tuple[int, ...]:
    if isinstance(usage, dict) and usage.keys() >= set(_LOGGED[:2]):
        # As Anthropic reports it. Reading any provider's usage takes 20 times as long.
        logged = tuple([usage.get(name) or 0 for name in _LOGGED])
        if all(type(count) is int and 0 <= count <= TOKENS_MAX for count in logged):
            return logged
    if not isinstance(usage, dict) or not usage:
        return _NOTHING
    try:
        counts = token_usage(usage, provider="anthropic")
    except ValidationError:
        # A gateway writes what it likes; the event's metadata has it.
        return _NOTHING
    return tuple([counts.get(name, 0) for name in _COUNTS])
