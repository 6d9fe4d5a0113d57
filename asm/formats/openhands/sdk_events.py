"""The events of OpenHands' SDK, version 1."""

from __future__ import annotations

from typing import Any

from asm.documents import Document
from asm.export_files import text
from asm.formats.openhands.conversation import Conversation
from asm.formats.openhands.tokens import Stats
from asm.formats.session_rows import object_of, without

_IDENTITY = ("id", "timestamp", "kind")
_STATES = ("execution_status", "agent_status")
"""The keys of a conversation's state, in newer and older versions."""


def add(conversation: Conversation, id: str, record: Document) -> None:
    """Read an event. What it says beside its own fields is kept, and so is one of another kind."""
    adding = _KINDS.get(record["kind"])
    if adding is None:
        conversation.keep(id, record["kind"], record)
    else:
        adding(conversation, id, record)


def state_of(state: Document) -> Any:
    """How a conversation goes, as its state says it."""
    return next((state[name] for name in _STATES if name in state), None)


def _add_system_prompt(conversation: Conversation, id: str, record: Document) -> None:
    prompt = record.get("system_prompt")
    said = prompt.get("text") if isinstance(prompt, dict) else prompt
    conversation.instruct(id, said, without(record, *_IDENTITY, "system_prompt"))


def _add_message(conversation: Conversation, id: str, record: Document) -> None:
    message = object_of(record, "llm_message")
    rest = _without_empty(record, *_IDENTITY, "llm_message")
    rest |= _without_empty(message, "role", "content", "reasoning_content")
    content = _content(message.get("content"))
    source = record.get("source")
    if source == "agent":
        is_new = conversation.answer(id, record.get("llm_response_id"))
        thinking = message.get("reasoning_content") or _thinking(message)
        conversation.say(id, content, rest, thinking=thinking, is_answer=True)
        conversation.go_into("finished")
        if is_new:
            conversation.count_response(id, record.get("llm_response_id"))
    elif source == "user":
        conversation.prompt(id, content, rest)
    else:
        conversation.instruct(id, content, rest, role="user")


def _add_action(conversation: Conversation, id: str, record: Document) -> None:
    is_new = conversation.answer(id, record.get("llm_response_id"))
    action, call = object_of(record, "action"), object_of(record, "tool_call")
    used = ("thought", "reasoning_content", "action", "tool_name", "tool_call_id", "tool_call")
    rest = _without_empty(record, *_IDENTITY, *used)
    name = record.get("tool_name") or call.get("name")
    thought = _content(record.get("thought"))
    if thinking := record.get("reasoning_content") or _thinking(record) or thought:
        conversation.say(id, thought, {}, thinking=thinking if thinking != thought else None)
    if action.get("kind") == "FinishAction":
        rest |= {"action": "finish", "tool_call_id": record.get("tool_call_id")}
        conversation.say(id, action.get("message"), rest | without(action, "kind", "message"), is_answer=True)
        conversation.go_into("finished")
    else:
        # Without an action the call was not executed: its arguments were invalid, or no such tool is known.
        input = without(action, "kind") if action else _arguments(call) or call.get("arguments")
        conversation.call(id, _call_id(record) or f"action {id}", name, input, rest)
    if is_new:
        conversation.count_response(id, record.get("llm_response_id"))


def _add_observation(conversation: Conversation, id: str, record: Document) -> None:
    observation = object_of(record, "observation")
    if observation.get("kind") == "FinishObservation":
        # Its content repeats what the agent has said.
        conversation.keep(id, "finish_observation", record)
        return
    output = _content(observation.get("content"))
    if output in (None, ""):
        output = _content(observation.get("output")) or ""
    rest = _without_empty(record, *_IDENTITY, "observation", "tool_call_id")
    rest |= _without_empty(observation, "content", "output", "is_error", "exit_code")
    code = _exit_code(observation)
    if observation.get("is_error") is True:
        data = {"error": output or "the tool failed", **code}
    else:
        data = {"output": output, **code}
    conversation.result(id, _call_of(conversation, record), data, rest)


def _exit_code(observation: Document) -> Document:
    metadata = object_of(observation, "metadata")
    found = next(
        (each for each in (observation.get("exit_code"), metadata.get("exit_code")) if type(each) is int),
        None,
    )
    return without({"exit_code": found})


def _add_agent_error(conversation: Conversation, id: str, record: Document) -> None:
    data = {"error": record.get("error") or "the agent failed"}
    rest = _without_empty(record, *_IDENTITY, "error", "tool_call_id")
    conversation.result(id, _call_of(conversation, record), data, rest)


