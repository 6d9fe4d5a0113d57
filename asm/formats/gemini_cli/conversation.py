"""A conversation with Gemini CLI, made of its messages in the order in which the file has them.

A log repeats a message when it gets more parts: the results of its calls, and its tokens. Each part becomes
an event once. A part that was changed, which happens when a conversation is compressed, becomes an event of
its own, and so does a rewind: what was read before stays.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from asm.documents import Document, dump
from asm.formats.base import Transcript
from asm.formats.gemini_cli import records
from asm.formats.gemini_cli.records import Draft, Response
from asm.formats.session_rows import OpenRun, SessionRows, snake_case, time_of, without
from asm.models import EventType

_DESCRIBED = {"projectHash": "project_hash", "kind": "kind", "directories": "directories"}


def _said_of_session(values: Document) -> Document:
    rest = without(values, "messages", "sessionId", "lastUpdated", "startTime")
    if isinstance(rest.get("summary"), str):
        del rest["summary"]
    return rest


@dataclass(slots=True)
class _Message:
    """What was read of a message."""

    id: str
    run: OpenRun | None
    digests: dict[str, bytes] = field(default_factory=dict)
    """Of its parts, by name."""
    tokens: Counter[str] = field(default_factory=Counter)
    changes: int = 0
    counted: int = 0


class Conversation:
    """Makes the rows of a session of its messages."""

    def __init__(self, rows: SessionRows) -> None:
        self._rows = rows
        self._messages: dict[str, _Message] = {}
        self._kept: dict[str, None] = {}
        """The messages that the conversation still has after rewinds and compressions."""
        self._calls: dict[str, _Message] = {}
        """The message that has the latest call with this id."""
        self._unanswered: defaultdict[str, deque[str]] = defaultdict(deque)
        """Calls by the name of the tool, for responses without an id."""
        self._notes: Counter[str] = Counter()

    def take(self) -> Transcript | None:
        """What was added since the last time."""
        return self._rows.take()

    # What is not a message.

    def describe(self, head: Document) -> None:
        """Take what the head of a file says of the session."""
        rest = _said_of_session(head)
        self._take_title(head)
        for name in _DESCRIBED.keys() & rest.keys():
            self._rows.metadata[_DESCRIBED[name]] = rest.pop(name)
        if rest:
            self._rows.metadata["rest"] = rest
        self._rows.move_to(time_of(head.get("lastUpdated")))

    def change(self, values: Document) -> None:
        """Take what a later record says of the session: the title, and else an event."""
        self._take_title(values)
        self._rows.go_to(time_of(values.get("lastUpdated")))
        rest = _said_of_session(values)
        rest |= without({"summary": values.get("summary")})
        if rest:
            self._note("gemini_cli.session_changed", rest)

    def _take_title(self, values: Document) -> None:
        if isinstance(title := values.get("summary"), str) and title.strip():
            self._rows.metadata["title"] = title

    def add_history(self, messages: list[Any]) -> None:
        """Take a list of all messages, which replaces those that were read before."""
        before, self._kept = self._kept, {}
        last = len(messages) - 1
        for number, message in enumerate(messages):
            if isinstance(message, dict) and isinstance(message.get("id"), str):
                # Those before the last one are a summary, what it summarises, and what was read before.
                self.add(message, is_new=number == last)
            else:
                self.add_record({"message": message})
        if dropped := [id for id in before if id not in self._kept]:
            self._note("gemini_cli.history_replaced", {"dropped": dropped})

    def rewind(self, id: str) -> None:
        """Go back to before a message. All messages are dropped if none has this id."""
        dropped: list[str] = []
        while self._kept and (not dropped or dropped[-1] != id):
            dropped.append(self._kept.popitem()[0])
        self._note("gemini_cli.rewound", {"to": id, "dropped": dropped[::-1]})

    def add_record(self, record: Document) -> None:
        """Add a record of a kind that is not known."""
        self._note("gemini_cli.record", record)

    def _note(self, type: str, data: Document) -> None:
        digest = sha256(dump(data, "record").encode()).hexdigest()
        self._notes[digest] += 1
        self._rows.add(type, f"{type} {digest}", data, part=f"{self._notes[digest]}")

    # Messages.

    def add(self, record: Document, *, is_new: bool = True) -> None:
        """Add a message, or what it has more than when it was read before.

        `is_new` says that it was written by a person or a model now, so that the run goes on.
        """
        id = record["id"]
        self._kept[id] = None
        at = self._rows.go_to(time_of(record.get("timestamp")))
        message, rest = self._messages.get(id), {}
        if message is None:
            message = self._messages[id] = self._begin(id, record, is_new)
            rest = records.rest_of(record)
        drafts = records.drafts_of(record)
        for draft in drafts:
            if self._add(message, draft, at, rest):
                rest = {}
        for response in records.responses_of(record):
            self._add_response(message, response, at)
        if rest.keys() - {"model"}:
            self._add(message, Draft("message", "gemini_cli.message", rest), at, {})
        self._add_tokens(message, record, at)
        if is_new:
            self._end(message, record)

    def _begin(self, id: str, record: Document, is_new: bool) -> _Message:
        if is_new and records.is_prompt(record):
            self._rows.begin_run(id, records.prompt_of(record))
        if is_new and record.get("type") in ("gemini", "model"):
            self._rows.add_turn(self._rows.run, record.get("model"))
        return _Message(id, self._rows.run)

    def _add(self, message: _Message, draft: Draft, at: datetime, rest: Document) -> bool:
        """Add a part of a message, unless it is known. Returns whether the part is new."""
        said = draft.data if draft.identity is None else draft.identity
        digest = sha256(dump(said, "message").encode()).digest()[:16]
        before = message.digests.get(draft.part)
        message.digests[draft.part] = digest
        if before is None:
            self._note_call(message, draft)
            at = draft.at or at
            self._rows.add(
                draft.type,
                message.id,
                draft.data,
                part=draft.part,
                at=at,
                run=message.run,
                correlation_id=draft.correlation_id,
                rest={**rest, **draft.rest},
            )
        elif before != digest:
            message.changes += 1
            data = {"message_id": message.id, "part": draft.part, "data": draft.data}
            part = f"changed {message.changes}"
            self._rows.add("gemini_cli.message_changed", message.id, data, part=part, at=at, run=message.run)
        return before is None

    def _note_call(self, message: _Message, draft: Draft) -> None:
        if draft.type == EventType.TOOL_CALL_STARTED and draft.correlation_id is not None:
            self._calls[draft.correlation_id] = message
            self._unanswered[snake_case(draft.data.get("name"))].append(draft.correlation_id)

    def _add_response(self, message: _Message, response: Response, at: datetime) -> None:
        """Add the response to a call, which the message with the call may have already."""
        id = response.id or self._next_unanswered(response.name) or response.own_id
        self._add(self._calls.get(id, message), response.draft(id), at, {})

    def _next_unanswered(self, name: str) -> str | None:
        waiting = self._unanswered[name]
        while waiting:
            id = waiting.popleft()
            if f"result {id}" not in self._calls[id].digests:
                return id
        return None

    def _add_tokens(self, message: _Message, record: Document, at: datetime) -> None:
        """Add the tokens of a message that were not counted yet. They never get fewer."""
        # Only what is more than 0 stays.
        more = records.usage_of(record) - message.tokens
        if not more:
            return
        message.tokens += more
        self._rows.add_usage(message.run, more)
        message.counted += 1
        data = {**more, **without({"model": record.get("model")})}
        self._rows.add(
            EventType.TOKEN_USAGE_UPDATED,
            message.id,
            data,
            part=f"tokens {message.counted}",
            at=at,
            run=message.run,
            rest={"tokens": record["tokens"]},
        )

    def _end(self, message: _Message, record: Document) -> None:
        """Note how the run stands after a message."""
        run, kind = message.run, record.get("type")
        if run is None:
            return
        if kind in ("gemini", "model"):
            run.error, run.is_cancelled = None, False
            if said := records.text_of(record.get("content")):
                run.output = said
        elif kind == "error":
            run.error = {"message": records.text_of(record.get("content")) or "an error"}
        elif kind == "info" and records.text_of(record.get("content")).strip() == records.CANCELLED:
            run.is_cancelled = True
