"""Draws throughput and p99 over the number of callers as SVG, legible on white and on black."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 760, 312
PANEL_WIDTH, PANEL_HEIGHT = 290, 190
LEFTS, TOP = (62, 442), 60

# Medium tones are visible on both backgrounds; the text follows the reader's theme.
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #57606a }
  .title { font-weight: 600; font-size: 13px }
  .grid { stroke: #8b949e; stroke-opacity: .25 }
  .line { fill: none; stroke-width: 2.5; stroke-linejoin: round }
  @media (prefers-color-scheme: dark) { text { fill: #b1bac4 } }
"""


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve in both panels, with a point for each number of callers."""

    name: str
    colour: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Point:
    callers: int
    rate: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic scale between two pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def svg(curves: Sequence[Curve], title: str) -> str:
    """The two panels with a legend."""
    body = [*_legend(curves), f'<text x="{WIDTH - 12}" y="{HEIGHT - 8}" text-anchor="end">{title}</text>']
    body += _panel(
        LEFTS[0], "events a second", curves, [point.rate for each in curves for point in each.points], "rate"
    )
    body += _panel(
        LEFTS[1], "p99, ms", curves, [point.p99_ms for each in curves for point in each.points], "p99_ms"
    )
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">'
    return "\n".join([opening, f"<style>{STYLE}</style>", *body, "</svg>", ""])


def _legend(curves: Sequence[Curve]) -> Iterator[str]:
    for number, curve in enumerate(curves):
        x = LEFTS[0] + number * 200
        yield f'<path class="line" stroke="{curve.colour}" d="M{x} 16h22"/>'
        yield f'<text x="{x + 28}" y="20">{curve.name}</text>'


def _panel(
    left: int, name: str, curves: Sequence[Curve], values: Sequence[float], field: str
) -> Iterator[str]:
    bottom, right = TOP + PANEL_HEIGHT, left + PANEL_WIDTH
    callers = sorted({point.callers for curve in curves for point in curve.points})
    across = Axis(callers[0], max(callers[-1], callers[0] + 1), left, right)
    ticks = _ticks(min(values), max(values))
    up = Axis(ticks[0], ticks[-1], bottom, TOP)
    yield f'<text class="title" x="{left}" y="{TOP - 12}">{name}</text>'
    for tick in ticks:
        y = up.at(tick)
        yield f'<path class="grid" d="M{left} {y:.1f}H{right}"/>'
        yield f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
    for number in callers:
        yield f'<text x="{across.at(number):.1f}" y="{bottom + 18}" text-anchor="middle">{number}</text>'
    yield f'<text x="{(left + right) / 2}" y="{bottom + 36}" text-anchor="middle">callers</text>'
    for curve in curves:
        points = [f"{across.at(p.callers):.1f} {up.at(getattr(p, field)):.1f}" for p in curve.points]
        yield f'<path class="line" stroke="{curve.colour}" d="M{"L".join(points)}"/>'


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … that enclose the values."""
    steps = [factor * 10.0**power for power in range(-3, 8) for factor in (1, 2, 5)]
    first = max(step for step in steps if step <= max(low, 1e-3))
    last = min(step for step in steps if step >= high and step > first)
    return [step for step in steps if first <= step <= last]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
