"""The turns of a run: the model is called, then the tools that it asks for, until it has answered."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from asm.agents import provider_sessions
from asm.agents.inputs import event_type_of
from asm.agents.lifecycle import Claim, Lifecycle, cancel_requested
from asm.agents.limits import LIMIT_EXCEEDED
from asm.agents.outcomes import RunFailed
from asm.agents.plans import Plan
from asm.agents.progress import Call, Progress, normalized_usage
from asm.agents.protocol import AdapterEvent, Request
from asm.agents.reading import TurnReader
from asm.agents.recording import Recorder, Streamed
from asm.agents.stopping import Stop
from asm.agents.tools import call_tool
from asm.agents.transcript import TranscriptBuilder, read_events
from asm.async_store import AsyncSessionStore
from asm.content import read_content, read_delta
from asm.documents import Document
from asm.enums import EventType
from asm.errors import ProviderError, ValidationError
from asm.models import Event
from asm.observing import observer_of
from asm.operations.runs import lease

_NOT_OF_ADAPTERS = ("run_", "session_", "turn_")
"""How the types of events begin that only the manager writes."""


class Conversation:
    """Makes the turns of a claimed run."""

    def __init__(
        self,
        store: AsyncSessionStore,
        lifecycle: Lifecycle,
        plan: Plan,
        claim: Claim,
        stop: Stop,
        keep_deltas_s: float | None,
    ) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._plan = plan
        self._claim = claim
        self._stop = stop
        self.streamed = Streamed(keep_s=keep_deltas_s)
        self.progress = Progress(claim.run, plan.limits)
        self._transcript = TranscriptBuilder()
        self._resume: str | None = None
        self._is_due = False
        self._reader: TurnReader | None = None
        stop.on_request(self._wake)

    @property
    def _recorder(self) -> Recorder:
        return self._claim.recorder

    async def hold(self) -> None:
        """Make turns until the model asks for no tool. The recorder holds the events of the last turn."""
        await self._begin()
        for turn in range(1, self._plan.max_turns + 1):
            await self._make_turn()
            self.progress.check_limits()
            if not self._calls_tools:
                return
            if turn == self._plan.max_turns:
                raise self._too_many_turns()
            for call in list(self.progress.open_calls.values()):
                await self._call(call)

    async def close(self) -> None:
        """Have the adapter give its connection back."""
        if self._reader is not None:
            await self._reader.close()

    @property
    def _calls_tools(self) -> bool:
        can = self._plan.on_tool is not None and "tools" in self._plan.adapter.capabilities
        return can and bool(self.progress.open_calls)

    def _too_many_turns(self) -> RunFailed:
        run, turns = self._claim.run, self._plan.max_turns
        return RunFailed(
            f"run {run.id!r} asks for tools after max_turns={turns} turns", run_id=run.id, code=LIMIT_EXCEEDED
        )

    def _wake(self) -> None:
        if self._reader is not None:
            self._reader.wake()

    # The messages.

    async def _begin(self) -> None:
        if self._plan.history and self._claim.first_sequence > 1:
            after, before = await self._resume_after(), self._claim.first_sequence
            async for event in read_events(self._store, self._claim.session.id, after=after, before=before):
                self._transcript.add_event(event)
        self._transcript.restart(self._claim.run.id)
        for message in self._plan.messages:
            self._transcript.add(event_type_of(message), message)

    async def _resume_after(self) -> int:
        """The number of the last event that the provider's own session has, if it is to be continued."""
        adapter, session = self._plan.adapter, self._claim.session
        known = provider_sessions.find(session, adapter.provider)
        if "resume" not in adapter.capabilities or known is None:
            return 0
        last = await self._store.get_events(session.id, run_id=known.run_id, last=1)
        if not last:
            return 0
        self._resume = known.session_id
        return last[0].sequence_number or 0

    # One model call.

    async def _make_turn(self) -> None:
        self.progress.begin_turn()
        self._reader = TurnReader(self._plan.adapter.turn(self._request()))
        while not self._reader.is_exhausted:
            events = await self._reader.take()
            self._stop.check()
            for event in events:
                await self._receive(event)
            if self._is_due:
                self._hold_streamed()
            if not self._reader.is_exhausted:
                await self._append()
        self._reader.check()
        self._check_answered()
        data = {"turn": self.progress.end_turn(), "stop_reason": self.progress.stop_reason}
        self._recorder.hold(self._recorder.make(EventType.TURN_COMPLETED, data))
        if self._calls_tools:
            await self._append()

    def _request(self) -> Request:
        return Request(
            run=self._claim.run,
            session=self._claim.session,
            messages=self._transcript.messages(),
            tools=self._plan.tools,
            system=self._plan.system,
            model=self._plan.model,
            resume=self._resume,
        )

    def _check_answered(self) -> None:
        if not self.progress.is_answered:
            raise ProviderError(
                f"the stream of {self._plan.adapter.provider!r} ended before a message was complete",
                retryable=True,
            )

    async def _receive(self, event: AdapterEvent) -> None:
        if event.transient:
            # What came before the delta is shown before it.
            if self._recorder.held:
                await self._append()
            self._stream(event)
            return
        if event.type.startswith(_NOT_OF_ADAPTERS):
            raise ValidationError(f"an adapter must not report {event.type}: the manager does", path="type")
        data, id = dict(event.data), event.correlation_id
        if isinstance(provider_session_id := data.get("provider_session_id"), str):
            self.progress.provider_session_id = provider_session_id
        if event.type == EventType.TOOL_CALL_STARTED:
            id = self._add_call(id, data)
        elif event.type in (EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED):
            self.progress.add_result(id)
        elif event.type == EventType.TOKEN_USAGE_UPDATED:
            data = normalized_usage(event, self._plan.adapter.provider)
            self.progress.add_usage(data)
        elif event.type == EventType.MESSAGE_RECEIVED:
            self._hold_streamed()
            self.streamed.clear()
            self.progress.add_message(data)
        self._recorder.hold(self._recorder.make(event.type, data, id))
        self._transcript.add(event.type, data, id)

    def _add_call(self, id: str | None, data: Document) -> str:
        call = read_content(EventType.TOOL_CALL_STARTED, data).calls[0]
        id = id or call.id or f"call_{len(self._recorder.events)}_{len(self._recorder.held)}"
        self.progress.add_call(id, data)
        return id

    async def _append(self) -> None:
        """Store the events that are held, and find out whether the run is still to go on."""
        if await self._recorder.append():
            run = await self._lifecycle.look(self._claim.run)
            if "cancel_requested" in lease(run):
                self._stop.request(cancel_requested(run))
        self._stop.check()

    # Deltas.

    def _stream(self, event: AdapterEvent) -> None:
        self._recorder.show_transient(event.type, dict(event.data))
        delta = read_delta(event.data)
        if delta is None or delta.kind != "text":
            return
        if self.streamed.add(delta.text):
            asyncio.get_running_loop().call_later(self.streamed.keep_s or 0.0, self._set_due)
        if self.streamed.is_full:
            self._hold_streamed()

    def _set_due(self) -> None:
        self._is_due = True
        self._wake()

    def _hold_streamed(self) -> None:
        """Have the deltas that are not stored yet stored as one event."""
        self._is_due = False
        if text := self.streamed.take_unstored():
            event = self._recorder.make(EventType.MESSAGE_STREAMED, {"delta": text})
            self._recorder.hold(event, shown=False)

    # Tools.

    async def _call(self, call: Call) -> None:
        """Call a tool, and store what it returns or how it failed."""
        begun = time.perf_counter()
        assert self._plan.on_tool is not None
        observer = observer_of(self._store)
        block = None if observer is None else observer.tool(call.name, call.id)
        called = call_tool(self._plan.on_tool, call.name, call.input, block)
        task = await self._stop.unless_requested(called, f"the tool {call.name!r}")
        event = self._result(call, task, round(time.perf_counter() - begun, 6))
        self.progress.add_result(call.id)
        self._recorder.hold(event)
        self._transcript.add(event.type, event.data, call.id)
        await self._append()

    def _result(self, call: Call, task: asyncio.Task[Any], duration_s: float) -> Event:
        error: BaseException | None
        error = RuntimeError("the tool was cancelled") if task.cancelled() else task.exception()
        if error is None:
            try:
                data = {"output": task.result(), "duration_s": duration_s}
                return self._recorder.make(EventType.TOOL_CALL_COMPLETED, data, call.id)
            except ValidationError as invalid:
                error = invalid
        code = error.code if isinstance(error, ValidationError) else type(error).__name__
        failure = {"error": {"code": code, "message": str(error)}}
        return self._recorder.make(EventType.TOOL_CALL_FAILED, failure, call.id)
