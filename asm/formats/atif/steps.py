"""What a step of a trajectory says, as events before they have an id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from asm.documents import Document
from asm.formats.session_rows import counts_of, object_of, time_of, token_number, without
from asm.models import EventType
from asm.usage import COST_USD_MAX

SUBAGENTS = "atif.subagents"
"""The type of an event that names the sub-agents which no call of the step began."""

_COUNTED = ("prompt_tokens", "completion_tokens", "cached_tokens")
_CREATED = "cache_creation_input_tokens"


@dataclass(slots=True)
class Draft:
    """An event before it has an id, a time and a session."""

    type: str
    data: Document
    rest: Document = field(default_factory=dict)
    call_id: Any = None
    refs: list[Document] = field(default_factory=list)
    """The references to sub-agents that a result has."""


def is_copied(step: Mapping[str, Any]) -> bool:
    """Whether a step repeats one of another trajectory."""
    return step.get("is_copied_context") is True


def is_answer(step: Mapping[str, Any]) -> bool:
    """Whether a step is the agent's own."""
    return step.get("source") == "agent" and not is_copied(step)


def drafts(number: int, step: Document) -> list[Draft]:
    """What was said, the calls, and their results, in this order. Each event is there for a record of it."""
    found = [*_calls(step), *results(step)]
    is_silent = step.get("source") == "agent" and not (step.get("message") or step.get("reasoning_content"))
    if not (is_silent and found):
        found.insert(0, _message(step))
    found[0].rest |= _rest(number, step)
    return found


def _message(step: Document) -> Draft:
    content, thinking = content_of(step.get("message")), step.get("reasoning_content")
    data: Document = {"role": _role(step), "content": "" if content is None else content}
    rest = {} if thinking is None else {"reasoning_content": thinking}
    if step.get("source") != "agent":
        return Draft(EventType.MESSAGE_SENT, data, rest)
    if isinstance(thinking, str):
        data, rest = {**data, **({"thinking": thinking} if thinking else {})}, {}
    return Draft(EventType.MESSAGE_RECEIVED, data, rest)


def _role(step: Document) -> str:
    source = step.get("source")
    return {"agent": "assistant", "user": "user"}.get(source if isinstance(source, str) else "", "system")


def _rest(number: int, step: Document) -> Document:
    """The fields of a step that no event has."""
    about = {
        "step_id": step.get("step_id") == number,
        "source": step.get("source") in ("agent", "user", "system"),
        "timestamp": time_of(step.get("timestamp")) is not None,
        "tool_calls": isinstance(step.get("tool_calls"), list),
        "observation": isinstance(step.get("observation"), dict),
        "metrics": usage_of(step) is not None,
        "is_copied_context": is_copied(step),
    }
    rest = without(
        step, "message", "reasoning_content", *(name for name, is_read in about.items() if is_read)
    )
    if observed := without(object_of(step, "observation"), "results"):
        rest["observation"] = observed
    return rest


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _calls(step: Document) -> Iterator[Draft]:
    for call in _list(step.get("tool_calls")):
        if not isinstance(call, dict):
            yield Draft(EventType.TOOL_CALL_STARTED, {"input": call})
            continue
        data = without({"name": call.get("function_name"), "input": call.get("arguments")})
        rest = without(call, "tool_call_id", "function_name", "arguments")
        yield Draft(EventType.TOOL_CALL_STARTED, data, rest, call.get("tool_call_id"))


def results(step: Document) -> Iterator[Draft]:
    """The results of calls, and what else was observed."""
    found = object_of(step, "observation").get("results")
    for result in found if isinstance(found, list) else [] if found is None else [found]:
        if not isinstance(result, dict):
            yield Draft(EventType.MESSAGE_SENT, {"role": "tool", "content": result})
            continue
        yield from _result(result)


def _result(result: Document) -> Iterator[Draft]:
    call_id, content = result.get("source_call_id"), content_of(result.get("content"))
    refs = [ref for ref in _list(result.get("subagent_trajectory_ref")) if isinstance(ref, dict)]
    rest = without(result, "source_call_id", "content")
    if call_id is not None:
        yield Draft(EventType.TOOL_CALL_COMPLETED, without({"output": content}), rest, call_id, refs)
        return
    if content is not None or not refs:
        said = {"role": "tool", "content": "" if content is None else content}
        yield Draft(EventType.MESSAGE_SENT, said, without(rest, "subagent_trajectory_ref") if refs else rest)
        rest = {}
    if refs:
        yield Draft(SUBAGENTS, {"refs": refs}, without(rest, "subagent_trajectory_ref"), refs=refs)


# Content.


def content_of(content: Any) -> Any:
    """A text, or the parts of a message as content blocks."""
    return [_block(part) for part in content] if isinstance(content, list) else content


def _block(part: Any) -> Any:
    """A part, with the bytes of an image that it has in its address, or the name of the file."""
    source = part.get("source") if isinstance(part, dict) else None
    path = source.get("path") if isinstance(source, dict) else None
    if not isinstance(part, dict) or not isinstance(source, dict) or not isinstance(path, str):
        return part
    head, comma, encoded = path.partition(",")
    if part.get("type") == "image" and comma and head.startswith("data:") and head.endswith(";base64"):
        about = without(source, "path")
        return {**part, "source": {"type": "base64", **about, "data": encoded}}
    return part if path.startswith("data:") else {**part, "filename": path}


# Tokens and cost.


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens and the cost of a step, or of a whole trajectory."""

    counts: Counter[str]
    cost_usd: float | None
    rest: Document = field(default_factory=dict)

    def __sub__(self, other: Usage) -> Usage:
        """What a trajectory adds to the one that it continues, whose numbers its own include."""
        cost = None if self.cost_usd is None else max(self.cost_usd - (other.cost_usd or 0), 0.0)
        return Usage(self.counts - other.counts, cost)


def usage_of(step: Mapping[str, Any]) -> Usage | None:
    """The usage of a step, None if it has none of its own."""
    metrics = object_of(step, "metrics")
    if is_copied(step) or not without(metrics):
        return None
    cost_usd = _cost(metrics.get("cost_usd"))
    counted = [name for name in _COUNTED if _is_count(metrics.get(name))]
    rest = without(metrics, *counted, *([] if cost_usd is None else ["cost_usd"]))
    return Usage(_counts(metrics, ""), cost_usd, rest)


def total_of(document: Mapping[str, Any]) -> Usage:
    """What a trajectory says of its whole usage."""
    metrics = object_of(document, "final_metrics")
    return Usage(_counts(metrics, "total_"), _cost(metrics.get("total_cost_usd")))


def _counts(metrics: Document, prefix: str) -> Counter[str]:
    """The counts as the store has them: the tokens of a prompt are without those of the cache."""
    prompt, output, cached = (
        token_number(metrics.get(f"{prefix}{name}"))
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
    )
    # Harbor's converters count what Anthropic has written into its cache among the prompt's tokens.
    created = token_number(object_of(metrics, "extra").get(_CREATED))
    return counts_of(
        input_tokens=max(prompt - cached - created, 0),
        output_tokens=output,
        cache_read_tokens=cached,
        cache_creation_tokens=created,
    )


def _is_count(value: Any) -> bool:
    return value == 0 or token_number(value) > 0


def _cost(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= COST_USD_MAX else None
