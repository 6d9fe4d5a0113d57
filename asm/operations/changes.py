"""Changing a stored model by a function of its caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from asm.errors import ValidationError
from asm.models import Run, Session
from asm.validation import a_type, not_a_coroutine

M = TypeVar("M", Session, Run)
Change: TypeAlias = Callable[[M], M]


def applied(change: Change[M], stored: M, *identity: str) -> M:
    """The model that the function returns, which must be of the same type and keep the `identity` fields."""
    changed = not_a_coroutine(change(stored), "change")
    kind = type(stored).__name__
    if not isinstance(changed, type(stored)):
        raise ValidationError(f"change must return a {kind}, not {a_type(changed)}", path="change")
    for name in identity:
        before, after = getattr(stored, name), getattr(changed, name)
        if before != after:
            raise ValidationError(
                f"change must keep the {name} of the {kind}: it is {before!r}, and change returned {after!r}",
                path="change",
            )
    return changed
