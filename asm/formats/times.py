"""The time of a file, for records that have none, and what it says of a session."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from asm.errors import ValidationError

COMPLETED_AFTER = timedelta(days=1)
"""A session to which nothing was added for as long is completed."""


def modified_at(path: Path) -> datetime:
    """When a file was last modified."""
    seconds = path.stat().st_mtime
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError) as error:
        raise ValidationError(
            f"the time of its last modification, {seconds:.0f} seconds after 1970, is outside the years "
            "1 to 9999: change it with `touch`"
        ) from error


def is_settled(at: datetime) -> bool:
    """Whether what was changed last at this time will not change any more."""
    return datetime.now(UTC) - at > COMPLETED_AFTER
