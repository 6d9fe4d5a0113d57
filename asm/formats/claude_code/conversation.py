"""A conversation in a Claude Code log, as a session: the main one, or that of a sub-agent.

Records come one after the other. An event is made as soon as no later record can change it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from asm.content import session_title
from asm.documents import Document
from asm.formats import text
from asm.formats.base import Transcript
from asm.formats.claude_code import records
from asm.formats.claude_code.records import Draft
from asm.formats.claude_code.runs import CountedMessages, OpenMessage, OpenRun
from asm.models import Event, EventType, Run, Session, SessionStatus
from asm.validation import is_text

FORMAT = "Claude Code"
AGENT = "claude-code"
PROVIDER = "anthropic"

EARLY_MAX = 1_000
"""The records without a time that are kept until the first one with a time. Real logs begin with a few."""

_AMBIENT = {
    *("cwd", "gitBranch", "version", "userType", "entrypoint", "slug", "sessionId", "agentId", "isSidechain"),
    *("teamName", "permissionMode", "promptId"),
}
"""Fields that are repeated in each record. An event has them only where they change."""

_AROUND = _AMBIENT | {"type", "subtype", "uuid", "parentUuid", "timestamp"}
"""The fields that say what a record is and where it stands, and not what it says."""

_SESSION_FIELDS = {"cwd": "cwd", "gitBranch": "git_branch", "version": "version"}
_TITLES = {"custom-title": "customTitle", "ai-title": "aiTitle", "summary": "summary"}
"""The field of a record with a title, by the type of the record, from the strongest to the weakest."""

_AGENT_TOOLS = ("Task", "Agent")
_CALLS_MAX = 1_000


class Conversation:
    """Makes a session, its runs and events of records. `id` is that of the session.

    `log_id` is the id of the session of the whole log, and `parent_id` that of the session to which this one
    belongs. `fallback_at` is the time of records if none has one.
    """

    def __init__(
        self,
        id: str,
        *,
        log_id: str,
        fallback_at: datetime,
        metadata: Document,
        status: SessionStatus,
        parent_id: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> None:
        self.id = id
        self.log_id = log_id
        self.agent_calls: dict[str, Document] = {}
        """The inputs of the calls that have begun a sub-agent and have no result yet, by their ids."""
        self.agent_sessions: dict[str, str] = {}
        """The sessions of sub-agents that the log itself has, by the ids of their calls."""
        self._metadata = metadata
        self._status = status
        self._parent_id = parent_id
        self._tags = tags
        self._fallback_at = fallback_at
        # What was said.
        self._seen: dict[bytes | str, bool] = {}
        """The uuids of the records, and whether a message follows the record."""
        self._equal: Counter[bytes] = Counter()
        self._early: list[Document] = []
        self._created_at: datetime | None = None
        self._updated_at = fallback_at
        self._titles: dict[str, str] = {}
        self._leaves: dict[str, str] = {}
        self._repeated = 0
        self._has_commands = False
        # The record that is being read.
        self._record_id = ""
        self._at = fallback_at
        self._previous_uuid: str | None = None
        self._ambient: Document = {}
        # What is not finished.
        self._run: OpenRun | None = None
        self._message: OpenMessage | None = None
        self._counted = CountedMessages()
        self._boundary: tuple[str, datetime, Draft] | None = None
        # What has not been taken.
        self._runs: dict[str, OpenRun] = {}
        self._events: list[Event] = []
        self._has_changed = False

    @property
    def has_begun(self) -> bool:
        return self._created_at is not None

    def take(self) -> Transcript | None:
        """What was added since the last time, None if nothing was."""
        if not (self.has_begun and self._has_changed):
            return None
        runs = [self._row(run) for run in self._runs.values()]
        transcript = Transcript(self._session(), runs, self._events)
        self._runs = {} if self._run is None else {self._run.id: self._run}
        self._events = []
        self._has_changed = False
        return transcript

    def add(self, record: Document) -> None:
        uuid = records.text_of(record.get("uuid"))
        if uuid is not None and _key(uuid) in self._seen:
            # A compaction repeats records that the log has already.
            self._repeated += 1
            self._has_changed = True
            return
        at = records.time_of(record)
        if not self.has_begun:
            if at is None and not self._must_begin(record):
                self._early.append(record)
                return
            self._begin(at or self._fallback_at)
        self._has_changed = True
        self._record_id = self._numbered(record) if uuid is None else uuid
        self._at = at or self._at
        self._updated_at = max(self._updated_at, self._at)
        self._read(record)
        if uuid is not None:
            self._see(uuid)

    # The session.

    def _must_begin(self, record: Document) -> bool:
        return record.get("type") in ("user", "assistant") or len(self._early) == EARLY_MAX

    def _begin(self, at: datetime) -> None:
        self._created_at = self._updated_at = self._at = at
        self._record_id = "session"
        self._emit(Draft(EventType.SESSION_CREATED))
        early, self._early = self._early, []
        for record in early:
            self.add(record)

    def _session(self) -> Session:
        metadata = {**self._metadata, **self._title()}
        if self._repeated:
            metadata["repeated_records"] = self._repeated
        return Session(
            id=self.id,
            agent_id=AGENT,
            status=self._status,
            parent_session_id=self._parent_id,
            metadata=metadata,
            tags=self._tags,
            created_at=self._created_at or self._fallback_at,
            updated_at=self._updated_at,
        )

    def _title(self) -> Document:
        titles = (self._titles[type] for type in (*_TITLES, "prompt") if type in self._titles)
        title = next(titles, None)
        return {} if title is None else {"title": title}

    def _see(self, uuid: str) -> None:
        self._seen[_key(uuid)] = False
        self._previous_uuid = uuid
        if uuid in self._leaves:
            self._titles["summary"] = self._leaves.pop(uuid)

    def _numbered(self, record: Document) -> str:
        """The id of a record without a uuid: its content, and its number among equal ones."""
        try:
            digest = sha256(json.dumps(record, sort_keys=True).encode()).digest()
        except RecursionError as error:
            raise text.too_deep() from error
        self._equal[digest] += 1
        return f"{digest.hex()} {self._equal[digest]}"

    # Events.

    def _emit(
        self, draft: Draft, part: str = "", metadata: Document | None = None, run: OpenRun | None = None
    ) -> None:
        """Make an event of the record that is being read."""
        metadata = metadata or {}
        if draft.rest:
            metadata = {**metadata, "rest": draft.rest}
        run = run or self._run
        self._events.append(
            Event(
                id=_id("evt_", self.id, self._record_id, part),
                type=draft.type,
                timestamp=self._at,
                session_id=self.id,
                run_id=None if run is None else run.id,
                data=draft.data,
                metadata=metadata,
                provider=PROVIDER,
                correlation_id=draft.correlation_id,
            )
        )

    def _rest(self, record: Document, *names: str) -> Document:
        """The fields of a record that its event does not have otherwise, without those that repeat."""
        has_time = records.time_of(record) is not None
        rest = records.without(record, *names, *(("timestamp",) if has_time else ()))
        for name in _AMBIENT & record.keys():
            if self._ambient.get(name) == record[name]:
                rest.pop(name, None)
            self._ambient[name] = record[name]
        for name, own in _SESSION_FIELDS.items():
            if isinstance(record.get(name), str):
                self._metadata.setdefault(own, record[name])
        if rest.get("parentUuid") == self._previous_uuid:
            rest.pop("parentUuid", None)
        return rest

    def _rest_around(
        self, record: Document, message: Document, *names: str, inner: tuple[str, ...] = ()
    ) -> Document:
        """The same of a record with a message."""
        rest = self._rest(record, "type", "message", *names)
        said = ("role",) if message.get("role") == record["type"] else ()
        typed = ("type",) if message.get("type") == "message" else ()
        if others := records.without(message, "content", *said, *typed, *inner):
            rest["message"] = others
        return rest

    # Records.

    def _read(self, record: Document) -> None:
        kind = record.get("type")
        message = records.message_of(record)
        boundary, self._boundary = self._boundary, None
        if (
            kind == "user"
            and message is not None
            and records.kind_of(record, message["content"]) == "summary"
        ):
            self._add_summary(record, message, boundary)
            return
        if boundary is not None:
            self._emit_at(*boundary)
        if kind == "user" and message is not None:
            self._add_user(record, message)
        elif kind == "assistant" and message is not None:
            self._add_assistant(record, message)
        else:
            self._add_other(record)

    def _emit_at(self, record_id: str, at: datetime, draft: Draft) -> None:
        """Make an event of a record that was read before."""
        now = self._record_id, self._at
        self._record_id, self._at = record_id, at
        self._emit(draft)
        self._record_id, self._at = now

    def _add_summary(
        self, record: Document, message: Document, boundary: tuple[str, datetime, Draft] | None
    ) -> None:
        """What a compaction leaves of the conversation. The record before it says why it was compacted."""
        self._close_message()
        record_id, at, draft = boundary or (self._record_id, self._at, Draft("claude_code.compacted"))
        data = {**draft.data, "summary": records.plain(message["content"])}
        rest = {**draft.rest, "summary": self._rest_around(record, message)}
        self._emit_at(record_id, at, Draft(draft.type, data, rest))

    def _add_user(self, record: Document, message: Document) -> None:
        content = message["content"]
        kind = records.kind_of(record, content)
        if kind == "results":
            self._add_results(record, message)
        elif kind == "interruption":
            self._interrupt(records.joined_text(content).strip(), self._rest_around(record, message))
        elif kind == "output":
            self._add_output(content, self._rest_around(record, message))
        elif kind == "note":
            self._add_message("system", content, self._rest_around(record, message))
        else:
            self._begin_run(record, content)
            self._add_prompt(content, self._rest_around(record, message))

    def _add_prompt(self, content: str | list[Any], rest: Document) -> None:
        said = records.plain(content)
        if isinstance(said, str) and (shown := records.typed(said)) != said:
            rest, said = _with_content(rest, content), shown
        self._add_message("user", said, rest)

    def _add_message(self, role: str, content: str | list[Any], rest: Document, part: str = "") -> None:
        data = {"role": role, "content": records.plain(content)}
        self._emit(Draft(EventType.MESSAGE_SENT, data, rest), part)

    def _add_output(self, content: str | list[Any], rest: Document) -> None:
        """What a command printed that Claude Code runs itself. It ends the run of the command."""
        output = records.printed(records.joined_text(content))
        self._add_message("tool", output, _with_content(rest, content))
        if self._run is not None and not self._run.turns:
            self._run.is_answered = True
            self._run.output = output
            self._move_end()
            self._run = None

    def _add_results(self, record: Document, message: Document) -> None:
        rest = self._rest_around(record, message, "toolUseResult")
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
        self._emit(replace(draft, rest={**rest, **draft.rest}), part, metadata)

    def _link(self, draft: Draft, result: Any) -> None:
        """Add the session of a sub-agent to the result of its call."""
        call = draft.correlation_id or ""
        self.agent_calls.pop(call, None)
        agent = records.text_of(result.get("agentId")) if isinstance(result, dict) else None
        if agent is not None:
            draft.data["session_id"] = agent_session_id(self.log_id, agent)
        elif call in self.agent_sessions:
            draft.data["session_id"] = self.agent_sessions.pop(call)

    def _interrupt(self, reason: str, rest: Document, part: str = "") -> None:
        self._emit(Draft(EventType.RUN_CANCELLED, {"reason": reason}, rest), part)
        if self._run is not None:
            self._run.is_interrupted = True
        self._move_end()

    # The model's messages.

    def _add_assistant(self, record: Document, message: Document) -> None:
        if record.get("isApiErrorMessage") is True:
            self._add_api_error(record, message)
            return
        key = records.text_of(message.get("id")) or self._record_id
        if self._message is not None and self._message.key != key:
            self._close_message()
        # The original of a copy has its usage.
        is_copy = "forkedFrom" in record
        counts = message.get("model") != records.SYNTHETIC and not is_copy
        if self._run is None and (counts or is_copy):
            self._open_run(None)
        self._add_blocks(record, message)
        if self._run is not None and (counts or is_copy):
            self._answer(self._run, message)
            if counts:
                self._count(self._run, key, message)
        self._see_child(record)
        self._move_end()
        if message.get("stop_reason") is not None:
            # Only the last record of a message has a reason.
            self._close_message()

    def _add_blocks(self, record: Document, message: Document) -> None:
        counted = ("model", "usage") if isinstance(message.get("usage"), dict) else ()
        rest = self._rest_around(record, message, inner=("id", *counted))
        for index, draft in enumerate(records.drafts_of(message)):
            self._emit(replace(draft, rest={**rest, **draft.rest}), str(index) if index else "")
            if draft.type == EventType.TOOL_CALL_STARTED:
                self._remember_call(draft)
            rest = {}

    def _answer(self, run: OpenRun, message: Document) -> None:
        run.is_answered, run.is_interrupted, run.error = True, False, None
        said = records.joined_text(message["content"])
        if said.strip() not in ("", records.NO_CONTENT):
            run.output = said

    def _remember_call(self, draft: Draft) -> None:
        input = draft.data.get("input")
        if draft.data.get("name") in _AGENT_TOOLS and draft.correlation_id and isinstance(input, dict):
            if len(self.agent_calls) == _CALLS_MAX:
                self.agent_calls.pop(next(iter(self.agent_calls)))
            self.agent_calls[draft.correlation_id] = input

    def _count(self, run: OpenRun, key: str, message: Document) -> None:
        model = records.text_of(message.get("model"))
        if self._message is None:
            run.turns += self._counted.is_new(key)
            self._message = OpenMessage(key, run, model, None, self._at)
        self._message.at = self._at
        usage = message.get("usage")
        if isinstance(usage, dict):
            self._message.usage = usage
            run.service_tier = usage.get("service_tier", run.service_tier)
        if model is not None:
            run.models.pop(model, None)
            run.models[model] = None

    def _close_message(self) -> None:
        """Write the usage of the last message, which has ended."""
        message, self._message = self._message, None
        if message is None:
            return
        increase = self._counted.increase(message.key, message.usage)
        part = "usage" if self._counted.is_new(message.key) else f"usage after {self._record_id}"
        self._counted.count(message.key, increase)
        if not increase:
            return
        message.run.tokens += increase
        self._runs[message.run.id] = message.run
        data: Document = dict(increase)
        if message.model is not None:
            data["model"] = message.model
        now = self._record_id, self._at
        self._record_id, self._at = f"message {message.key}", message.at
        self._emit(Draft(EventType.TOKEN_USAGE_UPDATED, data), part, {"usage": message.usage}, message.run)
        self._record_id, self._at = now

    def _add_api_error(self, record: Document, message: Document) -> None:
        """A request that failed, which Claude Code writes in place of the model's message."""
        self._close_message()
        error = records.api_error(record)
        rest = self._rest_around(record, message, "error", inner=("usage",))
        self._emit(Draft(EventType.ERROR_OCCURRED, error, rest))
        if self._run is not None:
            self._run.error = error
            self._run.is_interrupted = False
        self._move_end()

    # Other records.

    def _add_other(self, record: Document) -> None:
        kind, subtype = record.get("type"), record.get("subtype")
        if kind == "system" and subtype == "compact_boundary":
            self._boundary = self._record_id, self._at, self._compaction(record)
        elif kind == "system" and subtype == "turn_duration":
            self._add_turn(record)
        elif kind == "system" and subtype == "api_error":
            rest = self._rest(record, "type", "subtype")
            self._emit(Draft(EventType.ERROR_OCCURRED, records.api_error(record), rest))
        elif kind == "system" and subtype == "local_command" and records.is_command(record.get("content")):
            self._add_command(record, record["content"])
        elif (prompt := records.queued_prompt(record)) is not None:
            attachment = records.without(record["attachment"], "prompt")
            rest = self._rest(record, "type", "attachment")
            self._add_message("user", prompt, {**rest, "attachment": attachment})
        else:
            self._add_title(record)
            rest = self._rest(record)
            data = {name: value for name, value in rest.items() if name not in _AROUND}
            around = {name: value for name, value in rest.items() if name in _AROUND}
            self._emit(Draft(records.type_of(record), data, around))

    def _compaction(self, record: Document) -> Draft:
        details = record.get("compactMetadata")
        details = details if isinstance(details, dict) else {}
        names = {"trigger": "trigger", "preTokens": "pre_tokens", "postTokens": "post_tokens"}
        data = {own: details[name] for name, own in names.items() if details.get(name) is not None}
        return Draft("claude_code.compacted", data, self._rest(record, "type", "subtype"))

    def _add_turn(self, record: Document) -> None:
        self._close_message()
        took = record.get("durationMs")
        is_number = isinstance(took, int | float) and not isinstance(took, bool)
        data = {"duration_s": took / 1000} if is_number and abs(took) < 10**15 else {}
        rest = self._rest(record, "type", "subtype", *(["durationMs"] if data else []))
        self._emit(Draft(EventType.TURN_COMPLETED, data, rest))

    def _add_command(self, record: Document, content: str) -> None:
        """A command that Claude Code runs itself, or what it printed."""
        if records.is_output(content):
            self._add_output(content, self._rest(record, "content"))
        else:
            self._begin_run(record, content)
            self._add_prompt(content, self._rest(record, "content"))

    def _add_title(self, record: Document) -> None:
        kind = record.get("type")
        title = record.get(_TITLES[kind]) if isinstance(kind, str) and kind in _TITLES else None
        titles = _title_of(str(kind), title)
        leaf = records.text_of(record.get("leafUuid"))
        if kind != "summary" or (leaf is not None and _key(leaf) in self._seen):
            self._titles |= titles
        elif titles and leaf is not None and len(self._leaves) < EARLY_MAX:
            # Of a later record, or of another log.
            self._leaves[leaf] = titles["summary"]

    # Runs.

    def _begin_run(self, record: Document, content: str | list[Any]) -> None:
        self._close_message()
        self._run = None
        parent = records.text_of(record.get("parentUuid"))
        if parent is not None and self._seen.get(_key(parent)):
            draft = Draft("claude_code.rewound", {"to": parent})
            self._emit(draft, "rewind")
        self._see_child(record)
        said = records.joined_text(content)
        input = records.typed(said)
        self._open_run(input if said.strip() else content)
        self._name_by_prompt(said, is_command=input != said)

    def _see_child(self, record: Document) -> None:
        """Remember that a message follows a record. Another prompt after it begins a branch."""
        parent = records.text_of(record.get("parentUuid"))
        if parent is not None and _key(parent) in self._seen:
            self._seen[_key(parent)] = True

    def _name_by_prompt(self, said: str, *, is_command: bool) -> None:
        """The title of a session that begins with a command, such as /clear, is its first other prompt."""
        if is_command:
            self._has_commands = True
        elif self._has_commands and "prompt" not in self._titles:
            self._titles |= _title_of("prompt", said)

    def _open_run(self, input: Any) -> OpenRun:
        run = OpenRun(_id("run_", self.id, self._record_id, ""), input, self._at, self._at)
        self._run = self._runs[run.id] = run
        return run

    def _move_end(self) -> None:
        if self._run is not None:
            self._run.ended_at = max(self._run.ended_at, self._at)

    def _row(self, run: OpenRun) -> Run:
        message = self._message
        unfinished: Counter[str] = Counter()
        if message is not None and message.run is run:
            unfinished = self._counted.increase(message.key, message.usage)
        return run.row(self.id, PROVIDER, unfinished)


def agent_session_id(log_id: str, agent_id: str) -> str:
    """The id of the session of a sub-agent."""
    id = f"{log_id}/agent-{agent_id}"
    return id if is_text(id) else _id("ses_", log_id, agent_id, "")


def _id(prefix: str, *words: str) -> str:
    content = json.dumps([FORMAT, *words])
    return prefix + sha256(content.encode()).hexdigest()[:32]


def _key(uuid: str) -> bytes | str:
    """A uuid in a third of the memory."""
    try:
        return bytes.fromhex(uuid.replace("-", "")) if len(uuid) == _UUID_LENGTH else uuid
    except ValueError:
        return uuid


_UUID_LENGTH = 36


def _title_of(kind: str, title: Any) -> dict[str, str]:
    shortened = session_title({"title": title}, [])
    return {} if shortened is None else {kind: shortened}


def _with_content(rest: Document, content: str | list[Any]) -> Document:
    """The rest of a record with the content that an event shows in another way."""
    return {**rest, "message": {**rest.get("message", {}), "content": content}}
