"""Interrupts of this thread, as Ctrl-C makes them, at a place that a test chooses."""

from __future__ import annotations

import dis
import itertools
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import asm

OURS = {
    str(path)
    for folder in ("engine", "operations", "postgres", "sqlite", ".")
    for path in (Path(asm.__file__).parent / folder).glob("*.py")
    if path.stem
    in {
        *("connections", "reading", "group_commit", "script", "database", "async_database", "connection"),
        *("store", "async_store", "fair_lock", "fast_path", "common"),
    }
}
"""The files that take, use and give back connections."""


class Interrupting:
    """Interrupts its thread at the nth of the lines of our files that it comes by."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._inside: set[tuple[FrameType, int]] = set()
        self.where = ""

    @property
    def has_interrupted(self) -> bool:
        return self._left == 0

    def __enter__(self) -> None:
        sys.settrace(self._entered)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _entered(self, frame: FrameType, _event: str, _arg: object) -> Any:
        return self._line if frame.f_code.co_filename in OURS else None

    def _line(self, frame: FrameType, event: str, _arg: object) -> Any:
        if event == "line" and not _does_nothing(frame) and not self._leaves_lock(frame):
            self._left -= 1
            if self.has_interrupted:
                sys.settrace(None)
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"
                raise KeyboardInterrupt
        return self._line

    def _leaves_lock(self, frame: FrameType) -> bool:
        """Whether this is the end of a `with` over a lock, where Python lets no signal in."""
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        key = (frame, frame.f_lineno)
        if not line.startswith(("with self._lock:", "with self._cond:")):
            return False
        if key in self._inside:
            self._inside.discard(key)
            return True
        self._inside.add(key)
        return False


def _does_nothing(frame: FrameType) -> bool:
    """Whether this is only the mark of a line, such as a `try` or what a `with` does with an error.

    Python lets no signal in there; raised in the second, an interrupt would leave its thread in the
    midst of handling that error for good.
    """
    return frame.f_code.co_code[frame.f_lasti] in (dis.opmap["NOP"], dis.opmap["PUSH_EXC_INFO"])


def interrupted_everywhere(
    work: Callable[[int], object], look: Callable[[int, str], None], start: int = 0, step: int = 1
) -> int:
    """Do work again and again, each time interrupted some lines later, and look after each."""
    for at in itertools.count(start + 1, step):
        interrupting = Interrupting(at)
        try:
            with interrupting:
                work(at)
        except KeyboardInterrupt:
            pass
        assert sys.exc_info() == (None, None, None), interrupting.where
        look(at, interrupting.where)
        if not interrupting.has_interrupted:
            return at
    raise AssertionError
