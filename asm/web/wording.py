"""Numbers and times as the pages show them: short, so that they fit a column."""

from __future__ import annotations

from datetime import datetime, timedelta


def count(number: float) -> str:
    """A number with its thousands separated."""
    return f"{number:,}"


def short(number: float) -> str:
    """A large number in three digits: 1.24M."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size * 0.9995:
            digits = number / size
            return f"{digits:.{2 if digits < 9.995 else 1 if digits < 99.95 else 0}f}{unit}"
    return f"{number:,.0f}"


def usd(dollars: float) -> str:
    if 0 < dollars < 0.01:
        return "<$0.01"
    return f"${dollars:,.2f}"


def date(time: datetime) -> str:
    """A time to the second, in UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S}"


def age(time: datetime, now: datetime) -> str:
    """How long ago a time was, in its largest unit."""
    seconds = max(0, (now - time) // timedelta(seconds=1))
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length}{unit} ago"
    return "now"


_UNITS = (("y", 365 * 86_400), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 5))


def duration(span: timedelta | float) -> str:
    """A duration in its two largest units."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    seconds = max(seconds, 0)
    if seconds < 1:
        return f"{seconds * 1_000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {seconds:02}s" if minutes else f"{seconds}s"