def _add_rejection(conversation: Conversation, id: str, record: Document) -> None:
    error = {"code": "rejected", "message": record.get("rejection_reason")}
    rest = _without_empty(record, *_IDENTITY, "rejection_reason", "tool_call_id")
    conversation.result(id, _call_of(conversation, record), {"error": without(error)}, rest)


def _add_acp_call(conversation: Conversation, id: str, record: Document) -> None:
    """A call of an agent that OpenHands runs by the Agent Client Protocol: the call, its result, or both."""
    call_id = _call_id(record) or f"action {id}"
    used = ("tool_call_id", "title", "raw_input", "raw_output", "content", "is_error", "status")
    rest = _without_empty(record, *_IDENTITY, *used)
    output = record.get("raw_output") if record.get("raw_output") is not None else record.get("content")
    if call_id not in conversation.calls:
        name, input = record.get("title"), record.get("raw_input")
        conversation.call(id, call_id, name, input, rest, action_id=call_id)
        rest = {}
    if record.get("is_error") is True or record.get("status") == "failed":
        conversation.result(id, call_id, {"error": _text(output) or "the tool failed"}, rest)
    elif record.get("status") == "completed":
        conversation.result(id, call_id, {"output": output}, rest)


def _add_error(conversation: Conversation, id: str, record: Document) -> None:
    error = without({"code": record.get("code"), "message": record.get("detail")})
    conversation.fail(id, error, _without_empty(record, *_IDENTITY, "code", "detail"))
    conversation.go_into("error")


def _add_state(conversation: Conversation, id: str, record: Document) -> None:
    conversation.keep(id, record["kind"], record)
    key, value = record.get("key"), record.get("value")
    state = value if key == "full_state" and isinstance(value, dict) else {str(key): value}
    if "stats" in state:
        conversation.count(id, conversation.meter.increase(Stats(state["stats"]).total()))
    conversation.go_into(state_of(state))


def _add_pause(conversation: Conversation, id: str, record: Document) -> None:
    conversation.keep(id, record["kind"], record)
    conversation.go_into("paused")


def _add_condensation(conversation: Conversation, id: str, record: Document) -> None:
    conversation.keep(id, record["kind"], record)
    # The summary is a response of a model, too.
    conversation.count_response(id, record.get("llm_response_id"))


_KINDS = {
    "SystemPromptEvent": _add_system_prompt,
    "MessageEvent": _add_message,
    "ActionEvent": _add_action,
    "ObservationEvent": _add_observation,
    "AgentErrorEvent": _add_agent_error,
    "UserRejectObservation": _add_rejection,
    "ACPToolCallEvent": _add_acp_call,
    "ConversationErrorEvent": _add_error,
    "ConversationStateUpdateEvent": _add_state,
    "PauseEvent": _add_pause,
    "InterruptEvent": _add_pause,
    "Condensation": _add_condensation,
}


def _call_id(record: Document) -> str | None:
    id = record.get("tool_call_id")
    return id if isinstance(id, str) and id else None


def _call_of(conversation: Conversation, record: Document) -> str | None:
    cause = conversation.calls.pop(str(record.get("action_id")), None)
    return _call_id(record) or cause


def _arguments(call: Document) -> Document:
    """The arguments of a call, which are a JSON text."""
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = text.parse_json(arguments.encode("utf-8", "surrogatepass"))
        except ValueError:
            return {}
    return arguments if isinstance(arguments, dict) else {}


def _content(content: Any) -> Any:
    """Content as a text, or as blocks if it has more than texts."""
    if not isinstance(content, list):
        return content
    if all(isinstance(block, dict) and isinstance(block.get("text"), str) for block in content):
        return "\n".join(block["text"] for block in content)
    return [part for block in content for part in _blocks(block)]


def _blocks(block: Any) -> list[Any]:
    if not isinstance(block, dict):
        return [block]
    if block.get("type") == "image" and isinstance(urls := block.get("image_urls"), list):
        return [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [_without_empty(block, "cache_prompt")]


def _thinking(message: Document) -> str | None:
    """The thoughts of an Anthropic model; those that are encrypted stay in the rest."""
    blocks = message.get("thinking_blocks")
    if not isinstance(blocks, list):
        return None
    said = (block.get("thinking") for block in blocks if isinstance(block, dict))
    return "\n".join(each for each in said if isinstance(each, str)) or None


def _text(value: Any) -> Any:
    return value if isinstance(value, str | dict) else value and {"message": value}


def _without_empty(document: Document, *names: str) -> Document:
    """The other fields that say something: version 1 writes every field of an event."""
    return {
        name: value for name, value in without(document, *names).items() if value not in ("", [], {}, False)
    }
