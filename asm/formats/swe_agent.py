"""SWE-agent's trajectories: a file for each session, which has one run.

A file has a list of steps (`trajectory`), in each the model's response, the action in it, and
what was observed; the conversation as the model was given it (`history`), which repeats most
of the steps; and an outcome (`info`). The events tell the conversation in its order, and
nothing of the file is lost:

    a step           a message_received, and where it acts a tool_call_started and a
                     tool_call_completed. Their metadata have the number of the `step`, and the
                     message's have the `rest`: what of the step is in none of them
    a history entry  the data of a message, or where a step says the same, `history` in the
                     metadata of the step's event
    info             `info` in the run's metadata
    any other key    the session's context

Ids are made of the content, however it is laid out and whatever the file is called. No file
says when it happened: all in it is dated to when the file was last modified, which is when
the agent ended unless someone copied the file since.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from asm.documents import Document
from asm.errors import ValidationError
from asm.formats.base import Reader, Transcript
from asm.models import Event, EventType, Run, RunStatus, Session, SessionStatus
from asm.validation import is_text

AGENT = "swe-agent"
FORMAT = "SWE-agent trajectory"

# What a step calls a thing, and what an event does.
_SPOKEN = {"response": "content", "thought": "thought"}
_CALLED = {"action": "input"}
_RETURNED = {"observation": "output", "execution_time": "duration_s"}
_ANSWERED = {**_RETURNED, "observation": "content"}

_PROVIDERS = {"claude": "anthropic", "gemini": "google", "gpt": "openai"}


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file is named like a trajectory, or begins like one."""
    return path.suffix == ".traj" or b'"trajectory"' in head


def read(path: Path) -> Transcript:
    """The session in a trajectory file, or a ValidationError saying what is wrong with it."""
    document = _checked(_parsed(path.read_bytes()))
    at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    content = sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    session = _session(document, _id("ses_", content), at, path.name)
    run = _run(document, _id("run_", content), session)
    events = [
        Event(
            id=_id("evt_", f"{content} {number}"),
            type=told.type,
            timestamp=at,
            session_id=session.id,
            run_id=None if told.type.startswith("session_") else run.id,
            data=told.data,
            metadata=told.metadata,
            provider=run.provider,
            correlation_id=told.correlation_id,
        )
        for number, told in enumerate(_events(document, run), 1)
    ]
    return Transcript(session, run, events)


READER = Reader(FORMAT, sniff, lambda path: [read(path)])


def _id(prefix: str, content: str) -> str:
    return prefix + sha256(f"{prefix}{content}".encode()).hexdigest()[:32]


def _session(document: Document, id: str, at: datetime, file_name: str) -> Session:
    return Session(
        id=id,
        agent_id=AGENT,
        status=SessionStatus.COMPLETED if _succeeded(document) else SessionStatus.FAILED,
        metadata={"file": file_name, "format": FORMAT},
        # What is empty has nothing to tell, so it stays where a null is told from a missing key.
        context={key: value for key, value in document.items() if key not in _ELSEWHERE or not value},
        created_at=at,
        updated_at=at,
    )


_ELSEWHERE = ("trajectory", "history", "info")


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
        provider=_provider(model),
        provider_metadata={} if model is None else {"model": model},
        cost_usd=stats.get("instance_cost"),
    )


def _succeeded(document: Document) -> bool:
    # "submitted", and "submitted (exit_cost)" where SWE-agent submitted for an agent that ran
    # out of money. None is a file that was left in the middle of a run.
    status = (document.get("info") or {}).get("exit_status")
    return status is not None and status.startswith("submitted")


def _model(config: Any) -> str | None:
    # An object, or the text of one: SWE-agent has written both.
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError:
            return None
    for key in ("agent", "model", "name"):
        config = config.get(key) if isinstance(config, dict) else None
    return config if isinstance(config, str) else None


def _provider(model: str | None) -> str | None:
    """Who runs a model: named before a slash, or known by how the model's name begins."""
    if model is None:
        return None
    named, slash, _ = model.partition("/")
    provider = (
        named if slash else next((_PROVIDERS[name] for name in _PROVIDERS if model.startswith(name)), None)
    )
    return provider if is_text(provider) else None


def _task(document: Document) -> Any:
    asked = (entry for entry in document.get("history") or [] if entry.get("role") == "user")
    return next((entry.get("content") for entry in asked if not entry.get("is_demo")), None)


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
    """What was said, in the order of the history; the steps it does not mention come in their own."""
    entries = deque(history)
    waiting = deque(enumerate(steps, 1))
    while entries:
        entry = entries.popleft()
        ahead = next((ahead for ahead, (_, step) in enumerate(waiting) if _says_the_same(entry, step)), None)
        if ahead is None:
            yield _message(entry)
            continue
        for _ in range(ahead):
            yield from _step(*waiting.popleft())
        number, step = waiting.popleft()
        answer = entries.popleft() if _was_answered(step) and entries and _answers(entries[0]) else None
        yield from _step(number, step, entry, answer)
    for number, step in waiting:
        yield from _step(number, step)


