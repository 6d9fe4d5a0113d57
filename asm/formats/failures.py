"""Sessions of one file that cannot be read, beside others that can."""

from __future__ import annotations

from collections.abc import Sequence

from asm.errors import ValidationError

NAMED_MAX = 20
"""So many are named."""


def raise_together(failures: Sequence[ValidationError]) -> None:
    """Raise one ValidationError that names these, if there are any."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        named = "; ".join(map(str, failures[:NAMED_MAX]))
        more = f"; and {len(failures) - NAMED_MAX:,} more" if len(failures) > NAMED_MAX else ""
        raise ValidationError(f"{len(failures):,} sessions cannot be read: {named}{more}")
