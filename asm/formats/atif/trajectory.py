"""The rows of a session that a trajectory describes, with those that continue it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from asm.documents import Document
from asm.errors import ValidationError
from asm.formats.atif import steps
from asm.formats.atif.steps import Draft, Usage
from asm.formats.base import Transcript
from asm.formats.secret_fields import without_secrets
from asm.formats.session_rows import (
    OpenRun,
    SessionRows,
    digest_of,
    hashed_id,
    object_of,
    time_of,
    without,
)
from asm.formats.swe_agent import provider_of
from asm.formats.times import is_settled
from asm.models import EventType, SessionStatus
from asm.validation import is_text

FORMAT = "ATIF"
AGENT = "atif"
SUBAGENT = "subagent"
"""The tag of the sessions of sub-agents."""

REWARDS = "atif.rewards"
"""The type of an event that has what a verifier gave the trial."""

STEPS_MAX = 100_000
"""Steps of a trajectory, whose events are held in memory."""

TITLE_LENGTH_MAX = 200

_CONTINUATION = re.compile(r"-cont-\d{1,9}\Z")

SessionOf = Callable[[Mapping[str, Any]], str | None]
"""The session of the sub-agent to which a reference leads."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A trajectory, or a part of one that is continued in another file."""

    file: str
    document: Document

    @property
    def agent(self) -> Document:
        return object_of(self.document, "agent")

    @property
    def steps(self) -> list[Document]:
        found: list[Document] = self.document["steps"]
        return found

    @property
    def key(self) -> str:
        """What tells it from others of its session: all up to the first answer, which stays as it grows."""
        first = next((number for number, step in enumerate(self.steps) if steps.is_answer(step)), None)
        begun_by = self.steps if first is None else self.steps[: first + 1]
        said = [[step.get("source"), step.get("message"), step.get("tool_calls")] for step in begun_by]
        return digest_of([self.document.get("trajectory_id"), said]).hex()[:32]

    def refs(self) -> Iterator[tuple[Any, Document]]:
        """The references to sub-agents, with the calls that began them."""
        for step in self.steps:
            for draft in steps.results(step):
                yield from ((draft.call_id, ref) for ref in draft.refs)


def check(document: Any) -> Document:
    """Raises ValidationError if this is no trajectory."""
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not (isinstance(document, dict) and isinstance(version, str) and version.startswith("ATIF-v1.")):
        raise ValidationError("expected an object whose `schema_version` begins with ATIF-v1")
    found = document.get("steps")
    if not isinstance(found, list):
        raise ValidationError(f"steps must be a list, not {type(found).__name__}", path="steps")
    if len(found) > STEPS_MAX:
        raise ValidationError(
            f"the trajectory has {len(found):,} steps, more than the maximum of {STEPS_MAX:,}"
        )
    for number, step in enumerate(found):
        if not isinstance(step, dict):
            place = f"steps[{number}]"
            raise ValidationError(f"{place} must be an object, not {type(step).__name__}", path=place)
    return document


def is_valid(document: Any) -> bool:
    try:
        return bool(check(document))
    except ValidationError:
        return False


def own_id(document: Mapping[str, Any]) -> str | None:
    """The session that a trajectory names. Parts of one session differ in the end of its name only."""
    return session_of(document.get("session_id")) or _text(document.get("trajectory_id"))


def session_of(id: Any) -> str | None:
    """The session of this id, or of this part of one."""
    return _text(_CONTINUATION.sub("", id)) if isinstance(id, str) else None


def session_id(segment: Segment) -> str:
    """The id of a session that no other one began."""
    return own_id(segment.document) or hashed_id("ses_", FORMAT, segment.key)


def _text(value: Any) -> str | None:
    return value if is_text(value) else None


