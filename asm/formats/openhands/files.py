"""The files of OpenHands' conversations: how they are recognised and read.

A conversation is a folder with one file for each event, and in version 1 a `base_state.json` beside that
folder. It is read as a whole with the first of its events, and the other files belong to that one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from asm import files
from asm.documents import Document, dump
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.base import Reader, Transcript
from asm.formats.openhands import records
from asm.formats.openhands.conversation import Conversation
from asm.formats.openhands.sdk_events import state_of
from asm.formats.openhands.tokens import Stats
from asm.formats.secret_fields import without_secrets
from asm.formats.session_rows import SessionRows, hashed_id, object_of, time_of, without
from asm.formats.times import is_settled, modified_at
from asm.models import SessionStatus
from asm.validation import is_text

FORMAT = "OpenHands"
AGENT = "openhands"
SUBAGENT = "subagent"
"""The tag of the sessions of sub-agents."""

BASE_STATE = "base_state.json"
EVENTS = "events"
_SUBAGENTS = "subagents"

_EVENT_FILE = re.compile(r"(?:event-(\d{5,12})-[0-9a-fA-F-]{8,64}|(\d{1,12}))\.json")
_FIRST = re.compile(rb'(\[\s*)?\{\s*"(?:id|kind|source|timestamp)"\s*:')
_SOURCE = re.compile(rb'"source"\s*:\s*"(?:agent|user|environment|hook)"')
_ID = re.compile(rb'\{\s*"id"\s*:\s*"([^"\\]{1,255})"')
_NAMED = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_HEAD_BYTES = 4_096
_FIRST_LINE_BYTES = 1024 * 1024


# Recognising files.


def is_event(head: bytes, *, in_list: bool) -> bool:
    """Whether a file begins with an event of OpenHands, or with a list of them."""
    found = _FIRST.match(head)
    return (
        found is not None
        and (found[1] is not None) == in_list
        and b'"timestamp"' in head
        and _SOURCE.search(head) is not None
    )


def _is_part(path: Path, head: bytes) -> bool:
    """Whether a file is a part of a conversation in a folder. A link, which may lead anywhere, is none."""
    if path.is_symlink():
        return False
    if path.name == BASE_STATE:
        return head.startswith(b"{") and (path.parent / EVENTS).is_dir()
    if path.parent.name != EVENTS or _number(path) is None:
        return False
    return path.name.startswith("event-") or is_event(head, in_list=False)


def _is_log(path: Path, head: bytes) -> bool:
    # An event that lies elsewhere than the others of its conversation is no conversation.
    return is_event(head, in_list=False) and not (_is_part(path, head) or path.name.startswith("event-"))


def _is_list(_path: Path, head: bytes) -> bool:
    return is_event(head, in_list=True)


def _number(path: Path) -> int | None:
    """The number of an event, which the name of its file has."""
    found = _EVENT_FILE.fullmatch(path.name)
    return int(found[1] or found[2]) if found else None


# A conversation in a folder.


def _event_files(folder: Path) -> list[Path]:
    """The files of events in a folder, in the order of the events."""
    with os.scandir(folder) as entries:
        found = [
            (number, path)
            for each in entries
            if (number := _number(path := Path(each))) is not None and each.is_file(follow_symlinks=False)
        ]
    return [path for _, path in sorted(found)]


@lru_cache(maxsize=8)
def _first_event(folder: Path, _changed_at: int) -> Path | None:
    """The first event in a folder. Events are only added behind it, so that it may be remembered."""
    return next(filter(_may_be_part, _event_files(folder)), None)


def _may_be_part(path: Path) -> bool:
    """Whether a file is a part of a conversation, or cannot be read: reading the conversation says why."""
    try:
        return _is_part(path, text.read_head(path, _HEAD_BYTES))
    except (OSError, ValidationError):
        return True


def _conversation_folder(path: Path) -> Path:
    """The folder of the conversation that a file is a part of."""
    return path.parent if path.name == BASE_STATE else path.parent.parent


def _main_file(path: Path) -> Path | None:
    folder = _conversation_folder(path) / EVENTS
    first = _first_event(folder, folder.stat().st_mtime_ns)
    return None if first == path else first


def _list_main_file(path: Path) -> Path | None:
    """The first event of the conversation that has a page of events beside its folder of events."""
    folder = path.parent.parent / EVENTS
    if path.parent.name != "event_cache" or not folder.is_dir():
        return None
    return _first_event(folder, folder.stat().st_mtime_ns)


def _parts(path: Path) -> list[Path]:
    folder = _conversation_folder(path)
    state = _state_file(folder)
    return [*_event_files(folder / EVENTS), *([state] if state else [])]


def _state_file(folder: Path) -> Path | None:
    path = folder / BASE_STATE
    return path if path.is_file() and not path.is_symlink() else None


def _folder_session_id(path: Path, _head: bytes = b"") -> str | None:
    return _folder_id(_conversation_folder(path))


def _folder_id(folder: Path) -> str | None:
    """The id of a conversation: as its state says it, or as its folder is named.

    A folder of another name may be anywhere, and has none.
    """
    state = _state_file(folder)
    found = _ID.match(text.read_head(state, 1_024)) if state else None
    if found is not None:
        id = found[1].decode("utf-8", "surrogateescape")
        return id if is_text(id) else hashed_id("ses_", FORMAT, id)
    folder = folder.absolute()
    is_named = _NAMED.fullmatch(folder.name) or folder.parent.name in ("sessions", "conversations")
    return folder.name if is_named and is_text(folder.name) else None


def _read_folder(path: Path) -> Iterator[Transcript]:
    folder = _conversation_folder(path)
    events = list(_events(folder))
    if not events:
        # A conversation that has only begun.
        return
    state = _state(folder)
    metadata = _metadata(folder, state)
    # Sub-agents with a folder of their own are sessions, and have their own tokens.
    stats = Stats(state.get("stats"), with_agents=not (folder / _SUBAGENTS).is_dir())
    parent = folder.absolute().parent
    is_subagent = parent.name == _SUBAGENTS
    rows = _rows(
        _folder_id(folder) or _first_id(events[0]),
        metadata,
        at=modified_at(path),
        updated_at=_last_time(events),
        parent_id=_folder_id(parent.parent) if is_subagent else None,
        tags=(SUBAGENT,) if is_subagent else (),
    )
    conversation = Conversation(rows, model=_model(state), usages=stats.by_response())
    yield from _transcripts(conversation, events, stats=stats, state=state_of(state))


def _events(folder: Path) -> Iterator[Any]:
    """The events of a folder. A last one that is not whole is being written."""
    size_bytes = 0
    paths = _event_files(folder / EVENTS)
    for path in paths:
        content = text.read_bytes(path)
        size_bytes += len(content)
        if size_bytes > text.FILE_SIZE_MAX:
            raise ValidationError(f"the conversation has more than {text.FILE_SIZE_MAX:,} bytes of events")
        try:
            yield text.parse_json(content)
        except ValidationError as error:
            if path != paths[-1]:
                raise ValidationError(f"{path.name}: {error}", event=path.name) from error


def _state(folder: Path) -> Document:
    """The state of a conversation, {} if there is none, or it is being written."""
    path = _state_file(folder)
    if path is None:
        return {}
    try:
        state = text.parse_json(text.read_bytes(path))
    except ValidationError:
        return {}
    return state if isinstance(state, dict) else {}


def _model(state: Document) -> Any:
    return object_of(object_of(state, "agent"), "llm").get("model")


def _metadata(folder: Path, state: Document) -> Document:
    """What a conversation says of itself, without secrets, and with the sums of its statistics."""
    about = without(state, "id", "stats")
    uses = object_of(object_of(state, "stats"), "usage_to_metrics")
    if uses:
        names = ("model_name", "accumulated_cost", "accumulated_token_usage")
        about["stats"] = {
            name: {each: metrics[each] for each in names if each in metrics}
            for name, metrics in uses.items()
            if isinstance(metrics, dict)
        }
    cwd = object_of(state, "workspace").get("working_dir") or state.get("working_dir")
    found: Document = {"format": FORMAT, "file": folder.absolute().name}
    if isinstance(cwd, str):
        found["cwd"] = cwd
    return {**found, "rest": without_secrets(about)} if about else found


# Rows.


def _rows(
    id: str,
    metadata: Document,
    *,
    at: datetime,
    updated_at: datetime | None,
    parent_id: str | None = None,
    tags: tuple[str, ...] = (),
) -> SessionRows:
    return SessionRows(
        FORMAT,
        id,
        agent_id=AGENT,
        at=at,
        metadata=metadata,
        parent_id=parent_id,
        tags=tags,
        status=SessionStatus.COMPLETED if is_settled(updated_at or at) else SessionStatus.ACTIVE,
    )


def _transcripts(
    conversation: Conversation, events: list[Any], *, stats: Stats | None = None, state: Any = None
) -> Iterator[Transcript]:
    conversation.rows.begin(_time(events[0]))
    for number, event in enumerate(events):
        try:
            records.add(conversation, event)
        except ValidationError as error:
            raise ValidationError(f"event {number:,}: {error}", event=number) from error
    if stats is not None:
        conversation.count_total(stats)
    conversation.go_into(state)
    yield from filter(None, [conversation.rows.take()])


def _time(event: Any) -> datetime | None:
    return time_of(event.get("timestamp")) if isinstance(event, dict) else None


def _last_time(events: Iterable[Any]) -> datetime | None:
    return max(filter(None, map(_time, events)), default=None)


def _first_id(event: Any) -> str:
    """The id of a conversation that has none: it is made of its first event."""
    return hashed_id("ses_", FORMAT, sha256(dump(event, "event").encode(errors="surrogatepass")).hexdigest())


# A list of events, and a log of them.


def _read_list(path: Path) -> Iterator[Transcript]:
    events = text.parse_json(text.read_bytes(path))
    if not isinstance(events, list) or not events:
        raise ValidationError("expected a list of events")
    metadata: Document = {"format": FORMAT, "file": path.name}
    at = modified_at(path)
    rows = _rows(_first_id(events[0]), metadata, at=at, updated_at=_last_time(events))
    yield from _transcripts(Conversation(rows), events)


class EventLog:
    """Reads a log of events line by line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._conversation: Conversation | None = None

    def add(self, record: bytes) -> None:
        """Read the next line. Raises ValidationError if it is not an event."""
        event = text.parse_json(record)
        if self._conversation is None:
            self._conversation = self._begun(event)
        records.add(self._conversation, event)

    def take(self) -> list[Transcript]:
        """What was added since the last time."""
        taken = None if self._conversation is None else self._conversation.rows.take()
        return [] if taken is None else [taken]

    def _begun(self, event: Any) -> Conversation:
        at = modified_at(self._path)
        metadata: Document = {"format": FORMAT, "file": self._path.name}
        rows = _rows(_first_id(event), metadata, at=at, updated_at=at)
        rows.begin(_time(event))
        return Conversation(rows)


def _log_session_id(path: Path, _head: bytes) -> str | None:
    """The id that the first line gives, if it is not too long to be read twice."""
    if text.is_compressed(path):
        return None
    with files.reading(path, follow_links=True) as file:
        line = next(text.clean_lines([file.readline(_FIRST_LINE_BYTES)]))
    return _first_id(text.parse_json(line)) if len(line) < _FIRST_LINE_BYTES else None


CONVERSATION = Reader(
    f"{FORMAT} conversation",
    _is_part,
    read=_read_folder,
    session_id=_folder_session_id,
    main_file=_main_file,
    parts=_parts,
    has_times=True,
)
TRAJECTORY = Reader(
    f"{FORMAT} trajectory", _is_list, read=_read_list, main_file=_list_main_file, has_times=True
)
LOG = Reader(FORMAT, _is_log, log=EventLog, session_id=_log_session_id)
