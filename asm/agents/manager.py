"""`SessionManager`, awaited: runs of agents in sessions of a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from asm.agents import plans
from asm.agents.execution import Execution
from asm.agents.lifecycle import Lifecycle, run_cancelled
from asm.agents.plans import Plan, check_adapter, session_id_of
from asm.agents.protocol import Adapter
from asm.agents.recording import Redact, Redactor, Show
from asm.agents.results import RunResult
from asm.agents.sessions import Sessions
from asm.agents.transcript import Transcript, read_events
from asm.async_store import AsyncSessionStore
from asm.enums import SessionStatus
from asm.errors import ValidationError
from asm.methods import set_signature
from asm.models import Event, Run, Session, new_id
from asm.store import SessionStore
from asm.validation import a_type, function, safe_repr, seconds, text
from asm.validation import count as number_of

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

CANCEL_WAIT_S = 30.0
"""How long `cancel` waits until a run of this manager has ended."""

LEASE_MAX_S = 86_400 * 7

STREAM_CLOSED = "its stream was closed"


def _run_method(
    plan: Callable[P, Plan],
) -> Callable[Concatenate[AsyncSessionManager, P], Coroutine[Any, Any, RunResult]]:
    """A method that makes the run which its arguments plan."""

    async def run(self: AsyncSessionManager, /, *args: P.args, **kwargs: P.kwargs) -> RunResult:
        return await self._drive(plan(*args, **kwargs))

    return _like(plan, run, plan.__doc__, "RunResult")


def _stream_method(
    plan: Callable[P, Plan],
) -> Callable[Concatenate[AsyncSessionManager, P], AsyncIterator[Event]]:
    def stream(self: AsyncSessionManager, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Event]:
        return self._stream(plan(*args, **kwargs))

    return _like(plan, stream, _STREAM, "AsyncIterator[Event]")


_STREAM = """The events of a run as they are stored, and the deltas of its messages, which are not.

