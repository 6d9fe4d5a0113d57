"""What a transcript of Claude Code is in a store: its session, its events, and the runs that they tell of.

A run has the calls of one model between one prompt and the next. A transcript does not say how a prompt
ended, so a run is always "completed": it tells what was used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from asm.errors import ValidationError
from asm.integrations.common import counts_of, joined_id, plain_id, usage_or
from asm.models import Event, Run, Session

Document: TypeAlias = dict[str, Any]

ENTRY = "claude.entry"
MAIN, SUBAGENT = "claude.main", "claude.subagent"
"""The tags of the two kinds of transcripts."""

TITLES = ("custom_title", "ai_title", "first_prompt", "command_fallback")


def session_id(key: Mapping[str, Any]) -> str:
    """The id of a transcript's session. The SDK's id comes first: its beginning is enough for `asm show`."""
    return joined_id("claude", key["session_id"], key["project_key"], *subpath(key))


def agent_id(project_key: str) -> str:
    return joined_id("claude", project_key)


def subpath(key: Mapping[str, Any]) -> list[str]:
    """The subpath of a subagent's transcript in a list, [] of a main one."""
    if key.get("subpath") == "":
        raise ValidationError("subpath must not be empty: leave it out for the main transcript")
    return [] if key.get("subpath") is None else [key["subpath"]]


def new_session(key: Mapping[str, Any], summary: Mapping[str, Any]) -> Session:
    """The session of a transcript that begins."""
    main = {name: key[name] for name in ("project_key", "session_id")}
    is_main = not subpath(key)
    return Session(
        id=session_id(key),
        agent_id=agent_id(key["project_key"]),
        status="active",
        parent_session_id=None if is_main else session_id(main),
        metadata={**key, **title_of(summary)},
        tags=[MAIN if is_main else SUBAGENT],
    )


def title_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """The title in the data of a summary, as metadata. The data is the SDK's own, so there may be none."""
    titles = (summary.get(name) for name in TITLES)
    return next(({"title": title} for title in titles if isinstance(title, str) and title), {})


def is_transcript(session: Session) -> bool:
    """Whether a session is a transcript, and not a fork by the store, which has the metadata of one."""
    key = session.metadata
    return key.keys() >= {"project_key", "session_id"} and session_id(key) == session.id


def mtime(session: Session) -> int:
    """The time of the last append in milliseconds since 1970."""
    return int(session.updated_at.timestamp() * 1000)


def through(session: Session) -> int:
    """The number of the last event that is folded."""
    return int(session.metadata.get("through", 0))


def events_of(session_id: str, entries: Sequence[Mapping[str, Any]]) -> list[Event]:
    """Entries as events with their own ids and times. One without a time has that of the entry before it."""
    times = [_time(entry.get("timestamp")) for entry in entries]
    at = next(filter(None, times), datetime.now(UTC))
    return [_event(session_id, entry, at := time or at) for entry, time in zip(entries, times, strict=True)]


def _event(session_id: str, entry: Mapping[str, Any], at: datetime) -> Event:
    uuid = entry.get("uuid")
    own: Any = {"id": plain_id(uuid)} if isinstance(uuid, str) and uuid else {}
    return Event(type=ENTRY, session_id=session_id, timestamp=at, data={"item": entry}, **own)


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is UTC:
            return time
        return None if time.tzinfo is None else time.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def entry_of(event: Event) -> Any:
    return event.data["item"]


def runs_after(state: Document | None, events: Iterable[Event]) -> tuple[Document | None, list[Run]]:
    """The runs that more events of a transcript change, and the state to go on from; None at the beginning.

    Where the events are divided makes no difference to the runs.
    """
    changed: dict[int, Run] = {}
    for event in events:
        entry = entry_of(event)
        if _is_prompt(entry):
            state = None
        elif usage := _usage(entry):
            state = _counted(state, event, usage)
            changed[state["first"]] = _run(event.session_id, state)
    return state, list(changed.values())


def _is_prompt(entry: Mapping[str, Any]) -> bool:
    if entry.get("type") != "user" or entry.get("isMeta") or entry.get("isCompactSummary"):
        return False
    content = _message(entry).get("content")
    blocks = content if isinstance(content, list) else []
    return not any(isinstance(block, dict) and block.get("type") == "tool_result" for block in blocks)


def _usage(entry: Mapping[str, Any]) -> dict[str, int]:
    """The tokens of a call of a model, {} if the entry has none of its own.

    A fork repeats the entries of another transcript, which has their usage.
    """
    message = _message(entry)
    if entry.get("type") != "assistant" or "forkedFrom" in entry or not isinstance(message.get("model"), str):
        return {}
    # An entry may be anything, and must not make the lists of its project fail.
    counts = counts_of(message.get("usage") or {}, "anthropic")
    return counts if any(counts.values()) else {}


def _message(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    message = entry.get("message")
    return message if isinstance(message, dict) else {}


def _counted(state: Document | None, event: Event, usage: dict[str, int]) -> Document:
    message, at = _message(entry_of(event)), event.timestamp.isoformat()
    model, id = message["model"], message.get("id")
    if state is None or state["model"] != model:
        state = {"first": event.sequence_number, "model": model, "started_at": at, "turns": 0, "usage": {}}
    if id is None or state.get("message") != id:
        state = {**state, "message": id, "turns": state["turns"] + 1, "before": state["usage"]}
    # Each entry of a message repeats its usage, and the last one has all of its output.
    before = state["before"]
    total = {name: before.get(name, 0) + usage.get(name, 0) for name in (*before, *usage)}
    usage = usage_or(before, lambda: Run(session_id=event.session_id, token_usage=total).token_usage)
    return {**state, "usage": usage, "ended_at": at}


def _run(session_id: str, state: Document) -> Run:
    started_at, ended_at = map(datetime.fromisoformat, (state["started_at"], state["ended_at"]))
    return Run(
        id=joined_id("claude.run", session_id, str(state["first"])),
        session_id=session_id,
        status="completed",
        turn_count=state["turns"],
        token_usage=state["usage"],
        started_at=started_at,
        # The times in a transcript sometimes run back.
        ended_at=max(started_at, ended_at),
        provider="anthropic",
        provider_metadata={"model": state["model"]},
    )
