"""Claude Code logs for tests: records, the files that have them, and what their reader makes of these."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asm import Event, Run, Session
from asm.formats.claude_code import READER
from asm.formats.claude_code.log import ClaudeCodeLog

ROOT = Path(__file__).parents[2]
SESSION = "5e1f0c2a-7b3d-4c8e-9a61-2f4d8b7c1e90"
SAMPLE = ROOT / "tests" / "data" / "claude-code" / f"{SESSION}.jsonl"
REAL = ROOT.parent / "shared" / "data" / "claude-code"

Record = dict[str, Any]


@dataclass
class Told:
    """What a log says of one session."""

    session: Session
    runs: dict[str, Run] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @property
    def run(self) -> Run:
        (run,) = self.runs.values()
        return run

    def of(self, *types: str) -> list[Event]:
        return [event for event in self.events if event.type in types]

    def data(self, *types: str) -> list[dict[str, Any]]:
        return [event.data for event in self.of(*types)]

    def tokens(self) -> dict[str, int]:
        return total(run.token_usage for run in self.runs.values())


class Writer:
    """Makes records that follow one another, as Claude Code does."""

    def __init__(self, session: str = SESSION, **common: Any) -> None:
        self.common = {"isSidechain": False, "cwd": "/home/ada", "sessionId": session, **common}
        self.last: str | None = None
        self.seconds = 0

    def record(self, type: str, **fields: Any) -> Record:
        self.seconds += 1
        at = f"2026-02-03T09:{self.seconds // 60:02}:{self.seconds % 60:02}.000Z"
        common = {"parentUuid": self.last, **self.common, "timestamp": at}
        record = {**common, "type": type, "uuid": str(uuid.uuid4()), **fields}
        self.last = record["uuid"]
        return record

    def user(self, content: Any, **fields: Any) -> Record:
        return self.record("user", message={"role": "user", "content": content}, **fields)

    def result(
        self, id: str, content: Any = "done", *, is_error: bool | None = None, **fields: Any
    ) -> Record:
        block = {"type": "tool_result", "tool_use_id": id, "content": content}
        return self.user([block if is_error is None else {**block, "is_error": is_error}], **fields)

    def assistant(self, block: Any, id: str | None = "msg_1", output: int = 1, **fields: Any) -> Record:
        content = block if isinstance(block, list) else [block]
        usage = {"input_tokens": 10, "output_tokens": output, "cache_read_input_tokens": 100}
        message = {
            "type": "message",
            "role": "assistant",
            "model": fields.pop("model", "claude-opus-4-5"),
            "content": content,
            "stop_reason": fields.pop("stop_reason", None),
            "usage": fields.pop("usage", usage),
        }
        return self.record("assistant", message=message if id is None else {"id": id, **message}, **fields)

    def says(self, text: str, id: str | None = "msg_1", output: int = 1, **fields: Any) -> Record:
        return self.assistant({"type": "text", "text": text}, id, output, **fields)

    def calls(
        self, call: str, id: str = "msg_1", output: int = 1, *, name: str = "Bash", **input: Any
    ) -> Record:
        return self.assistant({"type": "tool_use", "id": call, "name": name, "input": input}, id, output)


def write(path: Path, records: Iterable[Record]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(path: Path, *, taken_after: Iterable[int] = ()) -> dict[str, Told]:
    """What a log says, by session. It is taken after these lines, and at the end."""
    log = ClaudeCodeLog(path)
    told: dict[str, Told] = {}
    places = set(taken_after)
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        log.add(line)
        if number in places or number == len(lines):
            for transcript in log.take():
                one = told.setdefault(transcript.session.id, Told(transcript.session))
                one.session = transcript.session
                one.runs |= {run.id: run for run in transcript.runs}
                one.events += transcript.events
    for one in told.values():
        assert len({event.id for event in one.events}) == len(one.events)
    return told


def total(counts: Iterable[dict[str, Any]]) -> dict[str, int]:
    added: Counter[str] = Counter()
    for each in counts:
        added.update({name: number for name, number in each.items() if name.endswith("_tokens")})
    return dict(added)


__all__ = ["READER", "REAL", "SAMPLE", "SESSION", "Record", "Told", "Writer", "read", "total", "write"]
