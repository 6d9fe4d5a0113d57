"""The runs of a session on a line: how long each took, and how many tokens it used. SVG made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asm import Run

WIDTH = 1_000
_GAP = 1.0
_WIDTH_MIN = 2.0
_RUNS_MAX = 200


@dataclass(frozen=True, slots=True)
class Bar:
    """A run in both timelines, in units of a thousandth of the width, from the top, of a height of 100."""

    run: Run
    number: int
    x: float
    width: float
    tokens: int
    parts: tuple[tuple[str, float, float], ...]
    """The kinds of tokens with the top and the height of each."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The bars of a session's runs. `seconds` is the time that the runs took, without the pauses between."""

    bars: list[Bar]
    seconds: float
    tokens_max: int

    @property
    def has_tokens(self) -> bool:
        return self.tokens_max > 0


def timeline_of(runs: Sequence[Run]) -> Timeline | None:
    """The timeline of several runs that took some time or tokens. One run alone has nothing to compare.

    The time between runs, in which a person thinks or sleeps, is left out: a session of twenty minutes may be
    spread over a week.
    """
    runs = [run for run in runs[:_RUNS_MAX] if run.ended_at is not None]
    if len(runs) < 2:
        return None
    spans = [
        max(0.0, (run.ended_at - run.started_at).total_seconds()) if run.ended_at else 0.0 for run in runs
    ]
    free = WIDTH - len(runs) * (_GAP + _WIDTH_MIN)
    # Some frameworks tell of a model call only when it has ended.
    lengths = spans if any(spans) else [1.0 for _ in spans]
    total = sum(lengths)
    counts = [_counts(run) for run in runs]
    highest = max(sum(each.values()) for each in counts)
    if not highest and not any(spans):
        return None
    bars, x = [], 0.0
    for number, (run, length, count) in enumerate(zip(runs, lengths, counts, strict=True), 1):
        width = _WIDTH_MIN + free * length / total
        bars.append(
            Bar(run, number, round(x, 2), round(width, 2), sum(count.values()), _parts(count, highest))
        )
        x += width + _GAP
    return Timeline(bars, sum(spans), highest)


_KINDS = {
    "output_tokens": "output",
    "input_tokens": "input",
    "cache_creation_tokens": "written",
    "cache_read_tokens": "read",
}


def _counts(run: Run) -> dict[str, int]:
    known = {kind: run.token_usage.get(name) for name, kind in _KINDS.items()}
    return {kind: int(count) for kind, count in known.items() if isinstance(count, int | float)}


def _parts(counts: dict[str, int], highest: int) -> tuple[tuple[str, float, float], ...]:
    parts, top = [], 100.0
    for kind, count in counts.items():
        height = 100 * count / highest if highest else 0.0
        top -= height
        if height >= 0.2:
            parts.append((kind, round(top, 2), round(height, 2)))
    return tuple(parts)
