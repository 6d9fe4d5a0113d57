"""The rows of a session that a reader makes: the session, its runs and its events.

All ids come from the ids of the records, so the same record has the same ids in every file and every import.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any

import orjson

from asm.documents import Document, check_parsed
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.base import Transcript
from asm.models import (
    Event,
    EventType,
    Run,
    RunStatus,
    Session,
    SessionStatus,
    event_from_row,
    event_type,
)
from asm.provider_usage import TOKEN_COUNTS, TOKENS_MAX
from asm.usage import COST_USD_MAX
from asm.validation import is_text

EVENTS_MAX = 200_000
"""The events of a session that are held in memory at a time."""


@dataclass(slots=True, eq=False)
class OpenRun:
    """What is known of a run, from its prompt to the next."""

    id: str
    input: Any
    started_at: datetime
    ended_at: datetime
    provider: str | None
    output: Any = None
    error: Document | None = None
    is_cancelled: bool = False
    is_answered: bool = False
    turns: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    cost_usd: float = 0.0
    models: dict[str, None] = field(default_factory=dict)
    metadata: Document = field(default_factory=dict)

    @property
    def status(self) -> RunStatus:
        if self.is_cancelled:
            return RunStatus.CANCELLED
        if self.error is not None:
            return RunStatus.FAILED
        return RunStatus.COMPLETED if self.is_answered else RunStatus.CANCELLED

    def row(self, session_id: str) -> Run:
        """The run as it is stored."""
        models = list(self.models)
        about: Document = {"model": models[-1]} if models else {}
        if len(models) > 1:
            about["models"] = models
        return Run(
            id=self.id,
            session_id=session_id,
            status=self.status,
            input=self.input,
            output=self.output,
            error=self.error if self.status is RunStatus.FAILED else None,
            metadata=self.metadata,
            turn_count=self.turns,
            # Input and output together are within the bound, too.
            token_usage={name: min(number, TOKENS_MAX // 2) for name, number in self.tokens.items()},
            started_at=self.started_at,
            ended_at=self.ended_at,
            provider=self.provider,
            provider_metadata=about,
            # A run without a turn has asked no model. Of the others the price list knows the cost, if the
            # tool does not.
            cost_usd=round(min(self.cost_usd, float(COST_USD_MAX)), 9) or (None if self.turns else 0.0),
        )


class SessionRows:
    """Collects the rows of one session, in the order of its records.

    `at` is the time of the session and of its records, as long as none is known.
    """

    def __init__(
        self,
        format: str,
        id: str,
        *,
        agent_id: str,
        at: datetime,
        metadata: Document,
        provider: str | None = None,
        parent_id: str | None = None,
        tags: tuple[str, ...] = (),
        status: SessionStatus = SessionStatus.COMPLETED,
    ) -> None:
        self.id = id
        self.metadata = metadata
        self.at = at
        """The time of the record that is read, or of the one before it that has a time."""
        self.run: OpenRun | None = None
        """The run of the records that are read."""
        self._id_start = _measured(format, id)
        self._agent_id = agent_id
        self._provider = provider
        self._parent_id = parent_id
        self._tags = tags
        self._status = status
        self._created_at = at
        self._updated_at = at
        self._events: list[Event] = []
        self._changed: dict[OpenRun, None] = {}
        self._has_changed = False

    # Records.

    def begin(self, at: datetime | None) -> None:
        """Begin the session at this time."""
        self._created_at = self._updated_at = self.at = at or self.at
        self.add(EventType.SESSION_CREATED, "session")

    def go_to(self, at: datetime | None) -> datetime:
        """Go on to a record, which has this time or that of the record before."""
        self.at = at or self.at
        self.move_to(self.at)
        return self.at

    def move_to(self, at: datetime | None) -> None:
        """Note that something of the session has changed, at this time if it is known."""
        self._has_changed = True
        if at is not None:
            self._updated_at = max(self._updated_at, at)

    def add(
        self,
        type: str,
        record_id: str,
        data: Document | None = None,
        *,
        part: str = "",
        at: datetime | None = None,
        run: OpenRun | None = None,
        correlation_id: str | None = None,
        metadata: Document | None = None,
        rest: Mapping[str, Any] | None = None,
        provider: str | None = None,
    ) -> None:
        """Add an event of a record. Of several events of one record, each is another part.

        `rest` is what no event of the record has.
        """
        if len(self._events) == EVENTS_MAX:
            raise ValidationError(f"session {self.id!r} has more than {EVENTS_MAX:,} parts")
        metadata = dict(metadata or {})
        if kept := without(rest or {}):
            metadata["rest"] = kept
        at = at or self.at
        run = run or self.run
        if correlation_id is not None and not is_text(correlation_id):
            metadata["call_id"], correlation_id = correlation_id, None
        self._events.append(
            new_event(
                self._id("evt_", record_id, part),
                type,
                at=at,
                session_id=self.id,
                run_id=run.id if run else None,
                data=data or {},
                metadata=metadata,
                provider=provider or self._provider,
                correlation_id=correlation_id,
            )
        )
        self.move_to(at)
        if run is not None:
            run.ended_at = max(run.ended_at, at)
            self.note(run)

    # Runs.

    def begin_run(self, record_id: str, input: Any, provider: str | None = None) -> OpenRun:
        """Begin a run with a prompt."""
        id = self._id("run_", record_id, "")
        self.run = OpenRun(id, input, self.at, self.at, provider or self._provider)
        self.note(self.run)
        return self.run

    def note(self, run: OpenRun) -> None:
        """Note that a run has changed."""
        self._changed[run] = None

    def add_turn(self, run: OpenRun | None, model: Any) -> None:
        """Count a message of a model."""
        if run is None:
            return
        run.turns += 1
        run.is_answered = True
        if isinstance(model, str) and model:
            run.models.pop(model, None)
            run.models[model] = None
        self.note(run)

    def add_usage(self, run: OpenRun | None, counts: Counter[str], cost_usd: float = 0.0) -> None:
        """Add the tokens of a message of a model."""
        if run is None:
            return
        run.tokens.update(counts)
        run.cost_usd += cost_usd
        self.note(run)

    # What was collected.

    def take(self) -> Transcript | None:
        """The rows that were added or changed since the last time."""
        if not (self._events or self._changed or self._has_changed):
            return None
        runs = [run.row(self.id) for run in self._changed]
        taken = Transcript(self.session(), runs, self._events)
        self._events, self._changed, self._has_changed = [], {}, False
        return taken

    def session(self) -> Session:
        return Session(
            id=self.id,
            agent_id=self._agent_id,
            status=self._status,
            parent_session_id=self._parent_id,
            metadata=dict(self.metadata),
            tags=self._tags,
            created_at=self._created_at,
            updated_at=self._updated_at,
        )

    def _id(self, prefix: str, record_id: str, part: str) -> str:
        return _hashed(prefix, self._id_start + _measured(record_id, part))


# Values of foreign records.


def new_event(
    id: str,
    type: str,
    *,
    at: datetime,
    session_id: str,
    run_id: str | None,
    data: Document,
    metadata: Document,
    provider: str | None,
    correlation_id: str | None,
) -> Event:
    """An event of a record. The time is in UTC, and the texts are such as `is_text` accepts.

    All values of the documents were in the record. They are checked here, so that an error has the number
    of the line.
    """
    check_parsed(data, "data")
    if metadata:
        check_parsed(metadata, "metadata")
    own = event_type(type)
    return event_from_row(id, own, at, session_id, run_id, None, data, metadata, 1, provider, correlation_id)


def hashed_id(prefix: str, *words: str) -> str:
    """An id that is made of these words."""
    return _hashed(prefix, _measured(*words))


def _measured(*words: str) -> str:
    """The words in one text. A word may have any character: its length tells where it ends."""
    return "".join([f"{len(word)} {word}" for word in words])


def _hashed(prefix: str, words: str) -> str:
    # A word may have a lone surrogate.
    return prefix + sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def digest_of(record: Any) -> bytes:
    """What tells a record without an id from others: equal records have the same."""
    try:
        content = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # It has a large integer, a lone surrogate, or many levels.
        try:
            content = json.dumps(record, sort_keys=True).encode()
        except RecursionError as error:
            raise text.too_deep() from error
    return sha256(content).digest()


def without(document: Mapping[str, Any], *names: str) -> Document:
    """The other fields of a document that have a value."""
    return {name: value for name, value in document.items() if name not in names and value is not None}


def object_of(document: Mapping[str, Any], name: str) -> Document:
    """The object that a field has, {} if it has another value."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def time_of(value: Any) -> datetime | None:
    """The time that a text in ISO 8601 has, or milliseconds since 1970, in UTC; None for anything else."""
    try:
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def token_number(value: Any) -> int:
    """A count of tokens, 0 for what is none."""
    return value if type(value) is int and 0 <= value <= TOKENS_MAX else 0


def counts_of(**tokens: int) -> Counter[str]:
    """The counts under the names of the store that are not 0."""
    return Counter({name: tokens[name] for name in TOKEN_COUNTS if tokens.get(name)})


def snake_case(name: Any) -> str:
    """A name of another tool as a word of an event's type, "record" for what is none."""
    if not isinstance(name, str):
        return "record"
    return _snake_case(name[:60])


@lru_cache(maxsize=256)
def _snake_case(name: str) -> str:
    letters = (letter if letter.isascii() and letter.isalnum() else " " for letter in name.lower())
    return "_".join("".join(letters).split()) or "record"
