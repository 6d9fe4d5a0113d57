"""The files of Codex: how they are recognised and read.

Since September 2025 a line is {timestamp, type, payload}. Before, the first line was the head of the
session, and the others were items of the Responses and records of the state, without times.
"""

from __future__ import annotations

import re
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.base import Reader, Transcript
from asm.formats.codex.conversation import Conversation
from asm.formats.codex.records import Record
from asm.formats.session_rows import (
    SessionRows,
    hashed_id,
    object_of,
    snake_case,
    time_of,
    without,
)
from asm.formats.times import is_settled, modified_at
from asm.models import SessionStatus
from asm.validation import is_text

FORMAT = "Codex"
AGENT = "codex"
PROVIDER = "openai"

_LINE = re.compile(
    rb'\{\s*"timestamp"\s*:\s*"[^"\\]{0,64}"\s*,\s*"type"\s*:\s*'
    rb'"(?:session_meta|turn_context|response_item|event_msg|compacted|world_state)"\s*,\s*"payload"\s*:'
)
_OLD_HEAD = re.compile(
    rb'\{\s*"id"\s*:\s*"[^"\\]{1,64}"\s*,\s*"timestamp"\s*:\s*"[^"\\]{1,64}"\s*,\s*"(?:instructions|git)"\s*:'
)
_ID = re.compile(rb'[{,]\s*"id"\s*:\s*"([^"\\]{1,255})"')
_IN_NAME = re.compile(r"rollout-.*([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")

_REPLAYED_S = 2.0
"""A fork repeats the history of its parent as soon as it begins, at times within this many seconds."""

_DESCRIBED = ("cwd", "originator", "cli_version", "source", "thread_source")


def _sniff(_path: Path, head: bytes) -> bool:
    return _LINE.match(head) is not None or _OLD_HEAD.match(head) is not None


def _session_id(path: Path, head: bytes) -> str | None:
    line = head.partition(b"\n")[0]
    found = _ID.search(line) if b'"session_meta"' in line[:200] or _OLD_HEAD.match(line) else None
    return _own_id(path, line, found[1].decode("utf-8", "replace") if found else None)


def _own_id(path: Path, line: bytes, id: Any) -> str:
    """The id of a session: its own, else that in the name of the file, else one made of its first line."""
    if isinstance(id, str) and is_text(id):
        return id
    if named := _IN_NAME.match(path.name):
        return named[1]
    return f"ses_{sha256(line).hexdigest()[:32]}"


class CodexLog:
    """Reads a log record by record."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._conversation: Conversation | None = None
        self._id = ""
        self._parent_id: str | None = None
        self._began_at: datetime | None = None
        self._is_replay = False

    def add(self, record: bytes) -> None:
        """Read the next line. Raises ValidationError if it is not a record."""
        line = text.parse_json(record)
        if not isinstance(line, dict):
            raise ValidationError(f"expected an object, not {type(line).__name__}")
        read = _read(line, is_first=self._conversation is None)
        if self._conversation is None:
            self._conversation = self._begin(record, read)
        if self._is_replayed(read):
            self._conversation.add_replayed(read, line)
        else:
            self._conversation.add(read)

    def take(self) -> list[Transcript]:
        """What was added since the last time."""
        taken = None if self._conversation is None else self._conversation.take()
        return [] if taken is None else [taken]

    # The session.

    def _begin(self, line: bytes, first: Record) -> Conversation:
        about = first.payload if first.type == "session_meta" else {}
        self._id = _own_id(self._path, line[:4096].partition(b"\n")[0], about.get("id"))
        self._parent_id = _parent_of(about)
        file_at = modified_at(self._path)
        self._began_at = time_of(about.get("timestamp")) or first.at
        provider = about.get("model_provider")
        rows = SessionRows(
            FORMAT,
            self._id,
            agent_id=AGENT,
            at=file_at,
            metadata=_metadata_of(about, self._path),
            provider=provider if isinstance(provider, str) and is_text(provider) else PROVIDER,
            parent_id=self._parent_id,
            tags=("subagent",) if _is_subagent(about) else (),
            status=SessionStatus.COMPLETED if is_settled(file_at) else SessionStatus.ACTIVE,
        )
        rows.begin(self._began_at)
        return Conversation(rows)

    # What a fork repeats.

    def _is_replayed(self, read: Record) -> bool:
        """Whether a record is one of the session from which this one was forked."""
        if read.type == "session_meta" and self._parent_id is not None:
            self._is_replay |= read.payload.get("id") not in (self._id, None)
        elif self._is_replay and self._is_own(read):
            self._is_replay = False
        return self._is_replay

    def _is_own(self, read: Record) -> bool:
        begun, turn = _begun_ms(self._id), _begun_ms(read.payload.get("turn_id"))
        if read.starts_turn and begun is not None and turn is not None:
            return turn >= begun
        if read.at is None or self._began_at is None:
            return False
        return (read.at - self._began_at).total_seconds() > _REPLAYED_S


def _begun_ms(id: Any) -> int | None:
    """When an id was made, if it is a UUID that tells."""
    try:
        uuid = UUID(id) if isinstance(id, str) else None
    except ValueError:
        return None
    return uuid.int >> 80 if uuid is not None and uuid.version == 7 else None


def _read(line: Document, *, is_first: bool) -> Record:
    payload = line.get("payload")
    if isinstance(payload, dict):
        return Record(snake_case(line.get("type")), payload, time_of(line.get("timestamp")))
    if is_first and "timestamp" in line and "type" not in line:
        return Record("session_meta", line, time_of(line["timestamp"]), is_bare=True)
    if "record_type" in line:
        return Record(snake_case(line["record_type"]), without(line, "record_type"), None, is_bare=True)
    if "type" in line and "payload" not in line:
        return Record("response_item", line, None, is_bare=True)
    return Record(snake_case(line.get("type")), without(line, "type"), time_of(line.get("timestamp")))


def _parent_of(about: Document) -> str | None:
    spawn = object_of(object_of(object_of(about, "source"), "subagent"), "thread_spawn")
    ids = (about.get("parent_thread_id"), spawn.get("parent_thread_id"), about.get("forked_from_id"))
    parent = next((id for id in ids if isinstance(id, str) and id), None)
    if parent is None or parent == about.get("id"):
        return None
    return parent if is_text(parent) else hashed_id("ses_", FORMAT, parent)


def _is_subagent(about: Document) -> bool:
    source = about.get("source")
    return isinstance(source, dict) and "subagent" in source


def _metadata_of(about: Document, path: Path) -> Document:
    git = object_of(about, "git")
    named = {"version" if name == "cli_version" else name: about.get(name) for name in _DESCRIBED}
    branches = {"git_branch": git.get("branch"), "git_commit": git.get("commit_hash")}
    return {"format": FORMAT, "file": path.name, **without({**named, **branches})}


READER = Reader(FORMAT, _sniff, log=CodexLog, session_id=_session_id)
