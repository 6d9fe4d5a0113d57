"""A session as a trajectory in Harbor's format ATIF: one JSON document.

A turn of the model is a step of the agent, with what it said and thought, the tools that it called and their
results. What others said is a step of its own. Sub-agents, which are sessions whose parent this one is, are
inside the document. What ATIF has no place for is left out, and `notes` says how much that is.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from asm import documents
from asm.content import (
    FAILURES,
    IMAGE_TYPES,
    Media,
    Other,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    begun_by,
    error_text,
)
from asm.conversation import Entry, as_text, entries_of
from asm.documents import Document
from asm.enums import EventType
from asm.errors import ValidationError
from asm.formats.atif.steps import SUBAGENTS
from asm.formats.atif.trajectory import FORMAT
from asm.formats.session_trees import Tree
from asm.models import Event, Run
from asm.provider_usage import TOKEN_COUNTS, token_usage
from asm.usage import COST_USD_MAX
from asm.validation import is_number

SCHEMA_VERSION = "ATIF-v1.7"

_NOT_COUNTED = (EventType.RUN_STARTED, EventType.RUN_COMPLETED, EventType.TURN_COMPLETED)
"""Events that say what the document has without them."""

_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE

_COST_LEAST = 1e-9
"""A smaller difference of two sums of costs is one of their rounding."""

_COUNTS = tuple(name for name in TOKEN_COUNTS if name != "total_tokens")


def sniff(head: bytes) -> bool:
    """Whether a file begins as `dump` writes it."""
    return head.startswith(b'{\n  "schema_version": "ATIF-v')


def dump(tree: Tree) -> bytes:
    """The document of a session, in UTF-8."""
    document = _trajectory(tree)
    try:
        return orjson.dumps(document, option=_OPTIONS)
    except TypeError:
        # Integers of more than 64 bits, and halves of surrogate pairs, which an event may have.
        return orjson.dumps(_encoded(document), option=_OPTIONS)


def _encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_encoded(each) for each in value]
    if isinstance(value, dict):
        return {
            name: orjson.Fragment(documents.dump(each, name)) if name == "arguments" else _encoded(each)
            for name, each in value.items()
        }
    return orjson.Fragment(documents.dump(value, "value"))


def _trajectory(tree: Tree) -> Document:
    export = tree.export
    session = export.session
    models = {run.id: model for run in export.runs if (model := _model(run)) is not None}
    steps = _Steps(models, tree)
    for entry in entries_of(export.events):
        steps.add(entry)
    steps.add_rest_of(export.runs)
    version = session.metadata.get("version")
    metrics = _final_metrics(export.runs, steps.steps)
    agent = {
        "name": session.agent_id,
        "version": version if isinstance(version, str) and version else "unknown",
        "model_name": next(reversed(models.values()), None),
    }
    return _present(
        {
            "schema_version": SCHEMA_VERSION,
            "session_id": session.id,
            "trajectory_id": session.id,
            "agent": _present(agent),
            "steps": [step.document(number) for number, step in enumerate(steps.steps, 1)]
            or [{"step_id": 1, "source": "system", "message": "The session has no messages."}],
            "notes": steps.notes(),
            "final_metrics": {**metrics, "total_steps": max(len(steps.steps), 1)},
            "subagent_trajectories": [_trajectory(child) for child in tree.children] or None,
        }
    )


def _by_call(children: Iterable[Tree]) -> dict[str, list[str]]:
    """The ids of sub-agents by the calls that began them."""
    found: dict[str, list[str]] = {}
    for child in children:
        session = child.export.session
        if (call_id := begun_by(session.metadata)) is not None:
            found.setdefault(call_id, []).append(session.id)
    return found


@dataclass(slots=True)
class _Step:
    """A step before it has its number."""

    source: str
    event: Event
    texts: list[str | Document] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Document] = field(default_factory=list)
    results: list[Document] = field(default_factory=list)
    counts: Document = field(default_factory=dict)
    cost_usd: float | None = None
    model: str | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)
    """What the step of an imported trajectory has beside its events."""

    @property
    def number(self) -> Any:
        """The number of the step in an imported trajectory, None if it is no such step."""
        return self.event.metadata.get("step")

    def document(self, number: int) -> Document:
        is_agent = self.source == "agent"
        message: Any = "\n".join(text for text in self.texts if isinstance(text, str))
        if any(isinstance(text, dict) for text in self.texts):
            message = [
                {"type": "text", "text": text} if isinstance(text, str) else text for text in self.texts
            ]
        return _present(
            {
                "step_id": number,
                "timestamp": self.event.timestamp.isoformat().replace("+00:00", "Z"),
                "source": self.source,
                "model_name": self.model if is_agent else None,
                "message": message,
                "reasoning_content": "\n".join(self.thoughts) or None,
                "tool_calls": self.calls or None,
                "observation": {"results": self.results} if self.results else None,
                "metrics": self._metrics(),
                "is_copied_context": True if self.event.metadata.get("copied") else None,
                **self._rest(is_agent),
            }
        )

    def _rest(self, is_agent: bool) -> Document:
        effort, calls, extra = (
            self.rest.get(name) for name in ("reasoning_effort", "llm_call_count", "extra")
        )
        has_effort = is_agent and isinstance(effort, str | int | float) and not isinstance(effort, bool)
        # A step without a call of a model has no metrics and no thoughts.
        least = 1 if self.thoughts or self._metrics() is not None else 0
        return {
            "reasoning_effort": effort if has_effort else None,
            "llm_call_count": calls if type(calls) is int and calls >= least else None,
            "extra": extra if isinstance(extra, dict) else None,
        }

    def _metrics(self) -> Document | None:
        if not self.counts and self.cost_usd is None:
            return None
        return _present({**_metrics(self.counts), "cost_usd": self.cost_usd})


def _metrics(counts: Mapping[str, int]) -> Document:
    """Counts as ATIF has them, whose prompt tokens include the cached ones."""
    cached, created = counts.get("cache_read_tokens"), counts.get("cache_creation_tokens")
    prompt = [counts[name] for name in _COUNTS if name != "output_tokens" and name in counts]
    return _present(
        {
            "prompt_tokens": sum(prompt) if prompt else None,
            "completion_tokens": counts.get("output_tokens"),
            "cached_tokens": cached,
            "extra": None if created is None else {"cache_creation_input_tokens": created},
        }
    )


class _Steps:
    """Makes the steps of the events of a session."""

    def __init__(self, models: Mapping[str, str], tree: Tree) -> None:
        self.steps: list[_Step] = []
        self._models = models
        self._children = _by_call(tree.children)
        """The sub-agents whose call has no result yet: a result of a later call with its id is another's."""
        self._child_ids = {child.export.session.id for child in tree.children}
        self._is_imported = tree.export.session.metadata.get("format") == FORMAT
        self._turns: dict[str | None, _Step] = {}
        """The last step of the agent in each run, if it may still get calls."""
        self._last: dict[str | None, _Step] = {}
        """The last step of the agent in each run."""
        self._calls: dict[str, tuple[_Step, Document]] = {}
        self._answered: set[str] = set()
        self._left_out = 0

    def add(self, entry: Entry) -> None:
        event = entry.event
        if event.type == EventType.TOKEN_USAGE_UPDATED:
            self._count(event)
        elif event.type == SUBAGENTS:
            self._refer(event)
        elif event.type in FAILURES:
            self._begin("system", event).texts.append(error_text(event.data))
        elif entry.is_message or any(isinstance(part, ToolCall | ToolResult) for part in entry.content.parts):
            self._add_content(entry)
        elif event.type not in _NOT_COUNTED:
            self._left_out += 1

    def notes(self) -> str | None:
        if not self._left_out:
            return None
        return f"Events that have no place in ATIF and are left out: {self._left_out}"

    def _add_content(self, entry: Entry) -> None:
        parts = entry.content.parts
        source = _source(entry) if entry.is_message else "agent"
        says = entry.is_message and (
            not parts or any(not isinstance(part, ToolCall | ToolResult) for part in parts)
        )
        step = self._begin(source, entry.event) if says and entry.role != "tool" else None
        for number, part in enumerate(parts):
            if isinstance(part, ToolCall):
                self._call(entry, part, number, step if source == "agent" else None)
            elif isinstance(part, ToolResult):
                self._result(entry, part)
            elif step is None:
                # What a tool said, as a message of its own.
                self._observe(entry.event, {"content": _text(part)})
            elif isinstance(part, Thinking) and source == "agent":
                step.thoughts.append(part.text)
            else:
                step.texts.append(_image(part) or _text(part))

    def _begin(self, source: str, event: Event) -> _Step:
        step = _Step(source, event, model=self._models.get(event.run_id or ""))
        if self._is_imported and isinstance(rest := event.metadata.get("rest"), dict):
            step.rest = rest
            step.model = name if isinstance(name := rest.get("model_name"), str) else step.model
        self.steps.append(step)
        if source == "agent":
            self._turns[event.run_id] = self._last[event.run_id] = step
        else:
            self._turns.pop(event.run_id, None)
        return step

    def _turn(self, event: Event) -> _Step:
        """The step of the agent to which a call belongs: the last, unless it has results already."""
        step = self._turns.get(event.run_id)
        is_open = step is not None and not step.results and step.number == event.metadata.get("step")
        return step if step is not None and is_open else self._begin("agent", event)

    def _call(self, entry: Entry, call: ToolCall, number: int, step: _Step | None) -> None:
        event = entry.event
        id = call.id or event.correlation_id or f"{event.id}-{number}"
        given = call.input if isinstance(call.input, dict) else {"input": call.input}
        arguments = {} if call.input is None else given
        found = {"tool_call_id": id, "function_name": call.name or "unknown", "arguments": arguments}
        if id in self._calls and id not in self._answered and self._calls[id][1] == found:
            # The message and an event of its own both have it.
            return
        self._answered.discard(id)
        step = step or self._turn(event)
        step.calls.append(found)
        self._calls[id] = step, found

    def _result(self, entry: Entry, result: ToolResult) -> None:
        event = entry.event
        id = result.id or event.correlation_id
        words = result.error if result.failed and result.error else result.output
        found = _present({"content": words if isinstance(words, str) else as_text(words)})
        if id is None or id not in self._calls:
            self._observe(event, found)
            return
        refs = [{"trajectory_id": child, "session_id": child} for child in self._children.pop(id, ())]
        if refs:
            found["subagent_trajectory_ref"] = refs
        self._answered.add(id)
        self._calls[id][0].results.append({"source_call_id": id, **found})

    def _observe(self, event: Event, result: Document) -> None:
        """Add what was returned, by a call that is not known, to the step before it."""
        step = self._turns.get(event.run_id)
        last = self.steps[-1] if self.steps else None
        if last is not None and last.number is not None and last.number == event.metadata.get("step"):
            step = last
        step = step or self._begin("system", event)
        step.results.append(result)

    def _refer(self, event: Event) -> None:
        """Refer to the sub-agents that were begun without a call."""
        ids = event.data.get("session_ids")
        known = [id for id in ids if isinstance(id, str)] if isinstance(ids, list) else []
        refs = [{"trajectory_id": id, "session_id": id} for id in known if id in self._child_ids]
        if refs:
            self._observe(event, {"subagent_trajectory_ref": refs})

    def _count(self, event: Event) -> None:
        step = self._last.get(event.run_id)
        if step is None:
            return
        counts = _counts(event.data)
        for name, number in counts.items():
            step.counts[name] = step.counts.get(name, 0) + number
        cost: Any = event.data.get("cost_usd")
        # A sum of more has no end, and is no cost.
        if is_number(cost) and 0 <= cost <= COST_USD_MAX:
            step.cost_usd = (step.cost_usd or 0.0) + float(cost)
        if isinstance(model := event.data.get("model"), str) and step.model is None:
            step.model = model

    def add_rest_of(self, runs: Iterable[Run]) -> None:
        """Give the last step of the agent in each run the tokens and the cost that no event of it has."""
        told: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
        costs: defaultdict[str | None, float] = defaultdict(float)
        for step in self.steps:
            told[step.event.run_id].update(step.counts)
            costs[step.event.run_id] += step.cost_usd or 0.0
        for run in runs:
            last = self._last.get(run.id)
            if last is None:
                continue
            for name, number in (Counter(_counts(run.token_usage)) - told[run.id]).items():
                last.counts[name] = last.counts.get(name, 0) + number
            if (cost := (run.cost_usd or 0.0) - costs[run.id]) > _COST_LEAST:
                last.cost_usd = (last.cost_usd or 0.0) + cost


