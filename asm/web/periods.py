"""The days that a page of usage is about, and the periods of its plots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice

from asm import ValidationError

PERIODS_MAX = 62
"""The bars of a plot. Each is a query."""

_DAY = timedelta(days=1)
_YEARS = (1900, 9000)


@dataclass(frozen=True, slots=True)
class Period:
    """The days from `first` to `last`."""

    first: date
    last: date

    @property
    def since(self) -> datetime:
        return datetime.combine(self.first, time(), UTC)

    @property
    def until(self) -> datetime:
        """The moment at which the last day has ended."""
        return datetime.combine(self.last + _DAY, time(), UTC)

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1


def parse_day(text: str, name: str) -> date:
    """A day of a form. The years are those in which a period has a beginning and an end."""
    try:
        day = date.fromisoformat(text)
        if not _YEARS[0] <= day.year <= _YEARS[1]:
            raise ValueError(text)
    except ValueError as error:
        raise ValidationError(f"{name} must be a day such as 2026-01-31, not {text[:40]!r}") from error
    return day


def last_days(number: int, end: date) -> Period:
    return Period(max(date(_YEARS[0], 1, 1), end - (number - 1) * _DAY), end)


def split(period: Period) -> tuple[str, list[Period]]:
    """What the parts of a period are, and the parts: days, weeks, months or years, at most 62 of them.

    The first and the last one may be shorter.
    """
    years = -(-(period.last.year - period.first.year + 1) // (PERIODS_MAX - 1))
    kinds = (
        ("day", _by_days(period, 1)),
        ("week", _by_days(period, 7)),
        ("month", _by_months(period, 1)),
        ("year" if years == 1 else f"{years} years", _by_months(period, 12 * years)),
    )
    read = ((name, list(islice(parts, PERIODS_MAX + 1))) for name, parts in kinds)
    return next((name, found) for name, found in read if len(found) <= PERIODS_MAX)


def _by_days(period: Period, length: int) -> Iterator[Period]:
    """Periods of one day, or of a week, which begins on Monday."""
    first = period.first
    while first <= period.last:
        last = min(period.last, first + (length - 1 - first.weekday() % length) * _DAY)
        yield Period(first, last)
        first = last + _DAY


def _by_months(period: Period, number: int) -> Iterator[Period]:
    first = period.first
    while first <= period.last:
        following = ((first.year * 12 + first.month - 1) // number + 1) * number
        last = min(period.last, date(following // 12, following % 12 + 1, 1) - _DAY)
        yield Period(first, last)
        first = last + _DAY
