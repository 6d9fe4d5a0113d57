"""An adapter that plays what a test gives it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from asm.agents import AdapterEvent, Request
from asm.agents.tools import in_thread

Step: TypeAlias = "AdapterEvent | BaseException | Callable[[Request], Awaitable[None]]"
"""An event to yield, an exception to raise, or a coroutine function to await."""


class Scripted:
    """Plays a list of steps in each turn, and the last list again when there is no other."""

    provider = "scripted"

    def __init__(
        self,
        *turns: Iterable[Step],
        capabilities: Iterable[str] = ("streaming", "tools"),
        model: str | None = None,
    ) -> None:
        self._turns = [list(turn) for turn in turns]
        self.capabilities = frozenset(capabilities)
        self.model = model
        self.requests: list[Request] = []
        self.is_closed = threading.Event()
        """Whether the last turn has given back what it held."""

    async def turn(self, request: Request) -> AsyncIterator[AdapterEvent]:
        steps = self._turns[min(len(self.requests), len(self._turns) - 1)]
        self.requests.append(request)
        self.is_closed.clear()
        try:
            for step in steps:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, AdapterEvent):
                    yield step
                else:
                    await step(request)
        finally:
            self.is_closed.set()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages of the last request."""
        return [dict(message) for message in self.requests[-1].messages]


class Gate:
    """Where an adapter or a tool waits until the test goes on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def arrive(self, *_: Any) -> None:
        """Wait in a thread, as a blocking tool does."""
        self.reached.set()
        assert self._opened.wait(60)

    async def wait(self, *_: Any) -> None:
        await in_thread(self.arrive)


async def pause(_: Request) -> None:
    """Let what was yielded be stored before the next event."""
    await asyncio.sleep(0)


def said(text: str, stop_reason: str | None = "end_turn", **more: Any) -> AdapterEvent:
    data = {"role": "assistant", "content": text, "stop_reason": stop_reason, **more}
    return AdapterEvent("message_received", data)


def delta(text: str) -> AdapterEvent:
    return AdapterEvent("message_streamed", {"delta": text}, transient=True)


def call(name: str, input: Any = None, id: str = "call_1") -> AdapterEvent:
    return AdapterEvent("tool_call_started", {"name": name, "input": input}, correlation_id=id)


def used(input_tokens: int = 10, output_tokens: int = 5, **more: Any) -> AdapterEvent:
    return AdapterEvent(
        "token_usage_updated", {"input_tokens": input_tokens, "output_tokens": output_tokens, **more}
    )


def answer(text: str = "Hello.") -> Scripted:
    """An adapter that answers in one turn."""
    return Scripted([said(text), used()])


def with_tool(name: str = "lookup", input: Any = None) -> Scripted:
    """An adapter that calls a tool, and then answers."""
    return Scripted(
        [said("Let me see.", "tool_use"), call(name, input or {"q": 1}), used()],
        [said("Here it is."), used()],
    )
