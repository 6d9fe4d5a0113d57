"""Sessions of the OpenAI Agents SDK, kept in a store.

`AsmSession` keeps the items of a conversation as events of a session, beside whatever else an application
appends to that session. `AsmRunHooks` records the runs of its agents with their token usage.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from asm.async_store import AsyncSessionStore, AsyncTransaction
from asm.errors import missing_extra
from asm.integrations.common import awaited, settled
from asm.models import Event, Run, Session
from asm.provider_usage import token_usage
from asm.store import SessionStore

try:
    from agents import Agent, RunContextWrapper, RunHooks, TResponseInputItem
    from agents.memory import SessionSettings
    from agents.memory.session_settings import coerce_session_settings, resolve_session_limit
    from agents.models import get_default_model
except ModuleNotFoundError as error:
    if error.name != "agents":
        raise
    raise missing_extra(__name__, "openai-agents", "openai-agents") from error

ITEM = "openai.item"
"""The type of the events that keep an item: their data is `{"item": item}`."""

NO_FINAL_OUTPUT = {"code": "no_final_output", "message": "the agent has not returned a final output"}
"""The error of a run until its agent returns a final output or hands off."""


class AsmSession:
    """The conversation of one session, to pass to `Runner.run(…, session=…)`.

    `session_id` is the id of the session in the store, and a ValidationError if the store cannot have it.
    The store is lent, and never closed. With a SessionStore, any number of threads and event loops may use
    the conversation; an AsyncSessionStore belongs to the loop that opened it. The session's row is inserted
    with its first item, as active and of `agent_id`; a row that exists keeps everything but its `updated_at`.

    A write that is cancelled is awaited to its outcome. The store's errors are raised as they are.
    """

    def __init__(
        self,
        session_id: str,
        store: SessionStore | AsyncSessionStore,
        *,
        agent_id: str = "openai-agents",
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        self.session_id = Event(type=ITEM, session_id=session_id).session_id
        settings = SessionSettings() if session_settings is None else session_settings
        self.session_settings: SessionSettings | None = coerce_session_settings(settings)
        self._agent_id = Session(agent_id=agent_id).agent_id
        self._store = awaited(store, "AsmSession")

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The latest `limit` items, the oldest first.

        Without `limit` it is that of `session_settings`; None, or a negative number as in the SDK's SQLite
        sessions, means all.
        """
        limit = resolve_session_limit(limit, self.session_settings)
        last = None if limit is None or limit < 0 else limit
        events = await self._store.get_events(self.session_id, type=ITEM, last=last)
        return [event.data["item"] for event in events]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items, all or none. A ValidationError names the path of a value that JSON does not have."""
        await settled(self._store.append_events(self._events(items), session=self._row()))

    async def pop_item(self) -> TResponseInputItem | None:
        """Delete the newest item and return it; None if there is none.

        Of several callers each gets another item. ConnectionFailed with `details["outcome"] == "unknown"`
        if the response to the commit is lost and its outcome cannot be determined.
        """
        event = await settled(self._store.pop_event(self.session_id, type=ITEM))
        return None if event is None else event.data["item"]

    async def clear_session(self) -> None:
        """Delete all items. The session's row, its runs and its other events stay."""
        await settled(self._store.delete_events(self.session_id, type=ITEM))

    def run_hooks(self, *, model: str | None = None, provider: str = "openai") -> AsmRunHooks:
        """Hooks to pass to `Runner.run(…, hooks=…)`, which record its runs in this session."""
        return AsmRunHooks(self, model=model, provider=provider)

    async def _save_run(self, run: Run) -> None:
        await self._store.append_events([], session=self._row())
        await self._store.save_run(run)

    async def _atomic_replace_items(self, items: list[TResponseInputItem]) -> bool:
        """Replace all items in one transaction, for OpenAIResponsesCompactionSession.

        It calls this where the session has it (0.24). Otherwise it clears the session and adds the items, and
        a process that is killed in between loses the conversation. False makes it do that.
        """
        if type(self) is not AsmSession:
            # A subclass may store items in another way.
            return False
        events = self._events(items)

        async def replace(tx: AsyncTransaction) -> None:
            await tx.delete_events(self.session_id, type=ITEM)
            await tx.append_events(events, session=self._row())

        await settled(self._store.run_transaction(replace))
        return True

    def _events(self, items: Sequence[TResponseInputItem]) -> list[Event]:
        # The ids are generated: the same item may be added again, and is another one.
        return [Event(type=ITEM, session_id=self.session_id, data={"item": item}) for item in items]

    def _row(self) -> Session:
        return Session(id=self.session_id, agent_id=self._agent_id, status="active")


