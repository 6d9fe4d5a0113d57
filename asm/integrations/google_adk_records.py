"""What the session service of ADK stores: ADK's objects as sessions, events and runs, and read back.

A session of ADK is a session of the store, whose `context` is the session's own state. The state of its app,
and that of its user, is the `context` of two further sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from google.adk.events import Event
from google.adk.sessions import Session, State
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from asm.async_store import AsyncTransaction
from asm.errors import RunNotFound, SessionNotFound
from asm.integrations.common import counts_of, joined_id, plain_id, usage_or
from asm.models import Event as StoredEvent
from asm.models import Run
from asm.models import Session as StoredSession

EVENT = "adk.event"

PREFIX = "adk"
"""What the id of a session of ADK begins with."""

_PROVIDERS = {"gemini": "google", "claude": "anthropic", "gpt": "openai", "o1": "openai", "o3": "openai"}
"""The provider of a model, by the beginning of the model's name."""

_TITLE_LENGTH_MAX = 200


def ids_of(app_name: str, user_id: str, session_id: str = "") -> tuple[str, str, str]:
    """The ids of the sessions that keep a session, the state of its app, and that of its user."""
    return (
        joined_id(PREFIX, app_name, user_id, session_id),
        joined_id("adk.app", app_name),
        joined_id("adk.user", app_name, user_id),
    )


def sessions_of(
    app_name: str, user_id: str, session_id: str, state: Mapping[str, Any], at: datetime
) -> list[StoredSession]:
    """These three sessions, each with its part of a state."""
    id, app_id, user_state_id = ids_of(app_name, user_id, session_id)
    names = {"app_name": app_name, "user_id": user_id, "session_id": session_id}
    app, user, temporary = State.APP_PREFIX, State.USER_PREFIX, State.TEMP_PREFIX
    own = {key: value for key, value in state.items() if not key.startswith((app, user, temporary))}
    fields: Any = {"status": "active", "created_at": at, "updated_at": at}
    # The tag exempts them from retention.
    state_fields: Any = {"agent_id": joined_id("adk.state", app_name), "tags": ("pinned",), **fields}
    return [
        # The user's is the parent, so that the sessions of a user are found by an index.
        StoredSession(
            id=id,
            agent_id=plain_id(app_name),
            parent_session_id=user_state_id,
            metadata=names,
            context=own,
            **fields,
        ),
        StoredSession(
            id=app_id, metadata={"app_name": app_name}, context=_scoped(state, app), **state_fields
        ),
        StoredSession(
            id=user_state_id,
            metadata={"app_name": app_name, "user_id": user_id},
            context=_scoped(state, user),
            **state_fields,
        ),
    ]


