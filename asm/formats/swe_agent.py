"""SWE-agent's trajectories: one file per session, which has one run.

A file has a list of steps (`trajectory`), each with the model's response, its action, and the observation
that followed; the conversation as it was sent to the model (`history`), which repeats most of the
steps; and an outcome (`info`). The events follow the order of the conversation, and nothing in the file
is lost:

    a step           a message_received and, if the step has an action, a tool_call_started and a
                     tool_call_completed. Their metadata have the number of the `step`; those of the
                     message also have the `rest`: the fields of the step that no event contains
    a history entry  the data of a message, or if a step says the same, `history` in the metadata of
                     that step's event
    info             `info` in the run's metadata
    any other key    the session's context

Ids are derived from the content, independent of its layout and of the name of the file. A file has no
times, so everything in it gets the time of the file's last modification: the end of the agent's run,
unless the file has been copied since.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from asm.documents import Document
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.base import Reader, Transcript
from asm.formats.times import modified_at
from asm.models import Event, EventType, Run, RunStatus, Session, SessionStatus
from asm.validation import is_text

AGENT = "swe-agent"
FORMAT = "SWE-agent trajectory"

PARTS_MAX = 100_000
"""Steps and history entries of a trajectory, whose events are held in memory."""

# Fields of a step, and the names that they get in the data of an event.
_MESSAGE_FIELDS = {"response": "content", "thought": "thought"}
_CALL_FIELDS = {"action": "input"}
_RESULT_FIELDS = {"observation": "output", "execution_time": "duration_s"}
_REPLY_FIELDS = {**_RESULT_FIELDS, "observation": "content"}

# Fields of a step, and the fields of a history entry that repeat them.
_RESPONSE_FIELDS = {"response": "content", "thought": "thought", "action": "action"}

_PROVIDERS = {"claude": "anthropic", "gemini": "google", "gpt": "openai"}


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file is named like a trajectory, or starts like one."""
    return path.name.endswith((".traj", ".traj.gz")) or b'"trajectory"' in head


def read(path: Path) -> Transcript:
    """The session in a trajectory file. Raises ValidationError if the file is invalid."""
    document = text.parse_json(text.read_bytes(path))
    _check_document(document)
    at = modified_at(path)
    content = sha256(_canonical(document).encode()).hexdigest()
    session = _session(document, _id("ses_", content), at, path.name)
    run = _run(document, _id("run_", content), session)
    events = [
        Event(
            id=_id("evt_", f"{content} {number}"),
            type=draft.type,
            timestamp=at,
            session_id=session.id,
            run_id=None if draft.type.startswith("session_") else run.id,
            data=draft.data,
            metadata=draft.metadata,
            provider=run.provider,
            correlation_id=draft.correlation_id,
        )
        for number, draft in enumerate(_events(document, run), 1)
    ]
    return Transcript(session, [run], events)


READER = Reader(FORMAT, sniff, read=lambda path: [read(path)])


def _canonical(document: Document) -> str:
    """The JSON text of a document, independent of its layout."""
    try:
        return json.dumps(document, sort_keys=True)
    except RecursionError as error:
        raise text.too_deep() from error
    except ValueError as error:
        raise ValidationError(f"a number in the file is too long for this program: {error}") from error


def _id(prefix: str, content: str) -> str:
    return prefix + sha256(f"{prefix}{content}".encode()).hexdigest()[:32]


def _session(document: Document, id: str, at: datetime, file_name: str) -> Session:
    return Session(
        id=id,
        agent_id=AGENT,
        status=SessionStatus.COMPLETED if _succeeded(document) else SessionStatus.FAILED,
        metadata={"file": file_name, "format": FORMAT},
        # Empty parts are kept here too, because no event shows whether they were null, empty or absent.
        context={key: value for key, value in document.items() if key not in _PARTS or not value},
        created_at=at,
        updated_at=at,
    )


_PARTS = ("trajectory", "history", "info")


def _run(document: Document, id: str, session: Session) -> Run:
    info = document.get("info") or {}
    stats = info.get("model_stats") or {}
    model = _model(document.get("replay_config"))
    succeeded = _succeeded(document)
    return Run(
        id=id,
        session_id=session.id,
        status=RunStatus.COMPLETED if succeeded else RunStatus.FAILED,
        input=_task(document),
        output=info.get("submission"),
        error=None if succeeded else {"exit_status": info.get("exit_status")},
        metadata={"info": info} if info else {},
        turn_count=len(document["trajectory"]),
        token_usage=_pop_renamed(
            dict(stats), {"tokens_sent": "input_tokens", "tokens_received": "output_tokens"}
        ),
        started_at=session.created_at,
        ended_at=session.created_at,
        provider=provider_of(model),
        provider_metadata={} if model is None else {"model": model},
        cost_usd=stats.get("instance_cost"),
    )


