"""The turns of a run: the model is called, then the tools that it asks for, until it has answered.

They are made in a task of their own, which can be cancelled at any await. It writes nothing: it has the
recorder hold events, and waits for another task to store them where the next step needs that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from asm.agents import provider_sessions
from asm.agents.lifecycle import Claim
from asm.agents.limits import limit_exceeded
from asm.agents.plans import Plan, event_type_of
from asm.agents.progress import Progress
from asm.agents.protocol import AdapterEvent, Request
from asm.agents.tools import call_tool
from asm.agents.transcript import TranscriptBuilder, read_events
from asm.async_store import AsyncSessionStore
from asm.content import ToolCall, read_content, read_delta
from asm.enums import EventType
from asm.errors import ProviderError, ValidationError
from asm.observing import observer_of
from asm.validation import a_type

_NOT_OF_ADAPTERS = ("run_", "session_", "turn_")
"""How the types of events begin that only the manager writes."""

KEPT_LENGTH_MAX = 4_096
"""The characters of deltas that are kept before their time is up."""


class Conversation:
    """Makes the turns of a claimed run. `check` raises if the run is to end."""

    def __init__(
        self,
        store: AsyncSessionStore,
        plan: Plan,
        claim: Claim,
        check: Callable[[], None],
        keep_deltas_s: float | None,
    ) -> None:
        self.progress = Progress(claim.run, plan.limits)
        self.doing = "the adapter"
        """What a stop has to interrupt."""
        self.all_stored = asyncio.Event()
        """Set when all that was held is stored, and the run is to go on."""
        self._store = store
        self._plan = plan
        self._claim = claim
        self._recorder = claim.recorder
        self._check = check
        self._keep_deltas_s = keep_deltas_s
        self._is_due = False
        self._deltas: list[str] = []
        """Of the message that is being streamed."""
        self._kept = self._length = 0
        """How many of them are stored, and how many characters are not."""
        self._transcript = TranscriptBuilder()
        self._resume: str | None = None

    async def make_turns(self) -> None:
        """Make turns until the model asks for no tool. The recorder holds the events of the last turn."""
        await self._begin()
        for turn in range(1, self._plan.max_turns + 1):
            await self._make_turn()
            self.progress.check_limits()
            if not self._calls_tools:
                return
            if turn == self._plan.max_turns:
                raise limit_exceeded(self._claim.run, f"asks for tools after max_turns={turn} turns")
            await self._until_stored()
            for id, call in list(self.progress.open_calls.items()):
                await self._call(id, call)

    @property
    def _calls_tools(self) -> bool:
        can = self._plan.on_tool is not None and "tools" in self._plan.adapter.capabilities
        return can and bool(self.progress.open_calls)

    async def _until_stored(self) -> None:
        """Wait until all that is held is stored. The run may be to end then."""
        self._check()
        self.all_stored.clear()
        self._recorder.changed.set()
        await self.all_stored.wait()

    # The messages.

    async def _begin(self) -> None:
        first = self._recorder.events[0]
        if self._plan.history and first.sequence_number != 1:
            after, before = await self._resume_after(), first.sequence_number
            async for event in read_events(self._store, first.session_id, after=after, before=before):
                self._transcript.add_event(event)
        self._transcript.restart(self._claim.run.id)
        for message in self._plan.messages:
            self._tell(event_type_of(message), message)

    async def _resume_after(self) -> int:
        """The number of the last event that the provider's own session has, if it is to be continued."""
        adapter, session = self._plan.adapter, self._claim.session
        known = provider_sessions.find(session, adapter.provider)
        if "resume" not in adapter.capabilities or known is None:
            return 0
        if known.run_id == self._claim.run.id:
            # An earlier attempt of the run, which the other adapters are not told either.
            return 0
        last = await self._store.get_events(session.id, run_id=known.run_id, last=1)
        if not last:
            return 0
        self._resume = known.session_id
        return last[0].sequence_number or 0

    def _request(self) -> Request:
        return Request(
            run=self._claim.run,
            session=self._claim.session,
            messages=self._transcript.messages(),
            tools=tuple(self._plan.tools),
            system=self._plan.system,
            model=self._plan.model,
            resume=self._resume,
        )

    # One model call.

    async def _make_turn(self) -> None:
        progress = self.progress
        progress.begin_turn()
        self.doing = "the adapter"
        events: Any = self._plan.adapter.turn(self._request())
        if not hasattr(events, "__aiter__"):
            what = a_type(events)
            raise _invalid(f"adapter.turn must return an async iterator of AdapterEvent, not {what}")
        try:
            async for event in events:
                self._receive(event)
        finally:
            if (close := getattr(events, "aclose", None)) is not None:
                await close()
        if not progress.is_answered:
            stream = f"the stream of {self._plan.adapter.provider!r}"
            raise ProviderError(f"{stream} ended before a message was complete", retryable=True)
        self.keep_deltas()
        progress.turns += 1
        data = {"turn": progress.turns, "stop_reason": progress.stop_reason}
        self._recorder.hold(self._recorder.make(EventType.TURN_COMPLETED, data))

    def _receive(self, event: AdapterEvent) -> None:
        self._check()
        if not isinstance(event, AdapterEvent):
            raise _invalid(f"an adapter yields AdapterEvent, not {a_type(event)}")
        if not isinstance(event.data, Mapping):
            raise _invalid(f"the data of an AdapterEvent must be a dict, not {a_type(event.data)}")
        if event.type.startswith(_NOT_OF_ADAPTERS):
            raise _invalid(f"an adapter must not report {event.type}: the manager does")
        if event.transient:
            self._stream(event)
            return
        data, id = dict(event.data), event.correlation_id
        if isinstance(provider_session_id := data.get("provider_session_id"), str):
            self.progress.provider_session_id = provider_session_id
        if event.type == EventType.TOOL_CALL_STARTED:
            call = read_content(EventType.TOOL_CALL_STARTED, data).calls[0]
            id = self.progress.add_call(id, call)
            self._transcript.add_call(call, id, self._claim.run.id)
        elif event.type in (EventType.TOOL_CALL_COMPLETED, EventType.TOOL_CALL_FAILED):
            self.progress.open_calls.pop(id or "", None)
            self._tell(event.type, data, id)
        elif event.type == EventType.TOKEN_USAGE_UPDATED:
            data = self.progress.add_usage(data)
        elif event.type == EventType.MESSAGE_RECEIVED:
            self.keep_deltas()
            self._deltas, self._kept, self._length = [], 0, 0
            self.progress.add_message(data)
            self._tell(event.type, data)
        self._recorder.hold(self._recorder.make(event.type, data, id))

    def _tell(self, type: str, data: Mapping[str, Any], id: str | None = None) -> None:
        """Have the next request tell an event."""
        self._transcript.add(type, data, id, self._claim.run.id)

    # Deltas.

    @property
    def streamed_text(self) -> str:
        """The text of a message that is not whole."""
        return "".join(self._deltas)

    def _stream(self, event: AdapterEvent) -> None:
        self._recorder.show_delta(event.type, dict(event.data))
        delta = read_delta(event.data)
        if delta is None or delta.kind != "text":
            return
        self._deltas.append(delta.text)
        self._length += len(delta.text)
        if self._keep_deltas_s is None:
            return
        if len(self._deltas) == self._kept + 1:
            asyncio.get_running_loop().call_later(self._keep_deltas_s, self._set_due)
        if self._length >= KEPT_LENGTH_MAX:
            self.keep_deltas()

    def _set_due(self) -> None:
        self._is_due = True
        self._recorder.changed.set()

    def keep_due_deltas(self) -> None:
        """Have the deltas stored whose time is up."""
        if self._is_due:
            self.keep_deltas()

    def keep_deltas(self) -> None:
        """Have the deltas that are not stored yet stored as one event."""
        self._is_due = False
        text = "".join(self._deltas[self._kept :])
        if text and self._keep_deltas_s is not None:
            self._kept, self._length = len(self._deltas), 0
            event = self._recorder.make(EventType.MESSAGE_STREAMED, {"delta": text})
            self._recorder.hold(event, is_shown=False)

    # Tools.

    async def _call(self, id: str, call: ToolCall) -> None:
        """Call a tool, and store what it returns or how it failed."""
        assert self._plan.on_tool is not None
        name = call.name or ""
        self.doing = f"the tool {name!r}"
        observer = observer_of(self._store)
        begun = time.perf_counter()
        try:
            with nullcontext() if observer is None else observer.tool(name, id):
                output = await call_tool(self._plan.on_tool, name, call.input)
            duration_s = round(time.perf_counter() - begun, 6)
            data = {"output": output, "duration_s": duration_s}
            event = self._recorder.make(EventType.TOOL_CALL_COMPLETED, data, id)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            event = self._recorder.make(EventType.TOOL_CALL_FAILED, {"error": _tool_error(error)}, id)
        self._check()
        self.progress.open_calls.pop(id, None)
        self._recorder.hold(event)
        self._tell(event.type, event.data, id)
        await self._until_stored()


def _tool_error(error: BaseException) -> dict[str, str]:
    if isinstance(error, asyncio.CancelledError):
        error = RuntimeError("the tool was cancelled")
    code = error.code if isinstance(error, ValidationError) else type(error).__name__
    return {"code": code, "message": str(error)}


def _invalid(message: str) -> ValidationError:
    return ValidationError(message, path="adapter.turn")
