"""mini-swe-agent's trajectories: one document per session, which has one run.

A file has the messages of the conversation, and an outcome (`info`). It is written anew after each step, so
ids come from the messages: the session's from those up to the first answer, an event's from its message.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats import mini_swe_agent_messages as messages
from asm.formats.base import Reader, Transcript
from asm.formats.mini_swe_agent_messages import Message
from asm.formats.openai_items import Draft, call_id_of
from asm.formats.secret_fields import without_secrets
from asm.formats.session_rows import OpenRun, SessionRows, hashed_id, object_of, without
from asm.formats.swe_agent import provider_of
from asm.formats.times import is_settled, modified_at
from asm.models import EventType, SessionStatus
from asm.validation import is_text

FORMAT = "mini-swe-agent trajectory"
AGENT = "mini-swe-agent"
SUBMITTED = "Submitted"

MESSAGES_MAX = 100_000
"""Messages of a trajectory, whose events are held in memory."""

_START = re.compile(rb'\s*\{\s*"info"\s*:\s*\{\s*"(?:model_stats|exit_status|mini_version)"\s*:')
_FORMAT = re.compile(rb'"trajectory_format"\s*:\s*"mini-swe-agent')
_NAMES = (".traj.json", ".traj.json.gz")


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file is named like a trajectory of mini-swe-agent, or starts like one."""
    is_named = path.name.endswith(_NAMES) and head.lstrip().startswith(b"{")
    return is_named or _START.match(head) is not None or _FORMAT.search(head) is not None


def read(path: Path) -> Transcript:
    """The session in a trajectory file. Raises ValidationError if the file is invalid."""
    document = text.parse_json(text.read_bytes(path))
    _check(document)
    return _Trajectory(path, document).transcript()


READER = Reader(FORMAT, sniff, read=lambda path: [read(path)])


def _check(document: Any) -> None:
    found = document.get("trajectory_format") if isinstance(document, dict) else None
    if not isinstance(found, str) or not found.startswith("mini-swe-agent"):
        raise ValidationError("expected an object whose `trajectory_format` begins with mini-swe-agent")
    for name, type_, what in (("messages", list, "a list"), ("info", dict, "an object")):
        if not isinstance(value := document.get(name), type_):
            raise ValidationError(f"{name} must be {what}, not {type(value).__name__}", path=name)
    if (count := len(document["messages"])) > MESSAGES_MAX:
        raise ValidationError(
            f"the trajectory has {count:,} messages, more than the maximum of {MESSAGES_MAX:,}"
        )
    for number, message in enumerate(document["messages"]):
        if not isinstance(message, dict):
            place = f"messages[{number}]"
            raise ValidationError(f"{place} must be an object, not {type(message).__name__}", path=place)


def _digest(value: Any) -> str:
    try:
        return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    except RecursionError as error:
        raise text.too_deep() from error
    except ValueError as error:
        raise ValidationError(f"a number in the file is too long for this program: {error}") from error


