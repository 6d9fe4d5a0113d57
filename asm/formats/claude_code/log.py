"""A Claude Code log: the records of a conversation, and of others that it has in it."""

from __future__ import annotations

import re
from json import JSONDecodeError
from pathlib import Path

from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.base import Transcript
from asm.formats.claude_code import records
from asm.formats.claude_code.conversation import EARLY_MAX, Conversation
from asm.formats.claude_code.session import FORMAT, SessionBuilder, agent_session_id
from asm.formats.times import is_settled, modified_at
from asm.models import SessionStatus
from asm.validation import is_text

SUBAGENT = "subagent"
"""The tag of the sessions of sub-agents."""

SESSIONS_MAX = 10_000
"""The sessions of a log, of which each is held in memory. Real logs have a few dozen, with sub-agents."""

RECORDS_PER_LINE_MAX = 16
"""Finding one takes as long as reading the rest of the line."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_AGENT_FILE = re.compile(r"agent-(.{1,100})\.jsonl")
_META_BYTES_MAX = 64 * 1024


class ClaudeCodeLog:
    """Reads a log record by record.

    Most logs are of one session. One that resumes another may repeat its records, and old ones have those of
    sub-agents. A sub-agent's log has the id of the session that began it in its records.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._agent = agent_of(path)
        self._named = session_of(path)
        """The session by the path."""
        self._log_id = self._named
        self._modified_at = modified_at(path)
        self._conversations: dict[tuple[str, str | None], Conversation] = {}
        self._early: list[Document] = []
        self._elsewhere: dict[str, bool] = {}
        self._chains: dict[str, str] = {}
        """The chains of the records of sub-agents, by their uuids."""
        self._chain: str | None = None

    def add(self, record: bytes) -> None:
        """Read the next line. Raises ValidationError if it is not a record."""
        for document in _parsed(record):
            self._add_document(document)

    def _add_document(self, document: Document) -> None:
        id = records.text_of(document.get("sessionId"))
        self._log_id = self._log_id or id
        if self._log_id is None:
            if len(self._early) == EARLY_MAX:
                raise ValidationError(f"none of the first {EARLY_MAX:,} records has a sessionId")
            self._early.append(document)
            return
        if self._early:
            early, self._early = self._early, []
            for each in early:
                self._add(self._log_id, each)
        self._add(id or self._log_id, document)

    def take(self) -> list[Transcript]:
        """What was added since the last time, one for each session."""
        taken = (conversation.take() for conversation in self._conversations.values())
        return [transcript for transcript in taken if transcript is not None]

    def _add(self, id: str, record: Document) -> None:
        if self._is_elsewhere(id):
            return
        agent = self._agent or (self._agent_of(record) if record.get("isSidechain") is True else None)
        conversation = self._conversations.get((id, agent))
        if conversation is None:
            if len(self._conversations) == SESSIONS_MAX:
                raise ValidationError(f"the log has records of more than {SESSIONS_MAX:,} sessions")
            conversation = self._conversations[id, agent] = self._begin(id, agent, record)
        conversation.add(record)

    def _is_elsewhere(self, id: str) -> bool:
        """Whether records of a session that this log repeats are in the log of that session."""
        if self._named in (None, id):
            return False
        if id not in self._elsewhere:
            name = f"{id}.jsonl"
            self._elsewhere[id] = _UUID.fullmatch(id) is not None and self._path.with_name(name).is_file()
        return self._elsewhere[id]

    # Sub-agents.

    def _agent_of(self, record: Document) -> str:
        """The sub-agent of a record in the log of the session that began it."""
        uuid, parent = records.text_of(record.get("uuid")), records.text_of(record.get("parentUuid"))
        chain = records.text_of(record.get("agentId"))
        if chain is None and parent is not None:
            # The parent is missing if it was not written.
            chain = self._chains.get(parent, self._chain)
        chain = chain or uuid or f"{len(self._conversations)}"
        self._chain = chain
        if uuid is not None:
            self._chains.setdefault(uuid, chain)
        return chain

    def _begin(self, id: str, agent: str | None, record: Document) -> Conversation:
        metadata: Document = {"format": FORMAT, "file": self._path.name, "usage": "as logged"}
        if agent is None:
            return self._conversation(id, id, metadata, self._fork_parent(record, metadata))
        own_id = agent_session_id(id, agent)
        metadata |= self._about_agent() if self._agent is not None else self._call_of(id, own_id, record)
        return self._conversation(own_id, id, metadata, id, SUBAGENT)

    def _conversation(
        self, id: str, log_id: str, metadata: Document, parent_id: str | None, *tags: str
    ) -> Conversation:
        is_old = is_settled(self._modified_at)
        status = SessionStatus.COMPLETED if is_old else SessionStatus.ACTIVE
        builder = SessionBuilder(
            id, at=self._modified_at, metadata=metadata, status=status, parent_id=parent_id, tags=tags
        )
        return Conversation(builder, log_id)

    def _fork_parent(self, record: Document, metadata: Document) -> str | None:
        """The session of which this one is a fork, whose first records are copies."""
        origin = record.get("forkedFrom")
        parent = records.text_of(origin.get("sessionId")) if isinstance(origin, dict) else None
        if parent is not None:
            metadata["forked_from"] = parent
        return parent

    def _call_of(self, id: str, own_id: str, record: Document) -> Document:
        """What the call says that began a sub-agent. It is found by its prompt."""
        main = self._conversations.get((id, None))
        message = records.message_of(record)
        if main is None or message is None:
            return {}
        found = main.agents.find(records.joined_text(message["content"]), own_id)
        if found is None:
            return {}
        call_id, input = found
        return {"tool_use_id": call_id, **_described(input, "subagent_type")}

    def _about_agent(self) -> Document:
        """What the file beside the log of a sub-agent says of it."""
        about: Document = {}
        if self._path.parent.parent.name == "workflows":
            about["workflow"] = self._path.parent.name
        try:
            meta = text.parse_json(text.read_head(self._path.with_suffix(".meta.json"), _META_BYTES_MAX))
        except (OSError, ValidationError):
            # Older versions have no such file.
            return about
        return {**about, "agent": meta, **_described(meta, "agentType")} if isinstance(meta, dict) else about