@dataclass
class _Spending:
    """What is known of one `Runner.run`: the tokens counted so far, and the runs that have not ended."""

    counts: dict[str, int]
    runs: dict[str, Run] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def uncounted(self, counts: dict[str, int]) -> dict[str, int]:
        """The tokens that were not counted yet, of the run's tokens so far."""
        before, self.counts = self.counts, counts
        return {name: number - before.get(name, 0) for name, number in counts.items()}


class AsmRunHooks(RunHooks[Any]):
    """Records the runs of a session's agents, for `asm usage` and `asm cost`.

    An agent that works for a `Runner.run` is a Run of the store, from its first model call to its final
    output, or to its handoff to another agent. It is saved after each model call with the tokens so far, as
    failed with the code "no_final_output"; the end makes it completed. No hook is called if an exception
    ends it, or if it waits for an approval, so that it stays failed. Tokens of agents that are called as
    tools count for the agent that called them, unless `as_tool` is given the hooks, too. No text is stored.

    The model is the agent's: give `model` if a RunConfig replaces it, and `provider` if it is not OpenAI's.
    One object serves any number of runs, also at the same time. A subclass that overrides one of the methods
    calls that of `super()`.
    """

    def __init__(self, session: AsmSession, *, model: str | None = None, provider: str = "openai") -> None:
        self._session = session
        self._model = model
        self._provider = provider
        self._spendings: dict[int, _Spending] = {}

    async def on_llm_start(self, context: RunContextWrapper[Any], agent: Agent[Any], *_: Any) -> None:
        self._run(self._spending(context), agent)

    async def on_llm_end(self, context: RunContextWrapper[Any], agent: Agent[Any], *_: Any) -> None:
        await self._record(context, agent, has_ended=False)

    async def on_handoff(self, context: RunContextWrapper[Any], from_agent: Agent[Any], *_: Any) -> None:
        await self._record(context, from_agent, has_ended=True)

    async def on_agent_end(self, context: RunContextWrapper[Any], agent: Agent[Any], *_: Any) -> None:
        await self._record(context, agent, has_ended=True)

    async def _record(self, context: RunContextWrapper[Any], agent: Agent[Any], *, has_ended: bool) -> None:
        spending = self._spending(context)
        # Agents that are called as tools may work at the same time, and count for one run.
        async with spending.lock:
            tokens = spending.uncounted(token_usage(context.usage, provider="openai"))
            run = self._run(spending, agent).update_token_usage(tokens)
            if has_ended:
                del spending.runs[agent.name]
                run = run.update_status("completed")
            else:
                spending.runs[agent.name] = run = run.increment_turn()
                run = run.set_error(NO_FINAL_OUTPUT)
            await settled(self._session._save_run(run))

    def _run(self, spending: _Spending, agent: Agent[Any]) -> Run:
        if agent.name not in spending.runs:
            model = self._model or _model_of(agent)
            spending.runs[agent.name] = Run(
                session_id=self._session.session_id,
                metadata={"agent": agent.name},
                provider=self._provider,
                provider_metadata={} if model is None else {"model": model},
            )
        return spending.runs[agent.name]

    def _spending(self, context: RunContextWrapper[Any]) -> _Spending:
        """That of the `Runner.run` of this context, whose contexts share one usage."""
        usage = context.usage
        if id(usage) not in self._spendings:
            # A run that is resumed from its state begins with the tokens of its first part.
            self._spendings[id(usage)] = _Spending(token_usage(usage, provider="openai"))
            weakref.finalize(usage, self._spendings.pop, id(usage), None).atexit = False
        return self._spendings[id(usage)]


def _model_of(agent: Agent[Any]) -> str | None:
    """The name of an agent's model; None if it is an object that does not tell its name."""
    model: Any = get_default_model() if agent.model is None else agent.model
    name = model if isinstance(model, str) else getattr(model, "model", None)
    return name if isinstance(name, str) else None