def _scoped(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def read_session(
    stored: StoredSession, app_id: str, states: Mapping[str, StoredSession], revision: int | None = None
) -> Session:
    """A session as ADK's object, with the states of its app and its user, and without events."""
    state = dict(stored.context)
    for prefix, id in ((State.APP_PREFIX, app_id), (State.USER_PREFIX, stored.parent_session_id or "")):
        if id in states:
            state |= {prefix + key: value for key, value in states[id].context.items()}
    session = Session(
        app_name=stored.metadata["app_name"],
        user_id=stored.metadata["user_id"],
        id=stored.metadata["session_id"],
        state=state,
        last_update_time=stored.updated_at.timestamp(),
    )
    session._storage_update_marker = None if revision is None else str(revision)
    return session


def revision_of(session: Session) -> int:
    """The number of the newest event when the object was read or appended to; 0 if it does not tell."""
    marker = session._storage_update_marker or ""
    return int(marker) if marker.isdecimal() else 0


def event_of(session_id: str, event: Event) -> StoredEvent:
    """An event without temporary state."""
    item = json_of(event)
    delta = item["actions"]["state_delta"].items()
    item["actions"]["state_delta"] = {k: v for k, v in delta if not k.startswith(State.TEMP_PREFIX)}
    return StoredEvent(
        type=EVENT,
        id=plain_id(event.id),
        session_id=session_id,
        run_id=plain_id(event.invocation_id) if event.invocation_id else None,
        timestamp=time_of(event.timestamp),
        data={"item": item},
    )


def changes_of(session: Session, event: Event, stored: StoredEvent) -> list[StoredSession]:
    """The three sessions, with what an event adds to them: states, and the first message as a title."""
    delta = stored.data["item"]["actions"]["state_delta"]
    own, *states = sessions_of(session.app_name, session.user_id, session.id, delta, stored.timestamp)
    if event.author == "user" and not session.events and event.content:
        words = " ".join(part.text or "" for part in event.content.parts or []).split()
        title = {"title": " ".join(words)[:_TITLE_LENGTH_MAX]} if words else {}
        own = replace(own, metadata={**own.metadata, **title})
    return [own, *states]


def read_events(stored: Iterable[StoredEvent]) -> list[Event]:
    return [Event.model_validate(event.data["item"]) for event in stored if event.type == EVENT]


def run_of(session: Session, event: Event, stored: StoredEvent) -> Run | None:
    """The run of one call of a model, or None if the event tells no tokens."""
    usage = counts_of(event.usage_metadata or {}, "google")
    model, code = event.model_version or "", event.error_code
    began = (each.timestamp for each in session.events if each.invocation_id == event.invocation_id)
    run = Run(
        id=stored.run_id or stored.id,
        session_id=stored.session_id,
        status="failed" if code else "completed",
        error={"code": code, "message": event.error_message} if code else None,
        turn_count=1,
        token_usage=usage,
        started_at=time_of(next(began, event.timestamp)),
        ended_at=stored.timestamp,
        provider=next((each for name, each in _PROVIDERS.items() if model.startswith(name)), "google-adk"),
        provider_metadata={"model": model} if model else {},
    )
    return run if usage else None


def json_of(model: BaseModel) -> dict[str, Any]:
    """A model as JSON, with None for numbers that JSON does not have, such as NaN."""
    dumped = model.model_dump(mode="json", exclude_none=True)
    document: dict[str, Any] = to_jsonable_python(dumped, inf_nan_mode="null")
    return document


def time_of(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)


def is_new(stored: StoredEvent, given: StoredEvent) -> bool:
    """Whether an append stored an event. One that was stored before is read, and has data of its own."""
    return stored.data is given.data


async def add_states(tx: AsyncTransaction, sessions: Iterable[StoredSession]) -> None:
    """Add states to those that are stored, in one order for all callers, so that none deadlocks."""
    for added in sessions:

        def merged(stored: StoredSession, added: StoredSession = added) -> StoredSession:
            return replace(
                stored,
                metadata={**added.metadata, **stored.metadata},
                context={**stored.context, **added.context},
                updated_at=max(stored.updated_at, added.updated_at),
            )

        try:
            await tx.update_session(added.id, merged)
        except SessionNotFound:
            await tx.append_events([], session=added)
            await tx.update_session(added.id, merged)


async def add_run(tx: AsyncTransaction, call: Run) -> None:
    """Add a call of a model to the run of its invocation. A second model has a run of its own."""
    run = await _find_run(tx, call)
    if run.provider_metadata != call.provider_metadata:
        call = replace(call, id=joined_id("adk.run", call.id, *call.provider_metadata.values()))
        run = await _find_run(tx, call)
    if run is not call:
        call = replace(
            usage_or(run, partial(run.update_token_usage, call.token_usage)).increment_turn(),
            status=call.status,
            error=call.error,
            ended_at=call.ended_at,
        )
    await tx.save_run(call)


async def _find_run(tx: AsyncTransaction, call: Run) -> Run:
    try:
        return await tx.get_run(call.id, session_id=call.session_id)
    except RunNotFound:
        return call
