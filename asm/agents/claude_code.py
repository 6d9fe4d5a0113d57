"""Claude Code, run as a program by Anthropic's Agent SDK. It calls its tools by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from asm.agents import replay, reports
from asm.agents.protocol import AdapterEvent, Request
from asm.errors import ProviderError, missing_extra

try:
    import claude_agent_sdk as sdk
except ImportError as error:
    raise missing_extra(__name__, "claude-agent-sdk", "claude-code") from error

INTERRUPT_TIMEOUT_S = 2.0
"""How long a cancelled turn waits for the model and the tools to stop before it ends the program."""


class ClaudeCode:
    """Claude Code with its own tools. A turn is a whole query, with as many model calls as it takes.

    `options` are those of the SDK. A Request's model, system prompt and session to resume prevail.
    """

    provider = "claude-code"
    capabilities = frozenset({"streaming", "own_tools", "resume", "images"})

    def __init__(self, options: sdk.ClaudeAgentOptions | None = None) -> None:
        self._options = options or sdk.ClaudeAgentOptions()

    async def turn(self, request: Request) -> AsyncIterator[AdapterEvent]:
        """One query, in a process of its own."""
        client: Any = None
        try:
            options = self._options_for(request)
            query = _Query(is_resumed=bool(options.resume or options.continue_conversation))
            client = sdk.ClaudeSDKClient(options)
            await client.connect()
            await client.query(replay.claude_code_input(request.messages))
            async for message in client.receive_response():
                for event in query.events(message):
                    yield event
            if not query.has_ended:
                raise reports.early_end("Claude Code", "result")
        except ProviderError:
            raise
        except (asyncio.CancelledError, GeneratorExit):
            with suppress(Exception):
                await asyncio.wait_for(client.interrupt(), INTERRUPT_TIMEOUT_S)
            raise
        except Exception as error:
            raise _failure(error) from error
        finally:
            with suppress(Exception):
                # A second cancellation does not stop it.
                await asyncio.shield(client.disconnect())

    def _options_for(self, request: Request) -> sdk.ClaudeAgentOptions:
        if request.tools:
            raise ProviderError("Claude Code calls its own tools: give them to it in ClaudeAgentOptions")
        system: Any = replay.system_text(request.system, request.messages)
        preset = self._options.system_prompt
        if system and isinstance(preset, dict) and preset["type"] == "preset":
            system = {**preset, "append": "\n\n".join(filter(None, [preset.get("append"), system]))}
        given = {"model": request.model, "resume": request.resume, "system_prompt": system}
        changes = {**{name: value for name, value in given.items() if value}, **request.options}
        return replace(self._options, include_partial_messages=True, **changes)


class _Query:
    """What the SDK says during a query. A subagent's messages have the id of the call that began it."""

    def __init__(self, *, is_resumed: bool) -> None:
        self.has_ended = False
        self._is_resumed = is_resumed
        self._unfinished: dict[str | None, Any] = {}
        self._calls: set[str] = set()
        self._model = ""

    def events(self, message: Any) -> Iterator[AdapterEvent]:
        parent = getattr(message, "parent_tool_use_id", None)
        match message:
            case sdk.StreamEvent(event={"delta": {"type": "text_delta", "text": text}}) if parent is None:
                yield reports.delta(text)
            case sdk.StreamEvent(event={"delta": {"stop_reason": reason}}) if parent in self._unfinished:
                self._unfinished[parent].stop_reason = reason
            case sdk.StreamEvent(event={"type": "message_stop"}):
                yield from self._finished(parent)
            case sdk.AssistantMessage(error=None, message_id=id):
                # Each block of a message comes as a message of its own.
                if id is None or id != getattr(self._unfinished.get(parent), "message_id", None):
                    yield from self._finished(parent)
                    self._unfinished[parent] = replace(message, content=[])
                self._unfinished[parent].content.extend(message.content)
            case sdk.UserMessage(content=list(blocks)):
                yield from self._finished(parent)
                for block in blocks:
                    if getattr(block, "tool_use_id", None) in self._calls:
                        yield reports.tool_result(block.tool_use_id, block.content, block.is_error)
            case sdk.ResultMessage():
                yield from self._ended(message)

    def _finished(self, parent: str | None) -> Iterator[AdapterEvent]:
        if parent not in self._unfinished:
            return
        message = self._unfinished.pop(parent)
        self._model = message.model
        yield reports.message(
            list(map(reports.block, message.content)),
            message_id=message.message_id,
            stop_reason=message.stop_reason,
            parent_tool_use_id=parent,
            provider_session_id=message.session_id,
        )
        for block in message.content:
            if isinstance(block, sdk.ToolUseBlock):
                self._calls.add(block.id)
                yield reports.tool_call(block.id, block.name, block.input)

    def _ended(self, result: Any) -> Iterator[AdapterEvent]:
        self.has_ended = True
        for parent in list(self._unfinished):
            yield from self._finished(parent)
        for model, counts in self._spent(result):
            yield reports.usage(counts, provider="anthropic", model=model, cost_usd=counts.get("costUSD"))
        if result.is_error or result.subtype != "success":
            raise _failure(result, "; ".join(result.errors or ()) or result.result or result.subtype)

    def _spent(self, result: Any) -> list[tuple[str, Any]]:
        """The usage of each model, last that of the conversation, whose model is the run's."""
        if self._is_resumed or not result.model_usage:
            # The usage of models would include that of the queries before.
            return [(self._model, result.usage)] if result.usage else []
        used = [(counts.get("canonicalModel", model), counts) for model, counts in result.model_usage.items()]
        return sorted(used, key=lambda each: each[0] == self._model)


def _failure(failed: Any, message: str | None = None) -> ProviderError:
    """The error for a failed result, or for an exception of the SDK, some of which have a result's fields."""
    fields = ("api_error_status", "subtype", "terminal_reason")
    status, subtype, reason = (getattr(failed, field, None) for field in fields)
    text = message or f"{type(failed).__name__}: {failed}"
    code = reason if subtype == "success" else subtype
    retryable = reason == "api_error" if status is None else reports.is_retryable_status(status)
    return ProviderError(f"Claude Code: {text}", status=status, provider_code=code, retryable=retryable)
