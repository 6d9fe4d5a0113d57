"""What the APIs of Anthropic and OpenAI send, written by hand from their documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

Event = Mapping[str, Any]
Block = Mapping[str, Any]

TEXT = "Sunny ☀️, 21 °C: a naïve 😀 guess"


def pieces(text: str, size: int = 5) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


class AnthropicApi:
    """The Messages API."""

    name = "anthropic"
    model = "claude-test"
    key, base_url = "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"
    request_id = "request-id"
    tool: ClassVar = {"name": "weather", "input_schema": {"type": "object"}}
    usage: ClassVar = {
        "input_tokens": 12,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 4_000,
        "output_tokens": 1,
    }

    def text(self, text: str = TEXT) -> list[Event]:
        return self.message([{"type": "text", "text": text}])

    def call(self, id: str = "toolu_1") -> list[Event]:
        block = {"type": "tool_use", "id": id, "name": "weather", "input": {"city": "Paris"}}
        return self.message([block], "tool_use")

    def message(self, blocks: Sequence[Block], stop_reason: str = "end_turn", **more: Any) -> list[Event]:
        begun: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self.usage,
        }
        return [
            {"type": "message_start", "message": begun},
            {"type": "ping"},
            *(event for index, block in enumerate(blocks) for event in self._block(index, block)),
            {
                "type": "message_delta",
                "delta": {"stop_reason": stop_reason, "stop_sequence": None, **more},
                "usage": {"output_tokens": 25},
            },
            {"type": "message_stop"},
        ]

    def _block(self, index: int, block: Block) -> Iterator[Event]:
        yield {"type": "content_block_start", "index": index, "content_block": _empty(block)}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}

    def error(self, code: str) -> Event:
        return {"type": "error", "error": {"type": code, "message": f"an error: {code}"}}

    overloaded, invalid = "overloaded_error", "invalid_request_error"


def _empty(block: Block) -> Block:
    empty = {"text": "", "thinking": "", "signature": "", "input": {}}
    return {name: empty.get(name, value) for name, value in block.items()}


def _deltas(block: Block) -> Iterator[Block]:
    if block["type"] == "text":
        yield from ({"type": "text_delta", "text": each} for each in pieces(block["text"]))
    elif block["type"] == "thinking":
        yield from ({"type": "thinking_delta", "thinking": each} for each in pieces(block["thinking"]))
        yield {"type": "signature_delta", "signature": block["signature"]}
    elif block["type"] == "tool_use":
        # The input of a test may be cut already.
        text = block["input"] if isinstance(block["input"], str) else json.dumps(block["input"])
        yield from ({"type": "input_json_delta", "partial_json": each} for each in ("", *pieces(text)))


class OpenAIApi:
    """The Responses API."""

    name = "openai"
    model = "gpt-5"
    key, base_url = "OPENAI_API_KEY", "OPENAI_BASE_URL"
    request_id = "x-request-id"
    tool: ClassVar = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    usage: ClassVar = {
        "input_tokens": 4_312,
        "input_tokens_details": {"cached_tokens": 4_000, "cache_write_tokens": 300},
        "output_tokens": 25,
        "output_tokens_details": {"reasoning_tokens": 8},
        "total_tokens": 4_337,
    }

    def text(self, text: str = TEXT) -> list[Event]:
        return self.response([self.message(text)])

    def call(self, id: str = "call_1") -> list[Event]:
        return self.response([self.function_call(id)])

    def message(self, text: str) -> Block:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }

    def function_call(self, id: str, arguments: str = '{"city": "Paris"}') -> Block:
        return {
            "type": "function_call",
            "id": f"fc_{id}",
            "call_id": id,
            "name": "weather",
            "arguments": arguments,
            "status": "completed",
        }

    def response(self, items: Sequence[Block], status: str = "completed", **more: Any) -> list[Event]:
        begun: dict[str, Any] = {
            "id": "resp_1",
            "object": "response",
            "model": self.model,
            "created_at": 0,
            "output": [],
        }
        ended = {**begun, "status": status, "output": items, "usage": self.usage, **more}
        events = [
            {"type": "response.created", "response": {**begun, "status": "in_progress"}},
            *(event for index, item in enumerate(items) for event in self._item(index, item)),
            {"type": f"response.{status}", "response": ended},
        ]
        return [{**event, "sequence_number": number} for number, event in enumerate(events)]

    def _item(self, index: int, item: Block) -> Iterator[Event]:
        where = {"output_index": index, "item_id": item.get("id")}
        yield {"type": "response.output_item.added", "output_index": index, "item": {**item, "content": []}}
        for number, part in enumerate(item.get("content") or ()):
            for kind, name in (("output_text", "text"), ("refusal", "refusal")):
                for delta in pieces(part.get(name, "")):
                    yield {
                        "type": f"response.{kind}.delta",
                        "content_index": number,
                        "delta": delta,
                        "logprobs": [],
                        **where,
                    }
        for delta in pieces(item.get("arguments", "")):
            yield {"type": "response.function_call_arguments.delta", "delta": delta, **where}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}

    def error(self, code: str) -> Event:
        return {
            "type": "error",
            "code": code,
            "message": f"an error: {code}",
            "param": None,
            "sequence_number": 9,
        }

    overloaded, invalid = "server_error", "invalid_prompt"


Api = AnthropicApi | OpenAIApi
