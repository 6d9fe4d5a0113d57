"""Models of OpenAI, called through its Responses API with OpenAI's own SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from asm.agents import replay, reports
from asm.agents.protocol import AdapterEvent, Request
from asm.errors import ProviderError, missing_extra

try:
    import openai

    from asm.agents import http_api
except ImportError as error:
    raise missing_extra(__name__, "openai", "openai") from error

READ_TIMEOUT_S = 300.0
"""The API sends nothing while a model thinks, which can take minutes."""


class Responses:
    """A model of OpenAI. The SDK retries a request that fails before its answer begins.

    Without `client`, each turn opens an `AsyncOpenAI` and closes it, so that one adapter serves any number
    of threads and event loops. A given client stays open and belongs to one event loop. `options` are
    passed on to `responses.create`, such as `reasoning` or `max_output_tokens`; those of a Request
    prevail. OpenAI stores nothing (`store=False`); with `reasoning`, it returns the thoughts encrypted, and
    the next turn passes them back.
    """

    provider = "openai"
    capabilities = frozenset({"streaming", "tools", "images"})

    def __init__(self, client: openai.AsyncOpenAI | None = None, *, model: str, **options: Any) -> None:
        http_api.check_is_async(client, "AsyncOpenAI")
        self._client = client
        self._options = {"model": model, **options}

    async def turn(self, request: Request) -> AsyncIterator[AdapterEvent]:
        """One call of the Responses API."""
        request_id, response = None, None
        try:
            async with (
                self._connection() as client,
                await client.responses.create(stream=True, **self._body(request)) as stream,
            ):
                request_id = stream.response.headers.get("x-request-id")
                async for event in stream:
                    if event.type in ("response.output_text.delta", "response.refusal.delta"):
                        yield reports.delta(event.delta)
                    elif event.type == "error":
                        raise _error(event, request_id)
                    elif event.type in ("response.completed", "response.incomplete", "response.failed"):
                        response = event.response
            if response is None:
                raise reports.early_end("OpenAI", "response.completed", request_id)
            for reported in _events(response):
                yield reported
            if response.status == "failed":
                raise _error(response.error, request_id)
        except ProviderError:
            raise
        except Exception as error:
            raise _failure(error, request_id) from error

    def _connection(self) -> AbstractAsyncContextManager[openai.AsyncOpenAI]:
        if self._client is not None:
            return nullcontext(self._client)
        http_client = openai.DefaultAsyncHttpxClient(verify=http_api.tls_context())
        timeout = openai.Timeout(READ_TIMEOUT_S, connect=5.0)
        return openai.AsyncOpenAI(http_client=http_client, timeout=timeout)

    def _body(self, request: Request) -> dict[str, Any]:
        given = {"model": request.model, "instructions": request.system, "tools": list(request.tools)}
        body = {**self._options, **{name: value for name, value in given.items() if value}, **request.options}
        # A model that does not think refuses a request that asks for encrypted thoughts.
        include = {"include": ["reasoning.encrypted_content"]} if "reasoning" in body else {}
        return {"store": False, **include, "input": list(replay.openai_items(request.messages)), **body}


_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""The types of calls that the application answers, with the name of their input."""


def _events(response: Any) -> Iterator[AdapterEvent]:
    items = [item.to_dict(mode="json", exclude_none=True) for item in response.output]
    stop_reason = _stop_reason(response, items)
    if response.status != "failed":
        yield reports.message(_plain(items), message_id=response.id, stop_reason=stop_reason)
    if stop_reason == "tool_use":
        for item in items:
            if item["type"] in _CALLS:
                input = reports.decoded(item[_CALLS[item["type"]]])
                yield reports.tool_call(item["call_id"], item["name"], input)
    if response.usage is not None:
        yield reports.usage(response.usage, provider=Responses.provider, model=response.model)


def _stop_reason(response: Any, items: Sequence[replay.Block]) -> str:
    """Why the answer ended, in the words of Anthropic."""
    if response.status == "incomplete":
        reason = str(response.incomplete_details.reason)
        return {"max_output_tokens": "max_tokens", "content_filter": "refusal"}.get(reason, reason)
    if any(item["type"] in _CALLS for item in items):
        return "tool_use"
    parts = [part for item in items if item["type"] == "message" for part in item["content"]]
    return "refusal" if any(part["type"] == "refusal" for part in parts) else "end_turn"


def _plain(items: list[replay.Block]) -> str | list[replay.Block]:
    """The text of an answer that is nothing else. The `phase` of a message has to be passed back."""
    match items:
        case [{"type": "message", "content": [{"type": "output_text", "text": str(text), **more}], **item}]:
            return items if any(more.values()) or "phase" in item else text
    return items


_RETRYABLE = frozenset({"server_error", "rate_limit_exceeded", "vector_store_timeout"})


def _error(error: Any, request_id: str | None) -> ProviderError:
    """The error of an answer that has begun, which has no HTTP status."""
    return ProviderError(
        f"OpenAI: {error.code}: {error.message}",
        request_id=request_id,
        provider_code=error.code,
        retryable=error.code in _RETRYABLE,
    )


def _failure(error: Exception, request_id: str | None) -> ProviderError:
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    description = f"OpenAI: {type(error).__name__}: {message or error}"
    if not isinstance(error, openai.APIStatusError):
        code = getattr(error, "code", None)
        is_lost = isinstance(error, openai.APIConnectionError) or http_api.is_lost(error)
        is_retryable = is_lost or code in _RETRYABLE
        return ProviderError(description, request_id=request_id, provider_code=code, retryable=is_retryable)
    # A quota that is used up is a 429, too, and does not pass.
    is_retryable = reports.is_retryable_status(error.status_code) and error.code != "insufficient_quota"
    id, status, code = error.request_id, error.status_code, error.code
    return ProviderError(
        description, status=status, request_id=id, provider_code=code, retryable=is_retryable
    )
