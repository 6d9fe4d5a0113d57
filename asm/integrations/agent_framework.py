"""Microsoft's Agent Framework: the history of its sessions in a store of asm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asm
from asm.errors import missing_extra
from asm.integrations.common import Appends, awaited, joined_id, plain_id, save_run, usage_or

try:
    from agent_framework import AgentResponse, AgentSession, HistoryProvider, Message, SessionContext
except ImportError as error:
    if error.name != "agent_framework":
        raise
    raise missing_extra(__name__, "agent-framework-core", "agent-framework") from error

TYPE = "agent_framework.message"

_COUNTS = {
    "input_token_count": "input_tokens",
    "output_token_count": "output_tokens",
    "total_token_count": "total_tokens",
    "cache_read_input_token_count": "cache_read_tokens",
    "cache_creation_input_token_count": "cache_creation_tokens",
}


class AsmHistoryProvider(HistoryProvider):
    """Keeps the messages of each session as events of a session of asm, in the order in which they come.

    Each `source_id` has sessions of its own, so that a memory and an audit log may share a store. The other
    options are those of `HistoryProvider`. A run whose response reports its tokens is a run of the session,
    unless outputs are not stored. The store is lent, and may be of either kind.
    """

    DEFAULT_SOURCE_ID = "asm"

    def __init__(
        self,
        store: asm.SessionStore | asm.AsyncSessionStore,
        *,
        source_id: str = DEFAULT_SOURCE_ID,
        load_messages: bool = True,
        store_inputs: bool = True,
        store_context_messages: bool = False,
        store_context_from: set[str] | None = None,
        store_outputs: bool = True,
    ) -> None:
        super().__init__(
            source_id,
            load_messages=load_messages,
            store_inputs=store_inputs,
            store_context_messages=store_context_messages,
            store_context_from=store_context_from,
            store_outputs=store_outputs,
        )
        self._store = awaited(store, "AsmHistoryProvider")
        self._appends = Appends(self._store)

    def asm_session_id(self, session_id: str | None) -> str:
        """The id that a session of the framework has in asm. Sessions without an id share one."""
        return joined_id("agent_framework", self.source_id, session_id or "default")

    async def get_messages(
        self, session_id: str | None, *, state: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Message]:
        """The messages of a session, in the order in which they were saved."""
        events = await self._store.get_events(self.asm_session_id(session_id), type=TYPE)
        return [Message.from_dict(event.data["item"]) for event in events]

    async def save_messages(
        self,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append messages to a session, all of them or none. When it returns, they are durable."""
        if not messages:
            return
        id = self.asm_session_id(session_id)
        events = [asm.Event(type=TYPE, session_id=id, data={"item": each.to_dict()}) for each in messages]
        await self._appends.append(events, self._row(session_id))

    async def after_run(
        self, *, agent: Any, session: AgentSession, context: SessionContext, state: dict[str, Any]
    ) -> None:
        """Save the messages of a run, as `HistoryProvider` does, and the tokens that its response reports."""
        await super().after_run(agent=agent, session=session, context=context, state=state)
        if self.store_outputs and context.response is not None and context.response.usage_details:
            row = self._row(context.session_id)
            await save_run(self._store, _run(row.id, agent, context.response), row)

    def _row(self, session_id: str | None) -> asm.Session:
        id = self.asm_session_id(session_id)
        parts = {"session_id": session_id, "source_id": self.source_id}
        return asm.Session(id=id, agent_id="agent-framework", status="active", metadata=parts)


def _run(session_id: str, agent: Any, response: AgentResponse) -> asm.Run:
    client, now = getattr(agent, "client", None), datetime.now(UTC)
    name = getattr(client, "OTEL_PROVIDER_NAME", None)
    provider = plain_id(name) if isinstance(name, str) and name else None
    model = getattr(response.raw_representation, "model", None) or getattr(client, "model", None)
    run = asm.Run(
        session_id=session_id,
        status="completed",
        started_at=now,
        ended_at=now,
        provider=provider,
        provider_metadata={"model": model} if isinstance(model, str) else {},
    )
    usage = response.usage_details or {}
    return usage_or(run, lambda: replace(run, token_usage=_counts(usage, provider)))


def _counts(usage: Any, provider: str | None) -> dict[str, int]:
    """The counts under the names of asm, where the input tokens do not include the cached ones.

    The clients report what the API says. Anthropic's, also behind Bedrock, leaves the cached tokens out.
    """
    counts = asm.token_usage({name: usage[key] for key, name in _COUNTS.items() if key in usage})
    cached_outside = any(key.startswith("anthropic.") for key in usage) or provider in (
        "anthropic",
        "aws.bedrock",
    )
    if not cached_outside and "input_tokens" in counts:
        counts["input_tokens"] -= counts.get("cache_read_tokens", 0) + counts.get("cache_creation_tokens", 0)
    return counts
