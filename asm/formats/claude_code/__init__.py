"""Claude Code's logs: one file of JSON records per session, and one per sub-agent.

`log` divides the records of a file among the conversations that it has. `conversation` reads the records of
one, `session` makes its row and its events, `runs` its runs, and `records` knows single records.
docs/formats/claude-code.md has the mapping.
"""

from __future__ import annotations

import re
from pathlib import Path

from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.base import Reader
from asm.formats.claude_code import records
from asm.formats.claude_code.log import ClaudeCodeLog, agent_of, session_of
from asm.formats.claude_code.session import FORMAT, agent_session_id

_LINES_MAX = 20

_MESSAGES = (b'"parentUuid"', b'"isSidechain"')
"""Fields at the beginning of a record with a message, which may be longer than the head of a file."""

_MARKERS = re.compile(
    rb'"type"\s*:\s*"(?:summary|file-history-snapshot|queue-operation|last-prompt|permission-mode|mode|tag|'
    rb'ai-title|custom-title|agent-name|agent-color|agent-setting|pr-link|worktree-state)"'
)
"""The types of records without a message, with which logs begin."""

_SESSION = re.compile(rb'"sessionId"\s*:\s*"([^"\\]{1,255})"')

_MARKER_FIELDS = (b'"sessionId"', b'"leafUuid"', b'"messageId"')


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file begins with records of Claude Code, or is read with one that does."""
    return main_file(path) is not None or any(map(_is_record, head.split(b"\n", _LINES_MAX)[:_LINES_MAX]))


def main_file(path: Path) -> Path | None:
    """The log of the sub-agent that a file describes."""
    name = path.name.removesuffix(".meta.json")
    log = path.with_name(f"{name}.jsonl")
    return log if name != path.name and agent_of(log) is not None and log.is_file() else None


def _is_record(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    if all(field in line for field in _MESSAGES):
        return True
    return any(field in line for field in _MARKER_FIELDS) and _MARKERS.search(line) is not None


def session_id(path: Path, head: bytes) -> str | None:
    """The id of the session of a file: by its path, else by its first records."""
    id = session_of(path) or next(filter(None, map(_session_of, head.split(b"\n"))), None)
    agent = agent_of(path)
    return id if id is None or agent is None else agent_session_id(id, agent)


def _session_of(line: bytes) -> str | None:
    try:
        record = text.parse_json(line)
    except ValidationError:
        # The last line of the head is not all there. In a text the quotation marks are escaped.
        found = _SESSION.search(line)
        return records.text_of(found[1].decode("ascii", "ignore")) if found else None
    return records.text_of(record.get("sessionId")) if isinstance(record, dict) else None


READER = Reader(FORMAT, sniff, log=ClaudeCodeLog, session_id=session_id, main_file=main_file)
