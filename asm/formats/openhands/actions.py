"""Actions and observations: the records of OpenHands before its SDK.

The first ones have no ids, no times, and no `args` and `extras`: all their fields are beside each other.
"""

from __future__ import annotations

from typing import Any

from asm.documents import Document
from asm.formats.openhands.conversation import Conversation
from asm.formats.openhands.tokens import Usage, metrics_of, usage_of
from asm.formats.session_rows import object_of, without

_KEPT_ACTIONS = (
    *("null", "recall", "change_agent_state", "condensation", "condensation_request", "summarize"),
    *("pause", "resume", "stop", "start", "loop_recovery"),
)
"""Actions that are no calls of the model."""

_KEPT_OBSERVATIONS = (
    *("null", "agent_state_changed", "recall", "microagent", "workspace_context", "condense"),
    "loop_detection",
)
"""Observations that are no results of calls."""

_IDENTITY = ("id", "timestamp")


def add_action(conversation: Conversation, id: str, record: Document) -> None:
    kind = record["action"]
    is_user = _is_users(conversation, record)
    args = record["args"] if isinstance(record.get("args"), dict) else without(record, *_IDENTITY, "action")
    rest = _rest(record)
    if kind in _KEPT_ACTIONS:
        conversation.keep(id, kind, record)
    elif kind == "system":
        conversation.instruct(id, args.get("content"), rest | without(args, "content"))
    elif kind == "message" and is_user and conversation.delegations:
        # The task of an agent to which another one has delegated it.
        conversation.instruct(id, _content(args), rest | without(args, "content"), role="user")
    elif kind == "message" and is_user:
        conversation.prompt(id, _content(args), rest | without(args, "content", "image_urls", "images_urls"))
    else:
        _add_answer(conversation, id, kind, args, record, is_user)


def _is_users(conversation: Conversation, record: Document) -> bool:
    """Whether an action is the user's. The first versions did not write whose it is."""
    source = record.get("source")
    if isinstance(source, str):
        return source != "agent"
    waits = record.get("wait_for_response") is True
    return record["action"] == "message" and (not conversation.has_prompt or not waits)


def _add_answer(
    conversation: Conversation, id: str, kind: str, args: Document, record: Document, is_user: bool
) -> None:
    about = object_of(record, "tool_call_metadata")
    response = object_of(about, "model_response")
    is_new = not is_user and conversation.answer(id, response.get("id"), response.get("model"))
    rest = _rest(record, with_response=is_new)
    thought = args.get("thought") or None
    reasoning = _reasoning(response) if is_new else None
    if kind == "message":
        conversation.say(
            id,
            _content(args),
            rest | without(args, "content", "image_urls", "images_urls"),
            thinking=reasoning,
            is_answer=True,
        )
    elif kind in ("finish", "reject"):
        said = args.get("final_thought") or thought or object_of(args, "outputs").get("content")
        thinking = reasoning or (thought if thought != said else None)
        rest |= without(args, "final_thought", "thought") | {"action": kind}
        conversation.say(id, said or record.get("message"), rest, thinking=thinking, is_answer=True)
        conversation.go_into("finished" if kind == "finish" else "rejected", said)
    else:
        if thought or reasoning:
            conversation.say(id, thought, {}, thinking=reasoning)
        conversation.delegations += kind == "delegate"
        call_id = _call_id(about) or f"action {id}"
        name = about.get("function_name") or kind
        conversation.call(id, call_id, name, without(args, "thought"), rest)
    _count(conversation, id, record, response, is_new=is_new)


def add_observation(conversation: Conversation, id: str, record: Document) -> None:
    kind = record["observation"]
    extras = object_of(record, "extras")
    if kind in _KEPT_OBSERVATIONS:
        conversation.keep(id, kind, record)
        if kind == "agent_state_changed":
            conversation.go_into(extras.get("agent_state"), extras.get("reason"))
        return
    if kind == "delegate":
        conversation.delegations = max(conversation.delegations - 1, 0)
    call_id = _call_of(conversation, record)
    content = record.get("content")
    rest = _rest(record) | without({"extras": extras or None, "observation": kind})
    if kind == "error":
        error = {"code": extras.get("error_id") or None, "message": content or record.get("message")}
        if call_id is None:
            conversation.fail(id, without(error), rest)
        else:
            conversation.result(id, call_id, {"error": without(error)}, rest)
    elif kind == "user_rejected":
        conversation.result(id, call_id, {"error": {"code": "rejected", "message": content}}, rest)
    else:
        output = content if content not in (None, "") else extras.get("outputs", content)
        code = next((each for each in _exit_codes(record, extras) if type(each) is int), None)
        conversation.result(id, call_id, {"output": output, **without({"exit_code": code})}, rest)


def _call_of(conversation: Conversation, record: Document) -> str | None:
    """The call of which an observation is the result."""
    about = object_of(record, "tool_call_metadata")
    cause = conversation.calls.pop(str(record.get("cause")), None)
    if "id" not in record and cause is None:
        cause, conversation.last_call = conversation.last_call, None
    return _call_id(about) or cause


def _call_id(about: Document) -> str | None:
    id = about.get("tool_call_id")
    return id if isinstance(id, str) and id else None


def _exit_codes(record: Document, extras: Document) -> tuple[Any, ...]:
    metadata = object_of(extras, "metadata")
    return extras.get("exit_code"), metadata.get("exit_code"), record.get("exit_code")


def _rest(record: Document, *, with_response: bool = False) -> Document:
    """The fields that no event has. The response of the model is kept once, not with each of its actions."""
    rest = without(record, *_IDENTITY, "action", "args", "observation", "content", "extras", "exit_code")
    if "args" not in record and "extras" not in record and "id" not in record and "action" in record:
        rest = {}
    about = rest.get("tool_call_metadata")
    if isinstance(about, dict) and not with_response:
        rest["tool_call_metadata"] = without(about, "model_response")
    return rest


def _content(args: Document) -> Any:
    """The content of a message: a text, or blocks if there are images."""
    said, images = args.get("content"), args.get("image_urls") or args.get("images_urls")
    if not isinstance(images, list) or not images:
        return said
    blocks = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [{"type": "text", "text": said}, *blocks] if said else blocks


def _reasoning(response: Document) -> Any:
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    return object_of(first, "message").get("reasoning_content") or None


def _count(
    conversation: Conversation, id: str, record: Document, response: Document, *, is_new: bool
) -> None:
    """Count what a response used: by the sum so far where there is one, else as the response says it."""
    total = metrics_of(record.get("llm_metrics"))
    model = response.get("model")
    if total.counts:
        conversation.count(id, conversation.meter.increase(total), model)
        return
    used = conversation.meter.add(Usage(usage_of(response.get("usage") if is_new else None), 0.0))
    more = conversation.meter.increase(total)
    conversation.count(id, Usage(used.counts, more.cost_usd), model)
