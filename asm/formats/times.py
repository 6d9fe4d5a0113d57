"""The times of files whose records have none."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from asm.errors import ValidationError


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
