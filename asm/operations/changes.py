"""Changing a stored model by a function of its caller."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from asm.errors import ValidationError
from asm.models import Run, Session

M = TypeVar("M", Session, Run)
Change: TypeAlias = Callable[[M], M]


def checked(change: Any, caller: str) -> Any:
    """The function that a caller gave, if it can be called without awaiting it."""
    if inspect.iscoroutinefunction(change):
        raise ValidationError(f"{caller} takes a plain function: change must not be a coroutine function")
    if not callable(change):
        raise ValidationError(f"{caller} takes a function, not {type(change).__name__}")
    return change


def applied(change: Change[M], stored: M, *identity: str) -> M:
    """What the function makes of a model: another one of the same kind and `identity`."""
    changed = change(stored)
    kind = type(stored).__name__
    if not isinstance(changed, type(stored)):
        if inspect.iscoroutine(changed):
            # Closed, or Python would warn that it was never awaited.
            changed.close()
        raise ValidationError(f"change must return a {kind}, not {type(changed).__name__}")
    for name in identity:
        before, after = getattr(stored, name), getattr(changed, name)
        if before != after:
            raise ValidationError(
                f"change must keep the {name} of the {kind}: it is {before!r}, and change returned {after!r}"
            )
    return changed