A delta is a `message_streamed` without a `sequence_number`. Every other event is durable when it is
yielded. The run begins with the first event, and is as in `run`; what it raises is raised after its
last event. It does not wait for its reader. If the iterator is closed before its end, the run is
cancelled.
"""


def _like(plan: Callable[..., Plan], method: F, doc: str | None, result: str) -> F:
    """The method with a docstring, and with the parameters of the plan."""
    set_signature(method, plan, result)
    method.__doc__ = doc
    method.__qualname__ = f"AsyncSessionManager.{method.__name__}"
    return method


class AsyncSessionManager:
    """Runs agents in the sessions of a store, and stores every step before it is shown.

    One run at a time goes on in a session. It has a lease of `lease` seconds, which is renewed while it goes
    on, so that a run whose program was killed is found: `recover`, or the next run of the session, ends it as
    failed. `redact(event)` returns what is stored in place of an event; the input, the output and the error
    of a run are passed to it as data of events, too. `keep_deltas` stores the deltas of messages, gathered
    for that many seconds or 4 KiB; without it they are shown to the caller only.

    The store is lent, and never opened or closed. `SessionManager` is the same for a blocking store.
    """

    def __init__(
        self,
        store: AsyncSessionStore,
        *,
        lease: float = 60.0,
        redact: Redact | None = None,
        keep_deltas: float | None = None,
    ) -> None:
        check_store(store, SessionStore, "AsyncSessionManager takes an AsyncSessionStore", "SessionManager")
        self._store = store
        self._lease_s = _duration(lease, "lease")
        self._redact = Redactor(None if redact is None else function(redact, "redact"))
        self._keep_deltas_s = None if keep_deltas is None else _duration(keep_deltas, "keep_deltas")
        self._lifecycle = Lifecycle(store, self._lease_s, self._redact)
        self._sessions = Sessions(store, self._redact)
        self._executions: dict[str, Execution] = {}

    async def run_once(
        self,
        /,
        adapter: Adapter,
        input: Any,
        *,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        **run: Any,
    ) -> RunResult:
        """Run in a session of its own, which is completed, failed or cancelled with the run.

        `agent_id` is the adapter's provider by default, and `run` has the parameters of `run`. With `run_id`,
        the id of the session is made of it, so that a call that is repeated, even at the same time, makes one
        session and one run.
        """
        session = Session(
            id=new_id("ses_") if run_id is None else session_id_of(run_id),
            agent_id=agent_id or check_adapter(adapter).provider,
            status="active",
            metadata=dict(metadata or {}),
            context=dict(context or {}),
            tags=tuple(tags) if not isinstance(tags, str) else tags,
        )
        asked = plans.run(session.id, adapter, input, run_id=run_id, **run)
        return await self._drive(replace(asked, new_session=session))

    run = _run_method(plans.run)
    stream = _stream_method(plans.run)

    async def cancel(self, run_id: str, *, reason: str | None = None) -> Run:
        """Cancel a run, and return it as it is stored.

        A run of this manager has ended when the call returns. One of another program is asked to end: it
        finds that out when it next appends an event or renews its lease, and is still running when the call
        returns. One that nobody is running any more is ended. A run that has ended is returned as it is.
        """
        execution = self._executions.get(text(run_id, "run_id"))
        if reason is not None and not isinstance(reason, str):
            raise ValidationError(f"reason must be a string, not {a_type(reason)}", path="reason")
        if execution is None:
            return await self._lifecycle.cancel(run_id, reason)
        execution.stop.request(run_cancelled(run_id, reason))
        with suppress(TimeoutError):
            await asyncio.wait_for(execution.ended.wait(), CANCEL_WAIT_S)
        return await self._store.get_run(run_id)

    async def recover(self, *, grace: float = 30.0) -> list[Run]:
        """End the runs that nobody is running any more as failed, and return them.

        These are runs of a manager whose lease ended at least `grace` seconds ago, which allows for clocks
        that differ between machines. Others, also those of programs without a manager, are left alone. It can
        be called at any time, by several programs at once, beside live runs.
        """
        stale = await self._store.maintenance.list_stale_runs(grace=grace)
        ended = [await self._lifecycle.abandon(run) for run in stale]
        return [run for run in ended if run is not None]

    async def transcript(
        self,
        session_id: str,
        *,
        max_messages: int | None = None,
        max_chars: int | None = None,
        max_tokens: int | None = None,
        count: Callable[[str], int] | None = None,
        after: int = 0,
    ) -> Transcript:
        """The messages of a session after an event's number, as `asm.agents.Request` describes them.

        The limits keep whole turns from the end; a turn is what follows a message of the user. `max_tokens`
        needs `count(text)`, which returns the tokens of a text. A call of a tool is never separated from its
        result, and one without a result is answered "interrupted".
        """
        await self._store.get_session(session_id)
        read = read_events(self._store, session_id, after=number_of(after, "after"))
        events = [event async for event in read]
        return Transcript.from_events(
            events, max_messages=max_messages, max_chars=max_chars, max_tokens=max_tokens, count=count
        )

    async def start_session(
        self,
        agent_id: str,
        *,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        parent_session_id: str | None = None,
    ) -> Session:
        """Save an active session, with the events that it was created and started.

        AlreadyExists if there is a session of that `id`.
        """
        session = Session(
            id=new_id("ses_") if id is None else id,
            agent_id=agent_id,
            status="active",
            parent_session_id=parent_session_id,
            metadata=dict(metadata or {}),
            context=dict(context or {}),
            tags=tuple(tags) if not isinstance(tags, str) else tags,
        )
        return await self._sessions.start(session)

    async def pause(self, session_id: str) -> Session:
        """Set a session to paused. RunActive if a run of it is going on, as in `complete` and `fail`."""
        return await self._sessions.change(session_id, SessionStatus.PAUSED)

    async def resume(self, session_id: str) -> Session:
        """Set a session to active."""
        return await self._sessions.change(session_id, SessionStatus.ACTIVE)

    async def complete(self, session_id: str) -> Session:
        """Set a session to completed."""
        return await self._sessions.change(session_id, SessionStatus.COMPLETED)

    async def fail(self, session_id: str, error: Any) -> Session:
        """Set a session to failed. `error` is an exception, a text, or a dict such as {code, message}."""
        return await self._sessions.change(session_id, SessionStatus.FAILED, error)

    # Runs.

    def _execution(self, asked: Plan, show: Show) -> Execution:
        execution: Execution = Execution(
            self._store,
            self._lifecycle,
            asked,
            self._redact,
            lease_s=self._lease_s,
            keep_deltas_s=self._keep_deltas_s,
            show=show,
            on_claim=lambda run: self._executions.update({run.id: execution}),
        )
        return execution

    async def _drive(self, asked: Plan) -> RunResult:
        return await self._driven(self._execution(asked, _show_to_nobody))

    async def _driven(self, execution: Execution) -> RunResult:
        try:
            return await execution.drive()
        finally:
            for run_id in [id for id, each in self._executions.items() if each is execution]:
                del self._executions[run_id]

    async def _stream(self, asked: Plan) -> AsyncIterator[Event]:
        shown: asyncio.Queue[Event | None] = asyncio.Queue()
        execution = self._execution(asked, shown.put_nowait)
        task = asyncio.create_task(self._driven(execution))
        task.add_done_callback(lambda _: shown.put_nowait(None))
        try:
            while (event := await shown.get()) is not None:
                yield event
            task.result()
        finally:
            if not task.done():
                execution.stop.request(run_cancelled("", STREAM_CLOSED))
                await asyncio.wait({task})
            if not task.cancelled():
                task.exception()


def check_store(store: Any, other: type, takes: str, manager: str) -> None:
    """Refuse a store of the other colour, and what is no store."""
    if isinstance(store, other):
        raise ValidationError(f"{takes}: use {manager} with a {other.__name__}", path="store")
    if not hasattr(store, "run_transaction"):
        raise ValidationError(f"{takes}, not {a_type(store)}", path="store")


def _duration(value: Any, name: str) -> float:
    duration_s = seconds(value, name)
    if duration_s is None or not 0 < duration_s <= LEASE_MAX_S:
        raise ValidationError(
            f"{name} must be a number of seconds above 0, at most {LEASE_MAX_S:,}, not {safe_repr(value)}",
            path=name,
        )
    return duration_s


def _show_to_nobody(_event: Event) -> None:
    pass