class SessionBuilder:
    """Makes the rows of a session."""

    def __init__(
        self,
        id: str,
        segments: Sequence[Segment],
        *,
        at: datetime,
        session_of: SessionOf,
        parent_id: str | None = None,
        about: Document | None = None,
    ) -> None:
        self._session_of = session_of
        self._last_run: OpenRun | None = None
        self._total: Usage | None = None
        segment = segments[0]
        extra = object_of(segment.agent, "extra")
        times = [time for each in segments for step in each.steps if (time := time_of(step.get("timestamp")))]
        named = _text(extra.get("parent_session_id"))
        parent_id = parent_id or (None if named == id else named)
        version = without({"version": segment.agent.get("version")})
        self.rows = SessionRows(
            FORMAT,
            id,
            agent_id=_text(segment.agent.get("name")) or AGENT,
            at=at,
            metadata={"format": FORMAT, "file": segment.file, **version, **(about or {})},
            provider=provider_of(_model(segment)),
            parent_id=parent_id,
            tags=() if parent_id is None else (SUBAGENT,),
            status=SessionStatus.COMPLETED if is_settled(max(times, default=at)) else SessionStatus.ACTIVE,
        )
        self.rows.begin(times[0] if times else None)
        for each in segments:
            self._add_run(each)

    def add_result(self, result: Document) -> None:
        """Add what the trial says of its outcome."""
        run = self._last_run
        assert run is not None
        if rewards := object_of(object_of(result, "verifier_result"), "rewards"):
            run.metadata["rewards"] = rewards
            self.rows.add(REWARDS, _record_id("rewards", rewards), {"rewards": rewards}, run=run)
        exception = object_of(result, "exception_info")
        error = without(
            {"code": exception.get("exception_type"), "message": exception.get("exception_message")}
        )
        if error:
            run.error = error
            rest = without(exception, "exception_type", "exception_message")
            self.rows.add(EventType.RUN_FAILED, _record_id("exception", error), error, run=run, rest=rest)

    def transcript(self) -> Transcript:
        taken = self.rows.take()
        assert taken is not None
        return taken

    def _add_run(self, segment: Segment) -> None:
        """Add a run for a trajectory, or for the next part of one."""
        key, model, before = segment.key, _model(segment), self._last_run
        if before is not None and self.rows.at <= before.started_at:
            # Runs are listed by the times of their starts, and a file without times has one.
            self.rows.go_to(before.started_at + timedelta(microseconds=1))
        run = self.rows.begin_run(key, _input(segment.steps), provider_of(model))
        run.metadata = {"file": segment.file, **_about(segment.document)}
        self._last_run = run
        for number, step in enumerate(segment.steps, 1):
            self._add_step(run, key, number, step, step.get("model_name") or model)
        self._add_total(run, key, segment, model)

    def _add_step(self, run: OpenRun, key: str, number: int, step: Document, model: Any) -> None:
        self.rows.go_to(time_of(step.get("timestamp")))
        if steps.is_answer(step):
            run.is_answered = True
            if step.get("llm_call_count") != 0:
                self.rows.add_turn(run, model)
            run.output = steps.content_of(step.get("message")) or run.output
        metadata = {"step": number, **({"copied": True} if steps.is_copied(step) else {})}
        record_id = f"{key} {number}"
        for part, draft in enumerate(steps.drafts(number, step)):
            self._add(draft, _record_id(record_id, draft.data), str(part), metadata)
        usage = steps.usage_of(step)
        if usage is not None:
            self._add_usage(run, record_id, usage, model, {"step": number})

    def _add(self, draft: Draft, record_id: str, part: str, metadata: Document) -> None:
        data, sessions = draft.data, [id for ref in draft.refs if (id := self._session_of(ref)) is not None]
        if draft.type == steps.SUBAGENTS:
            data = {**data, "session_ids": sessions}
        elif sessions:
            data = {**data, "session_id": sessions[0]}
        self.rows.add(
            draft.type,
            record_id,
            data,
            part=part,
            correlation_id=draft.call_id,
            metadata=metadata,
            rest=draft.rest,
        )

    def _add_usage(
        self, run: OpenRun, record_id: str, usage: Usage, model: Any, metadata: Document | None = None
    ) -> None:
        self.rows.add_usage(run, usage.counts, usage.cost_usd or 0.0)
        data = {**usage.counts, **without({"model": model, "cost_usd": usage.cost_usd})}
        self.rows.add(
            EventType.TOKEN_USAGE_UPDATED,
            record_id,
            data,
            part="usage",
            metadata=metadata,
            rest=usage.rest,
        )

    def _add_total(self, run: OpenRun, key: str, segment: Segment, model: Any) -> None:
        """Count the whole of a trajectory whose steps have no numbers, or its cost if they have none."""
        total = steps.total_of(segment.document)
        added = total if self._total is None else total - self._total
        self._total = total
        known = [usage for step in segment.steps if (usage := steps.usage_of(step)) is not None]
        if not known and (added.counts or added.cost_usd):
            self._add_usage(run, f"{key} total", added, model)
        elif all(usage.cost_usd is None for usage in known) and added.cost_usd:
            run.cost_usd += added.cost_usd


def _record_id(name: str, record: Any) -> str:
    return f"{name} {digest_of(record).hex()[:32]}"


def _model(segment: Segment) -> str | None:
    named = [segment.agent.get("model_name"), *(step.get("model_name") for step in segment.steps)]
    return next((name for name in named if isinstance(name, str) and name), None)


def _input(found: Sequence[Document]) -> Any:
    """The prompt: the first message of the user, and one that is not copied if there is any."""
    asked = [step for step in found if step.get("source") == "user"]
    own = [step for step in asked if not steps.is_copied(step)]
    return next((steps.content_of(step.get("message")) for step in [*own, *asked]), None)


def _about(document: Document) -> Document:
    """What a trajectory says beside its steps, without secrets."""
    about = without(document, "session_id", "steps", "subagent_trajectories")
    found: Document = without_secrets(about)
    return found


def title_of(ref: Mapping[str, Any]) -> Document:
    """The title that a reference gives to a sub-agent."""
    summary = object_of(ref, "extra").get("summary")
    return {"title": summary} if isinstance(summary, str) and 0 < len(summary) <= TITLE_LENGTH_MAX else {}
