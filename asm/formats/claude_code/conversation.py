"""A conversation in a Claude Code log: the main one, or that of a sub-agent. It becomes a session.

Records come one after the other. An event is made as soon as no later record can change it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from asm.documents import Document
from asm.formats.base import Transcript
from asm.formats.claude_code import records
from asm.formats.claude_code.agents import AgentCalls
from asm.formats.claude_code.records import Draft, Kind
from asm.formats.claude_code.runs import CountedMessages, OpenMessage, OpenRun
from asm.formats.claude_code.session import PROVIDER, SessionBuilder, agent_session_id
from asm.models import EventType, Run

EARLY_MAX = 1_000
"""The records without a time that are kept until the first one with a time. Real logs begin with a few."""


class Conversation:
    """Makes a session, its runs and its events of records. `log_id` is the session of the whole log."""

    def __init__(self, builder: SessionBuilder, log_id: str) -> None:
        self.agents = AgentCalls()
        self._builder = builder
        self._log_id = log_id
        self._early: list[Document] = []
        # What may change.
        self._run: OpenRun | None = None
        self._message: OpenMessage | None = None
        self._boundary: tuple[str, datetime, Draft] | None = None
        """A compaction whose summary may follow."""
        self._counted = CountedMessages()
        self._has_commands = False
        self._is_named = False
        # What has not been taken.
        self._runs: dict[str, OpenRun] = {}
        self._has_changed = False

    def add(self, record: Document) -> None:
        """Read the next record."""
        uuid, at = records.text_of(record.get("uuid")), records.time_of(record)
        if self._builder.has_read(uuid):
            return
        if not self._builder.has_begun:
            if at is None and not self._must_begin(record):
                self._early.append(record)
                return
            self._begin(at)
        self._has_changed = True
        self._builder.begin_record(record, uuid, at)
        self._read(record)

    def take(self) -> Transcript | None:
        """What was added since the last time, None if nothing was."""
        if not self._has_changed:
            return None
        self._has_changed = False
        runs = [self._row(run) for run in self._runs.values()]
        self._runs = {} if self._run is None else {self._run.id: self._run}
        return Transcript(self._builder.session(), runs, self._builder.take_events())

    def _must_begin(self, record: Document) -> bool:
        return record.get("type") in ("user", "assistant") or len(self._early) == EARLY_MAX

    def _begin(self, at: datetime | None) -> None:
        self._builder.begin(at)
        early, self._early = self._early, []
        for record in early:
            self.add(record)

    def _read(self, record: Document) -> None:
        kind, message = record.get("type"), records.message_of(record)
        boundary, self._boundary = self._boundary, None
        said = records.kind_of(record, message["content"]) if kind == "user" and message else None
        if message is not None and said == "summary":
            self._add_summary(record, message, boundary)
            return
        if boundary is not None:
            self._builder.add_at(*boundary, run_id=self._builder.run_id)
        if message is not None and said is not None:
            self._add_user(record, message, said)
        elif kind == "assistant" and message is not None:
            self._add_assistant(record, message)
        elif kind == "system":
            self._add_system(record)
        else:
            self._add_other(record)

    # What is said to the model.

    def _add_user(self, record: Document, message: Document, kind: Kind) -> None:
        content = message["content"]
        if kind == "results":
            self._add_results(record, message)
            return
        if kind == "prompt":
            self._begin_run(record, content)
        rest = self._builder.rest_around(record, message)
        if kind == "prompt":
            self._add_prompt(content, rest)
        elif kind == "interruption":
            self._interrupt(records.joined_text(content).strip(), rest)
        elif kind == "output":
            self._add_output(content, rest)
        else:
            self._add_message("system", content, rest)

    def _add_prompt(self, content: str | list[Any], rest: Document) -> None:
        said = records.plain(content)
        if isinstance(said, str) and (shown := records.typed(said)) != said:
            rest, said = records.with_content(rest, content), shown
        role = "system" if isinstance(said, str) and records.is_notification(said) else "user"
        self._add_message(role, said, rest)

    def _add_message(self, role: str, content: str | list[Any], rest: Document, part: str = "") -> None:
        data = {"role": role, "content": records.plain(content)}
        self._builder.add(Draft(EventType.MESSAGE_SENT, data, rest), part)

    def _add_output(self, content: str | list[Any], rest: Document) -> None:
        """What a command printed that Claude Code runs itself. It ends the run of the command."""
        output = records.printed(records.joined_text(content))
        self._add_message("tool", output, records.with_content(rest, content))
        if self._run is not None and not self._run.turns:
            self._run.is_answered = True
            self._run.output = output
            self._move_end()
            self._set_run(None)

    def _interrupt(self, reason: str, rest: Document, part: str = "") -> None:
        self._close_message()
        self._builder.add(Draft(EventType.RUN_CANCELLED, {"reason": reason}, rest), part)
        if self._run is not None:
            self._run.is_interrupted = True
        self._move_end()

    def _add_summary(
        self, record: Document, message: Document, boundary: tuple[str, datetime, Draft] | None
    ) -> None:
        """What a compaction leaves of the conversation. The record before it says why it was compacted."""
        self._close_message()
        rest = self._builder.rest_around(record, message)
        summary = records.plain(message["content"])
        if boundary is None:
            self._builder.add(Draft("claude_code.compacted", {"summary": summary}, rest))
            return
        record_id, at, draft = boundary
        data, rest = {**draft.data, "summary": summary}, {**draft.rest, "summary": rest}
        self._builder.add_at(record_id, at, Draft(draft.type, data, rest), run_id=self._builder.run_id)

    # Results of tools.

    def _add_results(self, record: Document, message: Document) -> None:
        rest = self._builder.rest_around(record, message, "toolUseResult")
        result = record.get("toolUseResult")
        for index, block in enumerate(message["content"]):
            part = str(index) if index else ""
            if records.is_result(block):
                self._add_result(records.result_draft(block), result, rest, part)
                result = None
            elif records.is_interruption(block):
                self._interrupt(block["text"].strip(), rest, part)
            else:
                self._add_message("user", [block], rest, part)
            rest = {}
        self._move_end()

    def _add_result(self, draft: Draft, result: Any, rest: Document, part: str) -> None:
        self._link(draft, result)
        metadata = {} if result is None else {"toolUseResult": result}
        self._builder.add(draft, part, rest, metadata)

    def _link(self, draft: Draft, result: Any) -> None:
        """Add the session of a sub-agent to the result of its call."""
        agent = records.text_of(result.get("agentId")) if isinstance(result, dict) else None
        own = self.agents.end(draft.correlation_id)
        session_id = own if agent is None else agent_session_id(self._log_id, agent)
        if session_id is not None:
            draft.data["session_id"] = session_id

    # What the model says.

    def _add_assistant(self, record: Document, message: Document) -> None:
        if record.get("isApiErrorMessage") is True:
            self._add_api_error(record, message)
            return
        id = records.text_of(message.get("id"))
        key = id or self._builder.record_id
        if self._message is not None and self._message.key != key:
            self._close_message()
        # The original of a copy has its usage.
        is_copy = "forkedFrom" in record
        is_counted = message.get("model") != records.SYNTHETIC and not is_copy
        if self._run is None and (is_counted or is_copy):
            self._open_run(None)
        self._add_blocks(record, message, id, is_counted=is_counted)
        if self._run is not None and (is_counted or is_copy):
            self._answer(self._run, message)
            if is_counted:
                self._count(self._run, key, message)
        self._builder.mark_parent(record)
        self._move_end()
        if message.get("stop_reason") is not None:
            # Only the last record of a message has a reason.
            self._close_message()

    def _add_blocks(self, record: Document, message: Document, id: str | None, *, is_counted: bool) -> None:
        drafts = list(records.drafts_of(message["content"], id))
        known = ("id",) if drafts and "message_id" in drafts[0].data else ()
        # The event of the usage has these.
        counted = ("model", "usage") if is_counted and isinstance(message.get("usage"), dict) else ()
        rest = self._builder.rest_around(record, message, inner=(*known, *counted))
        for index, draft in enumerate(drafts):
            self._builder.add(draft, str(index) if index else "", rest)
            if draft.type == EventType.TOOL_CALL_STARTED and draft.correlation_id is not None:
                self.agents.begin(draft.correlation_id, draft.data)
            rest = {}

    def _answer(self, run: OpenRun, message: Document) -> None:
        run.is_answered, run.is_interrupted, run.error = True, False, None
        said = records.joined_text(message["content"])
        if said.strip() not in ("", records.NO_CONTENT):
            run.output = said

    def _add_api_error(self, record: Document, message: Document) -> None:
        """A request that failed, which Claude Code writes in place of the model's message."""
        self._close_message()
        error = records.api_error(record)
        rest = self._builder.rest_around(record, message, "error", inner=("usage",))
        self._builder.add(Draft(EventType.ERROR_OCCURRED, error, rest))
        if self._run is not None:
            self._run.error, self._run.is_interrupted = error, False
        self._move_end()

    # Tokens.

    def _count(self, run: OpenRun, key: str, message: Document) -> None:
        model = records.text_of(message.get("model"))
        if self._message is None:
            run.turns += self._counted.is_new(key)
            self._message = OpenMessage(key, run, model, None, self._builder.at)
        self._message.at = self._builder.at
        usage = message.get("usage")
        if isinstance(usage, dict):
            self._message.usage = usage
            run.service_tier = usage.get("service_tier", run.service_tier)
        if model is not None:
            run.models.pop(model, None)
            run.models[model] = None

    def _close_message(self) -> None:
        """Add the usage of the last message, which has ended."""
        message, self._message = self._message, None
        if message is None:
            return
        part = "usage" if self._counted.is_new(message.key) else f"usage before {self._builder.record_id}"
        increase = self._counted.count(message.key, message.usage)
        if increase:
            message.run.tokens.update(increase)
            data: Document = {**increase, **({} if message.model is None else {"model": message.model})}
            draft = Draft(EventType.TOKEN_USAGE_UPDATED, data)
            record_id, metadata = f"message {message.key}", {"usage": message.usage}
            self._builder.add_at(record_id, message.at, draft, part, metadata=metadata, run_id=message.run.id)

    def _row(self, run: OpenRun) -> Run:
        message = self._message
        is_open = message is not None and message.run is run
        unfinished = self._counted.increase(message.key, message.usage) if message and is_open else {}
        return run.row(self._builder.id, PROVIDER, unfinished)

    # Other records.

    def _add_system(self, record: Document) -> None:
        subtype, content = record.get("subtype"), record.get("content")
        if subtype == "compact_boundary":
            rest = self._builder.rest(record, "type", "subtype")
            draft = Draft("claude_code.compacted", records.compaction(record), rest)
            self._boundary = self._builder.record_id, self._builder.at, draft
        elif subtype == "turn_duration":
            self._close_message()
            data = records.turn(record)
            rest = self._builder.rest(record, "type", "subtype", *(["durationMs"] if data else []))
            self._builder.add(Draft(EventType.TURN_COMPLETED, data, rest))
        elif subtype == "api_error":
            # Claude Code tries again.
            rest = self._builder.rest(record, "type", "subtype")
            self._builder.add(Draft(EventType.ERROR_OCCURRED, records.api_error(record), rest))
        elif subtype == "local_command" and isinstance(content, str) and records.is_command(content):
            self._begin_run(record, content)
            self._add_prompt(content, self._builder.rest(record, "content"))
        elif subtype == "local_command" and isinstance(content, str) and records.is_output(content):
            self._add_output(content, self._builder.rest(record, "content"))
        else:
            if subtype == "stop_hook_summary":
                # The hooks ran at the end of the turn.
                self._close_message()
            self._add_other(record)

    def _add_other(self, record: Document) -> None:
        prompt = records.queued_prompt(record)
        if prompt is not None:
            rest = self._builder.rest(record, "type", "attachment")
            rest["attachment"] = records.without(record["attachment"], "prompt")
            self._add_message("user", prompt, rest)
            return
        self._builder.name(record)
        self._builder.add_record(record)

    # Runs.

    def _begin_run(self, record: Document, content: str | list[Any]) -> None:
        self._close_message()
        self._set_run(None)
        if (parent := self._builder.mark_parent(record)) is not None:
            # Another message follows the same record: what came after it has been abandoned.
            self._builder.add(Draft("claude_code.rewound", {"to": parent}), "rewind")
        said = records.joined_text(content)
        self._open_run(records.typed(said) if said.strip() else content)
        if not self._is_named:
            self._name(said, records.own_text(content))

    def _name(self, said: str, own: str) -> None:
        """Name the session after its first prompt, if the first message of a user says something else.

        That may be a command such as /clear, or what an editor adds to the prompt.
        """
        if records.is_command(said):
            self._has_commands = True
            return
        self._is_named = True
        if self._has_commands or own != said:
            self._builder.name_by_prompt(own)

    def _open_run(self, input: Any) -> None:
        id = self._builder.id_of("run_", self._builder.record_id)
        run = OpenRun(id, input, self._builder.at, self._builder.at)
        self._runs[run.id] = run
        self._set_run(run)

    def _set_run(self, run: OpenRun | None) -> None:
        self._run = run
        self._builder.run_id = None if run is None else run.id

    def _move_end(self) -> None:
        if self._run is not None:
            # The times in a log sometimes run back.
            self._run.ended_at = max(self._run.ended_at, self._builder.at)
