"""A conversation with Codex, made of the records of its log.

The items of the Responses make the conversation. Most records `event_msg` tell the same again for the
screen, before or after the item, and are left out: `metadata["told_twice"]` counts them.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from asm.content import session_title
from asm.documents import Document
from asm.formats import openai_items
from asm.formats.base import Transcript
from asm.formats.codex.records import (
    Record,
    error_of,
    is_context,
    is_plain_text,
    is_text_of,
    text_of,
    title_of,
)
from asm.formats.codex.screen import Screen, UntoldText, not_empty
from asm.formats.codex.tokens import TokenTotal
from asm.formats.openai_items import Draft
from asm.formats.session_rows import OpenRun, SessionRows, digest_of, snake_case, without
from asm.models import EventType

_SCREEN = {
    "agent_message": ("message", "content"),
    "agent_reasoning": ("text", "thinking"),
    "agent_reasoning_raw_content": ("text", "thinking"),
}
"""The field that has the text, and that of the event if no item has it, by the type of an `event_msg`."""


class Conversation:
    """Makes the rows of a session of its records."""

    def __init__(self, rows: SessionRows) -> None:
        self._rows = rows
        self._equal: Counter[bytes] = Counter()
        self._total = TokenTotal()
        self._record_id = ""
        self._number = 0
        """Of the record in the log."""
        # The turn.
        self._turn_id: str | None = None
        self._has_ended = False
        self._was_answer = False
        self._model: Any = None
        self._context: Document | None = None
        self._counted: Document | None = None
        # What is told twice.
        self._told_twice = 0
        self._prompts: dict[str, str] = {}
        """The prompts of the turn that were told once, and the type of the record that told them."""
        self._held: tuple[Record, str, datetime] | None = None
        """A message that only a `user_message` behind it makes a prompt."""
        self._screen = Screen()

    def take(self) -> Transcript | None:
        """What was added since the last time."""
        return self._rows.take()

    def add(self, record: Record) -> None:
        """Read the next record."""
        self._record_id = self._numbered(record)
        self._resolve(record)
        self._rows.go_to(record.at)
        match record.type:
            case "session_meta":
                self._note("codex.session_meta", record.payload)
            case "response_item":
                self._add_item(record)
            case "event_msg":
                self._add_message(record)
            case "turn_context":
                self._add_context(record.payload)
            case "compacted":
                self._add_compacted(record.payload)
            case other:
                self._note(f"codex.{other}", record.payload)

    def add_replayed(self, record: Record, line: Document) -> None:
        """Keep a record that a fork repeats from its parent. Its tokens are the parent's."""
        self._record_id = self._numbered(record)
        self._rows.go_to(record.at)
        if record.kind == "token_count":
            self._total.increase(record.payload)
        self._note("codex.replayed", line)

    def _numbered(self, record: Record) -> str:
        """The id of a record: its content, and its number among equal ones."""
        digest = digest_of([record.type, record.payload])
        self._equal[digest] += 1
        self._number += 1
        return f"{digest.hex()} {self._equal[digest]}"

    def _note(self, type: str, data: Document, **fields: Any) -> None:
        self._rows.add(type, self._record_id, without(data), **fields)

    def _leave_out(self) -> None:
        self._told_twice += 1
        self._rows.metadata["told_twice"] = self._told_twice

    # Prompts.

    def _resolve(self, record: Record) -> None:
        """Add the message that was held: a prompt if this record tells it again, and else context."""
        if self._held is None:
            return
        (held, id, at), self._held = self._held, None
        own, self._record_id = self._record_id, id
        is_prompt = record.kind == "user_message" and is_text_of(held, record.payload.get("message"))
        self._rows.go_to(at)
        self._add_user_item(held, is_prompt=is_prompt)
        self._record_id = own

    def _add_user_item(self, record: Record, *, is_prompt: bool) -> None:
        (draft,) = openai_items.drafts_of(record.payload, _own_type)
        if is_prompt:
            self._begin_prompt(text_of(record), draft.data["content"], "response_item")
        else:
            draft.data["role"] = "system"
            draft.rest["role"] = "user"
        self._add_draft(draft)

    def _begin_prompt(self, said: str, content: Any, told_by: str) -> None:
        """Begin a run with a prompt, unless the turn has begun already."""
        run = self._rows.run
        is_steering = run is not None and not self._has_ended and run.input is not None and self._turn_id
        if run is None or self._has_ended or (run.input is not None and not self._turn_id):
            run = self._begin_run(None)
        if not is_steering:
            run.input = content
            self._rows.note(run)
        self._was_answer = False
        self._prompts[said.strip()] = told_by
        if "title" not in self._rows.metadata and (title := title_of(said)):
            self._rows.metadata["title"] = title

    def _begin_run(self, turn_id: str | None) -> OpenRun:
        self._end_turn()
        self._turn_id, self._has_ended = turn_id, False
        self._prompts = {}
        return self._rows.begin_run(self._record_id, None)

    def _add_user_message(self, payload: Document) -> None:
        """A prompt for the screen. It is the prompt itself if its item is not there or comes later."""
        said = payload.get("message")
        if not isinstance(said, str):
            self._note("codex.user_message", without(payload, "type"))
        elif self._prompts.get(said.strip()) == "response_item":
            del self._prompts[said.strip()]
            self._leave_out()
        else:
            self._begin_prompt(said, said, "event_msg")
            data: Document = {"role": "user", "content": said}
            self._rows.add(
                EventType.MESSAGE_SENT, self._record_id, data, rest=not_empty(payload, "type", "message")
            )

    # Items.

    def _add_item(self, record: Record) -> None:
        item = record.payload
        if item.get("type") == "message" and item.get("role") == "user":
            self._add_message_of_user(record)
            return
        self._count_answer(item)
        for draft in openai_items.drafts_of(item, _own_type):
            self._add_draft(draft)
        said = (
            openai_items.thoughts_of(item)
            if item.get("type") == "reasoning"
            else openai_items.texts_of(item.get("content"))
        )
        for each in said if openai_items.is_answer(item) else ():
            if self._screen.say(each):
                self._leave_out()
        if item.get("role") == "assistant" and self._rows.run is not None:
            self._rows.run.output = openai_items.plain(item.get("content"))

    def _add_message_of_user(self, record: Record) -> None:
        texts = openai_items.texts_of(record.payload.get("content"))
        said = next((each for each in self._prompts if is_text_of(record, each)), None)
        if said is not None and self._prompts[said] == "event_msg":
            del self._prompts[said]
            self._add_beside(record.payload)
        elif texts and not all(map(is_context, texts)):
            self._add_user_item(record, is_prompt=True)
        elif record.is_bare:
            self._add_user_item(record, is_prompt=not texts)
        else:
            self._held = (record, self._record_id, self._rows.at)

    def _add_beside(self, item: Document) -> None:
        """Of a prompt that was told already, add what a `user_message` does not have, such as images."""
        self._leave_out()
        content = item.get("content")
        blocks = [each for each in content if not is_plain_text(each)] if isinstance(content, list) else []
        if blocks:
            self._rows.add(EventType.MESSAGE_SENT, self._record_id, {"role": "user", "content": blocks})

    def _count_answer(self, item: Document) -> None:
        """Count a turn of the model where what it says follows what it was told."""
        is_answer = openai_items.is_answer(item)
        if is_answer and not self._was_answer:
            if self._rows.run is None:
                self._begin_run(None)
            self._rows.add_turn(self._rows.run, self._model)
        self._was_answer = is_answer
        if is_answer and self._rows.run is not None:
            self._rows.run.error = None

    def _add_draft(self, draft: Draft) -> None:
        self._rows.add(
            draft.type,
            self._record_id,
            draft.data,
            part=draft.part,
            correlation_id=draft.call_id or (self._record_id if draft.type in _CALLS else None),
            rest=draft.rest,
        )

    # What the screen tells.

    def _add_screen_text(self, payload: Document, name: str, own: str) -> None:
        said = payload.get(name)
        if not isinstance(said, str):
            self._note(f"codex.{snake_case(payload.get('type'))}", without(payload, "type"))
            return
        rest = not_empty(payload, "type", name)
        is_told = self._screen.tell(UntoldText(self._number, self._record_id, self._rows.at, own, said, rest))
        if is_told:
            self._leave_out()
        if self._screen.is_full:
            self._end_turn()

    def _end_turn(self) -> None:
        """Add the texts of the screen that no item has."""
        for untold in self._screen.end_turn():
            data = {"role": "assistant", untold.name: untold.text}
            self._rows.add(EventType.MESSAGE_RECEIVED, untold.record_id, data, at=untold.at, rest=untold.rest)

    # Other records.

    def _add_message(self, record: Record) -> None:
        payload, kind = record.payload, record.kind
        match kind:
            case "user_message":
                self._add_user_message(payload)
            case "agent_message" | "agent_reasoning" | "agent_reasoning_raw_content":
                self._add_screen_text(payload, *_SCREEN[kind])
            case "agent_reasoning_section_break":
                self._leave_out()
            case "token_count":
                self._add_tokens(payload)
            case "task_started" | "turn_started":
                self._start_turn(payload)
            case "task_complete" | "turn_complete":
                self._complete_turn(payload)
            case "turn_aborted":
                self._abort_turn(payload)
            case "error" | "stream_error":
                self._add_error(payload, is_fatal=kind == "error")
            case _:
                self._take_title(payload)
                self._note(f"codex.{kind or 'event_msg'}", without(payload, "type"))

    def _take_title(self, payload: Document) -> None:
        title = session_title({"title": payload.get("thread_name")}, [])
        if payload.get("type") == "thread_name_updated" and title:
            self._rows.metadata["title"] = title

    def _start_turn(self, payload: Document) -> None:
        self._go_to_turn(payload.get("turn_id"), is_new=True)
        self._rows.add(EventType.RUN_STARTED, self._record_id, {}, rest=without(payload, "type"))

    def _go_to_turn(self, turn_id: Any, *, is_new: bool = False) -> None:
        """Begin a run with a turn, unless its prompt has begun one already."""
        turn_id = turn_id if isinstance(turn_id, str) else None
        run = self._rows.run
        if run is not None and not self._has_ended:
            if turn_id is None or turn_id == self._turn_id:
                return
            if self._turn_id is None and not run.is_answered:
                self._turn_id = turn_id
                return
        if is_new or turn_id is not None:
            self._begin_run(turn_id)

    def _complete_turn(self, payload: Document) -> None:
        self._end_turn()
        run, error = self._rows.run, payload.get("error")
        rest = without(payload, "type", "last_agent_message", "error")
        if error is not None:
            data = error_of(error if isinstance(error, dict) else {"message": error})
            self._rows.add(EventType.RUN_FAILED, self._record_id, data, rest=rest)
        else:
            data = without({"output": payload.get("last_agent_message")})
            self._rows.add(EventType.RUN_COMPLETED, self._record_id, data, rest=rest)
        if run is not None:
            run.is_answered = True
            run.error = data if error is not None else run.error
        self._has_ended = True

    def _abort_turn(self, payload: Document) -> None:
        self._end_turn()
        data = without({"reason": payload.get("reason")})
        self._rows.add(
            EventType.RUN_CANCELLED, self._record_id, data, rest=without(payload, "type", "reason")
        )
        if self._rows.run is not None:
            self._rows.run.is_cancelled = True
        self._has_ended = True

    def _add_error(self, payload: Document, *, is_fatal: bool) -> None:
        data = error_of(payload)
        self._rows.add(
            EventType.ERROR_OCCURRED,
            self._record_id,
            data,
            rest=without(payload, "type", "message", "codex_error_info"),
        )
        if is_fatal and self._rows.run is not None:
            self._rows.run.error = data

    def _add_tokens(self, payload: Document) -> None:
        more = self._total.increase(payload)
        before, self._counted = self._counted, payload
        if more:
            self._rows.add_usage(self._rows.run, more)
            data = {**more, **without({"model": self._model})}
            self._rows.add(
                EventType.TOKEN_USAGE_UPDATED, self._record_id, data, rest=without(payload, "type")
            )
        elif payload == before:
            self._leave_out()
        else:
            self._note("codex.token_count", without(payload, "type"))

    def _add_context(self, payload: Document) -> None:
        self._go_to_turn(payload.get("turn_id"))
        self._model = payload.get("model") or self._model
        if self._rows.run is not None and isinstance(effort := payload.get("effort"), str):
            self._rows.run.metadata["effort"] = effort
            self._rows.note(self._rows.run)
        if payload == self._context:
            self._leave_out()
            return
        self._context = payload
        self._note("codex.turn_context", payload)

    def _add_compacted(self, payload: Document) -> None:
        history = payload.get("replacement_history")
        self._rows.add(
            "codex.compacted",
            self._record_id,
            without(payload, "replacement_history"),
            metadata=without({"replacement_history": history}),
        )


_CALLS = (EventType.TOOL_CALL_STARTED, EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED)


def _own_type(name: str) -> str:
    return f"codex.{name}"