def _message(entry: Document) -> _EventDraft:
    from_model = entry.get("role") == "assistant" and not entry.get("is_demo")
    return _EventDraft(EventType.MESSAGE_RECEIVED if from_model else EventType.MESSAGE_SENT, entry)


def _says_the_same(entry: Document, step: Document) -> bool:
    """Whether an entry is a step's response. One of the three is enough: people edit actions for replays."""
    if entry.get("role") != "assistant" or entry.get("is_demo"):
        return False
    pairs = (("content", "response"), ("thought", "thought"), ("action", "action"))
    return any(step.get(said) and entry.get(heard) == step[said] for heard, said in pairs)


def _was_answered(step: Document) -> bool:
    return bool(step.get("action") or step.get("observation"))


def _answers(entry: Document) -> bool:
    return entry.get("role") in ("user", "tool") and not entry.get("is_demo")


def _step(
    number: int, step: Document, said: Document | None = None, answer: Document | None = None
) -> Iterator[_EventDraft]:
    rest = dict(step)
    spoken = {"role": "assistant", **_pop_renamed(rest, _SPOKEN)}
    call = _called(said) | _pop_renamed(rest, _CALLED) if step.get("action") else {}
    result = _pop_renamed(rest, _RETURNED if call else _ANSWERED) if _was_answered(step) else {}
    call_id = _call_id(said)
    yield _EventDraft(EventType.MESSAGE_RECEIVED, spoken, _metadata(number, said, rest))
    if call:
        yield _EventDraft(EventType.TOOL_CALL_STARTED, call, _metadata(number), call_id)
        yield _EventDraft(EventType.TOOL_CALL_COMPLETED, result, _metadata(number, answer), call_id)
    elif result:
        yield _EventDraft(EventType.MESSAGE_SENT, {"role": "user", **result}, _metadata(number, answer))


def _pop_renamed(values: Document, names: Mapping[str, str]) -> Document:
    """Those of the values that are not null, taken out and under their new names."""
    return {new: values.pop(old) for old, new in names.items() if values.get(old) is not None}


def _metadata(number: int, history: Document | None = None, rest: Document | None = None) -> Document:
    about: Document = {"step": number}
    if history is not None:
        about["history"] = history
    if rest:
        about["rest"] = rest
    return about


def _called(entry: Document | None) -> Document:
    function = _tool_call(entry).get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return {"name": name} if isinstance(name, str) else {}


def _call_id(entry: Document | None) -> str | None:
    call_id = _tool_call(entry).get("id")
    return call_id if is_text(call_id) else None


def _tool_call(entry: Document | None) -> Document:
    """The call a model made, where it made one that is not text. A step carries out one."""
    calls = (entry or {}).get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls else None
    return call if isinstance(call, dict) else {}


# What a file must be like.

_NUMBER = int | float
_STEP = dict.fromkeys((*_SPOKEN, *_CALLED, "observation"), str) | {"execution_time": _NUMBER}
_ENTRY = {"role": str}
_INFO = {"exit_status": str, "model_stats": dict}
_STATS = {"tokens_sent": int, "tokens_received": int, "instance_cost": _NUMBER}

_KINDS: dict[Any, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    _NUMBER: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValidationError(f"not JSON at {place}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValidationError(f"not JSON at byte {error.start:,}: {error.reason}") from error
    except RecursionError as error:
        raise ValidationError("nested deeper than any JSON reader goes") from error
    except ValueError as error:
        raise ValidationError(f"not JSON that Python reads: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValidationError(f"not JSON: {name} is no number JSON knows")


def _checked(document: Any) -> Document:
    if not isinstance(document, dict) or not isinstance(document.get("trajectory"), list):
        raise ValidationError("not a trajectory: it is no object with a list named `trajectory`")
    _check_fields(document, {"history": list, "info": dict}, "")
    for number, step in enumerate(document["trajectory"]):
        _check_fields(step, _STEP, f"trajectory[{number}]")
    for number, entry in enumerate(document.get("history") or []):
        _check_fields(entry, _ENTRY, f"history[{number}]")
    info = document.get("info") or {}
    _check_fields(info, _INFO, "info")
    _check_fields(info.get("model_stats") or {}, _STATS, "info.model_stats")
    return document


def _check_fields(value: Any, kinds: Mapping[str, Any], where: str) -> None:
    """Whether a value is an object, in which each of these fields is of its kind, null, or absent."""
    _check(value, dict, where)
    for name, kind in kinds.items():
        if value.get(name) is not None:
            _check(value[name], kind, f"{where}.{name}".lstrip("."))


def _check(value: Any, kind: Any, where: str) -> None:
    # To Python, true is a number.
    if not isinstance(value, kind) or isinstance(value, bool):
        message = f"{where} must be {_KINDS[kind]}, not {_KINDS[type(value)]}"
        raise ValidationError(message, path=where)
