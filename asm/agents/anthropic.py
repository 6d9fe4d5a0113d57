"""Claude, called through Anthropic's Messages API with Anthropic's own SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from asm.agents import replay, reports
from asm.agents.protocol import AdapterEvent, Request
from asm.errors import ProviderError, missing_extra

try:
    import anthropic

    from asm.agents import http_api
except ImportError as error:
    raise missing_extra(__name__, "anthropic", "anthropic") from error

READ_TIMEOUT_S = 60.0
"""The API sends a ping while the model is silent, so a longer silence is a lost connection."""


class Claude:
    """A model of Anthropic. The SDK retries a request that fails before its answer begins.

    Without `client`, each turn opens an `AsyncAnthropic` and closes it, so that one adapter serves any
    number of threads and event loops. A given client stays open and belongs to one event loop. `options`
    are passed on to `messages.stream`, such as `thinking` or `stop_sequences`; those of a Request prevail.
    """

    provider = "anthropic"
    capabilities = frozenset({"streaming", "tools", "images"})

    def __init__(
        self,
        client: anthropic.AsyncAnthropic | None = None,
        *,
        model: str,
        max_tokens: int = 8_192,
        **options: Any,
    ) -> None:
        http_api.check_is_async(client, "AsyncAnthropic")
        self._client = client
        self._options = {"model": model, "max_tokens": max_tokens, **options}

    async def turn(self, request: Request) -> AsyncIterator[AdapterEvent]:
        """One call of the Messages API."""
        request_id, is_whole = None, False
        try:
            async with self._connection() as client, client.messages.stream(**self._body(request)) as stream:
                request_id = stream.request_id
                async for event in stream:
                    if event.type == "text":
                        yield reports.delta(event.text)
                    is_whole = is_whole or event.type == "message_stop"
            if not is_whole:
                raise reports.early_end("Anthropic", "message_stop", request_id)
            for reported in _events(stream.current_message_snapshot):
                yield reported
        except ProviderError:
            raise
        except Exception as error:
            raise _failure(error, request_id) from error

    def _connection(self) -> AbstractAsyncContextManager[anthropic.AsyncAnthropic]:
        if self._client is not None:
            return nullcontext(self._client)
        http_client = anthropic.DefaultAsyncHttpxClient(verify=http_api.tls_context())
        timeout = anthropic.Timeout(READ_TIMEOUT_S, connect=5.0)
        return anthropic.AsyncAnthropic(http_client=http_client, timeout=timeout)

    def _body(self, request: Request) -> dict[str, Any]:
        given = {
            "model": request.model,
            "system": replay.system_text(request.system, request.messages),
            "tools": list(request.tools),
        }
        body = {**self._options, **{name: value for name, value in given.items() if value}}
        return {**body, "messages": replay.anthropic_messages(request.messages), **request.options}


def _events(message: Any) -> Iterator[AdapterEvent]:
    blocks = [block.to_dict(mode="json", exclude_none=True) for block in message.content]
    yield reports.message(blocks, message_id=message.id, stop_reason=message.stop_reason)
    # If the answer ended for another reason, such as max_tokens, the input of its last call may be cut.
    if message.stop_reason == "tool_use":
        for block in blocks:
            if block["type"] == "tool_use":
                yield reports.tool_call(block["id"], block["name"], block["input"])
    yield reports.usage(message.usage, provider=Claude.provider, model=message.model)


_RETRYABLE = frozenset({"api_error", "overloaded_error", "rate_limit_error", "timeout_error"})


def _failure(error: Exception, request_id: str | None) -> ProviderError:
    description = f"Anthropic: {type(error).__name__}: {getattr(error, 'api_message', None) or error}"
    if not isinstance(error, anthropic.APIStatusError):
        is_lost = isinstance(error, anthropic.APIConnectionError) or http_api.is_lost(error)
        return ProviderError(description, request_id=request_id, retryable=is_lost)
    # An error that interrupts an answer has the status of the answer, which is 200.
    status = error.status_code if error.status_code >= 400 else None
    is_retryable = error.type in _RETRYABLE if status is None else reports.is_retryable_status(status)
    id = error.request_id or request_id
    return ProviderError(
        description, status=status, request_id=id, provider_code=error.type, retryable=is_retryable
    )
