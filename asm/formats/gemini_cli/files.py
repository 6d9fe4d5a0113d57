"""The files of Gemini CLI: how they are recognised and read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from asm.documents import Document, dump
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.base import Reader, Transcript
from asm.formats.gemini_cli.conversation import Conversation
from asm.formats.session_rows import SessionRows, hashed_id, time_of
from asm.formats.times import is_settled, modified_at
from asm.models import SessionStatus
from asm.validation import is_text

FORMAT = "Gemini CLI"
AGENT = "gemini-cli"
PROVIDER = "google"

SUBAGENT = "subagent"
"""The kind of a sub-agent's file, and the tag of its session."""

EARLY_MAX = 100
"""The lines that a log may have before its head."""

_KEYS = (b'"sessionId"', b'"projectHash"')
_SAVED = re.compile(rb'(?:\[|\{\s*"history"\s*:\s*\[)\s*\{\s*"(?:role|parts)"\s*:')
_PROMPTS = re.compile(rb'\[\s*\{\s*"sessionId"\s*:[^{}]{0,400}"messageId"\s*:')
_SESSION = re.compile(rb'"sessionId"\s*:\s*"([^"\\]{1,255})"')
_SUBAGENT = re.compile(rb'"kind"\s*:\s*"subagent"')


def _is_log(_path: Path, head: bytes) -> bool:
    line = head.partition(b"\n")[0]
    return line.startswith(b"{") and all(key in line for key in _KEYS)


def _is_document(path: Path, head: bytes) -> bool:
    return head.startswith(b"{") and all(key in head for key in _KEYS) and not _is_log(path, head)


def _is_saved(_path: Path, head: bytes) -> bool:
    return _SAVED.match(head) is not None and b'"parts"' in head


def why_no_session(path: Path, head: bytes) -> str | None:
    """Why a file of Gemini CLI is not read, None if it is none of those."""
    if path.name == "logs.json" and _PROMPTS.match(head):
        return "Gemini CLI's list of prompts, which are in the sessions, too"
    return None


def _session_id(path: Path, head: bytes) -> str | None:
    found = _SESSION.search(head)
    if found is None:
        return None
    is_subagent = _SUBAGENT.search(head) is not None
    return _ids(path, found[1].decode("utf-8", "surrogateescape"), is_subagent)[0]


def _ids(path: Path, id: str, is_subagent: bool) -> tuple[str, str | None]:
    """The id of the session in a file, and that of the session which began it.

    The file of a sub-agent lies in a folder with the id of that session. Older versions put it beside the
    others, and gave it the id of that session.
    """
    if not is_subagent:
        own, parent = id, None
    elif path.parent.parent.name == "chats":
        own, parent = id, path.parent.name
    else:
        own, parent = f"{id}/{path.stem}", id
    own = own if is_text(own) else hashed_id("ses_", FORMAT, own)
    return own, parent if parent is None or is_text(parent) else hashed_id("ses_", FORMAT, parent)


def _continued_in(path: Path) -> Path | None:
    """The log that has all of a document, and what followed when the session was resumed."""
    log = path.with_suffix(".jsonl")
    return log if log.is_file() else None


