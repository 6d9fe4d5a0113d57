"""What a file format is: a reader, and what it makes of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from asm.models import Event, Run, Session
from asm.operations.exports import SessionExport


@dataclass(frozen=True, slots=True)
class Transcript:
    """One session with its one run, as a file tells it. The same content has the same ids."""

    session: Session
    run: Run
    events: list[Event]


Parsed: TypeAlias = Transcript | SessionExport
"""What a file may hold: a session to be numbered here, or one that has its numbers."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A format: its name, whether a path and the head of its content look like it, and how to read it."""

    name: str
    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path], Iterable[Parsed]]
