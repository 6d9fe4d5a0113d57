"""What clients did and were told, as each wrote it down line by line.

An operation is a line before it is asked and another when its answer is there. A client that was
killed in between leaves the first alone: nobody knows what became of it.
"""

from __future__ import annotations

import json
import os
import random
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import asm

Key: TypeAlias = tuple[str, str]
"""A session and the id of an event."""

Doing: TypeAlias = Literal[
    "append", "batch", "flush", "transaction", "die", "get", "wait", "iterate", "follow", "latest"
]
WRITES: tuple[Doing, ...] = ("append", "batch", "flush", "transaction", "die")
PIECE_BYTES = 256 * 1024
UNTYPED = "untyped"
CANCELLED = "cancelled"
DIED_BEFORE_COMMIT = "died before commit"


class Seen(NamedTuple):
    """An event as somebody read it."""

    number: int
    id: str
    fingerprint: int


@dataclass(kw_only=True, slots=True)
class Op:
    """One operation of one client. Times are seconds of the machine's monotonic clock, which all share."""

    id: str
    writer: str
    do: Doing
    asked_at: float
    session: str = ""
    events: list[Key] = field(default_factory=list)
    guests: list[Key] = field(default_factory=list)
    """Those of the events that somebody asked for before, apart from this block."""
    block: str = ""
    """The same when the same is asked again."""
    expected: int | None = None
    run: str | None = None
    after: int = 0
    limit: int | None = None
    is_last: bool = False
    """Asked when all faults are over: it has to succeed."""
    answered_at: float | None = None
    numbers: list[int] | None = None
    saw: list[Seen] | None = None
    latest: int | None = None
    error: str | None = None
    message: str = ""

    @property
    def writes(self) -> bool:
        return self.do in WRITES

    @property
    def succeeded(self) -> bool:
        return self.answered_at is not None and self.error is None

    @property
    def own(self) -> list[Key]:
        """The events that belong to this block and no other."""
        return [key for key in self.events if key not in self.guests] if self.guests else self.events


class Recorder:
    """The history of one process. A line is one write, so that only a crash of the machine could cut it.

    It is in pieces, because the nemesis may set a limit to the size of all files of a process.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = (folder / f"{name}-{n:05}.jsonl" for n in count())
        self._lock = threading.Lock()
        self._begin_piece()

    def asked(self, op: Op) -> None:
        said = {name: value for name in _ASKED if (value := getattr(op, name)) not in _UNSAID[name]}
        self._write({"id": op.id, **said})

    def answered(self, op: Op) -> None:
        said = {name: value for name in _ANSWERED if (value := getattr(op, name)) is not None}
        self._write({"id": op.id, **said})

    def close(self) -> None:
        os.close(self._file)

    def _write(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._size_bytes + len(text) > PIECE_BYTES:
                self.close()
                self._begin_piece()
            self._size_bytes += os.write(self._file, text)

    def _begin_piece(self) -> None:
        self._file = os.open(next(self._paths), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._size_bytes = 0


_ASKED = (
    *("writer", "do", "asked_at", "session", "events", "guests", "block", "expected", "run"),
    *("after", "limit", "is_last"),
)
_ANSWERED = ("answered_at", "numbers", "saw", "latest", "error", "message")
_UNSAID: dict[str, list[Any]] = {name: [None] for name in _ASKED} | {
    name: ["", []] for name in ("session", "events", "guests", "block")
}


def has_begun(folder: Path, name: str) -> bool:
    return any(folder.glob(f"{name}-*.jsonl"))


def read_history(folder: Path, name: str = "*") -> list[Op]:
    """Every operation of one client, or of all, in the order in which they were asked."""
    ops: dict[str, Op] = {}
    for path in sorted(folder.glob(f"{name}-*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                _learn(ops, json.loads(line))
    return sorted(ops.values(), key=lambda op: op.asked_at)


def _learn(ops: dict[str, Op], said: dict[str, Any]) -> None:
    if said["id"] in ops:
        _answer(ops[said["id"]], said)
    else:
        ops[said["id"]] = _op(said)


def _op(said: dict[str, Any]) -> Op:
    for name in ("events", "guests"):
        said[name] = [(session, id) for session, id in said.get(name, [])]
    return Op(**said)


def _answer(op: Op, said: dict[str, Any]) -> None:
    for name in _ANSWERED:
        setattr(op, name, said.get(name))
    op.message = op.message or ""
    op.saw = None if op.saw is None else [Seen(*seen) for seen in op.saw]


def an_event(key: Key, run_id: str | None = None) -> asm.Event:
    """The event of that key: whoever appends it, its contents are the same."""
    session_id, id = key
    return asm.Event(type="message_sent", session_id=session_id, id=id, run_id=run_id, data=contents(id))


def contents(id: str) -> dict[str, Any]:
    chance = random.Random(id)
    text = "".join(chance.choices("ab \u0000\ud800é😀", k=chance.randrange(60)))
    return {"of": id, "text": text, "n": chance.getrandbits(80)}


def fingerprint(document: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True).encode())


def seen(event: asm.Event) -> Seen:
    return Seen(event.sequence_number or 0, event.id, fingerprint(event.data))


def numbers(events: Iterable[asm.Event]) -> list[int]:
    return [event.sequence_number or 0 for event in events]


def unfinished(ops: Sequence[Op]) -> Iterator[Op]:
    """What a client that was killed would ask again."""
    return (op for op in ops if op.writes and op.do not in ("die", "transaction") and not op.succeeded)
