"""Plots as data for SVG: where each bar lies. The template draws it, and a table has the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 1000.0
HEIGHT = 100.0

_GAP_PART = 0.25
_VISIBLE_MIN = 0.5
"""A bar of a count above zero is never shorter: nothing is not the same as little."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a stacked bar; `kind` is the class of its rectangle."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of stacked parts. `slot` is where the place of the bar begins, `slot_width` how wide it is."""

    label: str
    value: float
    x: float
    width: float
    slot: float
    slot_width: float
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Bars beside each other in a box of 1,000 by 100, the highest of which has the value `highest`."""

    bars: list[Bar]
    highest: float


def plot(columns: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> Plot | None:
    """The bars of columns: a label, and the kinds and values that are stacked. None if all values are 0."""
    totals = [sum(max(0.0, value) for _, value in parts) for _, parts in columns]
    highest = max(totals, default=0.0)
    if not highest:
        return None
    slot = WIDTH / len(columns)
    bars = [
        Bar(
            label,
            total,
            round(place * slot + slot * _GAP_PART / 2, 2),
            round(slot * (1 - _GAP_PART), 2),
            round(place * slot, 2),
            round(slot, 2),
            _stacked(parts, highest),
        )
        for place, ((label, parts), total) in enumerate(zip(columns, totals, strict=True))
    ]
    return Plot(bars, highest)


def _stacked(parts: Sequence[tuple[str, float]], highest: float) -> tuple[Part, ...]:
    stacked, top = list[Part](), HEIGHT
    for kind, value in parts:
        if value <= 0:
            continue
        height = max(_VISIBLE_MIN, HEIGHT * (value / highest))
        top = max(0.0, top - height)
        stacked.append(Part(kind, round(top, 2), round(height, 2)))
    return tuple(stacked)
