"""Strands Agents: sessions, agents and their messages in a store of asm."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import asm
from asm.errors import missing_extra
from asm.integrations.common import (
    LOOK_UP_AFTER_S,
    LOOKED_UP_MAX,
    joined_id,
    restored,
)

try:
    from strands.session.session_repository import SessionRepository
    from strands.types.exceptions import SessionException
    from strands.types.session import (
        Session,
        SessionAgent,
        SessionMessage,
        SessionType,
        decode_bytes_values,
        encode_bytes_values,
    )
except ImportError as error:
    if error.name != "strands":
        raise
    raise missing_extra(__name__, "strands-agents", "strands") from error

from asm.integrations.strands_messages import (
    AGENT,
    MULTI_AGENT,
    SESSION,
    TYPE,
    append,
    event_id,
    event_of,
    replace_message,
    row_of,
    run_of,
    session_row_id,
    with_new_state,
    with_state,
)

if TYPE_CHECKING:
    from strands.multiagent import MultiAgentBase


class AsmSessionRepository(SessionRepository):
    """Keeps the sessions of a `RepositorySessionManager` in a store of asm.

    A session, each of its agents and each of its multi-agents is a session of asm; those of agents have the
    session as their parent, and the agent's messages as events. A message that a guardrail redacts is
    replaced: the words before it are gone. A message with token usage is a run, whose price depends on
    `provider` and `model`, because Strands does not store the model. The store is lent; threads may share it.
    """

    def __init__(
        self, store: asm.SessionStore, *, provider: str | None = None, model: str | None = None
    ) -> None:
        if not isinstance(store, asm.SessionStore):
            raise asm.ValidationError(
                f"AsmSessionRepository takes a SessionStore, not {type(store).__name__}: Strands calls it "
                "without an event loop",
                path="store",
            )
        self._store = store
        self._provider = provider
        self._model = model
        self._touched: dict[str, float] = {}

    # Sessions.

    def create_session(self, session: Session, **kwargs: Any) -> Session:
        """Store a new session. SessionException if there is one of its id."""
        id = session.session_id
        row = row_of(session_row_id(id), session.to_dict(), "strands", SESSION)
        row = replace(row, metadata={"session_id": id})
        created = asm.Event(type="session_created", session_id=row.id)
        try:
            self._store.append_event(created, expected_sequence=0, session=row)
        except asm.SequenceConflict as error:
            raise SessionException(f"Session {id} already exists") from error
        return session

    def read_session(self, session_id: str, **kwargs: Any) -> Session | None:
        """The session of that id, or None. It exists as long as one of its agents does."""
        id = session_row_id(session_id)
        if (found := self._read(id)) is not None:
            return Session.from_dict(found)
        agents = self._store.query.search_sessions(parent_session_id=id, limit=1)
        return Session(session_id, SessionType.AGENT) if agents.items else None

    # Agents.

    def create_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Store a new agent of a session, or replace the one of its id."""
        self._save(AGENT, session_id, session_agent.agent_id, session_agent.to_dict())

    def read_agent(self, session_id: str, agent_id: str, **kwargs: Any) -> SessionAgent | None:
        """The agent of that id, or None."""
        found = self._read(joined_id(AGENT, session_id, agent_id))
        return None if found is None else SessionAgent.from_dict(found)

    def update_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Replace the state of an agent, except when it was created. SessionException if there is none."""
        self._update(AGENT, session_id, session_agent.agent_id, session_agent.to_dict())

    # Messages.

    def create_message(
        self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any
    ) -> None:
        """Append a message of an agent, once. SessionException if there is another one of its id."""
        run = run_of(session_id, agent_id, session_message, self._provider, self._model)
        event = event_of(session_id, agent_id, session_message, run)
        row = row_of(event.session_id, {}, agent_id, AGENT, parent=session_row_id(session_id))
        stored = self._store.run_transaction(partial(append, event, row, run), idempotent=True)
        self._touch(session_id, event.session_id)
        if stored.data != event.data:
            raise SessionException(
                f"Agent {agent_id} in session {session_id} has another message {session_message.message_id}: "
                "another program goes on with this session"
            )

    def read_message(
        self, session_id: str, agent_id: str, message_id: int, **kwargs: Any
    ) -> SessionMessage | None:
        """The message of that id, or None."""
        try:
            event = self._store.get_event(joined_id(AGENT, session_id, agent_id), event_id(message_id))
        except asm.EventNotFound:
            return None
        return SessionMessage.from_dict(event.data["item"])

    def update_message(
        self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any
    ) -> None:
        """Replace a message, except when it was created. SessionException if there is none of its id."""
        event = event_of(session_id, agent_id, session_message, None)
        try:
            self._store.run_transaction(partial(replace_message, event), idempotent=True)
        except asm.EventNotFound as error:
            raise SessionException(f"Message {session_message.message_id} does not exist") from error

    def list_messages(
        self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0, **kwargs: Any
    ) -> list[SessionMessage]:
        """The messages of an agent in the order of their ids, without the first `offset`, at most `limit`."""
        events = self._store.get_events(joined_id(AGENT, session_id, agent_id), type=TYPE)
        if not events and self.read_agent(session_id, agent_id) is None:
            raise SessionException(f"Agent {agent_id} in session {session_id} does not exist")
        messages = sorted((event.data["item"] for event in events), key=lambda item: item["message_id"])
        last = None if limit is None else offset + limit
        return [SessionMessage.from_dict(item) for item in messages[offset:last]]

    # Multi-agents.

    def create_multi_agent(self, session_id: str, multi_agent: MultiAgentBase, **kwargs: Any) -> None:
        """Store the state of a new multi-agent of a session, or replace the one of its id."""
        self._save(
            MULTI_AGENT, session_id, multi_agent.id, encode_bytes_values(multi_agent.serialize_state())
        )

    def read_multi_agent(self, session_id: str, multi_agent_id: str, **kwargs: Any) -> dict[str, Any] | None:
        """The state of the multi-agent of that id, or None."""
        found = self._read(joined_id(MULTI_AGENT, session_id, multi_agent_id))
        return None if found is None else decode_bytes_values(found)

    def update_multi_agent(self, session_id: str, multi_agent: MultiAgentBase, **kwargs: Any) -> None:
        """Replace the state of a multi-agent. SessionException if there is none of its id."""
        state = encode_bytes_values(multi_agent.serialize_state())
        self._update(MULTI_AGENT, session_id, multi_agent.id, state)

    # Rows.

    def _save(self, kind: str, session_id: str, id: str, state: dict[str, Any]) -> None:
        row = row_of(joined_id(kind, session_id, id), state, id, kind, parent=session_row_id(session_id))
        try:
            self._store.update_session(row.id, partial(with_state, state))
        except asm.SessionNotFound:
            self._store.save_session(replace(row, metadata={"session_id": session_id, "id": id}))

    def _read(self, row_id: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] | None = self._store.get_session(row_id).context.get("state")
        except asm.SessionNotFound:
            return None
        return found

    def _update(self, kind: str, session_id: str, id: str, state: dict[str, Any]) -> None:
        try:
            self._store.update_session(joined_id(kind, session_id, id), partial(with_new_state, state))
        except asm.SessionNotFound as error:
            raise SessionException(f"{id} in session {session_id} does not exist") from error

    def _touch(self, session_id: str, agent_row_id: str) -> None:
        """Restore and touch the rows of a conversation that is in use, at most once an hour."""
        now, id = time.monotonic(), session_row_id(session_id)
        if now - self._touched.get(agent_row_id, -math.inf) < LOOK_UP_AFTER_S:
            return
        self._store.update_session(agent_row_id, restored)
        try:
            self._store.update_session(id, restored)
        except asm.SessionNotFound:
            with suppress(SessionException):
                self.create_session(Session(session_id, SessionType.AGENT))
        if len(self._touched) == LOOKED_UP_MAX:
            self._touched.clear()
        self._touched[agent_row_id] = now
