"""The rows of a conversation, whatever the version of OpenHands that recorded it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from asm.documents import Document
from asm.formats.openhands.tokens import Meter, Stats, Usage, is_model
from asm.formats.session_rows import SessionRows, snake_case, time_of, without
from asm.formats.swe_agent import provider_of
from asm.models import EventType

_ANSWERED = ("finished", "awaiting_user_input")
_FAILED = ("error", "stuck", "rejected")
_STOPPED = ("stopped", "paused")
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Conversation:
    """Makes the rows of a session of its records."""

    def __init__(
        self,
        rows: SessionRows,
        *,
        model: Any = None,
        has_one_run: bool = False,
        usages: Mapping[str, Usage] | None = None,
    ) -> None:
        """`model` answers where a record names none. With one run, later prompts do not begin another.

        `usages` has what the responses used, for records that do not say it.
        """
        self.rows = rows
        self.meter = Meter()
        self.calls: dict[str, str] = {}
        """The calls that have no result yet, by the ids of their actions."""
        self.last_call: str | None = None
        self.has_prompt = False
        self.delegations = 0
        """How many agents work for the one with whom the user talks."""
        self._model = model
        self._has_one_run = has_one_run
        self._usages = usages or {}
        self._ids: Counter[str] = Counter()
        self._responses: set[str] = set()
        self._state: str | None = None
        self._error: Document | None = None

    def begin_record(self, record: Document) -> str:
        """Go on to a record. Returns its id."""
        at = record.get("timestamp")
        self.rows.go_to(time_of(at))
        if is_naive(at):
            self.rows.metadata["naive_times"] = True
        return self._record_id(record.get("id"))

    def _record_id(self, id: Any) -> str:
        """The id of a record, or its number. An id that occurs again is told apart.

        So is one that might be an id with a number.
        """
        own = str(id)[:255] if isinstance(id, str | int) and not isinstance(id, bool) else ""
        self._ids[own] += 1
        is_alone = own and "#" not in own and self._ids[own] == 1
        return own if is_alone else f"{own}#{self._ids[own]}"

    # What records say.

    def prompt(self, id: str, content: Any, rest: Document, role: str = "user") -> None:
        """A message of the user, which begins a run."""
        if self.rows.run is None or not (self._has_one_run and self.has_prompt):
            self.rows.begin_run(id, content)
            self._state, self._error = None, None
        self.has_prompt = True
        self._add(EventType.MESSAGE_SENT, id, {"role": role, "content": content}, rest=rest)

    def instruct(self, id: str, content: Any, rest: Document, role: str = "system") -> None:
        """A message to the agent that is not the user's."""
        self._add(EventType.MESSAGE_SENT, id, {"role": role, "content": content}, rest=rest)

    def say(
        self, id: str, content: Any, rest: Document, *, thinking: Any = None, is_answer: bool = False
    ) -> None:
        """A message of the agent. `is_answer` tells it from a thought before a call."""
        data = {
            "role": "assistant",
            **({"content": content} if content or not thinking else {}),
            **without({"thinking": thinking or None}),
        }
        part = "" if is_answer else "thought"
        self._add(EventType.MESSAGE_RECEIVED, id, data, part=part, rest=rest)
        if content and (run := self.rows.run) is not None:
            run.output = content
            self.rows.note(run)

    def call(
        self, id: str, call_id: str, name: Any, input: Any, rest: Document, *, action_id: str | None = None
    ) -> None:
        self.calls[action_id or id] = self.last_call = call_id
        data = without({"name": name, "input": input})
        self._add(EventType.TOOL_CALL_STARTED, id, data, part="call", correlation_id=call_id, rest=rest)

    def result(self, id: str, call_id: str | None, data: Document, rest: Document) -> None:
        """What a call returned, or the `error` with which it failed."""
        type = EventType.TOOL_CALL_FAILED if "error" in data else EventType.TOOL_CALL_COMPLETED
        self._add(type, id, data, part="result", correlation_id=call_id, rest=rest)

    def fail(self, id: str, error: Document, rest: Document) -> None:
        """An error that is no result of a call."""
        self._error = error
        self._add(EventType.ERROR_OCCURRED, id, error, rest=rest)

    def keep(self, id: str, kind: str, record: Document) -> None:
        """A record that has no type of ours."""
        word = snake_case(" ".join(_WORD.split(kind[:60]))).removesuffix("_event")
        self._add(f"openhands.{word}", id, without(record, "id", "timestamp", "kind"))

    def _add(self, type: str, id: str, data: Document, **fields: Any) -> None:
        self.rows.add(type, id, data, metadata={"event_id": id}, **fields)

    # The model.

    def answer(self, id: str, response_id: Any, model: Any = None) -> bool:
        """Count a response of the model once. Several records may be of one, and False is returned then."""
        if isinstance(response_id, str) and response_id:
            if response_id in self._responses:
                return False
            self._responses.add(response_id)
        run = self.rows.run or self.rows.begin_run(id, None)
        run.error, run.is_cancelled, self._state = None, False, None
        usage = self.usage_of(response_id)
        model = next((each for each in (model, usage and usage.model, self._model) if is_model(each)), None)
        run.provider = _provider(model) or run.provider
        self.rows.add_turn(run, model)
        return True

    def count_response(self, id: str, response_id: Any) -> None:
        """Count what a response used, if the statistics of the conversation say it."""
        if usage := self.usage_of(response_id):
            self.count(id, self.meter.add(usage))

    def usage_of(self, response_id: Any) -> Usage | None:
        return self._usages.get(response_id) if isinstance(response_id, str) else None

    def count(self, id: str, usage: Usage, model: Any = None) -> None:
        """Count tokens and a cost in the run."""
        if not usage:
            return
        run = self.rows.run or self.rows.begin_run(id, None)
        self.rows.add_usage(run, usage.counts, usage.cost_usd)
        if usage.counts:
            name = next((each for each in (model, usage.model, self._model) if is_model(each)), None)
            data = {**usage.counts, **without({"model": name, "cost_usd": usage.cost_usd or None})}
            self._add(EventType.TOKEN_USAGE_UPDATED, id, data, part="usage")

    def count_total(self, stats: Stats) -> None:
        """Count in the run what no record says. It becomes no event, because it changes until the end."""
        more = self.meter.increase(stats.total())
        if more and self.rows.run is not None:
            self.rows.add_usage(self.rows.run, more.counts, more.cost_usd)

    # How it ended.

    def go_into(self, state: Any, reason: Any = None) -> None:
        """Note a state of the agent, which says how the run has ended."""
        run = self.rows.run
        if run is None or not isinstance(state, str):
            return
        if state in _ANSWERED:
            run.is_answered, run.is_cancelled, run.error = True, False, None
        elif state in _FAILED:
            message = reason if isinstance(reason, str) and reason else f"the agent's state is {state}"
            run.error = self._error or {"code": state, "message": message}
        elif state in _STOPPED:
            # An agent is stopped after it has finished, too.
            if self._state in (*_ANSWERED, *_FAILED):
                return
            run.is_cancelled = True
        elif state == "running":
            run.is_cancelled, run.error = False, None
        self._state = state
        self.rows.note(run)


def _provider(model: str | None) -> str | None:
    """The provider of a model, which may be behind a proxy, as in "litellm_proxy/claude-sonnet-4-5"."""
    return provider_of(model and model.rpartition("/")[2]) or provider_of(model)


def is_naive(at: Any) -> bool:
    """Whether this is a time without a zone."""
    if not isinstance(at, str):
        return False
    try:
        return datetime.fromisoformat(at).tzinfo is None
    except ValueError:
        return False
