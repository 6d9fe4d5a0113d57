"""Sessions of the OpenAI Agents SDK: the items of a conversation are events of a session in a store."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from asm.async_store import AsyncSessionStore, AsyncTransaction
from asm.errors import missing_extra
from asm.integrations.common import Appends, awaited, save_run, settled, usage_or
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

Context: TypeAlias = RunContextWrapper[Any]

ITEM = "openai.item"
"""The type of the events that keep an item: their data is `{"item": item}`."""


class AsmSession:
    """The conversation of one session, to pass to `Runner.run(…, session=…)`.

    `session_id` is the id in the store, and a ValidationError if the store cannot have it. The store is lent,
    and never closed. With a SessionStore, any number of threads and event loops may use the conversation; an
    AsyncSessionStore belongs to the loop that opened it. The row of the session is inserted with the first
    item, as active and of `agent_id`; of a row that exists only `updated_at` changes. A write that is
    cancelled is awaited to its outcome. The store's errors are raised as they are.
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
        self.session_settings: SessionSettings | None = coerce_session_settings(session_settings or {})
        self._agent_id = Session(agent_id=agent_id).agent_id
        self._store = awaited(store, "AsmSession")
        self._appends = Appends(self._store)

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The latest `limit` items, the oldest first; without `limit`, as many as `session_settings` say.

        A negative limit means all, as in the SDK's sessions in SQLite.
        """
        limit = resolve_session_limit(limit, self.session_settings)
        last = None if limit is None or limit < 0 else limit
        events = await self._store.get_events(self.session_id, type=ITEM, last=last)
        return [event.data["item"] for event in events]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items, all or none. A ValidationError names the path of a value that JSON does not have."""
        await self._appends.append(self._events(items), self._row())

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
        await save_run(self._store, run, self._row())

    async def _atomic_replace_items(self, items: list[TResponseInputItem]) -> bool:
        """Replace all items in one transaction, for OpenAIResponsesCompactionSession.

        It looks for this method. Without it, or after False, it clears the session and then adds the items,
        and a process that is killed in between loses the conversation.
        """

        async def replace(tx: AsyncTransaction) -> None:
            await tx.delete_events(self.session_id, type=ITEM)
            await tx.append_events(events, session=self._row())

        events = self._events(items)
        if type(self) is AsmSession:
            await settled(self._store.run_transaction(replace))
        # A subclass may store its items in another way.
        return type(self) is AsmSession

    def _events(self, items: list[TResponseInputItem]) -> list[Event]:
        # The ids are generated: the same item may be added again, and is another one.
        return [Event(type=ITEM, session_id=self.session_id, data={"item": item}) for item in items]

    def _row(self) -> Session:
        return Session(id=self.session_id, agent_id=self._agent_id, status="active")


@dataclass
class _Progress:
    """What is known of one `Runner.run`: the tokens counted so far, and the runs that have not ended."""

    counted: dict[str, int]
    runs: dict[str, Run] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class AsmRunHooks(RunHooks[Any]):
    """Records the runs of a session's agents, for `asm usage` and `asm cost`. No text is stored.

    An agent that works for a `Runner.run` is a Run of the store, from its first model call to its final
    output, or to its handoff to another agent. It is saved after each model call with the tokens so far, as
    failed with the code "no_final_output"; the end makes it completed. The SDK calls no hook if an exception
    ends it, or if it waits for an approval: it stays failed. Tokens of agents that are called as tools count
    for the agent that called them, unless `as_tool` is given the hooks, too.

    The model is the agent's: give `model` if a RunConfig replaces it, and `provider` if it is not OpenAI's.
    One object serves any number of runs at a time. A subclass that overrides a method calls its `super()`.
    """

    def __init__(self, session: AsmSession, *, model: str | None = None, provider: str = "openai") -> None:
        self._session, self._model, self._provider = session, model, provider
        self._progress: dict[int, _Progress] = {}

    async def on_llm_start(
        self, context: Context, agent: Agent, system_prompt: Any, input_items: Any
    ) -> None:
        self._run_of(agent, self._progress_of(context))

    async def on_llm_end(self, context: Context, agent: Agent, response: Any) -> None:
        await self._record(context, agent, has_ended=False)

    async def on_handoff(self, context: Context, from_agent: Agent, to_agent: Agent) -> None:
        await self._record(context, from_agent, has_ended=True)

    async def on_agent_end(self, context: Context, agent: Agent, output: Any) -> None:
        await self._record(context, agent, has_ended=True)

    async def _record(self, context: Context, agent: Agent, *, has_ended: bool) -> None:
        progress = self._progress_of(context)
        # Agents that are called as tools may work at the same time.
        async with progress.lock:
            counts = _counts(context.usage, progress.counted)
            tokens = {name: number - progress.counted.get(name, 0) for name, number in counts.items()}
            progress.counted = counts
            run = self._run_of(agent, progress)
            run = usage_or(run, partial(run.update_token_usage, tokens))
            if has_ended:
                del progress.runs[agent.name]
                run = run.update_status("completed")
            else:
                progress.runs[agent.name] = run = run.increment_turn()
                run = run.set_error({"code": "no_final_output", "message": "the agent has not finished"})
            await self._session._save_run(run)

    def _run_of(self, agent: Agent, progress: _Progress) -> Run:
        if agent.name not in progress.runs:
            model = self._model or _model_of(agent)
            progress.runs[agent.name] = Run(
                session_id=self._session.session_id,
                metadata={"agent": agent.name},
                provider=self._provider,
                provider_metadata={"model": model} if isinstance(model, str) else {},
            )
        return progress.runs[agent.name]

    def _progress_of(self, context: Context) -> _Progress:
        usage = context.usage  # all contexts of one `Runner.run` have this object
        if id(usage) not in self._progress:
            # A run that is resumed from its state begins with the tokens of its first part.
            self._progress[id(usage)] = _Progress(_counts(usage, {}))
            weakref.finalize(usage, self._progress.pop, id(usage), None).atexit = False
        return self._progress[id(usage)]


def _counts(usage: Any, otherwise: dict[str, int]) -> dict[str, int]:
    return usage_or(otherwise, lambda: token_usage(usage, provider="openai"))


def _model_of(agent: Agent) -> Any:
    """The name of an agent's model. An object tells its name as `model`, if at all."""
    model = get_default_model() if agent.model is None else agent.model
    return model if isinstance(model, str) else getattr(model, "model", None)