def _succeeded(document: Document) -> bool:
    # "submitted", or "submitted (exit_cost)" if SWE-agent submitted for an agent that had reached its
    # cost limit. A file of an interrupted run has no status.
    status = (document.get("info") or {}).get("exit_status")
    return status is not None and status.startswith("submitted")


def _model(config: Any) -> str | None:
    # SWE-agent has written both an object and the JSON text of one.
    if isinstance(config, str):
        try:
            config = text.parse_json(config.encode("utf-8", "surrogatepass"))
        except ValueError:
            return None
    for key in ("agent", "model", "name"):
        config = config.get(key) if isinstance(config, dict) else None
    return config if isinstance(config, str) else None


def provider_of(model: str | None) -> str | None:
    """The provider of a model: the part of its name before a slash, else known by the name's prefix."""
    if model is None:
        return None
    before, slash, _ = model.partition("/")
    by_prefix = (provider for prefix, provider in _PROVIDERS.items() if model.startswith(prefix))
    provider = before if slash else next(by_prefix, None)
    return provider if is_text(provider) else None


def _task(document: Document) -> Any:
    requests = (entry for entry in document.get("history") or [] if entry.get("role") == "user")
    return next((entry.get("content") for entry in requests if not entry.get("is_demo")), None)


# The events.


@dataclass(frozen=True, slots=True)
class _EventDraft:
    """An event before it has an id, a time and a session."""

    type: EventType
    data: Document = field(default_factory=dict)
    metadata: Document = field(default_factory=dict)
    correlation_id: str | None = None


def _events(document: Document, run: Run) -> Iterator[_EventDraft]:
    succeeded = _succeeded(document)
    yield _EventDraft(EventType.SESSION_CREATED)
    yield _EventDraft(EventType.RUN_STARTED)
    yield from _conversation(document.get("history") or [], document["trajectory"])
    if any(run.token_usage.values()):
        yield _EventDraft(EventType.TOKEN_USAGE_UPDATED, {**run.token_usage, "cost_usd": run.cost_usd})
    yield _EventDraft(EventType.RUN_COMPLETED) if succeeded else _EventDraft(EventType.RUN_FAILED, run.error)
    yield _EventDraft(EventType.SESSION_COMPLETED if succeeded else EventType.SESSION_FAILED)


def _conversation(history: list[Document], steps: list[Document]) -> Iterator[_EventDraft]:
    """The conversation in the order of the history. Steps that it does not repeat keep their own order."""
    entries = deque(history)
    remaining = _RemainingSteps(steps)
    while entries:
        entry = entries.popleft()
        number = remaining.find(entry)
        if number is None:
            yield _message(entry)
            continue
        *skipped, (_, step) = remaining.take(number)
        for each in skipped:
            yield from _step(*each)
        reply = entries.popleft() if _has_reply(step) and entries and _is_reply(entries[0]) else None
        yield from _step(number, step, entry, reply)
    for each in remaining.take(len(steps)):
        yield from _step(*each)


class _RemainingSteps:
    """The steps, numbered from 1, that were not taken yet. One is found by what it says, without a search."""

    def __init__(self, steps: list[Document]) -> None:
        self._steps = steps
        self._taken = 0
        self._numbers: defaultdict[tuple[str, str], deque[int]] = defaultdict(deque)
        for number, step in enumerate(steps, 1):
            for name in _RESPONSE_FIELDS:
                if step.get(name):
                    self._numbers[name, step[name]].append(number)

    def find(self, entry: Document) -> int | None:
        """The first step whose response an entry repeats.

        One field is enough, because users edit actions for replays.
        """
        if entry.get("role") != "assistant" or entry.get("is_demo"):
            return None
        found = [self._first(ours, entry.get(theirs)) for ours, theirs in _RESPONSE_FIELDS.items()]
        return min((number for number in found if number is not None), default=None)

    def _first(self, name: str, said: Any) -> int | None:
        numbers = self._numbers.get((name, said)) if isinstance(said, str) else None
        while numbers and numbers[0] <= self._taken:
            numbers.popleft()
        return numbers[0] if numbers else None

    def take(self, last: int) -> Iterator[tuple[int, Document]]:
        """The steps up to and including one."""
        while self._taken < last:
            self._taken += 1
            yield self._taken, self._steps[self._taken - 1]