class _Trajectory:
    """Makes the rows of a session of a document."""

    def __init__(self, path: Path, document: Document) -> None:
        self._info: Document = without_secrets(document["info"])
        self._messages = [Message(number, each) for number, each in enumerate(document["messages"], 1)]
        self._status = self._info.get("exit_status") or None
        self._submission = self._info.get("submission") or None
        self._model = _model_of(self._info)
        self._waiting: OrderedDict[str, None] = OrderedDict()
        """The calls of the last answer that have no result."""
        self._run: OpenRun | None = None
        self._has_ended = False
        self._rows = self._begin(path, document)

    def transcript(self) -> Transcript:
        last = len(self._messages)
        for message in self._messages:
            self._rows.go_to(message.at)
            record_id = f"{message.number} {_digest(message.fields)}"
            if "exit_status" in message.extra or (message.number == last and self._is_submission(message)):
                self._add_exit(record_id, message)
            else:
                self._add(record_id, message)
        self._end()
        taken = self._rows.take()
        assert taken is not None
        return taken

    # The session and its run.

    def _begin(self, path: Path, document: Document) -> SessionRows:
        at = modified_at(path)
        first = next((each.number for each in self._messages if each.is_answer), len(self._messages))
        begun_by = [each.fields for each in self._messages[:first]]
        rows = SessionRows(
            FORMAT,
            hashed_id("ses_", FORMAT, _digest(begun_by)),
            agent_id=AGENT,
            at=at,
            metadata=self._metadata(path, document),
            provider=provider_of(self._model),
            status=self._session_status(at),
        )
        rows.begin(next((each.at for each in self._messages if each.at is not None), None))
        return rows

    def _metadata(self, path: Path, document: Document) -> Document:
        metadata: Document = {"format": FORMAT, "file": path.name}
        metadata |= without({"version": self._info.get("mini_version")})
        rest = without_secrets(without(document, "info", "messages", "trajectory_format"))
        if is_text(name := rest.get("instance_id")):
            metadata["title"] = name
        return {**metadata, "rest": rest} if rest else metadata

    def _session_status(self, at: datetime) -> SessionStatus:
        if self._status is None:
            return SessionStatus.CANCELLED if is_settled(at) else SessionStatus.ACTIVE
        return SessionStatus.COMPLETED if self._status == SUBMITTED else SessionStatus.FAILED

    def _run_of(self, record_id: str, prompt: Any) -> OpenRun:
        if self._run is None:
            self._run = self._rows.begin_run(record_id, prompt)
        return self._run

    # Messages.

    def _add(self, record_id: str, message: Message) -> None:
        if message.is_answer:
            self._add_answer(record_id, message)
        elif message.is_result:
            self._add_result(record_id, message, _call_id(message) or record_id)
        elif self._waiting and message.may_be_result:
            self._add_result(record_id, message, next(iter(self._waiting)))
        else:
            self._add_other(record_id, message)

    def _add_answer(self, record_id: str, message: Message) -> None:
        run = self._run_of(record_id, None)
        model = message.response.get("model") or self._model
        self._rows.add_turn(run, model)
        self._waiting.clear()
        for number, draft in enumerate(messages.answer_drafts(message)):
            self._add_draft(record_id, draft, f"answer {number}")
            if draft.type == EventType.MESSAGE_RECEIVED and draft.data.get("content"):
                run.output = draft.data["content"]
        usage = object_of(message.response, "usage")
        counts, cost_usd = messages.counts(usage), messages.cost_usd(message.extra.get("cost"))
        self._rows.add_usage(run, counts, cost_usd)
        if usage or cost_usd:
            data = {**counts, **without({"model": model, "cost_usd": cost_usd or None})}
            self._add_draft(
                record_id, Draft(EventType.TOKEN_USAGE_UPDATED, data, {"usage": usage or None}), "usage"
            )

    def _add_result(self, record_id: str, message: Message, call_id: str) -> None:
        self._waiting.pop(call_id, None)
        self._add_draft(record_id, messages.result_draft(message, call_id))

    def _add_other(self, record_id: str, message: Message) -> None:
        if message.role == "user":
            self._run_of(record_id, message.fields.get("content"))
        if message.response:
            # An answer without a command is not in the conversation; what is wrong with it is.
            self._add_answer(record_id, message)
        self._add_draft(record_id, messages.other_draft(message))
        if not message.response:
            # A person has typed a command.
            for number, draft in enumerate(messages.command_drafts(message)):
                self._add_draft(record_id, draft, f"command {number}")

    def _add_draft(self, record_id: str, draft: Draft, part: str = "") -> None:
        call_id = draft.call_id
        if draft.type == EventType.TOOL_CALL_STARTED:
            call_id = call_id or f"{record_id[:32]} {part}"
            self._waiting[call_id] = None
        self._rows.add(draft.type, record_id, draft.data, part=part, correlation_id=call_id, rest=draft.rest)

    # The end.

    def _is_submission(self, message: Message) -> bool:
        """Whether the last message of a run of version 1 is what it has submitted, which has no mark."""
        is_told = self._status is not None and message.fields.get("content") == self._info.get("submission")
        return is_told and message.role == "user"

    def _add_exit(self, record_id: str, message: Message) -> None:
        said = message.fields.get("content")
        submission = message.extra.get("submission", said)
        rest = without(messages.other_draft(message).rest, "exit_status", "submission", "role")
        self._add_outcome(record_id, message.extra.get("exit_status") or self._status, submission, said, rest)

    def _add_outcome(self, record_id: str, status: Any, submission: Any, said: Any, rest: Document) -> None:
        """Add how the run has ended."""
        run, self._has_ended = self._run_of(record_id, None), True
        if status == SUBMITTED:
            self._rows.add(EventType.RUN_COMPLETED, record_id, {"output": submission or ""}, rest=rest)
            run.output = submission or run.output
            return
        message = said if said not in (None, "", status) else None
        run.error = without({"code": status, "message": message})
        self._rows.add(EventType.RUN_FAILED, record_id, run.error, rest=rest)

    def _end(self) -> None:
        if self._status is not None and not self._has_ended:
            said = self._info.get("exception_str") or self._info.get("submission")
            self._add_outcome("exit", self._status, self._submission, said, {})
        run = self._run
        if run is None:
            return
        run.metadata = {"info": without(self._info, "submission")}
        run.output = self._submission or run.output
        total = messages.cost_usd(object_of(self._info, "model_stats").get("instance_cost"))
        run.cost_usd = total or run.cost_usd
        run.is_cancelled = self._status is None
        run.is_answered |= self._status == SUBMITTED
        self._rows.note(run)


def _model_of(info: Document) -> str | None:
    name = object_of(object_of(info, "config"), "model").get("model_name")
    return name if isinstance(name, str) and name else None


def _call_id(message: Message) -> str | None:
    id = message.fields.get("tool_call_id")
    return id if isinstance(id, str) and id else call_id_of(message.fields)
