"""opencode's sessions: the files of `opencode export`, and its database.

A session has messages, and each message has parts. Every part becomes an event once nothing changes it any
more: when it has ended, when its message has, when another message follows, or a day later. A message of the
user begins a run, to which the messages that answer it belong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats import databases, opencode_database
from asm.formats.base import Reader, Transcript
from asm.formats.session_rows import (
    OpenRun,
    SessionRows,
    counts_of,
    hashed_id,
    object_of,
    snake_case,
    time_of,
    token_number,
    without,
)
from asm.formats.times import is_settled, modified_at
from asm.models import EventType, SessionStatus
from asm.usage import COST_USD_MAX
from asm.validation import is_number, is_text

FORMAT = "opencode"
AGENT = "opencode"
SUBAGENT = "subagent"
"""The tag of the sessions of sub-agents."""

_EXPORT = re.compile(rb'\{\s*"info"\s*:\s*\{')
_SESSION = re.compile(rb'"id"\s*:\s*"(ses_[^"\\]{1,250})"')
_PART_FIELDS = ("id", "messageID", "sessionID", "type")
_MESSAGE_FIELDS = ("id", "sessionID", "role", "error", "modelID")
_ABORTED = "MessageAbortedError"


def _is_export(_path: Path, head: bytes) -> bool:
    return _EXPORT.match(head) is not None and (b'"projectID"' in head or _SESSION.search(head) is not None)


def _session_id(_path: Path, head: bytes) -> str | None:
    found = _SESSION.search(head)
    return None if found is None else _own_id(found[1].decode("utf-8", "surrogateescape"))


def _read_export(path: Path) -> Iterator[Transcript]:
    document = text.parse_json(text.read_bytes(path))
    info = _object(document, "the file").get("info")
    messages = document.get("messages")
    if not isinstance(messages, list):
        raise ValidationError("expected an object with a list named `messages`")
    rest = without(document, "info", "messages")
    yield _transcript(path, {**_object(info, "info"), **rest}, map(_message, enumerate(messages)))


def _message(numbered: tuple[int, Any]) -> tuple[Document, list[Any]]:
    number, message = numbered
    name = f"messages[{number}]"
    parts = _object(message, name).get("parts")
    if not isinstance(parts, list):
        raise ValidationError(f"{name}.parts must be a list, not {type(parts).__name__}")
    return _object(message.get("info"), f"{name}.info"), parts


def _read_database(path: Path) -> Iterator[Transcript]:
    with databases.reading(path) as database:

        def read(id: Any) -> list[Transcript]:
            info = opencode_database.session(database, id)
            return [_transcript(path, info, opencode_database.messages(database, id))] if info else []

        ids = database.read(lambda: list(opencode_database.session_ids(database)))
        for found in databases.each(database, ids, read):
            yield from found


READERS = (
    Reader(FORMAT, _is_export, read=_read_export, session_id=_session_id),
    Reader(
        f"{FORMAT} database",
        opencode_database.sniff,
        read=_read_database,
        has_times=True,
    ),
)


def _object(value: Any, name: str) -> Document:
    if not isinstance(value, dict):
        raise ValidationError(f"{name} must be an object, not {type(value).__name__}")
    return value


def _transcript(path: Path, info: Document, messages: Iterable[tuple[Document, list[Any]]]) -> Transcript:
    """A session and its messages, which are in their order."""
    times = object_of(info, "time")
    updated_at = time_of(times.get("updated")) or modified_at(path)
    is_old = is_settled(updated_at)
    rows = _rows(path, info, updated_at, is_old)
    rows.begin(time_of(times.get("created")))
    conversation = _Conversation(rows)
    before: tuple[Document, list[Any]] | None = None
    for message in messages:
        if before is not None:
            conversation.add(*before, is_final=True)
        before = message
    if before is not None:
        conversation.add(*before, is_final=is_old)
    if isinstance(revert := info.get("revert"), dict) and isinstance(revert.get("messageID"), str):
        point = f"{revert['messageID']} {revert.get('partID') or ''}"
        rows.add("opencode.reverted", f"revert {point}", without(revert), at=updated_at)
    rows.move_to(updated_at)
    taken = rows.take()
    assert taken is not None
    return taken


def _rows(path: Path, info: Document, at: datetime, is_old: bool) -> SessionRows:
    id, parent = info.get("id"), info.get("parentID")
    if not isinstance(id, str) or not id:
        raise ValidationError(f"the id of a session must be a text, not {type(id).__name__}")
    metadata: Document = {"format": FORMAT, "file": path.name}
    names = {"title": "title", "directory": "cwd", "version": "version", "projectID": "project_id"}
    metadata |= {own: info[name] for name, own in names.items() if isinstance(info.get(name), str)}
    known = [name for name, own in names.items() if own in metadata]
    if rest := without(info, "id", "parentID", "time", "revert", *known):
        metadata["rest"] = rest
    return SessionRows(
        FORMAT,
        _own_id(id),
        agent_id=AGENT,
        at=at,
        metadata=metadata,
        parent_id=_own_id(parent) if isinstance(parent, str) and parent else None,
        tags=(SUBAGENT,) if parent else (),
        status=SessionStatus.COMPLETED if is_old else SessionStatus.ACTIVE,
    )


def _own_id(id: str) -> str:
    return id if is_text(id) else hashed_id("ses_", FORMAT, id)


class _Conversation:
    """Makes the rows of a session of its messages."""

    def __init__(self, rows: SessionRows) -> None:
        self._rows = rows
        self._runs: dict[str, OpenRun] = {}
        """The runs by the message that began them."""

    def add(self, info: Document, parts: list[Any], *, is_final: bool) -> None:
        """Add a message. `is_final` says that nothing will change it."""
        id = info.get("id")
        if not isinstance(id, str) or not id:
            raise ValidationError(f"the id of a message must be a text, not {type(id).__name__}")
        times = object_of(info, "time")
        self._rows.go_to(time_of(times.get("created")))
        if info.get("role") == "assistant":
            is_final = is_final or times.get("completed") is not None or info.get("error") is not None
            self._add_answer(id, info, parts, is_final)
        elif parts or is_final:
            # Its parts are written after it.
            self._add_prompt(id, info, parts)

    # The user's.

    def _add_prompt(self, id: str, info: Document, parts: list[Any]) -> None:
        prompt = _prompt(parts)
        if info.get("role") == "user" and prompt:
            run = self._runs[id] = self._rows.begin_run(id, prompt, _provider(info.get("model")))
            run.metadata = without({"summary": info.get("summary")})
        rest = without(info, "id", "sessionID", "role", "time", "summary")
        if not any(_kind(part) in ("text", "file") for part in parts):
            self._rows.add(f"opencode.{snake_case(info.get('role'))}_message", id, rest)
            rest = {}
        for number, part in enumerate(parts):
            kind = _kind(part)
            own_rest = rest if kind in ("text", "file") else {}
            self._add_part(id, number, part, str(info.get("role")), None, own_rest)
            rest = {} if own_rest else rest

    # The model's.

    def _add_answer(self, id: str, info: Document, parts: list[Any], is_final: bool) -> None:
        run = self._runs.get(str(info.get("parentID")), self._rows.run)
        provider = _provider(info)
        self._rows.add_turn(run, info.get("modelID"))
        if run is not None:
            run.provider = provider or run.provider
            run.error, run.is_cancelled = None, False
        for number, part in enumerate(parts):
            if not (is_final or _has_ended(part)):
                # What follows comes later, too, so that the order stays.
                return
            self._add_part(id, number, part, "assistant", run, {}, provider)
        if is_final:
            self._end(id, info, parts, run, provider)

    def _end(
        self, id: str, info: Document, parts: list[Any], run: OpenRun | None, provider: str | None
    ) -> None:
        """Add how a message has ended, and its tokens."""
        at = time_of(object_of(info, "time").get("completed"))
        if (error := info.get("error")) is not None:
            self._add_error(id, _error(error), at, run, provider)
        usages = [part.get("tokens") for part in parts if _kind(part) == "step-finish"]
        # A message has the tokens of its last step, and the cost of all.
        counts = _sum(usages) or _sum([info.get("tokens")])
        cost_usd = _cost(info.get("cost"))
        self._rows.add_usage(run, counts, cost_usd)
        data = {**counts, **without({"model": info.get("modelID"), "cost_usd": cost_usd or None})}
        rest = without(info, *_MESSAGE_FIELDS)
        self._rows.add(
            EventType.TOKEN_USAGE_UPDATED if counts else "opencode.message_completed",
            id,
            data,
            part="end",
            at=at,
            run=run,
            rest=rest,
            provider=provider,
        )

    def _add_error(
        self, id: str, said: Document, at: datetime | None, run: OpenRun | None, provider: str | None
    ) -> None:
        self._rows.add(EventType.ERROR_OCCURRED, id, said, part="error", at=at, run=run, provider=provider)
        if run is not None:
            run.is_cancelled = said.get("code") == _ABORTED
            run.error = None if run.is_cancelled else said

    # Parts.

    def _add_part(
        self,
        message_id: str,
        number: int,
        part: Any,
        role: str,
        run: OpenRun | None,
        rest: Document,
        provider: str | None = None,
    ) -> None:
        found = part if isinstance(part, dict) else {"part": part}
        part_id = found.get("id")
        record_id = part_id if isinstance(part_id, str) and part_id else f"{message_id} {number}"
        for name, type, data, own_rest, at, call in _events(found, role):
            self._rows.add(
                type,
                record_id,
                data,
                part=name,
                at=at,
                run=run,
                correlation_id=call,
                rest={**rest, **own_rest},
                provider=provider,
            )
            if run is not None and type == EventType.MESSAGE_RECEIVED and data.get("content"):
                run.output = data["content"]
            rest = {}


def _prompt(parts: list[Any]) -> str:
    """What a person has written in a message; not what opencode has added."""
    texts = (
        part.get("text")
        for part in parts
        if _kind(part) == "text" and not part.get("synthetic") and not part.get("ignored")
    )
    said = "\n".join(each for each in texts if isinstance(each, str))
    if said or not any(_kind(part) == "subtask" for part in parts):
        return said
    return "\n".join(str(part.get("prompt") or "") for part in parts if _kind(part) == "subtask")


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _provider(about: Any) -> str | None:
    provider = about.get("providerID") if isinstance(about, dict) else None
    return provider if is_text(provider) else None


def _has_ended(part: Any) -> bool:
    """Whether a part of an answer that is being written will not change."""
    kind = _kind(part)
    if kind in ("text", "reasoning"):
        return object_of(part, "time").get("end") is not None
    if kind == "tool":
        return _state(part).get("status") in ("completed", "error")
    return True


def _state(part: Mapping[str, Any]) -> Document:
    return object_of(part, "state")


_Drafts = Iterator[tuple[str, str, Document, Document, datetime | None, str | None]]
"""The part, the type, the data, the rest, the time and the call of events."""


def _events(part: Document, role: str) -> _Drafts:
    """The events of a part of a message."""
    kind = part.get("type")
    times = object_of(part, "time")
    at = time_of(times.get("start")) or time_of(times.get("created"))
    rest = without(part, *_PART_FIELDS)
    type = EventType.MESSAGE_RECEIVED if role == "assistant" else EventType.MESSAGE_SENT
    if kind == "text" and isinstance(part.get("text"), str):
        yield "", type, {"role": role, "content": rest.pop("text")}, rest, at, None
    elif kind == "reasoning" and isinstance(part.get("text"), str):
        yield "", type, {"role": role, "thinking": rest.pop("text")}, rest, at, None
    elif kind == "file":
        yield "", type, {"role": role, "content": [_file(rest)]}, rest, at, None
    elif kind == "tool" and isinstance(part.get("state"), dict):
        yield from _call(part, rest)
    elif kind == "retry":
        yield "", EventType.ERROR_OCCURRED, _error(rest.pop("error", None)), rest, at, None
    elif kind == "step-finish":
        reason = rest.pop("reason", None)
        yield "", EventType.TURN_COMPLETED, without({"stop_reason": reason}), rest, at, None
    elif kind == "snapshot" and isinstance(part.get("snapshot"), str):
        yield "", EventType.WORKSPACE_SNAPSHOT_TAKEN, {"ref": rest.pop("snapshot")}, rest, at, None
    else:
        yield "", f"opencode.{snake_case(kind)}", rest, {}, at, None


def _file(rest: Document) -> Document:
    """A content block of a file, whose fields are taken out of the rest."""
    mime, url = rest.get("mime"), rest.get("url")
    if isinstance(mime, str) and mime.startswith("image/") and isinstance(url, str):
        head, comma, data = url.partition(",")
        if comma and head.startswith("data:") and head.endswith(";base64"):
            for name in ("mime", "url"):
                del rest[name]
            return {"type": "image", "source": {"type": "base64", "media_type": mime, "data": data}}
    return {"type": "file", **{name: rest.pop(name) for name in ("filename", "mime", "url") if name in rest}}


def _call(part: Document, rest: Document) -> _Drafts:
    """A call, and its result if it has one."""
    state = _state(part)
    call = part.get("callID")
    id = call if isinstance(call, str) and call else None
    times = object_of(state, "time")
    begun, ended = time_of(times.get("start")), time_of(times.get("end"))
    data = without({"name": part.get("tool"), "input": state.get("input")})
    rest = without(rest, "tool", "state", *(("callID",) if id else ()))
    status = state.get("status")
    if status not in ("completed", "error"):
        rest["state"] = without(state, "input")
    yield "call", EventType.TOOL_CALL_STARTED, data, rest, begun, id
    about = without(state, "status", "input", "output", "error", "time")
    more: Document = {}
    if begun is not None and ended is not None:
        more["duration_s"] = max((ended - begun).total_seconds(), 0.0)
    if isinstance(session := object_of(state, "metadata").get("sessionId"), str):
        more["session_id"] = session
    if status == "completed":
        more = {"output": state.get("output"), **more}
        yield "result", EventType.TOOL_CALL_COMPLETED, more, about, ended, id
    elif status == "error":
        said = state.get("error")
        error = said if isinstance(said, str | dict) and said else {"message": "the tool failed"}
        about |= without({"output": state.get("output")})
        yield "result", EventType.TOOL_CALL_FAILED, {"error": error, **more}, about, ended, id


def _error(error: Any) -> Document:
    """`{code, message}` of an error, and what else it says."""
    found = error if isinstance(error, dict) else {}
    data = object_of(found, "data")
    message = data.get("message") or found.get("message") or (error if isinstance(error, str) else None)
    details = without(data, "message")
    said = {
        "code": found.get("name"),
        "message": message or "the request failed",
        "details": details or None,
    }
    return without(said)


def _sum(usages: list[Any]) -> Any:
    """The tokens of some steps. opencode counts what was cached beside the input."""
    total = counts_of()
    for usage in usages:
        if isinstance(usage, dict):
            total.update(_counts(usage))
    return total


def _cost(value: Any) -> float:
    """A cost in US dollars, 0 for what is none."""
    return float(value) if is_number(value) and 0 < value < COST_USD_MAX else 0.0


def _counts(usage: Document) -> Any:
    cache = object_of(usage, "cache")
    names = ("input", "output", "reasoning", "total")
    asked, said, thought, total = (token_number(usage.get(name)) for name in names)
    read, written = token_number(cache.get("read")), token_number(cache.get("write"))
    # Thoughts are beside the output, as opencode prices them, unless the total shows that they are among it.
    is_inside = total and thought <= said and total == asked + said + read + written
    return counts_of(
        input_tokens=asked,
        output_tokens=said if is_inside else said + thought,
        cache_read_tokens=read,
        cache_creation_tokens=written,
    )
