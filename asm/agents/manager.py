"""`SessionManager`, awaited: runs of agents in sessions of a store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from asm.agents.execution import Execution
from asm.agents.lifecycle import Lifecycle
from asm.agents.outcomes import failure_of
from asm.agents.plans import Plan, session_id_of
from asm.agents.protocol import Adapter
from asm.agents.recording import Redact, Show, redacted
from asm.agents.results import RunResult
from asm.agents.transcript import Transcript, read_events
from asm.async_store import AsyncSessionStore
from asm.documents import Document
from asm.enums import EventType, SessionStatus
from asm.errors import ConnectionFailed, StoreClosed, ValidationError
from asm.methods import set_signature
from asm.models import Event, Run, Session, new_id
from asm.operations import owned_runs, session_status
from asm.shown import identifier, message
from asm.store import SessionStore
from asm.validation import a_type, function, optional_text, safe_repr, seconds, text
from asm.validation import count as number_of

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

CANCEL_WAIT_S = 30.0
"""How long `cancel` waits until a run of this manager has ended."""

LEASE_MAX_S = 86_400 * 7

STREAM_CLOSED = "its stream was closed"

_log = logging.getLogger("asm")

_STREAM = """The events of a run as they are stored, and the deltas of its messages, which are not.

A delta is a `message_streamed` without a `sequence_number`. Every other event is durable when it is
yielded. The run begins with the first event, and is as in `run`; what it raises is raised after its
last event. It does not wait for its reader. If the iterator is closed before its end, the run is
cancelled.
"""


def _run_method(
    plan: Callable[P, Plan],
) -> Callable[Concatenate[AsyncSessionManager, P], Coroutine[Any, Any, RunResult]]:
    """A method that makes the run which its arguments plan."""

    async def run(self: AsyncSessionManager, /, *args: P.args, **kwargs: P.kwargs) -> RunResult:
        return await self._start(plan(*args, **kwargs)).result()

    return _like(plan, run, plan.__doc__, "RunResult")


def _stream_method(
    plan: Callable[P, Plan],
) -> Callable[Concatenate[AsyncSessionManager, P], AsyncIterator[Event]]:
    def stream(self: AsyncSessionManager, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Event]:
        return self._stream(plan(*args, **kwargs))

    return _like(plan, stream, _STREAM, "AsyncIterator[Event]")


def _like(plan: Callable[..., Plan], method: F, doc: str | None, result: str) -> F:
    """The method with a docstring, and with the parameters of the plan."""
    set_signature(method, plan, result)
    method.__doc__ = doc
    method.__qualname__ = f"AsyncSessionManager.{method.__name__}"
    return method


class AsyncSessionManager:
    """Runs agents in the sessions of an AsyncSessionStore.

    It has the parameters of SessionManager, which describes them, and the same methods, awaited. One event
    loop uses it: that of its store.
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
        self._redact = None if redact is None else function(redact, "redact")
        self._keep_deltas_s = None if keep_deltas is None else _duration(keep_deltas, "keep_deltas")
        self._lifecycle = Lifecycle(store, _duration(lease, "lease"), self._redact)
        self._executions: dict[Execution, None] = {}

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
        id = new_id("ses_") if run_id is None else session_id_of(run_id)
        plan = Plan(id, adapter, input, run_id=run_id, **run)
        plan.new_session = _new_session(agent_id or adapter.provider, id, metadata, context, tags)
        return await self._start(plan).result()

    run = _run_method(Plan)
    stream = _stream_method(Plan)

    async def cancel(self, run_id: str, *, reason: str | None = None, session_id: str | None = None) -> Run:
        """Cancel a run, and return it as it is stored.

        A run of this manager has ended when the call returns. One of another program is asked to end: it
        finds that out when it next appends an event or renews its lease, and is still running when the call
        returns. One that nobody is running any more is ended. A run that has ended is returned as it is.

        Without `session_id`, and with several sessions that have a run of that id, it is the last one that
        this manager began of those that go on, or the one that `get_run` returns.
        """
        run_id, session_id = text(run_id, "run_id"), optional_text(session_id, "session_id")
        if reason is not None and not isinstance(reason, str):
            raise ValidationError(f"reason must be a string, not {a_type(reason)}", path="reason")
        of_id = (each for each in reversed(self._executions) if each.run_id == run_id)
        execution = next((each for each in of_id if session_id in (None, each.session_id)), None)
        if execution is None:
            return await self._lifecycle.cancel(run_id, reason, session_id)
        execution.stop(owned_runs.run_cancelled(run_id, reason))
        await execution.ended(CANCEL_WAIT_S)
        return await self._store.get_run(run_id, session_id=execution.session_id)

    async def recover(self, *, grace: float = 30.0) -> list[Run]:
        """End the runs that nobody is running any more as failed, and return them.

        These are runs of a manager whose lease ended at least `grace` seconds ago, which allows for clocks
        that differ between machines. Others, also those of programs without a manager, are left alone. It can
        be called at any time, by several programs at once, beside live runs. If a run cannot be ended, the
        others are, and then the error is raised.
        """
        ended: list[Run] = []
        failure: Exception | None = None
        for run in await self._store.maintenance.list_stale_runs(grace=grace):
            try:
                recovered = await self._lifecycle.abandon(run)
            except (ConnectionFailed, StoreClosed):
                raise
            except Exception as error:
                _log.warning("run %s was not recovered: %s", identifier(run.id), message(repr(error)))
                failure = failure or error
            else:
                ended += [] if recovered is None else [recovered]
        if failure is not None:
            raise failure
        return ended

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
        session = _new_session(agent_id, id, metadata, context, tags, parent_session_id)
        types = (EventType.SESSION_CREATED, EventType.SESSION_STARTED)
        events = [self._event(session.id, type) for type in types]
        await self._lifecycle.run("start_session", session_status.start_session(session, events))
        return session

    async def pause(self, session_id: str) -> Session:
        """Set a session to paused. RunActive if a run of it is going on, as in `complete` and `fail`."""
        return await self._change_status(session_id, SessionStatus.PAUSED, EventType.SESSION_PAUSED)

    async def resume(self, session_id: str) -> Session:
        """Set a session to active."""
        return await self._change_status(session_id, SessionStatus.ACTIVE, EventType.SESSION_RESUMED)

    async def complete(self, session_id: str) -> Session:
        """Set a session to completed."""
        return await self._change_status(session_id, SessionStatus.COMPLETED, EventType.SESSION_COMPLETED)

    async def fail(self, session_id: str, error: Any) -> Session:
        """Set a session to failed. `error` is an exception, a text, or a dict such as {code, message}."""
        data = failure_of(error)
        return await self._change_status(session_id, SessionStatus.FAILED, EventType.SESSION_FAILED, data)

    async def _change_status(
        self, session_id: str, status: SessionStatus, type: EventType, data: Document | None = None
    ) -> Session:
        event = self._event(session_id, type, data)
        return await self._lifecycle.run(
            "change_status", session_status.change_status(session_id, status, event)
        )

    def _event(self, session_id: str, type: EventType, data: Document | None = None) -> Event:
        return redacted(self._redact, Event(session_id=session_id, type=type, data=data or {}))

    # Runs.

    def _start(self, plan: Plan, show: Show = lambda _: None) -> Execution:
        execution = Execution(self._lifecycle, plan, show, self._keep_deltas_s)
        self._executions[execution] = None
        execution.task.add_done_callback(lambda _: self._executions.pop(execution))
        return execution

    async def _stream(self, plan: Plan) -> AsyncIterator[Event]:
        shown: asyncio.Queue[Event | None] = asyncio.Queue()
        execution = self._start(plan, shown.put_nowait)
        execution.task.add_done_callback(lambda _: shown.put_nowait(None))
        try:
            while (event := await shown.get()) is not None:
                yield event
            execution.task.result()
        finally:
            execution.stop(owned_runs.run_cancelled("", STREAM_CLOSED))
            await execution.ended()


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


def _new_session(
    agent_id: str,
    id: str | None,
    metadata: Mapping[str, Any] | None,
    context: Mapping[str, Any] | None,
    tags: Iterable[str],
    parent_session_id: str | None = None,
) -> Session:
    return Session(
        id=new_id("ses_") if id is None else id,
        agent_id=agent_id,
        status="active",
        parent_session_id=parent_session_id,
        metadata=dict(metadata or {}),
        context=dict(context or {}),
        tags=tags,
    )
