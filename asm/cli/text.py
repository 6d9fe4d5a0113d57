"""Values as text for a terminal.

Text that an agent wrote may contain anything. What is printed of it goes through `asm.shown`: ids and names
as identifiers, all else as prose.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from asm.conversation import as_text
from asm.shown import message, prose


def one_line(text: str) -> str:
    """A message on one line, of which the middle is cut if it is long."""
    return message(" ".join(text.split()))


def inline(value: Any) -> str:
    """A value of a document on one line, with its line ends as escapes."""
    if isinstance(value, dict):
        return ", ".join(f"{inline(key)}: {inline(as_text(each))}" for key, each in value.items())
    return prose(as_text(value)).replace("\n", "\\n").replace("\t", "\\t")


def shortened(text: str, length: int) -> str:
    """The text in at most this many characters. An ellipsis stands for the rest."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def quantity(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def usd(dollars: float) -> str:
    if 0 < dollars < 0.0001:
        return "<$0.0001"
    return f"${dollars:,.2f}" if dollars >= 1 or not dollars else f"${dollars:.4f}"


def timestamp(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def age(time: datetime, now: datetime) -> str:
    """How long ago a time was, in its largest unit."""
    seconds = (now - time) // timedelta(seconds=1)
    if seconds < 0:
        return "in the future"
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return "now"


_UNITS = (("y", 365 * 86_400), ("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def duration(seconds: float) -> str | None:
    """A duration in its largest units, or None if it is shorter than a millisecond."""
    if seconds < 0.001:
        return None
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
