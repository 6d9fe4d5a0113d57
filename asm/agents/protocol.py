"""What a manager and an adapter say to each other.

An adapter calls one provider's model. `turn` is one model call: it receives a Request and yields
AdapterEvents until the provider's own end of the stream, or raises ProviderError and nothing else. To
cancel a turn, the manager closes the iterator, and the adapter gives its connection back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from asm.models import Run, Session

CAPABILITIES = ("streaming", "tools", "resume", "own_tools", "images")
"""What an adapter may declare: it streams deltas, takes tools and leaves their calls to the manager,
continues a provider's own session, calls tools by itself, takes images in messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One model call.

    `messages` are dicts: `{"role": "user" | "assistant" | "system", "content": text or blocks}`; an
    assistant's message may have `"tool_calls": [{"id", "name", "input"}]`, and each is answered by
    `{"role": "tool", "tool_call_id", "content", "is_error"}`. `tools` are the provider's own definitions.
    `resume` is the provider's id of the session to continue, for an adapter that declares "resume"; then
    `messages` has only what is new.
    """

    run: Run
    session: Session
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    system: str | None = None
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    resume: str | None = None


@dataclass(frozen=True, slots=True)
class AdapterEvent:
    """An event before it has a place in a session.

    A transient event, a delta `message_streamed {"delta": text}`, is shown to the caller and not stored
    as it is. `correlation_id` is the id of a tool call.
    """

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    correlation_id: str | None = field(default=None, kw_only=True)
    transient: bool = field(default=False, kw_only=True)


@runtime_checkable
class Adapter(Protocol):
    """One provider's model. `provider` is stored in `Run.provider`, such as "anthropic" or "openai"."""

    @property
    def provider(self) -> str: ...

    @property
    def capabilities(self) -> frozenset[str]: ...

    def turn(self, request: Request) -> AsyncIterator[AdapterEvent]: ...
