"""The histories of clients: what each client did, and which results it got.

A client writes one line when an operation starts, and another when it has ended. A client that is killed
in between leaves only the first line: the outcome of the operation is unknown.
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

Kind: TypeAlias = Literal[
    "append", "batch", "flush", "transaction", "die", "get", "wait", "iterate", "follow", "latest"
]
WRITES: tuple[Kind, ...] = ("append", "batch", "flush", "transaction", "die")
PIECE_BYTES = 256 * 1024
UNTYPED = "untyped"
CANCELLED = "cancelled"
DIED_BEFORE_COMMIT = "died before commit"


class Seen(NamedTuple):
    """An event as a client read it."""

    number: int
    id: str
    fingerprint: int


@dataclass(kw_only=True, slots=True)
class Op:
    """One operation of one client. Times are seconds of the machine's monotonic clock."""

    id: str
    writer: str
    do: Kind
    started_at: float
    session: str = ""
    events: list[Key] = field(default_factory=list)
    repeated: list[Key] = field(default_factory=list)
    """Those of the events that were appended before, outside this block."""
    block: str = ""
    """Identifies the write; repetitions of it have the same block."""
    expected: int | None = None
    run: str | None = None
    after: int = 0
    limit: int | None = None
    is_last: bool = False
    """Started when all faults are over: it must succeed."""
    ended_at: float | None = None
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
        return self.ended_at is not None and self.error is None

    @property
    def own(self) -> list[Key]:
        """The events that belong to this block and no other."""
        return [key for key in self.events if key not in self.repeated] if self.repeated else self.events


class Recorder:
    """Writes the history of one process, each line with one write, which only a crash of the machine cuts.

    The history is in pieces, because the nemesis may limit the size of a process's files.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = (folder / f"{name}-{n:05}.jsonl" for n in count())
        self._lock = threading.Lock()
        self._begin_piece()

    def record_start(self, op: Op) -> None:
        fields = {name: value for name in _START_FIELDS if (value := getattr(op, name)) not in _OMITTED[name]}
        self._write({"id": op.id, **fields})

    def record_end(self, op: Op) -> None:
        fields = {name: value for name in _END_FIELDS if (value := getattr(op, name)) is not None}
        self._write({"id": op.id, **fields})

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


_START_FIELDS = (
    *("writer", "do", "started_at", "session", "events", "repeated", "block", "expected", "run"),
    *("after", "limit", "is_last"),
)
_END_FIELDS = ("ended_at", "numbers", "saw", "latest", "error", "message")
_OMITTED: dict[str, list[Any]] = {name: [None] for name in _START_FIELDS} | {
    name: ["", []] for name in ("session", "events", "repeated", "block")
}


def has_begun(folder: Path, name: str) -> bool:
    return any(folder.glob(f"{name}-*.jsonl"))


def read_history(folder: Path, name: str = "*") -> list[Op]:
    """Every operation of one client, or of all, in the order of their starts."""
    ops: dict[str, Op] = {}
    for path in sorted(folder.glob(f"{name}-*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                _add_line(ops, json.loads(line))
    return sorted(ops.values(), key=lambda op: op.started_at)


def _add_line(ops: dict[str, Op], fields: dict[str, Any]) -> None:
    if fields["id"] in ops:
        _set_end(ops[fields["id"]], fields)
    else:
        ops[fields["id"]] = _op(fields)


def _op(fields: dict[str, Any]) -> Op:
    for name in ("events", "repeated"):
        fields[name] = [(session, id) for session, id in fields.get(name, [])]
    return Op(**fields)


def _set_end(op: Op, fields: dict[str, Any]) -> None:
    for name in _END_FIELDS:
        setattr(op, name, fields.get(name))
    op.message = op.message or ""
    op.saw = None if op.saw is None else [Seen(*seen) for seen in op.saw]


def an_event(key: Key, run_id: str | None = None) -> asm.Event:
    """The event of a key. Its contents depend on the key only."""
    session_id, id = key
    return asm.Event(type="message_sent", session_id=session_id, id=id, run_id=run_id, data=contents(id))


def contents(id: str) -> dict[str, Any]:
    rng = random.Random(id)
    text = "".join(rng.choices("ab \u0000\ud800é😀", k=rng.randrange(60)))
    return {"of": id, "text": text, "n": rng.getrandbits(80)}


def fingerprint(document: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True).encode())


def seen(event: asm.Event) -> Seen:
    return Seen(event.sequence_number or 0, event.id, fingerprint(event.data))


def numbers(events: Iterable[asm.Event]) -> list[int]:
    return [event.sequence_number or 0 for event in events]


def unfinished(ops: Sequence[Op]) -> Iterator[Op]:
    """The writes that the successor of a killed client repeats."""
    return (op for op in ops if op.writes and op.do not in ("die", "transaction") and not op.succeeded)