def _message(entry: Document) -> _EventDraft:
    from_model = entry.get("role") == "assistant" and not entry.get("is_demo")
    return _EventDraft(EventType.MESSAGE_RECEIVED if from_model else EventType.MESSAGE_SENT, entry)


def _has_reply(step: Document) -> bool:
    return bool(step.get("action") or step.get("observation"))


def _is_reply(entry: Document) -> bool:
    return entry.get("role") in ("user", "tool") and not entry.get("is_demo")


def _step(
    number: int, step: Document, response: Document | None = None, reply: Document | None = None
) -> Iterator[_EventDraft]:
    """The events of a step. `response` and `reply` are the history entries that repeat it, if any."""
    rest = dict(step)
    message = {"role": "assistant", **_pop_renamed(rest, _MESSAGE_FIELDS)}
    call = _tool_name(response) | _pop_renamed(rest, _CALL_FIELDS) if step.get("action") else {}
    result = _pop_renamed(rest, _RESULT_FIELDS if call else _REPLY_FIELDS) if _has_reply(step) else {}
    call_id = _call_id(response)
    yield _EventDraft(EventType.MESSAGE_RECEIVED, message, _metadata(number, response, rest))
    if call:
        yield _EventDraft(EventType.TOOL_CALL_STARTED, call, _metadata(number), call_id)
        yield _EventDraft(EventType.TOOL_CALL_COMPLETED, result, _metadata(number, reply), call_id)
    elif result:
        yield _EventDraft(EventType.MESSAGE_SENT, {"role": "user", **result}, _metadata(number, reply))


def _pop_renamed(values: Document, names: Mapping[str, str]) -> Document:
    """Remove the named values that are not null, and return them under their new names."""
    return {new: values.pop(old) for old, new in names.items() if values.get(old) is not None}


def _metadata(number: int, history: Document | None = None, rest: Document | None = None) -> Document:
    metadata: Document = {"step": number}
    if history is not None:
        metadata["history"] = history
    if rest:
        metadata["rest"] = rest
    return metadata


def _tool_name(entry: Document | None) -> Document:
    function = _tool_call(entry).get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return {"name": name} if isinstance(name, str) else {}


def _call_id(entry: Document | None) -> str | None:
    call_id = _tool_call(entry).get("id")
    return call_id if is_text(call_id) else None


def _tool_call(entry: Document | None) -> Document:
    """The tool call of an entry, empty if it has none. A step executes one call."""
    calls = (entry or {}).get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls else None
    return call if isinstance(call, dict) else {}


# Validation.

_NUMBER = int | float
_STEP = dict.fromkeys((*_MESSAGE_FIELDS, *_CALL_FIELDS, "observation"), str) | {"execution_time": _NUMBER}
_ENTRY = {"role": str}
_INFO = {"exit_status": str, "model_stats": dict}
_STATS = {"tokens_sent": int, "tokens_received": int, "instance_cost": _NUMBER}

_TYPE_NAMES: dict[Any, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    _NUMBER: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _check_document(document: Any) -> None:
    if not isinstance(document, dict) or not isinstance(document.get("trajectory"), list):
        raise ValidationError("not a trajectory: expected an object with a list named `trajectory`")
    _check_fields(document, {"history": list, "info": dict}, "")
    parts = len(document["trajectory"]) + len(document.get("history") or [])
    if parts > PARTS_MAX:
        raise ValidationError(
            f"the trajectory has {parts:,} steps and history entries, more than the maximum of {PARTS_MAX:,}"
        )
    for number, step in enumerate(document["trajectory"]):
        _check_fields(step, _STEP, f"trajectory[{number}]")
    for number, entry in enumerate(document.get("history") or []):
        _check_fields(entry, _ENTRY, f"history[{number}]")
    info = document.get("info") or {}
    _check_fields(info, _INFO, "info")
    _check_fields(info.get("model_stats") or {}, _STATS, "info.model_stats")


def _check_fields(value: Any, types: Mapping[str, Any], path: str) -> None:
    """Check that a value is an object in which each of these fields has its type, is null, or is absent."""
    _check_type(value, dict, path)
    for name, type in types.items():
        if value.get(name) is not None:
            _check_type(value[name], type, f"{path}.{name}".lstrip("."))


def _check_type(value: Any, expected: Any, path: str) -> None:
    # In Python True is an int.
    if not isinstance(value, expected) or isinstance(value, bool):
        message = f"{path} must be {_TYPE_NAMES[expected]}, not {_TYPE_NAMES[type(value)]}"
        raise ValidationError(message, path=path)