def agent_of(path: Path) -> str | None:
    """The id of the sub-agent whose log a file is by its name, or None."""
    found = _AGENT_FILE.fullmatch(path.name)
    return found[1] if found is not None and is_text(found[1]) else None


def session_of(path: Path) -> str | None:
    """The id of the session of a log by its path, or None."""
    if agent_of(path) is None:
        return path.stem if _UUID.fullmatch(path.stem) else None
    folders = [parent.name for parent in path.parents]
    name = folders[folders.index("subagents") + 1] if "subagents" in folders[:-1] else ""
    return name if _UUID.fullmatch(name) else None


def _parsed(line: bytes) -> list[Document]:
    """The records of a line. In one log of 50 a record has lost its line break, and another follows it."""
    found: list[Document] = []
    while line:
        if len(found) == RECORDS_PER_LINE_MAX:
            raise ValidationError(f"the line has more than {RECORDS_PER_LINE_MAX} records")
        end = len(line)
        try:
            document = text.parse_json(line)
        except ValidationError as error:
            end = _end_of_first(error)
            document = text.parse_json(line[:end])
        if not isinstance(document, dict):
            raise ValidationError(f"expected an object, not {type(document).__name__}")
        found.append(document)
        line = line[end:].lstrip()
    return found


def _end_of_first(error: ValidationError) -> int:
    """Where the first value of a line ends that has several. Raises the error if that is not what it says."""
    cause = error.__cause__
    if not isinstance(cause, JSONDecodeError) or cause.msg != "Extra data":
        raise error
    return len(cause.doc[: cause.pos].encode("utf-8", "surrogatepass"))


def _described(about: Document, type: str) -> Document:
    names = {"title": about.get("description"), "agent_type": about.get(type)}
    return {name: value for name, value in names.items() if isinstance(value, str) and value}