class GeminiLog:
    """Reads a log record by record."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._early: list[Document] = []
        self._session_id: str | None = None
        self._conversation: Conversation | None = None

    def add(self, record: bytes) -> None:
        """Read the next line. Raises ValidationError if it is not a record."""
        document = text.parse_json(record)
        if not isinstance(document, dict):
            raise ValidationError(f"expected an object, not {type(document).__name__}")
        if self._conversation is not None:
            self._add(self._conversation, document)
        elif "$rewindTo" not in document and "$set" not in document and "sessionId" in document:
            self._begin(document)
        elif len(self._early) == EARLY_MAX:
            raise ValidationError(f"none of the first {EARLY_MAX:,} records has a sessionId")
        else:
            self._early.append(document)

    def take(self) -> list[Transcript]:
        """What was added since the last time."""
        transcript = None if self._conversation is None else self._conversation.take()
        return [] if transcript is None else [transcript]

    def _begin(self, head: Document) -> None:
        conversation = _conversation(self._path, head)
        early, self._early = self._early, []
        conversation.describe(head)
        for record in early:
            self._add(conversation, record)
        if isinstance(messages := head.get("messages"), list):
            conversation.add_history(messages)
        self._conversation = conversation

    def _add(self, conversation: Conversation, record: Document) -> None:
        values = record.get("$set")
        if isinstance(record.get("$rewindTo"), str):
            conversation.rewind(record["$rewindTo"])
        elif isinstance(record.get("id"), str):
            conversation.add(record)
        elif isinstance(values, dict):
            conversation.change(values)
            if isinstance(messages := values.get("messages"), list):
                conversation.add_history(messages)
        elif isinstance(record.get("sessionId"), str):
            conversation.change(record)
        else:
            conversation.add_record(record)


def _read_document(path: Path) -> Iterator[Transcript]:
    document = text.parse_json(text.read_bytes(path))
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
        raise ValidationError("expected an object with a list named `messages`")
    conversation = _conversation(path, document)
    conversation.describe(document)
    for number, message in enumerate(document["messages"]):
        if not isinstance(message, dict):
            raise ValidationError(f"messages[{number}] must be an object, not {type(message).__name__}")
        id = message.get("id")
        conversation.add({**message, "id": id if isinstance(id, str) else f"message {number}"})
    yield from filter(None, [conversation.take()])


def _read_saved(path: Path) -> Iterator[Transcript]:
    """A conversation that was saved or exported. It has no id and no times, and its tokens are not known."""
    document = text.parse_json(text.read_bytes(path))
    history = document.get("history") if isinstance(document, dict) else document
    if not isinstance(history, list):
        raise ValidationError("expected a list of messages, or an object with a list named `history`")
    about: Document = {"format": FORMAT, "file": path.name, "usage": "not saved"}
    if isinstance(document, dict) and len(document) > 1:
        about["rest"] = {name: value for name, value in document.items() if name != "history"}
    content = sha256(dump(history, "history").encode()).hexdigest()
    at = modified_at(path)
    rows = SessionRows(
        FORMAT, hashed_id("ses_", FORMAT, content), agent_id=AGENT, provider=PROVIDER, at=at, metadata=about
    )
    rows.begin(at)
    conversation = Conversation(rows)
    for number, message in enumerate(history):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValidationError(f"message {number} must be an object with a role")
        rest = {name: value for name, value in message.items() if name not in ("role", "parts", "id")}
        kind = {"model": "gemini"}.get(message["role"], message["role"])
        said = {"type": kind, "content": message.get("parts")}
        conversation.add({**rest, **said, "id": f"{number}"})
    yield from filter(None, [conversation.take()])


def _conversation(path: Path, head: Document) -> Conversation:
    """The conversation that begins with this head."""
    id = head.get("sessionId")
    if not isinstance(id, str) or not id:
        raise ValidationError(f"sessionId must be a text of at least one character, not {type(id).__name__}")
    is_subagent = head.get("kind") == SUBAGENT
    own, parent = _ids(path, id, is_subagent)
    at = modified_at(path)
    rows = SessionRows(
        FORMAT,
        own,
        agent_id=AGENT,
        provider=PROVIDER,
        at=at,
        metadata={"format": FORMAT, "file": path.name},
        parent_id=parent,
        tags=(SUBAGENT,) if is_subagent else (),
        status=SessionStatus.COMPLETED if is_settled(at) else SessionStatus.ACTIVE,
    )
    rows.begin(time_of(head.get("startTime")))
    return Conversation(rows)


READERS = (
    Reader(FORMAT, _is_log, log=GeminiLog, session_id=_session_id),
    Reader(
        f"{FORMAT} (2025)",
        _is_document,
        read=_read_document,
        session_id=_session_id,
        main_file=_continued_in,
    ),
    Reader(f"{FORMAT} checkpoint", _is_saved, read=_read_saved),
)
