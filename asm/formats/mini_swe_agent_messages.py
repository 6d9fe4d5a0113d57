"""What one message of mini-swe-agent says. The functions know no other message and no session.

Version 1 takes the command from a block of code in the answer, and adds the observation as a message of the
user. Version 2 has the commands in the message (`extra.actions`) and, unless the model writes blocks, as
calls of OpenAI's chat completions or Responses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from asm.documents import Document
from asm.formats import openai_items
from asm.formats.openai_items import Draft, Result
from asm.formats.session_rows import counts_of, object_of, snake_case, time_of, token_number, without
from asm.models import EventType
from asm.usage import COST_USD_MAX
from asm.validation import is_number

TOOL = "bash"

_FENCE = re.compile(r"```(?:bash|sh|mswea_bash_command)\s*")
_CODE = re.compile(r"\s*<returncode>(-?\d{1,9})</returncode>")
_OWN = ("role", "content", "extra", "timestamp")
_SAID = (*_OWN, "reasoning_content", "reasoning", "tool_calls")


@dataclass(slots=True)
class Message:
    """A message of the conversation. `extra` is what mini-swe-agent adds for itself."""

    number: int
    fields: Document
    extra: Document = field(init=False)

    def __post_init__(self) -> None:
        self.extra = object_of(self.fields, "extra")

    @property
    def role(self) -> Any:
        return self.fields.get("role")

    @property
    def is_answer(self) -> bool:
        return self.role == "assistant" or self.fields.get("object") == "response"

    @property
    def response(self) -> Document:
        """The response of the API, also of an answer that is not in the conversation."""
        is_whole = self.fields.get("object") == "response"
        return self.fields if is_whole else object_of(self.extra, "response")

    @property
    def is_result(self) -> bool:
        """Whether it has the id of the call whose result it is."""
        return self.role == "tool" or openai_items.is_output(self.fields)

    @property
    def may_be_result(self) -> bool:
        """Whether it is the result of the call before it, if there is one."""
        marks = ("returncode", "raw_output")
        is_marked = any(name in self.extra for name in marks)
        return self.role == "user" and (is_marked or not without(self.extra, "timestamp"))

    @property
    def at(self) -> datetime | None:
        times: tuple[Any, Any] = (self.extra.get("timestamp"), self.fields.get("timestamp"))
        return next((time_of(each * 1_000) for each in times if is_number(each)), None)


# Answers.


def answer_drafts(message: Message) -> list[Draft]:
    """What the model has said, and the commands that it has called."""
    output = message.response.get("output")
    if isinstance(output, list):
        drafts = [draft for item in output for draft in _item_drafts(item)]
    else:
        said = {**_choice(message.response), **(without(message.fields) if message.is_answer else {})}
        drafts = list(_said_drafts(said))
    if not any(draft.type == EventType.TOOL_CALL_STARTED for draft in drafts):
        drafts += command_drafts(message)
    if message.is_answer:
        drafts = drafts or [Draft(EventType.MESSAGE_RECEIVED, {"role": "assistant"})]
        drafts[0].rest |= _answer_rest(message)
    return drafts


def _item_drafts(item: Any) -> Iterator[Draft]:
    if isinstance(item, dict):
        yield from openai_items.drafts_of(item, own_type)
    else:
        yield Draft(own_type("item"), {"item": item})


def _choice(response: Mapping[str, Any]) -> Document:
    """The message in a response of chat completions."""
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return without(object_of(first, "message")) if isinstance(first, dict) else {}


def _said_drafts(said: Document) -> Iterator[Draft]:
    thought = said.get("reasoning_content") or said.get("reasoning")
    content = openai_items.plain(said.get("content"))
    rest = without(said, *_SAID)
    if content or thought:
        data = without({"role": "assistant", "content": content, "thinking": thought})
        yield Draft(EventType.MESSAGE_RECEIVED, data, rest)
        rest = {}
    calls = said.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        yield _call(call, rest)
        rest = {}


def _call(call: Any, rest: Document) -> Draft:
    function = object_of(call, "function") if isinstance(call, dict) else {}
    if not function:
        return Draft(own_type("call"), {"call": call}, rest)
    name, input = function.get("name"), openai_items.decoded(function.get("arguments"))
    rest = {**rest, **without(call, "id", "type", "function"), **without(function, "name", "arguments")}
    return Draft(
        EventType.TOOL_CALL_STARTED,
        {"name": name if isinstance(name, str) and name else TOOL, "input": input},
        rest,
        openai_items.call_id_of(call),
    )


def _answer_rest(message: Message) -> Document:
    """What no event of an answer has."""
    names = ("actions", "response", "cost", "timestamp")
    response = {} if message.response is message.fields else message.response
    rest = {**without(message.extra, *names), "response": _response_rest(response)}
    if message.response is message.fields:
        rest |= without(message.fields, "output", "usage", "model", "extra")
    return without(rest)


def _response_rest(response: Document) -> Any:
    rest = without(response, "usage", "model", "output")
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        rest["choices"] = [without(choices[0], "message"), *choices[1:]]
    return rest or None


# Commands and their results.


def command_drafts(message: Message) -> list[Draft]:
    """The commands of a message that has no calls: those that were taken from it, or its one block."""
    actions = message.extra.get("actions")
    if isinstance(actions, list):
        return [_command(action) for action in actions]
    content = message.fields.get("content")
    blocks = _blocks(content) if message.is_answer and isinstance(content, str) else []
    # Version 1 executes nothing if there are several.
    return [_command(blocks[0])] if len(blocks) == 1 else []


def _command(action: Any) -> Draft:
    found = action if isinstance(action, dict) else {"command": action}
    call_id = found.get("tool_call_id")
    data = {"name": TOOL, "input": without(found, "tool_call_id")}
    call_id = call_id if isinstance(call_id, str) and call_id else None
    return Draft(EventType.TOOL_CALL_STARTED, data, call_id=call_id)


def _blocks(content: str) -> list[str]:
    """The blocks of code in a text that are commands."""
    blocks: list[str] = []
    lines: list[str] | None = None
    for line in content.split("\n"):
        if lines is None:
            lines = [] if _FENCE.fullmatch(line) else None
        elif line.startswith("```"):
            blocks.append("\n".join(lines).strip())
            lines = None
        else:
            lines.append(line)
    return blocks


def result_draft(message: Message, call_id: str) -> Draft:
    """The result of a call. The output is what the command has printed, if the message has it."""
    fields, extra = message.fields, message.extra
    content = openai_items.plain(fields.get("output", fields.get("content")))
    printed = extra.get("raw_output")
    code = extra.get("returncode")
    if code is None and isinstance(content, str) and (found := _CODE.match(content)):
        code = int(found[1])
    result = Result(printed if isinstance(printed, str) else content, code if type(code) is int else None)
    rest = without(fields, *_OWN, "type", "output", "call_id", "tool_call_id")
    rest |= without(extra, "timestamp", "returncode", *(["raw_output"] if isinstance(printed, str) else []))
    if content != result.output:
        rest["content"] = content
    data = result.data()
    if (exception := rest.pop("exception_info", None)) and isinstance(exception, str):
        data = {**data, "error": exception, "output": result.output}
    type_ = EventType.TOOL_CALL_FAILED if "error" in data else EventType.TOOL_CALL_COMPLETED
    return Draft(type_, data, rest, call_id)


def other_draft(message: Message) -> Draft:
    """A message that the model was told, and that is no result."""
    role = message.role if message.role in ("user", "system") else "user"
    rest = {**without(message.fields, *_OWN), **without(message.extra, "timestamp", "actions", "cost")}
    if isinstance(message.extra.get("response"), dict):
        rest["response"] = _response_rest(message.extra["response"])
    if role != message.role:
        rest["role"] = message.role
    return Draft(
        EventType.MESSAGE_SENT, {"role": role, "content": message.fields.get("content")}, without(rest)
    )


def own_type(name: str) -> str:
    return f"mini_swe_agent.{snake_case(name)}"


# Tokens and costs.


def counts(usage: Document) -> Counter[str]:
    """The tokens of an answer. All APIs are reported by LiteLLM, which counts cached tokens in the input."""
    details = object_of(usage, "prompt_tokens_details") or object_of(usage, "input_tokens_details")
    asked = _first(usage, "prompt_tokens", "input_tokens")
    read = _first(details, "cached_tokens") or _first(usage, "cache_read_input_tokens")
    written = _first(details, "cache_write_tokens", "cache_creation_tokens")
    written = written or _first(usage, "cache_creation_input_tokens")
    read = min(read, asked)
    written = min(written, asked - read)
    return counts_of(
        input_tokens=asked - read - written,
        output_tokens=_first(usage, "completion_tokens", "output_tokens"),
        total_tokens=token_number(usage.get("total_tokens")),
        cache_read_tokens=read,
        cache_creation_tokens=written,
    )


def _first(values: Mapping[str, Any], *names: str) -> int:
    return next((number for name in names if (number := token_number(values.get(name)))), 0)


def cost_usd(value: Any) -> float:
    """A cost in US dollars, 0 for what is none."""
    return float(value) if is_number(value) and 0 < value < COST_USD_MAX else 0.0
