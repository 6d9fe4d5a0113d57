"""What a file format is: a reader, and the types that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from asm.models import Event, Run, Session
from asm.operations.exports import SessionExport


@dataclass(frozen=True, slots=True)
class Transcript:
    """A session with one run, as another tool recorded it. Its events have no sequence numbers yet.

    Ids are derived from the content, so the same content has the same ids.
    """

    session: Session
    run: Run
    events: list[Event]


Parsed: TypeAlias = Transcript | SessionExport
"""What a file may contain."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A format: its name, a test of whether a file has it, and a function that reads such a file.

    `sniff` is given the path of a file and its first text, as `text.read_head` returns it.
    """

    name: str
    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path], Iterable[Parsed]]