def _source(entry: Entry) -> str:
    role = entry.role
    if role in ("user", "human"):
        return "user"
    return "system" if role in ("system", "developer", "tool") else "agent"


def _text(part: Any) -> str:
    if isinstance(part, Text | Thinking):
        return part.text
    if isinstance(part, Media):
        return f"[{part.kind}: {part.description}]"
    return as_text(part.value) if isinstance(part, Other) else as_text(part)


def _image(part: Any) -> Document | None:
    if not (isinstance(part, Media) and part.media_type in IMAGE_TYPES and part.encoded):
        return None
    source = {"media_type": part.media_type, "path": f"data:{part.media_type};base64,{part.encoded}"}
    return {"type": "image", "source": source}


def _counts(usage: Mapping[str, Any]) -> dict[str, int]:
    try:
        return token_usage({name: each for name, each in usage.items() if name in _COUNTS})
    except ValidationError:
        return {}


def _model(run: Run) -> str | None:
    model = run.provider_metadata.get("model")
    return model if isinstance(model, str) else None


def _final_metrics(runs: Iterable[Run], steps: Iterable[_Step]) -> Document:
    """The sums of the runs, or of the steps where no run has counts."""
    runs, steps = list(runs), list(steps)
    found = [counts for run in runs if (counts := _counts(run.token_usage))] or [
        step.counts for step in steps
    ]
    sums = {
        name: sum(each[name] for each in found if name in each)
        for name in _COUNTS
        if any(name in each for each in found)
    }
    costs = [run.cost_usd for run in runs if run.cost_usd is not None]
    costs = costs or [step.cost_usd for step in steps if step.cost_usd is not None]
    metrics = _metrics(sums)
    return _present(
        {
            "total_prompt_tokens": metrics.get("prompt_tokens"),
            "total_completion_tokens": metrics.get("completion_tokens"),
            "total_cached_tokens": metrics.get("cached_tokens"),
            "total_cost_usd": math.fsum(costs) if costs else None,
            "extra": metrics.get("extra"),
        }
    )


def _present(values: Document) -> Document:
    return {name: value for name, value in values.items() if value is not None}
